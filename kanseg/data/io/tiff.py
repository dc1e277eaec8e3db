"""Read TIFF files: one rule for each tag, at all bit depths.

    tag              value                 image                            mask
    BitsPerSample    1 to 7                scaled to 0..255, as of PNG      stored values
                     8                     stored values, uint8             stored values
                     9 to 16               stored values, uint16            stored values
                                           (12 bits: 0..4095 of 65535)
                     more, signed, float   stored values, float32           whole numbers
    SampleFormat     complex               refused                          refused
    Photometric      BlackIsZero, RGB      as they are                      stored values
                     WhiteIsZero           inverted; signed, float refused  stored values
                     Palette               colors, uint8                    indices and colors
                     YCbCr, CMYK, ...      RGB of 8 bits                    RGB of 8 bits
    ExtraSamples     alpha (1, 2)          alpha, the last channel; of 1    left out, and whether it
                                           the colors are divided by it     varies is known
                     0, or no such tag     a band                           a band
    GDAL_NODATA      a number, or nan      pixels without data: where any   stored values
                                           band has the number
    NaN, infinity                          refused, unless without data     refused
    Orientation      1 to 8                upright                          upright

`image_of` and `mask_of` are the table; `kanseg.data.io.tiff_windows`, which reads a file by
windows, uses `image_of` too.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import tifffile

from kanseg.data.io.decode_errors import decoder_errors
from kanseg.data.io.decoded import DecodedImage, DecodedMask, fill_nodata
from kanseg.data.io.exif import apply_orientation
from kanseg.utils.errors import InputError
from kanseg.utils.language import translate

SUFFIXES = (".tif", ".tiff")
GDAL_NODATA = 42113
LARGEST_LABEL, SMALLEST_LABEL = 65535, -(2**31)
VALUES_PER_PIXEL = 4  # limit of values of all bands, in multiples of the limit of pixels
MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
WHITE_IS_ZERO, BLACK_IS_ZERO, RGB, PALETTE, YCBCR = 0, 1, 2, 3, 6
JPEG = (6, 7)  # compressions whose decoder gives RGB for YCbCr
PREMULTIPLIED, ALPHA = 1, (1, 2)  # values of the tag ExtraSamples


@dataclass(frozen=True)
class TiffHeader:
    """The tags of the first page of a TIFF file.

    Args:
        path: the file.
        shape: (H, W) as stored.
        bands: samples of a pixel, alpha included.
        dtype: of the values as they are decoded.
        bits: per value.
        photometric: value of the tag; RGB for YCbCr that is decoded to RGB.
        extra: the values of ExtraSamples.
        planes: True if each band is stored separately (planar configuration 2).
        orientation: 1 to 8.
        nodata: the number of GDAL_NODATA, or None.
        palette: (n, 3) uint8 of a palette file, or None.
        pages: number of images in the file with the size of the first.
    """

    path: Path
    shape: tuple[int, int]
    bands: int
    dtype: np.dtype
    bits: int
    photometric: int
    extra: tuple[int, ...] = ()
    planes: bool = False
    orientation: int = 1
    nodata: float | None = None
    palette: np.ndarray | None = None
    pages: int = 1

    @property
    def alpha_band(self) -> int | None:
        """The band that is alpha according to ExtraSamples, or None."""
        for band, kind in enumerate(self.extra, self.bands - len(self.extra)):
            if kind in ALPHA:
                return band
        return None

    @property
    def left_to_pil(self) -> bool:
        """True if PIL must convert the colors to RGB."""
        return self.photometric not in (WHITE_IS_ZERO, BLACK_IS_ZERO, RGB, PALETTE)

    @property
    def kind(self) -> str:
        """Description of the image: `RGB`, `16-bit gray`, `5 bands`, `float32 gray`, ..."""
        if self.photometric == PALETTE:
            return "palette"
        has_alpha = self.alpha_band is not None
        colors = self.bands - has_alpha
        if colors == 3 and self.photometric == RGB:
            kind, alpha = "RGB", "A"
        elif colors == 1:
            kind, alpha = "gray", "+alpha"
        else:
            kind, alpha = f"{colors} bands", "+alpha"
        if has_alpha:
            kind += alpha
        if self.dtype.kind not in "ub" or self.bits > 16:
            return f"{self.dtype} {kind}"
        if self.bits > 8:
            return f"16-bit {kind}"
        return kind

    @property
    def upright_shape(self) -> tuple[int, int]:
        """(H, W) of the image turned upright."""
        if self.orientation >= 5:
            return self.shape[::-1]
        return self.shape


def is_tiff(path: Path) -> bool:
    """True if a file starts like a TIFF file."""
    with path.open("rb") as file:
        return file.read(4) in MAGIC


def read_header(path: Path, max_pixels: int) -> TiffHeader:
    """Read the header of a TIFF file and check its size, without decoding pixels.

    Raises:
        InputError: a damaged file, more than `max_pixels` pixels, complex values, or values of a
            kind that is not supported.
    """
    with decoder_errors(path), tifffile.TiffFile(path) as file:
        page, pages = file.pages[0], 1
        if len(file.pages) > 1 and file.pages[1].shape == page.shape:
            pages = len(file.pages)
        return header_of(path, page, max_pixels, pages=pages)


def header_of(
    path: Path, page: tifffile.TiffPage, max_pixels: int, *, pages: int = 1
) -> TiffHeader:
    """Return the header of an open page; see `read_header`."""
    height, width, bands = int(page.imagelength), int(page.imagewidth), int(page.samplesperpixel)
    if height < 1 or width < 1 or bands < 1:
        raise InputError(
            "the file is damaged or truncated (an image of height {height}, width {width})",
            height=height,
            width=width,
            where=path,
            code="truncated",
        )
    check_size(path, height, width, max_pixels)
    if height * width * bands > VALUES_PER_PIXEL * max_pixels:
        raise InputError(
            "{height}x{width} pixels (height x width) of {bands} bands are more than the limit"
            " of {values_per_pixel} times {limit}; raise --max_pixels (of a training"
            " --data.max_pixels) if the file can be trusted",
            height=height,
            width=width,
            bands=bands,
            values_per_pixel=VALUES_PER_PIXEL,
            limit=max_pixels,
            where=path,
            code="too_large",
        )
    _refuse_unsupported(path, page)
    photometric, palette = int(page.photometric), None
    if photometric == YCBCR and int(page.compression) in JPEG:
        photometric = RGB
    elif photometric == PALETTE:
        palette = np.asarray(page.colormap).reshape(3, -1).T
        if palette.max() > 255:  # the tag has 16 bits, or 8 bits from some writers
            palette = palette >> 8
        palette = palette.astype(np.uint8)
    orientation = page.tags.valueof(274, 1)
    if not isinstance(orientation, int) or not 1 <= orientation <= 8:
        orientation = 1
    return TiffHeader(
        path,
        (height, width),
        bands,
        np.dtype(page.dtype),
        int(page.bitspersample),
        photometric,
        tuple(int(kind) for kind in page.extrasamples or ()),
        int(page.planarconfig) == 2 and bands > 1,
        orientation,
        nodata_of(page),
        palette,
        pages,
    )


def check_size(path: Path | str, height: int, width: int, max_pixels: int) -> None:
    """Raise InputError for more pixels than the limit."""
    if width * height > max_pixels:
        raise InputError(
            "{height}x{width} pixels (height x width) are more than the limit of {limit}; raise"
            " --max_pixels (of a training --data.max_pixels) if the file can be trusted",
            height=height,
            width=width,
            limit=max_pixels,
            where=path,
            code="too_large",
        )


def nodata_of(page: tifffile.TiffPage) -> float | None:
    """Return the number in the tag GDAL_NODATA; None if there is none."""
    text = page.tags.valueof(GDAL_NODATA)
    if isinstance(text, bytes):
        text = text.decode("ascii", "replace")
    try:
        return float(str(text).strip(" \0"))
    except ValueError:
        return None


def read_tiff_image(header: TiffHeader) -> DecodedImage:
    """Read the image of a file, upright, by the table above.

    Raises:
        InputError: several images in one file, damage, a compression that needs the extra `tiff`,
            NaN or infinite values, or WhiteIsZero with values that have no white.
    """
    image = image_of(_stored(header), header)
    nodata = image.nodata
    if nodata is not None:
        nodata = apply_orientation(nodata, header.orientation)
    return DecodedImage(apply_orientation(image.values, header.orientation), image.alpha, nodata)


def read_tiff_mask(header: TiffHeader) -> DecodedMask:
    """Read the mask in a file, upright, by the table above; errors as in `read_tiff_image`."""
    mask = mask_of(_stored(header), header)
    return replace(mask, values=apply_orientation(mask.values, header.orientation))


def image_of(stored: np.ndarray, header: TiffHeader) -> DecodedImage:
    """Interpret stored values (H, W, C) of an image or a window of it."""
    alpha_band = header.alpha_band
    if alpha_band not in (None, header.bands - 1):  # move it behind the other bands
        order = [band for band in range(header.bands) if band != alpha_band]
        stored = stored[:, :, [*order, alpha_band]]
    colors = header.bands - (alpha_band is not None)
    nodata = _without_data(stored[:, :, :colors], header)
    if header.photometric == PALETTE:
        if header.bands > 1:
            raise InputError(
                "a palette file with {bands} bands is not supported; save it as RGB",
                bands=header.bands,
                where=header.path,
            )
        values = header.palette[stored[:, :, 0].astype(np.int64)]
    else:
        if header.photometric == WHITE_IS_ZERO:
            stored = _inverted(stored, colors, header)
        values = _depth_of_images(stored, header.bits)
    _refuse_not_finite(values, nodata, header)
    if PREMULTIPLIED in header.extra and alpha_band is not None:
        values = _divided_by_alpha(values)
    has_alpha = alpha_band is not None and header.photometric != PALETTE
    if nodata is None or not nodata.any():
        return DecodedImage(np.ascontiguousarray(values), has_alpha, nodata)
    return DecodedImage(fill_nodata(values, nodata), has_alpha, nodata)


def mask_of(stored: np.ndarray, header: TiffHeader) -> DecodedMask:
    """Interpret stored values (H, W, C) of a mask: labels as they are, without alpha."""
    alpha_varies = False
    if header.alpha_band is not None and header.bands > 1:
        alpha = stored[:, :, header.alpha_band]
        alpha_varies = bool((alpha != alpha[0, 0]).any())
        stored = np.delete(stored, header.alpha_band, axis=2)
    if stored.dtype.kind == "b":
        stored = stored.astype(np.uint8)
    if stored.dtype not in (np.uint8, np.uint16):
        stored = _whole(stored, header.path)
    if stored.shape[2] == 1:
        stored = stored[:, :, 0]
    white_is_zero = header.photometric == WHITE_IS_ZERO
    return DecodedMask(np.ascontiguousarray(stored), header.palette, alpha_varies, white_is_zero)


def _refuse_unsupported(path: Path, page: tifffile.TiffPage) -> None:
    """Raise InputError for values that the table does not cover."""
    formats = page.sampleformat
    if not isinstance(formats, tuple):
        formats = (formats,)
    if any(int(kind) in (5, 6) for kind in formats):
        raise InputError(
            "holds complex values, which have no order; save their amplitude (np.abs), or real"
            " and imaginary part as two float bands (and give data.channels: 2)",
            where=path,
        )
    if page.dtype is None or not isinstance(page.bitspersample, int):
        raise InputError(
            "values of {bits} bits (sample format {sample_format}) are not supported; save them"
            " with 8 or 16 bits a band, or as float32",
            bits=page.bitspersample,
            sample_format=page.sampleformat,
            where=path,
        )
    if page.imagedepth != 1:
        raise InputError(
            "holds a volume of {layers} layers; save each as a file of its own",
            layers=page.imagedepth,
            where=path,
        )


def _stored(header: TiffHeader) -> np.ndarray:
    """Read the stored values, (H, W, C) of any type."""
    if header.pages > 1:
        raise several_pages(header.path, header.pages)
    with decoder_errors(header.path), tifffile.TiffFile(header.path) as file:
        array = file.pages[0].asarray()
        if header.planes:
            array = np.moveaxis(array, 0, -1)
        return array.reshape(*header.shape, header.bands)


def several_pages(path: Path, pages: int) -> InputError:
    """Return the error of a file with several images of one size."""
    return InputError(
        "holds {pages} images (pages) of one size; save each as a file of its own, or bands"
        " as one page: tifffile.imwrite(path, array of (H, W, C), photometric='minisblack',"
        " planarconfig='contig')",
        pages=pages,
        where=path,
    )


def _without_data(stored: np.ndarray, header: TiffHeader) -> np.ndarray | None:
    """Return (H, W) bool, True where any band has the number of GDAL_NODATA; None without it."""
    is_float = stored.dtype.kind == "f"
    if header.nodata is None or (np.isnan(header.nodata) and not is_float):
        return None
    if np.isnan(header.nodata):
        return np.isnan(stored).any(axis=2)
    number = header.nodata
    if is_float:
        with np.errstate(over="ignore"):
            number = stored.dtype.type(number)
    return (stored == number).any(axis=2)


def _inverted(stored: np.ndarray, colors: int, header: TiffHeader) -> np.ndarray:
    """Return stored values with the color bands of WhiteIsZero inverted, so that black is 0."""
    if header.dtype.kind not in "ub":
        raise InputError(
            "WhiteIsZero is undefined for {kind} values; save the file with photometric minisblack",
            kind=header.dtype,
            where=header.path,
        )
    dtype = stored.dtype
    if dtype.kind == "b":
        dtype = np.dtype(np.uint8)
    inverted = stored.astype(dtype)
    largest = dtype.type(2**header.bits - 1)
    inverted[:, :, :colors] = largest - inverted[:, :, :colors]
    return inverted


def _depth_of_images(stored: np.ndarray, bits: int) -> np.ndarray:
    """Convert stored values to uint8, uint16 or float32, by their number of bits."""
    if stored.dtype.kind in "ub" and bits < 8:
        scale = np.round(np.arange(2**bits) * (255 / (2**bits - 1))).astype(np.uint8)
        return scale[stored.astype(np.uint8)]
    if stored.dtype in (np.uint8, np.uint16):
        return stored
    with np.errstate(over="ignore", invalid="ignore"):
        return stored.astype(np.float32)


def _refuse_not_finite(values: np.ndarray, nodata: np.ndarray | None, header: TiffHeader) -> None:
    """Raise InputError for NaN and infinite values in pixels with data."""
    if values.dtype.kind != "f":
        return
    bad = ~np.isfinite(values)
    if nodata is not None:
        bad[nodata] = False
    if not bad.any():
        return
    row, column, band = np.argwhere(bad)[0]
    too_large = ""
    if header.dtype.kind == "f" and header.dtype.itemsize > 4:
        too_large = translate(" or too large for float32")
    raise InputError(
        "{count} values are NaN or infinite{note} (the first at row {row}, column {column},"
        " band {band}); replace them by the number in the tag GDAL_NODATA (it can be NaN:"
        " gdal_edit.py -a_nodata nan FILE), so that they are ignored",
        count=int(bad.sum()),
        note=too_large,
        row=row,
        column=column,
        band=band,
        where=header.path,
        code="nan",
    )


def _divided_by_alpha(values: np.ndarray) -> np.ndarray:
    """Undo the multiplication of the colors by the last channel, alpha."""
    largest = 1.0
    if values.dtype.kind == "u":
        largest = float(np.iinfo(values.dtype).max)
    alpha = values[:, :, -1:].astype(np.float64)
    colors = values[:, :, :-1] * np.divide(
        largest, alpha, out=np.zeros_like(alpha), where=alpha > 0
    )
    if values.dtype.kind == "u":
        colors = np.round(np.minimum(colors, largest))
    return np.concatenate([colors.astype(values.dtype), values[:, :, -1:]], axis=2)


def _whole(array: np.ndarray, path: Path) -> np.ndarray:
    """Convert labels stored as floats, or as signed or wide integers, to int32."""
    if not np.isfinite(array).all():
        raise InputError(
            "a mask must hold class indices, but {count} values are NaN or infinite; save"
            " integers, and 255 for ignored pixels",
            count=int((~np.isfinite(array)).sum()),
            where=path,
            code="nan",
        )
    small, large = array.min(), array.max()
    if small < SMALLEST_LABEL or large > LARGEST_LABEL or (array != np.floor(array)).any():
        raise InputError(
            "a mask must hold class indices, whole numbers up to {largest}, but its values are"
            " from {small} to {large}",
            largest=LARGEST_LABEL,
            small=f"{small:g}",
            large=f"{large:g}",
            where=path,
        )
    return array.astype(np.int32)
