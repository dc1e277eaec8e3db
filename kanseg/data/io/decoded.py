"""Decoded image and mask files: pixel values with alpha, nodata and palette."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from kanseg.data.io.colors import pack_rgb

NO_COLOR = -1  # of an index beyond the end of a palette


@dataclass(frozen=True)
class DecodedImage:
    """An upright image.

    Args:
        values: (H, W, C) uint8, uint16 or float32. Pixels without data hold the mean of the others.
        alpha: True if the last channel is transparency, according to the file.
        nodata: (H, W) bool, True for pixels that the file marks as without data; None if it marks
            no pixels. They are ignored in masks and left out of statistics.
    """

    values: np.ndarray
    alpha: bool = False
    nodata: np.ndarray | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """(H, W, C)."""
        return self.values.shape

    @property
    def dtype(self) -> np.dtype:
        """Type of the values."""
        return self.values.dtype


@dataclass(frozen=True)
class DecodedMask:
    """An upright mask with its values as stored, neither inverted nor scaled.

    Args:
        values: (H, W) integers, which are the indices of an indexed file; or (H, W, C) for a color
            mask.
        palette: (n, 3) uint8, the color of each index of an indexed file; None for other files.
        alpha_varies: True if the file has an alpha channel that is not constant. The values do not
            include it.
        white_is_zero: True for a gray file that defines 0 as white.
    """

    values: np.ndarray
    palette: np.ndarray | None = None
    alpha_varies: bool = False
    white_is_zero: bool = False

    def colors_of(self, indices: Sequence[int]) -> dict[int, int]:
        """Return index -> packed color (`pack_rgb`) by the palette, `NO_COLOR` beyond its end; {}
        without a palette.
        """
        if self.palette is None:
            return {}
        packed = pack_rgb(self.palette).tolist()
        colors = dict.fromkeys(indices, NO_COLOR)
        for index in indices:
            if 0 <= index < len(packed):
                colors[index] = packed[index]
        return colors


def as_decoded(image: np.ndarray | DecodedImage) -> DecodedImage:
    """Wrap an array as a decoded image: of 2 or 4 channels of integers, the last is alpha. Floats
    have no alpha.
    """
    if isinstance(image, DecodedImage):
        return image
    return DecodedImage(image, alpha=image.shape[2] in (2, 4) and image.dtype.kind == "u")


def fill_nodata(values: np.ndarray, nodata: np.ndarray) -> np.ndarray:
    """Return values (H, W, C) with the pixels without data (H, W) replaced by the mean of the
    others in each channel, or by 0 if there are no others.
    """
    valid = values[~nodata]
    mean = np.zeros(values.shape[2])
    if len(valid):
        mean = valid.mean(axis=0, dtype=np.float64)
    if values.dtype.kind == "u":
        mean = np.round(mean)
    result = values.copy()
    result[nodata] = mean
    return result
