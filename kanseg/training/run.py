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
from torch.utils.data import DataLoader

from kanseg.checkpoint import build_model, describe, read_weights
from kanseg.config import Config, write_text
from kanseg.data import Augmentation, LabelInfo, Preprocess, Sample, SegmentationDataset, open_data
from kanseg.errors import InputError
from kanseg.inference.evaluate import evaluate, let_the_main_process_stop
from kanseg.layers import Penalty
from kanseg.losses import WeightedLoss
from kanseg.metrics import table
from kanseg.training.batches import BatchPlan
from kanseg.training.log import RunLog, plain
from kanseg.training.loop import Training, fit, restore, save_best
from kanseg.training.optimisers import warmup_cosine
from kanseg.training.pictures import draw_curves, draw_samples
from kanseg.training.preparation import check_batches, check_settings, chosen_samples, make_preprocess, pair
from kanseg.training.resume import Resumed, find_checkpoint, lock_run

Tell = Callable[[str], None]
Samples = dict[str, list[Sample]]


def train(config: Config, *, resume: bool = False, overwrite: bool = False) -> dict[str, Any]:
    """Run an experiment to its end and return what `metrics.json` holds.

    Args:
        config: all settings.
        resume: go on from the newest complete checkpoint in the run folder.
        overwrite: delete what an earlier run left in the run folder.

    Raises:
        InputError: settings, data or run folder that cannot be used; nothing is written before they were checked.
    """
    started = time.perf_counter()
    check_settings(config)
    if config.training.threads:
        torch.set_num_threads(config.training.threads)
    AcceleratorState._reset_state()  # else a second run in one process could not choose another precision
    accelerator = Accelerator(mixed_precision=config.training.precision)
    if accelerator.mixed_precision == "fp16" and accelerator.device.type == "cpu":
        raise InputError("training.precision fp16 needs a GPU; use bf16 or no on the CPU")
    tell: Tell = partial(print, flush=True) if accelerator.is_main_process else lambda _: None
    run = Path(config.run_dir)
    resumed = find_checkpoint(run, config, resume=resume, overwrite=overwrite, tell=tell)
    augmentation = Augmentation(config.data.augment, pair("data.crop", config.data.crop))
    with accelerator.main_process_first():
        folder = open_data(config.data, tell=tell)
    samples, sizes = chosen_samples(config.data, folder, tell=tell)
    preprocess = make_preprocess(config.data, samples["train"], checkpoint=resumed.folder if resumed else None)
    dataset = SegmentationDataset(samples["train"], folder.info, preprocess, augmentation=augmentation, seed=config.seed)
    check_batches(config, dataset, sizes)
    torch.manual_seed(config.seed)
    training = assemble(config, accelerator, dataset, samples["val"], resumed=resumed, overwrite=overwrite, tell=tell)
    parameters = sum(p.numel() for p in training.model.parameters())
    batches = training.plan.batches_per_epoch
    tell(f"{config.model.name}, basis {config.model.basis}: {parameters:,} parameters; {batches} batches an epoch on {accelerator.device}")
    with contextlib.closing(training.log):
        fit(training)
    results = _measure(training, samples, folder.info, preprocess)
    results |= {"parameters": parameters, "epochs": config.training.epochs, "best_epoch": training.progress.best_epoch}
    results["seconds"] = round(time.perf_counter() - started, 1)
    if accelerator.is_main_process:
        _report(training, samples, results, tell)
    accelerator.wait_for_everyone()
    if training.lock is not None:
        training.lock.close()
    return results


