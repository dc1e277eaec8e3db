import numpy as np
import pytest
from PIL import Image

from kanseg.config import DataConfig
from kanseg.data import check_data, open_data, read_label
from kanseg.data.formats.yolo import read_yolo
from kanseg.utils.errors import InputError

SIZE = (24, 32)
SPLITS = ("train", "val", "test")
# A square of 8x4 pixels at column 2, row 1; a triangle that reaches over the border.
LINES = "0 0.0625 0.041667 0.3125 0.041667 0.3125 0.208333 0.0625 0.208333\n"
YAML = """path: ../datasets/cells  # of another computer
train: images/train
val: images/val
test: images/test
names:
  0: cell
  1: rod
"""


def image(path, seed):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (*SIZE, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


def label(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def truth():
    mask = np.zeros(SIZE, np.uint8)
    mask[1:5, 2:10] = 1
    mask[12:18, 16:24] = 2
    return mask


ROD = "1 0.5 0.5 0.75 0.5 0.75 0.75 0.5 0.75\n"


def make(root, images="images/{split}", labels="labels/{split}"):
    for number, split in enumerate(SPLITS):
        for index in range(2):
            name = f"{split}{index}"
            image(root / images.format(split=split) / f"{name}.jpg", 2 * number + index)
            label(root / labels.format(split=split) / f"{name}.txt", LINES + ROD)
    return root


@pytest.fixture
def root(tmp_path):
    (tmp_path / "data.yaml").write_text(YAML)
    return make(tmp_path)


def names(index):
    return {split: [sample.name for sample in some] for split, some in index.splits.items()}


EXPECTED = {split: [f"{split}0", f"{split}1"] for split in SPLITS}


def test_the_form_of_ultralytics_is_found_read_and_checked(root):
    lines = []
    index = open_data(DataConfig(root=str(root)), log=lines.append)
    assert any("YOLO" in line for line in lines)
    assert index.label_spec.classes == ("background", "cell", "rod")
    assert names(index) == EXPECTED
    for split in SPLITS:
        for sample in index.samples(split):
            assert np.array_equal(read_label(sample, index.label_spec), truth())
    report = check_data(DataConfig(root=str(root)), everything=True)
    assert report.issues == []


def test_the_form_of_roboflow(tmp_path):
    make(tmp_path, "{split}/images", "{split}/labels")
    (tmp_path / "val").rename(tmp_path / "valid")
    (tmp_path / "data.yaml").write_text(
        "train: ../train/images\nval: ../valid/images\ntest: ../test/images\n\n"
        "nc: 2\nnames: ['cell', 'rod']\n"
    )
    assert names(read_yolo(tmp_path)) == EXPECTED


def test_a_test_split_that_roboflow_names_without_having_it_is_left_out(tmp_path):
    make(tmp_path, "{split}/images", "{split}/labels")
    (tmp_path / "data.yaml").write_text(
        "train: ../train/images\nval: ../val/images\ntest: ../testing/images\nnames: [cell, rod]\n"
    )
    index = read_yolo(tmp_path)
    assert list(index.splits) == ["train", "val"]
    assert any("testing/images" in note for note in index.notes)


def test_lists_of_images_as_cvat_writes_them(root):
    lines = [f"data/images/train/train{i}.jpg" for i in range(2)]
    (root / "train.txt").write_text("\n".join(lines))
    (root / "data.yaml").write_text(
        "path: .\ntrain: train.txt\nval: [images/val, images/test]\nnames: {0: cell, 1: rod}\n"
    )
    assert names(read_yolo(root)) == {
        "train": EXPECTED["train"],
        "val": EXPECTED["val"] + EXPECTED["test"],
    }


def test_a_dataset_yaml_of_ultralytics_is_not_one_of_kanseg(root):
    (root / "data.yaml").rename(root / "dataset.yaml")
    assert open_data(DataConfig(root=str(root)), log=lambda _: None).label_spec.classes[1] == "cell"


def test_the_export_of_label_studio_has_classes_txt_and_no_splits(tmp_path):
    make(tmp_path, "images", "labels")
    (tmp_path / "classes.txt").write_text("cell\nrod\n")
    (tmp_path / "notes.json").write_text('{"categories": []}')
    index = open_data(DataConfig(root=str(tmp_path)), log=lambda _: None)
    assert index.split_by_hash
    assert index.label_spec.classes == ("background", "cell", "rod")
    assert sum(len(some) for some in index.splits.values()) == 6


def test_classes_that_nothing_names_are_numbered_and_said(tmp_path):
    make(tmp_path, "images", "labels")
    index = read_yolo(tmp_path)
    assert index.label_spec.classes == ("background", "class_0", "class_1")
    assert any("numbered" in note for note in index.notes)


def test_images_without_a_label_file_have_no_object_and_are_said(root):
    (root / "labels" / "train" / "train0.txt").unlink()
    (root / "labels" / "train" / "train1.txt").write_text("")
    index = read_yolo(root)
    for sample in index.samples("train"):
        assert not read_label(sample, index.label_spec).any()
    assert any("1 images have no label file" in note for note in index.notes)


def test_boxes_are_refused_with_one_message(root):
    for path in root.glob("labels/*/*.txt"):
        path.write_text("0 0.5 0.5 0.25 0.25\n")
    with pytest.raises(InputError, match=r"test0\.txt: line 1 is a box .*5 other files alike"):
        read_yolo(root)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("0 0.5 0.5 0.25 0.25", "line 2 is a box"),
        ("7 0.1 0.1 0.2 0.1 0.2 0.2", "class 7, but there are 2 names"),
        ("0 10 10 20 10 20 20", "shares of width and height, from 0 to 1, got 10"),
        ("0 0.1 0.1 0.2 0.1 0.2", "line 2 is a box"),
        ("0 0.1 0.1 0.2 0.1 0.2 0.2 0.3", "expected CLASS x1 y1"),
        ("0 0.1 0.1 0.2 0.1 x 0.2", "not numbers"),
        ("0 0.1 0.1 0.2 0.1 nan 0.2", "shares of width"),
        ("cell 0.1 0.1 0.2 0.1 0.2 0.2", "expected CLASS"),
    ],
)
def test_a_broken_line_is_one_fault_of_its_image(root, line, message):
    (root / "labels" / "val" / "val1.txt").write_text(f"{LINES}{line}\n")
    report = check_data(DataConfig(root=str(root)), everything=True)
    assert [(issue.code, issue.file) for issue in report.errors] == [
        ("label", "labels/val/val1.txt")
    ]
    assert message in report.errors[0].reason


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("train: images/trian\nnames: [a, b]\n", "train: 'images/trian' does not exist"),
        ("train: images/train\nnames: {1: a, 2: b}\n", "numbered 0, 1, 2"),
        ("train: images/train\nnames: 3\n", "names must be a list"),
        ("train: images/train\nnames: [a]\nkpt_shape: [17, 3]\n", "keypoints"),
        ("train: ../../images\nnames: [a, b]\nval: /etc\n", "val: '/etc' does not exist"),
    ],
)
def test_faults_of_data_yaml_are_named(root, text, message):
    (root / "data.yaml").write_text(text)
    with pytest.raises(InputError, match=rf"data\.yaml: .*{message}"):
        read_yolo(root)


def test_no_labels_at_all_say_where_they_would_be(root):
    for path in root.glob("labels/*/*.txt"):
        path.unlink()
    with pytest.raises(InputError, match="it would be labels/train/train0.txt"):
        read_yolo(root)
