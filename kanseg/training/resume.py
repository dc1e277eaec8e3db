"""Which checkpoint a run goes on from, and which are kept."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import IO, Any

from torch import nn

from kanseg.checkpoint import (
    CONFIG,
    STATE,
    TENSORS,
    find_fault,
    read_description,
    read_weights,
)
from kanseg.errors import InputError
from kanseg.reading import read_text, read_yaml
from kanseg.training.state import read_training

# What may differ when a run goes on. Anything else would make it another experiment than the one
# that its folder tells of.
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


class RunBusy(InputError):
    """Another process writes to the run folder."""


@dataclass(frozen=True)
class Resumed:
    """A checkpoint that a run goes on from."""

    folder: Path
    state: dict[str, Any]
    tensors: dict[str, Any]

    def check(self, layout: list[int]) -> None:
        """InputError when the checkpoint lies in the middle of an epoch that was cut into other
        batches.
        """
        if self.state["batch"] and self.state["layout"] != layout:
            was, now = (
                f"{n} samples, batch size {b}, accumulation {a}, {w} processes"
                for n, b, a, w in (self.state["layout"], layout)
            )
            raise InputError(
                f"{self.folder} lies in the middle of an epoch of {was}; it cannot go on with {now}"
            )

    def load_weights(self, model: nn.Module) -> None:
        """Load the weights; InputError when the model is another one."""
        try:
            model.load_state_dict(read_weights(self.folder))
        except RuntimeError as error:
            raise InputError(
                f"{self.folder} does not fit the model of these settings:"
                f" {' '.join(str(error).split())[:300]}"
            ) from None


def with_found_batches(config: Any) -> Any:
    """The settings with the batches that `training.find_batch_size` has found for the run that lies
    in run_dir, where it is asked for.
    """
    stored = Path(config.run_dir) / "config.yaml"
    if not config.training.find_batch_size or not stored.is_file():
        return config
    found = type(config).from_yaml(read_text(stored)).training
    return replace(
        config,
        training=replace(config.training, batch_size=found.batch_size, accumulate=found.accumulate),
    )


def find_checkpoint(
    run: Path, config: Any, *, resume: bool, overwrite: bool, tell: Callable[[str], None]
) -> Resumed | None:
    """The checkpoint to go on from; None for a new run, for which the folder must be free.

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
        tell(line)
    changes = settings_changed(read_text(folder / CONFIG), config)
    refused = [change for change in changes if change.split(": ")[0] not in CHANGEABLE]
    if refused:
        raise InputError(
            f"{run} cannot go on with another setting ({'; '.join(refused)}); start a new run"
            " for it"
        )
    for change in changes:
        tell(f"resumed with another setting: {change}")
    return Resumed(folder, *read_training(folder))


def lock_run(run: Path) -> IO[str] | None:
    """Take the run folder for this process until the returned file is closed, or the process ends;
    None where files cannot be locked.

    Raises:
        RunBusy: another process writes to it.
    """
    try:
        import fcntl
    except ImportError:  # Windows
        return None
    run.mkdir(parents=True, exist_ok=True)
    lock = (run / ".lock").open("w", encoding="utf-8")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        lock.close()
        raise RunBusy(
            f"{run} is being written by another process; wait for it, or choose another --run_dir"
        ) from None
    except OSError:  # a file system without locks
        lock.close()
        return None
    return lock


def settings_changed(old: str, new: Any) -> list[str]:
    """`key: old -> new` for every setting in which a stored config differs from a new one."""
    return [
        f"{key}: {a!r} -> {b!r}"
        for key, a, b in _differences(asdict(type(new).from_yaml(old)), asdict(new))
    ]


def _differences(old: Any, new: Any, prefix: str = "") -> list[tuple[str, Any, Any]]:
    if isinstance(old, dict) and isinstance(new, dict):
        keys = dict.fromkeys([*old, *new])
        return [
            d
            for key in keys
            for d in _differences(
                old.get(key), new.get(key), f"{prefix}.{key}" if prefix else str(key)
            )
        ]
    return [] if old == new else [(prefix, old, new)]


def resume_fault(folder: Path) -> str | None:
    """Why a run cannot go on from a checkpoint, or None: its files are damaged, or whole and yet
    none that a run has written.
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


def newest_complete(run: Path) -> tuple[Path, list[str]]:
    """The newest complete checkpoint of a run, and a line for each newer one that was skipped.

    Raises:
        InputError: there is none.
    """
    skipped = []
    for folder in step_folders(run):
        fault = resume_fault(folder)
        if fault is None:
            return folder, skipped
        skipped.append(f"skipped {folder}: {fault}")
    told = f" ({'; '.join(skipped)})" if skipped else ""
    cure = "start anew without --resume, and with --overwrite where a run was begun"
    raise InputError(
        f"{run}: nothing to resume, no complete checkpoint in {run / 'checkpoints'}{told}; {cure}"
    )


def prune(run: Path, keep: int) -> None:
    """Delete all but the newest `keep` checkpoints; to be called after a new one is complete."""
    for folder in step_folders(run)[max(keep, 1) :]:
        shutil.rmtree(folder)
