import hashlib

import numpy as np
import pytest
from PIL import Image

from conftest import make_folder
from kanseg.config import DataConfig
from kanseg.data import check_data, convert, open_data, read_label, write_png
from kanseg.data.convert import LAYOUTS
from kanseg.utils.errors import InputError

SIZE = (24, 32)


def opened(root, **settings):
    return open_data(DataConfig(root=str(root), **settings), log=lambda _: None)


def all_samples(index):
    return index.samples(list(index.splits))


def labels(index):
    return {each.name: read_label(each, index.label_spec) for each in all_samples(index)}


def assert_equal_labels(one, other):
    assert one.keys() == other.keys()
    for name, label in one.items():
        assert np.array_equal(label, other[name]), name


def names(index):
    return {split: sorted(s.name for s in some) for split, some in index.splits.items() if some}


def digests(index):
    return {s.name: hashlib.sha256(s.image.read_bytes()).hexdigest() for s in all_samples(index)}


@pytest.fixture
def source(tmp_path):
    """Noise of four classes and ignored pixels, so that there are holes and single pixels."""
    root = make_folder(tmp_path / "source", size=SIZE)
    rng = np.random.default_rng(0)
    for path in sorted((root / "masks").iterdir()):
        mask = rng.integers(0, 4, SIZE, dtype=np.uint8)
        mask[4:16, 4:16] = 1
        mask[6:9, 6:9] = rng.integers(0, 4)
        mask[20:] = 255
        write_png(path, mask)
    (root / "dataset.yaml").write_text(
        "classes: ['no', cell, 'rod ''x''', dust]\n"
        "palette: [[0, 0, 0], [9, 8, 7], [1, 2, 3], [4, 4, 4]]\n"
    )
    (root / "groups.csv").write_text("".join(f"p{i:02d},g{i // 2}\n" for i in range(6)))
    return root


@pytest.mark.parametrize("to", LAYOUTS)
def test_masks_splits_images_classes_and_groups_stay(source, tmp_path, to):
    before = opened(source)
    assert convert(before, tmp_path / "out", to=to) == 6
    after = opened(tmp_path / "out")
    assert_equal_labels(labels(before), labels(after))
    assert names(before) == names(after)
    assert digests(before) == digests(after)
    assert before.groups == after.groups
    spec = after.label_spec
    assert (spec.task, spec.classes, spec.palette) == (
        "multiclass",
        ("no", "cell", "rod 'x'", "dust"),
        before.label_spec.palette,
    )
    assert check_data(DataConfig(root=str(tmp_path / "out")), everything=True).errors == []


@pytest.mark.parametrize("to", LAYOUTS)
@pytest.mark.slow_except("labelme")
def test_each_layout_is_read_back_from_each(source, tmp_path, to):
    convert(opened(source), tmp_path / "first", to=to)
    for other in LAYOUTS:
        convert(opened(tmp_path / "first"), tmp_path / other, to=other)
        assert_equal_labels(labels(opened(source)), labels(opened(tmp_path / other)))


@pytest.mark.parametrize("to", LAYOUTS)
def test_overlaps_of_a_multilabel_task_stay(tmp_path, to):
    root = make_folder(tmp_path / "source", size=SIZE)
    rng = np.random.default_rng(1)
    for path in sorted((root / "masks").iterdir()):
        for label in ("cat", "dog"):
            (root / "masks" / label).mkdir(exist_ok=True)
            mask = (rng.random(SIZE) > 0.4).astype(np.uint8) * 255
            write_png(root / "masks" / label / path.name, mask)
        path.unlink()
    before = opened(root)
    convert(before, tmp_path / "out", to=to)
    after = opened(tmp_path / "out")
    assert after.label_spec.classes == ("cat", "dog")
    assert_equal_labels(labels(before), labels(after))


@pytest.mark.parametrize("to", LAYOUTS)
def test_a_split_by_hash_is_written_as_it_is(tmp_path, to):
    before = opened(make_folder(tmp_path / "source", count=12, splits=False), split_seed=3)
    convert(before, tmp_path / "out", to=to)
    after = opened(tmp_path / "out")
    assert names(before) == names(after)
    assert not after.split_by_hash


@pytest.mark.parametrize("to", LAYOUTS)
def test_equal_names_in_two_splits_are_told_apart(tmp_path, to):
    rng = np.random.default_rng(2)
    for split in ("train", "val", "test"):
        folder = make_folder(tmp_path / "source" / split, count=2, splits=False)
        for path in (folder / "images").iterdir():
            pixels = rng.integers(0, 256, (32, 40, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(path)
    before = opened(tmp_path / "source")
    assert convert(before, tmp_path / "out", to=to) == 6
    after = opened(tmp_path / "out")
    for split in ("train", "val", "test"):
        found = {sample.name: sample.image.read_bytes() for sample in after.samples(split)}
        expected = {f"{split}_{s.name}": s.image.read_bytes() for s in before.samples(split)}
        assert found == expected


def test_images_without_a_mask_are_copied_or_left_out_and_said(source, tmp_path):
    (source / "masks" / "p05.png").unlink()
    lines = []
    convert(opened(source), tmp_path / "folder", log=lines.append)
    assert (tmp_path / "folder" / "images" / "p05.png").is_file()
    assert not lines
    convert(opened(source), tmp_path / "coco", to="coco", log=lines.append)
    assert lines == ["left out: 1 images without a mask or in no split"]


def test_masks_are_indexed_in_the_colors_of_the_classes(source, tmp_path):
    convert(opened(source), tmp_path / "out")
    with Image.open(tmp_path / "out" / "masks" / "p00.png") as mask:
        assert mask.mode == "P"
        colors = np.reshape(mask.getpalette(), (-1, 3))
    assert colors[[1, 3, 255]].tolist() == [[9, 8, 7], [4, 4, 4], [128, 128, 128]]


def test_nothing_is_replaced_and_nothing_written_by_halves(source, tmp_path):
    index = opened(source)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match="not an empty folder"):
        convert(index, tmp_path / "full")
    with pytest.raises(InputError, match="lies in the data set itself"):
        convert(index, source / "again")
    with pytest.raises(InputError, match="folder, coco, labelme, got 'voc'"):
        convert(index, tmp_path / "out", to="voc")
    (source / "masks" / "p03.png").write_bytes(b"no image")
    with pytest.raises(InputError, match=r"p03\.png"):
        convert(index, tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["full", "source"]
    lines = []
    assert convert(index, tmp_path / "out", skip_bad=True, log=lines.append) == 5
    assert [line for line in lines if "p03.png" in line] == lines
    assert "p03" not in labels(opened(tmp_path / "out"))
