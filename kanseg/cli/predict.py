"""Predict masks: python tools/predict.py --checkpoint runs/quickstart/best --input IMAGES
--output out/

Writes a palette PNG of class indices for every image, of exactly its size (of a multilabel task
CLASS/NAME.png of 0 and 255; beyond 2^26 pixels a tiled TIFF), and an overlay beside it; of a video
a mask for each frame and an overlay video. Several checkpoints are an ensemble: the mean of their
probabilities. Exit code 1 if a file failed, 2 if nothing could be started.
"""

import argparse
import sys
from pathlib import Path

from kanseg.utils.errors import InputError
from kanseg.utils.text import printable

WRITTEN = ("probabilities", "uncertainty", "polygons")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        "--checkpoint",
        required=True,
        nargs="+",
        help=(
            "checkpoint folder, such as runs/quickstart/best, or exported file; several: an"
            " ensemble"
        ),
    )
    parser.add_argument(
        "--input",
        required=True,
        help="an image, a video, a folder of them, or a glob pattern in quotes",
    )
    parser.add_argument(
        "--output",
        required=True,
        type=Path,
        help="folder for the masks; overlays go to its folder overlays/",
    )
    parser.add_argument(
        "--recursive",
        action="store_true",
        help="go into the folders of an input folder, and keep them in the output",
    )
    _seeing(parser)
    _writing(parser)
    return parser.parse_args()


def _seeing(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("how images are seen")
    group.add_argument(
        "--mode",
        choices=("auto", "whole", "tiles"),
        default="auto",
        help="whole image or tiles; auto does as the network was trained (default)",
    )
    group.add_argument(
        "--tile",
        type=int,
        nargs=2,
        metavar=("HEIGHT", "WIDTH"),
        help="size of a tile (default: the crop or 512x512)",
    )
    group.add_argument(
        "--overlap",
        type=float,
        default=0.5,
        help="share of a tile in common with the next one (default 0.5)",
    )
    group.add_argument(
        "--flips",
        type=int,
        choices=(1, 2, 4, 8),
        default=1,
        help=(
            "mirrored predictions that are averaged; 8: also turned by 90 degrees (default 1: none)"
        ),
    )
    group.add_argument(
        "--scales",
        type=float,
        nargs="+",
        default=[1.0],
        help="scales of the image that are averaged, each with all flips (default: 1)",
    )
    group.add_argument(
        "--batch_size",
        "--batch-size",
        type=int,
        default=8,
        help="tiles, or small images of one size, at once (default 8)",
    )
    group.add_argument(
        "--precision",
        choices=("no", "bf16", "fp16"),
        default="no",
        help="of convolutions (default no: float32)",
    )
    group.add_argument("--device", help="torch device (default: a GPU where there is one)")
    group.add_argument(
        "--max_pixels",
        "--max-pixels",
        type=int,
        default=2**29,
        help="refuse larger images (default 2^29)",
    )
    group.add_argument(
        "--large",
        type=int,
        default=2**26,
        help=(
            "pixels beyond which a TIFF is read by windows and the mask is a tiled TIFF (default"
            " 2^26)"
        ),
    )


def _writing(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("what is written")
    group.add_argument("--no_overlays", "--no-overlays", action="store_true", help="no overlays")
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
            " entropy of a single one"
        ),
    )
    group.add_argument(
        "--polygons",
        choices=("coco", "geojson"),
        help=(
            "annotations.json of all images, or polygons/NAME.geojson (in map coordinates of a"
            " GeoTIFF)"
        ),
    )
    group.add_argument(
        "--skip_existing",
        "--skip-existing",
        action="store_true",
        help="leave files out for which everything is there already",
    )


def main() -> int:
    arguments = parse()
    from kanseg.utils.environment import process_rank

    if process_rank() > 0:
        return 0  # under torchrun the first process predicts alone
    from kanseg.inference import Outputs, find_jobs, open_predictor, predict_files

    if arguments.max_pixels < 1 or arguments.large < 1:
        raise InputError("--max_pixels and --large must be at least 1")
    jobs, notes = find_jobs(arguments.input, recursive=arguments.recursive, output=arguments.output)
    for note in notes:
        print(printable(note, line=True), file=sys.stderr)
    seen = ("mode", "tile", "overlap", "flips", "scales", "batch_size", "precision", "device")
    predictor = open_predictor(
        arguments.checkpoint, **{key: getattr(arguments, key) for key in seen}
    )
    print(f"{len(jobs)} files on {predictor.device}, {predictor.describe()}")
    outcome = predict_files(
        predictor,
        jobs,
        arguments.output,
        outputs=Outputs(
            overlays=not arguments.no_overlays, **{key: getattr(arguments, key) for key in WRITTEN}
        ),
        skip_existing=arguments.skip_existing,
        max_pixels=arguments.max_pixels,
        large=arguments.large,
        log=lambda line: print(printable(line, line=True), file=sys.stderr),
    )
    skipped = f", {len(outcome.skipped)} skipped" if outcome.skipped else ""
    print(
        f"{len(outcome.written)} masks in {arguments.output}{skipped}, {len(outcome.failed)} failed"
    )
    return 1 if outcome.failed else 0
