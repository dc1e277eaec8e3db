"""Exported files (ONNX, torch.export) -> networks that a `Predictor` can use; what is needed to use
them travels in the file.
"""

from __future__ import annotations

import os
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from kanseg.data.io.decode_errors import decoder_errors, require_regular_file
from kanseg.data.preprocess import Preprocess
from kanseg.inference.checkpoint import check_description
from kanseg.utils.errors import InputError
from kanseg.utils.reading import parse_json, typed

# key of the description in an ONNX file; in a .pt2 file the name of an extra file, with .json
METADATA = "kanseg"
TRUST = "KANSEG_TRUST_PT2"
INSTALL = 'python -m pip install -e ".[export]"'
OUTPUTS = ("logits", "probabilities", "labels")
SMALLEST = 1e-7  # a probability below is taken for this one, so that its logit is finite
Run = Callable[[Tensor], Tensor]


class ExportedNetwork(nn.Module):
    """Images (B, C, H, W) float32 in [0, 1] -> what the exported graph gives, on the images'
    device.

    Args:
        run: the graph, on the CPU.
        description: of the file.
        name: of the file, for messages.
    """

    def __init__(self, run: Run, description: dict[str, Any], name: str):
        super().__init__()
        self._run, self.description, self.name = run, description, name

    def forward(self, images: Tensor) -> Tensor:
        channels = self.description["preprocess"]["channels"]
        if images.dim() != 4 or images.shape[1] != channels or 0 in images.shape:
            raise InputError(
                f"{self.name}: expected images (B, {channels}, H, W), got {tuple(images.shape)}"
            )
        values = images.detach().float().cpu()
        parts = [
            self._padded(part)
            for part in values.split(self.description.get("batch") or len(values))
        ]
        return torch.cat(parts).to(images.device)

    def _padded(self, images: Tensor) -> Tensor:
        """Filled up to the batch that the file takes, where it takes only one."""
        count, batch = len(images), self.description.get("batch") or len(images)
        return self._run(
            torch.cat([images, images[-1:].expand(batch - count, -1, -1, -1)])
            if batch > count
            else images
        )[:count]


def load_exported(
    path: str | Path, *, trust: bool = False, threads: int = 0
) -> tuple[ExportedNetwork, dict[str, Any]]:
    """A file that tools/export.py wrote -> (network, description): raw images in [0, 1] (B, C, H,
    W) -> logits (B, N, H, W) float32.

    The description is that of the checkpoint (labels, preprocess, tile, ...). Its entry
    "preprocessing" is "inside": the graph itself scales and normalizes, and what is left to the
    caller is `outside(description)`.

    Args:
        path: a .onnx or .pt2 file.
        trust: load a .pt2 file, which can run code; the environment variable KANSEG_TRUST_PT2=1
            says the same. An ONNX file holds no code.
        threads: of onnxruntime; 0 leaves its own choice.

    Raises:
        InputError: nothing there, another kind of file, a .pt2 file that is not trusted, or one
            that gives labels only.
    """
    network, description = open_exported(path, trust=trust, threads=threads)
    if description["output"] == "labels":
        raise InputError(
            f"{path} gives labels, which cannot be averaged over tiles: export with --output_kind"
            " logits or probabilities"
        )
    if description["output"] == "probabilities":
        run, task = network._run, description["labels"]["task"]
        network = ExportedNetwork(
            lambda images: logits_of(run(images), task), description, str(path)
        )
    return network, description


def open_exported(
    path: str | Path, *, trust: bool = False, threads: int = 0
) -> tuple[ExportedNetwork, dict[str, Any]]:
    """As `load_exported`, but the network gives what the file says (description["output"]): logits,
    probabilities or labels.
    """
    path = Path(path)
    if path.suffix not in READERS:
        raise InputError(f"{path}: expected an exported file ({' or '.join(READERS)})")
    require_regular_file(path)
    with decoder_errors(path):
        run, text = READERS[path.suffix](path, trust=trust, threads=threads)
    description = _description(path, text)
    return ExportedNetwork(run, description, str(path)).eval(), description


def outside(description: dict[str, Any]) -> Preprocess:
    """What is left to do before the exported network: integers to [0, 1] (floats stay as they are),
    and the channels that it takes.
    """
    step = description["preprocess"]
    return Preprocess(step["channels"], mean=(0.0,), std=(1.0,), floats=step.get("floats", False))


def logits_of(probabilities: Tensor, task: str) -> Tensor:
    """Probabilities (B, classes, ...) of `class_probabilities` -> logits that give the same (within
    1e-7): (B, 1, ...) of a binary task, else (B, N, ...).
    """
    if task == "binary":
        return _log(probabilities[:, 1:]) - _log(probabilities[:, :1])
    return (
        _log(probabilities) - _log(1 - probabilities)
        if task == "multilabel"
        else _log(probabilities)
    )


def onnxruntime() -> Any:
    """The package, or an InputError that tells how to get it."""
    try:
        import onnxruntime
    except ImportError:
        raise InputError(f"ONNX files need onnxruntime: {INSTALL}") from None
    return onnxruntime


def _log(values: Tensor) -> Tensor:
    return values.clamp_min(SMALLEST).log()


