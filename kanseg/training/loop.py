"""The training loop: epochs, steps, validations."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from contextlib import nullcontext
from itertools import islice
from typing import Any, NoReturn

import torch
from accelerate.utils import broadcast_object_list, gather_object
from torch import Tensor
from torch.utils.data import DataLoader

from kanseg.data.loader import to_device, unwrap_worker_errors
from kanseg.data.transforms import sample_seed
from kanseg.training.diagnose import HealthLog, non_finite_loss
from kanseg.training.dry_run import explain_norm_errors
from kanseg.training.grids import refine_if_due, update_grids_if_due
from kanseg.training.optim.lr_scheduler import PlateauLR, current_lr
from kanseg.training.optim.optimizers import NEEDS_CLOSURE
from kanseg.training.processes import any_process, mean_over_processes
from kanseg.training.run_folder.checkpointing import check_state, resume_hint, save, save_best
from kanseg.training.run_folder.run_folder import RunFolder
from kanseg.training.signals import StopSignals
from kanseg.training.state import TrainState
from kanseg.training.task import Task
from kanseg.training.time_estimate import TimeEstimate
from kanseg.utils.errors import InputError
from kanseg.utils.iteration import progress_bar
from kanseg.utils.language import translate

STALE = 3  # validations without a better score, after which a task may give advice

Batch = dict[str, Tensor]


class LossNotFinite(InputError):
    """The loss became infinite or NaN."""


def fit(
    state: TrainState,
    task: Task,
    loader: DataLoader,
    run: RunFolder,
    *,
    on_epoch_end: Callable[[dict[str, Any]], None] | None = None,
) -> None:
    """Train until the last epoch, or until `training.patience` validations did not improve.

    On SIGTERM the current step is finished and saved, and the process exits with status 143; on
    SIGUSR1 the same with 138 (on Linux), on SIGINT (Ctrl-C) with 130, and a second SIGINT stops at
    once.

    Args:
        state: network, optimizer, schedule and progress; updated in place.
        task: loss and scores.
        loader: of the training set; its `batch_sampler` is a `BatchPlan`.
        run: where checkpoints and the log are written.
        on_epoch_end: called with the log entry of every epoch except the last, after its
            checkpoint is complete; an exception in it ends the run.

    Raises:
        InputError: out of memory, or a loss or weights that are not finite.
    """
    settings = task.config.training
    steps_per_epoch = -(-len(loader) // settings.accumulate)
    estimate = TimeEstimate(
        steps_per_epoch,
        steps_per_epoch * settings.epochs - state.progress.step,
        on_cpu=state.accelerator.device.type == "cpu",
        log=run.log,
    )
    health = HealthLog.create(state, task, loader.dataset, run.log)
    try:
        with StopSignals() as stop:
            while not state.progress.finished(settings):
                started = time.perf_counter()
                train_epoch(state, task, loader, run, stop, estimate)
                entry = finish_epoch(state, task, run, health)
                log_epoch(entry, state, task, run, time.perf_counter() - started)
                save(run, state)
                stop_signal = stop.in_any_process(state.accelerator)
                if stop_signal is not None:
                    exit_run(run, state, stop_signal)
                if on_epoch_end is not None and not state.progress.finished(settings):
                    on_epoch_end(entry)
    except torch.OutOfMemoryError as error:
        raise InputError(
            "out of memory on {device} with batches of {batch_size}: use a smaller"
            " training.batch_size, or training.find_batch_size: true ({reason})",
            device=state.accelerator.device,
            batch_size=settings.batch_size,
            reason=str(error).splitlines()[0][:100],
        ) from None


def train_epoch(
    state: TrainState,
    task: Task,
    loader: DataLoader,
    run: RunFolder,
    stop: StopSignals,
    estimate: TimeEstimate,
) -> None:
    """Train the rest of the current epoch, from `progress.batch` on."""
    settings, progress, accelerator = task.config.training, state.progress, state.accelerator
    refine_if_due(state, task, run.log)
    state.model.train()
    if state.frozen is not None:
        state.frozen.set_epoch(progress.epoch)
        if progress.epoch == state.frozen.epochs:
            run.log(f"epoch {progress.epoch + 1}: the encoder is trained from here on")
    loader.batch_sampler.go_to(progress.epoch, progress.batch)
    bar = progress_bar(
        title=f"epoch {progress.epoch + 1}/{settings.epochs}",
        total=-(-len(loader) // settings.accumulate),
        show=accelerator.is_main_process,
    )
    with unwrap_worker_errors():
        batches = iter(loader)
        while group := list(islice(batches, settings.accumulate)):
            update_grids_if_due(state, task, group, run.log)
            lr = current_lr(state.lr_scheduler, settings.lr)
            if settings.optimizer in NEEDS_CLOSURE:
                loss = closure_step(state, task, group, run)
            else:
                loss = forward_backward(state, task, group, run)
                state.optimizer.step()
            state.lr_scheduler.step()
            if state.ema is not None:
                state.ema.update_parameters(state.network)

            progress.batch += len(group)
            progress.step += 1
            progress.loss_sum += loss
            progress.loss_count += 1
            bar.update()
            estimate.step()
            bar.set_postfix(loss=f"{progress.loss_sum / progress.loss_count:.4f}")
            if settings.log_every and progress.step % settings.log_every == 0:
                entry = {"step": progress.step, "epoch": progress.epoch + 1}
                run.log_file.write(entry | {"loss": loss, "lr": lr})

            stop_signal = stop.in_any_process(accelerator)
            due = settings.save_every and progress.step % settings.save_every == 0
            if due or stop_signal is not None:
                check_state(run, state)
                save(run, state)
            if stop_signal is not None:
                exit_run(run, state, stop_signal)
    bar.close()


def forward_backward(state: TrainState, task: Task, group: list[Batch], run: RunFolder) -> float:
    """Compute the gradients of the mean loss over the batches (gradient accumulation), clipped.

    Returns:
        The mean loss, penalties included.
    """
    settings, progress, accelerator = task.config.training, state.progress, state.accelerator
    state.optimizer.zero_grad(set_to_none=True)
    total = 0.0
    for number, batch in enumerate(group):
        # moved to the device one by one: uint8 batches on the CPU need little memory
        batch = to_device(batch, accelerator.device, task.preprocess)
        seed = sample_seed(task.config.seed, progress.epoch, progress.batch + number)
        target = batch[task.target].to(accelerator.device, non_blocking=True)
        images, target = task.mix(batch["image"], target, seed)
        state.last_images = images[:2].clone()
        is_last = number == len(group) - 1
        # gradients are averaged over the processes once, with the last batch
        with nullcontext() if is_last else accelerator.no_sync(state.model):
            with explain_norm_errors(images):
                output = state.model(images)
            loss = task.loss(output, target) + state.penalty()
            check_loss(loss, batch, state, task, run)
            loss = loss / len(group)
            accelerator.backward(loss)
        total += loss.item()
    if settings.clip is not None:
        accelerator.clip_grad_norm_(state.model.parameters(), settings.clip)
    return total


def closure_step(state: TrainState, task: Task, group: list[Batch], run: RunFolder) -> float:
    """Do a step of an optimizer that evaluates the loss several times (LBFGS); return the first
    loss.
    """
    losses: list[float] = []

    @torch.enable_grad()
    def closure() -> float:
        loss = forward_backward(state, task, group, run)
        # otherwise the line searches of the processes would diverge
        losses.append(mean_over_processes(loss, state.accelerator))
        return losses[-1]

    state.optimizer.step(closure)
    return losses[0]


def check_loss(loss: Tensor, batch: Batch, state: TrainState, task: Task, run: RunFolder) -> None:
    """Raise LossNotFinite in all processes if the loss of any process is not finite."""
    finite = bool(torch.isfinite(loss))
    if not any_process(not finite, state.accelerator):
        return
    message = f"step {state.progress.step}: the loss of another process is not finite"
    if not finite:
        names = task.names(int(index) for index in batch["index"])
        message = non_finite_loss(state.network, batch, names, run.path, state.progress.step)
    state.accelerator.wait_for_everyone()  # the first process to end would end the others
    raise LossNotFinite(f"{message}; {resume_hint(run.path)}")


def finish_epoch(
    state: TrainState, task: Task, run: RunFolder, health: HealthLog
) -> dict[str, Any]:
    """Validate if it is due, save the best weights, log, and start the next epoch.

    Returns:
        The log entry.
    """
    check_state(run, state)
    settings, progress = task.config.training, state.progress
    losses = [progress.loss_sum / max(progress.loss_count, 1)]
    if state.accelerator.num_processes > 1:
        losses = gather_object(losses)
    progress.epoch += 1
    progress.batch, progress.loss_sum, progress.loss_count = 0, 0.0, 0
    is_last = progress.epoch == settings.epochs
    entry: dict[str, Any] = {
        "step": progress.step,
        "epoch": progress.epoch,
        "train": {"loss": sum(losses) / len(losses)},
    }
    improved = False
    is_due = progress.epoch % settings.validate_every == 0 or is_last
    if "val" in task.eval_datasets and is_due:
        entry["val"] = validate(state, task, run)
        improved = update_best(state, entry["val"][settings.monitor])
    if is_due and health.images:
        entry["health"] = health.measure(state.eval_network, progress.epoch)
    if improved or (is_last and progress.best is None):
        progress.best_epoch = progress.epoch
        save_best(run, state)
    if progress.stopped_early(settings.patience):
        entry["stopped_early"] = True
    run.log_file.write(entry)
    return entry


def validate(state: TrainState, task: Task, run: RunFolder) -> dict[str, Any]:
    """Evaluate the network, or the average of its weights, on val; return the logged scores."""
    accelerator, network = state.accelerator, state.eval_network
    if accelerator.num_processes > 1:
        # each process has the running statistics of its own samples; those of the first are saved
        for buffer in network.buffers():
            torch.distributed.broadcast(buffer, 0)
    scores = task.headline(
        task.evaluate(network, task.eval_datasets["val"], accelerator, title="validate")
    )
    if accelerator.num_processes > 1:
        # sums in another order can differ in the last bit, but all processes must decide alike
        shared = [scores]
        broadcast_object_list(shared)
        scores = shared[0]
    if run.log_file.draws and task.config.training.log_images:
        image = task.preview(network, accelerator)
        run.log_file.image("val/samples", image, step=state.progress.step)
    return scores


def update_best(state: TrainState, score: float) -> bool:
    """Update the progress and the schedule with the score of a validation (NaN: undefined); return
    True if it is the best so far.
    """
    progress = state.progress
    improved = score == score and (progress.best is None or score > progress.best)
    if improved:
        progress.best, progress.stale = score, 0
    else:
        progress.stale += 1
    if isinstance(state.lr_scheduler, PlateauLR):
        state.lr_scheduler.step_validation(improved=improved)
    return improved


def log_epoch(
    entry: dict[str, Any], state: TrainState, task: Task, run: RunFolder, seconds: float
) -> None:
    """Print a line for an epoch."""
    settings, progress = task.config.training, state.progress
    line = f"epoch {entry['epoch']}/{settings.epochs}  loss {entry['train']['loss']:.4f}"
    if "val" in entry:
        line += f"  val {settings.monitor} {entry['val'][settings.monitor]:.4f}"
        if progress.best is not None:
            line += f" (best {progress.best:.4f} in epoch {progress.best_epoch})"
    run.log(f"{line}  {seconds:.1f} s")
    if "val" in entry and (progress.stale == STALE or progress.finished(settings)):
        advice = task.advice(entry["val"])
        if advice is not None:
            run.log(translate("warning: {advice}", advice=advice))
    if progress.stopped_early(settings.patience):
        run.log(
            translate(
                "stopped early: no better {monitor} in {stale} validations",
                monitor=settings.monitor,
                stale=progress.stale,
            )
        )


def exit_run(run: RunFolder, state: TrainState, stop_signal: int) -> NoReturn:
    """End a run that a signal has stopped, after its checkpoint is saved."""
    message = f"stopped after step {state.progress.step}; {resume_hint(run.path)}"
    if stop_signal == signal.SIGINT:
        raise KeyboardInterrupt(message)
    run.log(message)
    raise SystemExit(128 + stop_signal)
