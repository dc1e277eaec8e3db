"""Mask files -> class indices."""

from __future__ import annotations

import numpy as np

from kanseg.data.folder import Sample
from kanseg.data.images import read_mask_values
from kanseg.data.info import IGNORED, LabelInfo
from kanseg.errors import InputError

_NO_CLASS = -1


def read_label(sample: Sample, info: LabelInfo) -> np.ndarray:
    """The label map of a sample: (H, W) uint8, class indices, 255 where the pixel is ignored.

    Raises:
        InputError: no mask, an unreadable one, or values that no class has (which value, how many pixels, where first).
    """
    if sample.mask is None:
        raise InputError(f"{sample.image}: the picture has no mask masks/{sample.name}.png")
    values = read_mask_values(sample.mask)
    if values.ndim == 3:
        return _from_colours(values, sample, info)
    table = _lookup_table(info)
    label = table[np.minimum(values, len(table) - 1)]
    bad = (label == _NO_CLASS) | (values >= len(table))
    if bad.any():
        raise InputError(
            f"{sample.mask}: value {_first(values, bad)} is no class; expected {_expected(info)}; "
            "correct the mask, or name the value in mask_values or ignore_index"
        )
    return label.astype(np.uint8)


def _lookup_table(info: LabelInfo) -> np.ndarray:
    """File value -> class index, 255 ignored, -1 no class."""
    pairs = info.mask_values if info.mask_values is not None else {i: i for i in [*range(len(info.classes)), *_ignored(info)]}
    table = np.full(max([*pairs, 255]) + 1, _NO_CLASS, dtype=np.int32)
    for value, index in pairs.items():
        table[value] = IGNORED if index in (info.ignore_index, IGNORED) else index
    return table


def _ignored(info: LabelInfo) -> list[int]:
    return [] if info.ignore_index is None else [info.ignore_index]


def _expected(info: LabelInfo) -> str:
    if info.mask_values is not None:
        return ", ".join(map(str, sorted(info.mask_values)))
    return f"0..{len(info.classes) - 1}" + "".join(f" or {i} (ignored)" for i in _ignored(info))


def _from_colours(values: np.ndarray, sample: Sample, info: LabelInfo) -> np.ndarray:
    """(H, W, 3) colours -> class indices by the palette; its entry at `ignore_index` is the void colour."""
    if info.palette is None:
        raise InputError(f"{sample.mask}: a colour mask, but the data set has no palette; give one RGB colour per class in dataset.yaml")
    code = _code(values.astype(np.int64))
    label = np.full(code.shape, _NO_CLASS, dtype=np.int32)
    for index, colour in enumerate(info.palette):
        if index < len(info.classes) or index == info.ignore_index:
            label[code == _code(np.array(colour))] = IGNORED if index == info.ignore_index else index
    bad = label == _NO_CLASS
    if bad.any():
        raise InputError(f"{sample.mask}: colour {_first(values, bad)} is not in the palette")
    return label.astype(np.uint8)


def _first(values: np.ndarray, bad: np.ndarray) -> str:
    """The first bad value, its place and the number of bad pixels."""
    row, column = np.argwhere(bad)[0]
    return f"{values[row, column].tolist()} at row {row}, column {column} ({int(bad.sum())} pixels in all)"


def _code(colours: np.ndarray) -> np.ndarray:
    return colours[..., 0] << 16 | colours[..., 1] << 8 | colours[..., 2]
