"""Mask files -> class indices."""

from __future__ import annotations

import numpy as np

from kanseg.data.folder import IGNORED, LabelInfo, Sample
from kanseg.data.images import read_mask_values
from kanseg.errors import InputError


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
    label = table[np.clip(values, 0, len(table) - 1)]
    bad = (label == _NO_CLASS) | (values >= len(table))
    if bad.any():
        row, column = np.argwhere(bad)[0]
        raise InputError(
            f"{sample.mask}: value {values[row, column]} at row {row}, column {column} ({int(bad.sum())} pixels in all) is no class; "
            f"expected {_expected(info)}; correct the mask, or name the value in mask_values or ignore_index"
        )
    return label.astype(np.uint8)


_NO_CLASS = -1


def _lookup_table(info: LabelInfo) -> np.ndarray:
    """File value (0..255) -> class index, 255 ignored, -1 no class."""
    table = np.full(256, _NO_CLASS, dtype=np.int16)
    pairs = info.mask_values.items() if info.mask_values is not None else ((i, i) for i in range(len(info.classes)))
    for value, index in pairs:
        if not 0 <= value <= 255 or not (0 <= index < len(info.classes) or index in (info.ignore_index, IGNORED)):
            raise InputError(f"mask_values: {value}: {index} is no pair of a value 0..255 and a class index 0..{len(info.classes) - 1}")
        table[value] = index
    if info.ignore_index is not None and 0 <= info.ignore_index <= 255:
        if info.mask_values is None:
            table[info.ignore_index] = IGNORED
        table[table == info.ignore_index] = IGNORED
    return table


def _expected(info: LabelInfo) -> str:
    values = sorted(info.mask_values) if info.mask_values is not None else f"0..{len(info.classes) - 1}"
    return f"{values}" + (f" or {info.ignore_index} (ignored)" if info.ignore_index is not None else "")


def _from_colours(values: np.ndarray, sample: Sample, info: LabelInfo) -> np.ndarray:
    """(H, W, 3) colours -> class indices by the palette."""
    if info.palette is None:
        raise InputError(f"{sample.mask}: a colour mask, but the data set has no palette; give one RGB colour per class in dataset.yaml")
    code = _code(values.astype(np.int64))
    label = np.full(code.shape, _NO_CLASS, dtype=np.int16)
    for index, colour in enumerate(info.palette[: len(info.classes)]):
        label[code == _code(np.array(colour))] = index
    bad = label == _NO_CLASS
    if bad.any():
        row, column = np.argwhere(bad)[0]
        raise InputError(
            f"{sample.mask}: colour {values[row, column].tolist()} at row {row}, column {column} ({int(bad.sum())} pixels in all) is not in the palette"
        )
    return label.astype(np.uint8)


def _code(colours: np.ndarray) -> np.ndarray:
    return colours[..., 0] << 16 | colours[..., 1] << 8 | colours[..., 2]
