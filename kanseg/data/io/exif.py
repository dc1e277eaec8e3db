"""Read the EXIF orientation of an image from its header, without decoding pixels."""

from __future__ import annotations

import re
import struct
from contextlib import suppress
from pathlib import Path

import numpy as np
from PIL import Image

_TAG = 0x0112
_SHORT = 3
_BYTE_ORDERS = {b"II*\0": "<", b"MM\0*": ">"}
_IN_XMP = re.compile(rb'tiff:Orientation(?:="|>)([1-8])')
_PNG_SIGNATURE = 8
MAX_CHUNKS = 10_000
MAX_EXIF = 2**20


def read_orientation(image: Image.Image, path: Path | str) -> int:
    """Return the orientation of an image, 1 to 8; 1 (upright) if the file has no valid orientation.

    `Image.getexif` is not used: it decodes a whole PNG, and it does not validate the value.

    Args:
        image: from `Image.open`, not loaded.
        path: of its file.
    """
    info = image.info
    data = info.get("exif")
    if data is None and image.format == "PNG":
        data = _exif_of_png(Path(path))
    if data is None and "Raw profile type exif" in info:  # ImageMagick writes it into PNG files
        lines = str(info["Raw profile type exif"]).split("\n")
        with suppress(ValueError):
            data = bytes.fromhex("".join(lines[3:]))
    if isinstance(data, bytes):
        orientation = parse_orientation(data)
        if orientation is not None:
            return orientation
    xmp = info.get("xmp") or info.get("XML:com.adobe.xmp") or b""
    if isinstance(xmp, str):
        xmp = xmp.encode()
    match = _IN_XMP.search(xmp)
    if match is None:
        return 1
    return int(match[1])


def parse_orientation(data: bytes) -> int | None:
    """Return the orientation in EXIF data, 1 to 8; None if it is missing or invalid.

    PIL's reader is not used: it raises various errors for damaged data, and a damaged tag must not
    make an image unreadable.
    """
    data = data.removeprefix(b"Exif\0\0")
    order = _BYTE_ORDERS.get(data[:4])
    if order is None or len(data) < 8:
        return None
    (start,) = struct.unpack_from(f"{order}I", data, 4)
    if start + 2 > len(data):
        return None
    (count,) = struct.unpack_from(f"{order}H", data, start)
    end = min(start + 2 + 12 * count, len(data) - 11)
    for offset in range(start + 2, end, 12):
        tag, kind, number, value = struct.unpack_from(f"{order}HHIH", data, offset)
        if tag == _TAG:
            if kind == _SHORT and number == 1 and 1 <= value <= 8:
                return value
            return None
    return None


def _exif_of_png(path: Path) -> bytes | None:
    """Return the chunk eXIf of a PNG file. It may follow the pixels, which are skipped."""
    with path.open("rb") as file:
        file.seek(_PNG_SIGNATURE)
        for _ in range(MAX_CHUNKS):
            head = file.read(8)
            if len(head) < 8 or head[4:] == b"IEND":
                return None
            length = int.from_bytes(head[:4], "big")
            if head[4:] == b"eXIf":
                return file.read(min(length, MAX_EXIF))
            file.seek(length + 4, 1)
    return None


def apply_orientation(array: np.ndarray, orientation: int) -> np.ndarray:
    """Turn an (H, W) or (H, W, C) array upright by its EXIF orientation (1 to 8)."""
    if orientation == 2:
        array = array[:, ::-1]
    elif orientation == 3:
        array = array[::-1, ::-1]
    elif orientation == 4:
        array = array[::-1]
    elif orientation == 5:
        array = array.swapaxes(0, 1)
    elif orientation == 6:
        array = np.rot90(array, -1)
    elif orientation == 7:
        array = array[::-1, ::-1].swapaxes(0, 1)
    elif orientation == 8:
        array = np.rot90(array)
    else:
        return array
    return np.ascontiguousarray(array)
