"""The EXIF orientation of an image, read from its header without decoding a pixel."""

from __future__ import annotations

import re
import struct
from pathlib import Path

import numpy as np
from PIL import Image

_TAG = 0x0112
_SHORT = 3
_IN_XMP = re.compile(rb'tiff:Orientation(?:="|>)([1-8])')
_PNG_SIGNATURE = 8
MOST_CHUNKS = 10_000
LARGEST_EXIF = 2**20


def orientation_of(image: Image.Image, path: Path | str) -> int:
    """1 to 8; 1 (upright) where the file says nothing that can be understood.

    `Image.getexif` is not used: it decodes a whole PNG, and gives texts and pairs as they are.

    Args:
        image: as `Image.open` gives it, not loaded.
        path: of its file.
    """
    info = image.info
    data = info.get("exif")
    if data is None and image.format == "PNG":
        data = _exif_of_png(Path(path))
    if data is None and "Raw profile type exif" in info:  # as ImageMagick writes it into PNG files
        data = _from_raw_profile(str(info["Raw profile type exif"]))
    found = exif_orientation(data) if isinstance(data, bytes) else None
    if found is not None:
        return found
    xmp = info.get("xmp") or info.get("XML:com.adobe.xmp") or b""
    match = _IN_XMP.search(xmp.encode() if isinstance(xmp, str) else xmp)
    return int(match[1]) if match else 1


def exif_orientation(data: bytes) -> int | None:
    """The orientation in EXIF data, 1 to 8; None where there is none, or something else than one
    number from 1 to 8.
    """
    data = data.removeprefix(b"Exif\0\0")
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(data[:4])
    if order is None or len(data) < 8:
        return None
    (start,) = struct.unpack_from(f"{order}I", data, 4)
    if start + 2 > len(data):
        return None
    (count,) = struct.unpack_from(f"{order}H", data, start)
    for place in range(start + 2, min(start + 2 + 12 * count, len(data) - 11), 12):
        tag, kind, number, value = struct.unpack_from(f"{order}HHIH", data, place)
        if tag == _TAG:
            return value if kind == _SHORT and number == 1 and 1 <= value <= 8 else None
    return None


def _exif_of_png(path: Path) -> bytes | None:
    """The chunk eXIf of a PNG file, which may lie behind the pixels; they are skipped."""
    with path.open("rb") as file:
        file.seek(_PNG_SIGNATURE)
        for _ in range(MOST_CHUNKS):
            head = file.read(8)
            if len(head) < 8 or head[4:] == b"IEND":
                return None
            length = int.from_bytes(head[:4], "big")
            if head[4:] == b"eXIf":
                return file.read(min(length, LARGEST_EXIF))
            file.seek(length + 4, 1)
    return None


def _from_raw_profile(text: str) -> bytes | None:
    try:
        return bytes.fromhex("".join(text.split("\n")[3:]))
    except ValueError:
        return None


def upright(array: np.ndarray, orientation: int) -> np.ndarray:
    """Undo an EXIF orientation (1 to 8) of an (H, W) or (H, W, C) array."""
    steps = {
        2: lambda a: a[:, ::-1],
        3: lambda a: a[::-1, ::-1],
        4: lambda a: a[::-1],
        5: lambda a: a.swapaxes(0, 1),
        6: lambda a: np.rot90(a, -1),
        7: lambda a: a[::-1, ::-1].swapaxes(0, 1),
        8: lambda a: np.rot90(a),
    }
    return np.ascontiguousarray(steps[orientation](array)) if orientation in steps else array
