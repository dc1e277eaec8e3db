import numpy as np
import pytest
from PIL import Image

from kanseg.data.folder import Sample
from kanseg.data.info import LabelInfo
from kanseg.data.labels import read_label
from kanseg.errors import InputError


def sample(tmp_path, values):
    Image.fromarray(np.asarray(values, np.uint8)).save(tmp_path / "m.png")
    return Sample("m", tmp_path / "i.png", tmp_path / "m.png")


def test_indices_are_kept_and_255_is_ignored(tmp_path):
    info = LabelInfo("multiclass", ("a", "b", "c"))
    assert read_label(sample(tmp_path, [[0, 1], [2, 255]]), info).tolist() == [[0, 1], [2, 255]]


def test_values_are_mapped(tmp_path):
    info = LabelInfo("binary", ("a", "b"), mask_values={0: 0, 255: 1})
    assert read_label(sample(tmp_path, [[0, 255]]), info).tolist() == [[0, 1]]


def test_another_ignored_index_becomes_255(tmp_path):
    info = LabelInfo("multiclass", ("a", "b"), ignore_index=11)
    assert read_label(sample(tmp_path, [[1, 11]]), info).tolist() == [[1, 255]]


def test_values_can_be_mapped_to_ignored(tmp_path):
    info = LabelInfo("binary", ("a", "b"), mask_values={0: 0, 128: 255, 255: 1})
    assert read_label(sample(tmp_path, [[0, 128, 255]]), info).tolist() == [[0, 255, 1]]


def test_colours_are_mapped_by_the_palette(tmp_path):
    info = LabelInfo("multiclass", ("a", "b"), palette=((0, 0, 0), (9, 8, 7)))
    assert read_label(sample(tmp_path, [[[0, 0, 0], [9, 8, 7]]]), info).tolist() == [[0, 1]]
    with pytest.raises(InputError, match=r"colour \[1, 1, 1\] at row 0, column 1"):
        read_label(sample(tmp_path, [[[0, 0, 0], [1, 1, 1]]]), info)


def test_a_void_colour_stands_at_the_ignored_index(tmp_path):
    info = LabelInfo(
        "multiclass", ("a", "b"), ignore_index=2, palette=((0, 0, 0), (9, 8, 7), (5, 5, 5))
    )
    assert read_label(sample(tmp_path, [[[0, 0, 0], [5, 5, 5]]]), info).tolist() == [[0, 255]]
    assert info.colours == [(0, 0, 0), (9, 8, 7)]


def test_sixteen_bit_masks_are_mapped(tmp_path):
    Image.fromarray(np.array([[0, 65535, 300]], np.uint16)).save(tmp_path / "m.png")
    info = LabelInfo("binary", ("a", "b"), mask_values={0: 0, 65535: 1, 300: 255})
    assert read_label(Sample("m", tmp_path / "i.png", tmp_path / "m.png"), info).tolist() == [
        [0, 1, 255]
    ]


def test_a_value_out_of_range_is_named_with_its_place_and_number(tmp_path):
    info = LabelInfo("multiclass", ("a", "b", "c"))
    with pytest.raises(
        InputError,
        match=(
            r"m\.png: value 7 at row 1, column 0 \(2 pixels in all\) is no class; expected 0\.\.2"
            r" or 255"
        ),
    ):
        read_label(sample(tmp_path, [[0, 1], [7, 9]]), info)


def test_a_missing_mask_is_named(tmp_path):
    with pytest.raises(InputError, match=r"the picture has no mask masks/m\.png"):
        read_label(Sample("m", tmp_path / "i.png", None), LabelInfo("binary", ("a", "b")))


def test_a_colour_mask_without_palette_is_refused(tmp_path):
    with pytest.raises(InputError, match="palette"):
        read_label(sample(tmp_path, [[[0, 0, 0]]]), LabelInfo("binary", ("a", "b")))
