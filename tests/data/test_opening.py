import pytest

from conftest import make_folder
from kanseg.config import DataConfig
from kanseg.data import open_data
from kanseg.utils.errors import InputError


def opened(root, lines=None, **options):
    return open_data(
        DataConfig(root=str(root), **options),
        log=(lambda _: None) if lines is None else lines.append,
    )


def names(folder, split):
    return [sample.name for sample in folder.samples(split)]


@pytest.fixture
def twelve(tmp_path):
    return make_folder(tmp_path / "twelve", count=12)


def test_folds_hold_out_each_image_of_train_and_val_once_and_leave_test(twelve):
    plain = opened(twelve)
    pool, folds_val = {*names(plain, "train"), *names(plain, "val")}, []
    for fold in range(4):
        folder = opened(twelve, folds=4, fold=fold)
        assert {*names(folder, "train"), *names(folder, "val")} == pool
        assert not set(names(folder, "train")) & set(names(folder, "val"))
        assert names(folder, "test") == names(plain, "test")
        folds_val += names(folder, "val")
    assert sorted(folds_val) == sorted(pool)


def test_folds_are_reported(twelve):
    lines = []
    folder = opened(twelve, lines, folds=4, fold=1, split_seed=7)
    train, val = (len(names(folder, split)) for split in ("train", "val"))
    line = next(each for each in lines if "fold 1 of 4 by seed 7" in each)
    assert f"over 8 images of train + val: {train} images to train on, {val} as val" in line
    sizes = [int(word) for word in line.split("by a hash: ")[1].rstrip(")").split(", ")]
    assert sum(sizes) == 8
    assert sizes[1] == val


def test_folds_of_a_seeded_split_and_of_split_folders(tmp_path):
    plain = make_folder(tmp_path / "plain", count=20, splits=False)
    pool = {*names(opened(plain), "train"), *names(opened(plain), "val")}
    folds_val = [names(opened(plain, folds=5, fold=k), "val") for k in range(5)]
    assert all(folds_val)
    assert sorted(sum(folds_val, [])) == sorted(pool)
    for split in ("train", "val", "test"):
        make_folder(tmp_path / "folders" / split, count=4, splits=False)
    images = []
    for fold in range(4):
        folder = opened(tmp_path / "folders", folds=4, fold=fold)
        assert len(folder.samples("train")) + len(folder.samples("val")) == 8
        assert len(folder.samples("test")) == 4
        images += [sample.image for sample in folder.samples("val")]
    assert len(set(images)) == len(images) == 8


def test_folds_without_a_split_val(twelve):
    (twelve / "val.txt").unlink()
    folder = opened(twelve, folds=2)
    assert folder.samples("val")
    assert sorted(names(folder, "train") + names(folder, "val")) == ["p00", "p01", "p02", "p03"]


def test_folds_of_splits_with_other_names(twelve):
    for split in ("train", "val"):
        (twelve / f"{split}.txt").rename(twelve / f"by_{split}.txt")
    folder = opened(twelve, folds=4, train=["by_train"], val=["by_val"])
    assert len(folder.samples("by_train") + folder.samples("by_val")) == 8
    assert folder.samples("by_val")


def test_folds_do_not_depend_on_where_the_set_lies(twelve, tmp_path):
    before = [names(opened(twelve, folds=3, fold=fold), "val") for fold in range(3)]
    twelve.rename(tmp_path / "elsewhere")
    elsewhere = tmp_path / "elsewhere"
    assert before == [names(opened(elsewhere, folds=3, fold=k), "val") for k in range(3)]


def test_folds_keep_groups_together(twelve):
    (twelve / "groups.csv").write_text("".join(f"p{i:02d},g{i // 2}\n" for i in range(12)))
    for fold in range(3):
        numbers = {int(name[1:]) for name in names(opened(twelve, folds=3, fold=fold), "val")}
        assert numbers
        assert {n ^ 1 for n in numbers} == numbers


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"folds": 1}, "data.folds must be 0 .* or at least 2, got 1"),
        ({"folds": -2}, "data.folds must be 0"),
        ({"folds": 3, "fold": 3}, "data.fold must be from 0 to 2, got 3"),
        ({"fold": 1}, "data.fold must be 0 without data.folds, got 1"),
        ({"folds": 9}, "9 folds need as many images, and train [+] val have 8"),
        ({"folds": 2, "val": []}, "each needs a name"),
        ({"folds": 2, "test": ["val"]}, "split .val. is used twice"),
        ({"folds": 2, "train": ["train", "val"]}, "split .val. is used twice"),
        ({"folds": 2, "train": ["trian"]}, "no split 'trian'; did you mean 'train'"),
        ({"max_pixels": 0}, "data.max_pixels must be at least 1"),
        ({"format": "coco"}, "format coco needs annotations.json"),
        ({"format": "voc"}, "format voc needs JPEGImages"),
    ],
)
def test_settings_that_cannot_be_used_are_named(twelve, options, message):
    with pytest.raises(InputError, match=message):
        opened(twelve, **options)


def test_too_few_groups_and_images_without_one_are_named(twelve):
    (twelve / "groups.csv").write_text("".join(f"p{i:02d},g{i // 6}\n" for i in range(12)))
    with pytest.raises(InputError, match="3 folds .*groups, .*train [+] val have 2"):
        opened(twelve, folds=3)
    (twelve / "groups.csv").write_text("p00,a\n")
    with pytest.raises(InputError, match=r"groups\.csv: 7 images have no group"):
        opened(twelve, folds=2)


def test_groups_that_cross_given_splits_are_warned_of(twelve):
    (twelve / "groups.csv").write_text("p00,a\np01,b\np11,a\n")
    lines = []
    opened(twelve, lines)
    assert [line for line in lines if "warning" in line] == [
        "data: warning: 1 groups of groups.csv are in train and in test (the first: a); scores on"
        " test may be too good"
    ]
    lines.clear()
    opened(twelve, lines, test=["train"])  # named for both on purpose
    assert not [line for line in lines if "warning" in line]


def test_the_limit_of_pixels_reaches_images_and_masks(twelve):
    from kanseg.data import read_label, read_sample_image

    folder = opened(twelve, max_pixels=1279, task="binary", classes=["a", "b"])
    sample = folder.samples("train")[0]
    with pytest.raises(InputError, match="32x40 .*1279"):
        read_sample_image(sample)
    with pytest.raises(InputError, match="limit of 1279"):
        read_label(sample, folder.label_spec)
    assert read_sample_image(opened(twelve, max_pixels=1280).samples("train")[0]).shape == (
        32,
        40,
        3,
    )
