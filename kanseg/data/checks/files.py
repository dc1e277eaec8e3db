"""What one file holds: facts that do not depend on what the labels mean, so that they can
be kept.
"""

from __future__ import annotations

import hashlib
import threading
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from kanseg.data.images import image_mode, read_image, read_mask_values
from kanseg.errors import InputError

MOST_VALUES = 1024  # of a mask that are kept; a label map has at most 255 classes
LARGE = (
    2**25
)  # pictures of more pixels are decoded one after another, whatever the number of threads
_ONE_LARGE = threading.Lock()


@dataclass
class Picture:
    """A picture file.

    Args:
        fault: (code, reason) of a file that cannot be used; then the rest is empty.
        kind: "RGB", "grey", "16-bit grey", ...
        size: (H, W), upright.
        channels: as read, alpha included.
        mean, std: per channel, of the values in [0, 1].
        constant: whether all pixels are equal.
        pixels: SHA-256 of the decoded pixels, the same for grey stored as RGB and for an opaque
            alpha channel.
    """

    fault: list[str] | None = None
    kind: str = ""
    size: list[int] = field(default_factory=list)
    channels: int = 0
    mean: list[float] = field(default_factory=list)
    std: list[float] = field(default_factory=list)
    constant: bool = False
    pixels: str = ""


@dataclass
class Mask:
    """A mask file.

    Args:
        fault: (code, reason) of a file that cannot be used; then the rest is empty.
        lossy: the name of a lossy format ("JPEG", "WEBP"), else "".
        size: (H, W).
        colour: whether it holds colours, red * 65536 + green * 256 + blue each, instead of indices.
        grey: of a colour mask: whether red, green and blue are equal everywhere.
        values: [value, pixels, row and column of the first one] each, ascending.
        more: whether there are more than `MOST_VALUES` values, of which the first are kept.
    """

    fault: list[str] | None = None
    lossy: str = ""
    size: list[int] = field(default_factory=list)
    colour: bool = False
    grey: bool = False
    values: list[list[int]] = field(default_factory=list)
    more: bool = False


def look_at_picture(path: Path, max_pixels: int) -> Picture:
    """Decode a picture once and say what it is; a fault is part of the answer."""
    try:
        with _one_large_at_a_time(path):
            kind, _ = image_mode(path, max_pixels=max_pixels)
            array = read_image(path, max_pixels=max_pixels)
            return _picture_facts(kind, array)
    except InputError as error:
        return Picture(fault=_fault(path, error))


def look_at_mask(path: Path, max_pixels: int) -> Mask:
    """Decode a mask once and say what it holds; a fault is part of the answer."""
    try:
        with _one_large_at_a_time(path):
            return _mask_facts(path, read_mask_values(path, max_pixels=max_pixels))
    except InputError as error:
        return Mask(fault=_fault(path, error))


@contextmanager
def _one_large_at_a_time(path: Path):
    """Decoding in threads, but a single large picture at any time, which bounds the memory."""
    with _ONE_LARGE if _pixels_by_header(path) > LARGE else nullcontext():
        yield


def _pixels_by_header(path: Path) -> int:
    try:
        _, (height, width) = image_mode(path, max_pixels=2**62)
    except InputError:
        return 0
    return height * width


def _picture_facts(kind: str, array: np.ndarray) -> Picture:
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        return Picture(fault=_nan(array))
    scale = float(np.iinfo(array.dtype).max) if array.dtype.kind in "ui" else 1.0
    moments = [
        cv2.meanStdDev(np.ascontiguousarray(array[:, :, channel]))
        for channel in range(array.shape[2])
    ]
    mean, std = ([float(pair[place].item()) / scale for pair in moments] for place in (0, 1))
    rounded = [[round(value, 8) for value in values] for values in (mean, std)]
    return Picture(
        None,
        kind,
        list(array.shape[:2]),
        array.shape[2],
        *rounded,
        constant=max(std) == 0,
        pixels=_pixel_hash(array),
    )


