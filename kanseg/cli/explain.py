"""Write a page of what a trained network has learned, and where it looked:

kanseg explain --checkpoint runs/quickstart/best --input IMAGES [--output explain.html]

The page is one file that needs no network: the health of every layer, its learned functions with
the inputs that they get on the images, and for some images Grad-CAM maps and the contributions of
channels to the logits. By default it is RUN/explain.html, and report.html links to it.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from kanseg.config.arguments import ToolParser, output_file
from kanseg.utils.text import printable


def _parser() -> ToolParser:
    parser = ToolParser(description=__doc__)
    parser.add_argument(
        "--checkpoint", required=True, help="checkpoint folder, such as runs/quickstart/best"
    )
    parser.add_argument(
        "--input", required=True, help="an image, a folder of images, or a glob pattern in quotes"
    )
    parser.add_argument("--output", help="HTML file; by default explain.html in the run folder")
    parser.add_argument(
        "--layers",
        nargs="+",
        default=[],
        metavar="NAME",
        help="layers for Grad-CAM, named as in network.named_modules(); by default the deepest and"
        " the last one before the logits",
    )
    parser.add_argument(
        "--max_images", type=int, default=32, help="images for curves and health, evenly spaced"
    )
    parser.add_argument("--shown", type=int, default=4, help="images on the page")
    parser.add_argument(
        "--occlusion",
        action="store_true",
        help="add occlusion maps; the network runs 64 times for each class of an image",
    )
    parser.add_argument("--device", help="torch device; by default a GPU if there is one")
    return parser


def main(arguments: Sequence[str] | None = None) -> None:
    """Write the page, and print where it is."""
    given = _parser().parse_args(arguments)
    output = output_file(given.output, "--output")
    from kanseg.explain.page import explain_checkpoint

    page = explain_checkpoint(
        Path(given.checkpoint),
        given.input,
        output,
        layers=given.layers,
        max_images=given.max_images,
        shown=given.shown,
        occlude=given.occlusion,
        device=given.device,
        log=_log,
    )
    print(f"{page} ({page.stat().st_size / 2**20:.1f} MiB)")


def _log(line: str) -> None:
    print(printable(line, line=True), file=sys.stderr)
