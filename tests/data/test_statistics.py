import numpy as np
import pytest
import tifffile
from PIL import Image

from conftest import make_folder
from kanseg.data import (
    LabelSpec,
    Preprocess,
    Sample,
    channel_statistics,
    class_frequencies,
    read_folder,
)
from kanseg.utils.errors import InputError


def test_pixels_are_counted_as_numpy_does(tmp_path):
    root = make_folder(tmp_path / "set", count=5, classes=4, splits=False)
    found = read_folder(root)
    samples = [s for split in found.splits.values() for s in split]
    values = np.concatenate([np.array(Image.open(s.mask)).ravel() for s in samples])
    counts = class_frequencies(samples, found.label_spec)
    assert counts.dtype == np.int64
    assert counts.tolist() == [int((values == c).sum()) for c in range(4)]


def test_ignored_pixels_are_left_out(tmp_path):
    Image.fromarray(np.array([[0, 1, 255], [1, 1, 0]], np.uint8)).save(tmp_path / "m.png")
    sample = Sample("m", tmp_path / "i.png", tmp_path / "m.png")
    assert class_frequencies([sample], LabelSpec("binary", ("a", "b"))).tolist() == [2, 3]


def test_multilabel_counts_absent_and_present(tmp_path):
    Image.fromarray(np.array([[0, 1, 7], [1, 1, 0]], np.uint8)).save(tmp_path / "m.png")
    sample = Sample("m", tmp_path / "i.png", (tmp_path / "m.png", None))
    label_spec = LabelSpec("multilabel", ("a", "b"), ignore_index=7)
    assert class_frequencies([sample, sample], label_spec).tolist() == [[4, 6], [12, 0]]


def test_no_samples_have_no_pixels():
    assert class_frequencies([], LabelSpec("multiclass", ("a", "b", "c"))).tolist() == [0, 0, 0]
    assert class_frequencies([], LabelSpec("multilabel", ("a",))).tolist() == [[0, 0]]


def test_a_mask_that_cannot_be_read_is_named(tmp_path):
    with pytest.raises(InputError, match=r"m\.png: no such file"):
        class_frequencies(
            [Sample("m", tmp_path / "i.png", tmp_path / "m.png")], LabelSpec("binary", ("a", "b"))
        )


def test_floats_of_a_small_unit_keep_their_deviation(tmp_path):
    values = np.random.default_rng(0).normal(3e-7, 1e-7, (16, 16, 1)).astype(np.float32)
    tifffile.imwrite(tmp_path / "i.tif", values[:, :, 0])
    mean, std = channel_statistics(
        [Sample("i", tmp_path / "i.tif", None)], Preprocess(channels=1, floats=True)
    )
    assert mean[0] == pytest.approx(values.mean(), rel=1e-4)
    assert std[0] == pytest.approx(values.std(), rel=1e-4)


@pytest.mark.parametrize("resize", [None, (20, 20)])
def test_pixels_without_data_are_in_no_statistics(tmp_path, resize):
    rng = np.random.default_rng(0)
    samples, values = [], []
    for number in range(3):
        image = rng.normal(-10, 2, (40, 40, 2)).astype(np.float32)
        image[:20, number * 10 : number * 10 + 10] = -9999
        values.append(image[image[:, :, 0] != -9999])
        path = tmp_path / f"{number}.tif"
        tag = (42113, "s", 0, "-9999", True)
        options = {"photometric": "minisblack", "planarconfig": "contig", "extratags": [tag]}
        tifffile.imwrite(path, image, **options)
        mask = tmp_path / f"m{number}.png"
        Image.fromarray(np.ones((40, 40), np.uint8)).save(mask)
        samples.append(Sample(str(number), path, mask))
    preprocess = Preprocess(channels=2, floats=True, resize=resize)
    mean, std = channel_statistics(samples, preprocess)
    pixels = np.concatenate(values)
    if resize is None:
        assert np.allclose(mean, pixels.mean(axis=0), rtol=1e-5)
        assert np.allclose(std, pixels.std(axis=0), rtol=1e-5)
    else:
        assert np.allclose(mean, pixels.mean(axis=0), atol=0.2)
    label_spec = LabelSpec("binary", ("a", "b"))
    assert class_frequencies(samples, label_spec).tolist() == [0, len(pixels)]


def test_a_set_without_any_data_is_named(tmp_path):
    tag = (42113, "s", 0, "0", True)
    tifffile.imwrite(tmp_path / "a.tif", np.zeros((4, 5), np.uint8), extratags=[tag])
    with pytest.raises(InputError, match="no pixel with data"):
        channel_statistics([Sample("a", tmp_path / "a.tif", None)], Preprocess(channels=1))
