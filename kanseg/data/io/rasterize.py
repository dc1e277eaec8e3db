"""Rasterize annotated objects (polygons, run lengths and brush strokes) to masks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from kanseg.data.label_spec import IGNORE_INDEX
from kanseg.utils.errors import InputError


@dataclass(frozen=True)
class Region:
    """One object of an image.

    Args:
        label: index of its class.
        shape: a list of polygons (n, 2) of x and y, or as in the file run lengths of COCO, {"size":
            [H, W], "counts": list or string}, or of Label Studio, {"size": [H, W], "rle": list}.
        area: in pixels, or in the unit of the coordinates; smaller objects are drawn over larger
            ones. None: it is counted when the object is drawn.
        crowd: True for a crowd of uncounted objects, whose pixels are ignored.
    """

    label: int
    shape: Sequence[np.ndarray] | Mapping[str, Any]
    area: float | None = 0.0
    crowd: bool = False


@dataclass(frozen=True)
class Annotation:
    """The objects of one image; equal and hashed by file and number of the image.

    Coordinates are those of COCO: 0 is the left edge of the first pixel, and a pixel belongs to a
    polygon that contains its center. Several polygons of an object are united.

    Args:
        source: the file of the annotations.
        number: id of the image in it.
        size: (H, W) according to the file, or None.
        regions: the objects.
        normalized: True if coordinates are shares of the width and height of the image.
        fault: why the file cannot be read; raised when the mask is drawn, so that it is a fault of
            this image alone. None if it can be read.
    """

    source: Path
    number: int | str
    size: tuple[int, int] | None = field(default=None, compare=False)
    regions: tuple[Region, ...] = field(default=(), compare=False)
    normalized: bool = field(default=False, compare=False)
    fault: str | None = field(default=None, compare=False)

    def checked_size(self, image: Path, size: tuple[int, int]) -> tuple[int, int]:
        """Return the size (H, W) of the upright image; InputError if the file has another size, or
        a fault.
        """
        if self.fault is not None:
            raise InputError(self.fault, where=self.source)
        if self.size not in (None, size):
            raise InputError(
                "the image is {height}x{width} pixels (height x width), but"
                " {other_height}x{other_width} in {file}",
                height=size[0],
                width=size[1],
                other_height=self.size[0],
                other_width=self.size[1],
                file=self.source.name,
                where=image,
            )
        return size

    def draw(self, size: tuple[int, int]) -> np.ndarray:
        """Draw class indices (H, W) uint8, 0 where there is no object, 255 in crowds. Smaller
        objects are drawn over larger ones, and all objects over crowds.
        """
        label = np.zeros(size, dtype=np.uint8)
        areas = {id(region): self._area(region, size) for region in self.regions}
        for region in sorted(self.regions, key=lambda each: (not each.crowd, -areas[id(each)])):
            value = region.label
            if region.crowd:
                value = IGNORE_INDEX
            label[self._mask(region, size)] = value
        return label

    def draw_each(self, size: tuple[int, int], classes: int) -> np.ndarray:
        """Draw (classes, H, W) uint8: 1 where there is an object of the class, 255 in a crowd of
        the class, else 0.
        """
        label = np.zeros((classes, *size), dtype=np.uint8)
        for region in sorted(self.regions, key=lambda region: not region.crowd):
            value = 1
            if region.crowd:
                value = IGNORE_INDEX
            label[region.label][self._mask(region, size)] = value
        return label

    def _area(self, region: Region, size: tuple[int, int]) -> float:
        if region.area is not None:
            return region.area
        return float(self._mask(region, size).sum())

    def _mask(self, region: Region, size: tuple[int, int]) -> np.ndarray:
        """Return the pixels of an object, (H, W) bool."""
        try:
            if isinstance(region.shape, Mapping):
                if "rle" in region.shape:
                    return decode_brush(region.shape, size)
                return decode_runs(region.shape, size)
            polygons = region.shape
            if self.normalized:
                polygons = [polygon * (size[1], size[0]) for polygon in polygons]
            return fill_polygons(polygons, size)
        except (ValueError, KeyError, TypeError, IndexError, OverflowError) as error:
            raise InputError(
                "an object of image {number} cannot be drawn: {reason}",
                number=self.number,
                reason=error,
                where=self.source,
            ) from None


def fill_polygons(polygons: Sequence[np.ndarray], size: tuple[int, int]) -> np.ndarray:
    """Return the pixels whose centers are inside any of the polygons, (H, W) bool.

    `cv2.fillPoly` is not used, because it also fills every pixel that the outline touches.

    Args:
        polygons: (n, 2) vertices of x and y each; a loop within a loop is a hole.
        size: (H, W).
    """
    drawn = np.zeros(size, dtype=bool)
    for polygon in polygons:
        rows, columns = _crossings(np.asarray(polygon, dtype=np.float64), size)
        crossings = np.zeros((size[0], size[1] + 1), dtype=np.int64)
        np.add.at(crossings, (rows, columns), 1)
        drawn |= crossings.cumsum(axis=1)[:, :-1] % 2 == 1  # even-odd rule
    return drawn


def _crossings(polygon: np.ndarray, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Return the crossings of the outline with the center lines of the rows: the row of each, and
    the first column whose center is to the right of it.
    """
    start, end = polygon, np.roll(polygon, -1, axis=0)
    top = np.minimum(start, end)[:, 1]
    bottom = np.maximum(start, end)[:, 1]
    first = np.clip(np.ceil(top - 0.5), 0, size[0]).astype(int)
    last = np.clip(np.ceil(bottom - 0.5), 0, size[0]).astype(int)
    count = last - first  # rows that each edge crosses
    edges = np.repeat(np.arange(len(polygon)), count)
    rows = np.arange(len(edges)) - np.repeat(np.cumsum(count) - last, count)
    slope = (end[edges, 0] - start[edges, 0]) / (end[edges, 1] - start[edges, 1])
    x = start[edges, 0] + slope * (rows + 0.5 - start[edges, 1])
    return rows, np.clip(np.ceil(x - 0.5), 0, size[1]).astype(int)


