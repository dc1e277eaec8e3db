"""Export a checkpoint: trace the network, write a temporary file, quantize it if requested, verify
it, and only then rename it.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

import kanseg
from kanseg.data.preprocess import resize_image
from kanseg.export.check import Agreement, compare, read_images
from kanseg.export.demo import check_demo, write_demo
from kanseg.export.files import SUFFIXES, WRITERS, trace
from kanseg.export.network import OUTPUTS, Deployed
from kanseg.export.quantize import KINDS, quantize
from kanseg.export.scores import Labeled, labeled, mean_iou
from kanseg.export.source import Source, read_source
from kanseg.export.table import Row, milliseconds
from kanseg.export.web_runtime import find_web_runtime
from kanseg.inference.exported import load_exported, open_exported, remaining_preprocess
from kanseg.utils.errors import InputError

INPUT = (
    "images (B, C, H, W) float32 in [0, 1]: integers divided by the largest of their type,"
    " channels in the order of the training (RGB)"
)
# Largest difference of a probability, and largest share of labels that differ: where two classes
# are equally likely, rounding decides.
TOLERANCE = 1e-3
TABLE_SIZE = (256, 256)
FORMS = {
    "torch.export": ("torch", "none"),
    "onnx": ("onnx", "none"),
    "onnx int8 dynamic": ("onnx", "dynamic"),
    "onnx int8 static": ("onnx", "static"),
}


@dataclass(frozen=True)
class Request:
    """Options of an export.

    Args:
        checkpoint: folder of a trained network.
        output: file to write, .onnx or .pt2.
        format: "onnx" or "torch"; None for that of the suffix of `output`.
        output_kind: "logits", "probabilities" or "labels".
        quantize: "none", "dynamic" or "static" (ONNX only).
        calibration: folder of images for static quantization and for the check; None generates
            images for the check.
        calibration_count: number of images for calibration, and of further images for the check.
        opset: of ONNX; None for torch's default.
        batch: fixed batch size of the file; None for a dynamic one.
        tolerance: largest difference of a probability, and share of differing labels.
        least_agreement: share of equal labels that a quantized file must reach.
        split: splits of the data set on which mean IoU is measured before and after the export.
        root: folder of the data set; None for that of the training.
        table: measure size and speed of all forms.
        runs: number of timed calls.
        demo: also write a page that runs the file in a browser, to `demo_folder`.
        demo_runtime: onnxruntime-web for the page, as `npm pack` writes it; None to download it.
    """

    checkpoint: str
    output: Path
    format: str | None = None
    output_kind: str = "logits"
    quantize: str = "none"
    calibration: str | None = None
    calibration_count: int = 32
    opset: int | None = None
    batch: int | None = None
    tolerance: float = TOLERANCE
    least_agreement: float = 0.95
    split: Sequence[str] = ()
    root: str | None = None
    table: bool = False
    runs: int = 10
    demo: bool = False
    demo_runtime: str | None = None

    @property
    def demo_folder(self) -> Path:
        """The folder of the page: NAME_demo beside NAME.onnx."""
        return self.output.with_name(f"{self.output.stem}_demo")

    def form(self) -> str:
        """Check the options, without reading a file, and return the format.

        Raises:
            InputError: options that contradict each other or are out of range.
        """
        form = self.format
        for name, suffix in SUFFIXES.items():
            if form is None and suffix == self.output.suffix:
                form = name
        if form is None or SUFFIXES[form] != self.output.suffix:
            endings = [f"{suffix} (--format {name})" for name, suffix in SUFFIXES.items()]
            raise InputError(
                f"--output: expected a name that ends with {' or '.join(endings)}, got"
                f" {self.output}"
            )
        if self.output.is_dir():
            raise InputError(f"--output: {self.output} is a folder; give a file")
        if self.output_kind not in OUTPUTS or self.quantize not in ("none", *KINDS):
            raise InputError(
                f"--output_kind is one of {', '.join(OUTPUTS)} and --quantize one of none,"
                f" {', '.join(KINDS)}"
            )
        if form == "torch" and (self.quantize != "none" or self.opset is not None):
            raise InputError(
                "--quantize and --opset are for ONNX files; give an --output that ends with .onnx"
            )
        if self.quantize == "static" and self.calibration is None:
            raise InputError(
                "--quantize static needs images to calibrate the range of the activations:"
                " --calibration FOLDER"
            )
        if (
            min(self.calibration_count, self.runs, self.batch or 1) < 1
            or not 0 <= self.least_agreement <= 1
            or self.tolerance < 0
        ):
            raise InputError(
                "--calibration_count, --runs and --batch must be at least 1, --tolerance at least"
                " 0, --least_agreement from 0 to 1"
            )
        if self.split and self.output_kind == "labels":
            raise InputError(
                "--split blends tiles, which needs logits or probabilities; it cannot be used with"
                " --output_kind labels"
            )
        if self.demo_runtime is not None and not self.demo:
            raise InputError("--demo_runtime is for the page of --demo; give both")
        if self.demo:
            self._check_demo(form)
        return form

    def _check_demo(self, form: str) -> None:
        if form != "onnx":
            raise InputError("--demo runs an ONNX file; give an --output that ends with .onnx")
        if self.output_kind == "labels":
            raise InputError(
                "--demo blends tiles, which needs logits or probabilities; it cannot be used with"
                " --output_kind labels"
            )
        if self.batch not in (None, 1):
            raise InputError(
                f"--demo predicts one image at a time; it cannot be used with --batch {self.batch}"
            )
        if self.demo_folder.exists() and not self.demo_folder.is_dir():
            raise InputError(f"--demo: {self.demo_folder} is a file, and the page needs a folder")


@dataclass
class Report:
    """The result of an export.

    Args:
        output: the file; written only if `passed`.
        bytes: size of the file.
        agreement: of the file with the network.
        passed: True if the agreement is within the tolerance.
        description: the metadata in the file.
        mean_iou: mean IoU on the requested splits of the network ("torch") and of the "file".
        rows: of the table.
        demo: the page; None if it is not requested.
        demo_bytes: size of the page and the files that it needs.
    """

    output: Path
    bytes: int
    agreement: Agreement
    passed: bool
    description: dict[str, Any]
    mean_iou: dict[str, float] = field(default_factory=dict)
    rows: list[Row] = field(default_factory=list)
    demo: Path | None = None
    demo_bytes: int = 0

    def to_dict(self) -> dict[str, Any]:
        """Values for JSON."""
        demo = None if self.demo is None else str(self.demo)
        return asdict(self) | {"output": str(self.output), "demo": demo}


def export_checkpoint(request: Request, *, log: Callable[[str], None] = print) -> Report:
    """Export a checkpoint to `request.output`; the file is written only if it agrees with the
    network.

    Args:
        request: the options.
        log: receives a line for each image of `request.calibration` that cannot be read, and for
            the download of onnxruntime-web.

    Raises:
        InputError: options that contradict each other, a checkpoint or images that cannot be read,
            a network that cannot be exported, a missing package.
    """
    form, source = request.form(), read_source(request.checkpoint)
    runtime = None
    if request.demo:
        check_demo(source.description, request.checkpoint)
        runtime = find_web_runtime(request.demo_runtime, log=log)
    samples = None
    if request.split:
        samples = labeled(source.data(request.root), request.split)
    folder = request.output.parent
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{request.output.name}.", dir=folder) as temporary:
        exporter = _Exporter(request, source, Path(temporary), log)
        path = exporter.write(form, request.quantize)
        agreement = exporter.agreement(path)
        _, description = open_exported(path, trust=True)
        if request.quantize == "none":
            difference = max(agreement.probability or 0.0, agreement.differing)
            passed = difference <= request.tolerance
        else:
            passed = agreement.differing <= 1 - request.least_agreement
        report = Report(request.output, path.stat().st_size, agreement, passed, description)
        if not passed:
            return report
        if samples is not None:
            report.mean_iou["torch"] = exporter.score(samples, None)
            report.mean_iou["file"] = exporter.score(samples, path)
        if request.table:
            report.rows = exporter.table(samples)
        path.replace(request.output)
    if runtime is not None:
        folder, model = request.demo_folder, request.output.read_bytes()
        name = request.output.stem
        report.demo_bytes = write_demo(folder, model, description, runtime, name=name)
        report.demo = folder / "index.html"
    return report


class _Exporter:
    """Writes the exported files of a network to a temporary folder and measures them."""

    def __init__(self, request: Request, source: Source, folder: Path, log: Callable[[str], None]):
        self.request, self.source, self.folder = request, source, folder
        self.network = Deployed(
            source.model, source.preprocess, source.task, request.output_kind
        ).eval()
        count = 2 * request.calibration_count
        images = read_images(request.calibration, source.preprocess, count, log=log)
        self.calibration_images = images[::2]
        self.check_images = images[1::2] or images  # others than for calibration, if possible
        self.program = trace(self.network, batch=request.batch, image_size=source.image_size)

    def write(self, form: str, kind: str) -> Path:
        """Write a file of this format and quantization, unless it exists, and return its path."""
        path = self.folder / f"{kind}{SUFFIXES[form]}"
        if path.exists():
            return path
        description = {
            **self.source.description,
            "preprocessing": "inside",
            "input": INPUT,
            "output": self.request.output_kind,
            "format": form,
            "quantized": "none",
            "batch": self.request.batch,
            "version": kanseg.__version__,
            "torch": torch.__version__,
        }
        if kind == "none":
            opset = self.request.opset if form == "onnx" else None
            WRITERS[form](self.program, path, description, opset)
        else:
            plain = self.write("onnx", "none")
            quantize(kind, plain, path, description, self.calibration_images)
        return path

    def agreement(self, path: Path) -> Agreement:
        """Compare a file with the network."""
        network, _ = open_exported(path, trust=True)
        return compare(
            network,
            self.source.model,
            self.source.preprocess,
            self.check_images,
            batch=self.request.batch,
            image_size=self.source.image_size,
        )

    def score(self, samples: Labeled, path: Path | None) -> float:
        """Mean IoU of a file, or of the network itself for None."""
        source = self.source
        if path is None:
            return mean_iou(source.model, source.preprocess, source.description, *samples)
        network, description = load_exported(path, trust=True)
        return mean_iou(network, remaining_preprocess(description), description, *samples)

    def table(self, samples: Labeled | None) -> list[Row]:
        """Measure size, speed and agreement of the network and of all exported forms."""
        files = {}
        for name, (form, kind) in FORMS.items():
            if kind != "static" or self.request.calibration is not None:
                files[name] = self.write(form, kind)
        image = resize_image(self.check_images[0], self.source.image_size or TABLE_SIZE)
        images = torch.from_numpy(np.stack([image.transpose(2, 0, 1)] * (self.request.batch or 1)))
        # As many as OMP_NUM_THREADS, torch.set_num_threads or a container allow.
        runs, threads = self.request.runs, torch.get_num_threads()
        one_thread = milliseconds(self.network, files, images, runs=runs, threads=1)
        all_threads = milliseconds(self.network, files, images, runs=runs, threads=threads)
        weights = self.source.model.state_dict().values()
        num_bytes = sum(value.numel() * value.element_size() for value in weights)
        rows = [Row("torch", num_bytes, one_thread["torch"], all_threads["torch"], threads)]
        for name, path in files.items():
            size, agreement = path.stat().st_size, self.agreement(path)
            rows.append(Row(name, size, one_thread[name], all_threads[name], threads, agreement))
        if samples is not None:
            for index, path in enumerate([None, *files.values()]):
                rows[index] = replace(rows[index], mean_iou=self.score(samples, path))
        return rows
