"""Read and write image and mask files as arrays."""

from __future__ import annotations

import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np
from PIL import (
    BmpImagePlugin,
    GifImagePlugin,
    Image,
    JpegImagePlugin,
    PngImagePlugin,
    PpmImagePlugin,
    TiffImagePlugin,
    UnidentifiedImageError,
    WebPImagePlugin,
)

from kanseg.data.io.decode_errors import decoder_errors, require_regular_file
from kanseg.data.io.decoded import DecodedImage, DecodedMask, as_decoded
from kanseg.data.io.exif import apply_orientation, read_orientation
from kanseg.data.io.fast_decode import (
    can_hold_pixels,
    decode_with_opencv,
    has_jpeg_end,
    read_fast,
)
from kanseg.data.io.tiff import (
    check_size,
    is_tiff,
    read_header,
    read_tiff_image,
    read_tiff_mask,
)
from kanseg.utils.errors import InputError
from kanseg.utils.io import atomic_write
from kanseg.utils.language import translate

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".webp")
# Larger images are refused as decompression bombs unless the caller raises the limit.
MAX_PIXELS = 2**29
# PIL supports many more formats, some of which run other programs (EPS runs Ghostscript).
_FORMATS = [
    PngImagePlugin.PngImageFile.format,
    JpegImagePlugin.JpegImageFile.format,
    TiffImagePlugin.TiffImageFile.format,
    BmpImagePlugin.BmpImageFile.format,
    WebPImagePlugin.WebPImageFile.format,
    GifImagePlugin.GifImageFile.format,
    PpmImagePlugin.PpmImageFile.format,
]
_PIL_LIMIT_LOCK = threading.Lock()
_KIND_OF_MODE = {"1": "gray", "L": "gray", "LA": "gray+alpha", "RGBA": "RGBA", "P": "palette"}


def decode_image(path: Path | str, *, max_pixels: int = MAX_PIXELS) -> DecodedImage:
    """Read an image, upright, with its alpha channel and its pixels without data.

    The values are (H, W, C) uint8 or uint16, C of 1 (gray), 2 (gray, alpha), 3 (RGB), 4 (RGBA), or
    the bands of a TIFF file. Gray of 1, 2 and 4 bits is scaled to 8 bits; 10 to 14 bits are stored
    in uint16 without scaling. TIFF files of other types (float32, int16, ...) become float32.
    `kanseg.data.io.tiff` has the table of TIFF tags.

    Args:
        path: of the file.
        max_pixels: larger images are refused before anything is decoded.

    Raises:
        InputError: a file that is missing, empty, truncated, unknown or not a regular file; NaN;
            more than `max_pixels` pixels.
    """
    path = Path(path)
    require_regular_file(path)
    with decoder_errors(path):
        fast = read_fast(path, max_pixels)
        if fast is not None:
            return DecodedImage(fast)
        if is_tiff(path):
            header = read_header(path, max_pixels)
            if not header.left_to_pil:
                return read_tiff_image(header)
        with _open_with_pil(path, max_pixels) as image:
            values = _decode(image, path)
    return DecodedImage(values, alpha=values.shape[2] in (2, 4))


