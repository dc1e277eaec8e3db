"""Checkpoints of a run: the moment, to go on from, and the best weights."""

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
    build_model,
    find_fault,
    point_to,
    read_weights,
    save_checkpoint,
)
from kanseg.training.diagnose import non_finite_state
from kanseg.training.processes import anywhere
from kanseg.training.run_folder.resume import (
    best_folders,
    epoch_of,
    newest_complete,
    prune,
    step_folders,
)
from kanseg.training.state import Progress, Training, check_tensors, read_training
from kanseg.utils.errors import InputError
from kanseg.utils.reading import read_json


def check_state(training: Training) -> None:
    """InputError, in all processes, where a step has left something that is not finite: it must
    not become a checkpoint.
    """
    fault = non_finite_state(training)
    if anywhere(fault is not None, training.accelerator):
        raise InputError(
            f"step {training.progress.step}: {fault or 'in another process something'} is not"
            f" finite after it, so nothing is saved; {what_is_left(training.run)}; a lower"
            " training.lr, training.clip or precision 'no' may help"
        )


def what_is_left(run: Path) -> str:
    """What a run that ends now can go on from, in words."""
    try:
        folder, _ = newest_complete(run)
    except InputError:
        return "there is no checkpoint to go on from"
    return f"--resume goes on from {folder}"


def save(training: Training) -> None:
    """A complete checkpoint of the moment; older ones go only afterwards."""
    accelerator, settings = training.accelerator, training.config.training
    training.run_log.flush()
    training.progress.log_bytes = training.run_log.size
    training.progress.layout = [
        training.plan.num_samples,
        settings.batch_size,
        settings.accumulate,
        accelerator.num_processes,
    ]
    generators = [
        random_states() | {"loss_sum": training.progress.loss_sum}
    ]  # what differs between processes
    if accelerator.num_processes > 1:
        generators = gather_object(generators)
    if accelerator.is_main_process:
        folder = training.run / "checkpoints" / f"step_{training.progress.step:08d}"
        tensors = {
            "optimizer": training.optimizer.state_dict(),
            "average": training.average.state_dict() if training.average is not None else {},
            "scaler": accelerator.scaler.state_dict() if accelerator.scaler is not None else {},
            "generators": generators,
        }
        save_checkpoint(
            folder,
            training.network,
            training.task.description,
            training.config,
            state=asdict(training.progress),
            tensors=tensors,
            split=training.task.split,
        )
        point_to(training.run / "last", folder)
        prune(training.run, settings.keep, newest=training.progress.step)
    accelerator.wait_for_everyone()


