"""Helpers of comparisons, studies, searches and cross-validations for settings and run folders."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any

from kanseg.training.run_folder.resume import (
    newest_complete,
    settings_changed,
    step_folders,
    stored_settings,
    with_stored_choices,
)
from kanseg.utils.errors import InputError
from kanseg.utils.reading import read_text

# Settings that do not change the score: paths, logging and figures.
MAY_DIFFER = (
    "run_dir",
    "data.root",
    "data.workers",
    "training.threads",
    "training.panels",
    "training.tensorboard",
    "training.wandb",
    "training.project",
    "training.log_images",
    "training.log_health",
    "training.log_every",
    "training.keep",
    "training.save_every",
)


def with_values(nested: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """Copy nested settings and set some values, given as `section.key: value`."""
    result = deepcopy(dict(nested))
    for key, value in values.items():
        *sections, last = key.split(".")
        target = result
        for section in sections:
            if not isinstance(target.get(section), dict):
                target[section] = {}
            target = target[section]
        target[last] = deepcopy(value)
    return result


def flat_settings(settings: Any, prefix: str = "") -> dict[str, Any]:
    """Flatten a dataclass of settings: section.key -> value."""
    flat: dict[str, Any] = {}
    for key, value in vars(settings).items():
        if is_dataclass(value):
            flat |= flat_settings(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat


def start_options(run: Path, *, discard_damaged: bool) -> dict[str, bool]:
    """Options of `train` for a folder that may hold an unfinished run: resume from a complete
    checkpoint, or start again if there is none.

    Args:
        run: the folder.
        discard_damaged: start again if all checkpoints are damaged.

    Raises:
        InputError: all checkpoints are damaged.
    """
    if not (run / "config.yaml").is_file():
        return {}
    try:
        newest_complete(run)
    except InputError:
        if step_folders(run) and not discard_damaged:
            raise
        return {"overwrite": True}
    return {"resume": True}


def is_finished(config: Any, *, hint: str) -> bool:
    """True if the run folder of the settings holds a finished run with these settings.

    Args:
        config: all settings.
        hint: what to do if the folder holds another run, for the message.

    Raises:
        InputError: the folder holds a run with other settings.
    """
    run = Path(config.run_dir)
    if not (run / "config.yaml").is_file():
        return False
    stored, _ = stored_settings(run)
    changes = []
    for change in settings_changed(read_text(stored), with_stored_choices(config)):
        if change.split(": ")[0] not in MAY_DIFFER:
            changes.append(change)
    if changes:
        raise InputError(f"{run} holds a run with other settings ({'; '.join(changes)}); {hint}")
    return (run / "metrics.json").is_file()


def options_to_finish(config: Any, *, hint: str) -> dict[str, bool] | None:
    """Options of `train` that start or continue the run of the settings; None if it is finished.

    Raises:
        InputError: as of `is_finished` and `start_options`.
    """
    if is_finished(config, hint=hint):
        return None
    return start_options(Path(config.run_dir), discard_damaged=False)
