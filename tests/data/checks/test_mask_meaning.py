import numpy as np
import pytest
import tifffile
import yaml
from PIL import Image

from conftest import make_folder
from kanseg.config import DataConfig
from kanseg.data import check_data, read_folder
from kanseg.data.labels import read_label

RGB = [(0, 0, 0), (255, 0, 0), (0, 255, 0)]


def indexed(indices, colors):
    image = Image.fromarray(indices.astype(np.uint8))
    image.putpalette([value for color in colors for value in color])
    return image


def dataset(tmp_path, rewrite, *, count=3, suffix=".png", layer="", **entries):
    """A folder whose masks are written by rewrite(path, class indices, number)."""
    root = make_folder(tmp_path / "set", classes=count)
    for number, path in enumerate(sorted((root / "masks").iterdir())):
        label = np.asarray(Image.open(path))
        path.unlink()
        target = root / "masks" / layer / f"{path.stem}{suffix}"
        target.parent.mkdir(exist_ok=True)
        rewrite(target, label, number)
    if entries:
        (root / "dataset.yaml").write_text(yaml.safe_dump(entries))
    return root


def checked(root):
    report = check_data(DataConfig(root=str(root)))
    return report, {issue.code for issue in report.issues}


def labels(root):
    found = read_folder(root)
    samples = sorted((s for split in found.splits.values() for s in split), key=lambda s: s.name)
    return [read_label(sample, found.label_spec) for sample in samples]


def plain_labels(tmp_path, classes=3):
    return labels(make_folder(tmp_path / "plain", classes=classes))


# Order of the colors in a file -> class of each of its indices.
ORDERS = [(0, 1, 2), (2, 1, 0), (1, 2, 0)]


@pytest.mark.parametrize("suffix", [".png", ".tif"])
@pytest.mark.parametrize("order", ORDERS)
def test_indexed_masks_are_read_by_color_where_a_palette_is_given(tmp_path, order, suffix):
    def write(path, label, number):
        indices = np.array([order.index(index) for index in range(3)])[label]
        indexed(indices, [RGB[index] for index in order]).save(path)

    entries = {"classes": ["a", "b", "c"], "palette": [list(color) for color in RGB]}
    root = dataset(tmp_path, write, suffix=suffix, **entries)
    for found, expected in zip(labels(root), plain_labels(tmp_path), strict=True):
        assert np.array_equal(found, expected)
    report, codes = checked(root)
    assert not report.errors
    assert "other_palette" not in codes
    assert any("colors of their palettes" in note for note in report.notes) == (order != (0, 1, 2))
    plain = check_data(DataConfig(root=str(tmp_path / "plain")))
    assert [s.pixels.tolist() for s in report.statistics.values()] == [
        s.pixels.tolist() for s in plain.statistics.values()
    ]


def test_the_void_color_of_an_indexed_mask_is_ignored(tmp_path):
    def write(path, label, number):
        label = label.copy()
        label[0] = 3
        indexed(3 - label, [(9, 9, 9), (0, 255, 0), (255, 0, 0), (0, 0, 0)]).save(path)

    palette = [list(color) for color in RGB] + [[9, 9, 9]]
    root = dataset(tmp_path, write)
    (root / "dataset.yaml").write_text(
        yaml.safe_dump({"classes": ["a", "b", "c"], "palette": palette, "ignore_index": 3})
    )
    for found, expected in zip(labels(root), plain_labels(tmp_path), strict=True):
        assert (found[0] == 255).all()
        assert np.array_equal(found[1:], expected[1:])


def test_a_palette_for_display_leaves_the_indices(tmp_path):
    colors = [(1, 2, 3), (50, 60, 70), (80, 90, 99)]
    entries = {"classes": ["a", "b", "c"], "palette": [list(color) for color in RGB]}
    root = dataset(tmp_path, lambda p, label, _: indexed(label, colors).save(p), **entries)
    for found, expected in zip(labels(root), plain_labels(tmp_path), strict=True):
        assert np.array_equal(found, expected)
    report, codes = checked(root)
    assert not report.errors
    assert "other_palette" in codes


