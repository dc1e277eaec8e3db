import numpy as np
import pytest
import tifffile
from PIL import Image

from kanseg.data.formats.folder import Sample, read_folder
from kanseg.data.label_spec import LabelSpec
from kanseg.data.labels import read_label
from kanseg.utils.errors import InputError


def sample(tmp_path, values):
    Image.fromarray(np.asarray(values, np.uint8)).save(tmp_path / "m.png")
    return Sample("m", tmp_path / "i.png", tmp_path / "m.png")


def test_indices_are_kept_and_255_is_ignored(tmp_path):
    label_spec = LabelSpec("multiclass", ("a", "b", "c"))
    assert read_label(sample(tmp_path, [[0, 1], [2, 255]]), label_spec).tolist() == [
        [0, 1],
        [2, 255],
    ]


def test_values_are_mapped(tmp_path):
    label_spec = LabelSpec("binary", ("a", "b"), mask_values={0: 0, 255: 1})
    assert read_label(sample(tmp_path, [[0, 255]]), label_spec).tolist() == [[0, 1]]


def test_another_ignored_index_becomes_255(tmp_path):
    label_spec = LabelSpec("multiclass", ("a", "b"), ignore_index=11)
    assert read_label(sample(tmp_path, [[1, 11]]), label_spec).tolist() == [[1, 255]]


def test_values_can_be_mapped_to_ignored(tmp_path):
    label_spec = LabelSpec("binary", ("a", "b"), mask_values={0: 0, 128: 255, 255: 1})
    assert read_label(sample(tmp_path, [[0, 128, 255]]), label_spec).tolist() == [[0, 255, 1]]


def test_colors_are_mapped_by_the_palette(tmp_path):
    label_spec = LabelSpec("multiclass", ("a", "b"), palette=((0, 0, 0), (9, 8, 7)))
    assert read_label(sample(tmp_path, [[[0, 0, 0], [9, 8, 7]]]), label_spec).tolist() == [[0, 1]]
    with pytest.raises(InputError, match=r"color \[1, 1, 1\] at row 0, column 1"):
        read_label(sample(tmp_path, [[[0, 0, 0], [1, 1, 1]]]), label_spec)


def test_the_color_of_ignored_pixels_is_at_the_ignored_index(tmp_path):
    label_spec = LabelSpec(
        "multiclass", ("a", "b"), ignore_index=2, palette=((0, 0, 0), (9, 8, 7), (5, 5, 5))
    )
    assert read_label(sample(tmp_path, [[[0, 0, 0], [5, 5, 5]]]), label_spec).tolist() == [[0, 255]]
    assert label_spec.colors == [(0, 0, 0), (9, 8, 7)]


def test_sixteen_bit_masks_are_mapped(tmp_path):
    Image.fromarray(np.array([[0, 65535, 300]], np.uint16)).save(tmp_path / "m.png")
    label_spec = LabelSpec("binary", ("a", "b"), mask_values={0: 0, 65535: 1, 300: 255})
    assert read_label(Sample("m", tmp_path / "i.png", tmp_path / "m.png"), label_spec).tolist() == [
        [0, 1, 255]
    ]


def test_a_value_out_of_range_is_named_with_its_place_and_number(tmp_path):
    label_spec = LabelSpec("multiclass", ("a", "b", "c"))
    with pytest.raises(
        InputError, match=r"m\.png: value 7 at row 1, column 0 \(2 pixels .* 0\.\.2 or 255"
    ):
        read_label(sample(tmp_path, [[0, 1], [7, 9]]), label_spec)


def test_a_missing_mask_is_named(tmp_path):
    with pytest.raises(InputError, match=r"the image has no mask masks/m\.png"):
        read_label(Sample("m", tmp_path / "i.png", None), LabelSpec("binary", ("a", "b")))


def test_a_color_mask_without_palette_is_refused(tmp_path):
    with pytest.raises(InputError, match="palette"):
        read_label(sample(tmp_path, [[[0, 0, 0]]]), LabelSpec("binary", ("a", "b")))


def stored(tmp_path, values, dtype):
    tifffile.imwrite(tmp_path / "m.tif", np.asarray(values, dtype))
    return Sample("m", tmp_path / "i.png", tmp_path / "m.tif")


