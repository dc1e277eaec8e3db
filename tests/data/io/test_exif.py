import struct

import numpy as np
import pytest
from PIL import Image

from kanseg.data.io.exif import apply_orientation, parse_orientation
from kanseg.data.io.images import image_mode, read_image

RGB = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)


def exif(kind, count, value, order="<"):
    head = b"II*\0" if order == "<" else b"MM\0*"
    entry = struct.pack(f"{order}HHI", 0x0112, kind, count) + value.ljust(4, b"\0")
    return head + struct.pack(f"{order}IH", 8, 1) + entry + bytes(4)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("value", range(1, 9))
def test_the_orientation_of_either_byte_order(order, value):
    data = exif(3, 1, struct.pack(f"{order}H", value), order)
    assert parse_orientation(data) == value
    assert parse_orientation(b"Exif\0\0" + data) == value


ODD = {
    "text": exif(2, 4, b"ab\0"),
    "two": exif(3, 2, struct.pack("<HH", 6, 6)),
    "99": exif(3, 1, struct.pack("<H", 99)),
    "0": exif(3, 1, struct.pack("<H", 0)),
    "a fraction": exif(5, 1, b"\xff\0\0\0"),
    "far away": exif(3, 2**30, b"\xff\xff\xff\xff"),
    "garbage": b"\xff" * 30,
    "cut off": exif(3, 1, struct.pack("<H", 6))[:15],
    "empty": b"",
}


@pytest.mark.parametrize("kind", ODD)
@pytest.mark.parametrize("suffix", ["png", "jpg", "webp"])
def test_an_orientation_that_is_none_leaves_the_image_as_it_is(tmp_path, kind, suffix):
    assert parse_orientation(ODD[kind]) is None
    path = tmp_path / f"a.{suffix}"
    head = b"" if suffix == "png" else b"Exif\0\0"
    Image.fromarray(RGB).save(path, exif=head + ODD[kind])
    assert read_image(path).shape == (5, 7, 3)
    assert image_mode(path) == ("RGB", (5, 7))


def test_the_orientation_in_xmp_is_used_as_pil_does(tmp_path):
    xmp = b'<x:xmpmeta><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'
    Image.fromarray(RGB).save(tmp_path / "a.jpg", xmp=xmp)
    assert read_image(tmp_path / "a.jpg").shape == (7, 5, 3)
    assert image_mode(tmp_path / "a.jpg")[1] == (7, 5)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_masks_are_turned_as_images_are(orientation):
    assert np.array_equal(
        apply_orientation(RGB, orientation)[:, :, 1], apply_orientation(RGB[:, :, 1], orientation)
    )
