import numpy as np
import pytest
from PIL import Image

from kanseg.config import DataConfig
from kanseg.data import check_data, open_data, read_folder, read_label
from kanseg.data.formats.mask_folders import find_suffixes
from kanseg.utils.errors import InputError

SIZE = (24, 32)
NAMES = [f"p{i}" for i in range(6)]


def pixels(seed):
    return np.random.default_rng(seed).integers(0, 256, (*SIZE, 3), dtype=np.uint8)


def truth(seed):
    mask = np.zeros(SIZE, np.uint8)
    mask[4 : 10 + seed, 5:20] = 1
    return mask


def save(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)


def make(root, image="images/{name}.jpg", mask="masks/{name}.png", names=NAMES, scale=255):
    for name in names:
        seed = NAMES.index(name)
        save(root / image.format(name=name), pixels(seed))
        save(root / mask.format(name=name), truth(seed) * scale)
    return root


def opened(root, **settings):
    lines = []
    index = open_data(DataConfig(root=str(root), **settings), log=lines.append)
    return index, lines


def assert_complete(root, index):
    """Every sample has its own mask, and the check finds nothing."""
    samples = index.samples(list(index.splits))
    assert sorted(sample.name for sample in samples) == NAMES
    for sample in samples:
        label = read_label(sample, index.label_spec)
        assert np.array_equal(label, truth(NAMES.index(sample.name)))
    data = DataConfig(root=str(root), train=list(index.splits)[:1], val=[], test=[])
    assert check_data(data, everything=True).errors == []


@pytest.mark.parametrize(
    ("images", "masks"),
    [
        ("images", "labels"),
        ("images", "annotations"),
        ("imgs", "gt"),
        ("img", "mask"),
        ("Images", "Ground_Truth"),
        ("image", "SegmentationClass"),
        ("images", "annotations/trimaps"),
        ("input", "target"),
    ],
)
def test_folders_of_other_names(tmp_path, images, masks):
    make(tmp_path, f"{images}/{{name}}.jpg", f"{masks}/{{name}}.png")
    index, lines = opened(tmp_path)
    assert_complete(tmp_path, index)
    assert index.split_by_hash
    assert any(f"images are in {images}/, masks in {masks}/" in line for line in lines)


@pytest.mark.parametrize(
    ("image", "mask", "folders"),
    [
        ("images/{split}/{{name}}.jpg", "masks/{split}/{{name}}.png", ("train", "val", "test")),
        ("img_dir/{split}/{{name}}.jpg", "ann_dir/{split}/{{name}}.png", ("train", "val", "test")),
        ("{split}/images/{{name}}.jpg", "{split}/labels/{{name}}.png", ("train", "valid", "test")),
        ("{split}/images/{{name}}.jpg", "{split}/masks/{{name}}.png", ("train", "valid", "test")),
        (
            "{split}/images/{{name}}.jpg",
            "{split}/masks/{{name}}.png",
            ("Train", "Valid", "Testing"),
        ),
        (
            "images/{split}/{{name}}.jpg",
            "annotations/{split}/{{name}}.png",
            ("training", "validation", "testing"),
        ),
        ("{split}/{{name}}.png", "{split}annot/{{name}}.png", ("train", "val", "test")),
        ("{split}_images/{{name}}.png", "{split}_masks/{{name}}.png", ("train", "val", "test")),
        ("images_{split}/{{name}}.png", "masks_{split}/{{name}}.png", ("train", "val", "test")),
        ("{split}/{{name}}.jpg", "{split}/{{name}}_mask.png", ("train", "valid", "test")),
        (
            "ISIC_Task1-2_{split}_Input/{{name}}.jpg",
            "ISIC_Task1_{split}_GroundTruth/{{name}}_segmentation.png",
            ("Training", "Validation", "Test"),
        ),
    ],
)
def test_folders_of_splits_inside_and_outside(tmp_path, image, mask, folders):
    for folder, names in zip(folders, (NAMES[:2], NAMES[2:4], NAMES[4:]), strict=True):
        make(tmp_path, image.format(split=folder), mask.format(split=folder), names)
    index, _ = opened(tmp_path)
    assert {split: [sample.name for sample in some] for split, some in index.splits.items()} == {
        "train": NAMES[:2],
        "val": NAMES[2:4],
        "test": NAMES[4:],
    }
    assert_complete(tmp_path, index)


