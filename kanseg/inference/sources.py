"""Images that are read by windows: from an array, or a file that is too large for the memory."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

import numpy as np

from kanseg.data.io.decode_errors import require_regular_file
from kanseg.data.io.decoded import DecodedImage, as_decoded
from kanseg.data.io.images import decode_image
from kanseg.utils.errors import InputError


class WindowedImage(Protocol):
    """An image that is read by windows.

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

    def window(self, top: int, left: int, height: int, width: int) -> DecodedImage:
        """The same with what the file says about alpha and pixels without data."""

    def close(self) -> None:
        """Let go of the file."""


class ArrayImage:
    """(H, W) or (H, W, C) uint8, uint16 or float32 in memory, or a decoded image.

    Raises:
        InputError: another type or shape.
    """

    def __init__(self, image: np.ndarray | DecodedImage, name: str = "image"):
        decoded = image if isinstance(image, DecodedImage) else None
        image = image if decoded is None else decoded.values
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
        self._decoded = decoded or as_decoded(image)
        self.shape, self.channels = image.shape[:2], image.shape[2]

    def read(self, top: int, left: int, height: int, width: int) -> np.ndarray:
        """The window (height, width, C)."""
        return self.image[top : top + height, left : left + width]

    def window(self, top: int, left: int, height: int, width: int) -> DecodedImage:
        """The same with what is known of it."""
        nodata = self._decoded.nodata
        if nodata is not None:
            nodata = nodata[top : top + height, left : left + width]
        return DecodedImage(self.read(top, left, height, width), self._decoded.alpha, nodata)

    def close(self) -> None:
        """Nothing to let go of."""


def open_image(path: Path, *, max_pixels: int, large: int) -> WindowedImage:
    """An image file: a TIFF of more than `large` pixels is read by windows where it can be,
    everything else as a whole.

    Raises:
        InputError: as of `read_image`.
    """
    require_regular_file(path)
    if path.suffix.lower() in (".tif", ".tiff"):
        from kanseg.inference.files.tiff import open_tiff

        image = open_tiff(path, max_pixels=max_pixels, large=large)
        if image is not None:
            return image
    return ArrayImage(decode_image(path, max_pixels=max_pixels), str(path))
