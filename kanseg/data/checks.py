"""Look at every file of a data set before a training starts, and report all faults at once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial

import numpy as np

from kanseg.data.folder import Folder
from kanseg.data.info import IGNORED, LabelInfo
from kanseg.data.labels import read_label
from kanseg.data.sample import Sample, picture_mode, read_picture
from kanseg.errors import InputError


@dataclass
class Report:
    """What a look at the files found: faults (a line for each bad sample) and counts over the good ones."""

    pixels: np.ndarray  # (classes + 1,) pixels of each class; the last entry counts ignored ones
    faults: dict[Sample, str] = field(default_factory=dict)
    kinds: Counter = field(default_factory=Counter)
    sizes: Counter = field(default_factory=Counter)  # (H, W) -> pictures

    def summary(self, info: LabelInfo) -> str:
        """`RGB: 85 pictures; pixels: background 52.1 %, gland 47.9 %`."""
        kinds = ", ".join(f"{kind}: {count}" for kind, count in self.kinds.most_common())
        total = max(int(self.pixels.sum()), 1)
        shares = [f"{name} {100 * n / total:.1f} %" for name, n in zip([*info.classes, "ignored"], self.pixels, strict=True) if n or name != "ignored"]
        return f"{kinds} pictures; pixels: {', '.join(shares)}"


def check_samples(samples: Iterable[Sample], info: LabelInfo) -> Report:
    """Decode every picture and mask once: readable, of one size, with values that are classes. Nothing is written."""
    report = Report(np.zeros(len(info.classes) + 1, dtype=np.int64))
    samples = list(samples)
    with ThreadPoolExecutor() as pool:  # decoding releases the interpreter
        for sample, (kind, size, counts, fault) in zip(samples, pool.map(partial(_look, info=info), samples), strict=True):
            if fault is not None:
                report.faults[sample] = fault
                continue
            report.kinds[kind] += 1
            report.sizes[size] += 1
            report.pixels += counts
    return report


def _look(sample: Sample, info: LabelInfo) -> tuple[str, tuple[int, ...], np.ndarray | None, str | None]:
    """(kind, size, pixels a class, fault or None) of one sample."""
    try:
        kind, _ = picture_mode(sample)
        size = read_picture(sample).shape[:2]
        label = read_label(sample, info)
    except InputError as error:
        return "", (), None, str(error)
    if label.shape[-2:] != size:
        return "", (), None, f"{sample.files[-1]}: the mask is {label.shape[-1]}x{label.shape[-2]} and the picture {size[1]}x{size[0]} pixels"
    if label.ndim == 3:  # pixels in which a class is present, and all that are ignored
        return kind, size, np.array([*(np.count_nonzero(layer == 1) for layer in label), np.count_nonzero(label == IGNORED)]), None
    counts = np.bincount(label.ravel(), minlength=256)
    return kind, size, np.append(counts[: len(info.classes)], counts[IGNORED]), None


def overlapping(folder: Folder, splits: Mapping[str, Sequence[str]]) -> list[str]:
    """Pictures that are both trained on and measured on, as faults; a split that is named for both was meant so.

    Args:
        folder: the data set.
        splits: the names of the splits for train, val and test.
    """
    train = {sample.image for sample in folder.samples(splits["train"])}
    faults = []
    for role in ("val", "test"):
        for name in splits[role]:
            both = [sample.name for sample in folder.samples(name) if sample.image in train]
            if both and name not in splits["train"]:
                faults.append(f"{folder.root}: {len(both)} pictures are in {' + '.join(splits['train'])} and in {name} (the first: {both[0]})")
    return faults
