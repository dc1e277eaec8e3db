import struct

import cv2
import numpy as np
import pytest
import tifffile
from PIL import Image

from kanseg.data.io.images import (
    decode_image,
    decode_mask,
    image_mode,
    read_image,
    read_mask_values,
    to_channels,
)
from kanseg.data.io.tiff_windows import open_tiff
from kanseg.utils.errors import InputError

RNG = np.random.default_rng(0)
BANDS = RNG.integers(0, 60000, (7, 9, 5), dtype=np.uint16)


def write(path, array, **options):
    tifffile.imwrite(path, array, **({"photometric": "minisblack"} | options))
    return path


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
@pytest.mark.parametrize("bands", [2, 3, 4, 5, 7, 13])
@pytest.mark.parametrize("order", ["contig", "separate"])
def test_bands_are_exact_in_either_order(tmp_path, dtype, bands, order):
    values = RNG.integers(0, 250, (7, 9, bands)).astype(dtype)
    path = write(
        tmp_path / "a.tif",
        values if order == "contig" else values.transpose(2, 0, 1).copy(),
        planarconfig=order,
    )
    image = read_image(path)
    assert image.dtype == dtype
    assert np.array_equal(image, values)
    depth = {np.uint8: "", np.uint16: "16-bit ", np.float32: "float32 "}[dtype]
    assert image_mode(path) == (f"{depth}{bands} bands", (7, 9))


def test_the_fourth_band_of_a_image_with_infrared_is_kept(tmp_path):
    path = write(
        tmp_path / "a.tif",
        BANDS[:, :, :4].astype(np.uint8),
        photometric="rgb",
        extrasamples=["unspecified"],
    )
    assert np.array_equal(read_image(path), BANDS[:, :, :4].astype(np.uint8))


def test_16_bit_planes_of_rgb_are_not_mixed_up(tmp_path):
    planes = BANDS[:, :, :3].transpose(2, 0, 1).copy()
    assert np.array_equal(
        read_image(write(tmp_path / "a.tif", planes, photometric="rgb", planarconfig="separate")),
        BANDS[:, :, :3],
    )


@pytest.mark.parametrize(
    "options",
    [
        {"compression": "zlib"},
        {"compression": "zlib", "predictor": True},
        {"tile": (16, 16)},
        {"bigtiff": True},
    ],
)
def test_compressed_and_tiled_files_are_read(tmp_path, options):
    assert np.array_equal(
        read_image(write(tmp_path / "a.tif", BANDS, planarconfig="contig", **options)), BANDS
    )


@pytest.mark.parametrize("dtype", [np.int16, np.int32, np.uint32, np.float64, np.float16])
def test_other_types_become_floats_of_the_same_values_and_are_reported(tmp_path, dtype):
    values = RNG.integers(0, 2000, (7, 9)).astype(dtype)
    path = write(tmp_path / "a.tif", values)
    image = read_image(path)
    assert image.dtype == np.float32
    assert np.array_equal(image[:, :, 0], values)
    assert image_mode(path)[0] == f"{np.dtype(dtype)} gray"


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_values_that_are_no_numbers_are_refused_with_their_place(tmp_path, value):
    values = np.zeros((4, 5, 2), np.float32)
    values[1, 3, 1] = value
    with pytest.raises(
        InputError,
        match=r"a\.tif: 1 values are NaN or infinite \(the first at row 1, column 3, band 1\)",
    ):
        read_image(write(tmp_path / "a.tif", values, planarconfig="contig"))


@pytest.mark.parametrize("dtype", [np.int32, np.float32])
def test_masks_of_wide_types_hold_whole_numbers(tmp_path, dtype):
    labels = RNG.integers(0, 300, (4, 5)).astype(dtype)
    assert np.array_equal(read_mask_values(write(tmp_path / "m.tif", labels)), labels)
    labels[0, 0] = -1  # mask_values gives its meaning
    assert np.array_equal(read_mask_values(write(tmp_path / "m.tif", labels)), labels)
    for wrong in (70000,) if dtype is np.int32 else (0.5, 70000):
        labels[0, 0] = wrong
        with pytest.raises(InputError, match=r"m\.tif: a mask must hold class indices"):
            read_mask_values(write(tmp_path / "m.tif", labels))


