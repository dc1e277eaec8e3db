"""Run an experiment: train a network by its settings, and write scores and images into a run
folder.
"""

from __future__ import annotations

import contextlib
import copy
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import nn
from torch.utils.data import DataLoader, Dataset

from kanseg.config import ClassificationConfig, Config
from kanseg.data.loader import make_loader
from kanseg.inference.checkpoint import read_description, read_weights
from kanseg.inference.description import build_model
from kanseg.layers import Penalty
from kanseg.models.operations import multiply_adds
from kanseg.training.batches import BatchPlan
from kanseg.training.classification import ClassificationTask
from kanseg.training.compiling import compile_networks, uncompile_networks
from kanseg.training.dry_run import dry_run, find_batch_size
from kanseg.training.grids import check_refine
from kanseg.training.loop import fit
from kanseg.training.optim.ema import create_ema
from kanseg.training.optim.lr_scheduler import create_lr_scheduler
from kanseg.training.optim.optimizers import describe_function_rates, parameter_groups
from kanseg.training.pretrained import (
    FrozenEncoder,
    create_started,
    describe_encoder,
    find_pretrained,
    freeze_epochs,
    pretrained_part,
    with_encoder_lr,
)
from kanseg.training.processes import (
    check_can_freeze,
    check_can_refine,
    check_precision,
    make_accelerator,
)
from kanseg.training.run_folder.checkpointing import (
    restore,
    resume_hint,
    save_best,
    verify_best,
    verify_last,
)
from kanseg.training.run_folder.clock import RunClock
from kanseg.training.run_folder.logging import plain, read_log
from kanseg.training.run_folder.resume import (
    Resumed,
    RunBusy,
    find_checkpoint,
    lock_run,
    with_stored_choices,
)
from kanseg.training.run_folder.run_folder import IMAGES, RunFolder, open_run_folder
from kanseg.training.segmentation import SegmentationTask
from kanseg.training.settings import check_settings, check_val_split, make_optimizer
from kanseg.training.state import TrainState
from kanseg.training.task import Log, Task
from kanseg.utils.environment import environment_line
from kanseg.utils.io import atomic_write_text
from kanseg.utils.language import translate
from kanseg.visualization.curves import draw_curves
from kanseg.visualization.report.page import draw_report

TASKS: dict[type, type[Task]] = {Config: SegmentationTask, ClassificationConfig: ClassificationTask}


def train(
    config: Any,
    *,
    resume: bool = False,
    overwrite: bool = False,
    accept_changes: bool = False,
    on_epoch_end: Callable[[dict[str, Any]], None] | None = None,
) -> dict[str, Any]:
    """Run an experiment to its end and return the content of `metrics.json`.

    Args:
        config: all settings: a `Config` (segmentation) or a `ClassificationConfig`.
        resume: continue from the newest complete checkpoint in the run folder.
        overwrite: delete the files of an earlier run in the run folder.
        accept_changes: with `resume`, accept that the data set has changed since the run was
            started; by default changes are refused, and new samples are left out.
        on_epoch_end: called with the log entry of every epoch except the last; an exception in it
            ends the run.

    Raises:
        InputError: settings, data or a run folder that cannot be used. They are checked before
            anything is written.
    """
    clock = RunClock()
    path = Path(config.run_dir)
    task = create_task(config, resume=resume, accept_changes=accept_changes)
    config = task.config
    if config.training.threads:
        torch.set_num_threads(config.training.threads)
    accelerator = make_accelerator(config.training.precision, freezes=freeze_epochs(config) > 0)
    check_precision(accelerator, config.training.optimizer)
    # the other processes print nothing
    log: Log = partial(print, flush=True) if accelerator.is_main_process else lambda line: None
    # The lock must be released even if the run fails: a search continues in this process.
    with contextlib.ExitStack() as lock, _explain_interrupt(path):
        with accelerator.main_process_first():
            exists = (path / "config.yaml").exists() or (path / "checkpoints").exists()
            if exists and accelerator.is_main_process:
                # lock before reading: another process may be finishing its run there
                lock.enter_context(lock_run(path))
            resumed = find_checkpoint(path, config, resume=resume, overwrite=overwrite, log=log)
        with accelerator.main_process_first():
            dataset = task.open(checkpoint=resumed.folder if resumed else None, log=log)
        check_val_split(task)

        torch.manual_seed(config.seed)
        state = create_state(task, accelerator, resumed, log)
        if config.training.find_batch_size and resumed is None:
            use_fitting_batch_size(task, state, dataset, log)
        settings = task.config.training
        loader = create_train_loader(task, dataset, accelerator)
        plan: BatchPlan = loader.batch_sampler
        dry_run(state, dataset, plan)
        if settings.compile:
            compile_networks(state.network, state.eval_network, device=accelerator.device)
        start_or_restore(state, settings, plan, resumed)

        if not exists and accelerator.is_main_process:
            lock_new_run(path, lock, overwrite=overwrite)
        run = open_run_folder(
            path, task, accelerator, resumed=resumed, overwrite=overwrite, log=log, clock=clock
        )
        log_start(state, task, plan, resumed, log)
        if resumed is not None:
            verify_last(run, state, resumed)
            verify_best(run, state)

        clock.loop_started = time.process_time()
        with run.log_file:
            fit(state, task, loader, run, on_epoch_end=on_epoch_end)
        clock.loop_ended = time.process_time()

        uncompile_networks(state.network, state.eval_network)
        results = measure(state, task, run)
        shape = (1, *dataset[(0, 0)]["image"].shape)
        results |= {
            "parameters": count_parameters(state.model),
            "epochs": state.progress.epoch,
            "best_epoch": state.progress.best_epoch,
            "multiply_adds": multiply_adds(state.network, shape),
            **asdict(clock.times()),
            "environment": environment_line(accelerator.device.type),
            "processes": accelerator.num_processes,
        }
        if accelerator.is_main_process:
            write_results(state, task, run, results)
        accelerator.wait_for_everyone()
        return results


