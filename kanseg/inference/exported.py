"""Load exported files (ONNX, torch.export) as networks that a `Predictor` can use. The files are
self-contained.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from kanseg.data.io.decode_errors import decoder_errors, require_regular_file
from kanseg.data.preprocess import Preprocess
from kanseg.inference.description import check_description
from kanseg.inference.onnx_file import read_onnx
from kanseg.inference.pt2_file import read_pt2
from kanseg.utils.errors import InputError
from kanseg.utils.reading import parse_json, typed

SUFFIXES = (".onnx", ".pt2")
OUTPUTS = ("logits", "probabilities", "labels")
# Probabilities are clamped to this minimum, so that their logits are finite.
SMALLEST_PROBABILITY = 1e-7


class ExportedNetwork(nn.Module):
    """An exported graph as a module: images (B, C, H, W) float32 in [0, 1] -> its output, on the
    device of the images.

    Args:
        run: the graph, on the CPU.
        description: of the file.
        name: of the file, for messages.
    """

    def __init__(self, run: Callable[[Tensor], Tensor], description: dict[str, Any], name: str):
        super().__init__()
        self.run, self.description, self.name = run, description, name

    def forward(self, images: Tensor) -> Tensor:
        channels = self.description["preprocess"]["channels"]
        if images.dim() != 4 or images.shape[1] != channels or 0 in images.shape:
            raise InputError(
                f"{self.name}: expected images (B, {channels}, H, W), got {tuple(images.shape)}"
            )
        values = images.detach().float().cpu()
        batch = self.description.get("batch")
        if batch is None:
            return self.run(values).to(images.device)
        # The batch size of the file is fixed: pad the last batch with copies.
        outputs = []
        for part in values.split(batch):
            missing = batch - len(part)
            padded = torch.cat([part, part[-1:].expand(missing, -1, -1, -1)])
            outputs.append(self.run(padded)[: len(part)])
        return torch.cat(outputs).to(images.device)


def load_exported(
    path: str | Path, *, trust: bool = False, threads: int = 0
) -> tuple[ExportedNetwork, dict[str, Any]]:
    """Load a file that kanseg export wrote: images (B, C, H, W) in [0, 1] -> logits (B, N, H, W)
    float32.

    Args:
        path: a .onnx or .pt2 file.
        trust: load a .pt2 file, which can run code; the environment variable KANSEG_TRUST_PT2=1
            does the same. ONNX files hold no code.
        threads: of onnxruntime; 0 for its default.

    Returns:
        (network, description). The description is that of the checkpoint (labels, preprocess, tile,
        ...). Its entry "preprocessing" is "inside": the graph scales and normalizes the images, and
        the caller applies `remaining_preprocess(description)`.

    Raises:
        InputError: no such file, another kind of file, a .pt2 file that is not trusted, or a file
            that outputs labels.
    """
    network, description = open_exported(path, trust=trust, threads=threads)
    if description["output"] == "labels":
        raise InputError(
            f"{path} outputs labels, which cannot be averaged over tiles: export with --output_kind"
            " logits or probabilities"
        )
    if description["output"] == "probabilities":
        graph, task = network.run, description["labels"]["task"]

        def run(images: Tensor) -> Tensor:
            return logits_of(graph(images), task)

        network = ExportedNetwork(run, description, str(path))
    return network, description


def open_exported(
    path: str | Path, *, trust: bool = False, threads: int = 0
) -> tuple[ExportedNetwork, dict[str, Any]]:
    """Load a file as `load_exported` does, but keep its output: logits, probabilities or labels, as
    given by description["output"].
    """
    path = Path(path)
    if path.suffix not in SUFFIXES:
        raise InputError(f"{path}: expected an exported file ({' or '.join(SUFFIXES)})")
    require_regular_file(path)
    with decoder_errors(path):
        if path.suffix == ".onnx":
            run, text = read_onnx(path, threads=threads)
        else:
            run, text = read_pt2(path, trust=trust)
    description = _parse_description(path, text)
    return ExportedNetwork(run, description, str(path)).eval(), description


def remaining_preprocess(description: dict[str, Any]) -> Preprocess:
    """The preprocessing that an exported network does not include: integers are scaled to [0, 1]
    (floats stay as they are), and the channels converted to its number.
    """
    step = description["preprocess"]
    return Preprocess(step["channels"], mean=(0.0,), std=(1.0,), floats=step.get("floats", False))


def logits_of(probabilities: Tensor, task: str) -> Tensor:
    """Invert `to_probabilities` within 1e-7: probabilities (B, N, ...) -> logits (B, N, ...), of a
    binary task (B, 1, ...).
    """
    if task == "binary":
        return _log(probabilities[:, 1:]) - _log(probabilities[:, :1])
    if task == "multilabel":
        return _log(probabilities) - _log(1 - probabilities)
    return _log(probabilities)


def _log(values: Tensor) -> Tensor:
    return values.clamp_min(SMALLEST_PROBABILITY).log()


def _parse_description(path: Path, text: str | None) -> dict[str, Any]:
    description = parse_json(text or "null", path)
    if not isinstance(description, dict) or description.get("preprocessing") != "inside":
        raise InputError(
            f"{path}: holds no description of a kanseg network; write it with kanseg export"
        )
    check_description(description, path)
    if description.get("output") not in OUTPUTS:
        raise InputError(f"{path}: output must be one of {', '.join(OUTPUTS)}")
    batch = typed(description.get("batch"), int | None, f"{path}: batch")
    if batch is not None and not 1 <= batch <= 65536:
        raise InputError(f"{path}: batch must be 1 to 65536, got {batch}")
    return description
