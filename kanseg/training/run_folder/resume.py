"""Find the checkpoint that a run goes on from, lock the run folder, delete old checkpoints."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any
from weakref import WeakSet

from torch import nn

from kanseg.inference.checkpoint import (
    CONFIG,
    STATE,
    TENSORS,
    find_fault,
    read_description,
    read_weights,
    take_name,
)
from kanseg.training.run_folder.stored_state import read_training
from kanseg.utils.errors import InputError
from kanseg.utils.hub import stored_arguments
from kanseg.utils.reading import read_json, read_text, read_yaml

# Settings that may differ when a run goes on. Any other would make it another experiment than the
# one in its folder.
CHANGEABLE = (
    "run_dir",
    "data.root",
    "data.prepare",
    "data.test",
    "data.workers",
    "training.epochs",
    "training.lr",
    "training.weight_decay",
    "training.clip",
    "training.precision",
    "training.compile",
    "training.find_batch_size",
    "training.validate_every",
    "training.patience",
    "training.save_every",
    "training.keep",
    "training.log_every",
    "training.panels",
    "training.surface",
    "training.tolerance",
    "training.tensorboard",
    "training.wandb",
    "training.project",
    "training.log_images",
    "training.threads",
)


# A complete checkpoint whose renaming was cut short: `.step_N.PID.tmp`, or the `.old.tmp` that it
# replaces.
UNNAMED = re.compile(r"\.(step_(\d+))\.\d+(\.old)?\.tmp")


class RunBusy(InputError):
    """Another process writes to the run folder."""


@dataclass(frozen=True)
class Resumed:
    """A checkpoint that a run goes on from."""

    folder: Path
    state: dict[str, Any]
    tensors: dict[str, Any]

    def check(self, layout: list[int]) -> None:
        """Check that an epoch in whose middle the checkpoint lies has the same batches now.

        Args:
            layout: samples, batch size, accumulation and processes (`Progress.layout`).

        Raises:
            InputError: it has others.
        """
        if self.state["batch"] and self.state["layout"] != layout:
            raise InputError(
                f"{self.folder} lies in the middle of an epoch of"
                f" {_describe_layout(self.state['layout'])}; it cannot go on with"
                f" {_describe_layout(layout)}"
            )

    def stored_defaults(self) -> dict[str, Any]:
        """Arguments of the network that the settings leave to a default which has changed since:
        the values of the checkpoint.
        """
        stored = stored_arguments(read_description(self.folder)["model"])
        return {key: stored[key] for key in ("share",) if key in stored}

    def load_weights(self, model: nn.Module) -> None:
        """Load the weights.

        Raises:
            InputError: they cannot be read, or do not fit the model.
        """
        try:
            weights = read_weights(self.folder)
        except InputError as error:
            raise InputError(
                f"{error}; delete {self.folder} to go on from the checkpoint before it"
            ) from None
        try:
            model.load_state_dict(weights)
        except RuntimeError as error:
            raise InputError(
                f"{self.folder} does not fit the model of these settings:"
                f" {' '.join(str(error).split())[:300]}"
            ) from None


def _describe_layout(layout: list[int]) -> str:
    samples, batch_size, accumulate, processes = layout
    return (
        f"{samples} samples, batch size {batch_size}, accumulation {accumulate}, {processes}"
        " processes"
    )


def with_found_batches(config: Any) -> Any:
    """The settings with the batch size and accumulation that `training.find_batch_size` has found
    for the run in run_dir.
    """
    stored, _ = stored_settings(Path(config.run_dir))
    if not config.training.find_batch_size or stored is None:
        return config
    found = type(config).from_yaml(read_text(stored)).training
    return replace(
        config,
        training=replace(config.training, batch_size=found.batch_size, accumulate=found.accumulate),
    )


def find_checkpoint(
    run: Path, config: Any, *, resume: bool, overwrite: bool, log: Callable[[str], None]
) -> Resumed | None:
    """The checkpoint to go on from; None for a new run, for which the folder must be free.

    The calling process must hold the lock of the run folder, if the folder exists.

    Raises:
        InputError: nothing to resume, a run in the way, or settings that cannot change in the
            middle of a run.
    """
    if not resume:
        if run.exists() and not run.is_dir():
            raise InputError(f"run_dir {run} is a file")
        if (run / "config.yaml").exists() and not overwrite:
            raise InputError(
                f"{run} holds a run already; go on with --resume, delete it with --overwrite, or"
                " choose another --run_dir"
            )
        return None
    folder, skipped = newest_complete(run)
    for line in skipped:
        log(line)
    unnamed = UNNAMED.fullmatch(folder.name)
    if unnamed:
        take_name(folder, folder.with_name(unnamed[1]))
        folder = folder.with_name(unnamed[1])
        log(f"{folder} was complete but not yet renamed when the run was killed: it is used")
    changes = settings_changed(read_text(folder / CONFIG), config)
    refused = [change for change in changes if change.split(": ")[0] not in CHANGEABLE]
    if refused:
        raise InputError(
            f"{run} cannot go on with another setting ({'; '.join(refused)}); start a new run"
            f" for it, or go on with the settings of the checkpoint: --config {folder / CONFIG}"
        )
    for change in changes:
        log(f"resumed with another setting: {change}")
    return Resumed(folder, *read_training(folder))


def stored_settings(run: Path) -> tuple[Path | None, str | None]:
    """The file with the settings of a run, and a message if it is not run/config.yaml.

    If that file is not YAML or lacks settings of the newest complete checkpoint, it is damaged: the
    settings of the checkpoint, which has checksums, are used. (None, None) if there is neither.
    """
    path = run / "config.yaml"
    try:
        folder, _ = newest_complete(run)
    except InputError:
        return (path, None) if path.is_file() else (None, None)
    stored = _yaml(folder / CONFIG)
    if not path.exists():
        fault = "is missing"
    elif _lacks(_yaml(path), stored):
        fault = "is damaged"
    else:
        return path, None
    return folder / CONFIG, f"{path} {fault}: going on with the settings in {folder / CONFIG}"


def _yaml(path: Path) -> Any:
    """The content of a YAML file; None if it is damaged."""
    try:
        return read_yaml(path)
    except (OSError, InputError):
        return None


def _lacks(content: Any, whole: Any) -> bool:
    """True if sections or settings of `whole` are missing from the content."""
    if not isinstance(content, dict) or not whole.keys() <= content.keys():
        return True
    for key in ("data", "model", "training"):
        section = whole.get(key)
        if not isinstance(section, dict):
            continue
        if not isinstance(content[key], dict) or not section.keys() <= content[key].keys():
            return True
    return False


# Open lock files. A forked process, such as a worker of a loader, inherits them and would keep the
# lock after this process was killed.
_LOCKS: WeakSet = WeakSet()


def _close_inherited_locks() -> None:
    for lock in list(_LOCKS):
        lock.close()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_close_inherited_locks)


def lock_run(run: Path) -> AbstractContextManager:
    """Lock the run folder for this process, until the returned context is left or the process ends.
    Nothing is locked on systems that cannot lock files.

    Raises:
        RunBusy: another process writes to it.
        InputError: it cannot be written.
    """
    try:
        import fcntl
    except ImportError:  # Windows
        return nullcontext()
    try:
        run.mkdir(parents=True, exist_ok=True)
        lock = (run / ".lock").open("w", encoding="utf-8")
    except OSError as error:
        raise InputError(
            f"run_dir {run} cannot be written ({error.strerror}); choose another --run_dir"
        ) from None
    _LOCKS.add(lock)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        lock.close()
        raise RunBusy(
            f"{run} is being written by another process; wait for it, or choose another --run_dir"
        ) from None
    except OSError:  # a file system without locks
        lock.close()
        return nullcontext()
    return lock


def settings_changed(old: str, new: Any) -> list[str]:
    """`key: old -> new` for every setting in which a stored config differs from a new one."""
    before, after = _flatten(asdict(type(new).from_yaml(old))), _flatten(asdict(new))
    changes = []
    for key in dict.fromkeys([*before, *after]):
        if before.get(key) != after.get(key):
            changes.append(f"{key}: {before.get(key)!r} -> {after.get(key)!r}")
    return changes


def _flatten(settings: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings as `section.key` -> value."""
    flat = {}
    for key, value in settings.items():
        if isinstance(value, dict):
            flat |= _flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def resume_fault(folder: Path) -> str | None:
    """Why a run cannot go on from a checkpoint: its files are damaged, or not those of a run. None
    if it can.
    """
    fault = find_fault(folder)
    if fault is not None:
        return fault
    if not (folder / STATE).is_file() or not (folder / TENSORS).is_file():
        return "it holds no training state"
    try:
        read_yaml(folder / CONFIG)
        read_description(folder)
        read_weights(folder)
        read_training(folder)
    except InputError as error:
        return str(error)
    return None


