"""Images that are read in windows: arrays, and TIFF files that may be larger than the memory."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

import numpy as np

from kanseg.data.io.decode_errors import require_regular_file
from kanseg.data.io.decoded import DecodedImage, as_decoded
from kanseg.data.io.images import decode_image
from kanseg.data.io.tiff import SUFFIXES
from kanseg.data.io.tiff_windows import open_tiff
from kanseg.utils.errors import InputError


class WindowedImage(Protocol):
    """An image that is read in windows.

    Args:
        name: for messages.
        shape: (H, W).
        channels: of the file.
    """

    name: str
    shape: tuple[int, int]
    channels: int

    def read(self, top: int, left: int, height: int, width: int) -> np.ndarray:
        """Read the window (height, width, C) uint8, uint16 or float32."""

    def window(self, top: int, left: int, height: int, width: int) -> DecodedImage:
        """Read a window with its alpha channel and its mask of pixels without data."""

    def close(self) -> None:
        """Close the file."""


class ArrayImage:
    """An image in memory.

    Args:
        image: (H, W) or (H, W, C) uint8, uint16 or float32, or a decoded image.
        name: for messages.

    Raises:
        InputError: another type or shape.
    """

    def __init__(self, image: np.ndarray | DecodedImage, name: str = "image"):
        values = image.values if isinstance(image, DecodedImage) else image
        if not isinstance(values, np.ndarray):
            raise InputError(
                f"{name}: expected a numpy array, got {type(values).__name__};"
                " `kanseg.data.read_image(path)` reads one from a file"
            )
        if values.ndim == 2:
            values = values[:, :, None]
        known_type = values.dtype in (np.uint8, np.uint16, np.float32)
        if values.ndim != 3 or not known_type or 0 in values.shape:
            raise InputError(
                f"{name}: expected (H, W) or (H, W, C) of uint8, uint16 or float32, got"
                f" {values.shape} of {values.dtype}"
            )
        self.name, self.image = name, values
        self.shape, self.channels = values.shape[:2], values.shape[2]
        self._decoded = image if isinstance(image, DecodedImage) else as_decoded(values)

    def read(self, top: int, left: int, height: int, width: int) -> np.ndarray:
        """Return the window (height, width, C), a view."""
        return self.image[top : top + height, left : left + width]

    def window(self, top: int, left: int, height: int, width: int) -> DecodedImage:
        """Return a window with its alpha channel and its mask of pixels without data."""
        nodata = self._decoded.nodata
        if nodata is not None:
            nodata = nodata[top : top + height, left : left + width]
        return DecodedImage(self.read(top, left, height, width), self._decoded.alpha, nodata)

    def close(self) -> None:
        """Do nothing: there is no file."""


def open_image(path: Path, *, max_pixels: int, large: int) -> WindowedImage:
    """Open an image file. A TIFF file of more than `large` pixels is read in windows if possible,
    other files are read as a whole.

    Raises:
        InputError: as of `read_image`.
    """
    require_regular_file(path)
    if path.suffix.lower() in SUFFIXES:
        image = open_tiff(path, max_pixels=max_pixels, large=large)
        if image is not None:
            return image
    return ArrayImage(decode_image(path, max_pixels=max_pixels), str(path))
