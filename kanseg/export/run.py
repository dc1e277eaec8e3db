"""Checkpoint -> file: traced, written aside, quantized where asked, checked, and only then given
its name.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

import kanseg
from kanseg.data.preprocess import resize_image
from kanseg.export.check import Agreement, compare, read_images
from kanseg.export.files import SUFFIXES, WRITERS, trace
from kanseg.export.network import OUTPUTS, Deployed
from kanseg.export.quantize import KINDS, quantize
from kanseg.export.scores import Labeled, labeled, mean_iou
from kanseg.export.source import Source, read_source
from kanseg.export.table import Row, milliseconds
from kanseg.inference.exported import load_exported, open_exported, remaining_preprocess
from kanseg.utils.errors import InputError

INPUT = (
    "images (B, C, H, W) float32 in [0, 1]: integers divided by the largest of their type,"
    " channels in the order of the training (RGB)"
)
# of a probability; and the share of labels that may differ, which are pixels where two classes are
# equally likely
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
    """What is to be exported, and how.

    Args:
        checkpoint: folder of a trained network.
        output: file to write, .onnx or .pt2.
        format: "onnx" or "torch"; None for what the name of the file says.
        output_kind: "logits", "probabilities" or "labels".
        quantize: "none", "dynamic" or "static" (ONNX only).
        calibration: folder of images that static quantization looks at, and that the check is
            made with; made images without one.
        calibration_count: how many for calibration, and as many others for the check.
        opset: of ONNX; None for torch's choice.
        batch: the only number of images that the file takes; None for any.
        tolerance: largest difference of a probability, and share of differing labels.
        least_agreement: share of labels that a quantized file must have in common with the network.
        split: splits of the data set on which mean IoU is measured, before and after; classes and
            folder are those of the training.
        root: another folder of the data set.
        table: measure size and speed of all forms.
        runs: calls that are timed.
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

    def form(self) -> str:
        """The format, checked with everything else that needs no file.

        Raises:
            InputError: settings that contradict each other or are out of range.
        """
        named = {suffix: name for name, suffix in SUFFIXES.items()}.get(self.output.suffix)
        form = self.format or named
        if form is None or form not in SUFFIXES or named != form:
            raise InputError(
                "--output: expected a name that ends with"
                f" {' or '.join(f'{s} (--format {f})' for f, s in SUFFIXES.items())}, got"
                f" {self.output}"
            )
        if self.output.is_dir():
            raise InputError(f"--output: {self.output} is a folder, name a file")
        if self.output_kind not in OUTPUTS or self.quantize not in ("none", *KINDS):
            raise InputError(
                f"--output_kind is one of {', '.join(OUTPUTS)} and --quantize one of none,"
                f" {', '.join(KINDS)}"
            )
        if form == "torch" and (self.quantize != "none" or self.opset is not None):
            raise InputError(
                "--quantize and --opset are for ONNX files: name an --output that ends with .onnx"
            )
        if self.quantize == "static" and self.calibration is None:
            raise InputError(
                "--quantize static needs --calibration FOLDER: images that show the range of the"
                " activations"
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
                "--split measures through tiles, which need logits or probabilities: not with"
                " --output_kind labels"
            )
        return form


