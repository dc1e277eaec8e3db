import json

import numpy as np
import pytest
from PIL import Image

from kanseg.config import DataConfig
from kanseg.data import check_samples, open_data, read_label
from kanseg.data.formats.coco import is_coco, read_coco
from kanseg.utils.errors import InputError

CATEGORIES = [{"id": 7, "name": "cell"}, {"id": 3, "name": "vessel"}]
SQUARE = [[2, 1, 6, 1, 6, 4, 2, 4]]


def content(names, **changes):
    images = [{"id": i, "file_name": name, "height": 6, "width": 8} for i, name in enumerate(names)]
    annotations = [
        {"id": i, "image_id": i, "category_id": 7, "segmentation": SQUARE, "area": 12}
        for i in range(len(names))
    ]
    return {"images": images, "annotations": annotations, "categories": CATEGORIES} | changes


def write(root, where, data):
    (root / where).parent.mkdir(parents=True, exist_ok=True)
    (root / where).write_text(json.dumps(data))


def image(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.zeros((6, 8, 3), np.uint8)).save(path)


@pytest.fixture
def root(tmp_path):
    for split in ("train", "val"):
        image(tmp_path / "images" / f"{split}.png")
        write(tmp_path, f"annotations/{split}.json", content([f"{split}.png"]))
    return tmp_path


def test_classes_are_the_background_and_the_categories_by_id(root):
    found = read_coco(root)
    assert (found.label_spec.task, found.label_spec.classes) == (
        "multiclass",
        ("background", "vessel", "cell"),
    )
    assert {name: [s.name for s in samples] for name, samples in found.splits.items()} == {
        "train": ["train"],
        "val": ["val"],
    }
    label = read_label(found.samples("train")[0], found.label_spec)
    assert np.unique(label).tolist() == [0, 2]
    assert (label == 2).sum() == 12


def test_the_sample_names_the_files_that_it_is_read_from(root):
    sample = read_coco(root).samples("val")[0]
    assert sample.files == (root / "images" / "val.png", root / "annotations" / "val.json")


def test_multilabel_has_no_background(root):
    found = read_coco(root, {"task": "multilabel"})
    assert found.label_spec.classes == ("vessel", "cell")
    assert read_label(found.samples("train")[0], found.label_spec).sum(axis=(1, 2)).tolist() == [
        0,
        12,
    ]


def test_given_classes_choose_and_order_the_categories(root):
    found = read_coco(root, {"classes": ["ground", "cell"]})
    assert found.label_spec.task == "binary"
    assert read_label(found.samples("train")[0], found.label_spec).sum() == 12
    assert "left out: vessel" in found.notes[0]
    with pytest.raises(InputError, match="'cel' .*did you mean 'cell'"):
        read_coco(root, {"classes": ["ground", "cel"]})


def test_official_names_of_files_and_folders(tmp_path):
    image(tmp_path / "train2017" / "a.jpg")
    image(tmp_path / "images" / "val2017" / "a.jpg")
    for split in ("train2017", "val2017"):
        write(tmp_path, f"annotations/instances_{split}.json", content(["a.jpg"]))
        write(tmp_path, f"annotations/captions_{split}.json", {})
    found = read_coco(tmp_path)
    assert {
        split: samples[0].image.relative_to(tmp_path).as_posix()
        for split, samples in found.splits.items()
    } == {"train": "train2017/a.jpg", "val": "images/val2017/a.jpg"}


def test_one_file_is_split_by_the_seed_and_by_group(tmp_path):
    names = [f"part{i // 10}/p{i:02d}.png" for i in range(20)]
    for name in names:
        image(tmp_path / "images" / name)
    write(tmp_path, "annotations.json", content(names))
    (tmp_path / "groups.csv").write_text("".join(f"p{i:02d},g{i // 2}\n" for i in range(20)))
    found = read_coco(tmp_path)
    assert sum(len(samples) for samples in found.splits.values()) == 20
    for samples in found.splits.values():
        numbers = {int(s.name[1:]) for s in samples}
        assert {n ^ 1 for n in numbers} == numbers


def test_it_is_found_by_itself_and_reported(root):
    lines = []
    assert open_data(DataConfig(root=str(root)), log=lines.append).label_spec.classes[1] == "vessel"
    assert any("COCO" in line for line in lines)


def test_images_of_one_stem_in_two_folders_keep_their_names_apart(tmp_path):
    for name in ("a/1.png", "b/1.png"):
        image(tmp_path / "images" / name)
    write(tmp_path, "annotations/train.json", content(["a/1.png", "b/1.png"]))
    assert [s.name for s in read_coco(tmp_path).samples("train")] == ["a_1_png", "b_1_png"]


