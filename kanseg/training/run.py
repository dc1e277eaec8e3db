"""One experiment from its settings: data, network, training, measurement, pictures."""

from __future__ import annotations

import contextlib
import json
import shutil
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from torch.utils.data import DataLoader, Dataset

from kanseg.checkpoint import build_model, read_weights
from kanseg.config import ClassificationConfig, Config, write_text
from kanseg.counting import multiply_adds
from kanseg.errors import InputError
from kanseg.inference.evaluate import let_the_main_process_stop
from kanseg.layers import Penalty
from kanseg.machine import machine_line
from kanseg.training.batches import BatchPlan
from kanseg.training.classification import ClassificationTask
from kanseg.training.curves import draw_curves
from kanseg.training.log import RunLog, plain
from kanseg.training.loop import Training, fit, restore, save_best
from kanseg.training.optimisers import NEEDS_CLOSURE, create_optimiser, create_schedule
from kanseg.training.report import draw_report
from kanseg.training.resume import Resumed, find_checkpoint, lock_run
from kanseg.training.segmentation import SegmentationTask
from kanseg.training.settings import check_settings
from kanseg.training.task import Task, Tell

PICTURES = ("curves.png", "overview.png", "worst.png", "best.png", "confusion.png", "report.html")
TASKS: dict[type, type[Task]] = {Config: SegmentationTask, ClassificationConfig: ClassificationTask}


def train(config: Any, *, resume: bool = False, overwrite: bool = False, watch: Callable[[dict[str, Any]], None] | None = None) -> dict[str, Any]:
    """Run an experiment to its end and return what `metrics.json` holds.

    Args:
        config: all settings of an experiment: a `Config` (segmentation) or a `ClassificationConfig`.
        resume: go on from the newest complete checkpoint in the run folder.
        overwrite: delete what an earlier run left in the run folder.
        watch: gets the log's entry of every epoch but the last; what it raises ends the run.

    Raises:
        InputError: settings, data or run folder that cannot be used; nothing is written before they were checked.
    """
    started, started_cpu = time.perf_counter(), time.process_time()
    task = TASKS[type(config)](config)
    check_settings(task)
    if config.training.threads:
        torch.set_num_threads(config.training.threads)
    AcceleratorState._reset_state()  # else a second run in one process could not choose another precision
    accelerator = Accelerator(mixed_precision=config.training.precision)
    if accelerator.mixed_precision == "fp16" and accelerator.device.type == "cpu":
        raise InputError("training.precision fp16 needs a GPU; use bf16 or no on the CPU")
    if accelerator.mixed_precision == "fp16" and config.training.optimizer in NEEDS_CLOSURE:
        raise InputError(f"{config.training.optimizer} cannot scale its losses for training.precision fp16; use bf16 or no")
    tell: Tell = partial(print, flush=True) if accelerator.is_main_process else lambda _: None
    resumed = find_checkpoint(Path(config.run_dir), config, resume=resume, overwrite=overwrite, tell=tell)
    with accelerator.main_process_first():
        dataset = task.open(checkpoint=resumed.folder if resumed else None, tell=tell)
    torch.manual_seed(config.seed)
    training = assemble(task, accelerator, dataset, resumed=resumed, overwrite=overwrite, tell=tell)
    parameters = sum(p.numel() for p in training.model.parameters())
    batches = training.plan.batches_per_epoch
    tell(f"{config.model.name}, basis {config.model.basis}: {parameters:,} parameters; {batches} batches an epoch on {accelerator.device}")
    training.watch = watch
    with training.lock or contextlib.nullcontext():  # free again whatever ends the run: a search goes on in the same process
        with contextlib.closing(training.log):
            fit(training)
        results = _measure(training)
        results |= {"parameters": parameters, "epochs": config.training.epochs, "best_epoch": training.progress.best_epoch}
        results["multiply_adds"] = multiply_adds(accelerator.unwrap_model(training.model), (1, *dataset[(0, 0)]["image"].shape))
        results |= {"seconds": round(time.perf_counter() - started, 1), "cpu_seconds": round(time.process_time() - started_cpu, 1)}
        results |= {"machine": machine_line(accelerator.device.type), "processes": accelerator.num_processes}
        if accelerator.is_main_process:
            _report(training, results, tell)
        accelerator.wait_for_everyone()
    return results


