"""Measure a checkpoint on a split of its data set:

kanseg evaluate --checkpoint runs/quickstart/best --split test [--root FOLDER]

Prints a table; --json writes all scores, --csv a table with a row for each image. A classifier has
accuracy, precision, recall and F1 of each class, and a confusion matrix. By default images and
masks have the input size of the network; with --full_size predictions are compared with the masks
at the size of the files. Distances are in pixels, or in the unit of --spacing.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from kanseg.config.arguments import ToolParser, output_file, refuse_given, two_numbers

# Options that mean nothing for a classifier.
OF_MASKS = ("full_size", "surface", "tolerance", "spacing", "inside", "protocol")


def _parser() -> ToolParser:
    parser = ToolParser(description=__doc__)
    parser.add_argument(
        "--checkpoint", required=True, help="checkpoint folder, such as runs/quickstart/best"
    )
    parser.add_argument(
        "--split", nargs="+", default=["test"], help="split or splits of the data set"
    )
    parser.add_argument("--root", help="folder of the data set; by default that of the training")
    parser.add_argument(
        "--full_size",
        action="store_true",
        help="compare at the size of the files (in tiles where the network needs them)",
    )
    parser.add_argument(
        "--flips",
        type=Literal[1, 2, 4, 8],
        default=1,
        help="number of mirrored predictions to average, with 8 also rotated; 1 for none",
    )
    parser.add_argument(
        "--batch_size",
        type=int,
        default=8,
        help="images or tiles per batch; also the batch size of --protocol",
    )
    parser.add_argument(
        "--surface",
        action="store_true",
        default=None,
        help="measure surface distances and boundary IoU; by default as in the training",
    )
    parser.add_argument(
        "--no_surface",
        action="store_false",
        dest="surface",
        default=None,
        help="do not measure surface distances and boundary IoU, which is faster",
    )
    parser.add_argument(
        "--tolerance",
        type=float,
        help="tolerance of the normalized surface Dice; by default training.tolerance",
    )
    parser.add_argument(
        "--spacing",
        type=float,
        nargs="+",
        metavar="DISTANCE",
        help="row and column (or both) distance of neighboring pixels; by default data.spacing",
    )
    parser.add_argument(
        "--inside",
        metavar="FOLDER",
        help="masks NAME.png, such as fields of view, outside of which pixels are ignored",
    )
    parser.add_argument(
        "--protocol",
        choices=("u_kan",),
        help="add the scores of U-KAN's tables: means over batches of batch_size images",
    )
    parser.add_argument("--device", help="torch device; by default a GPU if there is one")
    parser.add_argument("--json", metavar="FILE", help="file for the scores")
    parser.add_argument("--csv", metavar="FILE", help="file for the scores of every image")
    return parser


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print a table, and write the requested files."""
    parser = _parser()
    given = parser.parse_args(arguments)
    json_file = output_file(given.json, "--json")
    csv_file = output_file(given.csv, "--csv")
    from kanseg.utils.environment import process_rank

    if process_rank() > 0:
        return  # under torchrun only the first process evaluates
    from kanseg.inference.loading import holds_classifier
    from kanseg.training.run_folder.logging import plain
    from kanseg.utils.io import atomic_write_text

    if holds_classifier(Path(given.checkpoint)):
        scores, table = _of_classifier(given, parser, csv_file)
    else:
        scores, table = _of_masks(given, csv_file)
    size = ", at the size of the files" if given.full_size else ""
    print(f"{' + '.join(given.split)}, {scores['images']} images{size}:\n{table}")
    if json_file is not None:
        atomic_write_text(json_file, json.dumps(plain(scores), indent=1) + "\n")
        print(f"scores: {given.json}")
    if csv_file is not None:
        print(f"scores of every image: {given.csv}")


def _of_masks(given: Any, csv_file: Path | None) -> tuple[dict[str, Any], str]:
    """Return the scores of a segmentation network, and their table."""
    from kanseg.evaluation.evaluate import evaluate_checkpoint
    from kanseg.evaluation.tables import table

    scores = evaluate_checkpoint(
        given.checkpoint,
        given.split,
        root=given.root,
        full_size=given.full_size,
        flips=given.flips,
        batch_size=given.batch_size,
        surface=given.surface,
        tolerance=given.tolerance,
        spacing=two_numbers(given.spacing, "--spacing"),
        inside=given.inside,
        protocol=given.protocol,
        device=given.device,
        csv=csv_file,
    )
    return scores, table(scores)


def _of_classifier(
    given: Any, parser: ToolParser, csv_file: Path | None
) -> tuple[dict[str, Any], str]:
    """Return the scores of a classifier, and their table with the confusion matrix."""
    refuse_given(parser, given, OF_MASKS, "measures masks, and this checkpoint is a classifier")
    from kanseg.evaluation.classification import evaluate_classifier
    from kanseg.metrics.classification import classification_table, confusion_table

    scores = evaluate_classifier(
        given.checkpoint,
        given.split,
        root=given.root,
        flips=given.flips,
        batch_size=given.batch_size,
        device=given.device,
        csv=csv_file,
    )
    return scores, f"{classification_table(scores)}\n\n{confusion_table(scores)}"
