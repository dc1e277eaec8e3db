"""Predict masks:

python tools/predict.py --checkpoint runs/quickstart/best --input IMAGES --output out/

Writes a palette PNG of class indices for every image, of exactly its size (of a multilabel task
CLASS/NAME.png of 0 and 255; above 2^26 pixels a tiled TIFF), and an overlay beside it; of a video a
mask for each frame and an overlay video. Several checkpoints are an ensemble: the mean of their
probabilities. Exit code 1 if a file failed, 2 if the prediction could not start.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from kanseg.config.arguments import ToolParser
from kanseg.utils.errors import InputError
from kanseg.utils.text import printable

PREDICTOR = ("mode", "tile", "overlap", "flips", "scales", "batch_size", "precision", "device")


def _parser() -> ToolParser:
    parser = ToolParser(description=__doc__)
    parser.add_argument(
        "--checkpoint",
        required=True,
        nargs="+",
        help="checkpoint folder, such as runs/quickstart/best, or exported file; several: ensemble",
    )
    parser.add_argument(
        "--input",
        required=True,
        help="an image, a video, a folder of them, or a glob pattern in quotes",
    )
    parser.add_argument(
        "--output", required=True, help="folder for the masks; overlays go to its folder overlays/"
    )
    parser.add_argument(
        "--recursive",
        action="store_true",
        help="include the subfolders of an input folder, and keep them in the output",
    )
    _add_inference(parser)
    _add_outputs(parser)
    return parser


def _add_inference(parser: ToolParser) -> None:
    group = parser.add_argument_group("inference")
    group.add_argument(
        "--mode",
        choices=("auto", "whole", "tiles"),
        default="auto",
        help="whole image or tiles; auto depends on the training",
    )
    group.add_argument(
        "--tile",
        type=int,
        nargs=2,
        metavar=("HEIGHT", "WIDTH"),
        help="size of a tile; by default the crop of the training, but at least 512 a side",
    )
    group.add_argument(
        "--overlap",
        type=float,
        default=0.5,
        help="share of a tile that the next one overlaps",
    )
    group.add_argument(
        "--flips",
        type=Literal[1, 2, 4, 8],
        default=1,
        help="number of mirrored predictions to average, with 8 also rotated by 90 degrees",
    )
    group.add_argument(
        "--scales",
        type=float,
        nargs="+",
        default=[1.0],
        help="scales of the image to average, each with all flips",
    )
    group.add_argument(
        "--batch_size", type=int, default=8, help="tiles, or small images of one size, per batch"
    )
    group.add_argument(
        "--precision",
        choices=("no", "bf16", "fp16"),
        default="no",
        help="precision of convolutions; no means float32",
    )
    group.add_argument("--device", help="torch device; by default a GPU if there is one")
    group.add_argument("--max_pixels", type=int, default=2**29, help="larger images are refused")
    group.add_argument(
        "--large",
        type=int,
        default=2**26,
        help="pixels above which a TIFF is read in parts and the mask is a tiled TIFF",
    )


def _add_outputs(parser: ToolParser) -> None:
    group = parser.add_argument_group("output")
    group.add_argument("--no_overlays", action="store_true", help="do not write overlays")
    group.add_argument(
        "--probabilities",
        choices=("npz", "png"),
        help="probabilities/NAME.npz (classes, H, W) float16, or probabilities/CLASS/NAME.png",
    )
    group.add_argument(
        "--uncertainty",
        action="store_true",
        help=(
            "uncertainty/NAME.npz and .png: variance over flips, scales and checkpoints, or the"
            " entropy of a single prediction"
        ),
    )
    group.add_argument(
        "--polygons",
        choices=("coco", "geojson", "labelme"),
        help=(
            "annotations.json of all images, polygons/NAME.geojson (in map coordinates of a"
            " GeoTIFF), or polygons/NAME.json of labelme (open: labelme IMAGES --output"
            " OUTPUT/polygons)"
        ),
    )
    group.add_argument(
        "--skip_existing",
        action="store_true",
        help=(
            "skip files whose outputs all exist; the masks in the output folder must be of the same"
            " checkpoints and options"
        ),
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Predict all files; 1 if one of them failed."""
    given = _parser().parse_args(arguments)
    if given.max_pixels < 1 or given.large < 1:
        raise InputError("--max_pixels and --large must be at least 1")
    from kanseg.utils.environment import process_rank

    if process_rank() > 0:
        return 0  # under torchrun only the first process predicts
    from kanseg.inference import Outputs, find_jobs, open_predictor, predict_files

    output = Path(given.output)
    jobs, notes = find_jobs(given.input, recursive=given.recursive, output=output)
    for note in notes:
        _log(note)
    predictor = open_predictor(given.checkpoint, **{name: given[name] for name in PREDICTOR})
    print(f"{len(jobs)} files on {predictor.device}, {predictor.describe()}")
    outcome = predict_files(
        predictor,
        jobs,
        output,
        outputs=Outputs(
            overlays=not given.no_overlays,
            probabilities=given.probabilities,
            uncertainty=given.uncertainty,
            polygons=given.polygons,
        ),
        skip_existing=given.skip_existing,
        max_pixels=given.max_pixels,
        large=given.large,
        log=_log,
    )
    skipped = f", {len(outcome.skipped)} skipped" if outcome.skipped else ""
    print(f"{len(outcome.written)} masks in {output}{skipped}, {len(outcome.failed)} failed")
    return 1 if outcome.failed else 0


def _log(line: str) -> None:
    print(printable(line, line=True), file=sys.stderr)
