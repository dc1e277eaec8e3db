"""The segmentation task: data, loss, scores and images of a run."""

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
from kanseg.data.splits import SPLITS
from kanseg.data.splits.record import Content, SplitRecord, name_of, sample_contents
from kanseg.data.transforms import FLIPS
from kanseg.encoders import EncoderWeights
from kanseg.evaluation.evaluate import surface_options, write_table
from kanseg.evaluation.segmentation import evaluate_network
from kanseg.evaluation.tables import table
from kanseg.inference.checkpoint import DESCRIPTION
from kanseg.inference.description import describe, preprocess_from
from kanseg.losses import (
    WeightedLoss,
    check_class_weights,
    check_options,
    check_supervision,
    check_weights,
    frequency_weights,
)
from kanseg.metrics import SCORES, SegmentationMetrics, SurfaceOptions
from kanseg.models import list_models
from kanseg.training.pretrained import encoder_statistics
from kanseg.training.run_folder.splits import compare_labels, compare_masks, split_of_run
from kanseg.training.settings import check_statistics, pair
from kanseg.training.task import Log, Scores, Task
from kanseg.utils.command import command
from kanseg.utils.errors import InputError
from kanseg.utils.language import translate
from kanseg.utils.reading import read_json
from kanseg.utils.registry import nearest
from kanseg.visualization.panels import draw_results
from kanseg.visualization.previews import preview

MAX_WARNINGS = 3  # of each kind that are logged
FOREGROUND = ("foreground_iou", "foreground_dice")
PER_IMAGE = (
    "per_image_foreground_iou",
    "per_image_foreground_dice",
    "per_image_mean_iou",
    "per_image_mean_dice",
)
ONE_CLASS = "iou/"  # prefix of the name of a class in training.monitor


