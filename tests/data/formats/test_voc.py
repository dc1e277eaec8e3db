import numpy as np
import pytest
from PIL import Image

from kanseg.config import DataConfig
from kanseg.data import (
    check_samples,
    open_data,
    read_folder,
    read_label,
    read_voc,
    write_png,
)
from kanseg.data.io.colors import voc_palette
from kanseg.utils.errors import InputError

INDICES = np.array([[0, 1, 20], [15, 255, 0]], np.uint8)


@pytest.fixture
def root(tmp_path):
    for folder in ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation"):
        (tmp_path / folder).mkdir(parents=True)
    for name in ("a", "b", "c"):
        Image.fromarray(np.zeros((2, 3, 3), np.uint8)).save(tmp_path / "JPEGImages" / f"{name}.jpg")
    write_png(tmp_path / "SegmentationClass" / "a.png", INDICES, palette=voc_palette())
    write_png(tmp_path / "SegmentationClass" / "b.png", np.array(voc_palette(), np.uint8)[INDICES])
    for split, names in (("train", "a"), ("val", "b"), ("trainval", "a\nb")):
        (tmp_path / "ImageSets" / "Segmentation" / f"{split}.txt").write_text(names + "\n")
    return tmp_path


def test_indices_and_colors_mean_the_same(root):
    found = read_voc(root)
    assert (
        len(found.label_spec.classes),
        found.label_spec.classes[15],
        found.label_spec.classes[20],
    ) == (
        21,
        "person",
        "tvmonitor",
    )
    for split in ("train", "val"):
        assert np.array_equal(read_label(found.samples(split)[0], found.label_spec), INDICES)
    assert found.label_spec.colors[1] == (128, 0, 0)


def test_images_without_a_mask_are_no_fault_unless_a_list_names_them(root):
    found = read_voc(root)
    assert {k: [s.name for s in v] for k, v in found.splits.items()} == {
        "train": ["a"],
        "trainval": ["a", "b"],
        "val": ["b"],
    }
    assert not check_samples(found.samples(["train", "val"]), found.label_spec).faults
    (root / "ImageSets" / "Segmentation" / "test.txt").write_text("c\n")
    again = read_voc(root)
    assert "has no mask" in next(
        iter(check_samples(again.samples("test"), again.label_spec).faults.values())
    )


def test_it_is_found_by_itself(root):
    lines = []
    assert (
        open_data(DataConfig(root=str(root)), log=lines.append).label_spec.classes[1] == "aeroplane"
    )
    assert any("VOC" in line for line in lines)


def test_other_classes_can_be_given(root):
    classes = [f"c{i}" for i in range(30)]
    assert read_voc(root, {"classes": classes}).label_spec.classes == tuple(classes)


def test_faults_of_a_list_are_reported_when_it_is_asked_for(root):
    (root / "ImageSets" / "Segmentation" / "val.txt").write_text("nobody\n")
    with pytest.raises(InputError, match="no image in JPEGImages/"):
        read_voc(root).samples("val")


def test_the_folder_form_takes_its_colors_by_name(root):
    (root / "JPEGImages").rename(root / "images")
    (root / "images" / "c.jpg").unlink()
    (root / "SegmentationClass").rename(root / "masks")
    (root / "train.txt").write_text("a\nb\n")
    (root / "dataset.yaml").write_text(
        f"classes: [{', '.join(f'c{i}' for i in range(21))}]\npalette: voc\n"
    )
    found = read_folder(root)
    for sample in found.samples("train"):
        assert np.array_equal(read_label(sample, found.label_spec), INDICES)


def test_folders_that_are_not_there_are_named(tmp_path):
    with pytest.raises(InputError, match="JPEGImages/ and SegmentationClass/"):
        read_voc(tmp_path)