def assemble(
    config: Config, accelerator: Accelerator, dataset: SegmentationDataset, validation: list[Sample], *, resumed: Resumed | None, overwrite: bool, tell: Tell
) -> Training:
    """Build and prepare everything that the loop needs, and open the run folder last, when all settings have proved usable."""
    settings, data, run = config.training, config.data, Path(config.run_dir)
    description = describe(config, dataset.info, dataset.preprocess)
    model = build_model(description["model"])
    penalty = Penalty(model, settings.penalty)
    plan = BatchPlan(len(dataset), settings.batch_size, seed=config.seed, rank=accelerator.process_index, world_size=accelerator.num_processes)
    if resumed is not None:
        resumed.check([plan.num_samples, settings.batch_size, settings.accumulate, accelerator.num_processes])
        resumed.load_weights(model)
    # A generator of its own: a loader draws a number from torch's whenever it starts, and a resumed run starts it once more.
    workers = {"num_workers": data.workers, "persistent_workers": data.workers > 0, "worker_init_fn": let_the_main_process_stop}
    loader = DataLoader(dataset, batch_sampler=plan, generator=torch.Generator(), pin_memory=accelerator.device.type == "cuda", **workers)
    loss = WeightedLoss(settings.loss, dataset.info.task)
    steps = settings.epochs * -(-plan.batches_per_epoch // settings.accumulate)
    optimizer = torch.optim.AdamW(model.parameters(), lr=settings.lr, weight_decay=settings.weight_decay)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, partial(warmup_cosine, total=steps, warmup=settings.warmup))
    model, optimizer = accelerator.prepare(model, optimizer)
    lock = lock_run(run) if accelerator.is_main_process else None
    if accelerator.is_main_process:
        _open_run(run, config, fresh=resumed is None and overwrite)
    accelerator.wait_for_everyone()
    seen = {} if resumed is None else {"keep_bytes": resumed.state["log_bytes"], "step": resumed.state["step"]}
    log = RunLog(run, active=accelerator.is_main_process, tensorboard=settings.tensorboard, **seen)
    held_out = SegmentationDataset(validation, dataset.info, dataset.preprocess) if validation else None
    training = Training(config, run, accelerator, model, optimizer, schedule, loss, penalty, plan, loader, held_out, description, log, tell, lock=lock)
    if resumed is not None:
        restore(training, resumed.state, resumed.tensors)
        tell(f"resumed from {resumed.folder}: epoch {training.progress.epoch + 1}, step {training.progress.step}")
    return training


def _open_run(run: Path, config: Config, *, fresh: bool) -> None:
    """Make the run folder, without what an earlier run (fresh) or a killed one left behind."""
    if fresh:
        for name in ("checkpoints", "samples", "tensorboard", "best", "last", "log.jsonl", "metrics.json", "curves.png", "overview.png"):
            path = run / name
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)
    for rest in (run / "checkpoints").glob(".*.tmp"):
        shutil.rmtree(rest, ignore_errors=True)
    run.mkdir(parents=True, exist_ok=True)
    write_text(run / "config.yaml", config.to_yaml())


def _measure(training: Training, samples: Samples, info: LabelInfo, preprocess: Preprocess) -> dict[str, Any]:
    """Scores of the best weights on val and test."""
    accelerator, config = training.accelerator, training.config
    if not (training.run / "best").is_dir():
        save_best(training)
    accelerator.wait_for_everyone()
    model = accelerator.unwrap_model(training.model)
    model.load_state_dict(read_weights(training.run / "best"))
    results: dict[str, Any] = {}
    for role in ("val", "test"):
        if samples[role]:
            dataset = SegmentationDataset(samples[role], info, preprocess)
            options = {"tile": training.description["tile"], "batch_size": config.training.batch_size, "workers": config.data.workers}
            results[role] = evaluate(model, dataset, accelerator, title=role, **options).compute()
    return results


def _report(training: Training, samples: Samples, results: dict[str, Any], tell: Tell) -> None:
    """metrics.json, curves, sample panels and the closing lines."""
    run, config, seen = training.run, training.config, training.loader.dataset
    write_text(run / "metrics.json", json.dumps(plain(results), indent=1) + "\n")
    draw_curves(run / "log.jsonl", run / "curves.png", monitor=config.training.monitor)
    dataset = SegmentationDataset(samples["test"] or samples["val"] or samples["train"], seen.info, seen.preprocess)
    where = {"tile": training.description["tile"], "device": training.accelerator.device}
    draw_samples(training.accelerator.unwrap_model(training.model), dataset, run, count=config.training.panels, **where)
    for role in ("val", "test"):
        if role in results:
            tell(f"\n{role}, {results[role]['pictures']} pictures, weights of epoch {results['best_epoch']}:\n{table(results[role])}")
    tell(f"\n{results['seconds']:.0f} s; scores: {run / 'metrics.json'}; weights: {run / 'best'}")
    tell(f"pictures: {run / 'overview.png'}, {run / 'samples'}, {run / 'curves.png'}")
