"""Find the checkpoint to resume from, lock the run folder, delete old checkpoints."""

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

from kanseg.data.transforms import AUTO
from kanseg.inference.checkpoint import (
    CONFIG,
    STATE,
    TENSORS,
    find_fault,
    read_description,
    read_weights,
)
from kanseg.models.factory import CHANGES
from kanseg.training.run_folder.stored_state import read_training
from kanseg.utils.errors import InputError
from kanseg.utils.hub import stored_arguments
from kanseg.utils.io import replace_folder
from kanseg.utils.reading import read_json, read_text, read_yaml
from kanseg.utils.text import one_line

# Settings that a resumed run may change. Any other change would make it another experiment than the
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
    "training.report",
    "training.panels",
    "training.surface",
    "training.tolerance",
    "training.tensorboard",
    "training.wandb",
    "training.project",
    "training.log_images",
    "training.log_health",
    "training.threads",
)


# A complete checkpoint whose renaming was interrupted: `.step_N.PID.tmp`, or the `.old.tmp` that it
# replaces.
UNNAMED = re.compile(r"\.(step_(\d+))\.\d+(\.old)?\.tmp")


class RunBusy(InputError):
    """Another process writes to the run folder."""


@dataclass(frozen=True)
class Resumed:
    """The checkpoint that a run is resumed from."""

    folder: Path
    state: dict[str, Any]
    tensors: dict[str, Any]

    def check(self, layout: list[int]) -> None:
        """Check that a checkpoint in the middle of an epoch fits the batches of the run.

        Args:
            layout: samples, batch size, accumulation and processes (`Progress.layout`).

        Raises:
            InputError: the batches are others.
        """
        if self.state["batch"] and self.state["layout"] != layout:
            raise InputError(
                "{folder} is in the middle of an epoch of {layout}; it cannot continue with {now}",
                folder=self.folder,
                layout=_describe_layout(self.state["layout"]),
                now=_describe_layout(layout),
            )

    def stored_arguments(self) -> dict[str, Any]:
        """Return the arguments of the network in the checkpoint that the settings do not determine:
        those whose defaults have changed since, and what was done to it: `training.refine`, `kanseg
        prune` and `kanseg snap`.
        """
        stored = stored_arguments(read_description(self.folder)["model"])
        return {key: stored[key] for key in ("share", *CHANGES) if key in stored}

    def load_weights(self, model: nn.Module) -> None:
        """Load the weights.

        Raises:
            InputError: they cannot be read, or do not fit the model.
        """
        try:
            weights = read_weights(self.folder)
        except InputError as error:
            raise InputError(
                "{reason}; delete {folder} to continue from the checkpoint before it",
                reason=error,
                folder=self.folder,
            ) from None
        try:
            model.load_state_dict(weights)
        except RuntimeError as error:
            raise InputError(
                "{folder} does not fit the model of these settings: {reason}",
                folder=self.folder,
                reason=one_line(error),
            ) from None


def _describe_layout(layout: list[int]) -> str:
    samples, batch_size, accumulate, processes = layout
    return (
        f"{samples} samples, batch size {batch_size}, accumulation {accumulate}, {processes}"
        " processes"
    )


def with_stored_choices(config: Any) -> Any:
    """Return the settings with what the run in run_dir has chosen itself: the batch size and
    accumulation of `training.find_batch_size`, and the transforms of `data.augment` auto.
    """
    training, data = config.training, config.data
    path, _ = stored_settings(Path(config.run_dir))
    if path is None or not (training.find_batch_size or data.augment == AUTO):
        return config
    stored = type(config).from_yaml(read_text(path))
    if training.find_batch_size:
        found = stored.training
        training = replace(training, batch_size=found.batch_size, accumulate=found.accumulate)
    if data.augment == AUTO:
        data = replace(data, augment=stored.data.augment)
    return replace(config, data=data, training=training)


def find_checkpoint(
    run: Path, config: Any, *, resume: bool, overwrite: bool, log: Callable[[str], None]
) -> Resumed | None:
    """Return the checkpoint to resume from; None for a new run, which needs a free folder.

    The calling process must hold the lock of the run folder, if the folder exists.

    Raises:
        InputError: nothing to resume, another run in the folder, or settings that a resumed run
            cannot change.
    """
    if not resume:
        if run.exists() and not run.is_dir():
            raise InputError("run_dir {run} is a file", run=run)
        if (run / "config.yaml").exists() and not overwrite:
            raise InputError(
                "{run} holds a run already; continue it with --resume, delete it with"
                " --overwrite, or choose another --run_dir",
                run=run,
            )
        return None
    folder, skipped = newest_complete(run)
    for line in skipped:
        log(line)
    unnamed = UNNAMED.fullmatch(folder.name)
    if unnamed:
        replace_folder(folder, folder.with_name(unnamed[1]))
        folder = folder.with_name(unnamed[1])
        log(f"{folder} is used: it was complete but not yet renamed when the run was killed")
    changes = settings_changed(read_text(folder / CONFIG), config)
    refused = [change for change in changes if change.split(": ")[0] not in CHANGEABLE]
    if refused:
        raise InputError(
            "{run} cannot continue with another setting ({refused}); start a new run, or use"
            " the settings of the checkpoint: --config {folder}",
            run=run,
            refused="; ".join(refused),
            folder=folder / CONFIG,
        )
    for change in changes:
        log(f"resumed with another setting: {change}")
    return Resumed(folder, *read_training(folder))


