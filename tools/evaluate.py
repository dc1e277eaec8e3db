"""Measure a checkpoint on a split: python tools/evaluate.py --checkpoint runs/quickstart/best --split test [--root FOLDER]

Prints a table and, with --json, writes the scores. By default pictures and masks have the size that the network sees; with --full_size
predictions are compared with the masks as they are in the files.
"""

import argparse
import json
from pathlib import Path

from kanseg.errors import run_tool


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)
    parser.add_argument("--checkpoint", required=True, help="checkpoint folder, such as runs/quickstart/best")
    parser.add_argument("--split", nargs="+", default=["test"], help="split or splits of the data set (default: test)")
    parser.add_argument("--root", help="folder of the data set (default: that of the training)")
    parser.add_argument("--full_size", action="store_true", help="compare at the size of the files (in tiles where the network needs them)")
    parser.add_argument("--flips", type=int, choices=(1, 2, 4), default=1, help="mirrored predictions that are averaged (default 1: none)")
    parser.add_argument("--batch_size", type=int, default=8)
    parser.add_argument("--device", help="torch device (default: a GPU where there is one)")
    parser.add_argument("--json", type=Path, help="file for the scores")
    return parser.parse_args()


def main() -> None:
    arguments = parse()
    from kanseg.config import write_text
    from kanseg.inference.evaluate import evaluate_checkpoint
    from kanseg.metrics import table
    from kanseg.training.log import plain

    scores = evaluate_checkpoint(
        arguments.checkpoint,
        arguments.split,
        root=arguments.root,
        full_size=arguments.full_size,
        flips=arguments.flips,
        batch_size=arguments.batch_size,
        device=arguments.device,
    )
    print(f"{' + '.join(arguments.split)}, {scores['pictures']} pictures{', at the size of the files' if arguments.full_size else ''}:\n{table(scores)}")
    if arguments.json is not None:
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        write_text(arguments.json, json.dumps(plain(scores), indent=1) + "\n")
        print(f"scores: {arguments.json}")


if __name__ == "__main__":
    run_tool(main)