@pytest.mark.parametrize("dtype", [np.int8, np.int16, np.int32, np.float32])
@pytest.mark.parametrize("values", [{-1: 255}, {-1: 255, 0: 0, 1: 1}])
def test_minus_one_can_be_named_as_ignored(tmp_path, dtype, values):
    one = stored(tmp_path, [[-1, 0, 1]], dtype)
    label_spec = LabelSpec("binary", ("a", "b"), mask_values=values)
    assert read_label(one, label_spec).tolist() == [[255, 0, 1]]


def test_negative_values_can_be_classes(tmp_path):
    one = stored(tmp_path, [[-9999, -1, 7]], np.int16)
    label_spec = LabelSpec("binary", ("a", "b"), mask_values={-9999: 255, -1: 1, 7: 0})
    assert read_label(one, label_spec).tolist() == [[255, 1, 0]]


def test_a_negative_value_without_a_class_is_named(tmp_path):
    one = stored(tmp_path, [[0, -1], [-2, -2]], np.int16)
    with pytest.raises(InputError, match=r"value -1 at row 0, column 1 \(3 pixels in all\)"):
        read_label(one, LabelSpec("binary", ("a", "b")))
    label_spec = LabelSpec("binary", ("a", "b"), mask_values={-1: 255})
    with pytest.raises(InputError, match=r"value -2 .*expected 0\.\.1 or -1, 255 \(ignored\)"):
        read_label(one, label_spec)


def test_a_negative_value_of_a_layer_is_not_taken_for_absent(tmp_path):
    one = stored(tmp_path, [[0, -1, 3]], np.int16)
    layered = Sample("m", one.image, (one.mask,))
    with pytest.raises(InputError, match=r"value -1 .*mask_values, such as \{-1: 255\}"):
        read_label(layered, LabelSpec("multilabel", ("a",), ignore_index=None))
    label_spec = LabelSpec("multilabel", ("a",), mask_values={-1: 255}, ignore_index=None)
    assert read_label(layered, label_spec).tolist() == [[[0, 255, 1]]]


def test_the_ignored_values_are_left_out_when_the_classes_are_read_off_the_masks(tmp_path):
    for name in ("images", "masks"):
        (tmp_path / name).mkdir()
    Image.fromarray(np.zeros((1, 3), np.uint8)).save(tmp_path / "images" / "m.png")
    (tmp_path / "train.txt").write_text("m\n")
    for values, expected in (([-1, 0, 255], [255, 0, 1]), ([-1, 0, 1], [255, 0, 1])):
        tifffile.imwrite(tmp_path / "masks" / "m.tif", np.array([values], np.int16))
        found = read_folder(tmp_path, {"mask_values": {-1: 255}})
        samples = [sample for split in found.splits.values() for sample in split]
        assert found.label_spec.task == "binary"
        assert read_label(samples[0], found.label_spec).tolist() == [expected]


@pytest.mark.parametrize("multilabel", [False, True])
def test_pixels_of_the_image_without_data_are_ignored(tmp_path, multilabel):
    values = np.array([[1, -9999, 2]], np.float32)
    tag = (42113, "s", 0, "-9999", True)
    tifffile.imwrite(tmp_path / "i.tif", values, extratags=[tag])
    Image.fromarray(np.array([[1, 1, 0]], np.uint8)).save(tmp_path / "m.png")
    mask = tmp_path / "m.png"
    if multilabel:
        label_spec = LabelSpec("multilabel", ("a",), ignore_index=None)
        one = Sample("m", tmp_path / "i.tif", (mask,))
        assert read_label(one, label_spec).tolist() == [[[1, 255, 0]]]
    else:
        one = Sample("m", tmp_path / "i.tif", mask)
        assert read_label(one, LabelSpec("binary", ("a", "b"))).tolist() == [[1, 255, 0]]


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_masks_of_few_bits_hold_their_values(tmp_path, bits):
    values = np.array([[0, 1, 1, 0]]) if bits == 1 else np.array([[0, 1, 2, 3]])
    image = Image.fromarray(values.astype(np.uint8))
    image.save(tmp_path / "m.png", bits=bits)
    one = Sample("m", tmp_path / "i.png", tmp_path / "m.png")
    label_spec = LabelSpec("multiclass", ("a", "b", "c", "d"))
    assert read_label(one, label_spec).tolist() == values.tolist()
