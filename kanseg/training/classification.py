"""The classification task: data, loss, scores and images of a run."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
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
from kanseg.data.classification.augmentation import default_transforms
from kanseg.data.classification.dataset import image_contents, limited, many_files
from kanseg.data.classification.sources import ImageSource
from kanseg.data.splits.record import Content, read_record
from kanseg.evaluation.classification import write_class_table
from kanseg.evaluation.loop import eval_mode, evaluate, gather_images
from kanseg.inference.checkpoint import DESCRIPTION
from kanseg.inference.description import model_arguments, preprocess_from
from kanseg.losses import ClassificationLoss
from kanseg.metrics import ClassificationMetrics, classification_table
from kanseg.metrics.classification import Classified
from kanseg.models import list_models
from kanseg.models.classification import CLASSIFIERS
from kanseg.training.pretrained import encoder_statistics
from kanseg.training.run_folder.splits import compare_labels, split_of_run
from kanseg.training.settings import check_statistics, pair
from kanseg.training.task import Log, Scores, Task
from kanseg.utils.errors import InputError
from kanseg.utils.language import translate
from kanseg.utils.reading import read_json
from kanseg.utils.registry import nearest
from kanseg.visualization.classification import (
    draw_confusion,
    draw_predictions,
    surest_mistakes,
)

MISTAKES = 24  # misclassified images that are drawn, at least
HEADLINE = ("top1", "top5", "mean_precision", "mean_recall", "mean_f1", "auc_ovr", "auc_ovo")


class ClassificationTask(Task):
    """Classification: labeled images, cross entropy, top-1, recall, F1 and AUC, a confusion matrix
    and sample images.
    """

    target = "label"
    monitors = HEADLINE

    def __init__(self, config: Any, *, accept_changes: bool = False):
        super().__init__(config, accept_changes=accept_changes)
        # split -> images, of the last evaluation of each
        self._evaluated: dict[str | None, dict[int, Classified]] = {}
        self._mixer: Mixer | None = None

    def check(self) -> None:
        settings, name = self.config.training, self.config.model.name
        known = list_models("classification")
        if name not in known:
            raise InputError(
                "model.name: {name!r} is not a classifier{hint} (known: {known})",
                name=name,
                hint=nearest(name, known),
                known=", ".join(known),
            )
        if not 0 <= settings.label_smoothing < 1 or min(settings.mixup, settings.cutmix) < 0:
            raise InputError(
                "training.label_smoothing must be a share from 0 to below 1, training.mixup and"
                " training.cutmix at least 0, got {label_smoothing}, {mixup} and {cutmix}",
                label_smoothing=settings.label_smoothing,
                mixup=settings.mixup,
                cutmix=settings.cutmix,
            )
        if self.config.model.encoder is not None:
            raise InputError(
                "model.encoder: a classifier is an encoder with a head; name the encoder by"
                " model.name"
            )
        ImageAugmentation(self.config.data.augment)

    def model_arguments(
        self, classes: int = 10, image_size: tuple[int, int] | None = None
    ) -> dict[str, Any]:
        model, data = self.config.model, self.config.data
        given: dict[str, Any] = {"in_channels": data.channels, "classes": classes}
        if model.name in CLASSIFIERS:
            size = image_size or pair("data.resize", data.resize) or (8, 8)
            given["image_size"] = list(size)
        return model_arguments(model, **given)

    def open(self, *, checkpoint: Path | None, log: Log) -> ClassificationDataset:
        settings = self.config.training
        images = self._open_images(checkpoint, log)
        self.use_transforms(default_transforms(images.classes), log)
        if self.split_record is None:
            sampled = many_files(images.splits)
            _, self.split_record = split_of_run(
                self.config,
                self._contents(images.splits, images.classes, sampled),
                checkpoint=checkpoint,
                accept=self.accept_changes,
                log=log,
                sampled=sampled,
            )
        if settings.monitor == "top5" and len(images.classes) < 6:
            raise InputError(
                "training.monitor top5 is meaningless with {count} classes; use top1",
                count=len(images.classes),
            )
        self.classes = images.classes
        self.preprocess = self._make_preprocess(images, checkpoint, log)
        for split, source in images.splits.items():
            self.eval_datasets[split] = ClassificationDataset(
                source, images.classes, self.preprocess
            )
        self._train = self.eval_datasets.pop("train")
        if not self._train.one_size and settings.batch_size > 1:
            raise InputError(
                "the training images have different sizes: set data.resize to [height, width],"
                " or training.batch_size to 1"
            )
        augmentation = None
        if self.config.data.augment:
            augmentation = ImageAugmentation(self.config.data.augment)
        dataset = ClassificationDataset(
            images.splits["train"],
            images.classes,
            self.preprocess,
            augmentation=augmentation,
            seed=self.config.seed,
        )
        height, width = _image_size(dataset)
        self.description = {
            "kanseg": 1,
            "model": self.model_arguments(len(images.classes), (height, width)),
            "labels": {"task": "classification", "classes": list(images.classes)},
            "preprocess": asdict(self.preprocess),
            "image_size": [height, width],
        }
        self._loss = ClassificationLoss(label_smoothing=settings.label_smoothing)
        if settings.mixup or settings.cutmix:
            self._mixer = Mixer(settings.mixup, settings.cutmix, num_classes=len(images.classes))
        return dataset

    def _open_images(self, checkpoint: Path | None, log: Log) -> ImageSet:
        """Return the images of each split; a resumed run keeps the splits that it started with."""
        data = self.config.data
        choose = None
        if checkpoint is not None:
            choose = partial(self._keep_splits, checkpoint=checkpoint, log=log)
        return open_images(
            data.root,
            data.format,
            train=data.train,
            val=data.val,
            test=data.test,
            download=data.download,
            val_share=data.val_share,
            split_seed=data.split_seed,
            folds=data.folds,
            fold=data.fold,
            limit=data.limit,
            log=log,
            choose=choose,
        )

    def _contents(
        self, splits: Mapping[str, ImageSource], classes: Sequence[str], sampled: bool
    ) -> dict[str, dict[str, Content]]:
        """Return split -> name of an image -> digests of the image and its label."""
        root = Path(self.config.data.root)
        contents = {}
        for split, source in splits.items():
            contents[split] = image_contents(source, classes, root, ends_only=sampled)
        return contents

    def _keep_splits(
        self,
        splits: dict[str, ImageSource],
        seeded: set[str],
        classes: Sequence[str],
        *,
        checkpoint: Path,
        log: Log,
    ) -> dict[str, ImageSource] | None:
        """Return the images of a resumed run in the splits that it started with; None for a run
        that has stored no splits.
        """
        data = self.config.data
        compare_labels(checkpoint, task="classification", classes=classes, where=data.root, log=log)
        record = read_record(checkpoint)
        if record is None:
            return None
        if self.accept_changes and data.limit is not None and data.limit < len(splits["train"]):
            splits = splits | {"train": limited(splits["train"], data.limit, data.split_seed)}
        contents = self._contents(splits, classes, record.sampled)
        names, self.split_record = split_of_run(
            self.config,
            contents,
            checkpoint=checkpoint,
            accept=self.accept_changes,
            log=log,
            seeded=seeded,
            log_new=data.limit is None,
        )
        everything = ImageSource.joined(list(splits.values()))
        position: dict[str, int] = {}
        for members in contents.values():
            for name in members:
                position[name] = len(position)
        kept = {}
        for split in splits:
            if names.get(split):
                indices = [position[name] for name in names[split]]
                kept[split] = everything.subset(np.array(indices, dtype=np.int64))
        return kept

    def _make_preprocess(self, images: ImageSet, checkpoint: Path | None, log: Log) -> Preprocess:
        """Return the preprocessing of the checkpoint, or that of the settings with the statistics
        of a pretrained encoder or of the training images.
        """
        if checkpoint is not None:
            return preprocess_from(read_json(checkpoint / DESCRIPTION)["preprocess"])
        data = self.config.data
        check_statistics("data.mean", data.mean, data.channels)
        check_statistics("data.std", data.std, data.channels, positive=True)
        plain = Preprocess(
            data.channels,
            gamma=data.gamma,
            resize=pair("data.resize", data.resize),
            interpolation=data.interpolation,
        )
        if data.mean and data.std:
            return replace(plain, mean=tuple(data.mean), std=tuple(data.std))
        mean, std = encoder_statistics(self.pretrained, plain, log) or channel_statistics(
            images.splits["train"], plain, at_most=4096
        )
        return replace(plain, mean=tuple(data.mean or mean), std=tuple(data.std or std))

    def loss(self, output: Any, target: Tensor) -> Tensor:
        return self._loss(output, target)

    def mix(self, images: Tensor, target: Tensor, seed: int) -> tuple[Tensor, Tensor]:
        if self._mixer is None:
            return images, target
        return self._mixer(images, target, seed)

    def evaluate(
        self,
        model: nn.Module,
        dataset: ClassificationDataset,
        accelerator: Accelerator,
        *,
        title: str,
    ) -> Scores:
        network = accelerator.unwrap_model(model)
        metrics = ClassificationMetrics(dataset.classes)

        def predict(batch: dict[str, Tensor]) -> Tensor:
            with accelerator.autocast():
                return network(batch["image"])

        with eval_mode(network):
            evaluate(
                predict,
                dataset,
                metrics.update,
                target="label",
                batch_size=self.config.training.batch_size if dataset.one_size else 1,
                workers=self.config.data.workers,
                accelerator=accelerator,
                title=title,
            )
        gather_images(metrics, accelerator)
        self._evaluated[title] = metrics.per_image
        return metrics.compute()

    def measure(self, model: nn.Module, split: str, accelerator: Accelerator, run: Path) -> Scores:
        scores = super().measure(model, split, accelerator, run)
        if accelerator.is_main_process:
            names = self.eval_datasets[split].source.keys(Path(self.config.data.root))
            write_class_table(
                run / f"scores_{split}.csv", self._evaluated[split], self.classes, names
            )
        return scores

    def headline(self, scores: Scores) -> Scores:
        return {name: scores[name] for name in HEADLINE}

    def table(self, scores: Scores) -> str:
        images = translate("{count} images", count=scores["images"])
        return f"{images}\n{classification_table(scores)}"

    def draw(
        self, model: nn.Module, results: Scores, run: Path, *, device: torch.device
    ) -> list[Path]:
        """Draw the confusion matrix of test (or val), some of its images (or training images), and
        the most confident mistakes.
        """
        dataset, written = self._train, []
        evaluated: dict[int, Classified] = {}
        split = next((name for name in ("test", "val") if name in self.eval_datasets), None)
        if split is not None:
            dataset, evaluated = self.eval_datasets[split], self._evaluated.get(split, {})
            written.append(draw_confusion(results[split], run / "confusion.png"))
        count = min(self.config.training.panels, len(dataset))
        if count < 1:
            return written
        chosen = sorted({int(index) for index in np.linspace(0, len(dataset) - 1, count)})
        if evaluated:
            probabilities = {index: image.probabilities for index, image in evaluated.items()}
        else:
            probabilities = _probabilities(model, dataset, chosen, device)
        mistakes = surest_mistakes(evaluated, max(count, MISTAKES))
        for name, indices in (("overview.png", chosen), ("worst.png", mistakes)):
            if indices:
                written.append(_draw_images(dataset, indices, probabilities, run / name))
        return written

    def names(self, indices: Iterable[int]) -> list[str]:
        return [self._train.source[index][2] for index in indices]


def _image_size(dataset: ClassificationDataset) -> tuple[int, int]:
    """Return the (height, width) of augmented images.

    Raises:
        InputError: they have different sizes.
    """
    shapes = {tuple(dataset[(epoch, 0)]["image"].shape) for epoch in range(8)}
    if len(shapes) > 1:
        sizes = ", ".join(map(str, sorted(shapes)))
        raise InputError(
            "the augmentation gives images of different sizes ({sizes}): end data.augment with"
            " a Resize or crop",
            sizes=sizes,
        )
    _, height, width = shapes.pop()
    return height, width


def _draw_images(
    dataset: ClassificationDataset,
    indices: Sequence[int],
    probabilities: Mapping[int, np.ndarray],
    path: Path,
) -> Path:
    """Draw images with their label and their predicted class."""
    images, labels = [], []
    for index in indices:
        image, label, _ = dataset.source[index]
        images.append(image)
        labels.append(label)
    shown = np.stack([probabilities[index] for index in indices])
    predicted = shown.argmax(axis=1).tolist()
    return draw_predictions(images, labels, predicted, shown, dataset.classes, path)


@torch.no_grad()
def _probabilities(
    model: nn.Module, dataset: ClassificationDataset, indices: Iterable[int], device: torch.device
) -> dict[int, np.ndarray]:
    """Predict some images one by one; index -> probabilities (N,)."""
    model.eval()
    found = {}
    for index in indices:
        logits = model(dataset[index]["image"][None].to(device)).float()
        found[index] = torch.softmax(logits, dim=1)[0].cpu().numpy()
    return found
