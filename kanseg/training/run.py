"""One experiment from its settings: data, network, training, measurement, images."""

from __future__ import annotations

import contextlib
import json
import shutil
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import nn
from torch.utils.data import DataLoader, Dataset

from kanseg.config import ClassificationConfig, Config
from kanseg.data.collate import RawItems, collate
from kanseg.data.split_record import SPLIT
from kanseg.encoders import is_external
from kanseg.evaluation.evaluate import let_the_main_process_stop
from kanseg.inference.checkpoint import build_model, read_weights
from kanseg.layers import Penalty
from kanseg.models.operations import multiply_adds
from kanseg.training.batches import BatchPlan
from kanseg.training.classification import ClassificationTask
from kanseg.training.compiling import as_written, compile_networks
from kanseg.training.dry_run import find_batch_size, try_smallest
from kanseg.training.loop import fit
from kanseg.training.optim.ema import average_of
from kanseg.training.optim.lr_scheduler import Rates, describe_function_rates, parameter_groups
from kanseg.training.optim.optimizers import NEEDS_CLOSURE
from kanseg.training.processes import make_accelerator
from kanseg.training.run_folder.checkpointing import restore, save_best, settle_best, what_is_left
from kanseg.training.run_folder.logging import RunLog, mend_log, plain, read_log
from kanseg.training.run_folder.resume import (
    Resumed,
    RunBusy,
    find_checkpoint,
    lock_run,
    with_found_batches,
)
from kanseg.training.run_folder.trackers import Tracker, open_trackers
from kanseg.training.segmentation import SegmentationTask
from kanseg.training.settings import check_held_out, check_settings, make_optimizer
from kanseg.training.state import Training
from kanseg.training.task import Log, Task
from kanseg.utils.environment import environment_line
from kanseg.utils.errors import InputError
from kanseg.utils.io import atomic_write_text
from kanseg.visualization.curves import draw_curves
from kanseg.visualization.report.page import draw_report

REPORT = "report.html"
IMAGES = ("curves.png", "overview.png", "worst.png", "best.png", "confusion.png", REPORT)
# What a run leaves in its folder, beside config.yaml.
LEFT = (
    "checkpoints",
    "samples",
    "tensorboard",
    "wandb",
    "best",
    "last",
    "log.jsonl",
    "metrics.json",
    SPLIT,
    *IMAGES,
)
TASKS: dict[type, type[Task]] = {Config: SegmentationTask, ClassificationConfig: ClassificationTask}


def train(
    config: Any,
    *,
    resume: bool = False,
    overwrite: bool = False,
    accept_changes: bool = False,
    watch: Callable[[dict[str, Any]], None] | None = None,
) -> dict[str, Any]:
    """Run an experiment to its end and return what `metrics.json` holds.

    Args:
        config: all settings of an experiment: a `Config` (segmentation) or a
            `ClassificationConfig`.
        resume: go on from the newest complete checkpoint in the run folder.
        overwrite: delete what an earlier run left in the run folder.
        accept_changes: with `resume`, go on with a data set that was changed since the run was
            begun; without, such a change is refused and new samples are left out.
        watch: gets the log's entry of every epoch but the last; what it raises ends the run.

    Raises:
        InputError: settings, data or run folder that cannot be used; nothing is written before they
            were checked.
    """
    # the lock is free again whatever ends the run: a search goes on in this process
    with contextlib.ExitStack() as held:
        try:
            return _train(
                config,
                resume=resume,
                overwrite=overwrite,
                accept_changes=accept_changes,
                watch=watch,
                held=held,
            )
        except KeyboardInterrupt as stop:
            raise KeyboardInterrupt(str(stop) or what_is_left(Path(config.run_dir))) from None


