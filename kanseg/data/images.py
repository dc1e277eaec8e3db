"""Picture files <-> arrays."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, UnidentifiedImageError

from kanseg.data.plain_files import decode_plain, ends_well, read_plain
from kanseg.data.tiff import Bands, read_bands, read_header
from kanseg.errors import InputError

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".webp")
MAX_PIXELS = (
    2**29
)  # a picture beyond it is refused as a decompression bomb unless the caller raises the limit
_EXIF_ORIENTATION = 0x0112
_TIFF_WIDTH, _TIFF_HEIGHT = 256, 257
_OPENING = threading.Lock()


def read_image(path: Path | str, *, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """A picture as (H, W, C), C of 1 (grey), 2 (grey, alpha), 3 (RGB), 4 (RGBA) or a TIFF file's
    bands, turned upright by its EXIF tag.

    Values are uint8 or uint16. Of TIFF files with other types (float32, int16, int32, ...) they are
    float32, as stored.

    Raises:
        InputError: missing, empty, truncated or unknown files, NaN, and more than `max_pixels`
            pixels.
    """
    plain = read_plain(path, max_pixels)
    if plain is not None:
        return plain
    banded = _banded(path, max_pixels)
    if banded is not None:
        return _upright(read_bands(banded), banded.orientation)
    with _opened(path, max_pixels) as picture:
        return _decoded(picture, path)


def image_mode(path: Path | str, *, max_pixels: int = MAX_PIXELS) -> tuple[str, tuple[int, int]]:
    """(a word for the kind of picture, (H, W) upright), from the file's header alone."""
    banded = _banded(path, max_pixels)
    if banded is not None:
        return banded.kind, banded.shape[::-1] if banded.orientation >= 5 else banded.shape
    with _opened(path, max_pixels) as picture:
        wide = "16-bit " if _is_16_bit(picture) or picture.mode[0] in "IF" else ""
        kind = {"1": "grey", "L": "grey", "LA": "grey+alpha", "RGBA": "RGBA", "P": "palette"}.get(
            picture.mode, picture.mode
        )
        kind = "grey" if picture.mode[0] in "IF" else kind
        turned = picture.getexif().get(_EXIF_ORIENTATION, 1) >= 5
        width, height = picture.size
        if (
            picture.format == "TIFF"
        ):  # PIL gives the turned size of some of them: the tags have the stored one
            width, height = picture.tag_v2[_TIFF_WIDTH], picture.tag_v2[_TIFF_HEIGHT]
        return wide + kind, (width, height) if turned else (height, width)


def to_channels(image: np.ndarray, channels: int, *, name: str = "picture") -> np.ndarray:
    """(H, W, C) -> (H, W, channels): grey repeated to RGB, RGB to grey by its luminance (Rec. 601),
    alpha dropped.

    Two channels are grey and alpha, four RGB and alpha, unless the network takes as many.

    Raises:
        InputError: when there is no such conversion.
    """
    present = image.shape[2]
    if present == channels:
        return image
    if present in (2, 4):  # with alpha
        return to_channels(image[:, :, : present - 1], channels, name=name)
    if present == 1:
        return (
            np.repeat(image, channels, axis=2)
            if channels == 3
            else _no_conversion(image, channels, name)
        )
    if present == 3 and channels == 1:
        luminance = image @ np.array([0.299, 0.587, 0.114], dtype=np.float32)
        return (luminance if image.dtype == np.float32 else np.round(luminance)).astype(
            image.dtype
        )[:, :, None]
    return _no_conversion(image, channels, name)


def _no_conversion(image: np.ndarray, channels: int, name: str) -> np.ndarray:
    raise InputError(
        f"{name}: has {image.shape[2]} channels and the model takes {channels}; convert the"
        f" picture, or train with data.channels: {image.shape[2]}"
    )


