"""One experiment from its settings: data, network, training, measurement, pictures."""

from __future__ import annotations

import json
import math
import shutil
import time
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import torch
import yaml
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from torch import nn
from torch.utils.data import DataLoader

from kanseg.checkpoint import build_model, describe, preprocess_from, read_weights
from kanseg.config import Config, DataConfig, write_text
from kanseg.data import (
    Augmentation,
    Folder,
    LabelInfo,
    Preprocess,
    Sample,
    SegmentationDataset,
    channel_statistics,
    check_samples,
    open_data,
    orphan_masks,
    overlapping,
)
from kanseg.errors import InputError
from kanseg.inference.evaluate import evaluate, one_size
from kanseg.losses import WeightedLoss
from kanseg.metrics import SegmentationMetrics, table
from kanseg.training.batches import BatchPlan
from kanseg.training.log import RunLog, plain
from kanseg.training.loop import Progress, Training, fit, restore
from kanseg.training.pictures import draw_curves, draw_samples
from kanseg.training.resume import newest_complete, read_training

SPLIT_ROLES = ("train", "val", "test")


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
    if config.training.threads:
        torch.set_num_threads(config.training.threads)
    AcceleratorState._reset_state()  # else a second run in one process could not choose another precision
    accelerator = Accelerator(mixed_precision=config.training.precision)
    tell = partial(print, flush=True) if accelerator.is_main_process else lambda *_: None
    run = Path(config.run_dir)
    checkpoint = _find_checkpoint(run, resume, overwrite, tell)
    with accelerator.main_process_first():
        folder = open_data(config.data, tell=tell)
    samples = chosen_samples(config.data, folder, tell=tell)
    preprocess = make_preprocess(config.data, samples["train"], previous=checkpoint)
    torch.manual_seed(config.seed)
    training = assemble(config, run, accelerator, folder.info, samples, preprocess, checkpoint=checkpoint, overwrite=overwrite, tell=tell)
    parameters = sum(p.numel() for p in training.model.parameters())
    batches = training.plan.batches_per_epoch
    tell(f"{config.model.name}, basis {config.model.basis}: {parameters:,} parameters; {batches} batches an epoch on {accelerator.device}")
    fit(training)
    training.log.close()
    results = _measure(training, samples, folder.info, preprocess)
    results |= {
        "parameters": parameters,
        "epochs": config.training.epochs,
        "best_epoch": training.progress.best_epoch,
        "seconds": round(time.perf_counter() - started, 1),
    }
    if accelerator.is_main_process:
        _report(training, samples, results, tell)
    accelerator.wait_for_everyone()
    return results


def chosen_samples(data: DataConfig, folder: Folder, *, tell: Any = print) -> dict[str, list[Sample]]:
    """The samples of train, val and test, every file of them checked.

    Raises:
        InputError: faults, all of them, a line each; with `skip_bad` those samples are left out instead.
    """
    samples = {role: folder.samples(getattr(data, role)) for role in SPLIT_ROLES}
    faults = overlapping(folder, samples) if not set(data.train) & set(data.val + data.test) else []
    faults += orphan_masks(folder)
    bad: set[Sample] = set()
    for role in SPLIT_ROLES:
        report = check_samples(samples[role], folder.info)
        faults += report.faults
        bad |= report.bad
        if samples[role]:
            tell(f"data: {role} {len(samples[role])} pictures, {report.summary(folder.info)}")
    faults = list(dict.fromkeys(faults))
    if faults and not data.skip_bad:
        raise InputError("\n".join(faults))
    for fault in faults:
        tell(f"data: left out: {fault}")
    samples = {role: [s for s in chosen if s not in bad] for role, chosen in samples.items()}
    if not samples["train"]:
        raise InputError(f"{folder.root}: no pictures to train on in split {', '.join(data.train) or '(none given)'}")
    return samples


def make_preprocess(data: DataConfig, train_samples: list[Sample], *, previous: Path | None = None) -> Preprocess:
    """The preprocessing of the settings, with the statistics of the training pictures where none are given."""
    resize = pair("data.resize", data.resize)
    if data.gamma <= 0:
        raise InputError(f"data.gamma must be positive, got {data.gamma}")
    if previous is not None:
        stored = json.loads((previous / "model.json").read_text(encoding="utf-8"))["preprocess"]
        return preprocess_from(stored)
    plain_values = Preprocess(channels=data.channels, gamma=data.gamma, resize=resize)
    mean, std = channel_statistics(train_samples, plain_values)
    mean, std = tuple(data.mean or mean), tuple(data.std or std)
    for name, values in (("data.mean", mean), ("data.std", std)):
        if len(values) != data.channels:
            raise InputError(f"{name} must have {data.channels} values, one a channel, got {list(values)}")
    return Preprocess(data.channels, mean, std, data.gamma, resize)


