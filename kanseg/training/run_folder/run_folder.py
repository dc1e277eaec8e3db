"""The folder of a run: create it, clean it up, open its log."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from accelerate import Accelerator

from kanseg.data.splits.record import SPLIT
from kanseg.training.run_folder.clock import TIMES, RunClock
from kanseg.training.run_folder.logging import RunLog, trim_log
from kanseg.training.run_folder.resume import Resumed
from kanseg.training.run_folder.trackers import Tracker, open_trackers
from kanseg.training.task import Task
from kanseg.utils.io import atomic_write_text

IMAGES = (
    *("curves.png", "overview.png", "worst.png", "best.png", "confusion.png"),
    "report.html",
)
# Files and folders that a run writes, except config.yaml and scores_SPLIT.csv.
WRITTEN = (
    "checkpoints",
    "samples",
    "tensorboard",
    "wandb",
    "best",
    "last",
    "log.jsonl",
    "metrics.json",
    TIMES,
    SPLIT,
    *IMAGES,
)


@dataclass
class RunFolder:
    """The folder that a run writes to.

    Args:
        path: the folder.
        task: its settings, description and split record are stored in every checkpoint.
        log_file: log.jsonl and trackers.
        log: prints a line, in the main process only.
        clock: measures the time of the run.
    """

    path: Path
    task: Task
    log_file: RunLog
    log: Callable[[str], None]
    clock: RunClock


def open_run_folder(
    path: Path,
    task: Task,
    accelerator: Accelerator,
    *,
    resumed: Resumed | None,
    overwrite: bool,
    log: Callable[[str], None],
    clock: RunClock,
) -> RunFolder:
    """Create the folder of a run, delete files of an earlier run (`overwrite`) and temporary files
    of a killed run, open its log, and add the time of the earlier sessions to the clock.
    """
    trackers: list[Tracker] = []
    if accelerator.is_main_process:
        if resumed is None and overwrite:
            _delete_earlier_run(path)
        _delete_temporary_files(path)
        path.mkdir(parents=True, exist_ok=True)
        step = 0
        if resumed is not None:
            step = resumed.state["step"]
        trackers = open_trackers(path, task.config, log=log, step=step)
        atomic_write_text(path / "config.yaml", task.config.to_yaml())
        if resumed is not None:
            clock.resume(path)
            damage = trim_log(path, resumed.state)
            if damage is not None:
                log(damage)
    accelerator.wait_for_everyone()
    log_file = RunLog(
        path,
        active=accelerator.is_main_process,
        trackers=trackers,
        resumed=resumed is not None,
    )
    if accelerator.is_main_process and task.split_record is not None:
        atomic_write_text(path / SPLIT, task.split_record.to_json())
    return RunFolder(path, task, log_file, log, clock)


def _delete_earlier_run(run: Path) -> None:
    for path in [*(run / name for name in WRITTEN), *run.glob("scores_*.csv")]:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def _delete_temporary_files(run: Path) -> None:
    """Delete files and folders of atomic writes that were interrupted."""
    for folder in (run, run / "checkpoints", run / "samples"):
        for path in folder.glob(".*.tmp*"):
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)
