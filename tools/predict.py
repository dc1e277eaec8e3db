"""Predict masks: python tools/predict.py --checkpoint runs/quickstart/best --input PICTURES --output out/

Writes a palette PNG of class indices for every picture, of exactly its size, and an overlay beside it. Exit code 1 if a picture
failed, 2 if nothing could be started.
"""

import argparse
import sys
from pathlib import Path

from kanseg.errors import InputError, run_tool


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)
    parser.add_argument("--checkpoint", required=True, help="checkpoint folder, such as runs/quickstart/best")
    parser.add_argument("--input", required=True, help="a picture, a folder of pictures, or a glob pattern in quotes")
    parser.add_argument("--output", required=True, type=Path, help="folder for the masks; overlays go to its folder overlays/")
    parser.add_argument(
        "--mode", choices=("auto", "whole", "tiles"), default="auto", help="whole picture or tiles; auto does as the network was trained (default)"
    )
    parser.add_argument("--tile", type=int, nargs=2, metavar=("HEIGHT", "WIDTH"), help="size of a tile (default: the crop or 512x512)")
    parser.add_argument("--overlap", type=float, default=0.5, help="share of a tile in common with the next one (default 0.5)")
    parser.add_argument("--flips", type=int, choices=(1, 2, 4), default=1, help="mirrored predictions that are averaged (default 1: none)")
    parser.add_argument("--batch_size", type=int, default=8, help="tiles at once (default 8)")
    parser.add_argument("--device", help="torch device (default: a GPU where there is one)")
    parser.add_argument("--no_overlays", action="store_true", help="write masks only")
    parser.add_argument("--skip_existing", action="store_true", help="leave pictures out whose mask is there already")
    parser.add_argument("--max_pixels", type=int, default=2**29, help="refuse larger pictures (default 2^29)")
    return parser.parse_args()


def main() -> int:
    arguments = parse()
    from kanseg.inference import Predictor, find_pictures, predict_files

    pictures = find_pictures(arguments.input)
    predictor = Predictor.from_checkpoint(
        arguments.checkpoint, overlap=arguments.overlap, flips=arguments.flips, batch_size=arguments.batch_size, device=arguments.device
    )
    if arguments.mode == "whole":
        predictor.tile = None
    elif arguments.tile or arguments.mode == "tiles":
        predictor.tile = tuple(arguments.tile or predictor.tile or (512, 512))
    if predictor.tile is not None and min(predictor.tile) < 1:
        raise InputError(f"--tile must be positive, got {predictor.tile}")
    resize = predictor.preprocess.resize
    print(
        f"{len(pictures)} pictures on {predictor.device}, {f'resized to {resize[0]}x{resize[1]}' if resize else 'at their own scale'}, "
        f"{f'tiles of {predictor.tile[0]}x{predictor.tile[1]}' if predictor.tile else 'whole'}"
    )
    outcome = predict_files(
        predictor,
        pictures,
        arguments.output,
        overlays=not arguments.no_overlays,
        skip_existing=arguments.skip_existing,
        max_pixels=arguments.max_pixels,
        tell=lambda line: print(line, file=sys.stderr),
    )
    skipped = f", {len(outcome.skipped)} skipped" if outcome.skipped else ""
    print(f"{len(outcome.written)} masks in {arguments.output}{skipped}, {len(outcome.failed)} failed")
    return 1 if outcome.failed else 0


if __name__ == "__main__":
    run_tool(main)
