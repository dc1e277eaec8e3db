import shutil

import numpy as np
import pytest
from PIL import Image

from kanseg.config import DataConfig
from kanseg.data import check_data, open_data, read_folder
from kanseg.data.opening import open_index
from kanseg.utils.errors import InputError


def same_stem(folder):
    shutil.copy(folder / "images" / "p00.png", folder / "images" / "p00.bmp")


def no_masks(folder):
    shutil.rmtree(folder / "masks")


def no_images(folder):
    for path in (folder / "images").iterdir():
        path.unlink()


def color_masks(folder):
    for path in (folder / "masks").iterdir():
        Image.fromarray(np.random.default_rng(0).integers(0, 9, (32, 40, 3), np.uint8)).save(path)


def bad_yaml(folder):
    (folder / "dataset.yaml").write_text("clases: [a, b]\n")


def bad_groups(folder):
    (folder / "groups.csv").write_text("p00,a\np00,b\n")


def misnamed_class(folder):
    for name in ("0", "2"):
        (folder / "masks" / name).mkdir()
        shutil.copy(folder / "masks" / "p00.png", folder / "masks" / name)
    for path in (folder / "masks").glob("*.png"):
        path.unlink()


CODES = {
    same_stem: "same_stem",
    no_masks: "layout",
    no_images: "layout",
    color_masks: "labels",
    bad_yaml: "settings",
    bad_groups: "no_group",
    misnamed_class: "layout",
}


@pytest.mark.parametrize("spoil", CODES, ids=lambda spoil: spoil.__name__)
def test_opening_raises_what_the_check_reports(folder, spoil):
    spoil(folder)
    data = DataConfig(root=str(folder))
    report = check_data(data)
    assert CODES[spoil] in {issue.code for issue in report.errors}
    with pytest.raises(InputError) as caught:
        open_data(data, log=lambda _: None)
    assert str(caught.value) in {str(report.index.error(issue)) for issue in report.errors}


@pytest.mark.parametrize(
    "options", [{"folds": 1}, {"folds": 99}, {"format": "coco"}, {"format": "voc"}]
)
def test_settings_that_opening_refuses_are_errors_of_the_check(folder, options):
    data = DataConfig(root=str(folder), **options)
    with pytest.raises(InputError) as caught:
        open_data(data, log=lambda _: None)
    report = check_data(data)
    assert str(caught.value).removeprefix(f"{folder}: ") in {i.reason for i in report.errors}


def test_all_problems_are_in_the_index_and_the_rest_is_still_read(folder):
    same_stem(folder)
    bad_groups(folder)
    (folder / "images" / "p05.png").unlink()
    (folder / "train.txt").write_text("p00\nnobody\np00\n")
    index = open_index(DataConfig(root=str(folder)))
    assert {problem.code for problem in index.problems} == {"same_stem", "no_group", "no_image"}
    assert [problem.code for problem in index.split_problems["train"]] == [
        "split_unknown",
        "split_repeated",
    ]
    assert [sample.name for sample in index.splits["train"]] == ["p00"]
    assert [sample.name for sample in index.samples("val")] == ["p02", "p03"]
    assert [sample.name for sample in index.unlisted] == ["p01"]
    assert index.label_spec.mask_values == {0: 0, 255: 1}


def test_a_mask_without_an_image_does_not_stop_a_training(folder):
    (folder / "images" / "p05.png").unlink()
    (folder / "test.txt").write_text("p04\n")
    index = read_folder(folder)
    assert [(problem.code, problem.file) for problem in index.problems] == [
        ("no_image", "masks/p05.png")
    ]


def test_folds_of_a_split_with_problems_are_refused(folder):
    (folder / "train.txt").write_text("p00\nnobody\n")
    with pytest.raises(InputError, match=r"train\.txt: .*nobody"):
        open_data(DataConfig(root=str(folder), folds=2), log=lambda _: None)