def step_folders(run: Path) -> list[Path]:
    """The checkpoints of a run, newest first."""
    found = [path for path in (run / "checkpoints").glob("step_*") if path.name[5:].isdigit()]
    return sorted(found, key=lambda path: int(path.name[5:]), reverse=True)


def unnamed_folders(run: Path) -> list[Path]:
    """Checkpoints, complete or not, that a kill has left without their names; newest first."""
    found = [path for path in (run / "checkpoints").glob(".step_*") if UNNAMED.fullmatch(path.name)]
    # of one step, the one that was to be replaced comes last
    return sorted(found, key=lambda path: (-_step(path), path.name.endswith(".old.tmp")))


def _step(folder: Path) -> int:
    unnamed = UNNAMED.fullmatch(folder.name)
    return int(unnamed[2] if unnamed else folder.name[5:])


def newest_complete(run: Path) -> tuple[Path, list[str]]:
    """The newest complete checkpoint of a run, and a line for each newer one that was skipped.

    It may be one that was complete, but not yet renamed, when the process was killed.

    Raises:
        InputError: there is none.
    """
    skipped, named = [], step_folders(run)
    # sorting is stable: of one step, the one with its name comes first
    for folder in sorted([*named, *unnamed_folders(run)], key=_step, reverse=True):
        fault = resume_fault(folder)
        if fault is None:
            return folder, skipped
        if folder in named:
            skipped.append(f"skipped {folder}: {fault}")
    reasons = f" ({'; '.join(skipped)})" if skipped else ""
    raise InputError(
        f"{run}: nothing to resume, no complete checkpoint in {run / 'checkpoints'}{reasons}; start"
        " anew without --resume, and with --overwrite where a run was begun"
    )


