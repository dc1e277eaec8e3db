import io

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from kanseg.data import read_image
from kanseg.data.io.fast_decode import read_fast
from kanseg.data.io.images import read_mask_values

LIMIT = 10**6
RNG = np.random.default_rng(0)
GRAY, COLOR = (
    RNG.integers(0, 256, (20, 30), dtype=np.uint8),
    RNG.integers(0, 256, (20, 30, 3), dtype=np.uint8),
)


def written(folder, image, name="x.png", **options):
    image = Image.fromarray(image) if isinstance(image, np.ndarray) else image
    image.save(folder / name, **options)
    return folder / name


@pytest.mark.parametrize("array", [GRAY, COLOR], ids=["gray", "RGB"])
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("x.png", {}),
        ("x.png", {"dpi": (72, 72)}),
        ("x.jpg", {}),
        ("x.jpg", {"progressive": True, "quality": 50}),
    ],
)
def test_the_values_are_those_of_pil(tmp_path, array, name, options):
    path = written(tmp_path, array, name, **options)
    assert np.array_equal(read_fast(path, LIMIT).squeeze(), np.asarray(Image.open(path)))


def others():
    text = PngImagePlugin.PngInfo()
    text.add_text("Software", "x")
    turned = Image.Exif()
    turned[0x0112] = 6
    palette = Image.fromarray(GRAY % 3).convert("P")
    return {
        "palette": (palette, "x.png", {}),
        "1 bit": (Image.fromarray(GRAY > 99), "x.png", {}),
        "16 bits": (GRAY.astype(np.uint16) * 257, "x.png", {}),
        "gray and alpha": (np.stack([GRAY, GRAY], axis=2), "x.png", {}),
        "RGBA": (np.dstack([COLOR, GRAY]), "x.png", {}),
        "see-through gray": (GRAY, "x.png", {"transparency": 3}),
        "text": (GRAY, "x.png", {"pnginfo": text}),
        "turned PNG": (COLOR, "x.png", {"exif": turned}),
        "turned JPEG": (COLOR, "x.jpg", {"exif": turned}),
        "CMYK": (Image.fromarray(COLOR).convert("CMYK"), "x.jpg", {}),
        "TIFF": (COLOR, "x.tif", {}),
        "BMP": (COLOR, "x.bmp", {}),
    }


@pytest.mark.parametrize("kind", others())
def test_every_other_kind_is_left_to_pil(tmp_path, kind):
    image, name, options = others()[kind]
    assert read_fast(written(tmp_path, image, name, **options), LIMIT) is None


def test_a_palette_file_gives_its_indices_as_a_mask(tmp_path):
    image = Image.fromarray(GRAY % 3)
    image.putpalette([0, 0, 0, 9, 9, 9, 200, 0, 0])
    assert np.array_equal(read_mask_values(written(tmp_path, image)), GRAY % 3)


@pytest.mark.parametrize("format", ["PNG", "JPEG"])
def test_a_file_that_is_cut_off_is_no_image(tmp_path, format):
    buffer = io.BytesIO()
    Image.fromarray(COLOR).save(buffer, format=format)
    for length in (0, 5, 40, 200, len(buffer.getvalue()) - 1):
        (tmp_path / "x").write_bytes(buffer.getvalue()[:length])
        assert read_fast(tmp_path / "x", LIMIT) is None


def test_a_changed_byte_of_the_pixels_of_a_png_is_found(tmp_path):
    path = written(tmp_path, COLOR)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    assert read_fast(path, LIMIT) is None


def test_too_many_pixels_and_no_file_are_left_to_the_caller(tmp_path):
    path = written(tmp_path, COLOR)
    assert read_fast(path, 599) is None
    assert read_fast(path, 600) is not None
    assert read_fast(tmp_path / "none.png", LIMIT) is None
    assert read_image(path).flags.writeable
