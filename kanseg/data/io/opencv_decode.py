"""Plain PNG and JPEG files of 8 bits, which most are: read once, and decoded by OpenCV, which is
faster than PIL.
"""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import cv2
import numpy as np

_PNG = b"\x89PNG\r\n\x1a\n"
_JPEG = b"\xff\xd8\xff"
_CHUNKS = (
    b"IHDR",
    b"IDAT",
    b"IEND",
    b"pHYs",
    b"tIME",
    b"gAMA",
    b"cHRM",
    b"sRGB",
)  # others may turn the image, or make it see-through
_CHANNELS = {0: 1, 2: 3}  # of the kinds of PNG without palette and alpha
_SAMPLES = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # a pixel has in each kind of PNG
MOST_COMPRESSED = 1032  # deflate makes no less than one byte of so many
_FRAMES = (0xC0, 0xC1, 0xC2)  # baseline, extended and progressive
_TABLES = (0xC4, 0xDB, 0xDD, 0xFE)  # Huffman, quantization, restarts; comments
_APP0, _APP2, _APP14 = 0xE0, 0xE2, 0xEE  # JFIF, color profile, Adobe; APP1 may turn the image
_RGB = getattr(cv2, "IMREAD_COLOR_RGB", None)  # from OpenCV 4.11 on
Shape = tuple[int, int, int]


def read_plain(path: Path | str, max_pixels: int) -> np.ndarray | None:
    """(H, W, C) uint8, C of 1 (gray) or 3 (RGB), with the values that PIL gives.

    None for every file that is not whole, of 8 bits, upright and of at most `max_pixels` for
    certain: PIL reads it, or says what is wrong with it.
    """
    try:
        with Path(path).open("rb", buffering=0) as file:
            start = file.read(len(_PNG))  # a large file of another kind is not read as a whole
            shape_of = (
                _png_shape if start == _PNG else _jpeg_shape if start.startswith(_JPEG) else None
            )
            if shape_of is None:
                return None
            data = start + file.read()
    except OSError:
        return None
    shape = shape_of(data)
    if shape is None or not 0 < shape[0] * shape[1] <= max_pixels:
        return None
    return decode_plain(data, shape)


def decode_plain(data: bytes, shape: Shape) -> np.ndarray | None:
    """The array of a file of a known shape, as stored, not turned; None if OpenCV sees something
    else in it.
    """
    kind = cv2.IMREAD_GRAYSCALE if shape[2] == 1 else _RGB or cv2.IMREAD_COLOR
    try:
        array = cv2.imdecode(
            np.frombuffer(data, dtype=np.uint8), kind | cv2.IMREAD_IGNORE_ORIENTATION
        )
    except cv2.error:  # more pixels than it takes
        return None
    if array is None or array.shape[:2] != shape[:2]:
        return None
    if shape[2] == 1:
        return array[:, :, None]
    return array if _RGB else cv2.cvtColor(array, cv2.COLOR_BGR2RGB, dst=array)


def fits_compressed(size: int, width: int, height: int, depth: int, kind: int) -> bool:
    """Whether a PNG file of so many bytes can hold an image of this header at all.

    Args:
        size: bytes of the file.
        width, height, depth, kind: as in its header, the depth in bits.
    """
    row = 1 + (width * _SAMPLES.get(kind, 1) * depth + 7) // 8
    return row * height <= size * MOST_COMPRESSED


def ends_well(data: bytes) -> bool:
    """Whether a JPEG file has the marker of its end; OpenCV would read one that is cut off as half
    an image.
    """
    return data[-64:].rstrip(b"\0").endswith(b"\xff\xd9")


def _png_shape(data: bytes) -> Shape | None:
    """(H, W, C) of a whole PNG file with nothing but gray or RGB pixels of 8 bits."""
    place, kind = len(_PNG), b""
    while kind != b"IEND":
        if place + 12 > len(data):
            return None
        length, kind = struct.unpack_from(">I4s", data, place)
        end = place + 8 + length
        if (
            kind not in _CHUNKS
            or end + 4 > len(data)
            or zlib.crc32(memoryview(data)[place + 4 : end])
            != int.from_bytes(data[end : end + 4], "big")
        ):
            return None
        place = end + 4
    if data[12:16] != b"IHDR":
        return None
    width, height, depth, colors = struct.unpack_from(">IIBB", data, 16)
    if depth != 8 or colors not in _CHANNELS:
        return None
    if not fits_compressed(len(data), width, height, depth, colors):
        return None
    return height, width, _CHANNELS[colors]


def _jpeg_shape(data: bytes) -> Shape | None:
    """(H, W, C) of a whole JPEG file of gray or three colors, without a tag that may turn it."""
    place = 2
    while place + 10 <= len(data) and data[place] == 0xFF:
        marker, length = data[place + 1], int.from_bytes(data[place + 2 : place + 4], "big")
        if marker in _FRAMES:
            depth, height, width, channels = struct.unpack_from(">BHHB", data, place + 4)
            return (
                (height, width, channels)
                if depth == 8 and channels in (1, 3) and ends_well(data)
                else None
            )
        profile = marker == _APP2 and data[place + 4 : place + 15] == b"ICC_PROFILE"
        if not (profile or marker in (*_TABLES, _APP0, _APP14)):
            return None
        place += 2 + length
    return None
