import numpy as np
import pytest
import torch
from PIL import Image

from kanseg.data import (
    Augmentation,
    LabelSpec,
    Preprocess,
    Sample,
    SegmentationDataset,
    check_samples,
    read_folder,
    read_label,
)
from kanseg.utils.errors import InputError

LEFT, TOP = np.zeros((6, 8), np.uint8), np.zeros((6, 8), np.uint8)
LEFT[:, :4], TOP[:3] = 255, 1


def build(root, masks, images=("a", "b", "c")):
    """images/ and a mask file for each (folder, name)."""
    (root / "images").mkdir(parents=True)
    for name in images:
        Image.fromarray(np.full((6, 8, 3), 9, np.uint8)).save(root / "images" / f"{name}.png")
    for (folder, name), values in masks.items():
        (root / "masks" / folder).mkdir(parents=True, exist_ok=True)
        Image.fromarray(values).save(root / "masks" / folder / f"{name}.png")
    (root / "train.txt").write_text("\n".join(images) + "\n")
    return root


@pytest.fixture
def root(tmp_path):
    return build(
        tmp_path / "set",
        {("0", "a"): LEFT, ("1", "a"): TOP, ("1", "b"): TOP, ("0", "c"): LEFT, ("1", "c"): TOP},
    )


def test_a_folder_a_class_is_read_as_multilabel_and_reported(root):
    found = read_folder(root)
    assert (found.label_spec.task, found.label_spec.classes, found.label_spec.num_logits) == (
        "multilabel",
        ("class_0", "class_1"),
        2,
    )
    assert any("read as multilabel" in note for note in found.notes)


def test_all_values_but_0_are_the_class_and_a_class_without_a_file_is_absent(root):
    found = read_folder(root)
    a, b, _ = (read_label(sample, found.label_spec) for sample in found.samples("train"))
    assert np.array_equal(a, np.stack([LEFT > 0, TOP > 0]))
    assert np.array_equal(b, np.stack([LEFT > 255, TOP > 0]))
    assert a.dtype == np.uint8


def test_a_image_without_any_file_has_no_mask(tmp_path):
    found = read_folder(build(tmp_path / "set", {("0", "a"): LEFT, ("1", "b"): TOP}))
    sample = found.samples("train")[2]
    assert sample.mask is None
    with pytest.raises(InputError, match="has no mask"):
        read_label(sample, found.label_spec)


def test_files_are_the_image_and_the_masks_that_are_there(root):
    assert [
        path.relative_to(root).as_posix() for path in read_folder(root).samples("train")[1].files
    ] == ["images/b.png", "masks/1/b.png"]


def test_folders_are_named_by_number_or_class_of_dataset_yaml(tmp_path):
    numbers = build(tmp_path / "numbers", {("0", "a"): LEFT, ("1", "a"): TOP})
    names = build(tmp_path / "names", {("iris", "a"): TOP, ("pupil", "a"): LEFT})
    for root in (numbers, names):
        found = read_folder(root, {"classes": ["pupil", "iris"]})
        assert found.label_spec.classes == ("pupil", "iris")
        assert np.array_equal(
            read_label(found.samples("train")[0], found.label_spec), np.stack([LEFT > 0, TOP > 0])
        )
    assert read_folder(names).label_spec.classes == ("iris", "pupil")


def test_ten_comes_after_nine(tmp_path):
    root = build(tmp_path / "set", {(str(i), "a"): LEFT for i in range(11)})
    assert read_folder(root).label_spec.classes == tuple(f"class_{i}" for i in range(11))


@pytest.mark.parametrize(
    ("folders", "overrides", "message"),
    [
        (["0", "2"], {}, "not numbered 0, 1, 2"),
        (["0", "5"], {"classes": ["a", "b"]}, "masks/5 .*expected 0, 1"),
        (["nuclei", "b"], {"classes": ["nucleus", "b"]}, "masks/nuclei .*did you mean 'nucleus'"),
        (["0", "1"], {"task": "multiclass"}, "multiclass task"),
        (["0", "1"], {"task": "binary"}, "binary task"),
    ],
)
def test_folders_that_do_not_fit_are_named(tmp_path, folders, overrides, message):
    root = build(tmp_path / "set", {(folder, "a"): LEFT for folder in folders})
    with pytest.raises(InputError, match=message):
        read_folder(root, overrides)


