"""Crops that are laid around a class, so that rare ones are seen."""

from __future__ import annotations

import numpy as np

from kanseg.data.label_spec import IGNORE_INDEX


def foreground_window(
    mask: np.ndarray, size: tuple[int, int], rng: np.random.Generator
) -> tuple[slice, slice] | None:
    """A random window that holds a random pixel of a class drawn evenly from those in the image;
    None where there are none.

    Args:
        mask: (H, W) class indices, of which 0 is the background, or (N, H, W) of 0 and 1; 255 is
            ignored.
        size: (h, w) of the window; smaller where the image is smaller.
        rng: random numbers.
    """
    place = _pixel_of_a_class(mask, rng)
    if place is None:
        return None
    slices = []
    for at, side, wanted in zip(place, mask.shape[-2:], size, strict=True):
        length = min(side, wanted)
        start = int(rng.integers(max(0, at - length + 1), min(at, side - length) + 1))
        slices.append(slice(start, start + length))
    return slices[0], slices[1]


def _pixel_of_a_class(mask: np.ndarray, rng: np.random.Generator) -> tuple[int, int] | None:
    """(row, column) of a pixel of a class that is there."""
    if mask.ndim == 3:
        present = np.flatnonzero((mask == 1).any(axis=(1, 2)))
    else:
        counts = np.bincount(mask.ravel(), minlength=IGNORE_INDEX + 1)
        present = np.flatnonzero(counts[1:IGNORE_INDEX]) + 1
    if not len(present):
        return None
    chosen = int(present[rng.integers(len(present))])
    pixels = np.flatnonzero(mask[chosen] == 1 if mask.ndim == 3 else mask == chosen)
    row, column = divmod(int(pixels[rng.integers(len(pixels))]), mask.shape[-1])
    return row, column
