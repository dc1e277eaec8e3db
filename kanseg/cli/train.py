"""The training tools: run the experiment that a command line describes."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from pathlib import Path

from kanseg.config import ClassificationConfig, Config, parse_config
from kanseg.config.builtin import with_config_files
from kanseg.utils.errors import InputError

SEGMENTATION = """Train a segmentation network:

kanseg train quickstart [--section.key value ...]

The first word is a file of settings or the name of a built-in config, which `kanseg formats` lists.
"""
CLASSIFICATION = """Train a classifier:

kanseg classify mnist_hybrid [--section.key value ...]

The first word is a file of settings or the name of a built-in config, which `kanseg formats` lists.
"""
FLAGS = {
    "resume": (
        "Continue from the newest complete checkpoint in run_dir (without --config: with the"
        " settings stored there). `--resume auto` starts the run if there is none."
    ),
    "overwrite": "Delete the files of an earlier run in run_dir.",
    "accept_changes": (
        "With --resume: continue although samples or split lists of the data set have changed since"
        " the run began, and train on new samples too."
    ),
    "all_folds": (
        "Cross-validation: train fold K of data.folds into run_dir/fold_K, for all folds, and sum"
        " up their scores in run_dir. The same command continues after an interruption."
    ),
}
TOOLS = {
    Config: ("segmentation", "kanseg train"),
    ClassificationConfig: ("classification", "kanseg classify"),
}


def train_segmentation(arguments: Sequence[str] | None = None) -> None:
    """Train a segmentation network; by default the arguments of the process."""
    words = sys.argv[1:] if arguments is None else arguments
    train_command(words, kind=Config, description=SEGMENTATION)


def train_classifier(arguments: Sequence[str] | None = None) -> None:
    """Train a classifier; by default the arguments of the process."""
    words = sys.argv[1:] if arguments is None else arguments
    train_command(words, kind=ClassificationConfig, description=CLASSIFICATION)


def train_command(arguments: Sequence[str], *, kind: type, description: str) -> None:
    """Run the experiment that a command line describes.

    Args:
        arguments: of the command line.
        kind: of experiment, such as `kanseg.config.Config`.
        description: for --help.
    """
    _refuse_number_of_folds(arguments)
    words, auto = _without_auto(with_config_files(arguments))
    try:
        config, flags = parse_config(words, description=description, flags=FLAGS, kind=kind)
    except InputError:
        _check_kind(words, kind)
        raise
    # Imported after parsing, so that --help and a wrong option are answered at once.
    from kanseg.training.run import train
    from kanseg.training.run_folder.resume import has_checkpoints, has_results, stored_settings

    if flags.pop("all_folds"):
        from kanseg.experiments.cross_validation.run import cross_validate

        if flags.pop("resume"):
            raise InputError(
                "--all_folds continues by itself: give the same command again, without --resume"
            )
        cross_validate(config, **flags)
        return
    if auto:
        folder = Path(config.run_dir)
        flags["resume"] = has_checkpoints(folder)
        # Of a run that was killed in its first steps nothing is lost. A finished run whose
        # checkpoints were deleted to save space is refused.
        flags["overwrite"] = not flags["resume"] and not has_results(folder)
    has_config = any(word.split("=")[0] == "--config" for word in words)
    if flags["resume"] and not has_config:
        stored, line = stored_settings(Path(config.run_dir))
        if line is not None:
            print(line, flush=True)
        if stored is not None:
            words = ["--config", str(stored), "--run_dir", config.run_dir, *words]
            config, _ = parse_config(words, description=description, flags=FLAGS, kind=kind)

    train(config, **flags)


def _refuse_number_of_folds(arguments: Sequence[str]) -> None:
    """Raise InputError for `--all_folds 3`."""
    words = " ".join(arguments)
    number = re.search(r"--all[_-]folds[ =](\d+)\b", words)
    if number:
        raise InputError(
            "--all_folds takes no number: write --data.folds {number} --all_folds", number=number[1]
        )


def _without_auto(arguments: Sequence[str]) -> tuple[list[str], bool]:
    """Take `--resume auto` out of a command line: (the other words, whether it was there)."""
    rest: list[str] = []
    auto = False
    for word in arguments:
        if word == "--resume=auto":
            auto = True
        elif word == "auto" and rest[-1:] == ["--resume"]:
            rest.pop()
            auto = True
        else:
            rest.append(word)
    return rest, auto


def _check_kind(arguments: Sequence[str], kind: type) -> None:
    """InputError if the settings are valid for another kind of experiment."""
    for other, (name, tool) in TOOLS.items():
        if other is kind:
            continue
        try:
            parse_config(arguments, flags=FLAGS, kind=other)
        except InputError:
            continue
        raise InputError(
            "these are settings of a {name} experiment: use {tool}", name=name, tool=tool
        ) from None
