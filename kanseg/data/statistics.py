"""What a whole set of images is like: mean and deviation of its channels, pixels of its
classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial

import numpy as np

from kanseg.data.classification.sources import ImageSource
from kanseg.data.io.decoded import DecodedImage
from kanseg.data.label_spec import IGNORE_INDEX, LabelSpec
from kanseg.data.labels import read_label
from kanseg.data.preprocess import Preprocess, resize_mask
from kanseg.data.sample import Sample, read_sample_image
from kanseg.utils.errors import InputError


def channel_statistics(
    source: Sequence[Sample] | ImageSource, preprocess: Preprocess, *, at_most: int = 256
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation per channel of (at most 256, evenly chosen) images, in [0, 1]
    after the gamma.
    """
    chosen = np.linspace(0, len(source) - 1, min(at_most, len(source))).astype(int).tolist()
    count, total, square = 0, np.zeros(preprocess.channels), np.zeros(preprocess.channels)
    for index in chosen:
        if isinstance(source, ImageSource):
            image, _, name = source.decoded(index)
        else:
            image, name = read_sample_image(source[index]), str(source[index].image)
        values = _values_with_data(image, preprocess, name)
        if not len(values):
            continue
        count += len(values)
        total += values.sum(axis=0)
        square += (values**2).sum(axis=0)
    if count == 0:
        raise InputError("none of the images that statistics are taken of has a pixel with data")
    mean = total / count
    variance = np.maximum(square / count - mean**2, 0)
    if preprocess.floats:  # their unit may be small: no least deviation, and six digits that count
        std = np.where(variance > 0, np.sqrt(variance), 1.0)
        return tuple(float(f"{v:.6g}") for v in mean), tuple(float(f"{v:.6g}") for v in std)
    std = np.sqrt(np.maximum(variance, 1e-6))
    return tuple(round(float(v), 6) for v in mean), tuple(round(float(v), 6) for v in std)


def _values_with_data(image: DecodedImage, preprocess: Preprocess, name: str) -> np.ndarray:
    """(pixels, channels) float64: the encoded pixels that have data."""
    # Pixels without data hold the mean of the others here, which is what an edge may be blended
    # with: the mean of the set is not known yet.
    scaled = preprocess.encode(preprocess.scale(replace(image, nodata=None), name=name))
    values = scaled.reshape(-1, preprocess.channels).astype(np.float64)
    if image.nodata is None:
        return values
    nodata = resize_mask(image.nodata.astype(np.uint8), scaled.shape[:2])
    return values[nodata.ravel() == 0]


def class_frequencies(samples: Sequence[Sample], info: LabelSpec) -> np.ndarray:
    """Pixels of each class in the masks of a set, ignored ones left out: (N,) int64, or of a
    multilabel task (N, 2) [absent, present].

    Raises:
        InputError: a mask that cannot be read.
    """
    with ThreadPoolExecutor() as pool:  # decoding releases the interpreter
        counts = list(pool.map(partial(_count, info=info), samples))
    shape = (len(info.classes), 2) if info.task == "multilabel" else (len(info.classes),)
    return np.sum(counts, axis=0, dtype=np.int64) if counts else np.zeros(shape, dtype=np.int64)


def _count(sample: Sample, info: LabelSpec) -> np.ndarray:
    label = read_label(sample, info)
    if info.task == "multilabel":
        return np.stack(
            [np.bincount(layer.ravel(), minlength=IGNORE_INDEX + 1)[:2] for layer in label]
        )
    return np.bincount(label.ravel(), minlength=IGNORE_INDEX + 1)[: len(info.classes)]
