"""Image and mask files <-> arrays."""

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

from kanseg.data.io.decoded import DecodedImage, DecodedMask, as_decoded
from kanseg.data.io.opencv_decode import decode_plain, ends_well, fits_compressed, read_plain
from kanseg.data.io.orientation import orientation_of, upright
from kanseg.data.io.tiff import (
    check_size,
    is_tiff,
    read_header,
    read_tiff_image,
    read_tiff_mask,
)
from kanseg.data.io.untrusted import decoder_errors, require_regular_file
from kanseg.utils.errors import InputError
from kanseg.utils.io import atomic_write

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".webp")
MAX_PIXELS = (
    2**29
)  # an image beyond it is refused as a decompression bomb unless the caller raises the limit
# PIL knows many more, some of which start other programs (EPS starts Ghostscript).
_FORMATS = [
    PngImagePlugin.PngImageFile.format,
    JpegImagePlugin.JpegImageFile.format,
    TiffImagePlugin.TiffImageFile.format,
    BmpImagePlugin.BmpImageFile.format,
    WebPImagePlugin.WebPImageFile.format,
    GifImagePlugin.GifImageFile.format,
    PpmImagePlugin.PpmImageFile.format,
]
_OPENING = threading.Lock()


def decode_image(path: Path | str, *, max_pixels: int = MAX_PIXELS) -> DecodedImage:
    """An image, upright: its values, whether the last channel is alpha, and which pixels hold no
    data.

    The values are (H, W, C), C of 1 (gray), 2 (gray, alpha), 3 (RGB), 4 (RGBA), or the bands of a
    TIFF file, in uint8 or uint16. Gray of 1, 2 and 4 bits is scaled to 8; 10 to 14 bits are kept
    as they are in uint16. Of TIFF files with other types (float32, int16, ...) the values are
    float32, as stored. `kanseg.data.io.tiff` has the table of TIFF tags.

    Raises:
        InputError: missing, empty, truncated or unknown files, anything but a regular file, NaN,
            and more than `max_pixels` pixels, which is judged before anything is decoded.
    """
    path = Path(path)
    require_regular_file(path)
    with decoder_errors(path):
        plain = read_plain(path, max_pixels)
        if plain is not None:
            return DecodedImage(plain)
        if is_tiff(path):
            header = read_header(path, max_pixels)
            if not header.left_to_pil:
                return read_tiff_image(header)
        with _opened(path, max_pixels) as image:
            values = _decoded(image, path)
    return DecodedImage(values, alpha=values.shape[2] in (2, 4))