def prune(run: Path, keep: int, *, newest: int) -> None:
    """Delete older checkpoints and best weights that are not needed.

    Args:
        run: folder of the run.
        keep: number of newest checkpoints that stay, with the best weights that they name.
        newest: step of a checkpoint that is known to be complete; those of later steps are
            incomplete, and neither counted nor deleted.
    """
    folders = [folder for folder in step_folders(run) if _step(folder) <= newest]
    for folder in folders[max(keep, 1) :]:
        shutil.rmtree(folder)
    best = (run / "best").resolve()
    named = {_best_epoch(folder) for folder in folders[: max(keep, 1)]} - {epoch_of(best)}
    for folder in best_folders(run):
        if folder.resolve() != best and epoch_of(folder) not in named:
            shutil.rmtree(folder)


def best_folders(run: Path) -> list[Path]:
    """The folders of best weights of a run, `best_EPOCH` and `best_EPOCH_NUMBER`."""
    return sorted((run / "checkpoints").glob("best_*"), reverse=True)


def epoch_of(folder: Path) -> int | None:
    """The epoch in the name of a folder of best weights."""
    found = re.fullmatch(r"best_(\d+)(_\d+)?", folder.name)
    return int(found[1]) if found else None


def _best_epoch(folder: Path) -> int | None:
    """The epoch of the best weights in a checkpoint's state; None where that cannot be read."""
    try:
        return read_json(folder / STATE)["best_epoch"]
    except (OSError, InputError, KeyError, TypeError):
        return None