def pair(name: str, value: list[int] | None) -> tuple[int, int] | None:
    """[height, width] as a tuple, or an InputError."""
    if value is None:
        return None
    if len(value) != 2 or min(value) < 1:
        raise InputError(f"{name} must be [height, width] of positive integers, got {value}")
    return value[0], value[1]


def assemble(
    config: Config,
    run: Path,
    accelerator: Accelerator,
    info: LabelInfo,
    samples: dict[str, list[Sample]],
    preprocess: Preprocess,
    *,
    checkpoint: Path | None,
    overwrite: bool,
    tell: Any,
) -> Training:
    """Build and prepare everything that the loop needs, and open the run folder last, when all settings have proved usable."""
    settings, data = config.training, config.data
    description = describe(config, info, preprocess)
    model = build_model(description["model"])
    augmentation = Augmentation(data.augment, pair("data.crop", data.crop))
    dataset = SegmentationDataset(samples["train"], info, preprocess, augmentation=augmentation, seed=config.seed)
    validation = SegmentationDataset(samples["val"], info, preprocess) if samples["val"] else None
    _check_settings(config, dataset)
    plan = BatchPlan(len(dataset), settings.batch_size, seed=config.seed, rank=accelerator.process_index, world_size=accelerator.num_processes)
    # A generator of its own: a loader draws a number from torch's whenever it starts, and a resumed run starts it once more.
    workers = {"num_workers": data.workers, "persistent_workers": data.workers > 0, "generator": torch.Generator()}
    loader = DataLoader(dataset, batch_sampler=plan, pin_memory=accelerator.device.type == "cuda", **workers)
    loss = WeightedLoss(settings.loss, info.task)
    steps = settings.epochs * -(-plan.batches_per_epoch // settings.accumulate)
    state, tensors = (None, None) if checkpoint is None else read_training(checkpoint)
    if checkpoint is not None:
        _load(model, read_weights(checkpoint), checkpoint)
    optimizer = torch.optim.AdamW(model.parameters(), lr=settings.lr, weight_decay=settings.weight_decay)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, partial(warmup_cosine, total=max(steps, 1), warmup=settings.warmup))
    model, optimizer = accelerator.prepare(model, optimizer)
    if accelerator.is_main_process:
        _open_run(run, config, overwrite and checkpoint is None)
    accelerator.wait_for_everyone()
    progress = Progress(**state) if state else Progress()
    log = RunLog(
        run, active=accelerator.is_main_process, tensorboard=settings.tensorboard, keep_bytes=progress.log_bytes if state else None, step=progress.step
    )
    training = Training(config, run, accelerator, model, optimizer, schedule, loss, plan, loader, validation, description, log, tell)
    if state is not None and tensors is not None:
        restore(training, state, tensors)
        tell(f"resumed from {checkpoint}: epoch {progress.epoch + 1}, step {progress.step}")
        for change in settings_changed((checkpoint / "config.yaml").read_text(encoding="utf-8"), config):
            tell(f"resumed with another setting: {change}")
    return training


def warmup_cosine(step: int, *, total: int, warmup: float) -> float:
    """Factor on the peak learning rate: linear from 1/25 over the share `warmup` of all steps, then a cosine to 0."""
    rising = warmup * total
    if step < rising:
        return 0.04 + 0.96 * step / rising
    return 0.5 * (1 + math.cos(math.pi * min((step - rising) / max(total - rising, 1), 1.0)))


def _find_checkpoint(run: Path, resume: bool, overwrite: bool, tell: Any) -> Path | None:
    """The checkpoint to go on from; None for a new run, for which the folder must be free."""
    if resume:
        folder, skipped = newest_complete(run)
        for line in skipped:
            tell(line)
        return folder
    if (run / "config.yaml").exists() and not overwrite:
        raise InputError(f"{run} holds a run already; go on with --resume, delete it with --overwrite, or choose another --run_dir")
    return None