class SegmentationTask(Task):
    """Segmentation: images with masks, a weighted loss, IoU and Dice, panels of image, ground
    truth, prediction and errors.
    """

    target = "mask"

    def __init__(self, config: Any, *, accept_changes: bool = False):
        super().__init__(config, accept_changes=accept_changes)
        # split -> confusion matrix of each image, set by `measure`
        self._confusions: dict[str, dict[int, np.ndarray]] = {}

    @property
    def monitors(self) -> tuple[str, ...]:
        """Means over classes, with or without the background, and the IoU of one class as iou/NAME;
        `open` checks the name.
        """
        one_class = f"{ONE_CLASS}CLASS"
        if self.config.training.monitor.startswith(ONE_CLASS):
            one_class = self.config.training.monitor
        return (*FOREGROUND, *(f"mean_{name}" for name in SCORES), *PER_IMAGE, one_class)

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
                "model.name: {name!r} is not a segmentation network{hint} (known: {known})",
                name=name,
                hint=nearest(name, known),
                known=", ".join(known),
            )

    def model_arguments(self) -> dict[str, Any]:
        label_spec = LabelSpec("binary", ("a", "b"))
        preprocess = Preprocess(self.config.data.channels)
        return describe(self.config, label_spec, preprocess)["model"]

    def open(self, *, checkpoint: Path | None, log: Log) -> SegmentationDataset:
        self.use_transforms(FLIPS, log)
        data = self.config.data
        crop = pair("data.crop", data.crop)
        augmentation = Augmentation(data.augment, crop, data.oversample_foreground)
        report, samples = open_samples(data, log=log)
        root, label_spec = report.index.root, report.index.label_spec
        if checkpoint is not None:
            compare_labels(
                checkpoint, task=label_spec.task, classes=label_spec.classes, where=root, log=log
            )
            compare_masks(checkpoint, label_spec, where=root)
        samples, self.split_record = self._keep_splits(report, samples, checkpoint, log)
        self.preprocess = make_preprocess(
            data, samples["train"], checkpoint=checkpoint, pretrained=self.pretrained, log=log
        )
        dataset = SegmentationDataset(
            samples["train"],
            label_spec,
            self.preprocess,
            augmentation=augmentation,
            seed=self.config.seed,
        )
        sizes = Counter()
        for sample in samples["train"]:
            sizes[tuple(report.prober.image(sample.image).size)] += 1
        check_batches(self.config, dataset, sizes)
        for split in ("val", "test"):
            if samples[split]:
                self.eval_datasets[split] = SegmentationDataset(
                    samples[split], label_spec, self.preprocess
                )
        self.description = describe(self.config, label_spec, self.preprocess)
        self._train = SegmentationDataset(samples["train"], label_spec, self.preprocess)
        self._check_monitor(label_spec.classes)
        self._loss = self._weighted_loss(label_spec)
        return dataset

    def _keep_splits(
        self,
        report: Report,
        samples: Mapping[str, Sequence[Sample]],
        checkpoint: Path | None,
        log: Log,
    ) -> tuple[dict[str, list[Sample]], SplitRecord]:
        """Return the samples of each split; a resumed run keeps the splits that it started with."""
        index = report.index
        by_name: dict[str, Sample] = {}
        found: dict[str, dict[str, Content]] = {}
        for split, members in samples.items():
            contents = sample_contents(members, index.root, report.prober.digest)
            found[split] = {}
            for sample in members:
                name = name_of(sample.image, index.root)
                by_name[name] = sample
                found[split][name] = contents[sample]
        seeded: tuple[str, ...] = ()
        if index.split_by_hash:
            seeded = SPLITS
        elif self.config.data.folds:
            seeded = ("train", "val")
        names, record = split_of_run(
            self.config,
            found,
            checkpoint=checkpoint,
            accept=self.accept_changes,
            log=log,
            seeded=seeded,
        )
        kept = {}
        for split in SPLITS:
            kept[split] = [by_name[name] for name in names.get(split, ())]
        if any(kept[split] != samples[split] for split in SPLITS):
            sizes = ", ".join(f"{split} {len(members)}" for split, members in kept.items())
            log(f"data: this run has the samples {sizes}")
        return kept, record

    def _check_monitor(self, classes: Sequence[str]) -> None:
        """Check that the class of a monitor iou/NAME exists."""
        monitor = self.config.training.monitor
        name = monitor.removeprefix(ONE_CLASS)
        if monitor.startswith(ONE_CLASS) and name not in classes:
            raise InputError(
                "training.monitor: {name!r} is not a class{hint} (known: {names})",
                name=name,
                hint=nearest(name, classes),
                names=", ".join(classes),
            )

    def _weighted_loss(self, label_spec: LabelSpec) -> WeightedLoss:
        settings = self.config.training
        weights = settings.class_weights
        if isinstance(weights, str):
            weights = frequency_weights(class_frequencies(self._train.samples, label_spec), weights)
        if weights is not None:
            check_class_weights(weights, label_spec.classes)
        return WeightedLoss(
            settings.loss,
            label_spec.task,
            options=settings.loss_options,
            class_weights=weights,
            supervision=settings.supervision,
        )

    def loss(self, output: Any, target: Tensor) -> Tensor:
        return self._loss(output, target)

    def evaluate(
        self,
        model: nn.Module,
        dataset: SegmentationDataset,
        accelerator: Accelerator,
        *,
        title: str,
    ) -> Scores:
        return self._evaluate(model, dataset, accelerator, title).compute()

    def measure(self, model: nn.Module, split: str, accelerator: Accelerator, run: Path) -> Scores:
        dataset, surface = self.eval_datasets[split], surface_options(self.config)
        metrics = self._evaluate(model, dataset, accelerator, split, surface)
        self._confusions[split] = {
            index: image.confusion for index, image in metrics.per_image.items()
        }
        if accelerator.is_main_process:
            write_table(run / f"scores_{split}.csv", metrics, dataset.samples)
        return metrics.compute()

    def _evaluate(
        self,
        model: nn.Module,
        dataset: SegmentationDataset,
        accelerator: Accelerator,
        title: str,
        surface: SurfaceOptions | None = None,
    ) -> SegmentationMetrics:
        return evaluate_network(
            model,
            dataset,
            accelerator,
            tile=self.description["tile"],
            batch_size=self.config.training.batch_size,
            workers=self.config.data.workers,
            title=title,
            surface=surface,
        )

    def headline(self, scores: Scores) -> Scores:
        result = {
            key: value for key, value in scores.items() if key.startswith(("mean_", "foreground_"))
        }
        for name in PER_IMAGE:
            result[name] = scores["per_image"][name.removeprefix("per_image_")]
        result["iou"] = {label: row["iou"] for label, row in scores["classes"].items()}
        monitor = self.config.training.monitor
        if monitor.startswith(ONE_CLASS):
            result[monitor] = result["iou"][monitor.removeprefix(ONE_CLASS)]
        return result

    def advice(self, scores: Scores) -> str | None:
        if scores["foreground_iou"] != 0:
            return None
        return translate(
            "no pixel of the foreground is right on val, since the network predicts background or"
            " a wrong class everywhere. Objects that fill a small part of the images need weight:"
            " training.class_weights balanced, data.crop with data.oversample_foreground 0.5, or"
            " more of dice in training.loss; try more epochs and another training.lr too, and look"
            " at the masks ({command} --html)",
            command=command("check"),
        )

    def table(self, scores: Scores) -> str:
        images = translate("{count} images", count=scores["images"])
        return f"{images}\n{table(scores)}"

    def draw(
        self, model: nn.Module, results: Scores, run: Path, *, device: torch.device
    ) -> list[Path]:
        split = next((name for name in ("test", "val") if name in self.eval_datasets), "train")
        return draw_results(
            model,
            self.eval_datasets.get(split, self._train),
            run,
            per_image=self._confusions.get(split),
            count=self.config.training.panels,
            tile=self.description["tile"],
            device=device,
        )

    def preview(self, model: nn.Module, accelerator: Accelerator) -> np.ndarray:
        with accelerator.autocast():
            return preview(
                model,
                self.eval_datasets["val"],
                count=self.config.training.log_images,
                tile=self.description["tile"],
                device=accelerator.device,
            )

    def names(self, indices: Iterable[int]) -> list[str]:
        return [self._train.samples[index].name for index in indices]


