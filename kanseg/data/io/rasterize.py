"""Rasterize annotated objects (polygons and run lengths, as in COCO files) to masks."""

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
        shape: a list of polygons (n, 2) of x and y, or run lengths as in the file: {"size": [H, W],
            "counts": list or string}.
        area: in pixels; smaller objects are drawn over larger ones.
        crowd: True for a crowd of uncounted objects, whose pixels are ignored.
    """

    label: int
    shape: Sequence[np.ndarray] | Mapping[str, Any]
    area: float = 0.0
    crowd: bool = False


@dataclass(frozen=True)
class Annotation:
    """The objects of one image; equal and hashed by file and number of the image.

    Coordinates are those of COCO: 0 is the left edge of the first pixel, and a pixel belongs to a
    polygon that contains its center. Several polygons of an object are united.

    Args:
        source: the JSON file.
        number: id of the image in it.
        size: (H, W) according to the file, or None.
        regions: the objects.
    """

    source: Path
    number: int | str
    size: tuple[int, int] | None = field(default=None, compare=False)
    regions: tuple[Region, ...] = field(default=(), compare=False)

    def checked_size(self, image: Path, size: tuple[int, int]) -> tuple[int, int]:
        """Return the size (H, W) of the upright image; InputError if the file has another size."""
        if self.size not in (None, size):
            raise InputError(
                f"{image}: the image is {size[0]}x{size[1]} pixels (height x width), but"
                f" {self.size[0]}x{self.size[1]} in {self.source.name}"
            )
        return size

    def draw(self, size: tuple[int, int]) -> np.ndarray:
        """Draw class indices (H, W) uint8, 0 where there is no object, 255 in crowds. Smaller
        objects are drawn over larger ones, and all objects over crowds.
        """
        label = np.zeros(size, dtype=np.uint8)
        for region in sorted(self.regions, key=lambda region: (not region.crowd, -region.area)):
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

    def _mask(self, region: Region, size: tuple[int, int]) -> np.ndarray:
        """Return the pixels of an object, (H, W) bool."""
        try:
            if isinstance(region.shape, Mapping):
                return decode_runs(region.shape, size)
            return fill_polygons(region.shape, size)
        except (ValueError, KeyError, TypeError, IndexError, OverflowError) as error:
            raise InputError(
                f"{self.source}: an object of image {self.number} cannot be drawn: {error}"
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
    stated = tuple(int(side) for side in shape["size"])
    if stated != tuple(size):
        raise ValueError(
            f"its run lengths are of an image of {stated[0]}x{stated[1]} pixels (height x width),"
            f" the image is {size[0]}x{size[1]}"
        )
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
