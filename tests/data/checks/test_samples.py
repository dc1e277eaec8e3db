import numpy as np
import pytest
from PIL import Image

from kanseg.data import Sample, check_samples, read_folder, read_label
from kanseg.data.io.rasterize import Annotation, Region
from kanseg.data.label_spec import LabelSpec
from kanseg.utils.errors import InputError


def all_samples(folder):
    return [s for samples in folder.splits.values() for s in samples]


def test_all_faults_are_reported_at_once(folder):
    found = read_folder(folder)
    (folder / "masks" / "p00.png").unlink()
    Image.fromarray(np.full((32, 40), 7, np.uint8)).save(folder / "masks" / "p01.png")
    Image.fromarray(np.zeros((3, 3), np.uint8)).save(folder / "masks" / "p02.png")
    (folder / "images" / "p03.png").write_bytes(b"broken")
    again = read_folder(
        folder,
        {"task": "binary", "classes": ["a", "b"], "mask_values": found.label_spec.mask_values},
    )
    report = check_samples(all_samples(again), again.label_spec)
    text = "\n".join(report.faults.values())
    assert len(report.faults) == 4
    assert "p00.png: the image has no mask" in text
    assert "value 7 at row 0" in text
    assert "the mask is 3x3 and the image 32x40" in text
    assert "p03.png: not an image" in text
    assert {s.name for s in report.faults} == {"p00", "p01", "p02", "p03"}


def test_good_samples_are_counted(folder):
    found = read_folder(folder)
    report = check_samples(all_samples(found), found.label_spec)
    assert report.pixels.sum() == 6 * 32 * 40
    assert report.kinds == {"RGB": 6}
    assert report.sizes == {(32, 40): 6}


INFOS = [
    LabelSpec("multiclass", ("a", "b", "c")),
    LabelSpec("multiclass", ("a", "b", "c"), ignore_index=None),
    LabelSpec("multiclass", ("a", "b", "c"), ignore_index=2),
    LabelSpec("binary", ("a", "b"), mask_values={0: 0, 1: 1, 2: 1, 255: 255}),
    LabelSpec("binary", ("a", "b"), mask_values={0: 0, 2: 1, 1: 9, 255: 0}, ignore_index=9),
    LabelSpec("multiclass", ("a", "b", "c"), palette=((0, 0, 0), (1, 1, 1), (2, 2, 2))),
    LabelSpec(
        "multiclass", ("a", "b"), ignore_index=2, palette=((0, 0, 0), (255, 255, 255), (1, 1, 1))
    ),
]


@pytest.mark.parametrize("label_spec", INFOS, ids=range(len(INFOS)))
@pytest.mark.parametrize("color", [False, True])
def test_values_mean_to_the_check_what_they_mean_to_the_reader_of_labels(
    tmp_path, label_spec, color
):
    """Over masks of all subsets of the values 0, 1, 2, 255: a fault where the reader refuses them,
    else the same pixels of each class.
    """
    Image.fromarray(np.arange(24, dtype=np.uint8).reshape(4, 6)).save(tmp_path / "x.png")
    for number in range(1, 16):
        values = [value for bit, value in enumerate((0, 1, 2, 255)) if number >> bit & 1]
        mask = np.resize(np.array(values, np.uint8), (4, 6))
        Image.fromarray(np.stack([mask] * 3, axis=-1) if color else mask).save(tmp_path / "m.png")
        sample = Sample("x", tmp_path / "x.png", tmp_path / "m.png")
        report = check_samples([sample], label_spec)
        try:
            label = read_label(sample, label_spec)
        except InputError:
            assert report.faults
            continue
        counts = np.bincount(label.ravel(), minlength=256)
        if counts[255] == label.size:
            assert "every pixel is ignored" in report.faults[sample]
        else:
            assert report.pixels.tolist() == [*counts[: len(label_spec.classes)], counts[255]]


def test_masks_of_very_many_values_are_read_by_the_reader_of_labels(tmp_path):
    mask = np.arange(1200, dtype=np.uint16).reshape(30, 40)
    Image.fromarray(mask).save(tmp_path / "m.png")
    Image.fromarray(mask.astype(np.uint8)).save(tmp_path / "x.png")
    sample = Sample("x", tmp_path / "x.png", tmp_path / "m.png")
    label_spec = LabelSpec(
        "binary", ("a", "b"), mask_values={value: int(value > 0) for value in range(1200)}
    )
    assert check_samples([sample], label_spec).pixels.tolist() == [1, 1199, 0]
    fault = check_samples([sample], LabelSpec("binary", ("a", "b"))).faults[sample]
    assert "value 2 at row 0, column 2 (1197 pixels" in fault


def test_multilabel_counts_each_class_by_itself(folder):
    masks = np.zeros((2, 32, 40), np.uint8)
    masks[0, :10], masks[1, 5:8], masks[1, 30] = 1, 1, 9
    paths = (folder / "a.png", folder / "b.png")
    for path, mask in zip(paths, masks, strict=True):
        Image.fromarray(mask).save(path)
    spec = LabelSpec("multilabel", ("a", "b", "c"), mask_values={9: 255})
    sample = Sample("p00", folder / "images" / "p00.png", (*paths, None))
    assert check_samples([sample], spec).pixels.tolist() == [400, 120, 0, 40]


def test_a_label_that_cannot_be_read_is_named(folder):
    runs = Region(0, {"size": [32, 40], "counts": [7]})
    objects = Annotation(folder / "a.json", 5, regions=(runs,))
    sample = Sample("p00", folder / "images" / "p00.png", objects)
    fault = check_samples([sample], LabelSpec("multilabel", ("a", "b"))).faults[sample]
    assert "a.json" in fault
    assert "image 5" in fault
    assert "add up" in fault
