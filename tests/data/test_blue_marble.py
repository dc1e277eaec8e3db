import numpy as np
import pytest

from kanseg.data import prepare_blue_marble, read_folder, read_image, read_label
from kanseg.utils.errors import InputError


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    return read_folder(prepare_blue_marble(tmp_path_factory.mktemp("data") / "blue_marble"))


def test_splits_have_their_stated_sizes_and_all_classes(prepared):
    assert {k: len(v) for k, v in prepared.splits.items()} == {"train": 177, "val": 35, "test": 65}
    for samples in prepared.splits.values():
        assert set(
            np.unique(np.concatenate([read_label(s, prepared.label_spec).ravel() for s in samples]))
        ) == {0, 1, 2}


def test_no_tile_touches_a_tile_of_another_split_also_across_the_date_line(prepared):
    columns = {
        name: {int(s.name[-2:]) for s in samples} for name, samples in prepared.splits.items()
    }
    for a in columns:
        for b in columns:
            if a != b:
                assert all((x - y) % 42 not in (0, 1, 41) for x in columns[a] for y in columns[b])


def test_north_is_up_and_land_lies_where_it_is(prepared):
    # 25 E to 33 E, 39 N to 30 N: the Mediterranean in the middle, the bright coast of Egypt at the
    # bottom
    sample = next(s for s in prepared.splits["test"] if s.name == "tile_06_24")
    label, image = read_label(sample, prepared.label_spec), read_image(sample.image)
    assert (label[60:80] == 0).mean() > 0.9
    assert (label[-4:] == 1).mean() > 0.9
    assert image[-4:].mean() > image[60:80].mean() + 40


def test_preparing_twice_keeps_the_files(prepared):
    before = {p: p.stat().st_mtime_ns for p in prepared.root.rglob("*")}
    prepare_blue_marble(prepared.root)
    assert {p: p.stat().st_mtime_ns for p in prepared.root.rglob("*")} == before


def test_another_full_folder_is_not_touched(tmp_path):
    (tmp_path / "note.txt").write_text("mine")
    with pytest.raises(InputError, match="not empty"):
        prepare_blue_marble(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["note.txt"]