def _pixel_hash(array: np.ndarray) -> str:
    """SHA-256 of the pixels in their simplest form: without an opaque alpha channel, and grey where
    all colours are.
    """
    if (
        array.shape[2] in (2, 4)
        and array.dtype.kind == "u"
        and (array[:, :, -1] == np.iinfo(array.dtype).max).all()
    ):
        array = array[:, :, :-1]
    if array.shape[2] == 3 and (array[:, :, :1] == array[:, :, 1:]).all():
        array = array[:, :, :1]
    digest = hashlib.sha256(f"{array.dtype.str} {array.shape}".encode())
    digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def _mask_facts(path: Path, array: np.ndarray) -> Mask:
    colour = array.ndim == 3
    if array.dtype.kind not in "ui" or (
        colour and (array.dtype != np.uint8 or array.shape[2] != 3)
    ):
        channels = f" with {array.shape[2]} channels" if colour else ""
        return Mask(
            fault=[
                "unsupported",
                f"a mask of {array.dtype} values{channels}; save class indices as 8-bit grey PNG",
            ]
        )
    grey = colour and bool((array[:, :, :1] == array[:, :, 1:]).all())
    flat = _codes(array) if colour else array
    values, counts = _histogram(flat)
    kept = []
    for value, count in zip(values[:MOST_VALUES], counts, strict=False):
        first = int((flat == value).argmax())
        kept.append([int(value), int(count), *divmod(first, flat.shape[1])])
    return Mask(
        None,
        _lossy_format(path),
        list(array.shape[:2]),
        colour,
        grey,
        kept,
        more=len(values) > MOST_VALUES,
    )


def _codes(colours: np.ndarray) -> np.ndarray:
    """(H, W, 3) uint8 -> (H, W) int32."""
    wide = colours.astype(np.int32)
    return wide[..., 0] << 16 | wide[..., 1] << 8 | wide[..., 2]


def _histogram(flat: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The values of a mask, ascending, and their pixels; by counting, which is ten times faster
    than sorting, where they are few.
    """
    if flat.dtype.itemsize > 2:
        return np.unique(flat, return_counts=True)
    counts = np.zeros(np.iinfo(flat.dtype).max + 1, dtype=np.int64)
    for rows in np.array_split(
        flat, max(1, flat.size // 2**22)
    ):  # counting makes a copy of 8 bytes a pixel
        counts += np.bincount(rows.ravel(), minlength=len(counts))
    values = np.flatnonzero(counts)
    return values, counts[values]


def _lossy_format(path: Path) -> str:
    """JPEG, or WebP that is not lossless (its stream has the chunk `VP8 `)."""
    with path.open("rb") as stream:
        head = stream.read(16)
    if head[:2] == b"\xff\xd8":
        return "JPEG"
    return "WEBP" if head[:4] == b"RIFF" and head[12:16] == b"VP8 " else ""


# What the reader's messages say -> code.
_CODES = {
    "no such file": "missing",
    "the file is empty": "empty_file",
    "not a picture": "unreadable",
    "damaged or truncated": "truncated",
    "more than the limit": "too_large",
    "NaN": "nan",
}


def _fault(path: Path, error: InputError) -> list[str]:
    """[code, reason] of a file that could not be read."""
    reason = str(error).removeprefix(f"{path}: ")
    code = next((code for words, code in _CODES.items() if words in reason), "unsupported")
    return _nan_of(path) or [code, reason] if code == "unsupported" else [code, reason]


def _nan_of(path: Path) -> list[str] | None:
    """Where the first NaN of a floating-point picture is, which cannot be read for that alone or
    for its type.
    """
    try:
        with Image.open(path) as picture:
            array = np.asarray(picture) if picture.mode == "F" else np.zeros((1, 1))
    except (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError):
        return None
    return None if np.isfinite(array).all() else _nan(array)


def _nan(array: np.ndarray) -> list[str]:
    bad = ~np.isfinite(array.reshape(*array.shape[:2], -1)).all(axis=2)
    row, column = (int(i) for i in np.argwhere(bad)[0])
    return [
        "nan",
        (
            f"{int(bad.sum())} pixels are NaN or infinite, the first at row {row}, column {column};"
            " fill them in, and save 8 or 16 bits a channel"
        ),
    ]
