"""Probe an image or mask file: facts that do not depend on the meaning of the labels and can be
cached.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from kanseg.data.io.colors import pack_rgb
from kanseg.data.io.decoded import DecodedImage, DecodedMask
from kanseg.data.io.images import MAX_PIXELS, decode_image, decode_mask, image_mode
from kanseg.utils.errors import InputError
from kanseg.utils.language import text_from_json, text_to_json, translate

MAX_VALUES = 1024  # different values of a mask to keep; a mask has at most 255 classes
LARGE = 2**25  # pixels; larger images are decoded one at a time, for any number of threads
WHITE, BLACK = 0xFFFFFF, 0
_LARGE_LOCK = threading.Lock()


@dataclass
class ImageFacts:
    """Facts about an image file.

    Args:
        fault: `fault_of` a file that cannot be used; the other facts are then empty.
        kind: "RGB", "gray", "16-bit gray", ...
        size: [H, W], upright.
        channels: as read, alpha included.
        mean, std: per channel, of the values scaled to [0, 1].
        constant: True if all pixels are equal.
        alpha: True if the last channel is transparency.
        nodata: number of pixels without data, which are left out of mean, std and `constant`; None
            if the file does not mark such pixels.
        pixels: SHA-256 of the decoded pixels, the same for gray stored as RGB and for an opaque
            alpha channel.
    """

    fault: list[Any] | None = None
    kind: str = ""
    size: list[int] = field(default_factory=list)
    channels: int = 0
    mean: list[float] = field(default_factory=list)
    std: list[float] = field(default_factory=list)
    constant: bool = False
    alpha: bool = False
    nodata: int | None = None
    pixels: str = ""

    @property
    def is_float(self) -> bool:
        """True if the image is read as float32 values."""
        return self.kind.startswith(("float", "int", "uint"))


@dataclass
class MaskFacts:
    """Facts about a mask file.

    Args:
        fault: `fault_of` a file that cannot be used; the other facts are then empty.
        lossy: the name of a lossy format ("JPEG", "WEBP"), else "".
        size: [H, W].
        color: True if the values are packed RGB colors (`pack_rgb`) instead of indices.
        gray: True for a color mask with equal red, green and blue everywhere.
        values: [value, pixels, row and column of the first one] each, ascending.
        more: True if there are more than `MAX_VALUES` values; only the first are kept.
        palette: [index, packed color] of each value of an indexed file; empty for others.
        alpha_varies: True if the file has an alpha channel that is not constant.
        white_at_0: True if the file defines 0 as white and another of its values as black.
    """

    fault: list[Any] | None = None
    lossy: str = ""
    size: list[int] = field(default_factory=list)
    color: bool = False
    gray: bool = False
    values: list[list[int]] = field(default_factory=list)
    more: bool = False
    palette: list[list[int]] = field(default_factory=list)
    alpha_varies: bool = False
    white_at_0: bool = False


def probe_image(path: Path, max_pixels: int = MAX_PIXELS) -> ImageFacts:
    """Decode an image file and return the facts about it; a fault is one of the facts."""
    try:
        with _one_large_at_a_time(path):
            kind, _ = image_mode(path, max_pixels=max_pixels)
            return _image_facts(kind, decode_image(path, max_pixels=max_pixels))
    except InputError as error:
        return ImageFacts(fault=fault_of(error))


def probe_mask(path: Path, max_pixels: int = MAX_PIXELS) -> MaskFacts:
    """Decode a mask file and return the facts about it; a fault is one of the facts."""
    try:
        with _one_large_at_a_time(path):
            return _mask_facts(path, decode_mask(path, max_pixels=max_pixels))
    except InputError as error:
        return MaskFacts(fault=fault_of(error))


def probe_masks(paths: Sequence[Path], max_pixels: int = MAX_PIXELS) -> list[MaskFacts]:
    """Call `probe_mask` for many files in threads."""
    with ThreadPoolExecutor() as pool:  # decoding releases the GIL
        return list(pool.map(lambda path: probe_mask(path, max_pixels), paths))


@contextmanager
def _one_large_at_a_time(path: Path) -> Iterator[None]:
    """Let only one thread at a time decode a large image, to limit the memory."""
    is_large = False
    with suppress(InputError):  # raised again when the file is decoded
        _, (height, width) = image_mode(path, max_pixels=2**62)
        is_large = height * width > LARGE
    with _LARGE_LOCK if is_large else nullcontext():
        yield


def _image_facts(kind: str, image: DecodedImage) -> ImageFacts:
    values, with_data, nodata = image.values, None, None
    if image.nodata is not None:
        with_data = (~image.nodata).astype(np.uint8)
        nodata = int(image.nodata.sum())
    scale = 1.0
    if values.dtype.kind in "ui":
        scale = float(np.iinfo(values.dtype).max)
    mean, std = [], []
    constant = True
    for channel in range(values.shape[2]):
        plane = np.ascontiguousarray(values[:, :, channel])
        moments = cv2.meanStdDev(plane, mask=with_data)
        mean.append(round(float(moments[0].item()) / scale, 8))
        std.append(round(float(moments[1].item()) / scale, 8))
        constant = constant and moments[1].item() == 0
    return ImageFacts(
        kind=kind,
        size=list(values.shape[:2]),
        channels=values.shape[2],
        mean=mean,
        std=std,
        constant=constant,
        alpha=image.alpha,
        nodata=nodata,
        pixels=_pixel_hash(image),
    )


def _pixel_hash(image: DecodedImage) -> str:
    """Return the SHA-256 of the pixels, without an opaque alpha channel, and as gray if all pixels
    are gray.
    """
    values = image.values
    if image.alpha and values.dtype.kind == "u":
        opaque = (values[:, :, -1] == np.iinfo(values.dtype).max).all()
        if opaque:
            values = values[:, :, :-1]
    if values.shape[2] == 3 and (values[:, :, :1] == values[:, :, 1:]).all():
        values = values[:, :, :1]
    digest = hashlib.sha256(f"{values.dtype.str} {values.shape}".encode())
    digest.update(np.ascontiguousarray(values).data)
    return digest.hexdigest()


def _mask_facts(path: Path, mask: DecodedMask) -> MaskFacts:
    array = mask.values
    color = array.ndim == 3
    if color:
        supported = array.dtype == np.uint8 and array.shape[2] == 3
        kind = translate(
            "{kind} values with {channels} channels", kind=array.dtype, channels=array.shape[2]
        )
    else:
        supported = array.dtype.kind in "ui"
        kind = translate("{kind} values", kind=array.dtype)
    if not supported:
        reason = translate("a mask of {kind}; save class indices as 8-bit gray PNG", kind=kind)
        return MaskFacts(fault=fault_of(InputError(reason, where=path)))
    flat = array
    if color:
        flat = pack_rgb(array)
    values, counts = _histogram(flat)
    kept = []
    for value, count in zip(values[:MAX_VALUES], counts, strict=False):
        row, column = divmod(int((flat == value).argmax()), flat.shape[1])
        kept.append([int(value), int(count), row, column])
    palette = mask.colors_of([value for value, *_ in kept])
    dark_on_white = palette.get(0) == WHITE and BLACK in palette.values()
    return MaskFacts(
        lossy=_lossy_format(path),
        size=list(array.shape[:2]),
        color=color,
        gray=color and bool((array[:, :, :1] == array[:, :, 1:]).all()),
        values=kept,
        more=len(values) > MAX_VALUES,
        palette=[[index, packed] for index, packed in palette.items()],
        alpha_varies=mask.alpha_varies,
        white_at_0=mask.white_is_zero or dark_on_white,
    )


def _histogram(flat: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return (values of a mask, ascending, and the number of pixels of each)."""
    if flat.dtype.itemsize > 2:
        return np.unique(flat, return_counts=True)
    # Counting is ten times faster than sorting, but copies 8 bytes per pixel: count in parts.
    counts = np.zeros(np.iinfo(flat.dtype).max + 1, dtype=np.int64)
    for rows in np.array_split(flat, max(1, flat.size // 2**22)):
        counts += np.bincount(rows.ravel(), minlength=len(counts))
    values = np.flatnonzero(counts)
    return values, counts[values]


def _lossy_format(path: Path) -> str:
    """Return "JPEG", "WEBP" for lossy WebP (which has a chunk `VP8 `), or ""."""
    with path.open("rb") as stream:
        head = stream.read(16)
    if head[:2] == b"\xff\xd8":
        return "JPEG"
    if head[:4] == b"RIFF" and head[12:16] == b"VP8 ":
        return "WEBP"
    return ""


def fault_of(error: InputError) -> list[Any]:
    """Return [code, reason, place] of an error for the cache: the reason in no language."""
    return [error.code or "unsupported", text_to_json(error.reason), str(error.where)]


def fault_reason(fault: Sequence[Any]) -> str:
    """Return the reason of `fault_of` in the language of the user."""
    return text_from_json(fault[1])