def _open_run(run: Path, config: Config, overwrite: bool) -> None:
    if overwrite:
        for name in ("checkpoints", "samples", "tensorboard"):
            shutil.rmtree(run / name, ignore_errors=True)
        for name in ("best", "last", "log.jsonl", "metrics.json", "curves.png"):
            (run / name).unlink(missing_ok=True)
    run.mkdir(parents=True, exist_ok=True)
    write_text(run / "config.yaml", config.to_yaml())


def _check_settings(config: Config, dataset: SegmentationDataset) -> None:
    """Settings that would fail only later, or do something else than was asked."""
    settings, data = config.training, config.data
    for name in ("epochs", "batch_size", "accumulate", "validate_every", "keep"):
        if getattr(settings, name) < 1:
            raise InputError(f"training.{name} must be at least 1, got {getattr(settings, name)}")
    if not 0 <= settings.warmup <= 1 or settings.lr <= 0:
        raise InputError(f"training.warmup must be a share from 0 to 1 and training.lr positive, got {settings.warmup} and {settings.lr}")
    monitored = list(SegmentationMetrics(("a", "b")).compute())
    known = [name for name in monitored if name.startswith("mean_")] + ["per_image_mean_iou"]
    if settings.monitor not in known:
        raise InputError(f"training.monitor {settings.monitor!r} is not one of {', '.join(known)}")
    if data.resize is None and data.crop is None and settings.batch_size > 1 and not one_size(dataset):
        raise InputError("the training pictures have different sizes: set data.resize or data.crop to [height, width], or training.batch_size to 1")


def _load(model: nn.Module, weights: dict[str, torch.Tensor], checkpoint: Path) -> None:
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        first = " ".join(str(error).split())[:300]
        raise InputError(f"{checkpoint} does not fit the model of these settings: {first}") from None


def _measure(training: Training, samples: dict[str, list[Sample]], info: LabelInfo, preprocess: Preprocess) -> dict[str, Any]:
    """Scores of the best weights on val and test."""
    accelerator = training.accelerator
    accelerator.wait_for_everyone()
    model = accelerator.unwrap_model(training.model)
    model.load_state_dict(read_weights(training.run / "best"))
    results: dict[str, Any] = {}
    for role in ("val", "test"):
        if samples[role]:
            dataset = SegmentationDataset(samples[role], info, preprocess)
            tile, batch_size = training.description["tile"], training.config.training.batch_size
            metrics = evaluate(model, dataset, accelerator, tile=tile, batch_size=batch_size, workers=training.config.data.workers, title=role)
            results[role] = metrics.compute()
    return results


def _report(training: Training, samples: dict[str, list[Sample]], results: dict[str, Any], tell: Any) -> None:
    """metrics.json, curves, sample panels and the closing lines."""
    run, config = training.run, training.config
    write_text(run / "metrics.json", json.dumps(plain(results), indent=1) + "\n")
    draw_curves(run / "log.jsonl", run / "curves.png", monitor=config.training.monitor)
    shown = samples["test"] or samples["val"] or samples["train"]
    dataset = SegmentationDataset(shown, training.validation.info if training.validation else training.loader.dataset.info, training.loader.dataset.preprocess)
    draw_samples(training.accelerator.unwrap_model(training.model), dataset, run / "samples", count=config.training.panels, device=training.accelerator.device)
    for role in ("val", "test"):
        if role in results:
            tell(f"\n{role}, {results[role]['pictures']} pictures, weights of epoch {results['best_epoch']}:\n{table(results[role])}")
    tell(f"\n{results['seconds']:.0f} s; weights: {run / 'best'}; pictures: {run / 'samples'}, {run / 'curves.png'}; scores: {run / 'metrics.json'}")


def settings_changed(old: str, new: Config) -> list[str]:
    """`key: old -> new` for every setting in which a stored config differs from a new one."""
    return [f"{key}: {a!r} -> {b!r}" for key, a, b in _differences(yaml.safe_load(old), asdict(new))]


def _differences(old: Any, new: Any, prefix: str = "") -> list[tuple[str, Any, Any]]:
    if isinstance(old, dict) and isinstance(new, dict):
        keys = dict.fromkeys([*old, *new])
        return [d for key in keys for d in _differences(old.get(key), new.get(key), f"{prefix}.{key}" if prefix else str(key))]
    return [] if old == new else [(prefix, old, new)]
