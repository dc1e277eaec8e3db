"""TIFF files beyond what PIL and OpenCV hold: many bands, planes one after the other, floating
point and wide integers.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from kanseg.errors import InputError

SUFFIXES = (".tif", ".tiff")
_ALPHA = (1, 2)  # values of the tag ExtraSamples
_COLOUR = ("RGB", "YCBCR", "CIELAB", "ICCLAB")
# What tifffile and its decoders raise for files that are cut off or damaged (TiffFileError is a
# ValueError).
_FAULTS = (
    OSError,
    ValueError,
    RuntimeError,
    KeyError,
    IndexError,
    TypeError,
    EOFError,
    struct.error,
    zlib.error,
)


@dataclass(frozen=True)
class Bands:
    """The header of a multi-band TIFF file.

    Args:
        path: the file.
        shape: (H, W) as stored.
        bands: their number.
        dtype: of the values in the file.
        orientation: EXIF's, 1 to 8.
        pages: pictures of the first one's size in the file.
    """

    path: Path
    shape: tuple[int, int]
    bands: int
    dtype: np.dtype
    orientation: int
    pages: int

    @property
    def kind(self) -> str:
        """A word such as `16-bit 5 bands`, `float32 grey`, `int16 grey`."""
        depth = {np.dtype(np.uint8): "", np.dtype(np.uint16): "16-bit "}.get(
            self.dtype, f"{self.dtype} "
        )
        return depth + ("grey" if self.bands == 1 else f"{self.bands} bands")


def read_header(path: Path) -> Bands | None:
    """The header of a TIFF file that only `read_bands` can read; None for every other file, also a
    damaged one.
    """
    if path.suffix.lower() not in SUFFIXES:
        return None
    from tifffile import TiffFile

    try:
        with TiffFile(path) as file:
            page = file.pages.first
            if page.dtype is None or _is_plain(page):
                return None
            tag = page.tags.get("Orientation")
            same = sum(other.shape == page.shape for other in file.pages[:2])
            pages = len(file.pages) if same == 2 else 1
            shape = (page.imagelength, page.imagewidth)
            return Bands(
                path,
                shape,
                page.samplesperpixel,
                np.dtype(page.dtype),
                1 if tag is None else int(tag.value),
                pages,
            )
    except _FAULTS:
        return None  # PIL, which opens it next, says what is wrong


def read_bands(header: Bands) -> np.ndarray:
    """The picture as stored: (H, W, C) uint8, uint16 or, of all other types, float32.

    Raises:
        InputError: several pictures in one file, damage, a compression that needs another package,
            NaN or infinite values.
    """
    if header.pages > 1:
        raise InputError(
            f"{header.path}: holds {header.pages} pictures (pages) of one size; save each as a file"
            " of its own, or bands as one page: tifffile.imwrite(path, array of (H, W, C),"
            " photometric='minisblack', planarconfig='contig')"
        )
    array = _stored(header.path).reshape(*_stored_shape(header))
    if array.dtype in (np.uint8, np.uint16):
        return np.ascontiguousarray(array)
    array = np.ascontiguousarray(array, dtype=np.float32)
    bad = ~np.isfinite(array)
    if bad.any():
        row, column, band = np.argwhere(bad)[0]
        raise InputError(
            f"{header.path}: {int(bad.sum())} values are NaN or infinite (the first at row {row},"
            f" column {column}, band {band}); replace them (a no-data value becomes 255 in the"
            " mask)"
        )
    return array


def _is_plain(page: object) -> bool:
    """Whether PIL or OpenCV read the page right."""
    samples, alpha = page.samplesperpixel, tuple(page.extrasamples or ())
    if page.dtype.kind not in "ub" or page.dtype.itemsize > 2:
        return False
    if samples == 1:
        return True
    if page.planarconfig == 2 and page.dtype.itemsize == 2:  # OpenCV mixes up planes of 16 bits
        return False
    if page.photometric.name == "SEPARATED":
        return samples == 4
    expected = 3 if page.photometric.name in _COLOUR else 1
    return samples == expected or (
        samples == expected + 1 and len(alpha) == 1 and alpha[0] in _ALPHA
    )


def _stored(path: Path) -> np.ndarray:
    """(H, W, C) of any type."""
    from tifffile import TiffFile

    try:
        with TiffFile(path) as file:
            page = file.pages.first
            array = page.asarray()
            return (
                np.moveaxis(array, 0, -1)
                if page.planarconfig == 2 and page.samplesperpixel > 1
                else array
            )
    except _FAULTS as error:
        if "imagecodecs" in str(error):
            compression = str(error).split(" requires")[0]
            raise InputError(
                f"{path}: the compression ({compression}) needs another package: python -m pip"
                " install imagecodecs"
            ) from None
        raise InputError(
            f"{path}: the file is damaged or truncated ({' '.join(str(error).split())})"
        ) from None


def _stored_shape(header: Bands) -> tuple[int, int, int]:
    return (*header.shape, header.bands)