def assemble(task: Task, accelerator: Accelerator, dataset: Dataset, *, resumed: Resumed | None, overwrite: bool, tell: Tell) -> Training:
    """Build and prepare everything that the loop needs, and open the run folder last, when all settings have proved usable."""
    config, settings, data, run = task.config, task.config.training, task.config.data, Path(task.config.run_dir)
    model = build_model(task.description["model"], pretrained=resumed is None)
    penalty = Penalty(model, settings.penalty)
    plan = BatchPlan(len(dataset), settings.batch_size, seed=config.seed, rank=accelerator.process_index, world_size=accelerator.num_processes)
    if resumed is not None:
        resumed.check([plan.num_samples, settings.batch_size, settings.accumulate, accelerator.num_processes])
        resumed.load_weights(model)
    # A generator of its own: a loader draws a number from torch's whenever it starts, and a resumed run starts it once more.
    workers = {"num_workers": data.workers, "persistent_workers": data.workers > 0, "worker_init_fn": let_the_main_process_stop}
    loader = DataLoader(dataset, batch_sampler=plan, generator=torch.Generator(), pin_memory=accelerator.device.type == "cuda", **workers)
    steps = settings.epochs * -(-plan.batches_per_epoch // settings.accumulate)
    decay = {"lr": settings.lr, "weight_decay": settings.weight_decay}
    optimizer = create_optimiser(settings.optimizer, model.parameters(), **decay, **settings.optimizer_options)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, create_schedule(settings.schedule, total=steps, warmup=settings.warmup))
    model, optimizer = accelerator.prepare(model, optimizer)
    lock = lock_run(run) if accelerator.is_main_process else None
    if accelerator.is_main_process:
        _open_run(run, config, fresh=resumed is None and overwrite)
    accelerator.wait_for_everyone()
    seen = {} if resumed is None else {"keep_bytes": resumed.state["log_bytes"], "step": resumed.state["step"]}
    log = RunLog(run, active=accelerator.is_main_process, tensorboard=settings.tensorboard, **seen)
    training = Training(task, config, run, accelerator, model, optimizer, schedule, task.loss(), penalty, plan, loader, log, tell, lock=lock)
    training.closures = settings.optimizer in NEEDS_CLOSURE
    if resumed is not None:
        restore(training, resumed.state, resumed.tensors)
        tell(f"resumed from {resumed.folder}: epoch {training.progress.epoch + 1}, step {training.progress.step}")
    return training


def _open_run(run: Path, config: Any, *, fresh: bool) -> None:
    """Make the run folder, without what an earlier run (fresh) or a killed one left behind."""
    if fresh:
        names = ("checkpoints", "samples", "tensorboard", "best", "last", "log.jsonl", "metrics.json", *PICTURES)
        for path in [*(run / name for name in names), *run.glob("scores_*.csv")]:
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)
    for rest in (run / "checkpoints").glob(".*.tmp"):
        shutil.rmtree(rest, ignore_errors=True)
    run.mkdir(parents=True, exist_ok=True)
    write_text(run / "config.yaml", config.to_yaml())


def _measure(training: Training) -> dict[str, Any]:
    """Scores of the best weights on val and test."""
    accelerator, task = training.accelerator, training.task
    if not (training.run / "best").is_dir():
        save_best(training)
    accelerator.wait_for_everyone()
    model = accelerator.unwrap_model(training.model)
    model.load_state_dict(read_weights(training.run / "best"))
    return {role: task.measure(model, role, accelerator, training.run) for role in task.held_out}


def _report(training: Training, results: dict[str, Any], tell: Tell) -> None:
    """metrics.json, curves, pictures, the page of all of them, and the closing lines."""
    run, task = training.run, training.task
    write_text(run / "metrics.json", json.dumps(plain(results), indent=1) + "\n")
    for name in PICTURES:  # those of a run that was resumed after its end, of which not every one need be drawn again
        (run / name).unlink(missing_ok=True)
    curves = draw_curves(run / "log.jsonl", run / "curves.png", monitor=task.config.training.monitor, best_epoch=results["best_epoch"])
    pictures = task.draw(training.accelerator.unwrap_model(training.model), results, run, device=training.accelerator.device)
    page = draw_report(run, results)
    for role in task.held_out:
        tell(f"\n{role}, weights of epoch {results['best_epoch']}, {task.table(results[role])}")
    tell(f"\n{results['seconds']:.0f} s; scores: {run / 'metrics.json'}; weights: {run / 'best'}")
    tell(f"pictures: {', '.join(map(str, [*pictures, curves]))}; all on one page: {page}")
