"""The training loop: epochs, steps, validations."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterable, Iterator
from contextlib import nullcontext
from itertools import islice
from typing import Any, NoReturn

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list, gather_object
from torch import nn
from tqdm import tqdm

from kanseg.data.transforms import sample_seed
from kanseg.evaluation.evaluate import told_by_workers
from kanseg.training.diagnose import non_finite_loss
from kanseg.training.dry_run import forward
from kanseg.training.grids import update_grids_if_due
from kanseg.training.processes import anywhere
from kanseg.training.run_folder.checkpointing import check_state, save, save_best, what_is_left
from kanseg.training.state import Training
from kanseg.utils.errors import InputError


class LossNotFinite(InputError):
    """A run ended since its loss was infinite or NaN."""


def fit(training: Training) -> None:
    """Train to the last epoch, or until `training.patience` is over. On SIGTERM: finish the step,
    save, and leave with exit status 143; on SIGINT (Ctrl-C) the same with 130, a second one ends
    the run at once.
    """

    def stop(number: int, _: object) -> None:
        if number == signal.SIGINT and training.stop_signal is not None:
            raise KeyboardInterrupt
        if number == signal.SIGINT:
            # not print: it may be what was interrupted
            os.write(2, b"\nsaving after this step; Ctrl-C again stops at once\n")
        training.stop_signal = training.stop_signal or number

    previous = {each: signal.signal(each, stop) for each in (signal.SIGTERM, signal.SIGINT)}
    try:
        while not training.finished:
            started = time.perf_counter()
            train_epoch(training)
            entry = finish_epoch(training)
            _log(training, entry, time.perf_counter() - started)
            save(training)
            stop_signal = _asked_to_stop(training)
            if stop_signal is not None:
                _leave(training, stop_signal)
            if training.watch is not None and not training.finished:
                training.watch(entry)
    except torch.OutOfMemoryError as error:
        raise InputError(
            f"out of memory on {training.accelerator.device} with batches of"
            f" {training.config.training.batch_size}: take a smaller training.batch_size, or"
            f" training.find_batch_size: true ({str(error).splitlines()[0][:100]})"
        ) from None
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def train_epoch(training: Training) -> None:
    """The rest of the current epoch, from `progress.batch` on."""
    settings, progress, network = training.config.training, training.progress, training.network
    training.model.train()
    training.plan.go_to(progress.epoch, progress.batch)
    steps = -(-len(training.plan) // settings.accumulate)
    bar = tqdm(
        total=steps,
        desc=f"epoch {progress.epoch + 1}/{settings.epochs}",
        leave=False,
        disable=None if training.accelerator.is_main_process else True,
    )
    for group in _groups(told_by_workers(training.loader), settings.accumulate):
        update_grids_if_due(training, group)
        lr = training.rates.set(progress.step, progress.stand)
        loss = train_step(training, group)
        if training.average is not None:
            training.average.update_parameters(network)
        progress.batch += len(group)
        progress.step += 1
        progress.loss_sum += loss
        progress.loss_count += 1
        bar.update()
        bar.set_postfix(loss=f"{progress.loss_sum / progress.loss_count:.4f}")
        if settings.log_every and progress.step % settings.log_every == 0:
            training.run_log.write(
                {"step": progress.step, "epoch": progress.epoch + 1, "loss": loss, "lr": lr}
            )
        stop_signal = _asked_to_stop(training)
        due = settings.save_every and progress.step % settings.save_every == 0
        if due or stop_signal is not None:
            check_state(training)
            save(training)
        if stop_signal is not None:
            _leave(training, stop_signal)
    bar.close()


def _asked_to_stop(training: Training) -> int | None:
    """The signal that a process of the run has got, SIGTERM or SIGINT, or None; all of them must
    leave after the same step.
    """
    if training.accelerator.num_processes == 1:
        return training.stop_signal
    numbers = (signal.SIGTERM, signal.SIGINT)
    flags = [int(training.stop_signal == number) for number in numbers]
    counts = training.accelerator.reduce(
        torch.tensor(flags, device=training.accelerator.device), "sum"
    )
    return next((number for number, count in zip(numbers, counts, strict=True) if count), None)


def _leave(training: Training, stop_signal: int) -> NoReturn:
    """End a run that has saved."""
    done = f"stopped after step {training.progress.step}; {what_is_left(training.run)}"
    if stop_signal == signal.SIGINT:
        raise KeyboardInterrupt(done)
    training.log(done)
    raise SystemExit(128 + stop_signal)


def train_step(training: Training, group: list[dict[str, torch.Tensor]]) -> float:
    """One optimizer step over the gradients of all batches of the group; the mean loss."""
    if training.closures:
        losses: list[float] = []
        training.optimizer.step(
            lambda: losses.append(_of_all(training, _gradients(training, group))) or losses[-1]
        )
        return losses[0]
    total = _gradients(training, group)
    training.optimizer.step()
    return total


def _of_all(training: Training, loss: float) -> float:
    """The mean over the processes: a line search by the losses of each would take the processes
    apart.
    """
    if training.accelerator.num_processes == 1:
        return loss
    return float(
        training.accelerator.reduce(torch.tensor(loss, device=training.accelerator.device), "mean")
    )


def _gradients(training: Training, group: list[dict[str, torch.Tensor]]) -> float:
    """The gradients of the mean loss over the batches, clipped, in the parameters; the
    mean loss.
    """
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
    """The loss of the batch with this number in its epoch, penalties included; a run whose loss is
    not finite stops here.
    """
    device = training.accelerator.device
    batch = training.loader.dataset.finish(
        batch, device
    )  # only now: the batches of a group that wait are few bytes
    images, target = (
        batch[key].to(device, non_blocking=True) for key in ("image", training.task.target)
    )
    images, target = training.task.mix(
        images, target, sample_seed(training.config.seed, training.progress.epoch, number)
    )
    training.seen = images[:2].clone()
    loss = training.loss(forward(training.model, images), target) + training.penalty()
    finite = bool(torch.isfinite(loss))
    if anywhere(not finite, training.accelerator):
        _stop_non_finite(training, None if finite else batch)
    return loss


def _stop_non_finite(training: Training, batch: dict[str, torch.Tensor] | None) -> NoReturn:
    """End a run in all its processes; `batch` is the one whose loss is not finite, None in a
    process that has a finite one.
    """
    fault = f"step {training.progress.step}: the loss of another process is not finite"
    if batch is not None:
        names = training.task.names(int(i) for i in batch["index"])
        fault = non_finite_loss(
            training.network, batch, names, training.run, training.progress.step
        )
    training.accelerator.wait_for_everyone()  # else one that ends takes the others with it
    raise LossNotFinite(f"{fault}; {what_is_left(training.run)}")


def finish_epoch(training: Training) -> dict[str, Any]:
    """Validate if it is due, store the best weights, log, and move on to the next epoch."""
    check_state(training)
    settings, progress = training.config.training, training.progress
    losses = [progress.loss_sum / max(progress.loss_count, 1)]
    if training.accelerator.num_processes > 1:
        losses = gather_object(losses)
    entry: dict[str, Any] = {
        "step": progress.step,
        "epoch": progress.epoch + 1,
        "train": {"loss": sum(losses) / len(losses)},
    }
    due = (
        progress.epoch + 1
    ) % settings.validate_every == 0 or progress.epoch + 1 == settings.epochs
    if "val" in training.task.held_out and due:
        entry["val"] = _validate(training)
    progress.epoch, progress.batch, progress.loss_sum, progress.loss_count = (
        progress.epoch + 1,
        0,
        0.0,
        0,
    )
    improved = "val" in entry and judge(training, entry["val"][settings.monitor])
    if improved or (progress.epoch == settings.epochs and progress.best is None):
        progress.best_epoch = progress.epoch
        save_best(training)
    if training.stopped_early:
        entry["stopped_early"] = True
    training.run_log.write(entry)
    return entry


def _validate(training: Training) -> dict[str, Any]:
    """The scores that are logged, of the network or of the average of its weights."""
    task, accelerator = training.task, training.accelerator
    share_buffers(training.result, accelerator)
    scores = task.headline(
        task.evaluate(training.result, task.held_out["val"], accelerator, title="validate")
    )
    if (
        accelerator.num_processes > 1
    ):  # sums in another order may differ in the last bit, and decisions must not
        broadcast_object_list(box := [scores])
        scores = box[0]
    if training.run_log.draws and training.config.training.log_images:
        training.run_log.image(
            "val/samples", task.preview(training.result, accelerator), step=training.progress.step
        )
    return scores


def judge(training: Training, value: float) -> bool:
    """Whether the validation is the best so far; counts those that are not, for the learning rate
    and for `training.patience`.
    """
    progress = training.progress
    improved = value == value and (progress.best is None or value > progress.best)
    progress.best, progress.stale = (value, 0) if improved else (progress.best, progress.stale + 1)
    progress.stand = training.rates.validated(progress.stand, improved=improved, step=progress.step)
    return improved


def share_buffers(model: nn.Module, accelerator: Accelerator) -> None:
    """Running statistics of the first process, whose weights are stored, for all: each has those of
    its own samples.
    """
    if accelerator.num_processes > 1:
        for buffer in model.buffers():
            torch.distributed.broadcast(buffer, 0)


def _groups(batches: Iterable[Any], size: int) -> Iterator[list[Any]]:
    iterator = iter(batches)
    while group := list(islice(iterator, size)):
        yield group


def _log(training: Training, entry: dict[str, Any], seconds: float) -> None:
    settings, progress = training.config.training, training.progress
    line = f"epoch {entry['epoch']}/{settings.epochs}  loss {entry['train']['loss']:.4f}"
    if "val" in entry:
        line += f"  val {settings.monitor} {entry['val'][settings.monitor]:.4f}"
        line += (
            f" (best {progress.best:.4f} in epoch {progress.best_epoch})"
            if progress.best is not None
            else ""
        )
    training.log(f"{line}  {seconds:.1f} s")
    if training.stopped_early:
        training.log(f"stopped early: no better {settings.monitor} in {progress.stale} validations")