def read_image(path: Path | str, *, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """Read an image as (H, W, C) uint8, uint16 or float32, upright; see `decode_image`.

    Raises:
        InputError: see `decode_image`.
    """
    return decode_image(path, max_pixels=max_pixels).values


def states_nodata(path: Path | str, *, max_pixels: int = MAX_PIXELS) -> bool:
    """Return True if the header of an image defines a value for pixels without data."""
    path = Path(path)
    if not path.is_file():
        return False
    with decoder_errors(path):
        return is_tiff(path) and read_header(path, max_pixels).nodata is not None


def image_mode(path: Path | str, *, max_pixels: int = MAX_PIXELS) -> tuple[str, tuple[int, int]]:
    """Return (kind such as "RGB" or "16-bit gray", (H, W) upright) from the header of an image."""
    path = Path(path)
    require_regular_file(path)
    with decoder_errors(path):
        if is_tiff(path):
            header = read_header(path, max_pixels)
            if not header.left_to_pil:
                return header.kind, header.upright_shape
        with _open_with_pil(path, max_pixels) as image:
            kind = _KIND_OF_MODE.get(image.mode, image.mode)
            if image.mode[0] in "IF":
                kind = "16-bit gray"
            elif _is_16_bit(image):
                kind = f"16-bit {kind}"
            width, height = image.size
            if read_orientation(image, path) >= 5:
                return kind, (width, height)
            return kind, (height, width)


def to_channels(
    image: np.ndarray, channels: int, *, name: str = "image", alpha: bool | None = None
) -> np.ndarray:
    """Convert an image (H, W, C) to (H, W, channels).

    Gray is repeated to RGB, RGB becomes gray by its luminance (Rec. 601), and alpha is dropped.

    Args:
        image: (H, W, C).
        channels: that the network takes.
        name: for messages.
        alpha: True if the last channel is alpha; by default it is the last of 2 or 4 channels of
            integers. It is dropped unless the network takes the same number of channels.

    Raises:
        InputError: the image cannot be converted.
    """
    present = image.shape[2]
    if present == channels:
        return image
    if alpha is None:
        alpha = as_decoded(image).alpha
    if alpha and present > 1:
        return to_channels(image[:, :, :-1], channels, name=name, alpha=False)
    if present == 1 and channels == 3:
        return np.repeat(image, channels, axis=2)
    if present == 3 and channels == 1:
        gray = image @ np.array([0.299, 0.587, 0.114], dtype=np.float32)
        if image.dtype != np.float32:
            gray = np.round(gray)
        return gray.astype(image.dtype)[:, :, None]
    none_alpha = ""
    if present in (2, 4):
        none_alpha = translate(", none of them alpha,")
    raise InputError(
        "has {present} channels{none} and the model takes {channels}; convert the image, or"
        " train with data.channels: {present}",
        present=present,
        none=none_alpha,
        channels=channels,
        where=name,
    )


def decode_mask(path: Path | str, *, max_pixels: int = MAX_PIXELS) -> DecodedMask:
    """Read a mask as stored, upright, neither inverted nor scaled.

    The values are (H, W) integers (for an indexed file its indices, with the palette), or (H, W, 3)
    uint8 for a color mask. An alpha channel is left out.

    Raises:
        InputError: see `decode_image`.
    """
    path = Path(path)
    require_regular_file(path)
    with decoder_errors(path):
        fast = read_fast(path, max_pixels)
        if fast is not None:
            if fast.shape[2] == 1:
                fast = fast[:, :, 0]
            return DecodedMask(fast)
        if is_tiff(path):
            header = read_header(path, max_pixels)
            if not header.left_to_pil:
                return read_tiff_mask(header)
        with _open_with_pil(path, max_pixels) as image:
            return _decode_mask(image, path)


def read_mask_values(path: Path | str, *, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """Read the values of a mask; see `decode_mask`.

    Raises:
        InputError: see `decode_image`.
    """
    return decode_mask(path, max_pixels=max_pixels).values


def write_png(
    path: Path | str, array: np.ndarray, *, palette: list[tuple[int, int, int]] | None = None
) -> Path:
    """Write a PNG file atomically.

    Args:
        path: of the file.
        array: (H, W) indices or gray values, or (H, W, 3) RGB, uint8.
        palette: RGB colors in which indices are shown; the file still holds the indices.
    """
    path = Path(path)
    image = Image.fromarray(np.ascontiguousarray(array))
    if palette is not None:
        if image.mode != "L":
            image = image.convert("P")
        image.putpalette([value for color in palette for value in color])
    with atomic_write(path) as temporary:
        image.save(temporary, format="PNG")
    return path


@contextmanager
def _open_with_pil(path: Path, max_pixels: int) -> Iterator[Image.Image]:
    """Open an image with PIL and check its size, without decoding it."""
    try:
        image = _open_unlimited(path)
    except UnidentifiedImageError:
        supported = ", ".join(suffix[1:] for suffix in IMAGE_SUFFIXES)
        raise InputError(
            "not an image in a supported format ({supported})",
            supported=supported,
            where=path,
            code="unreadable",
        ) from None
    with image:
        width, height = image.size
        check_size(path, height, width, max_pixels)
        if image.format == "PNG":
            _refuse_too_few_bytes(path)
        yield image


def _open_unlimited(path: Path) -> Image.Image:
    """Call Image.open, which reads only the header, without PIL's own limit of pixels."""
    with _PIL_LIMIT_LOCK:  # the limit is global, and images are read in threads
        limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            return Image.open(path, formats=_FORMATS)
        finally:
            Image.MAX_IMAGE_PIXELS = limit


def _refuse_too_few_bytes(path: Path) -> None:
    """Raise InputError for a PNG file that is too small for its pixels: a decoder would allocate
    memory for all of them first.
    """
    with path.open("rb") as file:
        width, height, depth, color_type = struct.unpack(">IIBB", file.read(26)[16:])
    size = path.stat().st_size
    if not can_hold_pixels(size, width, height, depth, color_type):
        raise InputError(
            "the file is damaged or truncated ({size} bytes cannot hold {height}x{width}"
            " pixels, height x width)",
            size=size,
            height=height,
            width=width,
            where=path,
            code="truncated",
        )


def _decode(image: Image.Image, path: Path) -> np.ndarray:
    """Decode an open image to (H, W, C) uint8 or uint16, upright; of TIFF files only those whose
    colors PIL must convert.
    """
    if image.format == "TIFF" and image.mode not in ("F", "I"):
        return _convert_tiff_to_rgb(image, path)
    orientation = read_orientation(image, path)
    transparent = image.info.get("transparency")
    if image.mode in ("F", "I"):
        array = _gray_of_32_bits(np.asarray(image), path)
    elif _is_16_bit(image):
        image.load()  # refuses a truncated file, which OpenCV would read partially
        array = _add_transparency(_decode_16_bit_png(path), transparent, 1)
    else:
        array = _decode_jpeg(image, path)
        if array is None:
            array = _decode_8_bit(image, transparent)
    return apply_orientation(array, orientation)


def _decode_8_bit(image: Image.Image, transparent: object) -> np.ndarray:
    """Decode an image of up to 8 bits to (H, W, C) uint8, not turned."""
    scale = 255 // (2 ** _bits_of_gray(image) - 1)
    if image.mode == "1" and transparent is not None:
        transparent = int(transparent > 0)  # PIL scales it for 1 bit, but not for 2 and 4 bits
    array = np.asarray(_to_plain_mode(image))
    array = array.reshape(*array.shape[:2], -1)
    if image.mode in ("1", "L", "RGB"):
        array = _add_transparency(array, transparent, scale)
    return array


def _decode_jpeg(image: Image.Image, path: Path) -> np.ndarray | None:
    """Decode a JPEG file with OpenCV, in two thirds of PIL's time, not turned; None for other
    formats, other colors, or a truncated file.
    """
    if image.format != "JPEG" or image.mode not in ("L", "RGB"):
        return None
    data = path.read_bytes()
    if not has_jpeg_end(data):
        return None
    return decode_with_opencv(data, (image.height, image.width, len(image.mode)))


def _decode_16_bit_png(path: Path) -> np.ndarray:
    """Decode a PNG file of 16 bits to (H, W, C) with OpenCV; PIL would narrow RGB to 8 bits."""
    array = cv2.imdecode(np.fromfile(path, dtype=np.uint8), cv2.IMREAD_UNCHANGED)
    if array is None:
        raise InputError("OpenCV cannot decode this image; save it as PNG", where=path)
    if array.ndim == 2:
        return array[:, :, None]
    if array.shape[2] == 3:
        array = array[:, :, [2, 1, 0]]
    elif array.shape[2] == 4:
        array = array[:, :, [2, 1, 0, 3]]
    return np.ascontiguousarray(array)


def _convert_tiff_to_rgb(image: Image.Image, path: Path) -> np.ndarray:
    """Convert a TIFF file of CMYK, Lab or the like to (H, W, 3)."""
    bits = image.tag_v2.get(258, (8,))
    if image.tag_v2.get(274, 1) != 1 or set(np.atleast_1d(bits).tolist()) != {8}:
        raise InputError(
            "a TIFF file of {mode} colors must be upright and have 8 bits per channel; save it"
            " as RGB",
            mode=image.mode,
            where=path,
        )
    return np.asarray(image.convert("RGB"))


def _gray_of_32_bits(array: np.ndarray, path: Path) -> np.ndarray:
    """Convert 32-bit integers that fit into 16 bits: older programs store 16-bit gray so."""
    if array.dtype.kind == "f" or array.min() < 0 or array.max() > 65535:
        raise InputError(
            "images of {kind} values are not supported; save it with 8 or 16 bits per channel",
            kind=array.dtype,
            where=path,
        )
    return array.astype(np.uint16)[:, :, None]


def _decode_mask(image: Image.Image, path: Path) -> DecodedMask:
    """Decode the mask in an open image; of TIFF files only those whose colors PIL must convert."""
    if image.mode in ("P", "PA"):
        return _decode_indexed_mask(image, path)
    bits = _bits_of_gray(image)
    has_alpha = image.mode in ("LA", "RGBA", "La", "RGBa")
    image.info.pop("transparency", None)  # a transparent color is a label like any other
    values = _decode(image, path)
    if bits < 8:  # PIL scales them to 8 bits
        values = values // (255 // (2**bits - 1))
    alpha_varies = False
    if has_alpha:
        alpha = values[:, :, -1]
        alpha_varies = bool((alpha != alpha[0, 0]).any())
        values = values[:, :, :-1]
    if values.shape[2] == 1:
        values = values[:, :, 0]
    return DecodedMask(np.ascontiguousarray(values), alpha_varies=alpha_varies)


def _decode_indexed_mask(image: Image.Image, path: Path) -> DecodedMask:
    """Decode the indices and the palette of an indexed file."""
    orientation = read_orientation(image, path)
    indices = np.asarray(image)
    if image.mode == "PA":  # index and alpha
        indices = indices[:, :, 0]
    palette = np.array(image.getpalette("RGB"), dtype=np.uint8).reshape(-1, 3)
    alpha_varies = _palette_alpha_varies(image)
    return DecodedMask(apply_orientation(indices, orientation), palette, alpha_varies)


def _palette_alpha_varies(image: Image.Image) -> bool:
    """Return True if indices in use differ in transparency while some share a color."""
    alpha = image.info.get("transparency")
    if image.mode == "PA" or alpha is None:
        return False
    used = np.unique(np.asarray(image))
    table = np.full(256, 255, dtype=np.uint8)
    if isinstance(alpha, bytes):
        table[: len(alpha)] = np.frombuffer(alpha, dtype=np.uint8)[:256]
    elif 0 <= alpha < 256:
        table[alpha] = 0
    colors = np.array(image.getpalette("RGB"), dtype=np.uint8).reshape(-1, 3)
    shown = colors[used[used < len(colors)]]
    return len(np.unique(table[used])) > 1 and len(np.unique(shown, axis=0)) < len(used)


def _bits_of_gray(image: Image.Image) -> int:
    """Return 1, 2 or 4 for a gray image that PIL scales to 8 bits, else 8.

    The number is only in the raw mode of PIL's decoder, such as `L;2`.
    """
    if image.mode == "1":
        return 1
    if image.mode == "L" and image.format == "PNG":
        raw_modes = [tile[3] for tile in image.tile]
        if raw_modes == ["L;2"]:
            return 2
        if raw_modes == ["L;4"]:
            return 4
    return 8


def _is_16_bit(image: Image.Image) -> bool:
    """Return True if the file has 16 bits per channel.

    The mode of such an RGB image is RGB; only the raw mode of PIL's decoder is `RGB;16B`.
    """
    if image.mode.startswith("I;16"):
        return True
    for tile in image.tile:
        arguments = tile[3]
        if not isinstance(arguments, tuple):
            arguments = (arguments,)
        if any(isinstance(part, str) and ";16" in part for part in arguments):
            return True
    return False


def _add_transparency(array: np.ndarray, transparent: object, scale: int) -> np.ndarray:
    """Add an alpha channel that is 0 at the transparent color of a PNG file (a stored value, times
    `scale`) and opaque elsewhere; without such a color, return the array.
    """
    if transparent is None or isinstance(transparent, bytes) or array.shape[2] not in (1, 3):
        return array
    color = np.atleast_1d(transparent).astype(np.int64) * scale
    if len(color) != array.shape[2]:
        return array
    largest = np.iinfo(array.dtype).max
    alpha = np.where((array == color).all(axis=2), 0, largest).astype(array.dtype)
    return np.dstack([array, alpha])


def _to_plain_mode(image: Image.Image) -> Image.Image:
    """Convert an image to one of the modes L, LA, RGB, RGBA."""
    if image.mode in ("L", "LA", "RGB", "RGBA"):
        return image
    if image.mode == "1":
        return image.convert("L")
    if image.mode in ("PA", "La", "RGBa") or "transparency" in image.info:
        return image.convert("RGBA")
    return image.convert("RGB")