def read_image(path: Path | str, *, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """The values of `decode_image` alone: (H, W, C) uint8, uint16 or float32, upright.

    Raises:
        InputError: as of `decode_image`.
    """
    return decode_image(path, max_pixels=max_pixels).values


def states_nodata(path: Path | str, *, max_pixels: int = MAX_PIXELS) -> bool:
    """Whether an image names a number for pixels without data, from its header alone."""
    path = Path(path)
    if not path.is_file():
        return False
    with decoder_errors(path):
        return is_tiff(path) and read_header(path, max_pixels).nodata is not None


def image_mode(path: Path | str, *, max_pixels: int = MAX_PIXELS) -> tuple[str, tuple[int, int]]:
    """(a word for the kind of image, (H, W) upright), from the file's header alone."""
    path = Path(path)
    require_regular_file(path)
    with decoder_errors(path):
        if is_tiff(path):
            header = read_header(path, max_pixels)
            if not header.left_to_pil:
                return header.kind, header.upright_shape
        with _opened(path, max_pixels) as image:
            wide = "16-bit " if _is_16_bit(image) or image.mode[0] in "IF" else ""
            kind = {
                "1": "gray",
                "L": "gray",
                "LA": "gray+alpha",
                "RGBA": "RGBA",
                "P": "palette",
            }.get(image.mode, image.mode)
            kind = "gray" if image.mode[0] in "IF" else kind
            width, height = image.size
            turned = orientation_of(image, path) >= 5
            return wide + kind, (width, height) if turned else (height, width)


def to_channels(
    image: np.ndarray, channels: int, *, name: str = "image", alpha: bool | None = None
) -> np.ndarray:
    """(H, W, C) -> (H, W, channels): gray repeated to RGB, RGB to gray by its luminance (Rec. 601),
    alpha dropped.

    Args:
        image: (H, W, C).
        channels: that the network takes.
        name: for messages.
        alpha: whether the last channel is alpha; by default it is the last of 2 or 4 channels of
            integers. It is dropped unless the network takes as many channels.

    Raises:
        InputError: when there is no such conversion.
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
        luminance = image @ np.array([0.299, 0.587, 0.114], dtype=np.float32)
        gray = luminance if image.dtype == np.float32 else np.round(luminance)
        return gray.astype(image.dtype)[:, :, None]
    bands = ", none of which the file calls alpha," if present in (2, 4) else ""
    raise InputError(
        f"{name}: has {present} channels{bands} and the model takes {channels}; convert the"
        f" image, or train with data.channels: {present}"
    )


def decode_mask(path: Path | str, *, max_pixels: int = MAX_PIXELS) -> DecodedMask:
    """A mask as stored, upright: neither inverted nor scaled; (H, W) integers (a palette file gives
    its indices and colors), or (H, W, 3) uint8 for a color mask. An alpha channel is left out.

    Raises:
        InputError: as of `decode_image`.
    """
    path = Path(path)
    require_regular_file(path)
    with decoder_errors(path):
        plain = read_plain(path, max_pixels)
        if plain is not None:
            return DecodedMask(plain[:, :, 0] if plain.shape[2] == 1 else plain)
        if is_tiff(path):
            header = read_header(path, max_pixels)
            if not header.left_to_pil:
                return read_tiff_mask(header)
        with _opened(path, max_pixels) as image:
            return _decoded_mask(image, path)


def read_mask_values(path: Path | str, *, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """The values of `decode_mask` alone.

    Raises:
        InputError: as of `decode_image`.
    """
    return decode_mask(path, max_pixels=max_pixels).values


def write_png(
    path: Path | str, array: np.ndarray, *, palette: list[tuple[int, int, int]] | None = None
) -> Path:
    """Write (H, W) indices or gray values, or (H, W, 3) RGB, uint8, whole or not at all: to a
    temporary name, then renamed.

    With a palette the file holds indices and is shown in the palette's colors.
    """
    path = Path(path)
    image = Image.fromarray(np.ascontiguousarray(array))
    if palette is not None:
        image = image.convert("P") if image.mode != "L" else image
        image.putpalette([value for color in palette for value in color])
    with atomic_write(path) as temporary:
        image.save(temporary, format="PNG")
    return path


@contextmanager
def _opened(path: Path, max_pixels: int) -> Iterator[Image.Image]:
    """An open PIL image, its size judged and nothing of it decoded; within `decoder_errors`."""
    try:
        image = _open_unlimited(path)
    except UnidentifiedImageError:
        raise InputError(
            f"{path}: not an image in a format that can be read"
            f" ({', '.join(s[1:] for s in IMAGE_SUFFIXES)})"
        ) from None
    with image:
        width, height = image.size
        check_size(path, height, width, max_pixels)
        if image.format == "PNG":
            _refuse_too_few_bytes(path)
        yield image


def _refuse_too_few_bytes(path: Path) -> None:
    """InputError for a PNG file that cannot hold its pixels: decoders would allocate all of them
    before they notice.
    """
    with path.open("rb") as file:
        width, height, depth, kind = struct.unpack(">IIBB", file.read(26)[16:])
    if not fits_compressed(path.stat().st_size, width, height, depth, kind):
        raise InputError(
            f"{path}: the file is damaged or truncated ({path.stat().st_size} bytes cannot hold"
            f" {width}x{height} pixels)"
        )


def _decoded(image: Image.Image, path: Path) -> np.ndarray:
    """(H, W, C) uint8 or uint16, upright, of an open image that is no TIFF file, or one whose
    colors PIL converts.
    """
    if image.mode in ("F", "I"):
        return upright(_wide_gray(np.asarray(image), path), orientation_of(image, path))
    if image.format == "TIFF":
        return _converted_tiff(image, path)
    orientation = orientation_of(image, path)
    transparent = image.info.get("transparency")
    if _is_16_bit(image):
        image.load()  # refuses a truncated file, which OpenCV would read half
        return upright(_with_transparency(_read_by_opencv(path), transparent, 1), orientation)
    array = _quick_jpeg(image, path)
    if array is None:
        scale = 255 // (2 ** _bits_of_gray(image) - 1)
        if image.mode == "1" and transparent is not None:
            transparent = int(transparent > 0)  # PIL scales this one, and that of 2 and 4 bits not
        array = np.asarray(_plain_mode(image))
        array = array.reshape(*array.shape[:2], -1)
        if image.mode in ("1", "L", "RGB"):
            array = _with_transparency(array, transparent, scale)
    return upright(array, orientation)


def _converted_tiff(image: Image.Image, path: Path) -> np.ndarray:
    """(H, W, 3) of a TIFF file of CMYK, Lab or the like."""
    bits = image.tag_v2.get(258, (8,))
    if image.tag_v2.get(274, 1) != 1 or set(np.atleast_1d(bits).tolist()) != {8}:
        raise InputError(
            f"{path}: a TIFF file of {image.mode} colors is read only upright and with 8 bits a"
            " channel; save it as RGB"
        )
    return np.asarray(image.convert("RGB"))


def _decoded_mask(image: Image.Image, path: Path) -> DecodedMask:
    """The mask in an open image that is no TIFF file, or one whose colors PIL converts."""
    orientation = orientation_of(image, path)
    if image.mode in ("P", "PA"):
        values = np.asarray(image.convert("PA"))[:, :, 0] if image.mode == "PA" else image
        table = np.array(image.getpalette("RGB"), dtype=np.uint8).reshape(-1, 3)
        varies = _palette_alpha_varies(image)
        return DecodedMask(upright(np.asarray(values), orientation), table, varies)
    bits = _bits_of_gray(image)
    has_alpha = image.mode in ("LA", "RGBA", "La", "RGBa")
    image.info.pop("transparency", None)  # a color that is not drawn is a label all the same
    values = _decoded(image, path)
    if bits < 8:  # PIL scales them to 8 bits
        values = values // (255 // (2**bits - 1))
    varies = False
    if has_alpha:
        alpha = values[:, :, -1]
        varies = bool((alpha != alpha[0, 0]).any())
        values = values[:, :, :-1]
    values = values[:, :, 0] if values.shape[2] == 1 else values
    return DecodedMask(np.ascontiguousarray(values), alpha_varies=varies)


def _palette_alpha_varies(image: Image.Image) -> bool:
    """Whether indices that an image holds are drawn with different transparency, while they have
    one color.
    """
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
    """1, 2 or 4 of a gray image that PIL scales to 8 bits, else 8, by its decoder's raw mode
    (`L;2`).
    """
    if image.mode == "1":
        return 1
    if image.mode == "L" and image.format == "PNG":
        raw = [tile[3] for tile in image.tile]
        return next((bits for bits in (2, 4) if raw == [f"L;{bits}"]), 8)
    return 8


def _with_transparency(array: np.ndarray, transparent: object, scale: int) -> np.ndarray:
    """(H, W, C) with an alpha channel that is 0 where the color is the one that a PNG file calls
    transparent (a stored value), and full elsewhere; as it is without such a color.
    """
    if transparent is None or isinstance(transparent, bytes) or array.shape[2] not in (1, 3):
        return array
    color = np.atleast_1d(transparent).astype(np.int64) * scale
    if len(color) != array.shape[2]:
        return array
    largest = np.iinfo(array.dtype).max
    alpha = np.where((array == color).all(axis=2), 0, largest).astype(array.dtype)
    return np.dstack([array, alpha])


def _quick_jpeg(image: Image.Image, path: Path) -> np.ndarray | None:
    """The same values from OpenCV in two thirds of PIL's time, not turned; None for what is no
    plain JPEG file, or cut off.
    """
    if image.format != "JPEG" or image.mode not in ("L", "RGB"):
        return None
    data = path.read_bytes()
    if not ends_well(data):
        return None
    return decode_plain(data, (image.height, image.width, len(image.mode)))


def _open_unlimited(path: Path) -> Image.Image:
    """Image.open (which reads the header only) without PIL's own limit of pixels; ours is checked
    by the caller.
    """
    with _OPENING:  # the limit is global, and images are read in threads
        limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            return Image.open(path, formats=_FORMATS)
        finally:
            Image.MAX_IMAGE_PIXELS = limit


def _plain_mode(image: Image.Image) -> Image.Image:
    """The image in one of the modes L, LA, RGB, RGBA."""
    if image.mode in ("L", "LA", "RGB", "RGBA"):
        return image
    if image.mode == "1":
        return image.convert("L")
    has_alpha = image.mode in ("PA", "La", "RGBa") or "transparency" in image.info
    return image.convert("RGBA" if has_alpha else "RGB")


def _is_16_bit(image: Image.Image) -> bool:
    """Whether the file has 16 bits a channel; PIL would narrow RGB to 8, but its decoder's raw mode
    tells (`RGB;16B`).
    """
    arguments = [tile[3] for tile in image.tile]
    flat = [part for a in arguments for part in (a if isinstance(a, tuple) else (a,))]
    return image.mode.startswith("I;16") or any(
        isinstance(part, str) and ";16" in part for part in flat
    )


def _read_by_opencv(path: Path) -> np.ndarray:
    """(H, W, C) of a PNG file of 16 bits."""
    array = cv2.imdecode(np.fromfile(path, dtype=np.uint8), cv2.IMREAD_UNCHANGED)
    if array is None:
        raise InputError(f"{path}: OpenCV cannot decode this image; save it as PNG")
    if array.ndim == 2:
        return array[:, :, None]
    order = {3: [2, 1, 0], 4: [2, 1, 0, 3]}.get(array.shape[2], list(range(array.shape[2])))
    return np.ascontiguousarray(array[:, :, order])


def _wide_gray(array: np.ndarray, path: Path) -> np.ndarray:
    """32-bit integers that fit 16 bits, as older writers store 16-bit gray."""
    if array.dtype.kind == "f" or array.min() < 0 or array.max() > 65535:
        raise InputError(
            f"{path}: images of {array.dtype} values are not supported; save it with 8 or 16 bits"
            " a channel"
        )
    return array.astype(np.uint16)[:, :, None]
