"""Settings and run folders, as comparisons, studies and searches handle them."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any

from kanseg.training.run_folder.resume import newest_complete, step_folders
from kanseg.utils.errors import InputError

# Settings that do not change the score: where files are, and what is logged or drawn.
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
    "training.log_every",
    "training.keep",
    "training.save_every",
)


def with_values(nested: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of nested mappings with `section.key: value` settings put into it."""
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
    """section.key -> value of a dataclass of settings."""
    flat: dict[str, Any] = {}
    for key, value in vars(settings).items():
        if is_dataclass(value):
            flat |= flat_settings(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat


def start_options(run: Path, *, discard_damaged: bool) -> dict[str, bool]:
    """Options of `train` for a folder that may hold an unfinished run: it is resumed where it has a
    complete checkpoint, else it starts again.

    Args:
        run: the folder.
        discard_damaged: also start again if there are checkpoints, but none is complete.

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