def random_states() -> dict[str, Any]:
    """The states of torch's generators; no other generator is used in training."""
    return {
        "cpu": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def restore(training: Training, state: dict[str, Any], tensors: dict[str, Any]) -> None:
    """Put optimizer, average, scaler, generators and progress back to where a checkpoint left them;
    lr and weight_decay are those of the settings of now.
    """
    accelerator = training.accelerator
    check_tensors(tensors, training.optimizer)
    decays = [group.get("weight_decay") for group in training.optimizer.param_groups]
    training.optimizer.load_state_dict(tensors["optimizer"])
    for group, decay in zip(training.optimizer.param_groups, decays, strict=True):
        if "weight_decay" in group:
            group["weight_decay"] = decay
    if training.average is not None:
        training.average.load_state_dict(tensors["average"])
    if accelerator.scaler is not None and tensors["scaler"]:
        accelerator.scaler.load_state_dict(tensors["scaler"])
    training.progress = Progress.of(state)
    generators = tensors["generators"]
    if accelerator.process_index < len(generators):
        mine = generators[accelerator.process_index]
        torch.set_rng_state(mine["cpu"])
        if len(mine["cuda"]) == torch.cuda.device_count():
            torch.cuda.set_rng_state_all(mine["cuda"])
        training.progress.loss_sum = mine.get("loss_sum", training.progress.loss_sum)


def save_best(training: Training) -> None:
    """Store the weights of now, or their average, as the best ones (main process)."""
    if not training.accelerator.is_main_process:
        return
    folder = _save_weights(training, training.result, training.progress.epoch)
    # older ones go with the next checkpoint (`prune`): until then the run would go on from one that
    # names them
    point_to(training.run / "best", folder)


def settle_best(training: Training) -> None:
    """Make `best` of a resumed run what its progress says it is: verified, or else built anew from
    the checkpoint of that epoch. Where neither is possible it is given up, which is told.
    """
    progress, accelerator = training.progress, training.accelerator
    if progress.best_epoch is None:
        return
    found = [accelerator.is_main_process and _find_best(training)]
    if found[0]:
        # a kill may have come between a checkpoint and this
        prune(training.run, training.config.training.keep, newest=progress.step)
    if accelerator.num_processes > 1:
        broadcast_object_list(found)
    if found[0]:
        return
    lost = f"best, of epoch {progress.best_epoch}, is lost: no complete copy is kept"
    progress.best = progress.best_epoch = None
    if not training.finished:
        training.log(f"{lost}; the best of the validations from now on takes its place")
        return
    training.log(f"{lost}; the last weights, of epoch {progress.epoch}, take its place")
    progress.best_epoch = progress.epoch
    save_best(training)


def _find_best(training: Training) -> bool:
    """Whether the best weights that the progress names are there, with `best` pointing at them."""
    run, epoch, link = training.run, training.progress.best_epoch, training.run / "best"
    fault = find_fault(link)
    folders = [folder for folder in best_folders(run) if epoch_of(folder) == epoch]
    folders.sort(key=lambda folder: folder.resolve() != link.resolve())
    folder = next((folder for folder in folders if find_fault(folder) is None), None)
    if folder is None and fault is None and not link.is_symlink():
        return True  # a run that was copied without its links: best is a folder of its own
    if folder is None:
        folder = _rebuilt(training)
    if folder is None:
        return False
    if fault is not None:
        training.log(f"{link} ({fault}) is replaced by {folder}")
    if fault is not None or not _same(link, folder):
        point_to(link, folder)
    return True


def _same(one: Path, other: Path) -> bool:
    return (one / MANIFEST).read_bytes() == (other / MANIFEST).read_bytes()


def _rebuilt(training: Training) -> Path | None:
    """The best weights once more, from the checkpoint at the end of their epoch; None where that
    is not kept.
    """
    epoch = training.progress.best_epoch
    for folder in step_folders(training.run):
        if find_fault(folder) is not None or not (folder / STATE).is_file():
            continue
        state = read_json(folder / STATE)
        if state["epoch"] != epoch or state["batch"]:
            continue
        with torch.random.fork_rng(devices=[]):
            model = build_model(training.task.description["model"])
        model.load_state_dict(_result_in(folder, averaged=training.average is not None))
        return _save_weights(training, model, epoch)
    return None


def _save_weights(training: Training, model: nn.Module, epoch: int) -> Path:
    """A checkpoint of the best weights, those of an epoch."""
    folder = _free(training.run / "checkpoints" / f"best_{epoch:05d}")
    return save_checkpoint(
        folder, model, training.task.description, training.config, split=training.task.split
    )


def _result_in(folder: Path, *, averaged: bool) -> dict[str, Tensor]:
    """The weights in a checkpoint that would be stored as best: the average where there is one."""
    if not averaged:
        return read_weights(folder)
    _, tensors = read_training(folder)
    parts = tensors["average"].items()
    return {
        name.removeprefix("module."): value for name, value in parts if name.startswith("module.")
    }


def _free(folder: Path) -> Path:
    """The folder, or with a number behind it: the best weights may be those of an epoch that a
    resumed run trains again.
    """
    number, choice = 1, folder
    while choice.exists():
        number, choice = number + 1, folder.with_name(f"{folder.name}_{number}")
    return choice
