import json

import numpy as np
import pytest
from PIL import Image

from kanseg.config import DataConfig
from kanseg.data import check_data, open_data, read_label
from kanseg.data.formats.nnunet import read_nnunet
from kanseg.utils.errors import InputError

SIZE = (24, 32)
CASES = [f"road_{i:03d}" for i in range(8)]
DESCRIPTION = {
    "channel_names": {"0": "R", "1": "G", "2": "B"},
    "labels": {"background": 0, "road": 1, "car": 2},
    "numTraining": 8,
    "file_ending": ".png",
}


def truth():
    mask = np.zeros(SIZE, np.uint8)
    mask[4:12] = 1
    mask[6:9, 5:20] = 2
    return mask


def case(root, name, seed, folders=("imagesTr", "labelsTr"), mask=None):
    for folder in folders:
        (root / folder).mkdir(exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (*SIZE, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(root / folders[0] / f"{name}_0000.png")
    Image.fromarray(truth() if mask is None else mask).save(root / folders[1] / f"{name}.png")


def describe(root, **changes):
    (root / "dataset.json").write_text(json.dumps(DESCRIPTION | changes))


@pytest.fixture
def root(tmp_path):
    for seed, name in enumerate(CASES):
        case(tmp_path, name, seed)
    describe(tmp_path)
    return tmp_path


def names(index, split):
    return [sample.name for sample in index.samples(split)]


def test_the_raw_folder_is_found_read_and_checked(root):
    lines = []
    index = open_data(DataConfig(root=str(root)), log=lines.append)
    assert any("NNUNET" in line for line in lines)
    assert index.label_spec.classes == ("background", "road", "car")
    samples = index.samples(list(index.splits))
    assert sorted(sample.name for sample in samples) == CASES
    for sample in samples:
        assert np.array_equal(read_label(sample, index.label_spec), truth())
    assert check_data(DataConfig(root=str(root)), everything=True).issues == []


def test_labeled_test_cases_are_the_test_split(root):
    for seed in range(3):
        case(root, f"late_{seed}", 20 + seed, ("imagesTs", "labelsTs"))
    index = read_nnunet(root)
    assert names(index, "test") == ["late_0", "late_1", "late_2"]
    assert sorted(names(index, "train") + names(index, "val")) == CASES


def test_the_label_ignore_is_ignored(root):
    mask = truth()
    mask[20:] = 3
    case(root, CASES[0], 0, mask=mask)
    describe(root, labels=DESCRIPTION["labels"] | {"ignore": 3})
    index = read_nnunet(root)
    assert index.label_spec.classes == ("background", "road", "car")
    sample = next(s for s in index.samples(list(index.splits)) if s.name == CASES[0])
    assert (read_label(sample, index.label_spec) == 255).sum() == 4 * 32


def test_labels_of_the_first_version_are_read(root):
    describe(root, labels={"0": "background", "1": "road", "2": "car"})
    assert read_nnunet(root).label_spec.classes == ("background", "road", "car")


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ({}, "has no labels"),
        ({"background": 0, "whole": [1, 2]}, "a region of the values"),
        ({"background": 0, "road": 2}, "labels must be 0"),
        ({"background": 0, "road": "x"}, "no number"),
    ],
)
def test_faults_of_dataset_json_are_named(root, labels, message):
    describe(root, labels=labels)
    with pytest.raises(InputError, match=rf"dataset\.json: .*{message}"):
        read_nnunet(root)


def test_several_files_for_the_channels_of_a_case_say_how_to_stack_them(root):
    for name in CASES:
        (root / "imagesTr" / f"{name}_0001.png").write_bytes(
            (root / "imagesTr" / f"{name}_0000.png").read_bytes()
        )
    with pytest.raises(InputError, match=r"2 image files.*8 cases alike.*road_000_0001\.png"):
        read_nnunet(root)


def test_volumes_say_how_to_write_slices(root):
    (root / "imagesTr" / "brain_0000.nii.gz").write_bytes(b"")
    with pytest.raises(InputError, match=r"brain_0000\.nii\.gz: a volume"):
        read_nnunet(root)


def test_a_case_without_a_mask_and_a_broken_mask_are_faults_of_their_samples(root):
    (root / "labelsTr" / f"{CASES[1]}.png").unlink()
    (root / "labelsTr" / f"{CASES[2]}.png").write_bytes(b"no image")
    report = check_data(DataConfig(root=str(root)), everything=True)
    assert sorted((issue.code, issue.file) for issue in report.errors) == [
        ("no_mask", f"imagesTr/{CASES[1]}_0000.png"),
        ("unreadable", f"labelsTr/{CASES[2]}.png"),
    ]
