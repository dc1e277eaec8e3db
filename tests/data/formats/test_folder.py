import numpy as np
import pytest
from PIL import Image

from conftest import make_folder
from kanseg.data.formats.folder import read_folder
from kanseg.utils.errors import InputError


def test_split_files_name_the_samples(folder):
    found = read_folder(folder)
    assert {k: [s.name for s in v] for k, v in found.splits.items()} == {
        "train": ["p00", "p01"],
        "val": ["p02", "p03"],
        "test": ["p04", "p05"],
    }
    assert found.splits["val"][0].mask == folder / "masks" / "p02.png"


def test_split_folders_are_read(tmp_path):
    for split in ("train", "val"):
        make_folder(tmp_path / "set" / split, count=3, splits=False, scale=255)
    assert {k: len(v) for k, v in read_folder(tmp_path / "set").splits.items()} == {
        "train": 3,
        "val": 3,
    }


def test_seeded_split_is_repeatable_disjoint_and_reported(tmp_path):
    root = make_folder(tmp_path / "set", count=20, splits=False)
    one, two = read_folder(root, seed=1), read_folder(root, seed=1)
    names = {k: {s.name for s in v} for k, v in one.splits.items()}
    assert one.splits == two.splits
    assert names != {k: {s.name for s in v} for k, v in read_folder(root, seed=2).splits.items()}
    assert sum(map(len, names.values())) == len(set.union(*names.values())) == 20
    assert names["val"]
    assert names["test"]
    sizes = ", ".join(f"{len(some)} {split}" for split, some in names.items())
    assert any(f"split by seed 1, by a hash of the name, into {sizes}" in n for n in one.notes)
    assert one.split_by_hash


def test_groups_stay_together(tmp_path):
    root = make_folder(tmp_path / "set", count=20, splits=False)
    (root / "groups.csv").write_text("".join(f"p{i:02d},g{i // 2}\n" for i in range(20)))
    for samples in read_folder(root).splits.values():
        numbers = {int(s.name[1:]) for s in samples}
        assert {n ^ 1 for n in numbers} == numbers


def test_data_folder_is_not_written(folder):
    before = {p: p.stat().st_mtime_ns for p in folder.rglob("*")}
    read_folder(folder)
    assert {p: p.stat().st_mtime_ns for p in folder.rglob("*")} == before


@pytest.mark.parametrize(
    ("line", "message"),
    [("../p00", "are paths"), ("p99", "no image"), ("p00\np00", "listed twice")],
)
def test_faults_of_split_files_are_named(folder, line, message):
    (folder / "train.txt").write_text(line + "\n")
    with pytest.raises(InputError, match=message):
        read_folder(folder).samples("train")


def test_a_text_file_that_is_no_split_is_in_nobodys_way(folder):
    (folder / "notes.txt").write_text("made on a Monday\n")
    assert len(read_folder(folder).samples("train")) == 2


def test_a_byte_order_mark_is_read_over_and_another_encoding_named(folder):
    (folder / "train.txt").write_bytes("p00\n".encode("utf-8-sig"))
    assert [s.name for s in read_folder(folder).samples("train")] == ["p00"]
    (folder / "train.txt").write_bytes("p\xe4\n".encode("latin-1"))
    with pytest.raises(InputError, match=r"train\.txt: not UTF-8 text"):
        read_folder(folder).samples("train")


def test_composed_and_decomposed_letters_are_the_same_name(folder):
    for kind in ("images", "masks"):
        (folder / kind / "p00.png").rename(folder / kind / "a\u0308.png")
    (folder / "train.txt").write_text("\u00e4\n", encoding="utf-8")
    assert read_folder(folder).samples("train")[0].mask is not None


def test_hidden_files_of_other_systems_are_left_out(folder):
    for path in ("images/._p00.png", "masks/._p00.png", "._train.txt"):
        (folder / path).write_bytes(b"\x00\x05\x16\x07")
    found = read_folder(folder)
    assert found.problems == ()
    assert set(found.splits) == {"train", "val", "test"}


def test_masks_without_images_are_found_whatever_their_suffix(folder):
    Image.fromarray(np.zeros((3, 3), np.uint8)).save(folder / "masks" / "stray.TIF")
    problems = read_folder(folder).problems
    assert [(issue.code, issue.file) for issue in problems] == [("no_image", "masks/stray.TIF")]


def test_two_images_of_one_stem_are_refused(folder):
    Image.fromarray(np.zeros((4, 4, 3), np.uint8)).save(folder / "images" / "p00.jpg")
    with pytest.raises(InputError, match="same stem"):
        read_folder(folder)


@pytest.mark.parametrize("name", ["missing", "empty"])
def test_a_folder_without_images_says_what_it_should_hold(tmp_path, name):
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="images/"):
        read_folder(tmp_path / name)


def test_unknown_split_names_the_known(folder):
    with pytest.raises(InputError, match="no split 'tset'; did you mean 'test'"):
        read_folder(folder).samples("tset")
