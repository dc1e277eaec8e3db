"""Score a classifier on splits of its data set, as `kanseg evaluate` does, and write tables of its
images.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from kanseg.config import ClassificationConfig
from kanseg.data import ClassificationDataset, ImageSet, ImageSource, open_images
from kanseg.data.classification.dataset import image_contents
from kanseg.data.names import shorten
from kanseg.data.splits import SPLITS
from kanseg.data.splits.record import read_record
from kanseg.data.splits.trained_samples import UntrainedSamples, divide_trained, unverified
from kanseg.evaluation.loop import evaluate
from kanseg.inference.classifier import Classifier
from kanseg.inference.files.class_table import probability_cells, probability_columns
from kanseg.inference.loading import load_checkpoint
from kanseg.metrics import ClassificationMetrics
from kanseg.metrics.classification import Classified
from kanseg.utils.errors import InputError
from kanseg.utils.io import atomic_write_text
from kanseg.utils.reading import read_text
from kanseg.utils.registry import nearest
from kanseg.utils.tables import csv_table


def evaluate_classifier(
    checkpoint: str | Path,
    split: str | Sequence[str],
    *,
    root: str | None = None,
    flips: int = 1,
    batch_size: int = 64,
    device: str | None = None,
    csv: str | Path | None = None,
) -> dict[str, Any]:
    """Score a classifier on one split, or on several together: `ClassificationMetrics.compute`.

    Images that the run was trained on are left out, unless the split train is requested: then there
    is a warning, and "training_images" in the scores is their number.

    Args:
        checkpoint: checkpoint or run folder.
        split: of train, val and test.
        root: folder of the data set; by default that of the training. Its classes are found by
            their names.
        flips: number of flipped views whose predictions are averaged.
        batch_size: images per batch.
        device: torch device.
        csv: file for a table with a line per image.

    Raises:
        InputError: no such checkpoint, data set or split, a class that the network does not know,
            an image that cannot be read, or options that cannot be used.
    """
    folder = Path(checkpoint)
    if (folder / "best").is_dir():
        folder = folder / "best"
    network = load_checkpoint(folder)
    classifier = Classifier([network], flips=flips, batch_size=batch_size, device=device)
    config = ClassificationConfig.from_yaml(read_text(folder / "config.yaml"))
    names = [split] if isinstance(split, str) else list(split)
    opened = _open(config, root, names)
    labeled = _labeled(opened, names, classifier.classes, Path(root or config.data.root))
    untrained = _without_trained(folder, config, labeled, names, classifier.classes)
    source = labeled.source.subset(np.array(untrained.keep, dtype=np.int64))
    dataset = ClassificationDataset(source, classifier.classes, network.preprocess)
    metrics = ClassificationMetrics(classifier.classes)

    def predict(batch: dict[str, Tensor]) -> Tensor:
        return classifier.logits(batch["image"])

    evaluate(
        predict,
        dataset,
        metrics.update,
        target="label",
        batch_size=batch_size if dataset.one_size else 1,
        workers=config.data.workers,
        title=" + ".join(names),
    )
    scores = metrics.compute()
    if untrained.trained:
        scores["training_images"] = untrained.trained
    if csv is not None:
        write_class_table(Path(csv), metrics.per_image, metrics.classes, source.keys(labeled.root))
    return scores


@dataclass(frozen=True)
class _Labeled:
    """Images to evaluate, with class indices of the network.

    Args:
        source: all images.
        root: of their data set.
        training: indices of those of the split train.
    """

    source: ImageSource
    root: Path
    training: range


def _open(config: ClassificationConfig, root: str | None, names: Sequence[str]) -> ImageSet:
    """Open the data set of a run, or another folder with the same settings.

    Raises:
        InputError: other splits than train, val and test, or one that the data set does not have.
    """
    for name in names:
        if name not in SPLITS:
            raise InputError(
                f"--split {name!r} is not one of {', '.join(SPLITS)}, which data.train, data.val"
                f" and data.test of the run choose{nearest(name, SPLITS)}"
            )
    data = config.data
    opened = open_images(
        root or data.root,
        data.format,
        train=data.train,
        val=data.val,
        test=data.test,
        val_share=data.val_share,
        split_seed=data.split_seed,
        limit=data.limit,
        check=False,
    )
    missing = [name for name in names if name not in opened.splits]
    if missing:
        raise InputError(
            f"{root or data.root}: there is no split {missing[0]} (found:"
            f" {', '.join(opened.splits)})"
        )
    return opened


def _labeled(
    opened: ImageSet, names: Sequence[str], classes: Sequence[str], root: Path
) -> _Labeled:
    """Join the images of the splits, with the class indices of the network.

    Raises:
        InputError: a class that the network does not know.
    """
    unknown = [name for name in opened.classes if name not in classes]
    if unknown:
        raise InputError(
            f"{root}: the network knows no class {unknown[0]!r}{nearest(unknown[0], classes)}"
            f" (it knows: {shorten(classes)})"
        )
    new_index = np.array([classes.index(name) for name in opened.classes])
    ordered = sorted(dict.fromkeys(names), key=lambda name: name != "train")
    joined = ImageSource.joined([opened.splits[name] for name in ordered])
    training = range(0)
    if "train" in ordered:
        training = range(len(opened.splits["train"]))
    source = ImageSource(joined.parts, joined.locations, new_index[joined.labels])
    return _Labeled(source, root, training)


def _without_trained(
    checkpoint: Path,
    config: ClassificationConfig,
    labeled: _Labeled,
    names: Sequence[str],
    classes: Sequence[str],
) -> UntrainedSamples[int]:
    """Leave out images that the run was trained on, except those of a requested split train, and
    print how many.

    Raises:
        InputError: the run was trained on all of them.
    """
    record, source = read_record(checkpoint), labeled.source
    indices = range(len(source))
    if record is None:
        untrained = unverified(indices, labeled.training)
    else:
        keys = source.keys(labeled.root)
        contents = image_contents(source, classes, labeled.root, ends_only=record.sampled)
        untrained = divide_trained(
            record,
            dict(zip(indices, keys, strict=True)),
            {index: contents[key] for index, key in zip(indices, keys, strict=True)},
            same_set=labeled.root.resolve() == Path(config.data.root).resolve(),
            splits=set(names),
            requested_train=labeled.training,
        )
    for line in untrained.lines:
        print(f"data: {line}")
    if not untrained.keep:
        raise InputError(
            f"{labeled.root}: the run of {checkpoint} was trained on all {len(source)} images of"
            f" {' + '.join(names)}; evaluate it on others"
        )
    return untrained


def write_class_table(
    path: Path, per_image: Mapping[int, Classified], classes: Sequence[str], names: Sequence[str]
) -> None:
    """Write the result of every image as CSV: its name, its class, the predicted one, whether they
    are equal, and the probabilities of both and of all classes (of more than 20, the five most
    likely).

    Args:
        path: of the file.
        per_image: `ClassificationMetrics.per_image`.
        classes: names, index 0 first.
        names: of the images, by index.
    """
    rows = []
    for index in sorted(per_image):
        image = per_image[index]
        values = image.probabilities
        rows.append(
            [
                names[index],
                classes[image.label],
                classes[image.predicted],
                str(int(image.label == image.predicted)),
                f"{values[image.label]:.6g}",
                f"{values[image.predicted]:.6g}",
                *probability_cells(classes, values),
            ]
        )
    header = ["name", "class", "predicted", "correct", "probability", "probability_of_predicted"]
    path.parent.mkdir(parents=True, exist_ok=True)
    atomic_write_text(path, csv_table([*header, *probability_columns(classes)], rows))
