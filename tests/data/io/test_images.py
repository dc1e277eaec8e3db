import struct
import tracemalloc
import zlib
from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np
import pytest
from PIL import Image, ImageOps

from kanseg.data.io.images import (
    decode_image,
    decode_mask,
    image_mode,
    read_image,
    read_mask_values,
    to_channels,
    write_png,
)
from kanseg.utils.errors import InputError

RGB = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)


@pytest.mark.parametrize(
    ("mode", "channels", "word"),
    [
        ("L", 1, "gray"),
        ("LA", 2, "gray+alpha"),
        ("RGB", 3, "RGB"),
        ("RGBA", 4, "RGBA"),
        ("1", 1, "gray"),
        ("P", 3, "palette"),
    ],
)
def test_modes_keep_their_channels(tmp_path, mode, channels, word):
    image = Image.fromarray(RGB).convert(mode)
    image.save(tmp_path / "a.png")
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
def test_sizes_that_look_like_16_do_not_make_8_bit_images_deep(tmp_path, suffix):
    Image.fromarray(np.zeros((16, 160, 3), np.uint8)).save(tmp_path / f"a.{suffix}")
    assert image_mode(tmp_path / f"a.{suffix}") == ("RGB", (16, 160))
    assert read_image(tmp_path / f"a.{suffix}").dtype == np.uint8


