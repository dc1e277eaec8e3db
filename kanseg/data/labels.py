"""Mask files -> class indices."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import cv2
import numpy as np

from kanseg.data.io.decoded import DecodedImage
from kanseg.data.io.images import decode_mask, read_mask_values
from kanseg.data.io.rasterize import Annotation
from kanseg.data.label_spec import IGNORE_INDEX, SUSPECT, LabelSpec
from kanseg.data.sample import Sample, pixels_without_data, sample_image_mode
from kanseg.utils.errors import InputError

_NO_CLASS = -1  # of colors
_NO_COLOR = -1  # of an index


def read_label(sample: Sample, info: LabelSpec, *, image: DecodedImage | None = None) -> np.ndarray:
    """The label map of a sample, uint8: class indices (H, W), or of a multilabel task (N, H, W) of
    0 and 1; 255 where the pixel is ignored.

    Args:
        sample: with a mask.
        info: what its values mean.
        image: of the sample, where it is decoded already; else its header is read where needed.

    Pixels of the image that hold no data are ignored.

    Raises:
        InputError: no mask, an unreadable one, or values that no class has (which value, how many
            pixels, where first).
    """
    if sample.mask is None:
        raise InputError(f"{sample.image}: the image has no mask masks/{sample.name}.png")
    label = _label(sample, info, image)
    nodata = pixels_without_data(sample) if image is None else image.nodata
    if nodata is not None and label.shape[-2:] == nodata.shape:
        label[..., nodata] = IGNORE_INDEX
    return label


def _label(sample: Sample, info: LabelSpec, image: DecodedImage | None) -> np.ndarray:
    """The label map by the mask alone."""
    if isinstance(sample.mask, Annotation):
        size = sample_image_mode(sample)[1] if image is None else image.shape[:2]
        size = sample.mask.checked_size(sample.image, size)
        if info.task == "multilabel":
            return sample.mask.draw_each(size, len(info.classes))
        return sample.mask.draw(size)
    if isinstance(sample.mask, tuple):
        return _layers(sample, info)
    return _classes(sample, info)


def _classes(sample: Sample, info: LabelSpec) -> np.ndarray:
    """(H, W) from one file."""
    mask = decode_mask(sample.mask, max_pixels=sample.max_pixels)
    values = mask.values
    if values.ndim == 3:
        return _from_colors(values, sample.mask, info)
    if mask.palette is not None:
        used = np.unique(values).tolist()
        by_color = indices_by_color(colors_of(mask.palette, used), info, name=str(sample.mask))
        if by_color is not None:
            table = np.zeros(max(used) + 1, dtype=np.uint8)
            table[list(by_color)] = list(by_color.values())
            return table[values]
    return _look_up(values, info, sample.mask)


def colors_of(palette: np.ndarray, used: Sequence[int]) -> dict[int, int]:
    """Index -> its color, as red * 65536 + green * 256 + blue, of the indices that an indexed mask
    uses; `_NO_COLOR` for those beyond the end of its palette.
    """
    codes = dict(enumerate(_code(palette.astype(np.int64)).tolist()))
    return {index: codes.get(index, _NO_COLOR) for index in used}


def indices_by_color(
    colors: Mapping[int, int], info: LabelSpec, *, name: str = ""
) -> dict[int, int] | None:
    """Index in a file -> class index (`IGNORE_INDEX` for void) by the colors of its palette, whose
    order need not be that of the classes; None where it is read by its indices: without a palette
    in dataset.yaml, with mask_values, or where its colors are others (a palette for display).

    Args:
        colors: index -> color, of the indices that are used, as of `colors_of`.
        info: of the data set.
        name: of the file, for the message.

    Raises:
        InputError: some colors are those of other classes than the indices, and some of none.
    """
    if not info.index_of_color or not info.holds_indices:
        return None
    found = {index: info.index_of_color.get(color) for index, color in colors.items()}
    if None not in found.values():
        return found
    by_index = info.index_of_value
    wrong = [i for i, found_class in found.items() if found_class not in (None, by_index.get(i))]
    if not wrong:
        return None
    none = next(index for index, found_class in found.items() if found_class is None)
    raise InputError(
        f"{name}{': ' if name else ''}an indexed mask in which index {wrong[0]} has the color"
        f" {_rgb(colors[wrong[0]])} of class {_class_name(found[wrong[0]], info)}, and index {none}"
        f" the color {_rgb(colors[none])}, which is not in the palette; mend the mask or the"
        " palette, or give mask_values to read it by its indices"
    )


def _class_name(index: int, info: LabelSpec) -> str:
    return "void" if index == IGNORE_INDEX else repr(info.classes[index])


def _rgb(code: int) -> list[int] | None:
    return None if code == _NO_COLOR else [code >> 16, code >> 8 & 255, code & 255]


def _layers(sample: Sample, info: LabelSpec) -> np.ndarray:
    """(N, H, W) from a file a class; a class without one is nowhere in the image."""
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
                " image must have one size"
            )
    return np.stack(
        [np.zeros(there[0][1], np.uint8) if layer is None else layer for layer in layers]
    )


def _layer(path: Path, info: LabelSpec, max_pixels: int) -> np.ndarray:
    """(H, W) of 0, 1 and 255 from the file of one class."""
    values = read_mask_values(path, max_pixels=max_pixels)
    if values.ndim == 3:
        values = values.max(axis=2)
    if not info.holds_indices:
        return _look_up(values, info, path)
    present = (values > 0).astype(np.uint8)
    ignored = [info.ignore_index, *(info.mask_values or ())]
    for value in ignored:
        if value is not None:
            present[values == value] = IGNORE_INDEX
    bad = (values < 0) & (present != IGNORE_INDEX)
    if bad.any():
        raise InputError(
            f"{path}: value {_first(values, bad)} is no class; expected 0 (absent) or more"
            " (present); correct the mask, or name the value in mask_values, such as"
            f" {{{int(values[bad][0])}: {IGNORE_INDEX}}} (ignored)"
        )
    return present


def _look_up(values: np.ndarray, info: LabelSpec, path: Path) -> np.ndarray:
    """Values of a file -> class indices; one that is no class is an InputError."""
    classes, without = info.tables
    below = {value: index for value, index in info.index_of_value.items() if value < 0}
    label = _of_table(values, classes, below, SUSPECT)
    if not (label == SUSPECT).any():  # a second table would take as long as the first
        return label
    bad = _of_table(values, without, dict.fromkeys(below, 0), 1) > 0
    if bad.any():
        raise InputError(
            f"{path}: value {_first(values, bad)} is no class; expected {info.expected_values};"
            " correct the mask, or name the value in mask_values or ignore_index"
        )
    return label


def _of_table(
    values: np.ndarray, table: np.ndarray, negative: Mapping[int, int], otherwise: int
) -> np.ndarray:
    """table[values], the last entry for values beyond it, `negative` (or `otherwise`) for those
    below 0; OpenCV is several times faster than numpy where it can do that.
    """
    if values.dtype == np.uint8:
        return cv2.LUT(values, table[:256])
    result = table[np.clip(values, 0, len(table) - 1)]
    if values.dtype.kind == "i" and values.min(initial=0) < 0:
        result[values < 0] = otherwise
        for value, entry in negative.items():
            result[values == value] = entry
    return result


def _from_colors(values: np.ndarray, path: Path, info: LabelSpec) -> np.ndarray:
    """(H, W, 3) colors -> class indices by the palette; its entry at `ignore_index` is the void
    color.
    """
    if info.palette is None:
        raise InputError(
            f"{path}: a color mask, but the data set has no palette; give one RGB color per class"
            " in dataset.yaml"
        )
    if values.dtype != np.uint8 or values.shape[2] != 3:
        raise InputError(
            f"{path}: a mask of {values.dtype} values with {values.shape[2]} channels; save class"
            " indices as 8-bit gray PNG"
        )
    code = _code(values.astype(np.int64))
    label = np.full(code.shape, _NO_CLASS, dtype=np.int32)
    for index, color in enumerate(info.palette):
        if index < len(info.classes) or index == info.ignore_index:
            label[code == _code(np.array(color))] = (
                IGNORE_INDEX if index == info.ignore_index else index
            )
    bad = label == _NO_CLASS
    if bad.any():
        raise InputError(f"{path}: color {_first(values, bad)} is not in the palette")
    return label.astype(np.uint8)


def _first(values: np.ndarray, bad: np.ndarray) -> str:
    """The first bad value, its place and the number of bad pixels."""
    row, column = np.argwhere(bad)[0]
    return (
        f"{values[row, column].tolist()} at row {row}, column {column} ({int(bad.sum())} pixels in"
        " all)"
    )


def _code(colors: np.ndarray) -> np.ndarray:
    return colors[..., 0] << 16 | colors[..., 1] << 8 | colors[..., 2]
