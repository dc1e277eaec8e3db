import cv2
import numpy as np
import pytest
import tifffile
from PIL import Image

from kanseg.data.io.images import decode_image, read_image
from kanseg.data.io.tiff_windows import open_tiff
from kanseg.utils.errors import InputError

RGB = np.random.default_rng(0).integers(0, 256, (150, 210, 3), dtype=np.uint8)
DEEP = np.random.default_rng(1).integers(0, 65536, (150, 210, 3), dtype=np.uint16)
WAYS = {
    "plain": {},
    "strips": {"rowsperstrip": 16},
    "tiles": {"tile": (32, 48)},
    "deflate": {"tile": (32, 48), "compression": "zlib"},
    "predictor": {"tile": (32, 48), "compression": "zlib", "predictor": True},
    "strips of lzw": {"rowsperstrip": 7, "compression": "lzw", "predictor": True},
    "big": {"bigtiff": True, "tile": (64, 64), "compression": "lzw"},
    "big-endian": {"byteorder": ">", "rowsperstrip": 16},
    "plain big-endian": {"byteorder": ">"},
}


def opened(path, **limits):
    return open_tiff(path, **({"max_pixels": 10**9, "large": 0} | limits))


def windows(image):
    height, width = image.shape
    return [
        (0, 0, height, width),
        (0, 0, 1, 1),
        (height - 3, width - 5, 3, 5),
        (13, 47, 61, 90),
        (31, 0, 2, width),
    ]


@pytest.mark.parametrize(
    "image", [RGB, DEEP, RGB[:, :, 0], DEEP[:, :, 0]], ids=["rgb", "deep", "gray", "deep gray"]
)
@pytest.mark.parametrize("way", WAYS)
def test_a_window_is_that_of_the_whole_image(tmp_path, image, way):
    tifffile.imwrite(
        tmp_path / "a.tif",
        image,
        photometric="rgb" if image.ndim == 3 else "minisblack",
        **WAYS[way],
    )
    file = opened(tmp_path / "a.tif")
    whole = image.reshape(*image.shape[:2], -1)
    assert (file.shape, file.channels) == (whole.shape[:2], whole.shape[2])
    for top, left, height, width in windows(file):
        found = file.read(top, left, height, width)
        assert found.dtype == image.dtype
        assert np.array_equal(found, whole[top : top + height, left : left + width])


@pytest.mark.parametrize("bands", [4, 7])
@pytest.mark.parametrize("tile", [None, (32, 48)])
def test_bands_that_are_stored_one_after_the_other_are_put_together(tmp_path, bands, tile):
    image = np.random.default_rng(2).integers(0, 256, (bands, 70, 90), dtype=np.uint8)
    tifffile.imwrite(
        tmp_path / "a.tif", image, photometric="minisblack", planarconfig="separate", tile=tile
    )
    assert np.array_equal(
        opened(tmp_path / "a.tif").read(5, 6, 60, 70), image.transpose(1, 2, 0)[5:65, 6:76]
    )


def test_files_of_others_are_read_as_read_image_reads_them(tmp_path):
    Image.fromarray(RGB).save(tmp_path / "pil.tif", compression="tiff_lzw")
    cv2.imwrite(str(tmp_path / "cv.tif"), DEEP)
    Image.fromarray(np.dstack([RGB, RGB[:, :, 0]])).save(
        tmp_path / "rgba.tif", compression="tiff_adobe_deflate"
    )
    for name in ("pil.tif", "cv.tif", "rgba.tif"):
        image = opened(tmp_path / name)
        assert np.array_equal(image.read(0, 0, *image.shape), read_image(tmp_path / name))


@pytest.mark.parametrize("nodata", ["65535", "-9999", None])
def test_tiles_that_a_sparse_file_leaves_out_hold_no_data(tmp_path, nodata):
    path = tmp_path / "sparse.tif"
    tags = [] if nodata is None else [(42113, "s", 0, nodata, True)]
    tifffile.imwrite(path, DEEP[:64, :64, 0] // 2, tile=(16, 16), extratags=tags)
    with tifffile.TiffFile(path, mode="r+b") as file:
        page = file.pages[0]
        for tag, values in ((324, page.dataoffsets), (325, page.databytecounts)):
            page.tags[tag].overwrite([0 if i == 5 else value for i, value in enumerate(values)])
    whole, window = decode_image(path), opened(path).window(0, 0, 64, 64)
    assert np.array_equal(whole.values, window.values)
    if nodata == "65535":
        assert window.nodata[16:32, 16:32].all() and window.nodata.sum() == 256
        assert np.array_equal(whole.nodata, window.nodata)
    else:
        assert (window.values[16:32, 16:32] == 0).all()


def test_what_must_be_interpreted_is_left_to_read_image(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(RGB).save(tmp_path / "turned.tif", exif=exif)
    Image.fromarray(RGB).convert("P").save(tmp_path / "palette.tif")
    Image.fromarray(RGB).convert("1").save(tmp_path / "bits.tif")
    tifffile.imwrite(tmp_path / "float.tif", RGB.astype(np.float32))
    (tmp_path / "text.tif").write_text("no image")
    for path in tmp_path.iterdir():
        assert opened(path) is None, path
    tifffile.imwrite(tmp_path / "small.tif", RGB)
    assert opened(tmp_path / "small.tif", large=10**6) is None


def test_limits_and_stacks_are_reported(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", RGB)
    with pytest.raises(InputError, match="150x210.*--max_pixels"):
        opened(tmp_path / "a.tif", max_pixels=100)
    tifffile.imwrite(tmp_path / "b.tif", np.stack([RGB, RGB]), photometric="rgb")
    with pytest.raises(InputError, match="2 images"):
        opened(tmp_path / "b.tif")


@pytest.mark.parametrize("way", ["plain", "tiles", "deflate"])
def test_a_truncated_file_is_reported_where_it_ends(tmp_path, way):
    tifffile.imwrite(tmp_path / "a.tif", RGB, **WAYS[way])
    whole = (tmp_path / "a.tif").read_bytes()
    (tmp_path / "a.tif").write_bytes(whole[: len(whole) * 2 // 3])
    image = opened(tmp_path / "a.tif")
    if image is not None:  # where the list of tiles is cut off as well, read_image tells
        with pytest.raises(InputError, match="a.tif.* at row"):
            image.read(0, 0, 150, 210)


def test_no_more_blocks_are_kept_than_the_windows_of_two_rows_need(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", RGB, tile=(16, 16))
    image = opened(tmp_path / "a.tif")
    for top in range(0, 128, 16):
        for left in range(0, 178, 16):
            image.read(top, left, 32, 32)
    assert image.cached_blocks <= 3 * 14


@pytest.mark.parametrize("tag", ["TileWidth", "TileLength"])
def test_tiles_without_pixels_are_named(tmp_path, tag):
    path = tmp_path / "tiles.tif"
    tifffile.imwrite(path, np.zeros((64, 64, 3), np.uint8), tile=(32, 32), photometric="rgb")
    with tifffile.TiffFile(path) as file:
        offset = file.pages[0].tags[tag].valueoffset
    data = bytearray(path.read_bytes())
    data[offset : offset + 2] = bytes(2)
    path.write_bytes(data)
    with pytest.raises(InputError, match="tiles.tif"):
        opened(path).read(0, 0, 8, 8)