def create_task(config: Any, *, resume: bool, accept_changes: bool) -> Task:
    """Check the settings before any data is read, and find the pretrained weights of a new run."""
    if resume:
        config = with_stored_choices(config)
    task = TASKS[type(config)](config, accept_changes=accept_changes)
    check_settings(task)
    if not resume:
        task.pretrained = find_pretrained(config.model)
    return task


@contextlib.contextmanager
def _explain_interrupt(path: Path) -> Iterator[None]:
    """Add the checkpoint that the run can continue from to a KeyboardInterrupt."""
    try:
        yield
    except KeyboardInterrupt as stop:
        raise KeyboardInterrupt(str(stop) or resume_hint(path)) from None


def create_network(task: Task, resumed: Resumed | None, log: Log) -> nn.Module:
    """Build the network of the settings, new or with the weights of a checkpoint."""
    arguments = task.description["model"]
    if resumed is not None:
        arguments |= resumed.stored_arguments()
        model = build_model(arguments)
        resumed.load_weights(model)
        return model
    if task.config.model.start_from is not None:
        model = create_started(arguments, task.config.model.start_from, log)
        # its functions can be finer, or fewer, than those of the settings
        check_refine(task.config.training, copy.deepcopy(model))
        return model
    model = build_model(arguments, pretrained=True)
    if task.pretrained is not None:
        log(f"model: the encoder begins with the weights of {task.pretrained.source}")
    return model


def create_state(
    task: Task, accelerator: Accelerator, resumed: Resumed | None, log: Log
) -> TrainState:
    """Build network, average, penalty and optimizer, and prepare them for the device and the
    processes.
    """
    settings = task.config.training
    model = create_network(task, resumed, log)
    ema = None
    if settings.ema:
        ema = create_ema(model, settings.ema).to(accelerator.device)
    penalty = Penalty(model, settings.penalty)
    groups = parameter_groups(model, with_encoder_lr(task.config, model))
    for line in (*describe_function_rates(model, settings), *describe_encoder(task.config, model)):
        log(line)
    frozen = None
    if freeze_epochs(task.config):
        check_can_freeze(accelerator)
        frozen = FrozenEncoder(pretrained_part(model)[1], freeze_epochs(task.config))
    if settings.refine:
        check_can_refine(accelerator)
    # On a CPU a step of single operations takes 5 % of the training of a small network.
    optimizer = make_optimizer(settings, groups, fused=accelerator.device.type == "cpu")
    model, optimizer = accelerator.prepare(model, optimizer)
    if accelerator.process_index:
        # all processes have drawn the same initial weights; their dropout must differ
        torch.manual_seed(task.config.seed + accelerator.process_index)
    return TrainState(accelerator, model, optimizer, penalty, ema, frozen)


def use_fitting_batch_size(task: Task, state: TrainState, dataset: Dataset, log: Log) -> None:
    """Reduce the batch size in the settings of the task until it fits into memory, and raise the
    accumulation accordingly.
    """
    settings = task.config.training
    size, accumulate = find_batch_size(state, task, dataset)
    if size == settings.batch_size:
        log(f"training.batch_size {size} fits into memory")
    else:
        log(
            f"training.batch_size {settings.batch_size} does not fit into memory: {size}, with"
            f" training.accumulate {settings.accumulate} -> {accumulate}"
        )
    fitting = replace(settings, batch_size=size, accumulate=accumulate)
    task.config = replace(task.config, training=fitting)


def create_train_loader(task: Task, dataset: Dataset, accelerator: Accelerator) -> DataLoader:
    """Return the loader of the training set; its `batch_sampler` is the `BatchPlan` of this
    process.
    """
    workers = task.config.data.workers
    plan = BatchPlan(
        len(dataset),
        task.config.training.batch_size,
        seed=task.config.seed,
        rank=accelerator.process_index,
        world_size=accelerator.num_processes,
    )
    return make_loader(
        dataset,
        workers=workers,
        batch_sampler=plan,
        persistent_workers=workers > 0,
        pin_memory=accelerator.device.type == "cuda",
    )