def test_colors_that_contradict_the_indices_are_refused(tmp_path):
    colors = [(255, 0, 0), (0, 0, 0), (80, 90, 99)]
    entries = {"classes": ["a", "b", "c"], "palette": [list(color) for color in RGB]}
    root = dataset(tmp_path, lambda p, label, _: indexed(label, colors).save(p), **entries)
    with pytest.raises(ValueError, match="index 0 has the color .255, 0, 0. of class 'b'"):
        labels(root)
    report, _ = checked(root)
    assert {issue.code for issue in report.errors} == {"colors_contradict"}


def test_mask_values_keep_the_indices(tmp_path):
    colors = [(255, 0, 0), (0, 0, 0), (0, 255, 0)]
    entries = {"classes": ["a", "b", "c"], "palette": [list(color) for color in RGB]}
    entries["mask_values"] = {0: 0, 1: 1, 2: 2}
    root = dataset(tmp_path, lambda p, label, _: indexed(label, colors).save(p), **entries)
    for found, expected in zip(labels(root), plain_labels(tmp_path), strict=True):
        assert np.array_equal(found, expected)


def quantized(path, label, number):
    indexed(1 - label, [(255, 255, 255), (0, 0, 0)]).save(path)


def white_is_zero(path, label, number):
    tifffile.imwrite(path, 1 - label, photometric="miniswhite")


@pytest.mark.parametrize(("write", "suffix"), [(quantized, ".png"), (white_is_zero, ".tif")])
def test_white_at_0_is_reported_with_the_hint(tmp_path, write, suffix):
    root = dataset(tmp_path, write, count=2, suffix=suffix)
    report, _ = checked(root)
    reasons = [issue.reason for issue in report.issues if issue.code == "white_at_0"]
    assert len(reasons) == 1
    assert "mask_values, such as {0: 1, 1: 0}" in reasons[0]
    entries = {"classes": ["a", "b"], "mask_values": {0: 1, 1: 0}}
    (root / "dataset.yaml").write_text(yaml.safe_dump(entries))
    for found, expected in zip(labels(root), plain_labels(tmp_path, classes=2), strict=True):
        assert np.array_equal(found, expected)
    assert "white_at_0" not in checked(root)[1]


def test_black_at_0_is_not_reported(tmp_path):
    colors = [(0, 0, 0), (255, 255, 255)]
    root = dataset(tmp_path, lambda p, label, _: indexed(label, colors).save(p), count=2)
    assert checked(root)[1].isdisjoint({"white_at_0", "palettes_differ", "mask_alpha"})


def test_palettes_that_differ_from_file_to_file_are_reported(tmp_path):
    def write(path, label, number):
        order = ORDERS[number % 3]
        indices = np.array([order.index(index) for index in range(3)])[label]
        indexed(indices, [RGB[index] for index in order]).save(path)

    assert "palettes_differ" in checked(dataset(tmp_path, write))[1]


def alpha_only(mode, value):
    def write(path, label, number):
        channels = [np.full_like(label, value)] * (1 if mode == "LA" else 3)
        Image.fromarray(np.dstack([*channels, label * 255])).save(path)

    return write


@pytest.mark.parametrize("mode", ["LA", "RGBA"])
@pytest.mark.parametrize("value", [0, 255])
@pytest.mark.parametrize("layer", ["", "0"])
def test_a_label_in_the_alpha_channel_is_reported(tmp_path, mode, value, layer):
    more = {"classes": ["a", "b"], "palette": [[0, 0, 0], [255, 255, 255]]}
    entries = more if mode == "RGBA" and not layer else {}
    root = dataset(tmp_path, alpha_only(mode, value), count=2, layer=layer, **entries)
    report, codes = checked(root)
    assert "mask_alpha" in codes
    everywhere = value == 255 and (bool(layer) or mode == "RGBA" or not entries)
    assert ("class_everywhere" in codes) == everywhere


def test_a_class_that_fills_every_image_is_reported_and_one_that_fills_some_not(tmp_path):
    def write(path, label, number):
        Image.fromarray(np.ones_like(label) if number else label).save(path)

    entries = {"classes": ["a", "b"]}
    assert "class_everywhere" not in checked(dataset(tmp_path, write, count=2, **entries))[1]
    for path in (tmp_path / "set" / "masks").iterdir():
        Image.fromarray(np.ones((32, 40), np.uint8)).save(path)
    assert "class_everywhere" in checked(tmp_path / "set")[1]
