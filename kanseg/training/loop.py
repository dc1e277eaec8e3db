"""The training loop: steps, validations, checkpoints."""

from __future__ import annotations

import shutil
import signal
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path
from typing import IO, Any

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import nn
from torch.utils.data import DataLoader
from tqdm import tqdm

from kanseg.checkpoint import point_to, save_checkpoint
from kanseg.data.transforms import sample_seed
from kanseg.errors import InputError
from kanseg.inference.evaluate import told_by_workers
from kanseg.layers import Penalty
from kanseg.training.batches import BatchPlan
from kanseg.training.diagnose import report_non_finite
from kanseg.training.log import RunLog
from kanseg.training.resume import prune
from kanseg.training.task import Task


@dataclass
class Progress:
    """Where a run stands; stored as JSON in every checkpoint."""

    epoch: int = 0
    batch: int = 0  # batches of this epoch that are done
    step: int = 0  # optimiser steps in all
    loss_sum: float = 0.0  # over the steps of this epoch
    loss_count: int = 0
    best: float | None = None
    best_epoch: int | None = None
    log_bytes: int = 0
    layout: list[int] = field(default_factory=list)  # samples, batch size, accumulation, processes: what `batch` counts in


@dataclass
class Training:
    """Everything that the loop works with; built by `kanseg.training.run`."""

    task: Task
    config: Any
    run: Path
    accelerator: Accelerator
    model: nn.Module
    optimizer: Any
    schedule: torch.optim.lr_scheduler.LRScheduler
    loss: Callable[[Any, torch.Tensor], torch.Tensor]
    penalty: Penalty
    plan: BatchPlan
    loader: DataLoader
    log: RunLog
    tell: Callable[[str], None]
    progress: Progress = field(default_factory=Progress)
    lock: IO[str] | None = None  # held while the run folder is written (main process)
    stop_requested: bool = False
    watch: Callable[[dict[str, Any]], None] | None = None  # gets the log's entry of every epoch but the last, when its checkpoint is complete
    closures: bool = False  # whether the optimiser computes the loss several times a step (LBFGS)


def fit(training: Training) -> None:
    """Train to the last epoch. On SIGTERM: finish the step, save, and leave with exit status 143."""
    settings, progress = training.config.training, training.progress
    previous = signal.signal(signal.SIGTERM, lambda *_: setattr(training, "stop_requested", True))
    try:
        while progress.epoch < settings.epochs:
            started = time.perf_counter()
            train_epoch(training)
            entry = finish_epoch(training)
            _tell(training, entry, time.perf_counter() - started)
            save(training)
            if _asked_to_stop(training):
                raise SystemExit(143)
            if training.watch is not None and progress.epoch < settings.epochs:
                training.watch(entry)
    finally:
        signal.signal(signal.SIGTERM, previous)