def read_mask_values(path: Path | str, *, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """The raw values of a mask: (H, W) integers (a palette file gives its indices), or (H, W, 3)
    uint8 for a colour mask.

    Raises:
        InputError: as of `read_image`.
    """
    plain = read_plain(path, max_pixels)
    if plain is not None:
        array = plain
    elif _banded(path, max_pixels) is not None:
        array = read_image(path, max_pixels=max_pixels)
        array = _whole(array, path) if array.dtype == np.float32 else array
    else:
        with _opened(path, max_pixels) as picture:
            if picture.mode == "P":
                return np.asarray(picture)
            array = _decoded(picture, path)
    if array.shape[2] in (2, 4):
        array = array[:, :, :-1]
    return array[:, :, 0] if array.shape[2] == 1 else array


def _whole(array: np.ndarray, path: Path | str) -> np.ndarray:
    """Labels that were stored as floats or wide integers."""
    labels = array.astype(np.int32)
    if array.min() < 0 or array.max() > 65535 or not np.array_equal(labels, array):
        raise InputError(
            f"{path}: a mask holds class indices, whole numbers from 0 to 65535, but here are"
            f" values from {array.min():g} to {array.max():g}"
        )
    return labels


def write_png(
    path: Path | str, array: np.ndarray, *, palette: list[tuple[int, int, int]] | None = None
) -> Path:
    """Write (H, W) indices or grey values, or (H, W, 3) RGB, uint8, whole or not at all: to a
    temporary name, then renamed.

    With a palette the file holds indices and is shown in the palette's colours.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = Image.fromarray(np.ascontiguousarray(array))
    if palette is not None:
        picture = picture.convert("P") if picture.mode != "L" else picture
        picture.putpalette([value for colour in palette for value in colour])
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        picture.save(temporary, format="PNG")
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    return path


@contextmanager
def _opened(path: Path | str, max_pixels: int) -> Iterator[Image.Image]:
    """An open PIL picture; everything that is wrong with the file becomes an InputError that names
    it.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    if path.stat().st_size == 0:
        raise InputError(f"{path}: the file is empty")
    try:
        with _open_unlimited(path) as picture:
            width, height = picture.size
            _check_size(path, width, height, max_pixels)
            if picture.format == "TIFF" and _is_stack(picture):
                raise InputError(
                    f"{path}: holds {picture.n_frames} pictures (pages) of one size; save each of"
                    " them as a file of its own"
                )
            yield picture
    except InputError:
        raise
    except UnidentifiedImageError:
        raise InputError(
            f"{path}: not a picture in a format that can be read"
            f" ({', '.join(s[1:] for s in IMAGE_SUFFIXES)})"
        ) from None
    except (OSError, SyntaxError, ValueError, EOFError) as error:
        raise InputError(f"{path}: the file is damaged or truncated ({error})") from None


def _decoded(picture: Image.Image, path: Path | str) -> np.ndarray:
    """(H, W, C) uint8 or uint16, upright, of an open picture."""
    if picture.mode in ("F", "I"):
        return _wide_grey(np.asarray(picture), path)
    deep = _is_16_bit(picture)  # before getexif, which loads a PNG and forgets its raw mode
    orientation = picture.getexif().get(_EXIF_ORIENTATION, 1)
    turned_tiff = (
        picture.format == "TIFF" and orientation != 1
    )  # PIL mixes the rows of uncompressed ones up
    if deep or turned_tiff:
        picture.load()  # refuses a truncated file, which OpenCV would read half
        array = _read_by_opencv(path)
        return (
            array if picture.format == "TIFF" else _upright(array, orientation)
        )  # OpenCV turns TIFF files itself, others not
    array = _quick_jpeg(picture, path)
    if array is None:
        array = np.asarray(_plain_mode(picture))
    return _upright(array.reshape(*array.shape[:2], -1), orientation)


def _quick_jpeg(picture: Image.Image, path: Path | str) -> np.ndarray | None:
    """The same values from OpenCV in two thirds of PIL's time, not turned; None for what is no
    plain JPEG file, or cut off.
    """
    if picture.format != "JPEG" or picture.mode not in ("L", "RGB"):
        return None
    data = Path(path).read_bytes()
    return (
        decode_plain(data, (picture.height, picture.width, len(picture.mode)))
        if ends_well(data)
        else None
    )


def _check_size(path: Path | str, width: int, height: int, max_pixels: int) -> None:
    if width * height > max_pixels:
        raise InputError(
            f"{path}: {width}x{height} pixels are more than the limit of {max_pixels}; raise"
            " max_pixels if the file can be trusted"
        )


def _banded(path: Path | str, max_pixels: int) -> Bands | None:
    """The header of a TIFF file that PIL does not read right, its size checked; None for all other
    files.
    """
    path = Path(path)
    header = read_header(path) if path.is_file() else None
    if header is not None:
        _check_size(path, header.shape[1], header.shape[0], max_pixels)
    return header


def _is_stack(picture: Image.Image) -> bool:
    """Whether a TIFF file has a second page of the first one's size (smaller ones are thumbnails
    and overviews).
    """
    if getattr(picture, "n_frames", 1) < 2:
        return False
    size = picture.size
    picture.seek(1)
    same = picture.size == size
    picture.seek(0)
    return same


def _open_unlimited(path: Path) -> Image.Image:
    """Image.open (which reads the header only) without PIL's own limit of pixels; ours is checked
    by the caller.
    """
    with _OPENING:  # the limit is global, and pictures are read in threads
        limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            return Image.open(path)
        finally:
            Image.MAX_IMAGE_PIXELS = limit


def _plain_mode(picture: Image.Image) -> Image.Image:
    """The picture in one of the modes L, LA, RGB, RGBA."""
    if picture.mode in ("L", "LA", "RGB", "RGBA"):
        return picture
    if picture.mode == "1":
        return picture.convert("L")
    has_alpha = picture.mode in ("PA", "La", "RGBa") or "transparency" in picture.info
    return picture.convert("RGBA" if has_alpha else "RGB")


def _is_16_bit(picture: Image.Image) -> bool:
    """Whether the file has 16 bits a channel; PIL would narrow RGB to 8, but its decoder's raw mode
    tells (`RGB;16B`).
    """
    arguments = [tile[3] for tile in picture.tile]
    flat = [part for a in arguments for part in (a if isinstance(a, tuple) else (a,))]
    return picture.mode.startswith("I;16") or any(
        isinstance(part, str) and ";16" in part for part in flat
    )


def _read_by_opencv(path: Path | str) -> np.ndarray:
    array = cv2.imdecode(np.fromfile(path, dtype=np.uint8), cv2.IMREAD_UNCHANGED)
    if array is None:
        raise InputError(f"{path}: OpenCV cannot decode this picture; save it as PNG")
    if array.ndim == 2:
        return array[:, :, None]
    order = {3: [2, 1, 0], 4: [2, 1, 0, 3]}.get(array.shape[2], list(range(array.shape[2])))
    return np.ascontiguousarray(array[:, :, order])


def _wide_grey(array: np.ndarray, path: Path | str) -> np.ndarray:
    """32-bit integers that fit 16 bits, as older writers store 16-bit grey."""
    if array.dtype.kind == "f" or array.min() < 0 or array.max() > 65535:
        raise InputError(
            f"{path}: pictures of {array.dtype} values are not supported; save it with 8 or 16 bits"
            " a channel"
        )
    return array.astype(np.uint16)[:, :, None]


def _upright(array: np.ndarray, orientation: int) -> np.ndarray:
    """Undo an EXIF orientation (1 to 8) of an (H, W, C) array."""
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