@pytest.mark.parametrize("orientation", [3, 6])
def test_bands_are_turned_upright(tmp_path, orientation):
    path = write(
        tmp_path / "a.tif",
        BANDS,
        planarconfig="contig",
        extratags=[("Orientation", "H", 1, orientation, True)],
    )
    expected = BANDS[::-1, ::-1] if orientation == 3 else np.rot90(BANDS, -1)
    assert np.array_equal(read_image(path), expected)
    assert image_mode(path)[1] == expected.shape[:2]


def test_bands_as_pages_are_refused_with_the_hint(tmp_path):
    with pytest.raises(InputError, match=r"holds 5 images \(pages\).*planarconfig='contig'"):
        read_image(write(tmp_path / "a.tif", BANDS.transpose(2, 0, 1).astype(np.float32).copy()))


def test_larger_images_than_the_limit_are_refused_before_they_are_decoded(tmp_path):
    with pytest.raises(InputError, match="7x9 .*62"):
        read_image(write(tmp_path / "a.tif", BANDS, planarconfig="contig"), max_pixels=62)


@pytest.mark.parametrize("options", [{}, {"compression": "zlib"}])
def test_a_truncated_file_is_named(tmp_path, options):
    path = write(
        tmp_path / "a.tif",
        RNG.integers(0, 60000, (64, 64, 6), dtype=np.uint16),
        planarconfig="contig",
        **options,
    )
    path.write_bytes(path.read_bytes()[:20000])
    with pytest.raises(InputError, match=r"a\.tif: .*(damaged|truncated|not an image)"):
        read_image(path)


@pytest.mark.parametrize("read", [read_image, read_mask_values])
def test_a_compression_that_needs_another_package_names_the_extra(tmp_path, monkeypatch, read):
    path = write(tmp_path / "a.tif", BANDS[:, :, 0], compression="lzw")
    assert np.array_equal(read(path).squeeze(), BANDS[:, :, 0])

    class Missing(type(tifffile.TIFF.DECOMPRESSORS)):  # what tifffile has without imagecodecs
        def __getitem__(self, key):
            raise KeyError(f"{tifffile.COMPRESSION(key)!r} requires the 'imagecodecs' package")

    monkeypatch.setattr(tifffile.TIFF, "DECOMPRESSORS", Missing(encode=False))
    named = r"a\.tif: .*imagecodecs \(.*LZW.*python -m pip install \"kanseg\[tiff\]\""
    assert open_tiff(path, max_pixels=10**6, large=0) is None  # then it is read as a whole
    with pytest.raises(InputError, match=named):
        read(path)


# The table of tags x depths x image and mask, each cell with its value.


def indices(bits):
    """(4, 5) values of so many bits, the largest among them."""
    values = np.arange(20).reshape(4, 5) % 2 ** min(bits, 4)
    values[1, 2] = 2**bits - 1
    return values.astype(np.uint8 if bits <= 8 else np.uint16)


def write_bits(path, values, bits, **options):
    if bits == 1:
        return write(path, values.astype(bool), **options)
    return write(path, values, bitspersample=bits, **options)


@pytest.mark.parametrize("photometric", ["minisblack", "miniswhite"])
@pytest.mark.parametrize("bits", [1, 2, 4, 6, 8, 10, 12, 14, 16])
def test_gray_of_any_depth_as_image_and_as_mask(tmp_path, bits, photometric):
    stored = indices(bits)
    path = write_bits(tmp_path / "a.tif", stored, bits, photometric=photometric)
    largest = 2**bits - 1
    meant = stored if photometric == "minisblack" else largest - stored
    if bits < 8:
        meant = np.round(meant * (255 / largest))
    image = read_image(path)
    assert image.dtype == (np.uint8 if bits <= 8 else np.uint16)
    assert np.array_equal(image[:, :, 0], meant)
    mask = decode_mask(path)
    assert np.array_equal(mask.values, stored)
    assert mask.white_is_zero == (photometric == "miniswhite")
    assert image_mode(path) == ("gray" if bits <= 8 else "16-bit gray", (4, 5))


