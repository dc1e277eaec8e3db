"""Classification: what a run for labels trains on, is measured by, and shows."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor, nn

from kanseg.data import (
    ClassificationDataset,
    ImageAugmentation,
    ImageSet,
    Mixer,
    Preprocess,
    channel_statistics,
    open_images,
)
from kanseg.data.classification.dataset import image_contents, limited, many_files
from kanseg.data.classification.sources import ImageSource
from kanseg.data.split_record import Content, read_record
from kanseg.evaluation.evaluate import measure
from kanseg.inference.checkpoint import DESCRIPTION, model_arguments, preprocess_from
from kanseg.losses import ClassificationLoss
from kanseg.metrics import ClassificationMetrics, classification_table
from kanseg.metrics.classification import Classified
from kanseg.models import list_models
from kanseg.models.classification import CLASSIFIERS
from kanseg.training.run_folder.splits import compare_labels, split_of_run
from kanseg.training.settings import pair
from kanseg.training.task import Log, Scores, Task
from kanseg.utils.errors import InputError
from kanseg.utils.reading import read_json
from kanseg.utils.registry import nearest
from kanseg.visualization.classification import (
    draw_confusion,
    draw_predictions,
    surest_mistakes,
)

MISTAKES = 24  # wrong images that are shown, at least
HEADLINE = ("top1", "top5", "mean_precision", "mean_recall", "mean_f1", "auc_ovr", "auc_ovo")


class ClassificationTask(Task):
    """Labeled images; cross entropy; top-1, recall, F1, AUC; the confusion matrix and
    samples.
    """

    target = "label"
    monitors = HEADLINE

    def __init__(self, config: Any, *, accept_changes: bool = False):
        super().__init__(config, accept_changes=accept_changes)
        self._measured: dict[
            str | None, dict[int, Classified]
        ] = {}  # what was evaluated last under a title

    def check(self) -> None:
        settings, name, known = (
            self.config.training,
            self.config.model.name,
            list_models("classification"),
        )
        if name not in known:
            raise InputError(
                f"model.name: {name!r} is no classifier{nearest(name, known)} (known:"
                f" {', '.join(known)})"
            )
        if not 0 <= settings.label_smoothing < 1 or min(settings.mixup, settings.cutmix) < 0:
            raise InputError(
                "training.label_smoothing must be a share from 0 to below 1, training.mixup and"
                f" training.cutmix at least 0, got {settings.label_smoothing}, {settings.mixup} and"
                f" {settings.cutmix}"
            )
        ImageAugmentation(self.config.data.augment)

    def model_arguments(
        self, classes: int = 10, image_size: tuple[int, int] | None = None
    ) -> dict[str, Any]:
        model, given = (
            self.config.model,
            {"in_channels": self.config.data.channels, "classes": classes},
        )
        if model.name in CLASSIFIERS:
            given["image_size"] = list(
                image_size or pair("data.resize", self.config.data.resize) or (8, 8)
            )
        return model_arguments(model, **given)

    def open(self, *, checkpoint: Path | None, log: Log) -> ClassificationDataset:
        data = self.config.data
        splits = {role: getattr(data, role) for role in ("train", "val", "test")}
        options = {
            "download": data.download,
            "val_share": data.val_share,
            "split_seed": data.split_seed,
            "limit": data.limit,
        }

        def choose(
            found: dict[str, ImageSource], dealt: set[str], classes: Sequence[str]
        ) -> dict[str, ImageSource] | None:
            labels = {"task": "classification", "classes": classes}
            compare_labels(checkpoint, **labels, where=data.root, log=log)
            return self._held(found, dealt, classes, checkpoint, log)

        images = open_images(
            data.root,
            data.format,
            **splits,
            **options,
            log=log,
            choose=None if checkpoint is None else choose,
        )
        if self.split is None:
            sampled = many_files(images.splits)
            now = self._contents(images.splits, images.classes, sampled)
            stored = {"accept": self.accept_changes, "log": log, "sampled": sampled}
            _, self.split = split_of_run(self.config, now, checkpoint=checkpoint, **stored)
        if self.config.training.monitor == "top5" and len(images.classes) < 6:
            raise InputError(
                f"training.monitor top5 says nothing of {len(images.classes)} classes: monitor top1"
            )
        preprocess = self._preprocess(images, checkpoint)
        self.classes = images.classes
        self.held_out = {
            role: ClassificationDataset(images.splits[role], images.classes, preprocess)
            for role in ("val", "test")
            if role in images.splits
        }
        self._train = ClassificationDataset(images.splits["train"], images.classes, preprocess)
        if not self._train.one_size and self.config.training.batch_size > 1:
            raise InputError(
                "the training images have different sizes: set data.resize to [height, width], or"
                " training.batch_size to 1"
            )
        augmentation = ImageAugmentation(data.augment) if data.augment else None
        dataset = ClassificationDataset(
            images.splits["train"],
            images.classes,
            preprocess,
            augmentation=augmentation,
            seed=self.config.seed,
        )
        shapes = {tuple(dataset[(epoch, 0)]["image"].shape) for epoch in range(8)}
        if len(shapes) > 1:
            raise InputError(
                "the augmentation gives images of different sizes"
                f" ({', '.join(map(str, sorted(shapes)))}): end data.augment with a Resize or crop"
            )
        _, height, width = shapes.pop()
        self.description = {
            "kanseg": 1,
            "model": self.model_arguments(len(images.classes), (height, width)),
            "labels": {"task": "classification", "classes": list(images.classes)},
            "preprocess": asdict(preprocess),
        }
        settings = self.config.training
        self._mixer = (
            Mixer(settings.mixup, settings.cutmix, num_classes=len(images.classes))
            if settings.mixup or settings.cutmix
            else None
        )
        return dataset

    def _contents(
        self, splits: Mapping[str, ImageSource], classes: Sequence[str], sampled: bool
    ) -> dict[str, dict[str, Content]]:
        """role -> name -> content."""
        root = Path(self.config.data.root)
        return {
            role: image_contents(source, classes, root, ends_only=sampled)
            for role, source in splits.items()
        }

    def _held(
        self,
        splits: dict[str, ImageSource],
        dealt: set[str],
        classes: Sequence[str],
        checkpoint: Path,
        log: Log,
    ) -> dict[str, ImageSource] | None:
        """The splits of a run that goes on: its samples on their sides; None for a run that has
        stored none.
        """
        record, data = read_record(checkpoint), self.config.data
        if record is None:
            return None
        if self.accept_changes and data.limit is not None and data.limit < len(splits["train"]):
            splits = splits | {"train": limited(splits["train"], data.limit, data.split_seed)}
        now = self._contents(splits, classes, record.sampled)
        names, self.split = split_of_run(
            self.config,
            now,
            checkpoint=checkpoint,
            accept=self.accept_changes,
            log=log,
            dealt=dealt,
            name_new=data.limit is None,
        )
        everything = ImageSource.joined(list(splits.values()))
        keys = [key for members in now.values() for key in members]
        place = {key: number for number, key in enumerate(keys)}
        return {
            role: everything.subset(np.array([place[key] for key in names[role]], dtype=np.int64))
            for role in splits
            if names.get(role)
        }

    def _preprocess(self, images: ImageSet, checkpoint: Path | None) -> Preprocess:
        if checkpoint is not None:
            return preprocess_from(read_json(checkpoint / DESCRIPTION)["preprocess"])
        data = self.config.data
        for name in ("mean", "std"):
            values = getattr(data, name)
            if values is not None and (
                len(values) != data.channels or (name == "std" and min(values) <= 0)
            ):
                raise InputError(
                    f"data.{name} must have {data.channels}"
                    f" {'positive ' if name == 'std' else ''}values, one a channel, got {values}"
                )
        resize = pair("data.resize", data.resize)
        mean, std = channel_statistics(
            images.splits["train"],
            Preprocess(
                data.channels, gamma=data.gamma, resize=resize, interpolation=data.interpolation
            ),
            at_most=4096,
        )
        return Preprocess(
            data.channels,
            tuple(data.mean or mean),
            tuple(data.std or std),
            data.gamma,
            resize,
            data.interpolation,
        )

    def loss(self) -> Callable[[Any, Tensor], Tensor]:
        return ClassificationLoss(label_smoothing=self.config.training.label_smoothing)

    def mix(self, images: Tensor, target: Tensor, seed: int) -> tuple[Tensor, Tensor]:
        return (images, target) if self._mixer is None else self._mixer(images, target, seed)

    def evaluate(
        self,
        model: nn.Module,
        dataset: ClassificationDataset,
        accelerator: Accelerator,
        *,
        title: str,
    ) -> Scores:
        size = self.config.training.batch_size if dataset.one_size else 1
        where = {
            "target": "label",
            "batch_size": size,
            "workers": self.config.data.workers,
            "title": title,
        }
        metrics = measure(
            model,
            dataset,
            accelerator,
            ClassificationMetrics(dataset.classes),
            lambda net, images: net(images),
            **where,
        )
        self._measured[title] = metrics.per_image
        return metrics.compute()

    def headline(self, scores: Scores) -> Scores:
        return {name: scores[name] for name in HEADLINE}

    def table(self, scores: Scores) -> str:
        return f"{scores['images']} images\n{classification_table(scores)}"

    def draw(
        self, model: nn.Module, results: Scores, run: Path, *, device: torch.device
    ) -> list[Path]:
        role = next((role for role in ("test", "val") if role in self.held_out), None)
        dataset = self._train if role is None else self.held_out[role]
        written = [] if role is None else [draw_confusion(results[role], run / "confusion.png")]
        count = min(self.config.training.panels, len(dataset))
        if count < 1:
            return written
        chosen = sorted({int(i) for i in np.linspace(0, len(dataset) - 1, count)})
        known = {
            i: image.probabilities for i, image in self._measured.get(role, {}).items()
        } or _probabilities(model, dataset, chosen, device)
        sheets = {
            "overview.png": chosen,
            "worst.png": surest_mistakes(self._measured.get(role, {}), max(count, MISTAKES)),
        }
        for name, indices in sheets.items():
            if indices:
                images, labels = (
                    [dataset.source[i][0] for i in indices],
                    [dataset.source[i][1] for i in indices],
                )
                guesses = np.stack([known[i] for i in indices])
                written.append(
                    draw_predictions(
                        images,
                        labels,
                        guesses.argmax(axis=1).tolist(),
                        guesses,
                        dataset.classes,
                        run / name,
                    )
                )
        return written

    def names(self, indices: Iterable[int]) -> list[str]:
        return [self._train.source[i][2] for i in indices]


@torch.no_grad()
def _probabilities(
    model: nn.Module, dataset: ClassificationDataset, indices: Iterable[int], device: torch.device
) -> dict[int, np.ndarray]:
    """Probabilities (N,) of some images, predicted one by one."""
    model.eval()
    return {
        i: (
            torch.softmax(model(dataset[i]["image"][None].to(device)).float(), dim=1)[0]
            .cpu()
            .numpy()
        )
        for i in indices
    }