def train_epoch(training: Training) -> None:
    """The rest of the current epoch, from `progress.batch` on."""
    settings, progress = training.config.training, training.progress
    training.model.train()
    training.plan.go_to(progress.epoch, progress.batch)
    steps = -(-len(training.plan) // settings.accumulate)
    bar = tqdm(total=steps, desc=f"epoch {progress.epoch + 1}/{settings.epochs}", leave=False, disable=None if training.accelerator.is_main_process else True)
    for group in _groups(told_by_workers(training.loader), settings.accumulate):
        lr = training.schedule.get_last_lr()[0]
        loss = train_step(training, group)
        training.schedule.step()
        progress.batch += len(group)
        progress.step += 1
        progress.loss_sum += loss
        progress.loss_count += 1
        bar.update()
        bar.set_postfix(loss=f"{progress.loss_sum / progress.loss_count:.4f}")
        if settings.log_every and progress.step % settings.log_every == 0:
            training.log.write({"step": progress.step, "epoch": progress.epoch + 1, "loss": loss, "lr": lr})
        if _asked_to_stop(training):
            save(training)
            raise SystemExit(143)
        if settings.save_every and progress.step % settings.save_every == 0:
            save(training)
    bar.close()


def _asked_to_stop(training: Training) -> bool:
    """Whether a process of the run has got a SIGTERM; all of them must leave after the same step."""
    if training.accelerator.num_processes == 1:
        return training.stop_requested
    flag = torch.tensor(int(training.stop_requested), device=training.accelerator.device)
    return bool(training.accelerator.reduce(flag, "sum") > 0)


def train_step(training: Training, group: list[dict[str, torch.Tensor]]) -> float:
    """One optimiser step over the gradients of all batches of the group; the mean loss."""
    if training.closures:
        losses: list[float] = []
        training.optimizer.step(lambda: losses.append(_gradients(training, group)) or losses[-1])
        return losses[0]
    total = _gradients(training, group)
    training.optimizer.step()
    return total


def _gradients(training: Training, group: list[dict[str, torch.Tensor]]) -> float:
    """The gradients of the mean loss over the batches, clipped, in the parameters; the mean loss."""
    accelerator, total = training.accelerator, 0.0
    training.optimizer.zero_grad(set_to_none=True)
    for number, batch in enumerate(group):
        last = number == len(group) - 1
        with torch.enable_grad(), nullcontext() if last else accelerator.no_sync(training.model):
            loss = _loss(training, batch, training.progress.batch + number) / len(group)
            accelerator.backward(loss)
        total += loss.item()
    if training.config.training.clip is not None:
        accelerator.clip_grad_norm_(training.model.parameters(), training.config.training.clip)
    return total


def _loss(training: Training, batch: dict[str, torch.Tensor], number: int) -> torch.Tensor:
    """The loss of the batch with this number in its epoch, penalties included; a run whose loss is not finite stops here."""
    images, target = (batch[key].to(training.accelerator.device, non_blocking=True) for key in ("image", training.task.target))
    images, target = training.task.mix(images, target, sample_seed(training.config.seed, training.progress.epoch, number))
    loss = training.loss(_forward(training, images), target) + training.penalty()
    if not torch.isfinite(loss):
        names = training.task.names(int(i) for i in batch["index"])
        report_non_finite(training.model, batch, names, training.run, training.progress.step)
    return loss


def _forward(training: Training, images: torch.Tensor) -> Any:
    try:
        return training.model(images)
    except ValueError as error:
        if "Expected more than 1 value per channel" not in str(error):
            raise
        size = "x".join(map(str, images.shape[-2:]))
        raise InputError(
            f"a batch of {len(images)} picture(s) of {size} is one pixel at the bottom of the network, which a batch norm cannot train on; "
            "use larger pictures or batches, a smaller model.options.depth, or model.options.norm: layer"
        ) from None


def finish_epoch(training: Training) -> dict[str, Any]:
    """Validate if it is due, store the best weights, log, and move on to the next epoch."""
    settings, progress = training.config.training, training.progress
    losses = [progress.loss_sum / max(progress.loss_count, 1)]
    if training.accelerator.num_processes > 1:
        losses = gather_object(losses)
    entry: dict[str, Any] = {"step": progress.step, "epoch": progress.epoch + 1, "train": {"loss": sum(losses) / len(losses)}}
    due = (progress.epoch + 1) % settings.validate_every == 0 or progress.epoch + 1 == settings.epochs
    if "val" in training.task.held_out and due:
        scores = training.task.evaluate(training.model, training.task.held_out["val"], training.accelerator, title="validate")
        entry["val"] = training.task.headline(scores)
    progress.epoch, progress.batch, progress.loss_sum, progress.loss_count = progress.epoch + 1, 0, 0.0, 0
    value = entry["val"][settings.monitor] if "val" in entry else None
    improved = value is not None and value == value and (progress.best is None or value > progress.best)
    last = progress.epoch == settings.epochs
    if improved or (last and progress.best is None):
        progress.best, progress.best_epoch = value if improved else None, progress.epoch
        save_best(training)
    training.log.write(entry)
    return entry


def save(training: Training) -> None:
    """A complete checkpoint of the moment; older ones go only afterwards."""
    accelerator, settings = training.accelerator, training.config.training
    training.progress.log_bytes = training.log.size
    training.progress.layout = [training.plan.num_samples, settings.batch_size, settings.accumulate, accelerator.num_processes]
    generators = [random_states()]
    if accelerator.num_processes > 1:
        generators = gather_object(generators)
    if accelerator.is_main_process:
        folder = training.run / "checkpoints" / f"step_{training.progress.step:08d}"
        tensors = {
            "optimizer": training.optimizer.state_dict(),
            "schedule": training.schedule.state_dict(),
            "scaler": accelerator.scaler.state_dict() if accelerator.scaler is not None else {},
            "generators": generators,
        }
        save_checkpoint(
            folder, accelerator.unwrap_model(training.model), training.task.description, training.config, state=asdict(training.progress), tensors=tensors
        )
        point_to(training.run / "last", folder)
        prune(training.run, training.config.training.keep)
    accelerator.wait_for_everyone()


def random_states() -> dict[str, Any]:
    """The states of torch's generators; no other generator is used in training."""
    return {"cpu": torch.get_rng_state(), "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []}


def restore(training: Training, state: dict[str, Any], tensors: dict[str, Any]) -> None:
    """Put optimiser, schedule, scaler, generators and progress back to where a checkpoint left them, at the settings of now."""
    settings = training.config.training
    training.optimizer.load_state_dict(tensors["optimizer"])
    training.schedule.load_state_dict(tensors["schedule"])
    # Settings of now: the same numbers as in the checkpoint unless the user changed lr, weight_decay or epochs.
    training.schedule.base_lrs = [settings.lr] * len(training.schedule.base_lrs)
    factor = training.schedule.lr_lambdas[0](training.schedule.last_epoch)
    for group in training.optimizer.param_groups:
        group["initial_lr"], group["lr"] = settings.lr, settings.lr * factor
        if "weight_decay" in group:
            group["weight_decay"] = settings.weight_decay
    training.schedule._last_lr = [group["lr"] for group in training.optimizer.param_groups]
    if training.accelerator.scaler is not None and tensors["scaler"]:
        training.accelerator.scaler.load_state_dict(tensors["scaler"])
    generators = tensors["generators"]
    if training.accelerator.process_index < len(generators):
        mine = generators[training.accelerator.process_index]
        torch.set_rng_state(mine["cpu"])
        if len(mine["cuda"]) == torch.cuda.device_count():
            torch.cuda.set_rng_state_all(mine["cuda"])
    training.progress = Progress(**state)


def save_best(training: Training) -> None:
    """Store the weights of now as the best ones (main process)."""
    if not training.accelerator.is_main_process:
        return
    folder = _free(training.run / "checkpoints" / f"best_{training.progress.epoch:05d}")
    save_checkpoint(folder, training.accelerator.unwrap_model(training.model), training.task.description, training.config)
    link = training.run / "best"
    older = link.resolve() if link.is_symlink() else None
    point_to(link, folder)
    if older is not None and older != folder.resolve():
        shutil.rmtree(older, ignore_errors=True)


def _free(folder: Path) -> Path:
    """The folder, or with a number behind it: the best weights may be those of an epoch that a resumed run trains again."""
    number, choice = 1, folder
    while choice.exists():
        number, choice = number + 1, folder.with_name(f"{folder.name}_{number}")
    return choice


def _groups(batches: Iterable[Any], size: int) -> Iterator[list[Any]]:
    iterator = iter(batches)
    while group := list(islice(iterator, size)):
        yield group


def _tell(training: Training, entry: dict[str, Any], seconds: float) -> None:
    settings, progress = training.config.training, training.progress
    line = f"epoch {entry['epoch']}/{settings.epochs}  loss {entry['train']['loss']:.4f}"
    if "val" in entry:
        line += f"  val {settings.monitor} {entry['val'][settings.monitor]:.4f}"
        line += f" (best {progress.best:.4f} in epoch {progress.best_epoch})" if progress.best is not None else ""
    training.tell(f"{line}  {seconds:.1f} s")