@pytest.mark.parametrize("dtype", [np.int8, np.int16, np.int32, np.float32, np.float64])
def test_signed_and_float_values_are_kept_and_white_is_zero_is_refused(tmp_path, dtype):
    stored = np.array([[-3, 0, 7], [100, 5, 6]], dtype)
    path = write(tmp_path / "a.tif", stored)
    assert np.array_equal(read_image(path)[:, :, 0], stored)
    assert np.array_equal(read_mask_values(path), stored)
    path = write(tmp_path / "w.tif", stored, photometric="miniswhite")
    with pytest.raises(InputError, match=r"w\.tif: WhiteIsZero"):
        read_image(path)
    assert np.array_equal(read_mask_values(path), stored)


def write_palette(path, stored, bits, colors):
    """A TIFF file of (H, W) indices of 1, 2, 4 or 8 bits, byte by byte: tifffile writes 8 alone."""
    height, width = stored.shape
    places = (stored[:, :, None] >> np.arange(bits - 1, -1, -1)) & 1
    data = np.packbits(places.reshape(height, -1).astype(np.uint8), axis=1).tobytes()
    table = (colors.T.astype("<u2") * 257).tobytes()
    start = 8 + 2 + 12 * 10 + 4
    tags = [
        (256, 4, 1, width),
        (257, 4, 1, height),
        (258, 3, 1, bits),
        (259, 3, 1, 1),
        (262, 3, 1, 3),
        (273, 4, 1, start),
        (277, 3, 1, 1),
        (278, 4, 1, height),
        (279, 4, 1, len(data)),
        (320, 3, 3 * 2**bits, start + len(data) + len(data) % 2),
    ]
    directory = b"".join(struct.pack("<HHII", *tag) for tag in tags)
    head = struct.pack("<2sHIH", b"II", 42, 8, len(tags)) + directory + bytes(4)
    path.write_bytes(head + data + bytes(len(data) % 2) + table)
    return path


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_a_palette_gives_colors_to_an_image_and_indices_to_a_mask(tmp_path, bits):
    count = 2**bits
    colors = np.random.default_rng(bits).integers(0, 256, (count, 3), dtype=np.uint8)
    stored = indices(bits)
    write_palette(tmp_path / "a.tif", stored, bits, colors)
    assert np.array_equal(read_image(tmp_path / "a.tif"), colors[stored])
    mask = decode_mask(tmp_path / "a.tif")
    assert np.array_equal(mask.values, stored)
    assert np.array_equal(mask.palette, colors)
    assert image_mode(tmp_path / "a.tif")[0] == "palette"


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
@pytest.mark.parametrize("bands", [2, 4, 5])
@pytest.mark.parametrize("extra", [None, "unspecified", "unassalpha"])
def test_only_what_extra_samples_call_alpha_is_alpha(tmp_path, dtype, bands, extra):
    values = RNG.integers(0, 250, (7, 9, bands)).astype(dtype)
    options = {"planarconfig": "contig"}
    if extra is not None:
        options["extrasamples"] = ["unspecified"] * (bands - 2) + [extra]
    path = write(tmp_path / "a.tif", values, **options)
    image = decode_image(path)
    assert np.array_equal(image.values, values)
    assert image.alpha == (extra == "unassalpha")
    if image.alpha:
        fitted = to_channels(image.values, bands - 1, alpha=image.alpha)
        assert np.array_equal(fitted, values[:, :, :-1])
    else:
        with pytest.raises(InputError, match=f"has {bands} channels"):
            to_channels(image.values, 7, alpha=image.alpha)
        with pytest.raises(InputError, match=f"data.channels: {bands}"):
            to_channels(image.values, bands - 1, alpha=image.alpha)
    mask = decode_mask(path)
    left = values[:, :, :-1] if image.alpha else values
    assert np.array_equal(mask.values, left.squeeze())
    assert mask.alpha_varies == image.alpha


