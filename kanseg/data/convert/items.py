"""What is written of a data set: its images with names that are unique, and their regions."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from kanseg.data.formats.index import DatasetIndex
from kanseg.data.formats.label_settings import DATASET
from kanseg.data.io.outlines import Region, regions
from kanseg.data.label_spec import IGNORE_INDEX, LabelSpec
from kanseg.data.sample import Sample
from kanseg.utils.errors import InputError


@dataclass(frozen=True)
class Item:
    """One image.

    Args:
        name: unique among all images.
        sample: the image and its mask.
        splits: that it is in; () for none.
    """

    name: str
    sample: Sample
    splits: tuple[str, ...]

    @property
    def file(self) -> str:
        """Name of the image file."""
        return f"{self.name}{self.sample.image.suffix}"

    def copy_image(self, target: Path) -> None:
        """Copy the image byte for byte."""
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(self.sample.image, target)


def items_of(index: DatasetIndex) -> list[Item]:
    """Return the images of all splits and those in no split, each once. Where two have the same
    name, as in train/ and val/, the split comes before it.

    Raises:
        InputError: two images have the same name in the same split.
    """
    samples: dict[Path, Sample] = {}
    splits: dict[Path, list[str]] = {}
    for split, members in (*index.splits.items(), ("", index.unlisted)):
        for sample in members:
            samples.setdefault(sample.image, sample)
            splits.setdefault(sample.image, []).append(split)
    count = Counter(sample.name for sample in samples.values())
    items = []
    for image, sample in samples.items():
        name = sample.name
        if count[name] > 1:
            name = f"{splits[image][0]}_{name}"
        items.append(Item(name, sample, tuple(filter(None, splits[image]))))
    twice = [name for name, number in Counter(item.name for item in items).items() if number > 1]
    if twice:
        raise InputError(f"{index.root}: two images would be called {twice[0]!r}; rename one")
    return items


def regions_of(label: np.ndarray, task: str) -> tuple[list[Region], list[Region]]:
    """Return the regions of the classes of a label, and its ignored regions.

    Args:
        label: from `read_label`.
        task: of its label spec.

    Returns:
        Ignored regions have the class of their plane in a multilabel task, else the first class
        that is not the background.
    """
    ignored = (label == IGNORE_INDEX).astype(np.uint8)
    found = list(regions(np.where(ignored, 0, label).astype(np.uint8), task))
    if task == "multilabel":
        return found, list(regions(ignored, "multilabel"))
    return found, [replace(each, label=1) for each in regions(ignored, "binary")]


def write_dataset_yaml(root: Path, spec: LabelSpec, *, of_masks: bool = False) -> None:
    """Write the classes, and their colors if the data set has some, as dataset.yaml.

    Args:
        root: folder of the data set.
        spec: its classes.
        of_masks: whether there are mask files, in which 255 means ignored.
    """
    lines = [f"task: {spec.task}", f"classes: {_flow(spec.classes)}"]
    if of_masks:
        lines.append(f"ignore_index: {IGNORE_INDEX}")
    if spec.palette and len(set(spec.colors)) == len(spec.colors):
        lines.append(f"palette: {_flow(spec.colors)}")
    (root / DATASET).write_text("\n".join(lines) + "\n", encoding="utf-8")


def _flow(values: Sequence[object]) -> str:
    """Return a list on one line; JSON is YAML."""
    return json.dumps(values, ensure_ascii=False)
