"""Which checkpoint a run goes on from, and which are kept."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import torch

from kanseg.checkpoint import STATE, TENSORS, find_fault
from kanseg.errors import InputError


def read_training(folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """(state, tensors) of a checkpoint that can be resumed; no pickled objects are loaded."""
    state = json.loads((folder / STATE).read_text(encoding="utf-8"))
    return state, torch.load(folder / TENSORS, map_location="cpu", weights_only=True)


def step_folders(run: Path) -> list[Path]:
    """The checkpoints of a run, newest first."""
    found = [path for path in (run / "checkpoints").glob("step_*") if path.name[5:].isdigit()]
    return sorted(found, key=lambda path: int(path.name[5:]), reverse=True)


def newest_complete(run: Path) -> tuple[Path, list[str]]:
    """The newest complete checkpoint of a run, and a line for each newer one that was skipped.

    Raises:
        InputError: there is none.
    """
    skipped = []
    for folder in step_folders(run):
        fault = find_fault(folder)
        if fault is None and (folder / STATE).is_file() and (folder / TENSORS).is_file():
            return folder, skipped
        skipped.append(f"skipped {folder}: {fault or 'it holds no training state'}")
    told = f" ({'; '.join(skipped)})" if skipped else ""
    raise InputError(f"{run}: nothing to resume, no complete checkpoint in {run / 'checkpoints'}{told}; start without --resume")


def prune(run: Path, keep: int) -> None:
    """Delete all but the newest `keep` checkpoints; to be called after a new one is complete."""
    for folder in step_folders(run)[max(keep, 1) :]:
        shutil.rmtree(folder)
