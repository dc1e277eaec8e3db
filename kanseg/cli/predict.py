"""Predict masks, or with a classifier classes:

kanseg predict --checkpoint runs/quickstart/best --input IMAGES --output out/

Writes a palette PNG of class indices for every image, of exactly its size (of a multilabel task
CLASS/NAME.png of 0 and 255; above 2^26 pixels a tiled TIFF), and an overlay beside it; of a video a
mask for each frame and an overlay video. Several checkpoints are an ensemble: the mean of their
probabilities. A classifier writes predictions.csv (file, class, probabilities) and
thumbnails/CLASS/NAME.jpg. Exit code 1 if a file failed, 2 if the prediction could not start.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from kanseg.config.arguments import ToolParser, refuse_given, two_numbers
from kanseg.utils.errors import InputError
from kanseg.utils.language import translate
from kanseg.utils.text import printable

if TYPE_CHECKING:
    from kanseg.inference.files.results import PredictSummary

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
        help="an image, a video, a folder of them, or a glob pattern in quotes",
    )
    parser.add_argument(
        "--output", required=True, help="folder for the masks; overlays go to its folder overlays/"
    )
    parser.add_argument(
        "--list",
        metavar="FILE",
        help="in place of --input: a file with a path on each line, or - for the standard input",
    )
    parser.add_argument(
        "--part",
        metavar="K/N",
        help="predict every N-th file from the K-th on, such as 3/16 in a job array; under torchrun"
        " or accelerate launch each process takes its part by itself",
    )
    parser.add_argument(
        "--share",
        action="store_true",
        help="start the same command any number of times, on any machines that see the output"
        " folder: each file is predicted by one process; outputs that exist are skipped",
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
        nargs="+",
        metavar="PIXELS",
        help="height and width of a tile, or one number for a square; by default the crop of"
        " the training, but at least 512 a side",
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
        "--no_thumbnails", action="store_true", help="of a classifier: do not write thumbnails"
    )
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
        "--novelty",
        metavar="IMAGES",
        help=(
            "novelty/NAME.npz and .png: share of the learned functions whose input at a pixel is"
            " outside its range on these images, such as those of the training (a file, a folder or"
            " a pattern); takes a second pass"
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
    parser = _parser()
    given = parser.parse_args(arguments)
    if given.max_pixels < 1 or given.large < 1:
        raise InputError("--max_pixels and --large must be at least 1")
    if (given.input is None) == (given.list is None):
        raise InputError("give --input (a file, a folder or a pattern) or --list")
    from kanseg.utils.environment import launched_processes, local_device, process_rank

    part = (1, 1)
    if given.part is not None:
        part = _part(given.part)
    elif not given.share:
        part = (process_rank() + 1, launched_processes())
    device = given.device or local_device()
    from kanseg.inference import (
        Classifier,
        Outputs,
        find_jobs,
        open_predictor,
        predict_files,
        read_list,
    )

    output = Path(given.output)
    if given.list is not None:
        jobs, notes = read_list(given.list), []
    else:
        jobs, notes = find_jobs(given.input, recursive=given.recursive, output=output)
    for note in notes:
        _log(note)
    # A classifier has fewer options, so that only those that are given count.
    options = {name: given[name] for name in PREDICTOR if given[name] != parser.get_default(name)}
    options["device"] = device
    options["tile"] = two_numbers(given.tile, "--tile")
    predictor = open_predictor(given.checkpoint, **options)
    share = translate(", shared with other processes") if given.share else ""
    if part[1] > 1:
        share = translate(", part {part} of {parts}", part=part[0], parts=part[1])
    print(
        translate(
            "{count} files{share} on {device}, {network}",
            count=len(jobs),
            share=share,
            device=predictor.device,
            network=predictor.describe(),
        )
    )
    if isinstance(predictor, Classifier):
        from kanseg.cli.predict_classes import predict_classes

        return predict_classes(predictor, jobs, output, given, parser, part=part, log=_log)
    refuse_given(parser, given, ["no_thumbnails"], "is for classifiers")
    if given.novelty is not None:
        from kanseg.inference.files.inputs import find_images
        from kanseg.inference.novelty import novelty_segmenter

        predictor.novelty = novelty_segmenter(predictor, find_images(given.novelty))
    outcome = predict_files(
        predictor,
        jobs,
        output,
        outputs=Outputs(
            overlays=not given.no_overlays,
            probabilities=given.probabilities,
            uncertainty=given.uncertainty,
            novelty=given.novelty is not None,
            polygons=given.polygons,
        ),
        skip_existing=given.skip_existing,
        share=given.share,
        part=part,
        progress=True,
        max_pixels=given.max_pixels,
        large=given.large,
        log=_log,
    )
    skipped = ""
    if outcome.skipped:
        skipped = translate(", {count} skipped", count=len(outcome.skipped))
    print(
        translate(
            "{count} masks in {output}{skipped}, {failed} failed{share}",
            count=len(outcome.written),
            output=output,
            skipped=skipped,
            failed=len(outcome.failed),
            share=share,
        )
    )
    if outcome.processes:
        _print_processes(outcome)
    return 1 if outcome.failed else 0


def _print_processes(outcome: PredictSummary) -> None:
    """Print what each of the processes did that shared the files."""
    for process in outcome.processes:
        killed = translate(", killed") if process.killed else ""
        print(
            translate(
                "  {name}: {written} masks, {failed} failed{killed}",
                name=process.name,
                written=process.written,
                failed=process.failed,
                killed=killed,
            )
        )
    written = sum(process.written for process in outcome.processes)
    rate = written / max(outcome.seconds, 1e-9)
    print(
        translate(
            "{count} processes: {written} masks, {rate} images/s",
            count=len(outcome.processes),
            written=written,
            rate=f"{rate:.1f}",
        )
    )


def _part(text: str) -> tuple[int, int]:
    """Parse `3/16`."""
    words = text.split("/")
    if len(words) != 2 or not all(word.isdigit() for word in words):
        raise InputError("--part: expected K/N such as 3/16, got {text!r}", text=text)
    return int(words[0]), int(words[1])


def _log(line: str) -> None:
    print(printable(line, line=True), file=sys.stderr)