@pytest.mark.parametrize("suffix", ["png", "tif"])
@pytest.mark.parametrize(
    "pixels",
    [RGB, RGB[:, :, 0], RGB[:, :, 0].astype(np.uint16) * 257],
    ids=["RGB", "gray", "16-bit"],
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
    gray = to_channels(RGB, 1)
    assert (
        np.abs(gray[:, :, 0].astype(int) - np.asarray(Image.fromarray(RGB).convert("L"))).max() <= 1
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
    (tmp_path / "text.png").write_text("no image")
    (tmp_path / "empty.png").write_bytes(b"")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("torn.png", "damaged or truncated"),
        ("torn.jpg", "damaged or truncated"),
        ("text.png", "not an image"),
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
    with pytest.raises(InputError, match="holds 3 images"):
        read_image(tmp_path / "stack.tif")
    pages[0].save(tmp_path / "overview.tif", save_all=True, append_images=[pages[1].resize((3, 2))])
    assert np.array_equal(read_image(tmp_path / "overview.tif"), RGB)


def test_more_pixels_than_the_limit_are_refused(tmp_path):
    Image.fromarray(RGB).save(tmp_path / "a.png")
    with pytest.raises(InputError, match="5x7 .*34"):
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


def packed_png(path, stored, bits, *chunks):
    """A gray PNG file of (H, W) values of 1, 2, 4, 8 or 16 bits."""
    height, width = stored.shape
    places = (stored[:, :, None].astype(np.int64) >> np.arange(bits - 1, -1, -1)) & 1
    rows = np.packbits(places.reshape(height, -1).astype(np.uint8), axis=1)
    pixels = zlib.compress(b"".join(b"\0" + row.tobytes() for row in rows))
    header = struct.pack(">IIBBBBB", width, height, bits, 0, 0, 0, 0)
    write_chunks(path, (b"IHDR", header), *chunks, (b"IDAT", pixels))
    return path


def write_chunks(path, *chunks):
    parts = [b"\x89PNG\r\n\x1a\n"]
    for kind, data in (*chunks, (b"IEND", b"")):
        parts += [struct.pack(">I", len(data)), kind, data]
        parts.append(struct.pack(">I", zlib.crc32(kind + data)))
    path.write_bytes(b"".join(parts))


def values_of(bits):
    values = np.arange(35).reshape(5, 7) % 2 ** min(bits, 4)
    values[2, 3] = 2**bits - 1
    return values


@pytest.mark.parametrize("bits", [1, 2, 4, 8, 16])
def test_gray_png_files_of_any_depth_as_image_and_as_mask(tmp_path, bits):
    stored = values_of(bits)
    path = packed_png(tmp_path / "a.png", stored, bits)
    meant = stored * (255 // (2**bits - 1)) if bits < 8 else stored
    image = read_image(path)
    assert image.dtype == (np.uint16 if bits == 16 else np.uint8)
    assert np.array_equal(image[:, :, 0], meant)
    assert np.array_equal(read_mask_values(path), stored)


@pytest.mark.parametrize("bits", [1, 2, 4, 8, 16])
def test_the_transparent_color_of_a_gray_png_is_alpha_of_an_image_and_a_label_of_a_mask(
    tmp_path, bits
):
    stored = values_of(bits)
    path = packed_png(tmp_path / "a.png", stored, bits, (b"tRNS", struct.pack(">H", 1)))
    image = decode_image(path)
    full = 65535 if bits == 16 else 255
    assert image.alpha
    assert np.array_equal(image.values[:, :, 1], np.where(stored == 1, 0, full))
    mask = decode_mask(path)
    assert np.array_equal(mask.values, stored)
    assert not mask.alpha_varies


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_the_transparent_color_of_an_rgb_png_is_alpha(tmp_path, dtype):
    values = RGB.astype(dtype) * (257 if dtype is np.uint16 else 1)
    depth = 8 * values.itemsize
    rows = [b"\0" + row.astype(f">u{values.itemsize}").tobytes() for row in values]
    color = struct.pack(">HHH", *values[2, 3].tolist())
    write_chunks(
        tmp_path / "a.png",
        (b"IHDR", struct.pack(">IIBBBBB", 7, 5, depth, 2, 0, 0, 0)),
        (b"tRNS", color),
        (b"IDAT", zlib.compress(b"".join(rows))),
    )
    image = decode_image(tmp_path / "a.png")
    assert np.array_equal(image.values[:, :, :3], values)
    expected = np.full((5, 7), np.iinfo(dtype).max)
    expected[2, 3] = 0
    assert np.array_equal(image.values[:, :, 3], expected)


@pytest.mark.parametrize("mode", ["LA", "RGBA"])
@pytest.mark.parametrize("alpha", ["opaque", "varies"])
def test_alpha_of_a_mask_is_left_out_and_whether_it_varies_is_known(tmp_path, mode, alpha):
    colors = RGB if mode == "RGBA" else RGB[:, :, :1]
    opacity = np.full((5, 7), 255, np.uint8)
    if alpha == "varies":
        opacity[0, 0] = 0
    Image.fromarray(np.dstack([colors, opacity])).save(tmp_path / "m.png")
    mask = decode_mask(tmp_path / "m.png")
    assert np.array_equal(mask.values, colors.squeeze())
    assert mask.alpha_varies == (alpha == "varies")
    image = decode_image(tmp_path / "m.png")
    assert image.alpha
    assert np.array_equal(image.values, np.dstack([colors, opacity]))


@pytest.mark.parametrize("orientation", [1, 3, 6])
def test_an_indexed_png_mask_gives_indices_and_colors_upright(tmp_path, orientation):
    stored = values_of(4).astype(np.uint8)
    colors = np.random.default_rng(0).integers(0, 256, (16, 3), dtype=np.uint8)
    image = Image.fromarray(stored)
    image.putpalette(colors.tobytes())
    exif = Image.Exif()
    exif[0x0112] = orientation
    image.save(tmp_path / "m.png", exif=exif)
    mask = decode_mask(tmp_path / "m.png")
    expected = {1: stored, 3: stored[::-1, ::-1], 6: np.rot90(stored, -1)}[orientation]
    assert np.array_equal(mask.values, expected)
    assert np.array_equal(mask.palette[:16], colors)


def test_floats_and_bands_of_arrays_have_no_alpha():
    with pytest.raises(InputError, match="has 2 channels"):
        to_channels(np.zeros((3, 4, 2), np.float32), 1)
    assert to_channels(np.zeros((3, 4, 2), np.uint8), 1).shape == (3, 4, 1)
    with pytest.raises(InputError, match="4 channels, .*alpha"):
        to_channels(np.zeros((3, 4, 4), np.uint8), 3, alpha=False)


# Bombs: the size is judged before anything is decoded.

TOO_LARGE = 30000


def png_bomb(path):
    row = bytes(TOO_LARGE + 1)
    pack = zlib.compressobj(1)
    pixels = b"".join([pack.compress(row * 100) for _ in range(TOO_LARGE // 100)] + [pack.flush()])
    header = struct.pack(">IIBBBBB", TOO_LARGE, TOO_LARGE, 8, 0, 0, 0, 0)
    write_chunks(path, (b"IHDR", header), (b"IDAT", pixels))


def tiff_bomb(path):
    tags = [(256, 4, 1, TOO_LARGE), (257, 4, 1, TOO_LARGE), (258, 3, 1, 8), (259, 3, 1, 5)]
    tags += [(262, 3, 1, 1), (273, 4, 1, 200), (277, 3, 1, 1), (279, 4, 1, 100)]
    directory = b"".join(struct.pack("<HHII", *tag) for tag in tags)
    head = struct.pack("<2sHIH", b"II", 42, 8, len(tags)) + directory + bytes(4)
    path.write_bytes(head.ljust(300, b"\0"))


def bmp_bomb(path):
    size = (TOO_LARGE, TOO_LARGE)
    header = struct.pack("<IiiHHIIiiII", 40, *size, 1, 24, 0, 0, 0, 0, 0, 0)
    path.write_bytes(b"BM" + struct.pack("<IHHI", 154, 0, 0, 54) + header + bytes(100))


def jpeg_bomb(path):
    Image.fromarray(RGB).save(path)
    data = bytearray(path.read_bytes())
    place = data.index(b"\xff\xc0")
    data[place + 5 : place + 9] = struct.pack(">HH", TOO_LARGE, TOO_LARGE)
    path.write_bytes(data)


@pytest.mark.parametrize("read", [read_image, read_mask_values, image_mode])
@pytest.mark.parametrize(
    ("name", "write"),
    [("a.png", png_bomb), ("a.tif", tiff_bomb), ("a.bmp", bmp_bomb), ("a.jpg", jpeg_bomb)],
)
@pytest.mark.slow_except("read_image")
def test_bombs_are_refused_without_memory(tmp_path, read, name, write):
    write(tmp_path / name)
    tracemalloc.start()
    with pytest.raises(InputError, match=f"{name}: 30000x30000"):
        read(tmp_path / name)
    assert tracemalloc.get_traced_memory()[1] < 2**24
    tracemalloc.stop()


@pytest.mark.parametrize("read", [read_image, read_mask_values])
@pytest.mark.parametrize("kind", [0, 2])
def test_a_png_of_too_few_bytes_for_its_pixels_is_refused(tmp_path, read, kind):
    header = struct.pack(">IIBBBBB", 20000, 20000, 8, kind, 0, 0, 0)
    write_chunks(tmp_path / "a.png", (b"IHDR", header), (b"IDAT", zlib.compress(b"")))
    with pytest.raises(InputError, match="damaged or truncated .* bytes cannot hold 20000x20000"):
        read(tmp_path / "a.png")


@pytest.mark.parametrize("chunk", [b"zTXt", b"iCCP"])
def test_compressed_texts_and_profiles_are_not_unpacked_without_limit(tmp_path, chunk):
    bomb = b"a\0\0" + zlib.compress(bytes(50_000_000))
    packed_png(tmp_path / "a.png", values_of(8), 8, (chunk, bomb))
    tracemalloc.start()
    with pytest.raises(InputError, match="damaged or truncated"):
        read_image(tmp_path / "a.png")
    assert tracemalloc.get_traced_memory()[1] < 2**24
    tracemalloc.stop()


def test_the_size_of_a_whole_png_is_read_without_its_pixels(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (300, 400), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "a.png")
    data = (tmp_path / "a.png").read_bytes()
    (tmp_path / "a.png").write_bytes(data[: len(data) // 4])
    assert image_mode(tmp_path / "a.png") == ("gray", (300, 400))


def test_formats_that_are_not_asked_for_are_not_tried(tmp_path):
    (tmp_path / "a.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n")
    with pytest.raises(InputError, match="not an image"):
        read_image(tmp_path / "a.png")
