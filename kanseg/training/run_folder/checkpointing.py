"""Save the checkpoints of a run, and restore one."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import broadcast_object_list, gather_object
from torch import Tensor, nn

from kanseg.inference.checkpoint import (
    MANIFEST,
    STATE,
    find_fault,
    read_description,
    read_weights,
    save_checkpoint,
)
from kanseg.inference.description import build_model
from kanseg.training.diagnose import non_finite_state
from kanseg.training.processes import any_process
from kanseg.training.run_folder.resume import (
    Resumed,
    best_folders,
    epoch_of,
    newest_complete,
    prune,
    step_folders,
)
from kanseg.training.run_folder.run_folder import RunFolder
from kanseg.training.run_folder.stored_state import check_tensors, read_training
from kanseg.training.state import Progress, TrainState
from kanseg.utils.errors import InputError
from kanseg.utils.io import replace_link
from kanseg.utils.reading import read_json
from kanseg.utils.text import one_line

# Entries of a parameter group that a resumed run takes from its settings, not from the checkpoint.
FROM_SETTINGS = ("lr", "weight_decay")


def check_state(run: RunFolder, state: TrainState) -> None:
    """Check that all values are finite after the last step, before they are saved.

    Raises:
        InputError: in all processes, if the values of any process are not finite.
    """
    fault = non_finite_state(state)
    if any_process(fault is not None, state.accelerator):
        raise InputError(
            f"step {state.progress.step}: {fault or 'in another process something'} is not"
            f" finite after it, so nothing is saved; {resume_hint(run.path)}; a lower"
            " training.lr, training.clip or precision 'no' may help"
        )


def resume_hint(path: Path) -> str:
    """Return which checkpoint of the run --resume continues from, for messages."""
    try:
        folder, _ = newest_complete(path)
    except InputError:
        return "there is no checkpoint to continue from"
    return f"--resume continues from {folder}"


def save(run: RunFolder, state: TrainState) -> None:
    """Save a checkpoint of this step, then delete older checkpoints."""
    accelerator, progress, settings = state.accelerator, state.progress, run.task.config.training
    run.log_file.flush()
    progress.log_bytes = run.log_file.size
    cuda: list[Tensor] = []
    if torch.cuda.is_available():
        cuda = torch.cuda.get_rng_state_all()
    # What differs between processes. Training uses no other generators than torch's.
    generators = [{"cpu": torch.get_rng_state(), "cuda": cuda, "loss_sum": progress.loss_sum}]
    if accelerator.num_processes > 1:
        generators = gather_object(generators)
    if accelerator.is_main_process:
        tensors: dict[str, Any] = {
            "optimizer": state.optimizer.state_dict(),
            "average": {},
            "scaler": {},
            "generators": generators,
        }
        if state.ema is not None:
            tensors["average"] = state.ema.state_dict()
        if accelerator.scaler is not None:
            tensors["scaler"] = accelerator.scaler.state_dict()
        folder = run.path / "checkpoints" / f"step_{progress.step:08d}"
        save_checkpoint(
            folder,
            state.network,
            run.task.description,
            run.task.config,
            state=asdict(progress),
            tensors=tensors,
            split=run.task.split_record,
        )
        replace_link(run.path / "last", folder)
        run.clock.save(run.path)
        prune(run.path, settings.keep, newest=progress.step)
    accelerator.wait_for_everyone()


def restore(state: TrainState, resumed: Resumed) -> None:
    """Load optimizer, average, loss scaler, random numbers and progress from a checkpoint. Learning
    rate and weight decay stay those of the settings.

    Raises:
        InputError: they do not fit.
    """
    try:
        _restore(state, resumed.state, resumed.tensors)
    # torch raises many kinds of exceptions for a checkpoint that does not fit
    except Exception as error:
        raise InputError(
            f"{resumed.folder}: its training state does not fit: {one_line(error)}"
        ) from None


def _restore(state: TrainState, stored: dict[str, Any], tensors: dict[str, Any]) -> None:
    accelerator = state.accelerator
    check_tensors(tensors, state.optimizer)
    before = [dict(group) for group in state.optimizer.param_groups]
    state.optimizer.load_state_dict(tensors["optimizer"])
    for group, own in zip(state.optimizer.param_groups, before, strict=True):
        for key in FROM_SETTINGS:
            if key in group:
                group[key] = own[key]
    if state.ema is not None:
        state.ema.load_state_dict(tensors["average"])
    if accelerator.scaler is not None and tensors["scaler"]:
        accelerator.scaler.load_state_dict(tensors["scaler"])
    state.progress = Progress.from_json(stored)
    generators = tensors["generators"]
    if accelerator.process_index < len(generators):
        mine = generators[accelerator.process_index]
        torch.set_rng_state(mine["cpu"])
        if len(mine["cuda"]) == torch.cuda.device_count():
            torch.cuda.set_rng_state_all(mine["cuda"])
        state.progress.loss_sum = mine.get("loss_sum", state.progress.loss_sum)


def save_best(run: RunFolder, state: TrainState) -> None:
    """Save the current weights, or their average, as the best weights (main process)."""
    if not state.accelerator.is_main_process:
        return
    folder = _save_weights(run, state.eval_network, run.task.description, state.progress.epoch)
    # `prune` deletes older best weights after the next checkpoint: until then a resumed run would
    # continue from a checkpoint that refers to them
    replace_link(run.path / "best", folder)


def verify_last(run: RunFolder, state: TrainState, resumed: Resumed) -> None:
    """Let `last` of a resumed run point to its checkpoint: the run may have been killed after
    saving the checkpoint and before updating `last`.
    """
    link = run.path / "last"
    if not state.accelerator.is_main_process:
        return
    if find_fault(link) is not None or not _same_files(link, resumed.folder):
        replace_link(link, resumed.folder)


def verify_best(run: RunFolder, state: TrainState) -> None:
    """Check that `best` of a resumed run holds the weights of its best epoch; otherwise restore
    them from the checkpoint of that epoch, or log that they are lost.
    """
    progress, accelerator = state.progress, state.accelerator
    if progress.best_epoch is None:
        return
    found = [accelerator.is_main_process and _find_best(run, state)]
    if found[0]:
        # the run may have been killed after saving a checkpoint and before this
        prune(run.path, run.task.config.training.keep, newest=progress.step)
    if accelerator.num_processes > 1:
        broadcast_object_list(found)
    if found[0]:
        return
    lost = f"best, of epoch {progress.best_epoch}, is lost: there is no complete copy"
    progress.best = progress.best_epoch = None
    if not progress.finished(run.task.config.training):
        run.log(f"{lost}; it will be replaced by the best of the next validations")
        return
    run.log(f"{lost}; it is replaced by the last weights, of epoch {progress.epoch}")
    progress.best_epoch = progress.epoch
    save_best(run, state)


def _find_best(run: RunFolder, state: TrainState) -> bool:
    """True if there are weights of the best epoch; `best` then points to them."""
    epoch, link = state.progress.best_epoch, run.path / "best"
    fault = find_fault(link)
    folders = [folder for folder in best_folders(run.path) if epoch_of(folder) == epoch]
    folders.sort(key=lambda folder: folder.resolve() != link.resolve())
    folder = next((folder for folder in folders if find_fault(folder) is None), None)
    if folder is None and fault is None and not link.is_symlink():
        return True  # a run that was copied without symbolic links: best is a folder
    if folder is None:
        folder = _rebuild_best(run, state)
    if folder is None:
        return False
    if fault is not None:
        run.log(f"{link} ({fault}) is replaced by {folder}")
    if fault is not None or not _same_files(link, folder):
        replace_link(link, folder)
    return True


def _same_files(one: Path, other: Path) -> bool:
    return (one / MANIFEST).read_bytes() == (other / MANIFEST).read_bytes()


def _rebuild_best(run: RunFolder, state: TrainState) -> Path | None:
    """Save the best weights again from the checkpoint at the end of their epoch; None if there is
    no such checkpoint.
    """
    epoch = state.progress.best_epoch
    for folder in step_folders(run.path):
        if find_fault(folder) is not None or not (folder / STATE).is_file():
            continue
        stored = read_json(folder / STATE)
        if stored["epoch"] != epoch or stored["batch"]:
            continue
        # not that of the task, whose functions may have been refined since
        description = read_description(folder)
        with torch.random.fork_rng(devices=[]):
            model = build_model(description["model"])
        model.load_state_dict(_eval_weights(folder, averaged=state.ema is not None))
        return _save_weights(run, model, description, epoch)
    return None


def _save_weights(
    run: RunFolder, model: nn.Module, description: dict[str, Any], epoch: int
) -> Path:
    """Save the best weights, which are those of this epoch."""
    task = run.task
    folder = run.path / "checkpoints" / f"best_{epoch:05d}"
    number = 1
    while folder.exists():  # a resumed run can train the epoch of the best weights again
        number += 1
        folder = folder.with_name(f"best_{epoch:05d}_{number}")
    return save_checkpoint(folder, model, description, task.config, split=task.split_record)


def _eval_weights(folder: Path, *, averaged: bool) -> dict[str, Tensor]:
    """Read the weights in a checkpoint that are evaluated: the average if there is one."""
    if not averaged:
        return read_weights(folder)
    _, tensors = read_training(folder)
    weights = {}
    for name, value in tensors["average"].items():
        if name.startswith("module."):
            weights[name.removeprefix("module.")] = value
    return weights
