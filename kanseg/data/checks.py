"""Look at every file of a data set before a training starts, and report all faults at once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np

from kanseg.data.folder import IGNORED, Folder, LabelInfo, Sample
from kanseg.data.images import image_mode, read_image
from kanseg.data.labels import read_label
from kanseg.errors import InputError


@dataclass
class Report:
    """What a look at the files found: faults (a line each) and counts."""

    faults: list[str] = field(default_factory=list)
    bad: set[Sample] = field(default_factory=set)
    kinds: Counter = field(default_factory=Counter)
    pixels: np.ndarray | None = None  # (classes + 1,) pixels of each class; the last entry counts ignored ones

    def summary(self, info: LabelInfo) -> str:
        """`RGB: 85 pictures; background 52.1 %, gland 47.9 %`."""
        kinds = ", ".join(f"{kind}: {count}" for kind, count in self.kinds.most_common())
        total = max(int(self.pixels.sum()), 1)
        shares = [f"{name} {100 * n / total:.1f} %" for name, n in zip([*info.classes, "ignored"], self.pixels, strict=True) if n or name != "ignored"]
        return f"{kinds} pictures; pixels: {', '.join(shares)}"


def check_samples(samples: Iterable[Sample], info: LabelInfo) -> Report:
    """Decode every picture and mask once: readable, of one size, with values that are classes. Nothing is written."""
    report = Report(pixels=np.zeros(len(info.classes) + 1, dtype=np.int64))
    with ThreadPoolExecutor() as pool:  # decoding releases the interpreter
        samples = list(samples)
        for sample, (kind, counts, fault) in zip(samples, pool.map(lambda sample: _look(sample, info), samples), strict=True):
            if fault is not None:
                report.faults.append(fault)
                report.bad.add(sample)
                continue
            report.kinds[kind] += 1
            report.pixels += counts
    return report


def _look(sample: Sample, info: LabelInfo) -> tuple[str, np.ndarray | None, str | None]:
    try:
        kind, size = image_mode(sample.image)
        shape = read_image(sample.image).shape[:2]
        label = read_label(sample, info)
    except InputError as error:
        return "", None, str(error)
    if shape != size or label.shape != size:
        return "", None, f"{sample.mask}: the mask is {label.shape[1]}x{label.shape[0]} and the picture {size[1]}x{size[0]} pixels"
    counts = np.bincount(label.ravel(), minlength=256)
    return kind, np.append(counts[: len(info.classes)], counts[IGNORED]), None


def orphan_masks(folder: Folder) -> list[str]:
    """Masks without a picture, as faults (only those beside images/ of the root; a split folder is read as a whole)."""
    faults = []
    for base in (folder.root, *(folder.root / name for name in folder.splits)):
        if not (base / "masks").is_dir() or not (base / "images").is_dir():
            continue
        pictures = {path.stem for path in (base / "images").iterdir()}
        faults += [
            f"{path}: a mask without a picture in images/" for path in sorted((base / "masks").iterdir()) if path.suffix == ".png" and path.stem not in pictures
        ]
    return faults


def overlapping(folder: Folder, splits: dict[str, Sequence[Sample]]) -> list[str]:
    """Samples that are both trained on and measured on, as faults."""
    train = {sample.image for sample in splits["train"]}
    faults = []
    for name in ("val", "test"):
        both = [sample.name for sample in splits[name] if sample.image in train]
        if both:
            faults.append(f"{folder.root}: {len(both)} pictures are in train and in {name} (the first: {both[0]})")
    return faults
