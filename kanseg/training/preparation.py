"""From settings to checked samples and preprocessing; everything that can be wrong is told here, before anything is written."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import torch

from kanseg.checkpoint import DESCRIPTION, build_model, describe, preprocess_from
from kanseg.config import Config, DataConfig
from kanseg.data import Folder, LabelInfo, Preprocess, Sample, SegmentationDataset, channel_statistics, check_samples, orphan_masks, overlapping
from kanseg.errors import InputError
from kanseg.layers import Penalty
from kanseg.losses import check_weights
from kanseg.metrics import SegmentationMetrics
from kanseg.models import list_models
from kanseg.registry import nearest

ROLES = ("train", "val", "test")
AT_LEAST = {
    "seed": 0,
    "data.split_seed": 0,
    "data.channels": 1,
    "data.workers": 0,
    "training.epochs": 1,
    "training.batch_size": 1,
    "training.accumulate": 1,
    "training.validate_every": 1,
    "training.keep": 1,
    "training.save_every": 0,
    "training.log_every": 0,
    "training.panels": 0,
    "training.threads": 0,
    "training.weight_decay": 0,
}
POSITIVE = ("data.gamma", "training.lr", "training.clip")


def check_settings(config: Config) -> None:
    """Ranges of the settings that do not depend on the data.

    Raises:
        InputError: the first setting that is out of its range.
    """
    for name, minimum in AT_LEAST.items():
        if _get(config, name) < minimum:
            raise InputError(f"{name} must be at least {minimum}, got {_get(config, name)}")
    for name in POSITIVE:
        if _get(config, name) is not None and not _get(config, name) > 0:
            raise InputError(f"{name} must be positive, got {_get(config, name)}")
    if not 0 <= config.training.warmup <= 1:
        raise InputError(f"training.warmup must be a share from 0 to 1, got {config.training.warmup}")
    check_weights(config.training.loss)
    if config.model.name not in (known := list_models("segmentation")):
        raise InputError(f"model.name: {config.model.name!r} is no segmentation network{nearest(config.model.name, known)} (known: {', '.join(known)})")
    with torch.device("meta"):  # a look at the options of the model, without its memory
        model = build_model(describe(config, LabelInfo("binary", ("a", "b")), Preprocess(channels=config.data.channels))["model"])
    try:
        Penalty(model, config.training.penalty)
    except ValueError as error:
        raise InputError(f"training.penalty: {error}") from None
    pair("data.resize", config.data.resize)
    pair("data.crop", config.data.crop)
    known = [*(name for name in SegmentationMetrics(("a", "b")).compute() if name.startswith("mean_")), "per_image_mean_iou"]
    if config.training.monitor not in known:
        raise InputError(f"training.monitor {config.training.monitor!r} is not one of {', '.join(known)}{nearest(config.training.monitor, known)}")


def _get(config: Config, name: str) -> float:
    for part in name.split("."):
        config = getattr(config, part)
    return config


def pair(name: str, value: list[int] | None) -> tuple[int, int] | None:
    """[height, width] as a tuple, or an InputError."""
    if value is None:
        return None
    if len(value) != 2 or min(value) < 1:
        raise InputError(f"{name} must be [height, width] of positive integers, got {value}")
    return value[0], value[1]


def chosen_samples(data: DataConfig, folder: Folder, *, tell: Callable[[str], None]) -> tuple[dict[str, list[Sample]], Counter]:
    """The samples of train, val and test, every file of them checked, and the sizes of the training pictures.

    A split val or test that the data set does not have is told and empty.

    Raises:
        InputError: faults, all of them, a line each; with `skip_bad` faulty samples are left out instead.
    """
    names = {role: _present(getattr(data, role), role, folder, tell) for role in ROLES}
    samples = {role: folder.samples(names[role]) for role in ROLES}
    faults = overlapping(folder, names)
    if faults:
        raise InputError("\n".join(faults))
    faults += orphan_masks(folder)
    sizes: Counter = Counter()
    for role in ROLES:
        report = check_samples(samples[role], folder.info)
        faults += report.faults.values()
        samples[role] = [sample for sample in samples[role] if sample not in report.faults]
        if role == "train":
            sizes = report.sizes
        empty = [name for name, count in zip(folder.info.classes, report.pixels, strict=False) if not count]
        if role == "train" and empty:
            tell(f"data: no pixel of {', '.join(empty)} to train on")
        if samples[role]:
            left_out = f" ({len(report.faults)} left out)" if report.faults else ""
            tell(f"data: {role} {len(samples[role])} pictures{left_out}, {report.summary(folder.info)}")
    faults = list(dict.fromkeys(faults))
    if faults and not data.skip_bad:
        raise InputError("\n".join(faults))
    for fault in faults:
        tell(f"data: left out: {fault}")
    if not samples["train"]:
        raise InputError(f"{folder.root}: no pictures to train on in split {', '.join(data.train) or '(none given)'}")
    return samples, sizes


def _present(names: list[str], role: str, folder: Folder, tell: Callable[[str], None]) -> list[str]:
    """The names without a plain val or test that the data set does not have."""
    if role == "train" or names != [role] or role in folder.splits or role in folder.broken or nearest(role, folder.splits):
        return names
    tell(f"data: there is no split {role!r}, so nothing is {'selected' if role == 'val' else 'measured'} on one (found: {', '.join(folder.splits)})")
    return []


def make_preprocess(data: DataConfig, train_samples: list[Sample], *, checkpoint: Path | None = None) -> Preprocess:
    """The preprocessing of the settings, with the statistics of the training pictures where none are given.

    Args:
        data: the settings.
        train_samples: for the statistics.
        checkpoint: one that is resumed; its preprocessing is kept.

    Raises:
        InputError: values that do not fit the channels.
    """
    if checkpoint is not None:
        return preprocess_from(json.loads((checkpoint / DESCRIPTION).read_text(encoding="utf-8"))["preprocess"])
    for name in ("mean", "std"):
        values = getattr(data, name)
        if values is not None and (len(values) != data.channels or (name == "std" and min(values) <= 0)):
            raise InputError(f"data.{name} must have {data.channels} {'positive ' if name == 'std' else ''}values, one a channel, got {values}")
    resize = pair("data.resize", data.resize)
    mean, std = channel_statistics(train_samples, Preprocess(data.channels, gamma=data.gamma, resize=resize, interpolation=data.interpolation))
    return Preprocess(data.channels, tuple(data.mean or mean), tuple(data.std or std), data.gamma, resize, data.interpolation)


def check_batches(config: Config, dataset: SegmentationDataset, sizes: Counter) -> None:
    """Try the augmentation on a sample, and whether its results fit into one batch.

    Raises:
        InputError: a transform that fails; pictures of different sizes.
    """
    data = config.data
    shapes = {tuple(dataset[(epoch, 0)]["mask"].shape) for epoch in range(8)}
    if config.training.batch_size == 1:
        return
    if data.resize is None and data.crop is None and len(sizes) > 1 and len(shapes) == 1:
        few = ", ".join(f"{w}x{h}" for (h, w), _ in sizes.most_common(3))
        raise InputError(f"the training pictures have {len(sizes)} sizes ({few}): set data.resize or data.crop to [height, width], or training.batch_size to 1")
    if len(shapes) > 1:
        few = ", ".join(f"{w}x{h}" for h, w in sorted(shapes))
        raise InputError(f"the augmentation gives pictures of sizes {few}, as turning does to oblong ones; set data.crop or data.resize to a square")