def start_or_restore(
    state: TrainState, settings: Any, plan: BatchPlan, resumed: Resumed | None
) -> None:
    """Set optimizer, random numbers, progress and schedule to the first step, or restore them from
    a checkpoint.

    Raises:
        InputError: the checkpoint does not fit.
    """
    layout = [plan.num_samples, settings.batch_size, settings.accumulate, plan.world_size]
    if resumed is not None:
        resumed.check(layout)
        restore(state, resumed)
    state.progress.layout = layout
    state.lr_scheduler = create_lr_scheduler(
        state.optimizer,
        settings,
        total=settings.epochs * -(-plan.batches_per_epoch // settings.accumulate),
        step=state.progress.step,
        plateau=state.progress.lr_scheduler,
    )


def log_start(
    state: TrainState, task: Task, plan: BatchPlan, resumed: Resumed | None, log: Log
) -> None:
    """Log the network, where a resumed run continues, and why it may have nothing left to train."""
    progress, model, settings = state.progress, task.config.model, task.config.training
    if resumed is not None:
        log(
            translate(
                "resumed from {folder}: epoch {epoch}, step {step}",
                folder=resumed.folder,
                epoch=progress.epoch + 1,
                step=progress.step,
            )
        )
    log(
        translate(
            "{name}, basis {basis}: {parameters:,} parameters; {batches} batches"
            " per epoch on {device}",
            name=model.name,
            basis=model.basis,
            parameters=count_parameters(state.model),
            batches=plan.batches_per_epoch,
            device=state.accelerator.device,
        )
    )
    if progress.stopped_early(settings.patience):
        log(
            translate(
                "this run has stopped early, after {epoch} epochs, {stale} validations without an"
                " improvement; to continue, set a larger training.patience",
                epoch=progress.epoch,
                stale=progress.stale,
            )
        )
    elif progress.finished(settings):
        log(
            translate(
                "this run is finished, with {epoch} epochs; to continue, set a larger"
                " training.epochs",
                epoch=progress.epoch,
            )
        )


def lock_new_run(path: Path, lock: contextlib.ExitStack, *, overwrite: bool) -> None:
    """Lock the folder of a new run; the lock is the first file that a run writes.

    Raises:
        RunBusy: another process has started a run there meanwhile.
    """
    lock.enter_context(lock_run(path))
    if not overwrite and (path / "config.yaml").exists():
        raise RunBusy(f"{path}: another process has started and ended a run there meanwhile")


def count_parameters(model: nn.Module) -> int:
    """Return the number of parameters of a model."""
    return sum(parameter.numel() for parameter in model.parameters())


def measure(state: TrainState, task: Task, run: RunFolder) -> dict[str, Any]:
    """Load the best weights and evaluate them on val and test: split -> scores."""
    if not (run.path / "best").is_dir():
        save_best(run, state)
    state.accelerator.wait_for_everyone()
    load_best(state, task, run.path / "best")
    scores = {}
    for split in task.eval_datasets:
        scores[split] = task.measure(state.network, split, state.accelerator, run.path)
    return scores


def load_best(state: TrainState, task: Task, folder: Path) -> None:
    """Load the best weights; if they are of an epoch before a refinement (`training.refine`), into
    the network of that epoch, which replaces the refined one.
    """
    arguments = read_description(folder)["model"]
    if arguments.get("refined") != task.description["model"].get("refined"):
        task.description["model"] = arguments
        network = build_model(arguments).to(state.accelerator.device)
        state.model = state.accelerator.prepare_model(network, evaluation_mode=True)
    state.network.load_state_dict(read_weights(folder))


def write_results(state: TrainState, task: Task, run: RunFolder, results: dict[str, Any]) -> None:
    """Write metrics.json, draw the report unless it is off, and print the scores."""
    path, log = run.path, run.log
    run.clock.save(path)
    atomic_write_text(path / "metrics.json", json.dumps(plain(results), indent=1) + "\n")
    drawn: list[Path] = []
    if task.config.training.report:
        drawn = draw_figures(state, task, path, results)
    # A finished run that is resumed may have figures that are no longer drawn.
    names = {figure.name for figure in drawn}
    for name in IMAGES:
        if name not in names:
            (path / name).unlink(missing_ok=True)
    for split in task.eval_datasets:
        title = translate(
            "{split}, weights of epoch {epoch}", split=split, epoch=results["best_epoch"]
        )
        log(f"\n{title}{translate(', ')}{task.table(results[split])}")
    ending = translate(
        "{seconds} s; scores: {scores}; weights: {weights}",
        seconds=f"{results['seconds']:.0f}",
        scores=path / "metrics.json",
        weights=path / "best",
    )
    log(f"\n{ending}")
    if drawn:
        *images, page = drawn
        log(
            translate(
                "images: {images}; all on one page: {page}",
                images=", ".join(map(str, images)),
                page=page,
            )
        )


def draw_figures(state: TrainState, task: Task, path: Path, results: dict[str, Any]) -> list[Path]:
    """Draw the figures of a run and the page that shows them; return their paths, the page last."""
    images = task.draw(state.network, results, path, device=state.accelerator.device)
    curves = draw_curves(
        read_log(path / "log.jsonl"),
        path / "curves.png",
        monitor=task.config.training.monitor,
        best_epoch=results["best_epoch"],
    )
    return [*images, curves, draw_report(path, results)]
