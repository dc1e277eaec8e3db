"""Pictures that are read by windows: from an array, or a file that is too large for the memory."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

import numpy as np

from kanseg.data.images import read_image
from kanseg.errors import InputError


class Picture(Protocol):
    """A picture that is read by windows.

    Args:
        name: for messages.
        shape: (H, W).
        channels: of the file.
    """

    name: str
    shape: tuple[int, int]
    channels: int

    def read(self, top: int, left: int, height: int, width: int) -> np.ndarray:
        """The window (height, width, C) uint8, uint16 or float32."""

    def close(self) -> None:
        """Let go of the file."""


class ArrayPicture:
    """(H, W) or (H, W, C) uint8, uint16 or float32 in memory.

    Raises:
        InputError: another type or shape.
    """

    def __init__(self, image: np.ndarray, name: str = "picture"):
        if not isinstance(image, np.ndarray):
            raise InputError(
                f"{name}: expected a numpy array, got {type(image).__name__};"
                " `kanseg.data.read_image(path)` reads one from a file"
            )
        image = image[:, :, None] if image.ndim == 2 else image
        if (
            image.ndim != 3
            or image.dtype not in (np.uint8, np.uint16, np.float32)
            or 0 in image.shape
        ):
            raise InputError(
                f"{name}: expected (H, W) or (H, W, C) of uint8, uint16 or float32, got"
                f" {image.shape} of {image.dtype}"
            )
        self.image, self.name = image, name
        self.shape, self.channels = image.shape[:2], image.shape[2]

    def read(self, top: int, left: int, height: int, width: int) -> np.ndarray:
        """The window (height, width, C)."""
        return self.image[top : top + height, left : left + width]

    def close(self) -> None:
        """Nothing to let go of."""


def open_picture(path: Path, *, max_pixels: int, large: int) -> Picture:
    """A picture file: a TIFF of more than `large` pixels is read by windows where it can be,
    everything else as a whole.

    Raises:
        InputError: as of `read_image`.
    """
    if path.suffix.lower() in (".tif", ".tiff"):
        from kanseg.inference.tiff import open_tiff

        picture = open_tiff(path, max_pixels=max_pixels, large=large)
        if picture is not None:
            return picture
    return ArrayPicture(read_image(path, max_pixels=max_pixels), str(path))
