import numpy as np
import pytest
from PIL import Image

from kanseg.config import DataConfig
from kanseg.data import (
    check_data,
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


LABELMAP = """# label:color_rgb:parts:actions
background:0,0,0::
cell:250,50,83::
rod:51,221,255::
"""
COLORS = np.array([(0, 0, 0), (250, 50, 83), (51, 221, 255)], np.uint8)
FRAMES = [f"frame_{i:06d}" for i in range(6)]


@pytest.fixture
def cvat(tmp_path):
    """An export "Segmentation mask 1.1" of CVAT: masks in the colors of the labels, masks of
    objects, and the only list default.txt.
    """
    for folder in ("JPEGImages", "SegmentationClass", "SegmentationObject"):
        (tmp_path / folder).mkdir()
    (tmp_path / "ImageSets" / "Segmentation").mkdir(parents=True)
    (tmp_path / "labelmap.txt").write_text(LABELMAP)
    (tmp_path / "ImageSets" / "Segmentation" / "default.txt").write_text("\n".join(FRAMES) + "\n")
    for seed, name in enumerate(FRAMES):
        pixels = np.random.default_rng(seed).integers(0, 256, (24, 32, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "JPEGImages" / f"{name}.jpg")
        write_png(tmp_path / "SegmentationClass" / f"{name}.png", COLORS[cvat_mask()])
        objects = np.array(voc_palette(), np.uint8)[cvat_mask()]
        write_png(tmp_path / "SegmentationObject" / f"{name}.png", objects)
    return tmp_path


def cvat_mask():
    mask = np.zeros((24, 32), np.uint8)
    mask[2:10, 3:20] = 1
    mask[12:20, 8:30] = 2
    return mask


def test_an_export_of_cvat_is_read_and_checked(cvat):
    found = open_data(DataConfig(root=str(cvat)), log=lambda _: None)
    assert found.label_spec.classes == ("background", "cell", "rod")
    assert found.split_by_hash
    samples = found.samples(list(found.splits))
    assert sorted(sample.name for sample in samples) == FRAMES
    for sample in samples:
        assert np.array_equal(read_label(sample, found.label_spec), cvat_mask())
    assert check_data(DataConfig(root=str(cvat)), everything=True).issues == []


def test_an_export_without_images_says_what_to_tick(cvat):
    for path in (cvat / "JPEGImages").iterdir():
        path.unlink()
    (cvat / "JPEGImages").rmdir()
    with pytest.raises(InputError, match="tick `Save images`"):
        open_data(DataConfig(root=str(cvat)), log=lambda _: None)


def test_frames_that_cvat_lists_without_a_mask_are_left_out_and_said(cvat):
    (cvat / "SegmentationClass" / f"{FRAMES[2]}.png").unlink()
    found = read_voc(cvat)
    names = {sample.name for sample in found.samples(list(found.splits))}
    assert names == {*FRAMES} - {FRAMES[2]}
    assert any("1 frames without a mask" in note for note in found.notes)


def test_subsets_of_a_project_in_cvat_are_the_splits(cvat):
    lists = cvat / "ImageSets" / "Segmentation"
    (lists / "default.txt").unlink()
    for number, subset in enumerate(("Train", "Validation", "Test")):
        (lists / f"{subset}.txt").write_text("\n".join(FRAMES[2 * number : 2 * number + 2]))
    found = read_voc(cvat)
    assert [len(found.samples(split)) for split in ("train", "val", "test")] == [2, 2, 2]


def test_a_broken_labelmap_is_named(cvat):
    (cvat / "labelmap.txt").write_text("cell;250,50,83\n")
    report = check_data(DataConfig(root=str(cvat)), everything=True)
    assert (report.errors[0].code, report.errors[0].file) == ("settings", "labelmap.txt")