@dataclass
class Report:
    """What became of a request.

    Args:
        output: the file; there only if `passed`.
        bytes: its size.
        agreement: with the network.
        passed: whether it is near enough.
        description: that it holds.
        mean_iou: on the split, of "torch" and of the file.
        rows: the table.
    """

    output: Path
    bytes: int
    agreement: Agreement
    passed: bool
    description: dict[str, Any]
    mean_iou: dict[str, float] = field(default_factory=dict)
    rows: list[Row] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON."""
        return asdict(self) | {
            "output": str(self.output),
            "agreement": self.agreement.to_dict(),
            "rows": [row.to_dict() for row in self.rows],
        }


def export_checkpoint(request: Request) -> Report:
    """Write `request.output`, unless the file does not compute what the network computes.

    Raises:
        InputError: impossible requests, a checkpoint or images that cannot be read, a network
            that cannot be exported, a missing package.
    """
    form, source = request.form(), read_source(request.checkpoint)
    samples = labeled(source.data(request.root), request.split) if request.split else None
    request.output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(
        prefix=f".{request.output.name}.", dir=request.output.parent
    ) as folder:
        maker = _Maker(request, source, Path(folder))
        path = maker.make(form, request.quantize)
        agreement = maker.agreement(path)
        description = open_exported(path, trust=True)[1]
        report = Report(
            request.output,
            path.stat().st_size,
            agreement,
            maker.passes(agreement, request.quantize),
            description,
        )
        if not report.passed:
            return report
        if samples is not None:
            report.mean_iou = {
                "torch": maker.score(samples, None),
                "file": maker.score(samples, path),
            }
        if request.table:
            report.rows = maker.table(samples)
        path.replace(request.output)
    return report


class _Maker:
    """Files of one network in a folder, each made once."""

    def __init__(self, request: Request, source: Source, folder: Path):
        self.request, self.source, self.folder = request, source, folder
        self.network = Deployed(
            source.model, source.preprocess, source.task, request.output_kind
        ).eval()
        images = read_images(request.calibration, source.preprocess, 2 * request.calibration_count)
        self.calibrating, self.shown = (
            images[::2],
            images[1::2] or images,
        )  # the check is made with others where there are two
        self.program = trace(self.network, batch=request.batch, image_size=source.image_size)

    def make(self, form: str, kind: str) -> Path:
        """The path of a file of this format and quantization."""
        path = self.folder / f"{kind}{SUFFIXES[form]}"
        if path.exists():
            return path
        description = self._description(form)
        if kind == "none":
            WRITERS[form](
                self.program, path, description, self.request.opset if form == "onnx" else None
            )
        else:
            quantize(kind, self.make("onnx", "none"), path, description, self.calibrating)
        return path

    def agreement(self, path: Path) -> Agreement:
        """Of a file with the network."""
        network = open_exported(path, trust=True)[0]
        return compare(
            network,
            self.source.model,
            self.source.preprocess,
            self.shown,
            batch=self.request.batch,
            image_size=self.source.image_size,
        )

    def passes(self, agreement: Agreement, kind: str) -> bool:
        """Whether a file of this quantization is near enough to the network."""
        if kind != "none":
            return agreement.differing <= 1 - self.request.least_agreement
        return (
            agreement.probability or 0.0
        ) <= self.request.tolerance and agreement.differing <= self.request.tolerance

    def score(self, samples: Labeled, path: Path | None) -> float:
        """Mean IoU of a file, or of the network itself."""
        if path is None:
            return mean_iou(
                self.source.model, self.source.preprocess, self.source.description, *samples
            )
        network, description = load_exported(path, trust=True)
        return mean_iou(network, remaining_preprocess(description), description, *samples)

    def table(self, samples: Labeled | None) -> list[Row]:
        """Size, speed and agreement of the network and of all forms that can be made of it."""
        forms = {
            name: pair
            for name, pair in FORMS.items()
            if pair[1] != "static" or self.request.calibration is not None
        }
        files = {name: self.make(*pair) for name, pair in forms.items()}
        image = resize_image(self.shown[0], self.source.image_size or TABLE_SIZE)
        images = torch.from_numpy(np.stack([image.transpose(2, 0, 1)] * (self.request.batch or 1)))
        one, both = (
            milliseconds(self.network, files, images, runs=self.request.runs, threads=count)
            for count in (1, os.cpu_count() or 1)
        )
        rows = []
        for name, path in {"torch": None, **files}.items():
            size = _weights(self.source.model) if path is None else path.stat().st_size
            near = None if path is None else self.agreement(path)
            rows.append(
                Row(
                    name,
                    size,
                    one[name],
                    both[name],
                    near,
                    None if samples is None else self.score(samples, path),
                )
            )
        return rows

    def _description(self, form: str) -> dict[str, Any]:
        made = {
            "format": form,
            "quantized": "none",
            "batch": self.request.batch,
            "version": kanseg.__version__,
            "torch": torch.__version__,
        }
        return {
            **self.source.description,
            "preprocessing": "inside",
            "input": INPUT,
            "output": self.request.output_kind,
            **made,
        }


def _weights(model: nn.Module) -> int:
    """Bytes of the state dict."""
    return sum(value.numel() * value.element_size() for value in model.state_dict().values())