def test_of_two_folders_of_a_split_one_is_used_and_the_other_named(tmp_path):
    for folder, names in (("train", NAMES[:2]), ("val", NAMES[2:3]), ("valid", NAMES[3:4])):
        make(tmp_path, f"{folder}/images/{{name}}.jpg", f"{folder}/masks/{{name}}.png", names)
    index, lines = opened(tmp_path)
    assert [sample.name for sample in index.splits["val"]] == NAMES[2:3]
    assert any("valid/ is not used" in line for line in lines)


@pytest.mark.parametrize(
    ("image", "mask"),
    [
        ("{name}", "{name}_mask"),
        ("{name}", "{name}_annotation"),
        ("{name}", "{name}_anno"),
        ("{name}", "{name}-label"),
        ("{name}", "{name}_segmentation"),
        ("{name}_sat", "{name}_mask"),
        ("{name}_sat", "{name}_seg"),
        ("{name}_leftImg8bit", "{name}_gtFine_labelIds"),
    ],
)
@pytest.mark.parametrize("masks", ["masks", "labels"])
def test_suffixes_of_masks_and_images(tmp_path, image, mask, masks):
    make(tmp_path, f"images/{image}.png", f"{masks}/{mask}.png")
    index, lines = opened(tmp_path)
    assert_complete(tmp_path, index)
    shown = image.replace("{name}", "NAME"), mask.replace("{name}", "NAME")
    assert any(f"the mask of {shown[0]} in images/ is {shown[1]} in" in line for line in lines)


@pytest.mark.parametrize(
    ("image", "mask"),
    [("{name}", "{name}_mask"), ("{name}_sat", "{name}_mask"), ("{name}", "{name}.gt")],
)
def test_images_and_masks_in_one_folder(tmp_path, image, mask):
    make(tmp_path, f"{image}.png", f"{mask}.png")
    index, _ = opened(tmp_path)
    assert_complete(tmp_path, index)


def test_a_suffix_must_fit_every_mask():
    assert find_suffixes(["1", "10", "2"], ["1_mask", "10_mask"]) == ("", "_mask")
    assert find_suffixes(["1", "2"], ["1_mask", "2_gt"]) is None
    assert find_suffixes(["1", "2"], ["1_mask", "3_mask"]) is None
    assert find_suffixes(["a", "b"], ["a", "b_mask"]) == ("", "")  # as it has always been read
    assert find_suffixes(["img_1", "img_2"], ["mask_1", "mask_2"]) is None
    assert find_suffixes([], ["a"]) is None


def test_images_without_a_mask_keep_the_suffix_and_are_faults(tmp_path):
    make(tmp_path, "images/{name}.png", "masks/{name}_mask.png")
    (tmp_path / "masks" / "p3_mask.png").unlink()
    report = check_data(DataConfig(root=str(tmp_path)), everything=True)
    assert [(issue.code, issue.file) for issue in report.errors] == [("no_mask", "images/p3.png")]


def test_today_s_layouts_are_read_without_a_word_about_folders(folder):
    assert not any("images are in" in note for note in read_folder(folder).notes)


def test_split_folders_without_masks_are_left_out_and_said(tmp_path):
    make(tmp_path, "train/{name}.png", "train_masks/{name}.png")
    save(tmp_path / "test" / "x.png", pixels(9))
    index, lines = opened(tmp_path, val=[], test=[])
    assert list(index.splits) == ["train"]
    assert any("left out: test/" in line for line in lines)


def test_class_folders_have_other_names_too(tmp_path):
    for name in NAMES:
        save(tmp_path / "images" / f"{name}.png", pixels(NAMES.index(name)))
        for number, label in enumerate(("cat", "dog")):
            save(tmp_path / "labels" / label / f"{name}.png", truth(number) * 255)
    index, _ = opened(tmp_path)
    assert (index.label_spec.task, index.label_spec.classes) == ("multilabel", ("cat", "dog"))


