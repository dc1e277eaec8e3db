"""Export a trained network: python tools/export.py --checkpoint runs/quickstart/best --output
model.onnx [--quantize dynamic|static] [--table]

The name decides the format: .onnx, or .pt2 for torch.export. The file takes images (B, C, H, W)
float32 in [0, 1] (integers divided by the largest of their type, RGB), of any number and size;
gamma, normalization and scaling are inside, and its metadata hold class names, colors and all else
that is needed to use it. It is run beside the network on images of several sizes and kept only if
it agrees. Exit code 1 if it does not, 2 if nothing could be started. torch.export.load can run code
that is in a file: give an ONNX file to others, and load .pt2 files of your own only.
"""

import argparse
import json
import sys
from pathlib import Path

from kanseg.utils.errors import InputError


def batch(text: str) -> int | None:
    return None if text == "dynamic" else int(text)


batch.__name__ = "number or 'dynamic'"  # what argparse calls it in an error


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        "--checkpoint", required=True, help="checkpoint folder, such as runs/quickstart/best"
    )
    parser.add_argument(
        "--output", required=True, type=Path, help="file to write: NAME.onnx or NAME.pt2"
    )
    parser.add_argument(
        "--format", choices=("onnx", "torch"), help="by default what the name of --output says"
    )
    parser.add_argument(
        "--output_kind",
        choices=("logits", "probabilities", "labels"),
        default="logits",
        help="what the file gives: (B, N, H, W), or label maps (default logits)",
    )
    parser.add_argument(
        "--quantize",
        choices=("none", "dynamic", "static"),
        default="none",
        help="8-bit convolutions by onnxruntime (default none)",
    )
    parser.add_argument(
        "--calibration",
        help=(
            "folder of images for static quantization and for the check (default: made images,"
            " for the check)"
        ),
    )
    parser.add_argument(
        "--calibration_count",
        type=int,
        default=32,
        help="images to calibrate on, and as many others to check with (default 32)",
    )
    parser.add_argument(
        "--least_agreement",
        type=float,
        default=0.95,
        help="share of equal labels that a quantized file must reach (default 0.95)",
    )
    parser.add_argument(
        "--tolerance",
        type=float,
        default=1e-3,
        help="largest difference of a probability, and share of differing labels (default 0.001)",
    )
    parser.add_argument("--opset", type=int, help="of ONNX (default: torch's choice)")
    parser.add_argument(
        "--batch", type=batch, default=None, help="images at once: a number, or dynamic (default)"
    )
    parser.add_argument(
        "--split",
        nargs="+",
        default=[],
        help="measure mean IoU on these splits of the data set, before and after",
    )
    parser.add_argument("--root", help="folder of the data set (default: that of the training)")
    parser.add_argument(
        "--table",
        action="store_true",
        help="size, speed (256x256) and agreement of every form; static int8 with --calibration",
    )
    parser.add_argument(
        "--runs", type=int, default=10, help="calls that are timed for the table (default 10)"
    )
    parser.add_argument("--json", type=Path, help="file for all figures")
    return parser.parse_args()


def main() -> int:
    arguments = parse()
    from kanseg.export import Request, export_checkpoint
    from kanseg.export.table import show
    from kanseg.utils.io import atomic_write_text

    target = arguments.json
    if target is not None and not target.parent.is_dir():
        raise InputError(f"--json: there is no folder {target.parent}")
    report = export_checkpoint(
        Request(**{key: value for key, value in vars(arguments).items() if key != "json"})
    )
    agreement = report.agreement
    if target is not None:
        atomic_write_text(target, json.dumps(report.to_dict(), indent=1) + "\n")
    distance = (
        ""
        if agreement.probability is None
        else f"probabilities differ by at most {agreement.probability:.2g}, "
    )
    print(
        f"checked on {', '.join(agreement.batches)}: {distance}labels differ at"
        f" {agreement.differing:.4%} of {agreement.pixels} places"
    )
    if not report.passed:
        limit = (
            f"--least_agreement {arguments.least_agreement}"
            if arguments.quantize != "none"
            else f"--tolerance {arguments.tolerance}"
        )
        print(
            f"{arguments.output} was not written: it does not agree with the network ({limit})",
            file=sys.stderr,
        )
        return 1
    print(
        f"{report.output}: {report.bytes / 2**20:.2f} MiB, {report.description['input']} ->"
        f" {report.description['output']}"
    )
    if report.mean_iou:
        print(
            f"mean IoU on {' + '.join(arguments.split)}: {report.mean_iou['torch']:.4f} before,"
            f" {report.mean_iou['file']:.4f} after"
        )
    if report.rows:
        print(show(report.rows))
    return 0
