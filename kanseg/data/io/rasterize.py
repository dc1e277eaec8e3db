"""Objects of a COCO file, drawn as a label map when they are needed."""

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
        shape: as in the file: a list of polygons [x, y, x, y, ...], or run lengths {"size": [H, W],
            "counts": list or string}.
        area: in pixels; larger ones are drawn first.
        crowd: whether it is a crowd of uncounted objects, whose pixels are ignored.
    """

    label: int
    shape: Sequence[np.ndarray] | Mapping[str, Any]
    area: float = 0.0
    crowd: bool = False


@dataclass(frozen=True)
class Annotation:
    """The objects of one image; equal and hashed by file and number of the image.

    Coordinates are those of COCO: 0 is the left edge of the first pixel, and a pixel belongs to a
    polygon that holds its center. Several polygons of an object are united.

    Args:
        source: the JSON file.
        number: id of the image in it.
        size: (H, W) that the file states, or None.
        regions: the objects.
    """

    source: Path
    number: int | str
    size: tuple[int, int] | None = field(default=None, compare=False)
    regions: tuple[Region, ...] = field(default=(), compare=False)

    def checked_size(self, image: Path, size: tuple[int, int]) -> tuple[int, int]:
        """The size of the image, upright; InputError when the file states another one."""
        if self.size not in (None, size):
            raise InputError(
                f"{image}: the image is {size[1]}x{size[0]} pixels, and {self.source.name} says"
                f" {self.size[1]}x{self.size[0]}"
            )
        return size

    def draw(self, size: tuple[int, int]) -> np.ndarray:
        """Class indices (H, W) uint8, 0 where nothing is; crowds are 255, smaller objects lie on
        larger ones and all on crowds.
        """
        label = np.zeros(size, dtype=np.uint8)
        for region in sorted(self.regions, key=lambda r: (not r.crowd, -r.area)):
            label[self._mask(region, size)] = IGNORE_INDEX if region.crowd else region.label
        return label

    def draw_each(self, size: tuple[int, int], classes: int) -> np.ndarray:
        """(classes, H, W) uint8: 1 where an object of the class is, whatever the others; 255 in a
        crowd of the class; else 0.
        """
        label = np.zeros((classes, *size), dtype=np.uint8)
        for region in sorted(self.regions, key=lambda r: not r.crowd):
            label[region.label][self._mask(region, size)] = IGNORE_INDEX if region.crowd else 1
        return label

    def _mask(self, region: Region, size: tuple[int, int]) -> np.ndarray:
        """(H, W) bool."""
        try:
            return (
                decode_runs(region.shape, size)
                if isinstance(region.shape, Mapping)
                else fill(region.shape, size)
            )
        except (ValueError, KeyError, TypeError, IndexError, OverflowError) as error:
            raise InputError(
                f"{self.source}: an object of image {self.number} cannot be drawn: {error}"
            ) from None


def fill(polygons: Sequence[np.ndarray], size: tuple[int, int]) -> np.ndarray:
    """Polygons of (x, y) vertices, each (n, 2) -> the pixels whose centers lie inside any of them,
    (H, W) bool; a loop within a loop is a hole.
    """
    drawn = np.zeros(size, dtype=bool)
    for polygon in polygons:
        rows, columns = _crossings(np.asarray(polygon, dtype=np.float64), size)
        turns = np.zeros((size[0], size[1] + 1), dtype=np.int64)
        np.add.at(turns, (rows, columns), 1)
        drawn |= turns.cumsum(axis=1)[:, :-1] % 2 == 1
    return drawn


def _crossings(polygon: np.ndarray, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Where the outline crosses the lines through the centers of the rows: the rows, and the first
    columns whose centers lie right of it.
    """
    start, end = polygon, np.roll(polygon, -1, axis=0)
    low, high = (
        np.clip(np.ceil(each - 0.5), 0, size[0]).astype(int)
        for each in (np.minimum(start, end)[:, 1], np.maximum(start, end)[:, 1])
    )
    edges = np.repeat(np.arange(len(polygon)), high - low)
    rows = np.arange(len(edges)) - np.repeat(np.cumsum(high - low) - high, high - low)
    slope = (end[edges, 0] - start[edges, 0]) / (end[edges, 1] - start[edges, 1])
    x = start[edges, 0] + slope * (rows + 0.5 - start[edges, 1])
    return rows, np.clip(np.ceil(x - 0.5), 0, size[1]).astype(int)


def decode_runs(shape: Mapping[str, Any], size: tuple[int, int]) -> np.ndarray:
    """COCO's run lengths, columns first and zeros first, -> (H, W) bool.

    Raises:
        ValueError: another size than the image's, or lengths that do not add up to it.
    """
    stated = tuple(int(side) for side in shape["size"])
    if stated != tuple(size):
        raise ValueError(
            f"its run lengths are of an image of {stated[1]}x{stated[0]}, the image is"
            f" {size[1]}x{size[0]}"
        )
    counts = shape["counts"]
    lengths = np.array(_from_text(counts) if isinstance(counts, str) else counts, dtype=np.int64)
    pixels = stated[0] * stated[1]
    # Each by itself first: a sum of large ones can overflow to the right number.
    if lengths.min(initial=0) < 0 or lengths.max(initial=0) > pixels or lengths.sum() != pixels:
        raise ValueError(f"its run lengths do not add up to the {pixels} pixels of the image")
    values = np.arange(len(lengths)) % 2 == 1
    return np.repeat(values, lengths).reshape(stated[::-1]).T


def _from_text(text: str) -> list[int]:
    """COCO's compressed run lengths: 5 bits a character from '0' on, the sixth says that more
    follow; from the fourth on differences to the last but one.
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
        lengths.append(value + lengths[-2] if len(lengths) > 2 else value)
        value = bits = 0
    if bits:
        raise ValueError("its run lengths end in the middle of a number")
    return lengths
