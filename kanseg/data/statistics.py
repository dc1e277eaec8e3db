"""What a whole set of pictures is like: mean and deviation of its channels, pixels of its
classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np

from kanseg.data.image_sources import ImageSource
from kanseg.data.info import IGNORED, LabelInfo
from kanseg.data.labels import read_label
from kanseg.data.preprocess import Preprocess
from kanseg.data.sample import Sample, read_picture


def channel_statistics(
    source: Sequence[Sample] | ImageSource, preprocess: Preprocess, *, at_most: int = 256
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation per channel of (at most 256, evenly chosen) pictures, in [0, 1]
    after the gamma.
    """
    chosen = (source[int(i)] for i in np.linspace(0, len(source) - 1, min(at_most, len(source))))
    count, total, square = 0, np.zeros(preprocess.channels), np.zeros(preprocess.channels)
    for item in chosen:
        image, name = (
            (read_picture(item), str(item.image))
            if isinstance(item, Sample)
            else (item[0], item[2])
        )
        values = (
            preprocess.encode(preprocess.scale(image, name=name))
            .reshape(-1, preprocess.channels)
            .astype(np.float64)
        )
        count += len(values)
        total += values.sum(axis=0)
        square += (values**2).sum(axis=0)
    mean = total / count
    variance = np.maximum(square / count - mean**2, 0)
    if preprocess.floats:  # their unit may be small: no least deviation, and six digits that count
        std = np.where(variance > 0, np.sqrt(variance), 1.0)
        return tuple(float(f"{v:.6g}") for v in mean), tuple(float(f"{v:.6g}") for v in std)
    std = np.sqrt(np.maximum(variance, 1e-6))
    return tuple(round(float(v), 6) for v in mean), tuple(round(float(v), 6) for v in std)


def class_frequencies(samples: Sequence[Sample], info: LabelInfo) -> np.ndarray:
    """Pixels of each class in the masks of a set, ignored ones left out: (N,) int64, or of a
    multilabel task (N, 2) [absent, present].

    Raises:
        InputError: a mask that cannot be read.
    """
    with ThreadPoolExecutor() as pool:  # decoding releases the interpreter
        counts = list(pool.map(partial(_count, info=info), samples))
    shape = (len(info.classes), 2) if info.task == "multilabel" else (len(info.classes),)
    return np.sum(counts, axis=0, dtype=np.int64) if counts else np.zeros(shape, dtype=np.int64)


def _count(sample: Sample, info: LabelInfo) -> np.ndarray:
    label = read_label(sample, info)
    if info.task == "multilabel":
        return np.stack([np.bincount(layer.ravel(), minlength=IGNORED + 1)[:2] for layer in label])
    return np.bincount(label.ravel(), minlength=IGNORED + 1)[: len(info.classes)]