def test_the_infrared_band_of_a_16_bit_rgb_file_without_extra_samples_is_a_band(tmp_path):
    cv2.imwrite(str(tmp_path / "a.tif"), BANDS[:, :, [2, 1, 0, 3]])
    image = decode_image(tmp_path / "a.tif")
    assert np.array_equal(image.values, BANDS[:, :, :4])
    assert not image.alpha
    assert image_mode(tmp_path / "a.tif")[0] == "16-bit 4 bands"


def test_alpha_between_bands_becomes_the_last_channel(tmp_path):
    values = BANDS.astype(np.uint8)
    options = {"photometric": "rgb", "extrasamples": ["unassalpha", "unspecified"]}
    image = decode_image(write(tmp_path / "a.tif", values, **options))
    assert image.alpha
    assert np.array_equal(image.values, values[:, :, [0, 1, 2, 4, 3]])


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_colors_that_were_multiplied_by_alpha_are_divided_by_it(tmp_path, dtype):
    largest = np.iinfo(dtype).max
    half = largest // 2 + 1
    values = np.array([[[half, 0, 8, largest], [half, 0, 8, half], [0, 0, 0, 0]]], dtype)
    options = {"photometric": "rgb", "extrasamples": ["assocalpha"]}
    path = write(tmp_path / "a.tif", values, **options)
    image = decode_image(path)
    eight = round(8 * largest / half)
    expected = [[half, 0, 8, largest], [largest, 0, eight, half], [0, 0, 0, 0]]
    assert image.values[0].tolist() == expected
    assert image.alpha
    assert np.array_equal(read_mask_values(path), values[:, :, :3])


def nodata(text):
    return {"extratags": [(42113, "s", 0, text, True)], "planarconfig": "contig"}


@pytest.mark.parametrize(
    ("dtype", "number", "text"),
    [
        (np.uint8, 0, "0"),
        (np.uint8, 255, "255 "),
        (np.uint16, 65535, "65535"),
        (np.int16, -9999, "-9999"),
        (np.int16, -32768, "-32768"),
        (np.int32, -2147483647, "-2147483647"),
        (np.float32, -9999, "-9999.0"),
        (np.float32, np.finfo(np.float32).min, "-3.4028234663852886e+38"),
        (np.float32, np.nan, "nan"),
        (np.float64, -1e300, "-1e300"),
        (np.float64, np.nan, "NaN"),
    ],
)
@pytest.mark.parametrize("bands", [1, 3])
def test_pixels_without_data_are_known_and_hold_the_mean_of_the_others(
    tmp_path, dtype, number, text, bands
):
    values = RNG.integers(1, 100, (4, 5, bands)).astype(dtype)
    values[1, 2] = number
    values[3, 4, 0] = number  # one band is enough
    path = write(tmp_path / "a.tif", values.squeeze(), **nodata(text))
    image = decode_image(path)
    expected = np.zeros((4, 5), bool)
    expected[1, 2] = expected[3, 4] = True
    assert np.array_equal(image.nodata, expected)
    others = values[~expected].astype(np.float64)
    assert np.array_equal(image.values[~expected], others)
    mean = others.mean(axis=0)
    mean = np.round(mean) if image.dtype.kind == "u" else mean
    assert np.allclose(image.values[1, 2], mean)
    assert np.allclose(image.values[3, 4], mean)
    if not np.isnan(number) and abs(number) < 2**31 and bands == 1 and number <= 65535:
        assert np.array_equal(read_mask_values(path), values.squeeze())  # a mask is as stored


@pytest.mark.parametrize("text", ["-9999", "no number", "1e99"])
def test_a_number_that_no_pixel_can_have_changes_nothing(tmp_path, text):
    values = BANDS[:, :, 0].astype(np.uint8)
    image = decode_image(write(tmp_path / "a.tif", values, **nodata(text)))
    assert np.array_equal(image.values[:, :, 0], values)
    assert image.nodata is None or not image.nodata.any()


