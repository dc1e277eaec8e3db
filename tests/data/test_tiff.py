import numpy as np
import pytest
import tifffile

from kanseg.data.images import image_mode, read_image, read_mask_values
from kanseg.data.tiff import read_header
from kanseg.errors import InputError

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


def test_the_fourth_band_of_a_picture_with_infrared_is_kept(tmp_path):
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
def test_other_types_become_floats_of_the_same_values_and_are_told(tmp_path, dtype):
    values = RNG.integers(0, 2000, (7, 9)).astype(dtype)
    path = write(tmp_path / "a.tif", values)
    image = read_image(path)
    assert image.dtype == np.float32
    assert np.array_equal(image[:, :, 0], values)
    assert image_mode(path)[0] == f"{np.dtype(dtype)} grey"


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
    for wrong in (-1, 70000) if dtype is np.int32 else (0.5, -1):
        labels[0, 0] = wrong
        with pytest.raises(InputError, match=r"m\.tif: a mask holds class indices"):
            read_mask_values(write(tmp_path / "m.tif", labels))


def test_ordinary_files_are_left_to_the_others(tmp_path):
    for values, options in (
        (BANDS[:, :, 0], {}),
        (BANDS[:, :, :3].astype(np.uint8), {"photometric": "rgb"}),
        (BANDS[:, :, :4].astype(np.uint8), {"photometric": "rgb", "extrasamples": ["unassalpha"]}),
        (
            BANDS[:, :, :2].astype(np.uint8),
            {"extrasamples": ["unassalpha"], "planarconfig": "contig"},
        ),
    ):
        assert read_header(write(tmp_path / "a.tif", values, **options)) is None


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


def test_bands_as_pages_are_refused_with_the_cure(tmp_path):
    with pytest.raises(InputError, match=r"holds 5 pictures \(pages\).*planarconfig='contig'"):
        read_image(write(tmp_path / "a.tif", BANDS.transpose(2, 0, 1).astype(np.float32).copy()))


def test_larger_pictures_than_the_limit_are_refused_before_they_are_decoded(tmp_path):
    with pytest.raises(InputError, match="9x7 pixels are more than the limit of 62"):
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
    with pytest.raises(InputError, match=r"a\.tif: .*(damaged|truncated|not a picture)"):
        read_image(path)


def test_a_compression_that_needs_another_package_names_it(tmp_path, monkeypatch):
    path = write(tmp_path / "a.tif", BANDS, planarconfig="contig")

    def asarray(page):
        raise ValueError("<COMPRESSION.LZW: 5> requires the 'imagecodecs' package")

    monkeypatch.setattr(tifffile.TiffPage, "asarray", asarray)
    with pytest.raises(
        InputError,
        match=(
            r"compression \(<COMPRESSION.LZW: 5>\) needs another package: python -m pip install"
            r" imagecodecs"
        ),
    ):
        read_image(path)
