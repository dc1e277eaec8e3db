"""Statistics of a data set: mean and standard deviation of the channels, pixels of each class."""

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

MIN_VARIANCE = 1e-6  # of integer images


def channel_statistics(
    source: Sequence[Sample] | ImageSource, preprocess: Preprocess, *, at_most: int = 256
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return mean and standard deviation per channel, of values in [0, 1] after the gamma.

    Args:
        source: the images.
        preprocess: scales and encodes them.
        at_most: number of images that are read, evenly chosen.

    Raises:
        InputError: no image has a pixel with data.
    """
    chosen = np.linspace(0, len(source) - 1, min(at_most, len(source))).astype(int).tolist()
    count, total, square = 0, np.zeros(preprocess.channels), np.zeros(preprocess.channels)
    for index in chosen:
        if isinstance(source, ImageSource):
            image, _, name = source.decoded(index)
        else:
            image, name = read_sample_image(source[index]), str(source[index].image)
        values = _values_with_data(image, preprocess, name)
        count += len(values)
        total += values.sum(axis=0)
        square += (values**2).sum(axis=0)
    if count == 0:
        raise InputError("no pixel with data in the images for the mean and standard deviation")
    mean = total / count
    variance = np.maximum(square / count - mean**2, 0)
    if preprocess.floats:  # their unit may be small: no minimum, six significant digits
        std = np.where(variance > 0, np.sqrt(variance), 1.0)
        digits = "{:.6g}"
    else:
        std = np.sqrt(np.maximum(variance, MIN_VARIANCE))
        digits = "{:.6f}"
    return _round(mean, digits), _round(std, digits)


def _round(values: np.ndarray, digits: str) -> tuple[float, ...]:
    """Round values to the digits of a format such as "{:.6f}"."""
    return tuple(float(digits.format(value)) for value in values)


def _values_with_data(image: DecodedImage, preprocess: Preprocess, name: str) -> np.ndarray:
    """Return the encoded pixels that have data, (pixels, channels) float64."""
    # nodata=None: `scale` would fill the other pixels with the mean of the data set, which is not
    # known yet. They keep the mean of their image, which resizing blends into the edges.
    scaled = preprocess.encode(preprocess.scale(replace(image, nodata=None), name=name))
    values = scaled.reshape(-1, preprocess.channels).astype(np.float64)
    if image.nodata is None:
        return values
    nodata = resize_mask(image.nodata.astype(np.uint8), scaled.shape[:2])
    return values[nodata.ravel() == 0]


def class_frequencies(samples: Sequence[Sample], spec: LabelSpec) -> np.ndarray:
    """Count the pixels of each class in the masks of samples, without ignored pixels.

    Returns:
        (N,) int64, or for a multilabel task (N, 2) [absent, present].

    Raises:
        InputError: a mask that cannot be read.
    """
    with ThreadPoolExecutor() as pool:  # decoding releases the GIL
        counts = list(pool.map(partial(_count_classes, spec=spec), samples))
    if counts:
        return np.sum(counts, axis=0, dtype=np.int64)
    if spec.task == "multilabel":
        return np.zeros((len(spec.classes), 2), dtype=np.int64)
    return np.zeros(len(spec.classes), dtype=np.int64)


def _count_classes(sample: Sample, spec: LabelSpec) -> np.ndarray:
    label, values = read_label(sample, spec), IGNORE_INDEX + 1
    if label.ndim == 3:
        return np.stack([np.bincount(plane.ravel(), minlength=values)[:2] for plane in label])
    return np.bincount(label.ravel(), minlength=values)[: len(spec.classes)]