@pytest.mark.parametrize(
    "name", ["../a.png", "/etc/a.png", "x/../../a.png", "C:\\a.png", "..\\a.png", ""]
)
def test_names_that_lead_out_of_the_folder_are_refused(root, name):
    write(root, "annotations/train.json", content([name]))
    with pytest.raises(InputError, match="relative path"):
        read_coco(root)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ([], "no list 'images'"),
        ({"images": []}, "no list 'annotations'"),
        (content(["train.png"], images=[{"id": 0}]), r"images\[0\] has no 'file_name'"),
        (
            content(["train.png"], images=[{"id": [0], "file_name": "train.png"}]),
            r"images\[0\] has no",
        ),
        (content(["train.png"], images=[{"id": 0, "file_name": "train.png"}] * 2), "the same id"),
        (
            content(["train.png"], annotations=[{"image_id": 0, "category_id": 9}]),
            "category_id 9",
        ),
        (
            content(
                ["train.png"], annotations=[{"image_id": 0, "category_id": 7, "bbox": [0, 0, 2, 2]}]
            ),
            "needs a segmentation",
        ),
        (
            content(
                ["train.png"],
                annotations=[{"image_id": 0, "category_id": 7, "segmentation": [[1, 2, 3]]}],
            ),
            "needs a segmentation",
        ),
        (
            content(
                ["train.png"],
                annotations=[{"image_id": 0, "category_id": 7, "segmentation": [[1, "x"]]}],
            ),
            "needs a segmentation",
        ),
        (content(["train.png"], categories=[{"id": 7, "name": "vein"}]), "category 7 is"),
    ],
)
def test_faults_of_the_file_are_named(root, data, message):
    write(root, "annotations/train.json", data)
    with pytest.raises(InputError, match=message):
        read_coco(root)


def test_text_that_is_no_json_is_named(root):
    (root / "annotations" / "train.json").write_text("{")
    with pytest.raises(InputError, match=r"train\.json: not valid JSON"):
        read_coco(root)


def test_annotations_of_no_image_are_reported(root):
    data = content(["train.png"])
    data["annotations"].append(data["annotations"][0] | {"image_id": 99})
    write(root, "annotations/train.json", data)
    assert any("1 annotations belong to no image" in note for note in read_coco(root).notes)


def test_a_image_of_another_size_than_stated_is_a_fault_of_that_sample(root):
    Image.fromarray(np.zeros((8, 6, 3), np.uint8)).save(root / "images" / "train.png")
    found = read_coco(root)
    faults = check_samples(found.samples(["train", "val"]), found.label_spec).faults
    assert [str(fault) for fault in faults.values()] == [
        f"{root / 'images' / 'train.png'}: the image is 8x6 pixels (height x width),"
        " but 6x8 in train.json"
    ]


def test_a_name_that_two_categories_have_gets_the_id_behind(root):
    for split in ("train", "val"):
        write(
            root,
            f"annotations/{split}.json",
            content(
                [f"{split}.png"], categories=[{"id": 3, "name": "cell"}, {"id": 7, "name": "cell"}]
            ),
        )
    assert read_coco(root).label_spec.classes == ("background", "cell_3", "cell_7")


def test_one_file_as_two_images_is_refused(root):
    data = content(["train.png"])
    data["images"].append(data["images"][0] | {"id": 99})
    write(root, "annotations/train.json", data)
    with pytest.raises(InputError, match=r"'train\.png' is the file of two images"):
        read_coco(root)


def test_a_category_named_background_is_the_background(root):
    for split in ("train", "val"):
        write(
            root,
            f"annotations/{split}.json",
            content([f"{split}.png"], categories=[{"id": 0, "name": "background"}, *CATEGORIES]),
        )
    assert read_coco(root).label_spec.classes == ("background", "vessel", "cell")


def test_an_ignore_index_is_refused_but_for_that_of_crowds(root):
    assert read_coco(root, {"ignore_index": 255}).label_spec.ignore_index == 255
    with pytest.raises(InputError, match="ignore_index has no meaning"):
        read_coco(root, {"ignore_index": 1})


def square(image, category=3, **changes):
    points = [[2, 2, 6, 2, 6, 6, 2, 6]]
    return {"image_id": image, "category_id": category, "segmentation": points, **changes}


def test_where_every_object_is_a_crowd_they_are_objects(tmp_path):
    names = [f"{number}.png" for number in range(6)]
    for name in names:
        image(tmp_path / "images" / name)
    crowds = [square(number, iscrowd=1) for number in range(6)]
    write(tmp_path, "annotations.json", content(names, annotations=crowds))
    folder = read_coco(tmp_path)
    assert any("iscrowd: 1" in note for note in folder.notes)
    sample = folder.samples("train")[0]
    label = read_label(sample, folder.label_spec)
    assert (label[2:6, 2:6] == 1).all()
    assert label.sum() == 16
    crowds[0]["iscrowd"] = 0
    write(tmp_path, "annotations.json", content(names, annotations=crowds))
    mixed = read_coco(tmp_path)
    assert not any("iscrowd" in note for note in mixed.notes)
    by_name = {s.name: s for some in mixed.splits.values() for s in some}
    assert (read_label(by_name["1"], mixed.label_spec)[2:6, 2:6] == 255).all()