def stored_settings(run: Path) -> tuple[Path | None, str | None]:
    """Return the file with the settings of a run, and a message if it is not run/config.yaml.

    If that file is not YAML or lacks settings of the newest complete checkpoint, it is damaged, and
    the settings of the checkpoint, which has checksums, are used. (None, None) if there is neither.
    """
    path = run / "config.yaml"
    try:
        folder, _ = newest_complete(run)
    except InputError:
        if path.is_file():
            return path, None
        return None, None
    if not path.exists():
        fault = "is missing"
    elif _is_damaged(path, read_yaml(folder / CONFIG)):
        fault = "is damaged"
    else:
        return path, None
    return folder / CONFIG, f"{path} {fault}: using the settings in {folder / CONFIG}"


def _is_damaged(path: Path, complete: dict[str, Any]) -> bool:
    """True if a config file is not YAML or lacks sections or settings of a complete config."""
    try:
        content = read_yaml(path)
    except (OSError, InputError):
        return True
    if not isinstance(content, dict) or not complete.keys() <= content.keys():
        return True
    for key in ("data", "model", "training"):
        section = complete.get(key)
        if not isinstance(section, dict):
            continue
        if not isinstance(content[key], dict) or not section.keys() <= content[key].keys():
            return True
    return False


# Open lock files. A forked process, such as a DataLoader worker, inherits them and would keep the
# lock after this process is killed.
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
            "run_dir {run} cannot be written ({reason}); choose another --run_dir",
            run=run,
            reason=error.strerror,
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
    """Return `key: old -> new` for every setting that differs between a stored and a new config."""
    before, after = _flatten(asdict(type(new).from_yaml(old))), _flatten(asdict(new))
    changes = []
    for key in dict.fromkeys([*before, *after]):
        if before.get(key) != after.get(key):
            changes.append(f"{key}: {before.get(key)!r} -> {after.get(key)!r}")
    return changes


def _flatten(settings: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested settings as `section.key` -> value."""
    flat = {}
    for key, value in settings.items():
        if isinstance(value, dict):
            flat |= _flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def resume_fault(folder: Path) -> str | None:
    """Return why a run cannot resume from a checkpoint; None if it can."""
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
    """Return the checkpoints of a run, newest first."""
    found = [path for path in (run / "checkpoints").glob("step_*") if path.name[5:].isdigit()]
    return sorted(found, key=lambda path: int(path.name[5:]), reverse=True)


def unnamed_folders(run: Path) -> list[Path]:
    """Return the checkpoints, complete or not, that were not yet renamed when the run was killed;
    newest first.
    """
    found = [path for path in (run / "checkpoints").glob(".step_*") if UNNAMED.fullmatch(path.name)]
    # of the same step, the checkpoint that was being replaced comes last
    return sorted(found, key=lambda path: (-_step(path), path.name.endswith(".old.tmp")))


def _step(folder: Path) -> int:
    unnamed = UNNAMED.fullmatch(folder.name)
    if unnamed:
        return int(unnamed[2])
    return int(folder.name.removeprefix("step_"))


def has_checkpoints(run: Path) -> bool:
    """True if a run has saved a checkpoint, complete or not."""
    return bool(step_folders(run) or unnamed_folders(run))


def has_results(run: Path) -> bool:
    """True if a run has saved its best weights or the scores at its end."""
    return (run / "best").exists() or (run / "metrics.json").exists()


def newest_complete(run: Path) -> tuple[Path, list[str]]:
    """Return the newest complete checkpoint of a run, and a line for each newer one that is
    skipped.

    It can be a checkpoint that was complete, but not yet renamed, when the run was killed.

    Raises:
        InputError: there is no complete checkpoint.
    """
    skipped, named = [], step_folders(run)
    # sorting is stable: of the same step, the renamed checkpoint comes first
    for folder in sorted([*named, *unnamed_folders(run)], key=_step, reverse=True):
        fault = resume_fault(folder)
        if fault is None:
            return folder, skipped
        if folder in named:
            skipped.append(f"skipped {folder}: {fault}")
    reasons = ""
    if skipped:
        reasons = f" ({'; '.join(skipped)})"
    raise InputError(
        "nothing to resume, no complete checkpoint in {folder}{reasons}; start again without"
        " --resume, and with --overwrite if the folder holds a run",
        folder=run / "checkpoints",
        reasons=reasons,
        where=run,
    )


def prune(run: Path, keep: int, *, newest: int) -> None:
    """Delete older checkpoints and best weights that are not needed.

    Args:
        run: folder of the run.
        keep: number of newest checkpoints to keep, with the best weights that they refer to.
        newest: step of a checkpoint that is complete; checkpoints of later steps are incomplete,
            and neither counted nor deleted.
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
    """Return the folders of best weights of a run, `best_EPOCH` and `best_EPOCH_NUMBER`."""
    return sorted((run / "checkpoints").glob("best_*"), reverse=True)


def epoch_of(folder: Path) -> int | None:
    """Return the epoch in the name of a folder of best weights; None for other names."""
    found = re.fullmatch(r"best_(\d+)(_\d+)?", folder.name)
    if found is None:
        return None
    return int(found[1])


def _best_epoch(folder: Path) -> int | None:
    """Return the epoch of the best weights in the state of a checkpoint; None if unreadable."""
    try:
        return read_json(folder / STATE)["best_epoch"]
    except (OSError, InputError, KeyError, TypeError):
        return None