def test_the_number_of_a_white_is_zero_file_is_a_stored_one(tmp_path):
    path = write(
        tmp_path / "a.tif",
        np.array([[0, 10, 20]], np.uint8),
        photometric="miniswhite",
        **nodata("0"),
    )
    image = decode_image(path)
    assert image.nodata.tolist() == [[True, False, False]]
    assert image.values[0, 1:, 0].tolist() == [245, 235]


def test_an_image_without_any_data_is_zero(tmp_path):
    path = write(tmp_path / "a.tif", np.full((3, 4), -9999, np.float32), **nodata("-9999"))
    assert (decode_image(path).values == 0).all()
    assert decode_image(path).nodata.all()


def test_nan_of_an_image_and_of_a_mask_names_the_hint(tmp_path):
    values = np.zeros((4, 5), np.float32)
    values[1, 3] = np.nan
    path = write(tmp_path / "a.tif", values)
    with pytest.raises(InputError, match="GDAL_NODATA"):
        read_image(path)
    with pytest.raises(InputError, match=r"1 values are NaN or infinite; .*255"):
        read_mask_values(path)


@pytest.mark.parametrize("dtype", [np.complex64, np.complex128])
def test_complex_values_are_refused_with_a_hint(tmp_path, dtype):
    path = write(tmp_path / "a.tif", np.ones((4, 5), dtype))
    for read in (read_image, read_mask_values, image_mode):
        with pytest.raises(InputError, match=r"a\.tif: holds complex values.*np\.abs"):
            read(path)


@pytest.mark.parametrize("orientation", [3, 6])
@pytest.mark.parametrize("palette", [False, True])
def test_a_mask_is_turned_upright_as_its_image_is(tmp_path, orientation, palette):
    stored = indices(8)
    tags = [("Orientation", "H", 1, orientation, True)]
    options = {"photometric": "minisblack"}
    if palette:
        options = {"photometric": "palette", "colormap": np.zeros((3, 256), np.uint16)}
    path = write(tmp_path / "a.tif", stored, extratags=tags, **options)
    expected = stored[::-1, ::-1] if orientation == 3 else np.rot90(stored, -1)
    assert np.array_equal(read_mask_values(path), expected)


@pytest.mark.parametrize(
    "options",
    [
        {"extrasamples": ["unspecified"]},
        {"extrasamples": ["unassalpha"]},
        nodata("7"),
        nodata("7") | {"tile": (16, 16), "compression": "zlib"},
        {"photometric": "miniswhite"},
    ],
)
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_windows_follow_the_same_rules(tmp_path, options, dtype):
    bands = 2 if "extrasamples" in options else 1
    values = RNG.integers(0, 20, (40, 50, bands)).astype(dtype)
    path = write(tmp_path / "a.tif", values.squeeze(), **({"planarconfig": "contig"} | options))
    whole = decode_image(path)
    image = open_tiff(path, max_pixels=10**6, large=0)
    if image is None:  # then it is read as a whole
        assert options == {"photometric": "miniswhite"}
        return
    window = image.window(5, 7, 30, 40)
    assert window.alpha == whole.alpha
    data = np.ones((30, 40), bool)
    if whole.nodata is not None:
        data = ~whole.nodata[5:35, 7:47]
        assert np.array_equal(window.nodata, ~data)
        assert whole.nodata.any()
    assert np.array_equal(window.values[data], whole.values[5:35, 7:47][data])


@pytest.mark.parametrize("mode", ["CMYK", "YCbCr"])
def test_other_colors_become_rgb_as_of_pil(tmp_path, mode):
    rgb = Image.fromarray(BANDS[:, :, :3].astype(np.uint8))
    rgb.convert(mode).save(tmp_path / "a.tif")
    expected = np.asarray(rgb.convert(mode).convert("RGB"))
    assert np.array_equal(read_image(tmp_path / "a.tif"), expected)


def test_more_values_than_fit_are_refused_before_they_are_decoded(tmp_path):
    path = write(tmp_path / "a.tif", BANDS, planarconfig="contig")
    with pytest.raises(InputError, match="7x9 pixels .*of 5 bands"):
        read_image(path, max_pixels=63)
    assert read_image(path, max_pixels=80).shape == (7, 9, 5)
