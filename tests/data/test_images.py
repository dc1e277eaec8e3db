from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np
import pytest
from PIL import Image, ImageOps

from kanseg.data.images import image_mode, read_image, read_mask_values, to_channels, write_png
from kanseg.errors import InputError

RGB = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)


@pytest.mark.parametrize(
    ("mode", "channels", "word"),
    [
        ("L", 1, "grey"),
        ("LA", 2, "grey+alpha"),
        ("RGB", 3, "RGB"),
        ("RGBA", 4, "RGBA"),
        ("1", 1, "grey"),
        ("P", 3, "palette"),
    ],
)
def test_modes_keep_their_channels(tmp_path, mode, channels, word):
    picture = Image.fromarray(RGB).convert(mode)
    picture.save(tmp_path / "a.png")
    assert read_image(tmp_path / "a.png").shape == (5, 7, channels)
    assert image_mode(tmp_path / "a.png") == (word, (5, 7))


def test_pixels_of_a_lossless_file_are_exact(tmp_path):
    for suffix in ("png", "bmp", "tif"):
        Image.fromarray(RGB).save(tmp_path / f"a.{suffix}")
        assert np.array_equal(read_image(tmp_path / f"a.{suffix}"), RGB)


@pytest.mark.parametrize("suffix", ["png", "tif"])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_16_bit_values_are_kept(tmp_path, suffix, channels):
    values = np.random.default_rng(1).integers(0, 65536, (5, 7, channels), dtype=np.uint16)
    order = {1: [0], 3: [2, 1, 0], 4: [2, 1, 0, 3]}[channels]
    cv2.imwrite(str(tmp_path / f"a.{suffix}"), values[:, :, order])
    image = read_image(tmp_path / f"a.{suffix}")
    assert image.dtype == np.uint16
    assert np.array_equal(image, values)
    assert image_mode(tmp_path / f"a.{suffix}")[0].startswith("16-bit")


@pytest.mark.parametrize("suffix", ["jpg", "png", "tif", "webp", "bmp"])
def test_sizes_that_look_like_16_do_not_make_8_bit_pictures_deep(tmp_path, suffix):
    Image.fromarray(np.zeros((16, 160, 3), np.uint8)).save(tmp_path / f"a.{suffix}")
    assert image_mode(tmp_path / f"a.{suffix}") == ("RGB", (16, 160))
    assert read_image(tmp_path / f"a.{suffix}").dtype == np.uint8


@pytest.mark.parametrize("suffix", ["png", "tif"])
@pytest.mark.parametrize(
    "pixels",
    [RGB, RGB[:, :, 0], RGB[:, :, 0].astype(np.uint16) * 257],
    ids=["RGB", "grey", "16-bit"],
)
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_undone_as_pil_does(tmp_path, orientation, pixels, suffix):
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(pixels).save(path, exif=exif)
    Image.fromarray(pixels).save(
        tmp_path / "reference.png", exif=exif
    )  # PIL itself turns some TIFF files wrongly
    expected = np.asarray(ImageOps.exif_transpose(Image.open(tmp_path / "reference.png")))
    assert np.array_equal(read_image(path).squeeze(), expected)
    assert image_mode(path)[1] == expected.shape[:2]


def test_pils_own_limit_is_left_as_it_was_also_by_threads(tmp_path):
    Image.fromarray(RGB).save(tmp_path / "a.png")
    limit = Image.MAX_IMAGE_PIXELS
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: read_image(tmp_path / "a.png"), range(400)))
    assert Image.MAX_IMAGE_PIXELS == limit is not None


def test_channels_are_converted_in_the_known_ways():
    assert to_channels(RGB[:, :, :1], 3).shape == (5, 7, 3)
    rgba = np.dstack([RGB, np.full((5, 7), 9, np.uint8)])
    assert np.array_equal(to_channels(rgba, 3), RGB)
    grey = to_channels(RGB, 1)
    assert (
        np.abs(grey[:, :, 0].astype(int) - np.asarray(Image.fromarray(RGB).convert("L"))).max() <= 1
    )
    with pytest.raises(InputError, match=r"x\.png: has 3 channels and the model takes 5"):
        to_channels(RGB, 5, name="x.png")


