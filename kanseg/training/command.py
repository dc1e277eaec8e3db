"""What the training tools have in common."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from kanseg.config import parse_config

FLAGS = {
    "resume": "Go on from the newest complete checkpoint in run_dir (without --config: with the settings stored there).",
    "overwrite": "Delete what an earlier run left in run_dir.",
}


def train_command(arguments: Sequence[str], *, kind: type, description: str) -> None:
    """Run the experiment that a command line describes.

    Args:
        arguments: of the command line.
        kind: of experiment, such as `kanseg.config.Config`.
        description: for --help.
    """
    config, flags = parse_config(arguments, description=description, flags=FLAGS, kind=kind)
    stored = Path(config.run_dir) / "config.yaml"
    if flags["resume"] and stored.is_file() and not any(a == "--config" or a.startswith("--config=") for a in arguments):
        config, flags = parse_config(["--config", str(stored), *arguments], description=description, flags=FLAGS, kind=kind)
    from kanseg.training.run import train  # after parsing, so that --help and a misspelt key answer at once

    train(config, **flags)
