import hashlib
from pathlib import Path

import numpy as np
import pytest

from kanseg.data.io.rasterize import Annotation, Region
from kanseg.data.sample import Sample
from kanseg.data.splits.record import (
    NOTHING,
    Content,
    SplitRecord,
    file_digest,
    mask_digest,
    name_of,
    read_record,
    unit_of,
)
from kanseg.utils.errors import InputError


def content(number):
    return Content(f"{number:016x}", f"{number + 1000:016x}")


def members(*numbers):
    return {f"images/{number}.png": content(number) for number in numbers}


def record(**options):
    splits = {"train": members(3, 0, 2, 1), "val": members(4, 5), "test": members(6, 7)}
    return SplitRecord(splits, **options)


def test_a_record_is_read_back_equal_and_a_damaged_one_named(tmp_path):
    one = record(earlier=(("images/9.png", content(9)), ("images/9.png", content(8))))
    (tmp_path / "split.json").write_text(one.to_json(), encoding="utf-8")
    assert read_record(tmp_path) == one
    assert list(read_record(tmp_path).splits["train"]) == list(one.splits["train"])
    for text in ("", "[]", "{}", one.to_json()[:-30], one.to_json().replace('"masks"', '"mask"')):
        (tmp_path / "split.json").write_text(text, encoding="utf-8")
        with pytest.raises(InputError, match="damaged"):
            read_record(tmp_path)
    (tmp_path / "split.json").unlink()
    assert read_record(tmp_path) is None


def test_two_hundred_thousand_samples_take_about_ten_megabytes():
    many = {f"images/{number:06d}.png": content(number) for number in range(200_000)}
    assert len(SplitRecord({"train": many}).to_json()) < 12e6


def test_the_digest_is_blake2b_of_the_bytes(tmp_path):
    data = np.random.default_rng(0).bytes(3_000_000)
    (tmp_path / "a").write_bytes(data)
    assert file_digest(tmp_path / "a") == hashlib.blake2b(data, digest_size=8).hexdigest()
    ends = b"3000000" + data[:65536] + data[-65536:]
    sampled = file_digest(tmp_path / "a", ends_only=True)
    assert sampled == hashlib.blake2b(ends, digest_size=8).hexdigest()
    assert file_digest(tmp_path / "b") == NOTHING


def test_the_digest_of_shapes_covers_all_that_is_drawn():
    square = [np.array([[0.0, 0], [4, 0], [4, 4]])]
    one = Annotation(Path("a.json"), 1, (8, 8), (Region(1, square, 8.0),))
    other_file = Annotation(Path("b.json"), 7, (8, 8), (Region(1, square, 8.0),))
    moved = Annotation(Path("a.json"), 1, (8, 8), (Region(1, [square[0] + 1], 8.0),))
    crowd = Annotation(Path("a.json"), 1, (8, 8), (Region(1, square, 8.0, crowd=True),))
    runs = Annotation(
        Path("a.json"), 1, (8, 8), (Region(1, {"size": [8, 8], "counts": [64]}, 8.0),)
    )
    assert mask_digest(one) == mask_digest(other_file)
    assert len({mask_digest(each) for each in (one, moved, crowd, runs, None)}) == 5


def test_names_are_below_the_root_and_the_same_on_every_system():
    root = Path("somewhere/set")
    assert name_of(root / "images" / "a\u0308.png", root) == "images/\u00e4.png"
    assert unit_of(Sample("a", root / "train" / "images" / "a.b.png"), root) == "train/images/a.b"