def broken(tmp_path):
    Image.fromarray(np.random.default_rng(2).integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(
        tmp_path / "whole.png"
    )
    Image.open(tmp_path / "whole.png").save(tmp_path / "whole.jpg")
    for suffix in ("png", "jpg"):
        data = (tmp_path / f"whole.{suffix}").read_bytes()
        (tmp_path / f"torn.{suffix}").write_bytes(data[: len(data) // 2])
    (tmp_path / "text.png").write_text("no picture")
    (tmp_path / "empty.png").write_bytes(b"")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("torn.png", "damaged or truncated"),
        ("torn.jpg", "damaged or truncated"),
        ("text.png", "not a picture"),
        ("empty.png", "empty"),
        ("none.png", "no such file"),
    ],
)
def test_files_that_cannot_be_read_are_named(tmp_path, name, message):
    broken(tmp_path)
    with pytest.raises(InputError, match=f"{name}: .*{message}"):
        read_image(tmp_path / name)


def test_a_torn_16_bit_file_is_refused(tmp_path):
    cv2.imwrite(
        str(tmp_path / "a.png"),
        np.random.default_rng(0).integers(0, 65536, (64, 64, 3), dtype=np.uint16),
    )
    data = (tmp_path / "a.png").read_bytes()
    (tmp_path / "a.png").write_bytes(data[: len(data) // 2])
    with pytest.raises(InputError, match="damaged or truncated"):
        read_image(tmp_path / "a.png")


def test_a_stack_of_pages_is_refused_and_an_overview_read_over(tmp_path):
    pages = [Image.fromarray(RGB) for _ in range(3)]
    pages[0].save(tmp_path / "stack.tif", save_all=True, append_images=pages[1:])
    with pytest.raises(InputError, match="holds 3 pictures"):
        read_image(tmp_path / "stack.tif")
    pages[0].save(tmp_path / "overview.tif", save_all=True, append_images=[pages[1].resize((3, 2))])
    assert np.array_equal(read_image(tmp_path / "overview.tif"), RGB)


def test_more_pixels_than_the_limit_are_refused(tmp_path):
    Image.fromarray(RGB).save(tmp_path / "a.png")
    with pytest.raises(InputError, match="7x5 pixels are more than the limit of 34"):
        read_image(tmp_path / "a.png", max_pixels=34)


def test_a_palette_mask_gives_its_indices(tmp_path):
    indices = np.array([[0, 1], [2, 1]], np.uint8)
    write_png(tmp_path / "m.png", indices, palette=[(0, 0, 0), (255, 0, 0), (0, 255, 0)])
    assert np.array_equal(read_mask_values(tmp_path / "m.png"), indices)
    assert Image.open(tmp_path / "m.png").convert("RGB").getpixel((1, 0)) == (255, 0, 0)


def test_a_failed_write_leaves_nothing(tmp_path):
    with pytest.raises(TypeError):
        write_png(tmp_path / "a.png", np.zeros((2, 2, 7), np.uint8))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK"])
@pytest.mark.parametrize("orientation", [1, 6])
@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"subsampling": 0}])
def test_jpeg_files_have_the_values_of_pil(tmp_path, mode, orientation, options):
    smooth = cv2.resize(RGB, (90, 70), interpolation=cv2.INTER_CUBIC)
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(smooth).convert(mode).save(tmp_path / "a.jpg", exif=exif, **options)
    expected = ImageOps.exif_transpose(Image.open(tmp_path / "a.jpg"))
    expected = np.asarray(expected.convert("RGB") if mode == "CMYK" else expected)
    assert np.array_equal(read_image(tmp_path / "a.jpg").squeeze(), expected)


@pytest.mark.parametrize("rest", [b"\0\0\0", b"a note behind the end"])
def test_jpeg_files_with_bytes_behind_their_end_are_read(tmp_path, rest):
    Image.fromarray(RGB).save(tmp_path / "a.jpg")
    expected = read_image(tmp_path / "a.jpg")
    (tmp_path / "a.jpg").write_bytes((tmp_path / "a.jpg").read_bytes() + rest)
    assert np.array_equal(read_image(tmp_path / "a.jpg"), expected)
