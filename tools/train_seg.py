"""Train a segmentation network: python tools/train_seg.py --config configs/quickstart.yaml [--section.key value ...]"""

import sys
from pathlib import Path

from kanseg.config import parse_config
from kanseg.errors import run_tool

FLAGS = {
    "resume": "Go on from the newest complete checkpoint in run_dir (without --config: with the settings stored there).",
    "overwrite": "Delete what an earlier run left in run_dir.",
}


def main() -> None:
    arguments = sys.argv[1:]
    config, flags = parse_config(arguments, description=__doc__, flags=FLAGS)
    stored = Path(config.run_dir) / "config.yaml"
    if flags["resume"] and stored.is_file() and not any(a == "--config" or a.startswith("--config=") for a in arguments):
        config, flags = parse_config(["--config", str(stored), *arguments], description=__doc__, flags=FLAGS)
    from kanseg.training.run import train  # after parsing, so that --help and a misspelt key answer at once

    train(config, **flags)


if __name__ == "__main__":
    run_tool(main)