def decode_runs(shape: Mapping[str, Any], size: tuple[int, int]) -> np.ndarray:
    """Decode the run lengths of a COCO file, columns first and zeros first, to (H, W) bool.

    pycocotools decodes large masks faster, but it is not safe for untrusted files: version 2.0.11
    returned uninitialized memory if the run lengths were too short for the image.

    Raises:
        ValueError: another size than that of the image, or lengths that do not add up to it.
    """
    stated = _checked_size(shape, size)
    counts = shape["counts"]
    if isinstance(counts, str):
        counts = _decode_counts(counts)
    lengths = np.array(counts, dtype=np.int64)
    pixels = stated[0] * stated[1]
    # Check each length too: the sum of large lengths can overflow to the right number.
    if lengths.min(initial=0) < 0 or lengths.max(initial=0) > pixels or lengths.sum() != pixels:
        raise ValueError(f"its run lengths do not add up to the {pixels} pixels of the image")
    values = np.arange(len(lengths)) % 2 == 1
    return np.repeat(values, lengths).reshape(stated[::-1]).T


def _checked_size(shape: Mapping[str, Any], size: tuple[int, int]) -> tuple[int, int]:
    """Return the size that run lengths state; ValueError if it is not that of the image."""
    height, width = (int(side) for side in shape["size"])
    if (height, width) != tuple(size):
        raise ValueError(
            f"its run lengths are of an image of {height}x{width} pixels (height x width), the"
            f" image is {size[0]}x{size[1]}"
        )
    return height, width


def decode_brush(shape: Mapping[str, Any], size: tuple[int, int]) -> np.ndarray:
    """Decode a brush stroke of Label Studio to (H, W) bool.

    The bytes are RGBA values, row by row, in the coding of thi.ng's rle-pack (`decode_rle` in
    label_studio_sdk/converter/brush.py): the number of values (32 bits), the bits of a value - 1
    (5), four widths - 1 (4 each); then runs of 1 bit (1: one value, repeated; 0: all values), 2
    bits (which width), the length - 1 in that width, and the value or values. The alpha channel is
    the stroke.

    Raises:
        ValueError: another size than that of the image, or bytes that end too early.
    """
    height, width = _checked_size(shape, size)
    data = bytes(shape["rle"])
    bits = bin(int.from_bytes(b"\x01" + data, "big"))[3:]  # the leading 1 keeps leading zeros
    position = 0

    def read(count: int) -> int:
        nonlocal position
        if position + count > len(bits):
            raise ValueError("its brush stroke ends too early")
        position += count
        return int(bits[position - count : position], 2)

    count, bits_of_value = read(32), read(5) + 1
    if count != 4 * height * width:
        raise ValueError(f"its brush stroke has {count} values for {height}x{width} RGBA pixels")
    widths = [read(4) + 1 for _ in range(4)]
    values = np.zeros(count, dtype=np.uint8)
    start = 0
    while start < count:
        repeated = read(1)
        end = start + 1 + read(widths[read(2)])
        if repeated:
            values[start:end] = read(bits_of_value) > 0
        else:
            run = [read(bits_of_value) > 0 for _ in range(start, min(end, count))]
            values[start : start + len(run)] = run
        start = end
    return values.reshape(height, width, 4)[:, :, 3] > 0


def _decode_counts(text: str) -> list[int]:
    """Decode the string of COCO's compressed run lengths.

    Each character, minus '0', holds 5 bits of a number, lowest bits first, and a sixth bit that is
    set if more bits follow. From the fourth on, numbers are differences to the number before the
    last.
    """
    lengths: list[int] = []
    value = bits = 0
    for character in text:
        code = ord(character) - 48
        if not 0 <= code < 64:
            raise ValueError(f"character {character!r} in its run lengths")
        value |= (code & 31) << bits
        bits += 5
        if code & 32:
            continue
        if code & 16:
            value -= 1 << bits
        if len(lengths) > 2:
            value += lengths[-2]
        lengths.append(value)
        value = bits = 0
    if bits:
        raise ValueError("its run lengths end in the middle of a number")
    return lengths