def test_any_two_folders_can_be_named(tmp_path):
    make(tmp_path, "monday/raw/{name}-x.png", "drawn/{name}-by-anna.png")
    with pytest.raises(InputError, match=r"found: drawn/ \(6 png\).*dataset\.yaml, such as"):
        opened(tmp_path)
    yaml = "{images: monday/raw, masks: drawn, image_suffix: -x, mask_suffix: -by-anna}"
    (tmp_path / "dataset.yaml").write_text(yaml)
    assert_complete(tmp_path, opened(tmp_path)[0])


def test_the_proposed_dataset_yaml_can_be_pasted(tmp_path):
    make(tmp_path, "scans/{name}.jpg", "drawn/{name}.png")
    with pytest.raises(InputError) as caught:
        opened(tmp_path)
    message = str(caught.value)
    proposal = message[message.index("{") : message.index("}") + 1]
    (tmp_path / "dataset.yaml").write_text(proposal)
    assert_complete(tmp_path, opened(tmp_path)[0])


@pytest.mark.parametrize("images", ["images", "train/images"])
def test_images_without_their_masks_say_what_else_is_there(tmp_path, images):
    make(tmp_path, f"{images}/{{name}}.jpg", "drawn/{name}.png")
    with pytest.raises(InputError, match=r"no folder masks/; found: .*drawn/ \(6 png\)") as caught:
        opened(tmp_path)
    assert f"{{images: {images}, masks: drawn}}" in str(caught.value)


@pytest.mark.parametrize("folders", [("cat", "dog"), ("train/cat", "train/dog", "val/cat")])
def test_class_folders_without_masks_are_for_the_classifier(tmp_path, folders):
    for folder in folders:
        save(tmp_path / folder / "1.png", pixels(0))
    (problem,) = check_data(DataConfig(root=str(tmp_path))).errors
    assert f"kanseg classify --data.root {tmp_path}" in problem.reason


@pytest.mark.parametrize("folders", [("imgs", "a", "b"), ("train", "val")])
def test_other_folders_are_no_classes(tmp_path, folders):
    for folder in folders:
        save(tmp_path / folder / "1.png", pixels(0))
    assert "classify" not in check_data(DataConfig(root=str(tmp_path))).text()


def test_a_suffix_of_dataset_yaml_that_no_mask_has_is_named(tmp_path):
    make(tmp_path, "images/{name}.png", "masks/{name}_a.png")
    (tmp_path / "dataset.yaml").write_text("mask_suffix: _b\n")
    with pytest.raises(InputError, match="masks: no name ends in _b"):
        opened(tmp_path)


@pytest.mark.parametrize("folder", ["../other", "/etc", "nowhere"])
def test_named_folders_must_be_inside(tmp_path, folder):
    make(tmp_path / "set", "a/{name}.png", "b/{name}.png")
    (tmp_path / "other").mkdir()
    (tmp_path / "set" / "dataset.yaml").write_text(f"images: a\nmasks: {folder}\n")
    with pytest.raises(InputError, match=r"dataset\.yaml: masks: .* is not a folder in it"):
        opened(tmp_path / "set")


def test_masks_of_other_names_are_one_problem(tmp_path):
    make(tmp_path, "images/{name}.png", "masks/drawn {name}.png")
    report = check_data(DataConfig(root=str(tmp_path)), everything=True)
    assert [issue.code for issue in report.errors] == ["layout"]
    assert "images are named like p0.png, masks like drawn p0.png" in report.errors[0].reason


def test_a_palette_is_proposed_for_color_masks(tmp_path):
    make(tmp_path)
    for name in NAMES:
        colors = np.array([(0, 0, 0), (200, 30, 0)], np.uint8)[truth(NAMES.index(name))]
        save(tmp_path / "masks" / f"{name}.png", colors)
    report = check_data(DataConfig(root=str(tmp_path)), everything=True)
    first = report.errors[0]
    assert (first.code, first.file) == ("labels", ".")
    proposal = first.reason[first.reason.index("{") :]
    (tmp_path / "dataset.yaml").write_text(proposal.replace("NAME_1", "road"))
    index, _ = opened(tmp_path)
    assert index.label_spec.classes == ("background", "road")
    assert_complete(tmp_path, index)


def test_blurred_color_masks_say_so(tmp_path):
    make(tmp_path)
    for name in NAMES:
        save(tmp_path / "masks" / f"{name}.png", pixels(7))
    with pytest.raises(InputError, match="colors or more: JPEG or resizing"):
        opened(tmp_path)