def open_samples(
    data: DataConfig, *, log: Callable[[str], None]
) -> tuple[Report, dict[str, list[Sample]]]:
    """Check the data set of the settings.

    Returns:
        The report of the check, and the samples of train, val and test; val and test are empty
        if the data set does not have them.

    Raises:
        InputError: all errors in the data, a line each; with `skip_bad`, bad samples are left out
            instead.
    """
    report = check_data(data)
    for note in report.notes:
        log(translate("data: {line}", line=note))
    if report.errors and (not data.skip_bad or any(issue.kind.stops for issue in report.errors)):
        raise InputError("\n".join(report.lines(report.errors)))
    for code, issues in report.by_kind(report.warnings).items():
        lines = report.lines(issues)
        for line in lines[:MAX_WARNINGS]:
            log(translate("data: warning: {line}", line=line))
        if len(lines) > MAX_WARNINGS:
            log(
                translate(
                    "data: warning: ... {count} in all: {title} ({command} lists them)",
                    count=len(issues),
                    title=translate(KINDS[code].title),
                    command=command("check"),
                )
            )
    for line in report.lines(report.errors):
        log(translate("data: left out: {line}", line=line))
    samples = {}
    for split in SPLITS:
        valid = [sample for sample in report.splits[split] if sample not in report.bad]
        samples[split] = valid
        bad = len(report.splits[split]) - len(valid)
        if valid:
            summary = report.statistics[split].summary(report.index.label_spec)
            left_out = ""
            if bad:
                left_out = translate(" ({count} left out)", count=bad)
            log(
                translate(
                    "data: {split} {count} images{left_out}, {summary}",
                    split=split,
                    count=len(valid),
                    left_out=left_out,
                    summary=summary,
                )
            )
    if not samples["train"]:
        names = ", ".join(data.train) or translate("(none given)")
        raise InputError("no images to train on in split {names}", names=names, where=data.root)
    return report, samples


def make_preprocess(
    data: DataConfig,
    train_samples: list[Sample],
    *,
    checkpoint: Path | None = None,
    pretrained: EncoderWeights | None = None,
    log: Log,
) -> Preprocess:
    """Return the preprocessing of the settings; mean and standard deviation are those of a
    pretrained encoder, or computed from the training images, unless they are given.

    Args:
        data: the settings.
        train_samples: for the statistics.
        checkpoint: the checkpoint that is resumed; its preprocessing is kept.
        pretrained: the weights of the encoder, if they are pretrained.
        log: receives a line about mean and standard deviation of a pretrained encoder.

    Raises:
        InputError: values that do not fit the channels.
    """
    if checkpoint is not None:
        return preprocess_from(read_json(checkpoint / DESCRIPTION)["preprocess"])
    check_statistics("data.mean", data.mean, data.channels)
    check_statistics("data.std", data.std, data.channels, positive=True)
    plain = Preprocess(
        data.channels,
        gamma=data.gamma,
        resize=pair("data.resize", data.resize),
        interpolation=data.interpolation,
        floats=read_sample_image(train_samples[0]).dtype == np.float32,
    )
    if data.mean and data.std:
        return replace(plain, mean=tuple(data.mean), std=tuple(data.std))
    mean, std = encoder_statistics(pretrained, plain, log) or channel_statistics(
        train_samples, plain
    )
    return replace(plain, mean=tuple(data.mean or mean), std=tuple(data.std or std))


def check_batches(config: Any, dataset: SegmentationDataset, sizes: Counter) -> None:
    """Augment a sample, and check that the results have the same size, as a batch needs.

    Raises:
        InputError: a transform fails, or images have different sizes.
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
        few = ", ".join(f"{h}x{w}" for (h, w), _ in sizes.most_common(3))
        raise InputError(
            "the training images have {count} sizes (height x width: {sizes}): set data.resize"
            " or data.crop to [height, width], or training.batch_size to 1",
            count=len(sizes),
            sizes=few,
        )
    if len(shapes) > 1:
        few = ", ".join(f"{h}x{w}" for h, w in sorted(shapes))
        raise InputError(
            "the augmentation gives images of the sizes (height x width) {sizes}, for example"
            " by rotating images that are not square; set data.crop or data.resize to a square",
            sizes=few,
        )
