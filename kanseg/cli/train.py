"""What the training tools have in common."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from kanseg.config import ClassificationConfig, Config, parse_config
from kanseg.utils.errors import InputError

FLAGS = {
    "resume": (
        "Go on from the newest complete checkpoint in run_dir (without --config: with the settings"
        " stored there)."
    ),
    "overwrite": "Delete what an earlier run left in run_dir.",
    "accept_changes": (
        "With --resume: go on although samples or split lists of the data set were changed since"
        " the run was begun, and train on new samples too."
    ),
}


TOOLS = {
    Config: ("segmentation", "tools/train_seg.py"),
    ClassificationConfig: ("classification", "tools/train_cls.py"),
}


def train_command(arguments: Sequence[str], *, kind: type, description: str) -> None:
    """Run the experiment that a command line describes.

    Args:
        arguments: of the command line.
        kind: of experiment, such as `kanseg.config.Config`.
        description: for --help.
    """
    try:
        config, flags = parse_config(arguments, description=description, flags=FLAGS, kind=kind)
    except InputError:
        _other_kind(arguments, kind)
        raise
    # after parsing, so that --help and a misspelt key answer at once
    from kanseg.training.run import train
    from kanseg.training.run_folder.resume import stored_settings

    if flags["resume"] and not any(a == "--config" or a.startswith("--config=") for a in arguments):
        stored, line = stored_settings(Path(config.run_dir))
        if line is not None:
            print(line, flush=True)
        if stored is not None:
            words = ["--config", str(stored), "--run_dir", config.run_dir, *arguments]
            config, flags = parse_config(words, description=description, flags=FLAGS, kind=kind)

    train(config, **flags)


def _other_kind(arguments: Sequence[str], kind: type) -> None:
    """InputError where the settings are those of another kind of experiment."""
    for other, (word, tool) in TOOLS.items():
        if other is not kind and _fit(arguments, other):
            raise InputError(f"these are settings of a {word} experiment: use {tool}") from None


def _fit(arguments: Sequence[str], kind: type) -> bool:
    try:
        parse_config(arguments, flags=FLAGS, kind=kind)
    except InputError:
        return False
    return True
