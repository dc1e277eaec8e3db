"""Segmentation: what a run for masks trains on, is measured by, and shows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor, nn

from kanseg.config import DataConfig
from kanseg.data import (
    Augmentation,
    LabelSpec,
    Preprocess,
    Report,
    Sample,
    SegmentationDataset,
    channel_statistics,
    check_data,
    class_frequencies,
    read_sample_image,
)
from kanseg.data.checks import KINDS
from kanseg.data.split_record import SplitRecord, name_of, sample_contents
from kanseg.evaluation.evaluate import evaluate, surface_options, write_table
from kanseg.evaluation.tables import table
from kanseg.inference.checkpoint import DESCRIPTION, describe, preprocess_from
from kanseg.losses import (
    WeightedLoss,
    check_class_weights,
    check_options,
    check_supervision,
    check_weights,
    frequency_weights,
)
from kanseg.metrics import SCORES, SegmentationMetrics
from kanseg.models import list_models
from kanseg.training.run_folder.splits import compare_labels, compare_masks, split_of_run
from kanseg.training.settings import pair
from kanseg.training.task import Log, Scores, Task
from kanseg.utils.errors import InputError
from kanseg.utils.reading import read_json
from kanseg.utils.registry import nearest
from kanseg.visualization.panels import draw_results
from kanseg.visualization.previews import preview

ROLES = ("train", "val", "test")
PER_IMAGE = ("per_image_mean_iou", "per_image_mean_dice")
ONE_CLASS = "iou/"  # before the name of a class


class SegmentationTask(Task):
    """Images and masks in the folder form; a weighted loss; IoU and Dice; panels of image, truth,
    prediction and error.
    """

    target = "mask"

    @property
    def monitors(self) -> tuple[str, ...]:
        """Means over classes, and the IoU of one class as iou/NAME, whose name is checked when the
        data are known.
        """
        chosen = self.config.training.monitor
        return (
            *(f"mean_{name}" for name in SCORES),
            *PER_IMAGE,
            chosen if chosen.startswith(ONE_CLASS) else "iou/CLASS",
        )

    def __init__(self, config: Any, *, accept_changes: bool = False):
        super().__init__(config, accept_changes=accept_changes)
        self._confusions: dict[
            str, dict[int, np.ndarray]
        ] = {}  # of the images of val and test, when they are measured

    def check(self) -> None:
        settings = self.config.training
        check_weights(settings.loss)
        check_options(settings.loss_options, settings.loss)
        if isinstance(settings.class_weights, list):
            check_class_weights(settings.class_weights)
        check_supervision(settings.supervision)
        surface_options(self.config)
        name, known = self.config.model.name, list_models("segmentation")
        if name not in known:
            raise InputError(
                f"model.name: {name!r} is no segmentation network{nearest(name, known)} (known:"
                f" {', '.join(known)})"
            )

    def model_arguments(self) -> dict[str, Any]:
        return describe(
            self.config,
            LabelSpec("binary", ("a", "b")),
            Preprocess(channels=self.config.data.channels),
        )["model"]

    def open(self, *, checkpoint: Path | None, log: Log) -> SegmentationDataset:
        data = self.config.data
        augmentation = Augmentation(
            data.augment, pair("data.crop", data.crop), data.oversample_foreground
        )
        report, samples = chosen_samples(data, log=log)
        folder = report.index
        if checkpoint is not None:
            labels = {"task": folder.label_spec.task, "classes": folder.label_spec.classes}
            compare_labels(checkpoint, **labels, where=folder.root, log=log)
            compare_masks(checkpoint, folder.label_spec, where=folder.root)
        samples, self.split = self._held(report, samples, checkpoint, log)
        sizes = Counter(
            tuple(report.prober.image(sample.image).size) for sample in samples["train"]
        )
        preprocess = make_preprocess(data, samples["train"], checkpoint=checkpoint)
        dataset = SegmentationDataset(
            samples["train"],
            folder.label_spec,
            preprocess,
            augmentation=augmentation,
            seed=self.config.seed,
        )
        check_batches(self.config, dataset, sizes)
        self.held_out = {
            role: SegmentationDataset(samples[role], folder.label_spec, preprocess)
            for role in ("val", "test")
            if samples[role]
        }
        self.description = describe(self.config, folder.label_spec, preprocess)
        self._train = SegmentationDataset(samples["train"], folder.label_spec, preprocess)
        self._check_monitor(folder.label_spec.classes)
        self._loss = self._weighted_loss(folder.label_spec)
        return dataset

    def _held(
        self,
        report: Report,
        samples: Mapping[str, Sequence[Sample]],
        checkpoint: Path | None,
        log: Log,
    ) -> tuple[dict[str, list[Sample]], SplitRecord]:
        """The samples of train, val and test, those of a run that goes on on their sides."""
        folder, folds = report.index, self.config.data.folds
        everyone = [sample for some in samples.values() for sample in some]
        contents = sample_contents(everyone, folder.root, report.prober.digest)
        by_name = {name_of(sample.image, folder.root): sample for sample in everyone}
        now = {
            role: {name_of(sample.image, folder.root): contents[sample] for sample in some}
            for role, some in samples.items()
        }
        dealt: tuple[str, ...] = ()
        if folder.split_by_hash:
            dealt = ROLES
        elif folds:
            dealt = ("train", "val")
        names, record = split_of_run(
            self.config,
            now,
            checkpoint=checkpoint,
            accept=self.accept_changes,
            log=log,
            dealt=dealt,
        )
        held = {role: [by_name[name] for name in names.get(role, ())] for role in ROLES}
        if any(held[role] != samples[role] for role in ROLES):
            sizes = ", ".join(f"{role} {len(some)}" for role, some in held.items())
            log(f"data: the samples of this run: {sizes}")
        return held, record

    def _check_monitor(self, classes: Sequence[str]) -> None:
        monitor = self.config.training.monitor
        name = monitor.removeprefix(ONE_CLASS)
        if monitor.startswith(ONE_CLASS) and name not in classes:
            raise InputError(
                f"training.monitor: {name!r} is no class{nearest(name, classes)} (known:"
                f" {', '.join(classes)})"
            )

    def _weighted_loss(self, info: LabelSpec) -> WeightedLoss:
        settings = self.config.training
        weights = settings.class_weights
        if isinstance(weights, str):
            weights = frequency_weights(class_frequencies(self._train.samples, info), weights)
        if weights is not None:
            check_class_weights(weights, info.classes)
        return WeightedLoss(
            settings.loss,
            info.task,
            options=settings.loss_options,
            class_weights=weights,
            supervision=settings.supervision,
        )

    def loss(self) -> Callable[[Any, Tensor], Tensor]:
        return self._loss

    def evaluate(
        self,
        model: nn.Module,
        dataset: SegmentationDataset,
        accelerator: Accelerator,
        *,
        title: str,
    ) -> Scores:
        return self._evaluate(model, dataset, accelerator, title=title).compute()

    def measure(self, model: nn.Module, role: str, accelerator: Accelerator, run: Path) -> Scores:
        metrics = self._evaluate(
            model,
            self.held_out[role],
            accelerator,
            title=role,
            surface=surface_options(self.config),
        )
        self._confusions[role] = {
            index: image.confusion for index, image in metrics.per_image.items()
        }
        if accelerator.is_main_process:
            write_table(run / f"scores_{role}.csv", metrics, self.held_out[role].samples)
        return metrics.compute()

    def _evaluate(
        self,
        model: nn.Module,
        dataset: SegmentationDataset,
        accelerator: Accelerator,
        **options: Any,
    ) -> SegmentationMetrics:
        settings = {
            "tile": self.description["tile"],
            "batch_size": self.config.training.batch_size,
            "workers": self.config.data.workers,
        }
        return evaluate(model, dataset, accelerator, **settings, **options)

    def headline(self, scores: Scores) -> Scores:
        means = {key: value for key, value in scores.items() if key.startswith("mean_")}
        means |= {name: scores["per_image"][name.removeprefix("per_image_")] for name in PER_IMAGE}
        each = {label: row["iou"] for label, row in scores["classes"].items()}
        chosen = self.config.training.monitor
        return (
            means
            | {"iou": each}
            | (
                {chosen: each[chosen.removeprefix(ONE_CLASS)]}
                if chosen.startswith(ONE_CLASS)
                else {}
            )
        )

    def table(self, scores: Scores) -> str:
        return f"{scores['images']} images\n{table(scores)}"

    def draw(
        self, model: nn.Module, results: Scores, run: Path, *, device: torch.device
    ) -> list[Path]:
        role = next((role for role in ("test", "val") if role in self.held_out), "train")
        options = {
            "count": self.config.training.panels,
            "tile": self.description["tile"],
            "device": device,
        }
        return draw_results(
            model,
            self.held_out.get(role, self._train),
            run,
            per_image=self._confusions.get(role),
            **options,
        )

    def preview(self, model: nn.Module, accelerator: Accelerator) -> np.ndarray:
        with accelerator.autocast():
            return preview(
                model,
                self.held_out["val"],
                count=self.config.training.log_images,
                tile=self.description["tile"],
                device=accelerator.device,
            )

    def names(self, indices: Iterable[int]) -> list[str]:
        return [self._train.samples[i].name for i in indices]


def chosen_samples(
    data: DataConfig, *, log: Callable[[str], None]
) -> tuple[Report, dict[str, list[Sample]]]:
    """The report on the data set of the settings, and its samples of train, val and test, every
    file of them checked.

    A split val or test that the data set does not have is told and empty.

    Raises:
        InputError: faults, all of them, a line each; with `skip_bad` faulty samples are left out
            instead.
    """
    report = check_data(data)
    for note in report.notes:
        log(f"data: {note}")
    if report.errors and (not data.skip_bad or any(issue.kind.stops for issue in report.errors)):
        raise InputError("\n".join(dict.fromkeys(report.line(issue) for issue in report.errors)))
    _tell_warnings(report, log)
    for issue in report.errors:
        log(f"data: left out: {report.line(issue)}")
    samples = {
        role: [sample for sample in report.splits[role] if sample not in report.bad]
        for role in ROLES
    }
    for role, some in samples.items():
        if some:
            left_out = len(report.splits[role]) - len(some)
            log(
                f"data: {role} {len(some)} images{f' ({left_out} left out)' if left_out else ''},"
                f" {report.statistics[role].summary(report.index.label_spec)}"
            )
    if not samples["train"]:
        raise InputError(
            f"{data.root}: no images to train on in split {', '.join(data.train) or '(none given)'}"
        )
    return report, samples


def _tell_warnings(report: Report, log: Callable[[str], None], most: int = 3) -> None:
    for code, issues in report.by_kind(report.warnings).items():
        for issue in issues[:most]:
            log(f"data: warning: {report.line(issue)}")
        if len(issues) > most:
            log(
                f"data: warning: ... {len(issues)} in all: {KINDS[code].title} (tools/check_data.py"
                " lists them)"
            )


def make_preprocess(
    data: DataConfig, train_samples: list[Sample], *, checkpoint: Path | None = None
) -> Preprocess:
    """The preprocessing of the settings, with the statistics of the training images where none
    are given.

    Args:
        data: the settings.
        train_samples: for the statistics.
        checkpoint: one that is resumed; its preprocessing is kept.

    Raises:
        InputError: values that do not fit the channels.
    """
    if checkpoint is not None:
        return preprocess_from(read_json(checkpoint / DESCRIPTION)["preprocess"])
    for name in ("mean", "std"):
        values = getattr(data, name)
        if values is not None and (
            len(values) != data.channels
            or not np.isfinite(values).all()
            or (name == "std" and min(values) <= 0)
        ):
            raise InputError(
                f"data.{name} must have {data.channels}"
                f" finite{', positive' if name == 'std' else ''} values, one each, got {values}"
            )
    resize = pair("data.resize", data.resize)
    floats = read_sample_image(train_samples[0]).dtype == np.float32
    plain = Preprocess(
        data.channels,
        gamma=data.gamma,
        resize=resize,
        interpolation=data.interpolation,
        floats=floats,
    )
    mean, std = channel_statistics(train_samples, plain)
    return replace(plain, mean=tuple(data.mean or mean), std=tuple(data.std or std))


def check_batches(config: Any, dataset: SegmentationDataset, sizes: Counter) -> None:
    """Try the augmentation on a sample, and whether its results fit into one batch.

    Raises:
        InputError: a transform that fails; images of different sizes.
    """
    data = config.data
    first = dataset.samples[0]
    dataset.augmentation.check(
        dataset.preprocess.scale(read_sample_image(first), name=str(first.image)),
        name=str(first.image),
    )
    shapes = {tuple(dataset[(epoch, 0)]["mask"].shape[-2:]) for epoch in range(8)}
    if config.training.batch_size == 1:
        return
    if data.resize is None and data.crop is None and len(sizes) > 1 and len(shapes) == 1:
        few = ", ".join(f"{w}x{h}" for (h, w), _ in sizes.most_common(3))
        raise InputError(
            f"the training images have {len(sizes)} sizes ({few}): set data.resize or data.crop"
            " to [height, width], or training.batch_size to 1"
        )
    if len(shapes) > 1:
        few = ", ".join(f"{w}x{h}" for h, w in sorted(shapes))
        raise InputError(
            f"the augmentation gives images of sizes {few}, as turning does to oblong ones; set"
            " data.crop or data.resize to a square"
        )
