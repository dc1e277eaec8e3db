"""Checkpoints of a run: the moment, to go on from, and the best weights."""

from __future__ import annotations

import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import gather_object

from kanseg.checkpoint import point_to, save_checkpoint
from kanseg.training.resume import prune
from kanseg.training.state import Progress, Training, check_tensors


def save(training: Training) -> None:
    """A complete checkpoint of the moment; older ones go only afterwards."""
    accelerator, settings = training.accelerator, training.config.training
    training.progress.log_bytes = training.log.size
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
        prune(training.run, settings.keep)
    accelerator.wait_for_everyone()


def random_states() -> dict[str, Any]:
    """The states of torch's generators; no other generator is used in training."""
    return {
        "cpu": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def restore(training: Training, state: dict[str, Any], tensors: dict[str, Any]) -> None:
    """Put optimiser, average, scaler, generators and progress back to where a checkpoint left them;
    lr and weight_decay are those of the settings of now.
    """
    accelerator = training.accelerator
    check_tensors(tensors, training.optimizer)
    training.optimizer.load_state_dict(tensors["optimizer"])
    for group in training.optimizer.param_groups:
        if "weight_decay" in group:
            group["weight_decay"] = training.config.training.weight_decay
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
    folder = _free(training.run / "checkpoints" / f"best_{training.progress.epoch:05d}")
    task = training.task
    save_checkpoint(folder, training.result, task.description, training.config, split=task.split)
    link = training.run / "best"
    older = link.resolve() if link.is_symlink() else None
    point_to(link, folder)
    if older is not None and older != folder.resolve():
        shutil.rmtree(older, ignore_errors=True)


def _free(folder: Path) -> Path:
    """The folder, or with a number behind it: the best weights may be those of an epoch that a
    resumed run trains again.
    """
    number, choice = 1, folder
    while choice.exists():
        number, choice = number + 1, folder.with_name(f"{folder.name}_{number}")
    return choice
