import os
import random
import socket
import struct
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from kanseg.data.io.decode_errors import decoder_errors, require_regular_file
from kanseg.data.io.images import read_image, read_mask_values
from kanseg.data.io.probe import probe_image, probe_mask
from kanseg.inference.sources import open_image
from kanseg.utils.errors import InputError

RGB = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)


@pytest.mark.parametrize(
    "error",
    [
        struct.error("unpack"),
        KeyError(258),
        TypeError("x"),
        AttributeError("x"),
        ZeroDivisionError(),
        RecursionError(),
        AssertionError(),
        Image.DecompressionBombError("strips"),
        OSError("cut off"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_whatever_a_decoder_raises_is_an_input_error_that_names_the_file(error):
    with (
        pytest.raises(InputError, match=r"a\.tif: .*damaged or truncated"),
        decoder_errors("a.tif"),
    ):
        raise error


def test_memory_is_reported_as_such_and_what_is_no_error_of_the_decoder_passes():
    with pytest.raises(InputError, match="more memory"), decoder_errors("a.tif"):
        raise MemoryError
    with pytest.raises(InputError, match="^mine$"), decoder_errors("a.tif"):
        raise InputError("mine")
    with pytest.raises(KeyboardInterrupt), decoder_errors("a.tif"):
        raise KeyboardInterrupt


def pipe(path):
    os.mkfifo(path)


def local_socket(path):
    here = Path.cwd()
    os.chdir(path.parent)  # the path of a socket is short
    try:
        with socket.socket(socket.AF_UNIX) as one:
            one.bind(path.name)
    finally:
        os.chdir(here)


def link_to_itself(path):
    path.symlink_to(path.name)


THINGS = {
    "a named pipe": pipe,
    "a socket": local_socket,
    "a folder": lambda path: path.mkdir(),
    "a device": lambda path: path.symlink_to("/dev/zero"),
    "no such file": link_to_itself,
}


@pytest.mark.parametrize("kind", THINGS)
@pytest.mark.parametrize("name", ["x.png", "x.tif"])
def test_what_is_no_regular_file_is_named_without_opening_it(tmp_path, kind, name):
    path = tmp_path / name
    THINGS[kind](path)
    for read in (require_regular_file, read_image, read_mask_values):
        with pytest.raises(InputError, match=f"{name}: .*{kind}"):
            read(path)
    with pytest.raises(InputError, match=kind):
        open_image(path, max_pixels=10**6, large=10)
    assert probe_image(path, 10**6).fault[0] in ("unreadable", "missing")
    assert probe_mask(path, 10**6).fault[0] in ("unreadable", "missing")


def tiffs(folder):
    options = {
        "rgb": (RGB, {"photometric": "rgb"}),
        "lzw": (RGB, {"photometric": "rgb", "compression": "lzw"}),
        "float": (RGB.astype(np.float32), {"photometric": "rgb"}),
        "tiles": (RGB[:, :, 0], {"tile": (16, 16), "compression": "zlib", "predictor": True}),
        "deep": (RGB.astype(np.uint16) * 257, {"photometric": "rgb"}),
    }
    for name, (values, more) in options.items():
        tifffile.imwrite(folder / f"{name}.tif", values, **more)
        yield bytearray((folder / f"{name}.tif").read_bytes())


def damaged_tiffs(folder, count, seed=0):
    """Files with one flipped bit in a tag, with zeros, and cut off."""
    rng = random.Random(seed)
    whole = list(tiffs(folder))
    for number in range(count):
        data = bytearray(rng.choice(whole))
        (start,) = struct.unpack_from("<I", data, 4)
        (tags,) = struct.unpack_from("<H", data, start)
        if number % 3 == 0:
            data[rng.randrange(start, start + 2 + 12 * tags)] ^= 1 << rng.randrange(8)
        elif number % 3 == 1:
            place = rng.randrange(min(len(data), 400))
            data[place : place + 16] = bytes(min(16, len(data) - place))
        else:
            data = data[: rng.randrange(1, len(data))]
        path = folder / "x.tif"
        path.write_bytes(data)
        yield path


@pytest.mark.parametrize("large", [0, 10**6], ids=["windows", "whole"])
def test_a_damaged_tiff_is_read_or_named_and_nothing_else(tmp_path, large):
    named = 0
    for path in damaged_tiffs(tmp_path, 90):
        try:
            image = open_image(path, max_pixels=10**6, large=large)
            image.read(0, 0, *image.shape)
            image.close()
        except InputError as error:
            named += 1
            assert str(path) in str(error)
        probe_image(path, 10**6)
        probe_mask(path, 10**6)
    assert named > 20


def test_nothing_is_written_on_stderr_about_damaged_files(tmp_path, capfd):
    for path in damaged_tiffs(tmp_path, 30, seed=1):
        probe_image(path, 10**6)
    Image.fromarray(RGB).save(tmp_path / "a.png")
    data = (tmp_path / "a.png").read_bytes()
    (tmp_path / "a.png").write_bytes(data[:60])
    probe_image(tmp_path / "a.png", 10**6)
    assert capfd.readouterr().err == ""