def _train(
    config: Any,
    *,
    resume: bool,
    overwrite: bool,
    accept_changes: bool,
    watch: Callable[[dict[str, Any]], None] | None,
    held: contextlib.ExitStack,
) -> dict[str, Any]:
    """`train`, with a place for the lock."""
    started, started_cpu = time.perf_counter(), time.process_time()
    if resume:
        config = with_found_batches(config)
    task = TASKS[type(config)](config, accept_changes=accept_changes)
    check_settings(task)
    if config.training.threads:
        torch.set_num_threads(config.training.threads)
    accelerator = make_accelerator(config.training.precision)
    if accelerator.mixed_precision == "fp16" and accelerator.device.type == "cpu":
        raise InputError("training.precision fp16 needs a GPU; use bf16 or no on the CPU")
    if accelerator.mixed_precision == "fp16" and config.training.optimizer in NEEDS_CLOSURE:
        raise InputError(
            f"{config.training.optimizer} cannot scale its losses for training.precision fp16; use"
            " bf16 or no"
        )
    log: Log = partial(print, flush=True) if accelerator.is_main_process else lambda _: None
    run = Path(config.run_dir)
    with accelerator.main_process_first():
        # locked before it is judged: another process may be about to finish its run there
        begun = (run / "config.yaml").exists() or (run / "checkpoints").exists()
        locked = accelerator.is_main_process and begun
        if locked:
            held.enter_context(lock_run(run))
        resumed = find_checkpoint(run, config, resume=resume, overwrite=overwrite, log=log)
    with accelerator.main_process_first():
        dataset = task.open(checkpoint=resumed.folder if resumed else None, log=log)
    check_held_out(task)
    torch.manual_seed(config.seed)
    training = assemble(
        task,
        accelerator,
        dataset,
        resumed=resumed,
        overwrite=overwrite,
        log=log,
        held=held if accelerator.is_main_process and not locked else None,
    )
    parameters = sum(p.numel() for p in training.model.parameters())
    batches = training.plan.batches_per_epoch
    log(
        f"{config.model.name}, basis {config.model.basis}: {parameters:,} parameters; {batches}"
        f" batches an epoch on {accelerator.device}"
    )
    if training.finished:
        log(_why_finished(training))
    training.watch = watch
    fit_started = time.process_time()
    with contextlib.closing(training.run_log):
        fit(training)
    training_cpu_seconds = time.process_time() - fit_started
    as_written(training.network, training.result)
    results = _measure(training)
    results |= {
        "parameters": parameters,
        "epochs": training.progress.epoch,
        "best_epoch": training.progress.best_epoch,
    }
    results["multiply_adds"] = multiply_adds(training.network, (1, *dataset[(0, 0)]["image"].shape))
    results |= {
        "seconds": round(time.perf_counter() - started, 1),
        "cpu_seconds": round(time.process_time() - started_cpu, 1),
        "training_cpu_seconds": round(training_cpu_seconds, 1),
    }
    results |= {
        "machine": environment_line(accelerator.device.type),
        "processes": accelerator.num_processes,
    }
    if accelerator.is_main_process:
        _report(training, results, log)
    accelerator.wait_for_everyone()
    return results


def _why_finished(training: Training) -> str:
    if training.stopped_early:
        done = (
            f"after {training.progress.epoch} epochs, {training.progress.stale} validations without"
            " an improvement"
        )
        return f"this run has stopped early, {done}; a larger training.patience goes on"
    return (
        f"this run is finished, with {training.progress.epoch} epochs; a larger training.epochs"
        " goes on"
    )


def _network(task: Task, resumed: Resumed | None, log: Log) -> nn.Module:
    """The network that the task describes, new or with the weights of a checkpoint."""
    arguments = task.description["model"]
    if resumed is not None:
        arguments |= resumed.stored_defaults()
        model = build_model(arguments)
        resumed.load_weights(model)
        return model
    encoder, weights = str(arguments.get("encoder")), arguments.get("encoder_weights")
    if weights is not None and is_external(encoder):
        log(f"encoder_weights {weights!r} of {encoder}: downloaded unless they are in the cache")
    return build_model(arguments, pretrained=True)


