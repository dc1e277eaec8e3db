"""What the bytes of an image or a mask file mean, beside its values."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class DecodedImage:
    """An image, upright.

    Args:
        values: (H, W, C) uint8, uint16 or float32. Pixels without data hold the mean of the others.
        alpha: whether the last channel is transparency, by what the file says.
        nodata: (H, W) bool, the pixels that the file says hold no data; None where it says nothing.
            They are ignored in masks and left out of statistics.
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
        """Of the values."""
        return self.values.dtype


@dataclass(frozen=True)
class DecodedMask:
    """A mask as stored, upright: neither inverted nor scaled.

    Args:
        values: (H, W) integers, of an indexed file its indices; or (H, W, C) of a color mask.
        palette: (n, 3) uint8, the color of each index of an indexed file; None for others.
        alpha_varies: whether the file has an alpha channel (which is left out of the values) that
            is not the same everywhere.
        white_is_zero: whether the file says that 0 is white, in gray.
    """

    values: np.ndarray
    palette: np.ndarray | None = None
    alpha_varies: bool = False
    white_is_zero: bool = False


def as_decoded(image: np.ndarray | DecodedImage) -> DecodedImage:
    """An array as an image: two channels of integers are gray and alpha, four are RGB and alpha.
    Floats have no alpha.
    """
    if isinstance(image, DecodedImage):
        return image
    return DecodedImage(image, alpha=image.shape[2] in (2, 4) and image.dtype.kind == "u")


def filled(values: np.ndarray, nodata: np.ndarray) -> np.ndarray:
    """(H, W, C) with the mean of each channel's other pixels at the (H, W) pixels without data; 0
    where there are no others.
    """
    valid = values[~nodata]
    mean = valid.mean(axis=0, dtype=np.float64) if len(valid) else np.zeros(values.shape[2])
    result = values.copy()
    result[nodata] = np.round(mean) if values.dtype.kind == "u" else mean
    return result
