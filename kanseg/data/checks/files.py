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

from kanseg.data.io.decoded import DecodedImage, DecodedMask
from kanseg.data.io.images import decode_image, decode_mask, image_mode
from kanseg.data.labels import colors_of
from kanseg.utils.errors import InputError

MOST_VALUES = 1024  # of a mask that are kept; a label map has at most 255 classes
LARGE = 2**25  # images of more pixels are decoded one after another, whatever the number of threads
WHITE, BLACK = 0xFFFFFF, 0
_ONE_LARGE = threading.Lock()


@dataclass
class ImageFacts:
    """An image file.

    Args:
        fault: (code, reason) of a file that cannot be used; then the rest is empty.
        kind: "RGB", "gray", "16-bit gray", ...
        size: (H, W), upright.
        channels: as read, alpha included.
        mean, std: per channel, of the values in [0, 1].
        constant: whether all pixels are equal.
        alpha: whether the last channel is transparency.
        nodata: pixels without data, which are left out of mean, std and `constant`; None where the
            file does not say which they are.
        pixels: SHA-256 of the decoded pixels, the same for gray stored as RGB and for an opaque
            alpha channel.
    """

    fault: list[str] | None = None
    kind: str = ""
    size: list[int] = field(default_factory=list)
    channels: int = 0
    mean: list[float] = field(default_factory=list)
    std: list[float] = field(default_factory=list)
    constant: bool = False
    alpha: bool = False
    nodata: int | None = None
    pixels: str = ""


@dataclass
class Mask:
    """A mask file.

    Args:
        fault: (code, reason) of a file that cannot be used; then the rest is empty.
        lossy: the name of a lossy format ("JPEG", "WEBP"), else "".
        size: (H, W).
        color: whether it holds colors, red * 65536 + green * 256 + blue each, instead of indices.
        gray: of a color mask: whether red, green and blue are equal everywhere.
        values: [value, pixels, row and column of the first one] each, ascending.
        more: whether there are more than `MOST_VALUES` values, of which the first are kept.
        palette: [index, color] of each value of an indexed file; empty for others.
        alpha_varies: whether it has an alpha channel that is not the same everywhere.
        white_at_0: whether the file says that 0 is white and another of its values black.
    """

    fault: list[str] | None = None
    lossy: str = ""
    size: list[int] = field(default_factory=list)
    color: bool = False
    gray: bool = False
    values: list[list[int]] = field(default_factory=list)
    more: bool = False
    palette: list[list[int]] = field(default_factory=list)
    alpha_varies: bool = False
    white_at_0: bool = False


def look_at_image(path: Path, max_pixels: int) -> ImageFacts:
    """Decode an image once and say what it is; a fault is part of the answer."""
    try:
        with _one_large_at_a_time(path):
            kind, _ = image_mode(path, max_pixels=max_pixels)
            return _image_facts(kind, decode_image(path, max_pixels=max_pixels))
    except InputError as error:
        return ImageFacts(fault=_fault(path, error))


def look_at_mask(path: Path, max_pixels: int) -> Mask:
    """Decode a mask once and say what it holds; a fault is part of the answer."""
    try:
        with _one_large_at_a_time(path):
            return _mask_facts(path, decode_mask(path, max_pixels=max_pixels))
    except InputError as error:
        return Mask(fault=_fault(path, error))


@contextmanager
def _one_large_at_a_time(path: Path):
    """Decoding in threads, but a single large image at any time, which bounds the memory."""
    with _ONE_LARGE if _pixels_by_header(path) > LARGE else nullcontext():
        yield


def _pixels_by_header(path: Path) -> int:
    try:
        _, (height, width) = image_mode(path, max_pixels=2**62)
    except InputError:
        return 0
    return height * width


def _image_facts(kind: str, image: DecodedImage) -> ImageFacts:
    array, nodata = image.values, image.nodata
    with_data = None if nodata is None else (~nodata).astype(np.uint8)
    scale = float(np.iinfo(array.dtype).max) if array.dtype.kind in "ui" else 1.0
    moments = [
        cv2.meanStdDev(np.ascontiguousarray(array[:, :, channel]), mask=with_data)
        for channel in range(array.shape[2])
    ]
    mean, std = ([float(pair[place].item()) / scale for pair in moments] for place in (0, 1))
    rounded = [[round(value, 8) for value in values] for values in (mean, std)]
    return ImageFacts(
        None,
        kind,
        list(array.shape[:2]),
        array.shape[2],
        *rounded,
        constant=max(std) == 0,
        alpha=image.alpha,
        nodata=None if nodata is None else int(nodata.sum()),
        pixels=_pixel_hash(image),
    )


def _pixel_hash(image: DecodedImage) -> str:
    """SHA-256 of the pixels in their simplest form: without an opaque alpha channel, and gray where
    all colors are.
    """
    array = image.values
    if image.alpha and array.dtype.kind == "u":
        opaque = (array[:, :, -1] == np.iinfo(array.dtype).max).all()
        array = array[:, :, :-1] if opaque else array
    if array.shape[2] == 3 and (array[:, :, :1] == array[:, :, 1:]).all():
        array = array[:, :, :1]
    digest = hashlib.sha256(f"{array.dtype.str} {array.shape}".encode())
    digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def _mask_facts(path: Path, mask: DecodedMask) -> Mask:
    array = mask.values
    color = array.ndim == 3
    if array.dtype.kind not in "ui" or (color and (array.dtype != np.uint8 or array.shape[2] != 3)):
        channels = f" with {array.shape[2]} channels" if color else ""
        return Mask(
            fault=[
                "unsupported",
                f"a mask of {array.dtype} values{channels}; save class indices as 8-bit gray PNG",
            ]
        )
    gray = color and bool((array[:, :, :1] == array[:, :, 1:]).all())
    flat = _codes(array) if color else array
    values, counts = _histogram(flat)
    kept = []
    for value, count in zip(values[:MOST_VALUES], counts, strict=False):
        first = int((flat == value).argmax())
        kept.append([int(value), int(count), *divmod(first, flat.shape[1])])
    return Mask(
        None,
        _lossy_format(path),
        list(array.shape[:2]),
        color,
        gray,
        kept,
        more=len(values) > MOST_VALUES,
        palette=_palette_facts(mask, values),
        alpha_varies=mask.alpha_varies,
        white_at_0=_white_at_0(mask, values),
    )


def _palette_facts(mask: DecodedMask, values: np.ndarray) -> list[list[int]]:
    """[index, color] of the values of an indexed mask."""
    if mask.palette is None:
        return []
    colors = colors_of(mask.palette, values[:MOST_VALUES].tolist())
    return [[index, color] for index, color in colors.items()]


def _white_at_0(mask: DecodedMask, values: np.ndarray) -> bool:
    if mask.white_is_zero:
        return True
    colors = dict(_palette_facts(mask, values))
    return colors.get(0) == WHITE and BLACK in colors.values()


def _codes(colors: np.ndarray) -> np.ndarray:
    """(H, W, 3) uint8 -> (H, W) int32."""
    wide = colors.astype(np.int32)
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
    "not an image": "unreadable",
    "not a regular file": "unreadable",
    "damaged or truncated": "truncated",
    "more than the limit": "too_large",
    "NaN": "nan",
    "more memory than there is": "too_large",
}


def _fault(path: Path, error: InputError) -> list[str]:
    """[code, reason] of a file that could not be read."""
    reason = str(error).removeprefix(f"{path}: ")
    code = next((code for words, code in _CODES.items() if words in reason), "unsupported")
    return [code, reason]