def assemble(
    task: Task,
    accelerator: Accelerator,
    dataset: Dataset,
    *,
    resumed: Resumed | None,
    overwrite: bool,
    log: Log,
    held: contextlib.ExitStack | None = None,
) -> Training:
    """Build, prepare and try everything that the loop needs, and open the run folder last, when all
    settings have proved usable.

    It is locked first, where `held` is given to keep the lock.
    """
    settings, data, run = task.config.training, task.config.data, Path(task.config.run_dir)
    model = _network(task, resumed, log)
    average = average_of(model, settings.ema).to(accelerator.device) if settings.ema else None
    penalty, loss = Penalty(model, settings.penalty), task.loss()
    groups, factors = parameter_groups(model, settings)
    for line in describe_function_rates(model, settings):
        log(line)
    model, optimizer = accelerator.prepare(model, make_optimizer(settings, groups))
    if accelerator.process_index:
        torch.manual_seed(
            task.config.seed + accelerator.process_index
        )  # the first process has seeded its own; dropout must differ
    if settings.find_batch_size and resumed is None:
        settings = _fitting(model, task, dataset, accelerator, loss=loss, penalty=penalty, log=log)
    plan = BatchPlan(
        len(dataset),
        settings.batch_size,
        seed=task.config.seed,
        rank=accelerator.process_index,
        world_size=accelerator.num_processes,
    )
    if resumed is not None:
        resumed.check(
            [plan.num_samples, settings.batch_size, settings.accumulate, accelerator.num_processes]
        )
    try_smallest(model, dataset, plan, accelerator)
    if settings.compile:
        compile_networks(
            accelerator.unwrap_model(model),
            *([] if average is None else [average.module]),
            device=accelerator.device,
        )
    # A generator of its own: a loader draws a number from torch's whenever it starts, and a resumed
    # run starts it once more.
    workers = {
        "num_workers": data.workers,
        "persistent_workers": data.workers > 0,
        "worker_init_fn": let_the_main_process_stop,
        "collate_fn": collate,
    }
    loader = DataLoader(
        RawItems(dataset),
        batch_sampler=plan,
        generator=torch.Generator(),
        pin_memory=accelerator.device.type == "cuda",
        **workers,
    )
    rates = Rates(
        optimizer,
        settings,
        total=settings.epochs * -(-plan.batches_per_epoch // settings.accumulate),
        factors=factors,
    )
    if held is not None:
        held.enter_context(lock_run(run))
        if resumed is None and not overwrite and (run / "config.yaml").exists():
            raise RunBusy(f"{run} holds a run of another process, which has ended meanwhile")
    run_log = _open_run(task.config, accelerator, resumed=resumed, overwrite=overwrite, log=log)
    if accelerator.is_main_process and task.split is not None:
        atomic_write_text(run / SPLIT, task.split.to_json())
    training = Training(
        task,
        task.config,
        run,
        accelerator,
        model,
        optimizer,
        rates,
        loss,
        penalty,
        plan,
        loader,
        run_log,
        log,
        average=average,
    )
    training.closures = settings.optimizer in NEEDS_CLOSURE
    if resumed is not None:
        # what is whole and typed can still not fit, in ways that only torch finds
        try:
            restore(training, resumed.state, resumed.tensors)
        except Exception as error:
            text = " ".join(str(error).split())[:300] or type(error).__name__
            raise InputError(f"{resumed.folder}: its training state does not fit: {text}") from None
        log(
            f"resumed from {resumed.folder}: epoch {training.progress.epoch + 1}, step"
            f" {training.progress.step}"
        )
        settle_best(training)
    return training


def _fitting(
    model: nn.Module,
    task: Task,
    dataset: Dataset,
    accelerator: Accelerator,
    *,
    log: Log,
    **step: Any,
) -> Any:
    """The training settings with a batch that fits into memory, which are those of the task from
    now on.
    """
    settings = task.config.training
    size, accumulate = find_batch_size(model, task, dataset, accelerator, **step)
    if size != settings.batch_size:
        log(
            f"training.batch_size {settings.batch_size} does not fit into memory: {size}, with"
            f" training.accumulate {settings.accumulate} -> {accumulate}"
        )
    else:
        log(f"training.batch_size {size} fits into memory")
    task.config = replace(
        task.config, training=replace(settings, batch_size=size, accumulate=accumulate)
    )
    return task.config.training


def _open_run(
    config: Any, accelerator: Accelerator, *, resumed: Resumed | None, overwrite: bool, log: Log
) -> RunLog:
    """Make the run folder, without what an earlier run (overwrite) or a killed one left behind, and
    its log.
    """
    run, active = Path(config.run_dir), accelerator.is_main_process
    step = 0 if resumed is None else resumed.state["step"]
    trackers: list[Tracker] = []
    if active:
        _clear(run, all_of_it=resumed is None and overwrite)
        run.mkdir(parents=True, exist_ok=True)
        trackers = open_trackers(run, config, step=step)
        atomic_write_text(run / "config.yaml", config.to_yaml())
        lost = None if resumed is None else mend_log(run, resumed.state)
        if lost is not None:
            log(lost)
    accelerator.wait_for_everyone()
    return RunLog(run, active=active, trackers=trackers, resumed=resumed is not None)


def _clear(run: Path, *, all_of_it: bool) -> None:
    for path in [*(run / name for name in LEFT), *run.glob("scores_*.csv")] if all_of_it else ():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    for folder in (run, run / "checkpoints", run / "samples"):
        for rest in folder.glob(".*.tmp*"):
            if rest.is_dir() and not rest.is_symlink():
                shutil.rmtree(rest, ignore_errors=True)
            else:
                rest.unlink(missing_ok=True)


def _measure(training: Training) -> dict[str, Any]:
    """Scores of the best weights on val and test."""
    accelerator, task = training.accelerator, training.task
    if not (training.run / "best").is_dir():
        save_best(training)
    accelerator.wait_for_everyone()
    model = training.network
    model.load_state_dict(read_weights(training.run / "best"))
    return {role: task.measure(model, role, accelerator, training.run) for role in task.held_out}


def _report(training: Training, results: dict[str, Any], log: Log) -> None:
    """metrics.json, curves, images, the page of all of them, and the closing lines."""
    run, task = training.run, training.task
    atomic_write_text(run / "metrics.json", json.dumps(plain(results), indent=1) + "\n")
    curves = draw_curves(
        read_log(run / "log.jsonl"),
        run / "curves.png",
        monitor=task.config.training.monitor,
        best_epoch=results["best_epoch"],
    )
    images = task.draw(training.network, results, run, device=training.accelerator.device)
    # those of a run that was resumed after its end, of which not every one need be drawn again
    drawn = {path.name for path in [curves, *images]}
    for name in IMAGES:
        if name not in drawn and name != REPORT:
            (run / name).unlink(missing_ok=True)
    page = draw_report(run, results)
    for role in task.held_out:
        log(f"\n{role}, weights of epoch {results['best_epoch']}, {task.table(results[role])}")
    log(f"\n{results['seconds']:.0f} s; scores: {run / 'metrics.json'}; weights: {run / 'best'}")
    log(f"images: {', '.join(map(str, [*images, curves]))}; all on one page: {page}")
