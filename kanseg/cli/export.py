"""Export a trained network:

kanseg export --checkpoint runs/quickstart/best --output model.onnx [--quantize
dynamic|static] [--table] [--demo]

The name decides the format: .onnx, or .pt2 for torch.export. The file takes images (B, C, H, W)
float32 in [0, 1] (integers divided by the largest value of their type, RGB), of any number and
size. Gamma, normalization and scaling are inside, and its metadata hold class names, colors and
everything else that is needed to use it. The exported model is verified against the PyTorch model
on images of several sizes before it is saved. --demo writes a page beside it that predicts images
in a browser, without a server. Exit code 1 if they differ, 2 if the export could not start.
torch.export.load can run code that is in a file: give ONNX files to others, and load only your own
.pt2 files.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from kanseg.config.arguments import ToolParser, output_file
from kanseg.utils.errors import InputError

RENAMED = {"--quantise": "--quantize"}  # read until version 0.2


def _parser() -> ToolParser:
    parser = ToolParser(description=__doc__, renamed=RENAMED)
    parser.add_argument(
        "--checkpoint", required=True, help="checkpoint folder, such as runs/quickstart/best"
    )
    parser.add_argument("--output", required=True, help="file to write: NAME.onnx or NAME.pt2")
    parser.add_argument(
        "--format", choices=("onnx", "torch"), help="by default that of the suffix of --output"
    )
    parser.add_argument(
        "--output_kind",
        choices=("logits", "probabilities", "labels"),
        default="logits",
        help="output of the file: (B, N, H, W), or class indices (B, H, W)",
    )
    parser.add_argument(
        "--quantize",
        choices=("none", "dynamic", "static"),
        default="none",
        help="8-bit convolutions by onnxruntime",
    )
    parser.add_argument(
        "--calibration",
        metavar="FOLDER",
        help="images for static quantization and the check; by default generated for the check",
    )
    parser.add_argument(
        "--calibration_count",
        type=int,
        default=32,
        help="images to calibrate on, and as many others to check with",
    )
    parser.add_argument(
        "--least_agreement",
        type=float,
        default=0.95,
        help="share of equal labels that a quantized file must reach",
    )
    parser.add_argument(
        "--tolerance",
        type=float,
        default=1e-3,
        help="largest difference of a probability, and largest share of differing labels",
    )
    parser.add_argument("--opset", type=int, help="ONNX opset; by default torch's choice")
    parser.add_argument(
        "--batch", default="dynamic", help="images at once: a number, or dynamic for any"
    )
    parser.add_argument(
        "--split",
        nargs="+",
        default=[],
        help="measure mean IoU on these splits of the data set, before and after",
    )
    parser.add_argument("--root", help="folder of the data set; by default that of the training")
    parser.add_argument(
        "--table",
        action="store_true",
        help="size, speed (256x256) and agreement of every form; static int8 with --calibration",
    )
    parser.add_argument("--runs", type=int, default=10, help="calls that are timed for the table")
    parser.add_argument("--json", metavar="FILE", help="file for all figures")
    parser.add_argument(
        "--demo",
        action="store_true",
        help="also write a folder NAME_demo: a page that predicts images in a browser",
    )
    parser.add_argument(
        "--demo_runtime",
        metavar="FILE",
        help="onnxruntime-web for the page, as `npm pack` writes it; by default it is downloaded"
        " once from npm's registry",
    )
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Export, verify, and print a summary; 1 if the file differs from the network."""
    given = _parser().parse_args(arguments)
    target = output_file(given.json, "--json")
    options = given.as_dict()
    del options["json"]
    options["output"] = Path(given.output)
    options["batch"] = _batch(given.batch)

    from kanseg.export import Request, export_checkpoint
    from kanseg.export.table import export_table
    from kanseg.utils.io import atomic_write_text

    report = export_checkpoint(Request(**options), log=partial(print, file=sys.stderr))
    if target is not None:
        atomic_write_text(target, json.dumps(report.to_dict(), indent=1) + "\n")
    agreement = report.agreement
    units = "pixels"
    if report.description["labels"]["task"] == "classification":
        units = "images"
    found = [f"labels differ at {agreement.differing:.4%} of {agreement.pixels} {units}"]
    if agreement.probability is not None:
        found.insert(0, f"probabilities differ by at most {agreement.probability:.2g}")
    print(f"checked on {', '.join(agreement.batches)}: {', '.join(found)}")
    if not report.passed:
        limit = f"--tolerance {given.tolerance}"
        if given.quantize != "none":
            limit = f"--least_agreement {given.least_agreement}"
        print(
            f"{given.output} was not written: it differs from the network ({limit})",
            file=sys.stderr,
        )
        return 1
    size = f"{report.bytes / 2**20:.2f} MiB"
    description = report.description
    print(f"{report.output}: {size}, {description['input']} -> {description['output']}")
    if report.demo is not None:
        size = f"{report.demo_bytes / 2**20:.2f} MiB"
        print(f"{report.demo}: {size} with the files beside it; open it in a browser")
    if report.mean_iou:
        before, after = report.mean_iou["torch"], report.mean_iou["file"]
        print(f"mean IoU on {' + '.join(given.split)}: {before:.4f} before, {after:.4f} after")
    if report.rows:
        print(export_table(report.rows))
    return 0


def _batch(text: str) -> int | None:
    if text == "dynamic":
        return None
    try:
        return int(text)
    except ValueError:
        raise InputError(f"--batch: expected a number or dynamic, got {text!r}") from None
