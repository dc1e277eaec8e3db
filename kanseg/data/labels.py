"""Read mask files as class indices."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import cv2
import numpy as np

from kanseg.data.io.colors import pack_rgb, unpack_rgb
from kanseg.data.io.decoded import NO_COLOR, DecodedImage
from kanseg.data.io.images import decode_mask, read_mask_values
from kanseg.data.io.rasterize import Annotation
from kanseg.data.label_spec import IGNORE_INDEX, NO_CLASS, LabelSpec
from kanseg.data.sample import Sample, pixels_without_data, sample_image_mode
from kanseg.utils.errors import InputError
from kanseg.utils.language import translate


def read_label(sample: Sample, spec: LabelSpec, *, image: DecodedImage | None = None) -> np.ndarray:
    """Read the mask of a sample as uint8 class indices (H, W), or for a multilabel task as 0 and 1
    (N, H, W); ignored pixels are 255.

    Pixels of the image without data are ignored.

    Args:
        sample: with a mask.
        spec: the meaning of its values.
        image: of the sample, if it is decoded already; otherwise its header is read if needed.

    Raises:
        InputError: no mask, an unreadable mask, or values that are not a class (the message names
            the first value, its position, and the number of pixels).
    """
    if sample.mask is None:
        raise InputError(
            "the image has no mask masks/{name}.png",
            name=sample.name,
            where=sample.image,
        )
    if isinstance(sample.mask, Annotation):
        label = _draw(sample, spec, image)
    elif isinstance(sample.mask, tuple):
        label = _read_class_masks(sample, spec)
    else:
        label = _read_index_mask(sample.mask, spec, sample.max_pixels)
    if image is None:
        nodata = pixels_without_data(sample)
    else:
        nodata = image.nodata
    if nodata is not None and label.shape[-2:] == nodata.shape:
        label[..., nodata] = IGNORE_INDEX
    return label


def index_of_stored_value(
    spec: LabelSpec, *, color: bool, palette: Mapping[int, int] | None = None, name: object = None
) -> Mapping[int, int]:
    """Return stored value -> class index (`IGNORE_INDEX` for ignored values) for one mask file.

    Only this function decides whether a mask is read by its values or by its colors. `read_label`
    applies the result to pixels, the check of a data set to cached histograms, so that unchanged
    files are not decoded again.

    Args:
        spec: of the data set.
        color: True if the stored values are packed colors (`pack_rgb`).
        palette: of an indexed file: index -> packed color, for the indices in use.
        name: of the file, for messages.

    Raises:
        InputError: the palette contradicts the indices (`index_by_palette`).
    """
    if color:
        return spec.index_of_color
    if palette:
        found = index_by_palette(palette, spec, name=name)
        if found is not None:
            return found
    return spec.index_of_value


def index_by_palette(
    palette: Mapping[int, int], spec: LabelSpec, *, name: object = None
) -> dict[int, int] | None:
    """Return index in a file -> class index (or `IGNORE_INDEX`) by the colors of the palette in the
    file, which may be in another order than the classes.

    Args:
        palette: index -> packed color, for the indices in use (`DecodedMask.colors_of`).
        spec: of the data set.
        name: of the file, for the message.

    Returns:
        None if the file is read by its indices: the data set has no palette, mask_values give the
        meaning, or the colors are not those of the data set (a palette for display).

    Raises:
        InputError: some colors belong to other classes than their indices, and some to no class.
    """
    if not spec.index_of_color or not spec.holds_indices:
        return None
    found = {index: spec.index_of_color.get(color) for index, color in palette.items()}
    if None not in found.values():
        return found
    unknown, contradicting = [], []
    for index, by_color in found.items():
        if by_color is None:
            unknown.append(index)
        elif by_color != spec.index_of_value.get(index):
            contradicting.append(index)
    if not contradicting:
        return None
    first, other = contradicting[0], unknown[0]
    class_name = translate("ignored pixels")
    if found[first] != IGNORE_INDEX:
        class_name = translate("class {name!r}", name=spec.classes[found[first]])
    raise InputError(
        "an indexed mask in which index {first} has the color {color} of"
        " {class_name}, and index {other} the color {other_color}, which is not in the"
        " palette; correct the mask or the palette, or give mask_values to read it by its"
        " indices",
        first=first,
        color=_rgb(palette[first]),
        class_name=class_name,
        other=other,
        other_color=_rgb(palette[other]),
        where=name,
    )


def _draw(sample: Sample, spec: LabelSpec, image: DecodedImage | None) -> np.ndarray:
    """Draw the annotated objects of a sample at the size of its image."""
    if image is None:
        size = sample_image_mode(sample)[1]
    else:
        size = image.shape[:2]
    size = sample.mask.checked_size(sample.image, size)
    if spec.task == "multilabel":
        return sample.mask.draw_each(size, len(spec.classes))
    return sample.mask.draw(size)


def _read_index_mask(path: Path, spec: LabelSpec, max_pixels: int) -> np.ndarray:
    """Read (H, W) class indices from one file."""
    mask = decode_mask(path, max_pixels=max_pixels)
    if mask.values.ndim == 3:
        return _look_up_colors(mask.values, path, spec)
    if mask.palette is not None:
        palette = mask.colors_of(np.unique(mask.values).tolist())
        index_of = index_of_stored_value(spec, color=False, palette=palette, name=path)
        if index_of is not spec.index_of_value:
            table = np.zeros(max(palette) + 1, dtype=np.uint8)
            table[list(index_of)] = list(index_of.values())
            return table[mask.values]
    return _look_up(mask.values, spec, path)


def _read_class_masks(sample: Sample, spec: LabelSpec) -> np.ndarray:
    """Read (N, H, W) from one file per class; a class without a file is absent."""
    masks: dict[int, np.ndarray] = {}
    for index, path in enumerate(sample.mask):
        if path is not None:
            masks[index] = _read_class_mask(path, spec, sample.max_pixels)
    first = next(iter(masks))
    size = masks[first].shape
    label = np.zeros((len(sample.mask), *size), np.uint8)
    for index, mask in masks.items():
        if mask.shape != size:
            raise InputError(
                "the mask is {height}x{width} and {other} {other_height}x{other_width} pixels"
                " (height x width); all masks of an image must have the same size",
                height=mask.shape[0],
                width=mask.shape[1],
                other=sample.mask[first],
                other_height=size[0],
                other_width=size[1],
                where=sample.mask[index],
            )
        label[index] = mask
    return label


def _read_class_mask(path: Path, spec: LabelSpec, max_pixels: int) -> np.ndarray:
    """Read (H, W) of 0, 1 and 255 from the file of one class."""
    values = read_mask_values(path, max_pixels=max_pixels)
    if values.ndim == 3:
        values = values.max(axis=2)
    if not spec.holds_indices:
        return _look_up(values, spec, path)
    present = (values > 0).astype(np.uint8)
    for value in (spec.ignore_index, *(spec.mask_values or ())):
        if value is not None:
            present[values == value] = IGNORE_INDEX
    bad = (values < 0) & (present != IGNORE_INDEX)
    if bad.any():
        raise InputError(
            "value {first} is not a class; expected 0 (absent) or more (present); correct the"
            " mask, or name the value in mask_values, such as {{{value}: {ignored}}} (ignored)",
            first=_first(values, bad),
            value=int(values[bad][0]),
            ignored=IGNORE_INDEX,
            where=path,
            code="bad_value",
        )
    return present


def _look_up(values: np.ndarray, spec: LabelSpec, path: Path) -> np.ndarray:
    """Map stored values to class indices; InputError for a value that is not a class."""
    classes, unknown = spec.tables
    negative = {value: index for value, index in spec.index_of_value.items() if value < 0}
    label = _apply_table(values, classes, negative, NO_CLASS)
    if not (label == NO_CLASS).any():  # the second table would take as long as the first
        return label
    bad = _apply_table(values, unknown, dict.fromkeys(negative, 0), 1) > 0
    if bad.any():
        raise InputError(
            "value {first} is not a class; expected {expected}; correct the mask, or name the"
            " value in mask_values or ignore_index",
            first=_first(values, bad),
            expected=spec.expected_values,
            where=path,
            code="bad_value",
        )
    return label


def _apply_table(
    values: np.ndarray, table: np.ndarray, negative: Mapping[int, int], default: int
) -> np.ndarray:
    """Return table[values]; larger values get the last entry, negative values that of `negative` or
    the default.
    """
    if values.dtype == np.uint8:
        return cv2.LUT(values, table[:256])  # several times faster than numpy
    result = table[np.clip(values, 0, len(table) - 1)]
    if values.dtype.kind == "i" and values.min(initial=0) < 0:
        result[values < 0] = default
        for value, entry in negative.items():
            result[values == value] = entry
    return result


def _look_up_colors(values: np.ndarray, path: Path, spec: LabelSpec) -> np.ndarray:
    """Map colors (H, W, 3) to class indices; InputError for a color that is not in the palette."""
    if spec.palette is None:
        raise InputError(
            "a color mask, but the data set has no palette; give one RGB color per class in"
            " dataset.yaml",
            where=path,
        )
    if values.dtype != np.uint8 or values.shape[2] != 3:
        raise InputError(
            "a mask of {kind} values with {channels} channels; save class indices as 8-bit gray"
            " PNG",
            kind=values.dtype,
            channels=values.shape[2],
            where=path,
        )
    packed = pack_rgb(values)
    label = np.full(packed.shape, -1, dtype=np.int16)
    for color, index in index_of_stored_value(spec, color=True).items():
        label[packed == color] = index
    bad = label < 0
    if bad.any():
        raise InputError(
            "color {first} is not in the palette",
            first=_first(values, bad),
            where=path,
            code="bad_value",
        )
    return label.astype(np.uint8)


def _first(values: np.ndarray, bad: np.ndarray) -> str:
    """Return the first bad value, its position and the number of bad pixels."""
    row, column = np.argwhere(bad)[0]
    return translate(
        "{value} at row {row}, column {column} ({pixels} pixels in all)",
        value=values[row, column].tolist(),
        row=int(row),
        column=int(column),
        pixels=int(bad.sum()),
    )


def _rgb(packed: int) -> list[int] | None:
    if packed == NO_COLOR:
        return None
    return unpack_rgb(packed)