def test_roboflows_export_is_found_and_its_parent_category_left_out(tmp_path):
    parent = {"id": 0, "name": "cells", "supercategory": "none"}
    categories = [parent, {"id": 1, "name": "disc", "supercategory": "cells"}]
    for place, count in (("train", 3), ("valid", 2), ("test", 1)):
        names = [f"{place}{number}.png" for number in range(count)]
        for name in names:
            image(tmp_path / place / name)
        objects = [square(number, 1) for number in range(count)]
        data = content(names, annotations=objects, categories=categories)
        write(tmp_path, f"{place}/_annotations.coco.json", data)
    lines = []
    folder = open_data(DataConfig(root=str(tmp_path)), log=lines.append)
    assert {split: len(some) for split, some in folder.splits.items()} == {
        "train": 3,
        "val": 2,
        "test": 1,
    }
    assert folder.label_spec.classes == ("background", "disc")
    assert any("left out: the category cells" in line for line in lines)
    assert folder.samples("val")[0].image == tmp_path / "valid" / "valid0.png"
    assert read_label(folder.samples("val")[0], folder.label_spec).sum() == 16
    flat = tmp_path / "flat"
    names = [f"{number}.png" for number in range(6)]
    for name in names:
        image(flat / name)
    objects = [square(number) for number in range(6)]
    write(flat, "_annotations.coco.json", content(names, annotations=objects))
    assert open_data(DataConfig(root=str(flat)), log=lines.append).split_by_hash


def test_an_area_of_hundreds_of_digits_is_left_out(root):
    """The area of the polygon takes its place; the order of drawing is that of the areas."""
    data = content(["train.png"])
    small = [[2, 1, 3, 1, 3, 2, 2, 2]]
    data["annotations"] += [
        {"id": 9, "image_id": 0, "category_id": 3, "segmentation": small, "area": 10**400}
    ]
    write(root, "annotations/train.json", data)
    found = read_coco(root)
    label = read_label(found.samples("train")[0], found.label_spec)
    assert (label[1, 2], (label == 2).sum()) == (1, 11)


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        (("images", 0, "file_name"), "train.png\0", "cannot be printed"),
        (("images", 0, "file_name"), "\x1b[31m.png", "cannot be printed"),
        (("images", 0, "file_name"), "\ud800.png", "half of a character"),
        (("images", 0, "file_name"), "x" * 300 + ".png", "longer than a file system allows"),
        (("categories", 0, "name"), "a\0b", "cannot be printed"),
        (("annotations", 0, "segmentation"), [[10**400] * 6], "needs a segmentation"),
        (("annotations", 0, "segmentation"), [[float("nan")] * 6], "needs a segmentation"),
    ],
)
def test_odd_values_are_named(root, place, value, message):
    data = content(["train.png"])
    part, number, key = place
    data[part] = [dict(entry) for entry in data[part]]
    data[part][number][key] = value
    (root / "annotations" / "val.json").unlink()
    write(root, "annotations/train.json", data)
    with pytest.raises(InputError, match=message):
        read_coco(root)


@pytest.mark.parametrize("text", ["[" * 100_000, '{"images": [], "images": []}', "9" * 5000])
def test_a_file_that_is_no_json_is_named(root, text):
    (root / "annotations" / "train.json").write_text(text)
    with pytest.raises(InputError, match="train.json: not valid JSON"):
        read_coco(root)


@pytest.mark.parametrize(
    ("where", "images", "stored"),
    [
        ("annotations/instances_default.json", "images/default", "a{i}.png"),  # CVAT
        ("result.json", "images", "images/e97d473{i}-a.png"),  # Label Studio
        ("result.json", "images", "images\\e97d473{i}-a.png"),  # on Windows
    ],
)
def test_exports_of_cvat_and_label_studio_are_split_by_hash(tmp_path, where, images, stored):
    names = [stored.format(i=i) for i in range(4)]
    for name in names:
        image(tmp_path / images / name.replace("\\", "/").rsplit("/", 1)[-1])
    write(tmp_path, where, content(names))
    found = open_data(DataConfig(root=str(tmp_path)), log=lambda _: None)
    assert found.split_by_hash
    samples = found.samples(list(found.splits))
    assert len(samples) == 4
    for sample in samples:
        assert (read_label(sample, found.label_spec) == 2).sum() == 12


def test_another_result_json_is_not_one_of_coco(tmp_path):
    write(tmp_path, "result.json", [{"id": 1}])
    assert not is_coco(tmp_path)
