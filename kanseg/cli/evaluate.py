"""Measure a checkpoint on a split: python tools/evaluate.py --checkpoint runs/quickstart/best
--split test [--root FOLDER]

Prints a table; --json writes the scores, --csv a table with a line an image. By default images
and masks have the size that the network sees; with --full_size predictions are compared with the
masks as they are in the files. Distances are in pixels, or in the unit of --spacing.
"""

import argparse
import json
from pathlib import Path


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
        "--split",
        nargs="+",
        default=["test"],
        help="split or splits of the data set (default: test)",
    )
    parser.add_argument("--root", help="folder of the data set (default: that of the training)")
    parser.add_argument(
        "--full_size",
        action="store_true",
        help="compare at the size of the files (in tiles where the network needs them)",
    )
    parser.add_argument(
        "--flips",
        type=int,
        choices=(1, 2, 4, 8),
        default=1,
        help="mirrored, of 8 also turned, predictions that are averaged (default 1: none)",
    )
    parser.add_argument(
        "--batch_size",
        type=int,
        default=8,
        help="images or tiles at once, and those of a batch of the protocol (default 8)",
    )
    parser.add_argument(
        "--surface",
        action="store_true",
        default=None,
        help="measure surface distances and boundary IoU (default: as in training)",
    )
    parser.add_argument(
        "--no_surface", action="store_false", dest="surface", help="leave them out, which is faster"
    )
    parser.add_argument(
        "--tolerance",
        type=float,
        help="of the normalized surface Dice (default: training.tolerance)",
    )
    parser.add_argument(
        "--spacing",
        type=float,
        nargs=2,
        metavar=("ROW", "COLUMN"),
        help="distance of neighboring pixels (default: data.spacing)",
    )
    parser.add_argument(
        "--inside",
        type=Path,
        metavar="FOLDER",
        help="masks NAME.png, such as fields of view, outside of which pixels are ignored",
    )
    parser.add_argument(
        "--protocol",
        choices=("u_kan",),
        help="add the scores of U-KAN's tables: means over batches of batch_size images",
    )
    parser.add_argument("--device", help="torch device (default: a GPU where there is one)")
    parser.add_argument("--json", type=Path, help="file for the scores")
    parser.add_argument("--csv", type=Path, help="file for the scores of every image")
    return parser.parse_args()


def main() -> None:
    arguments = parse()
    from kanseg.utils.environment import process_rank
    from kanseg.utils.io import atomic_write_text

    if process_rank() > 0:
        return  # under torchrun the first process measures alone
    from kanseg.evaluation.evaluate import evaluate_checkpoint
    from kanseg.evaluation.tables import table
    from kanseg.training.run_folder.logging import plain

    options = {
        name: value
        for name, value in vars(arguments).items()
        if name not in ("checkpoint", "split", "json")
    }
    scores = evaluate_checkpoint(arguments.checkpoint, arguments.split, **options)
    print(
        f"{' + '.join(arguments.split)}, {scores['images']}"
        f" images{', at the size of the files' if arguments.full_size else ''}:\n{table(scores)}"
    )
    if arguments.json is not None:
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        atomic_write_text(arguments.json, json.dumps(plain(scores), indent=1) + "\n")
        print(f"scores: {arguments.json}")
    if arguments.csv is not None:
        print(f"scores of every image: {arguments.csv}")
