"""Mask files -> class indices."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from kanseg.data.annotation import Annotation
from kanseg.data.images import read_mask_values
from kanseg.data.info import IGNORED, SUSPECT, LabelInfo
from kanseg.data.sample import Sample, picture_mode
from kanseg.errors import InputError

_NO_CLASS = -1  # of colours


def read_label(
    sample: Sample, info: LabelInfo, *, size: tuple[int, int] | None = None
) -> np.ndarray:
    """The label map of a sample, uint8: class indices (H, W), or of a multilabel task (N, H, W) of
    0 and 1; 255 where the pixel is ignored.

    Args:
        sample: with a mask.
        info: what its values mean.
        size: (H, W) of the picture, where it is known; else its header is read where needed.

    Raises:
        InputError: no mask, an unreadable one, or values that no class has (which value, how many
            pixels, where first).
    """
    if sample.mask is None:
        raise InputError(f"{sample.image}: the picture has no mask masks/{sample.name}.png")
    if isinstance(sample.mask, Annotation):
        size = sample.mask.checked_size(sample.image, size or picture_mode(sample)[1])
        return (
            sample.mask.draw_each(size, len(info.classes))
            if info.task == "multilabel"
            else sample.mask.draw(size)
        )
    if isinstance(sample.mask, tuple):
        return _layers(sample, info)
    return _classes(sample, info)


def _classes(sample: Sample, info: LabelInfo) -> np.ndarray:
    """(H, W) from one file."""
    values = read_mask_values(sample.mask, max_pixels=sample.max_pixels)
    if values.ndim == 3:
        return _from_colours(values, sample.mask, info)
    return _look_up(values, info, sample.mask)


def _layers(sample: Sample, info: LabelInfo) -> np.ndarray:
    """(N, H, W) from a file a class; a class without one is nowhere in the picture."""
    layers = [
        None if path is None else _layer(path, info, sample.max_pixels) for path in sample.mask
    ]
    there = [
        (path, layer.shape)
        for path, layer in zip(sample.mask, layers, strict=True)
        if layer is not None
    ]
    for path, shape in there[1:]:
        if shape != there[0][1]:
            first = f"{there[0][0]} {there[0][1][1]}x{there[0][1][0]}"
            raise InputError(
                f"{path}: the mask is {shape[1]}x{shape[0]} and {first} pixels; the masks of a"
                " picture must have one size"
            )
    return np.stack(
        [np.zeros(there[0][1], np.uint8) if layer is None else layer for layer in layers]
    )


def _layer(path: Path, info: LabelInfo, max_pixels: int) -> np.ndarray:
    """(H, W) of 0, 1 and 255 from the file of one class."""
    values = read_mask_values(path, max_pixels=max_pixels)
    if values.ndim == 3:
        values = values.max(axis=2)
    if info.mask_values is not None:
        return _look_up(values, info, path)
    present = (values > 0).astype(np.uint8)
    if info.ignore_index is not None:
        present[values == info.ignore_index] = IGNORED
    return present


def _look_up(values: np.ndarray, info: LabelInfo, path: Path) -> np.ndarray:
    """Values of a file -> class indices; one that is no class is an InputError."""
    classes, without = info.tables
    label = _of_table(values, classes)
    if not (label == SUSPECT).any():  # a second table would take as long as the first
        return label
    bad = _of_table(values, without) > 0
    if bad.any():
        raise InputError(
            f"{path}: value {_first(values, bad)} is no class; expected {_expected(info)}; correct"
            " the mask, or name the value in mask_values or ignore_index"
        )
    return label


def _of_table(values: np.ndarray, table: np.ndarray) -> np.ndarray:
    """table[values], the last entry for values beyond it; OpenCV is several times faster than numpy
    where it can do that.
    """
    return (
        cv2.LUT(values, table[:256])
        if values.dtype == np.uint8
        else table[np.minimum(values, len(table) - 1)]
    )


def _expected(info: LabelInfo) -> str:
    if info.mask_values is not None:
        return ", ".join(map(str, sorted(info.mask_values)))
    return f"0..{len(info.classes) - 1}" + (
        "" if info.ignore_index is None else f" or {info.ignore_index} (ignored)"
    )


def _from_colours(values: np.ndarray, path: Path, info: LabelInfo) -> np.ndarray:
    """(H, W, 3) colours -> class indices by the palette; its entry at `ignore_index` is the void
    colour.
    """
    if info.palette is None:
        raise InputError(
            f"{path}: a colour mask, but the data set has no palette; give one RGB colour per class"
            " in dataset.yaml"
        )
    code = _code(values.astype(np.int64))
    label = np.full(code.shape, _NO_CLASS, dtype=np.int32)
    for index, colour in enumerate(info.palette):
        if index < len(info.classes) or index == info.ignore_index:
            label[code == _code(np.array(colour))] = (
                IGNORED if index == info.ignore_index else index
            )
    bad = label == _NO_CLASS
    if bad.any():
        raise InputError(f"{path}: colour {_first(values, bad)} is not in the palette")
    return label.astype(np.uint8)


def _first(values: np.ndarray, bad: np.ndarray) -> str:
    """The first bad value, its place and the number of bad pixels."""
    row, column = np.argwhere(bad)[0]
    return (
        f"{values[row, column].tolist()} at row {row}, column {column} ({int(bad.sum())} pixels in"
        " all)"
    )


def _code(colours: np.ndarray) -> np.ndarray:
    return colours[..., 0] << 16 | colours[..., 1] << 8 | colours[..., 2]