def _read_onnx(path: Path, *, trust: bool, threads: int) -> tuple[Run, str | None]:
    runtime = onnxruntime()
    options = runtime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    # What onnxruntime raises for a damaged graph has no common base; nor has what such a graph
    # does to the lines below (no input, a result that is no array).
    try:
        data = path.read_bytes()
        if _names_files(data, "Model"):
            raise InputError("its weights lie in other files, which are not read")
        session = runtime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
        name = session.get_inputs()[0].name
        text = session.get_modelmeta().custom_metadata_map.get(METADATA)
    except Exception as error:
        raise InputError(
            f"{path}: not an ONNX file that onnxruntime can read: {_line(error)}"
        ) from None

    def run(images: Tensor) -> Tensor:
        try:
            return torch.from_numpy(session.run(None, {name: images.numpy()})[0])
        except Exception as error:
            raise InputError(
                f"{path} fails on images {tuple(images.shape)}: {_line(error)}"
            ) from None

    return run, text


# Where tensors stand in an ONNX file (onnx.proto): message -> number of a field -> its message.
ONNX = {
    "Model": {7: "Graph", 25: "Function"},
    "Graph": {1: "Node", 5: "Tensor", 15: "SparseTensor"},
    "Function": {7: "Node", 11: "Attribute"},
    "Node": {5: "Attribute"},
    "Attribute": {5: "Tensor", 6: "Graph", 10: "Tensor", 11: "Graph", 22: "SparseTensor"}
    | {23: "SparseTensor"},
    "SparseTensor": {1: "Tensor", 2: "Tensor"},
    "Tensor": {13: "external_data"},
}


def _names_files(data: bytes | memoryview, message: str) -> bool:
    """Whether a tensor in a message of an ONNX file lies in another file.

    onnxruntime reads those below the working folder even of a model in memory, and the package
    onnx, which could log, need not be there.
    """
    data, place = memoryview(data), 0
    while place < len(data):
        key, place = _varint(data, place)
        kind = key & 7  # 0: integer, 1: 8 bytes, 2: length and bytes, 5: 4 bytes
        if kind == 0:
            _, place = _varint(data, place)
        elif kind == 2:
            length, place = _varint(data, place)
            inner = ONNX[message].get(key >> 3)
            if inner == "external_data":
                return True
            if inner is not None and _names_files(data[place : place + length], inner):
                return True
            place += length
        else:
            place += {1: 8, 5: 4}[kind]
    return False


def _varint(data: memoryview, place: int) -> tuple[int, int]:
    """An integer of protobuf, 7 bits a byte from the lowest on, and the place behind it."""
    value = shift = 0
    while True:
        byte = data[place]
        value |= (byte & 127) << shift
        place, shift = place + 1, shift + 7
        if byte < 128:
            return value, place


def _read_torch(path: Path, *, trust: bool, threads: int) -> tuple[Run, str | None]:
    # Pickled payloads, the sizes' expressions and the guards of such a file are all evaluated as
    # Python.
    if not trust and os.environ.get(TRUST) != "1":
        raise InputError(
            f"{path}: torch.export.load can run code that is in the file; if you trust it, set"
            f" {TRUST}=1 (or trust=True), else use an ONNX file"
        )
    text = _extra_file(path)
    try:  # whatever torch raises for a file of another version, or a damaged one
        graph = torch.export.load(path).module()
    except Exception as error:
        raise InputError(
            f"{path}: this torch ({torch.__version__}) cannot load it: {_line(error)}"
        ) from None

    def run(images: Tensor) -> Tensor:
        try:
            with torch.no_grad():
                return graph(images)
        except AssertionError as error:  # a guard: sizes for which the graph was not made
            raise InputError(
                f"{path} takes no images {tuple(images.shape)}: {_line(error)}"
            ) from None

    return run, text


READERS: dict[str, Callable[..., tuple[Run, str | None]]] = {
    ".onnx": _read_onnx,
    ".pt2": _read_torch,
}


def _extra_file(path: Path) -> str | None:
    """The description in a .pt2 file, read without torch."""
    try:
        with zipfile.ZipFile(path) as archive:
            name = next(
                (name for name in archive.namelist() if name.endswith(f"/extra/{METADATA}.json")),
                None,
            )
            return None if name is None else archive.read(name).decode("utf-8")
    except Exception:  # a zip file can be damaged in more ways than zipfile has names for
        raise InputError(f"{path}: damaged, or no .pt2 file") from None


def _description(path: Path, text: str | None) -> dict[str, Any]:
    description = parse_json(text or "null", path)
    if not isinstance(description, dict) or description.get("preprocessing") != "inside":
        raise InputError(
            f"{path}: holds no description of a kanseg network; write it by tools/export.py"
        )
    check_description(description, path)
    if description.get("output") not in OUTPUTS:
        raise InputError(f"{path}: output must be one of {', '.join(OUTPUTS)}")
    batch = typed(description.get("batch"), int | None, f"{path}: batch")
    if batch is not None and not 1 <= batch <= 65536:
        raise InputError(f"{path}: batch must be 1 or more, got {batch}")
    return description


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]
