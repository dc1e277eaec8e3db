import numpy as np
import pytest
import yaml
from PIL import Image

from conftest import make_folder
from kanseg.data.folder import LabelInfo, default_palette, read_folder
from kanseg.errors import InputError


def test_split_files_name_the_samples(folder):
    found = read_folder(folder)
    assert {k: [s.name for s in v] for k, v in found.splits.items()} == {"train": ["p00", "p01"], "val": ["p02", "p03"], "test": ["p04", "p05"]}
    assert found.splits["val"][0].mask == folder / "masks" / "p02.png"


def test_split_folders_are_read(tmp_path):
    for split in ("train", "val"):
        make_folder(tmp_path / "set" / split, count=3, splits=False, scale=255)
    assert {k: len(v) for k, v in read_folder(tmp_path / "set").splits.items()} == {"train": 3, "val": 3}


def test_seeded_split_is_repeatable_disjoint_and_told(tmp_path):
    root = make_folder(tmp_path / "set", count=20, splits=False)
    one, two = read_folder(root, seed=1), read_folder(root, seed=1)
    names = {k: {s.name for s in v} for k, v in one.splits.items()}
    assert one.splits == two.splits
    assert names != {k: {s.name for s in v} for k, v in read_folder(root, seed=2).splits.items()}
    assert sum(map(len, names.values())) == len(set.union(*names.values())) == 20
    assert len(names["val"]) == len(names["test"]) == 3
    assert "split by seed 1" in one.notes[0]


def test_groups_stay_together(tmp_path):
    root = make_folder(tmp_path / "set", count=20, splits=False)
    (root / "groups.csv").write_text("".join(f"p{i:02d},g{i // 2}\n" for i in range(20)))
    for samples in read_folder(root).splits.values():
        numbers = {int(s.name[1:]) for s in samples}
        assert {n ^ 1 for n in numbers} == numbers


def test_masks_of_0_and_255_are_read_as_binary_and_told(folder):
    found = read_folder(folder)
    assert (found.info.task, found.info.mask_values, found.info.num_logits) == ("binary", {0: 0, 255: 1}, 1)
    assert "0 and 255" in found.notes[0]


def test_masks_of_indices_are_read_as_classes(tmp_path):
    found = read_folder(make_folder(tmp_path / "set", classes=4))
    assert (found.info.task, found.info.classes) == ("multiclass", ("class_0", "class_1", "class_2", "class_3"))


def test_dataset_yaml_and_overrides_decide(folder):
    (folder / "dataset.yaml").write_text(yaml.safe_dump({"task": "binary", "classes": ["tissue", "gland"], "mask_values": {0: 0, 255: 1}}))
    assert read_folder(folder).info.classes == ("tissue", "gland")
    assert read_folder(folder, {"classes": ["a", "b"]}).info.classes == ("a", "b")


def test_data_folder_is_not_written(folder):
    before = {p: p.stat().st_mtime_ns for p in folder.rglob("*")}
    read_folder(folder)
    assert {p: p.stat().st_mtime_ns for p in folder.rglob("*")} == before


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("clases: [a, b]", "unknown key 'clases'; did you mean 'classes'"),
        ("task: binari\nclasses: [a, b]", "'binari' is not one of"),
        ("task: binary\nclasses: [a]", "two classes"),
        ("task: [", "not valid YAML"),
        ("just text", "expected `key: value`"),
        ("task: binary\nclasses: [a, b]\nmask_values: 3", "mask_values a map"),
    ],
)
def test_faults_of_dataset_yaml_are_named(folder, content, message):
    (folder / "dataset.yaml").write_text(content)
    with pytest.raises(InputError, match=message):
        read_folder(folder)


@pytest.mark.parametrize(("line", "message"), [("../p00", "plain file stem"), ("p99", "no picture"), ("p00\np00", "listed twice")])
def test_faults_of_split_files_are_named(folder, line, message):
    (folder / "train.txt").write_text(line + "\n")
    with pytest.raises(InputError, match=message):
        read_folder(folder)


def test_two_pictures_of_one_stem_are_refused(folder):
    Image.fromarray(np.zeros((4, 4, 3), np.uint8)).save(folder / "images" / "p00.jpg")
    with pytest.raises(InputError, match="same stem"):
        read_folder(folder)


@pytest.mark.parametrize("name", ["missing", "empty"])
def test_a_folder_without_pictures_says_what_it_should_hold(tmp_path, name):
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="images/"):
        read_folder(tmp_path / name)


def test_unknown_split_names_the_known(folder):
    with pytest.raises(InputError, match="no split 'tset'; did you mean 'test'"):
        read_folder(folder).samples("tset")


def test_default_colours_differ():
    assert len(set(default_palette(21))) == 21
    assert LabelInfo("binary", ("a", "b")).colours[0] == (0, 0, 0)
