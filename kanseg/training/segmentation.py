"""Segmentation: what a run for masks trains on, is measured by, and shows."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from kanseg.checkpoint import DESCRIPTION, describe, preprocess_from
from kanseg.config import DataConfig
from kanseg.data import (
    Augmentation,
    Folder,
    LabelInfo,
    Preprocess,
    Report,
    Sample,
    SegmentationDataset,
    channel_statistics,
    check_data,
)
from kanseg.data.checks import KINDS
from kanseg.errors import InputError
from kanseg.inference.evaluate import evaluate
from kanseg.losses import WeightedLoss, check_weights
from kanseg.metrics import SegmentationMetrics, table
from kanseg.models import list_models
from kanseg.registry import nearest
from kanseg.training.pictures import draw_samples
from kanseg.training.settings import pair
from kanseg.training.task import Scores, Task, Tell

ROLES = ("train", "val", "test")


class SegmentationTask(Task):
    """Pictures and masks in the folder form; a weighted loss; IoU and Dice; panels of image, truth, prediction and error."""

    target = "mask"
    monitors = (*(name for name in SegmentationMetrics(("a", "b")).compute() if name.startswith("mean_")), "per_image_mean_iou")

    def check(self) -> None:
        check_weights(self.config.training.loss)
        name, known = self.config.model.name, list_models("segmentation")
        if name not in known:
            raise InputError(f"model.name: {name!r} is no segmentation network{nearest(name, known)} (known: {', '.join(known)})")

    def model_arguments(self) -> dict[str, Any]:
        return describe(self.config, LabelInfo("binary", ("a", "b")), Preprocess(channels=self.config.data.channels))["model"]

    def open(self, *, checkpoint: Path | None, tell: Tell) -> SegmentationDataset:
        data = self.config.data
        augmentation = Augmentation(data.augment, pair("data.crop", data.crop))
        folder, samples, sizes = chosen_samples(data, tell=tell)
        preprocess = make_preprocess(data, samples["train"], checkpoint=checkpoint)
        dataset = SegmentationDataset(samples["train"], folder.info, preprocess, augmentation=augmentation, seed=self.config.seed)
        check_batches(self.config, dataset, sizes)
        self.held_out = {role: SegmentationDataset(samples[role], folder.info, preprocess) for role in ("val", "test") if samples[role]}
        self.description = describe(self.config, folder.info, preprocess)
        self._train = SegmentationDataset(samples["train"], folder.info, preprocess)
        return dataset

    def loss(self) -> Callable[[Any, Tensor], Tensor]:
        return WeightedLoss(self.config.training.loss, self._train.info.task)

    def evaluate(self, model: nn.Module, dataset: SegmentationDataset, accelerator: Accelerator, *, title: str) -> Scores:
        options = {"tile": self.description["tile"], "batch_size": self.config.training.batch_size, "workers": self.config.data.workers}
        return evaluate(model, dataset, accelerator, title=title, **options).compute()

    def headline(self, scores: Scores) -> Scores:
        means = {key: value for key, value in scores.items() if key.startswith("mean_")}
        return means | {"per_image_mean_iou": scores["per_image"]["mean_iou"], "iou": {label: row["iou"] for label, row in scores["classes"].items()}}

    def table(self, scores: Scores) -> str:
        return f"{scores['pictures']} pictures\n{table(scores)}"

    def draw(self, model: nn.Module, results: Scores, run: Path, *, device: torch.device) -> list[Path]:
        dataset = self.held_out.get("test") or self.held_out.get("val") or self._train
        draw_samples(model, dataset, run, count=self.config.training.panels, tile=self.description["tile"], device=device)
        return [run / "overview.png", run / "samples"]

    def names(self, indices: Iterable[int]) -> list[str]:
        return [self._train.samples[i].name for i in indices]


def chosen_samples(data: DataConfig, *, tell: Callable[[str], None]) -> tuple[Folder, dict[str, list[Sample]], Counter]:
    """The data set of the settings, its samples of train, val and test, every file of them checked, and the sizes of the training pictures.

    A split val or test that the data set does not have is told and empty.

    Raises:
        InputError: faults, all of them, a line each; with `skip_bad` faulty samples are left out instead.
    """
    report = check_data(data)
    for note in report.notes:
        tell(f"data: {note}")
    if report.errors and (not data.skip_bad or any(issue.kind.stops for issue in report.errors)):
        raise InputError("\n".join(dict.fromkeys(report.line(issue) for issue in report.errors)))
    _tell_warnings(report, tell)
    for issue in report.errors:
        tell(f"data: left out: {report.line(issue)}")
    samples = {role: [sample for sample in report.splits[role] if sample not in report.bad] for role in ROLES}
    for role, some in samples.items():
        if some:
            left_out = len(report.splits[role]) - len(some)
            tell(f"data: {role} {len(some)} pictures{f' ({left_out} left out)' if left_out else ''}, {report.statistics[role].summary(report.folder.info)}")
    if not samples["train"]:
        raise InputError(f"{data.root}: no pictures to train on in split {', '.join(data.train) or '(none given)'}")
    return report.folder, samples, report.statistics["train"].sizes


def _tell_warnings(report: Report, tell: Callable[[str], None], most: int = 3) -> None:
    for code, issues in report.by_kind(report.warnings).items():
        for issue in issues[:most]:
            tell(f"data: warning: {report.line(issue)}")
        if len(issues) > most:
            tell(f"data: warning: ... {len(issues)} in all: {KINDS[code].title} (tools/check_data.py lists them)")


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


def check_batches(config: Any, dataset: SegmentationDataset, sizes: Counter) -> None:
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
