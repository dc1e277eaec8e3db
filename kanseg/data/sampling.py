"""Crops around a random class, which oversample rare classes."""

from __future__ import annotations

import numpy as np

from kanseg.data.label_spec import IGNORE_INDEX


def foreground_window(
    mask: np.ndarray, size: tuple[int, int], rng: np.random.Generator
) -> tuple[slice, slice] | None:
    """Return a random window that contains a random pixel of a random class, all classes in the
    mask being equally likely; None if the mask has no class.

    Args:
        mask: (H, W) class indices, of which 0 is the background, or (N, H, W) of 0 and 1; 255 is
            ignored.
        size: (h, w) of the window; smaller where the image is smaller.
        rng: random number generator.
    """
    pixel = _pixel_of_a_class(mask, rng)
    if pixel is None:
        return None
    slices = []
    for position, side, wanted in zip(pixel, mask.shape[-2:], size, strict=True):
        length = min(side, wanted)
        first, last = max(0, position - length + 1), min(position, side - length)
        start = int(rng.integers(first, last + 1))
        slices.append(slice(start, start + length))
    return slices[0], slices[1]


def _pixel_of_a_class(mask: np.ndarray, rng: np.random.Generator) -> tuple[int, int] | None:
    """Return (row, column) of a random pixel of a random class; None if the mask has no class."""
    if mask.ndim == 3:
        present = np.flatnonzero((mask == 1).any(axis=(1, 2)))
    else:
        counts = np.bincount(mask.ravel(), minlength=IGNORE_INDEX + 1)
        present = np.flatnonzero(counts[1:IGNORE_INDEX]) + 1
    if not len(present):
        return None
    chosen = int(present[rng.integers(len(present))])
    if mask.ndim == 3:
        pixels = np.flatnonzero(mask[chosen] == 1)
    else:
        pixels = np.flatnonzero(mask == chosen)
    row, column = divmod(int(pixels[rng.integers(len(pixels))]), mask.shape[-1])
    return row, column