def test_multilabel_masks_must_lie_in_folders(folder):
    with pytest.raises(InputError, match=r"masks/0/NAME\.png"):
        read_folder(folder, {"task": "multilabel"})


def test_a_single_folder_can_be_read_as_binary(tmp_path):
    root = build(tmp_path / "set", {("0", name): LEFT for name in "abc"})
    found = read_folder(root, {"task": "binary"})
    assert (found.label_spec.task, found.label_spec.classes) == (
        "binary",
        ("background", "foreground"),
    )
    assert np.array_equal(read_label(found.samples("train")[0], found.label_spec), LEFT > 0)
    assert read_folder(root).label_spec.task == "multilabel"


def test_mask_values_and_ignored_values_are_honored(root):
    values = np.array([[0, 128, 255]], np.uint8)
    Image.fromarray(values).save(root / "masks" / "0" / "a.png")
    sample = Sample("a", root / "images" / "a.png", (root / "masks" / "0" / "a.png",))
    assert read_label(
        sample, LabelSpec("multilabel", ("x",), {0: 0, 128: 255, 255: 1})
    ).tolist() == [[[0, 255, 1]]]
    assert read_label(sample, LabelSpec("multilabel", ("x",), ignore_index=128)).tolist() == [
        [[0, 255, 1]]
    ]
    assert read_label(sample, LabelSpec("multilabel", ("x",), ignore_index=None)).tolist() == [
        [[0, 1, 1]]
    ]
    with pytest.raises(InputError, match="value 128 at row 0, column 1"):
        read_label(sample, LabelSpec("multilabel", ("x",), {0: 0, 255: 1}))


def test_masks_of_different_sizes_are_named(root):
    Image.fromarray(TOP[:2]).save(root / "masks" / "1" / "a.png")
    found = read_folder(root)
    fault = check_samples(found.samples("train"), found.label_spec).faults[
        found.samples("train")[0]
    ]
    assert "1/a.png: the mask is 2x8 and" in fault


def test_masks_without_a_image_are_found_in_every_folder(root):
    Image.fromarray(TOP).save(root / "masks" / "1" / "z.png")
    problems = read_folder(root).problems
    assert [(issue.code, issue.file) for issue in problems] == [("no_image", "masks/1/z.png")]


@pytest.mark.parametrize("classes", [1, 2, 5])
def test_items_are_resized_and_augmented_class_by_class(tmp_path, classes):
    masks = {
        (str(i), "a"): (np.random.default_rng(i).random((6, 8)) > 0.5).astype(np.uint8)
        for i in range(classes)
    }
    found = read_folder(build(tmp_path / "set", masks))
    flip = Augmentation(
        [
            {"HorizontalFlip": {"p": 1.0}},
            {"Affine": {"translate_px": {"x": [2, 2], "y": [0, 0]}, "p": 1.0}},
        ]
    )
    item = SegmentationDataset(
        found.samples("train")[:1], found.label_spec, Preprocess(resize=(12, 16)), augmentation=flip
    )[0]
    plain = SegmentationDataset(
        found.samples("train")[:1], found.label_spec, Preprocess(resize=(12, 16))
    )[0]["mask"]
    assert (item["mask"].dtype, item["mask"].shape) == (torch.int64, (classes, 12, 16))
    assert torch.equal(
        plain,
        torch.from_numpy(np.stack(list(masks.values())))
        .long()
        .repeat_interleave(2, 1)
        .repeat_interleave(2, 2),
    )
    assert torch.equal(item["mask"][:, :, 2:], plain.flip(2)[:, :, :-2])
    assert (item["mask"][:, :, :2] == 255).all()
