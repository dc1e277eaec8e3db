import hashlib
import json
import os
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from conftest import make_folder
from kanseg.config import DataConfig
from kanseg.data import check_data
from kanseg.data.checks import KINDS
from kanseg.data.checks.page import render_check
from kanseg.utils.errors import InputError
from kanseg.utils.language import chinese_texts

SIZE = (24, 32)


def digest(folder):
    return {
        str(p): (hashlib.sha256(p.read_bytes()).hexdigest(), p.stat().st_mtime_ns)
        for p in sorted(folder.rglob("*"))
        if p.is_file()
    }


def noise(name, size=SIZE, channels=3):
    return (
        np.random.default_rng(list(name.encode()))
        .integers(0, 256, (*size, channels), dtype=np.uint8)
        .squeeze()
    )


def indices(size=SIZE):
    """All three classes in stripes."""
    return (np.indices(size).sum(axis=0) // 4 % 3).astype(np.uint8)


def truncate(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])


def disc(size=SIZE):
    rows, columns = np.indices(size)
    return (255 * ((rows - 12) ** 2 + (columns - 15) ** 2 < 60)).astype(np.uint8)


# How a sample (its image, its mask) is spoilt -> the code and the file that must be reported.
SAMPLES = {
    "unreadable": lambda image, mask: image.write_bytes(b"not an image at all"),
    "truncated": lambda image, mask: truncate(image),
    "empty_file": lambda image, mask: mask.write_bytes(b""),
    "too_large": lambda image, mask: Image.fromarray(noise("large", (200, 300))).save(image),
    "no_mask": lambda image, mask: mask.unlink(),
    "no_image": lambda image, mask: image.unlink(),
    "size_mismatch": lambda image, mask: Image.fromarray(indices((24, 31))).save(mask),
    "bad_value": (
        lambda image, mask: Image.fromarray(
            np.where(np.indices(SIZE)[0] == 7, 9, indices()).astype(np.uint8)
        ).save(mask)
    ),
    "mask_0_255": lambda image, mask: None,
    "rgb_without_palette": (
        lambda image, mask: Image.fromarray(noise("colors", (24, 32))).save(mask)
    ),
    "all_ignored": lambda image, mask: Image.fromarray(np.full(SIZE, 255, np.uint8)).save(mask),
    "channels_mixed": lambda image, mask: Image.fromarray(noise("gray", channels=1)).save(image),
    "constant_image": (
        lambda image, mask: Image.fromarray(np.full((*SIZE, 3), 17, np.uint8)).save(image)
    ),
    "empty_mask": lambda image, mask: Image.fromarray(np.zeros(SIZE, np.uint8)).save(mask),
    "one_class_only": lambda image, mask: Image.fromarray(np.ones(SIZE, np.uint8)).save(mask),
    "mask_maybe_0_255": lambda image, mask: Image.fromarray(disc()).save(mask),
}


def both(image, mask, suffix, array, target):
    """Replace the file by one of another format."""
    (image if target == "image" else mask).unlink()
    Image.fromarray(array).save((image if target == "image" else mask).with_suffix(suffix))


SAMPLES |= {
    "nan": lambda image, mask: both(
        image,
        mask,
        ".tif",
        np.where(np.indices(SIZE)[0] == 3, np.nan, 1).astype(np.float32),
        "image",
    ),
    "lossy_mask": lambda image, mask: both(image, mask, ".jpg", disc(), "mask"),
    "lossy_format": lambda image, mask: both(image, mask, ".jpg", np.ones(SIZE, np.uint8), "mask"),
    "size_outlier": lambda image, mask: (
        Image.fromarray(noise("outlier", (24, 140))).save(image),
        Image.fromarray(indices((24, 140))).save(mask),
    ),
    "unsupported": lambda image, mask: (image.unlink(), stack(image.with_suffix(".tif"))),
    "channels": (
        lambda image, mask: Image.fromarray(noise("alpha", channels=2)[..., :2], "LA").save(image)
    ),
}
del SAMPLES["channels"], SAMPLES["mask_0_255"]


def stack(path):
    pages = [Image.fromarray(noise(str(i), channels=1)) for i in range(2)]
    pages[0].save(path, save_all=True, append_images=pages[1:])


@pytest.fixture
def spoilt(tmp_path):
    """A folder with one fault of every kind that single samples and split files can have, between
    sound samples.
    """
    root = tmp_path / "spoilt"
    for kind in ("images", "masks"):
        (root / kind).mkdir(parents=True)
    sound = [f"sound{i:02d}" for i in range(12)]
    for name in [*sound, *SAMPLES, "twin", "double", "lone"]:
        Image.fromarray(noise(name)).save(root / "images" / f"{name}.png")
        Image.fromarray(indices()).save(root / "masks" / f"{name}.png")
    for code, spoil in SAMPLES.items():
        spoil(root / "images" / f"{code}.png", root / "masks" / f"{code}.png")
    Image.open(root / "images" / "sound00.png").save(
        root / "images" / "twin.png", compress_level=1
    )  # the same pixels in another file
    shutil.copy(root / "images" / "sound01.png", root / "images" / "double.png")
    Image.fromarray(noise("x")).save(root / "images" / "sound05.bmp")
    names = [name for name in SAMPLES if name != "no_image"]
    (root / "train.txt").write_text("\n".join([*sound[:8], *names, "double", "sound02"]) + "\n")
    (root / "val.txt").write_text(
        "\n".join(["sound08", "twin", "sound03", "absent", "../sound01"]) + "\n"
    )
    (root / "test.txt").write_bytes("sound09\n\xe4\n".encode("latin-1"))
    (root / "more.txt").write_text("sound10\nnobody\n")
    (root / "groups.csv").write_text("".join(f"{n},g\n" for n in [*sound, "twin"]))
    return root


def settings(root, **more):
    return DataConfig(
        root=str(root),
        **{"classes": ["a", "b", "c"], "task": "multiclass", "max_pixels": 50_000, **more},
    )


# Codes of the layout and between samples, and the file of each.
BETWEEN = {
    "same_stem": "images/sound05.bmp",
    "split_unknown": "val.txt",
    "split_path": "val.txt",
    "split_repeated": "train.txt",
    "split_encoding": "test.txt",
    "stray_split": "more.txt",
    "in_two_splits": ".",
    "duplicate": "images/sound01.png",
    "duplicate_in_two_splits": "images/sound00.png",
    "no_group": "groups.csv",
    "group_in_two_splits": "groups.csv",
    "in_no_split": ".",
    "layout": ".",
}
LATER = {
    "labels",
    "settings",
    "no_split",
    "missing",
    "mask_0_255",
    "channels",
    "sizes_mixed",
    "label",
    "class_absent",
    "colors_contradict",
    "mask_alpha",
    "white_at_0",
    "palettes_differ",
    "other_palette",
    "class_everywhere",
}  # tests of their own


def test_one_fault_of_every_kind_is_found_with_code_and_file_in_one_report(spoilt):
    report = check_data(settings(spoilt), everything=True)
    found = {(issue.code, issue.file) for issue in report.issues}
    for code in SAMPLES:
        assert [file for c, file in found if c == code and Path(file).stem == code], code
    for code, file in BETWEEN.items():
        if code != "layout":
            assert (code, file) in found, code
    assert {*SAMPLES, *BETWEEN, *LATER} == set(KINDS)
    sound = [issue for issue in report.errors if Path(issue.file).stem.startswith("sound")]
    assert {issue.code for issue in sound} == {"same_stem", "duplicate_in_two_splits"}


def test_every_reason_is_one_line_and_the_text_and_the_json_hold_all_errors(spoilt):
    report = check_data(settings(spoilt), everything=True)
    text, data = report.text(), report.to_json()
    assert all("\n" not in issue.reason and issue.reason for issue in report.issues)
    assert all(issue.file in text and issue.reason in text for issue in report.errors)
    assert (
        data["counts"]["errors"]
        == len(report.errors)
        == sum(i["severity"] == "error" for i in data["issues"])
    )
    assert data["ok"] is False
    bad = next(i for i in data["issues"] if i["code"] == "bad_value")
    assert bad["details"] == {
        "values": [{"value": 9, "pixels": 32, "row": 7, "column": 0}],
        "pixels": 32,
    }
    assert bad["samples"] == ["bad_value"]


def test_reasons_name_values_positions_and_fixes(spoilt):
    reasons = {
        issue.code: issue.reason for issue in check_data(settings(spoilt), everything=True).issues
    }
    facts = {
        "bad_value": ["9 at row 7, column 0", "32 pixels", "0..2 or 255 (ignored)"],
        "lossy_mask": ["JPEG", "threshold at 128", "PNG"],
        "nan": ["32 ", "NaN", "row 3, column 0"],
        "size_mismatch": ["24x31", "24x32", "height x width"],
        "duplicate_in_two_splits": ["same pixels", "images/twin.png"],
        "duplicate": ["same file", "images/double.png"],
    }
    for code, parts in facts.items():
        assert all(part in reasons[code] for part in parts), code


@pytest.mark.parametrize("scale", [1, 255])
def test_a_sound_folder_gives_nothing(tmp_path, scale):
    report = check_data(
        DataConfig(root=str(make_folder(tmp_path / "set", scale=scale))), everything=True
    )
    assert report.issues == []
    assert [report.statistics[split].images for split in ("train", "val", "test", "other")] == [
        2,
        2,
        2,
        0,
    ]


def test_nothing_is_written_into_the_data_folder_and_it_may_be_read_only(spoilt):
    before = digest(spoilt)
    for path in [spoilt, *spoilt.rglob("*")]:
        path.chmod(0o555 if path.is_dir() else 0o444)
    check_data(settings(spoilt), everything=True)
    assert digest(spoilt) == before


def one(root, code, **more):
    found = [
        issue
        for issue in check_data(DataConfig(root=str(root), **more)).issues
        if issue.code == code
    ]
    assert len(found) == 1, found
    return found[0]


def test_masks_of_0_and_255_where_indices_are_promised(folder):
    report = check_data(
        DataConfig(
            root=str(folder),
            classes=["a", "b", "c"],
            task="multiclass",
            palette=[[0, 0, 0], [1, 1, 1], [2, 2, 2]],
            ignore_index=9,
        )
    )
    assert [issue.code for issue in report.errors] == ["mask_0_255"] * 6
    assert "mask_values: {0: 0, 255: 1}" in report.errors[0].reason


def test_masks_of_0_and_255_that_would_be_read_as_background_and_void(folder):
    report = check_data(
        DataConfig(
            root=str(folder),
            classes=["a", "b", "c"],
            task="multiclass",
            palette=[[0, 0, 0], [1, 1, 1], [2, 2, 2]],
        )
    )
    assert [issue.code for issue in report.errors] == ["mask_0_255"] * 6


def test_a_value_that_one_mask_alone_has_does_not_hide_what_the_others_mean(folder):
    Image.fromarray(np.full((32, 40), 7, np.uint8)).save(folder / "masks" / "p01.png")
    report = check_data(DataConfig(root=str(folder)))
    assert [(issue.code, issue.file) for issue in report.errors] == [("bad_value", "masks/p01.png")]
    assert "value 7" in report.errors[0].reason
    assert report.label_spec.mask_values == {0: 0, 255: 1}
    (note,) = [note for note in report.notes if "p01.png" in note]
    assert "without 1 of 6 masks" in note
    assert "(7)" in note
    assert report.verdict().startswith("Errors: 1, warnings: 0.")


def test_color_masks_without_a_palette_are_all_named_and_the_rest_still_checked(folder):
    for name in ("p00", "p03"):
        Image.fromarray(noise(name, (32, 40))).save(folder / "masks" / f"{name}.png")
    (folder / "images" / "p01.png").write_bytes(b"")
    codes = {issue.file: issue.code for issue in check_data(DataConfig(root=str(folder))).errors}
    assert codes == {
        "masks/p00.png": "rgb_without_palette",
        "masks/p03.png": "rgb_without_palette",
        "images/p01.png": "empty_file",
    }


def test_gray_masks_stored_as_rgb_are_reported_apart(folder):
    mask = np.asarray(Image.open(folder / "masks" / "p00.png"))
    Image.fromarray(np.stack([mask] * 3, axis=-1)).save(folder / "masks" / "p00.png")
    assert "three equal channels" in one(folder, "rgb_without_palette").reason


def test_images_are_checked_even_if_the_classes_are_unknown(folder):
    for path in (folder / "masks").iterdir():
        Image.fromarray(noise(path.stem, (32, 40))).save(path)
    truncate(folder / "images" / "p02.png")
    codes = [issue.code for issue in check_data(DataConfig(root=str(folder))).errors]
    assert sorted(codes) == ["labels", *["rgb_without_palette"] * 6, "truncated"]


def test_a_broken_dataset_yaml_is_one_entry_and_the_rest_still_checked(folder):
    (folder / "dataset.yaml").write_text("clases: [a, b]\n")
    (folder / "images" / "p01.png").write_bytes(b"")
    report = check_data(DataConfig(root=str(folder)))
    assert {(issue.code, issue.file) for issue in report.errors} == {
        ("settings", "dataset.yaml"),
        ("empty_file", "images/p01.png"),
    }


def test_a_misspelt_split_and_a_split_that_is_simply_not_there(folder):
    assert (
        "no split 'trian'; did you mean 'train'" in one(folder, "no_split", train=["trian"]).reason
    )
    (folder / "val.txt").unlink()
    report = check_data(DataConfig(root=str(folder)))
    assert not report.errors
    assert any("there is no split 'val'" in note for note in report.notes)


def test_a_image_in_train_and_test_is_found_unless_the_split_was_named_for_both(folder):
    (folder / "test.txt").write_text("p00\n")
    report = check_data(DataConfig(root=str(folder), train=["train", "val"], val=["val"]))
    assert [(issue.code, issue.reason) for issue in report.errors] == [
        ("in_two_splits", "1 images are in train + val and in test: p00")
    ]


def test_channels_that_the_network_does_not_take_are_named(folder):
    Image.fromarray(noise("p00", (32, 40))).save(folder / "images" / "p00.png")
    Image.fromarray(noise("p01", (32, 40), 1)).save(folder / "images" / "p01.png")
    report = check_data(DataConfig(root=str(folder), channels=5))
    assert {issue.code for issue in report.errors} == {"channels"}
    assert "has 1 channels and data.channels is 5" in report.errors[1].reason


def test_a_class_that_a_split_never_shows_is_a_warning(folder):
    report = check_data(
        DataConfig(
            root=str(folder),
            classes=["a", "b", "c"],
            task="multiclass",
            mask_values={0: 0, 255: 1, 3: 2},
        )
    )
    assert [issue.reason for issue in report.warnings if issue.code == "class_absent"][
        0
    ] == "train has no pixel of c"
    assert not report.errors


def test_a_file_that_vanishes_is_missing(folder):
    (folder / "images" / "p00.png").unlink()
    (folder / "images" / "p00.png").symlink_to(folder / "nowhere.png")
    assert one(folder, "missing").file == "images/p00.png"


def test_a_folder_without_masks_says_so_beside_its_other_faults(folder):
    shutil.rmtree(folder / "masks")
    (folder / "images" / "p00.png").write_bytes(b"")
    codes = {issue.code for issue in check_data(DataConfig(root=str(folder))).errors}
    assert {"layout", "no_mask", "empty_file"} <= codes


def test_statistics_against_numpy(folder):
    report = check_data(DataConfig(root=str(folder)))
    images = (
        np.stack([np.asarray(Image.open(folder / "images" / f"p{i:02d}.png")) for i in range(2)])
        / 255
    )
    masks = np.stack([np.asarray(Image.open(folder / "masks" / f"p{i:02d}.png")) for i in range(2)])
    train = report.statistics["train"]
    np.testing.assert_allclose(train.mean, images.mean(axis=(0, 1, 2)), atol=1e-7)
    np.testing.assert_allclose(train.std, images.std(axis=(0, 1, 2)), atol=1e-6)
    assert train.pixels.tolist() == [(masks == 0).sum(), (masks == 255).sum()]
    assert train.summary(report.label_spec).startswith("RGB: 2 images; pixels: background ")
    assert train.sizes == {(32, 40): 2}


def test_sixteen_bit_images_and_train_val_test_folders(tmp_path):
    for split in ("train", "val"):
        for kind in ("images", "masks"):
            (tmp_path / split / kind).mkdir(parents=True)
        Image.fromarray(noise(split, channels=1).astype(np.uint16) * 200).save(
            tmp_path / split / "images" / "x.png"
        )
        Image.fromarray(disc()).save(tmp_path / split / "masks" / "x.png")
    (tmp_path / "val" / "images" / "y.png").write_bytes(b"")
    report = check_data(DataConfig(root=str(tmp_path)))
    assert report.statistics["train"].kinds == {"16-bit gray": 1}
    assert [(issue.code, issue.file) for issue in report.errors] == [
        ("empty_file", "val/images/y.png"),
        ("no_mask", "val/images/y.png"),
    ]


def test_a_folder_that_is_not_there_is_one_line():
    with pytest.raises(InputError, match="nowhere: no such folder"):
        check_data(DataConfig(root="nowhere"))


def test_masks_that_are_all_jpeg_are_named_as_such(folder):
    for path in (folder / "masks").iterdir():
        Image.fromarray(disc()).save(path.with_suffix(".jpg"))
        path.unlink()
    errors = check_data(DataConfig(root=str(folder)), progress=False).errors
    lossy = [issue for issue in errors if issue.code == "lossy_mask"]
    assert len(lossy) == sum(path.suffix == ".jpg" for path in (folder / "masks").iterdir())
    assert "threshold at 128 and save as PNG" in lossy[0].reason


def test_floats_among_integers_are_an_error_of_the_fewer(folder):
    image = sorted((folder / "images").iterdir())[0]
    tifffile.imwrite(
        image.with_suffix(".tif"), noise("float").astype(np.float32) / 255, photometric="rgb"
    )
    image.unlink()
    found = [
        issue
        for issue in check_data(
            DataConfig(root=str(folder)), everything=True, progress=False
        ).errors
        if issue.code == "channels"
    ]
    assert [(issue.file, issue.samples[0].name) for issue in found] == [
        (f"images/{image.stem}.tif", image.stem)
    ]
    assert "most images hold integers" in found[0].reason


def coco(root, names, **changes):
    """A set in COCO's form with one object an image."""
    (root / "images").mkdir(parents=True)
    images = [
        {"id": i, "file_name": name, "height": 24, "width": 32} for i, name in enumerate(names)
    ]
    annotation = {"category_id": 1, "segmentation": [[2, 2, 12, 2, 12, 9]]} | changes
    content = {
        "images": images,
        "annotations": [annotation | {"image_id": i} for i in range(len(names))],
        "categories": [{"id": 1, "name": "cell"}],
    }
    (root / "annotations.json").write_text(json.dumps(content))
    for name in names:
        Image.fromarray(noise(name)).save(root / "images" / name)
    return root


def test_the_rules_of_the_folder_form_are_not_those_of_coco(tmp_path):
    root = coco(tmp_path / "set", ["a.png", "a.bmp", "b.png", "c.png"])
    Image.fromarray(noise("other")).save(root / "images" / "not_in_the_file.png")
    assert check_data(DataConfig(root=str(root)), everything=True, progress=False).issues == []


def test_a_fault_of_the_coco_file_is_reported_once(tmp_path):
    root = coco(tmp_path / "set", ["a.png", "b.png", "c.png"], segmentation=None)
    issues = check_data(DataConfig(root=str(root)), everything=True, progress=False).issues
    assert [issue.code for issue in issues] == ["layout"]
    assert "annotations[0] needs a segmentation" in issues[0].reason


def test_what_is_no_regular_file_is_named_and_its_name_shown_as_text(tmp_path):
    root = make_folder(tmp_path / "set", count=8)
    (root / "train.txt").write_text("p00\np01\npipe\nfolder\ngone\nlayer\n")
    os.mkfifo(root / "images" / "pipe.png")
    (root / "images" / "folder.png").mkdir()
    (root / "images" / "gone.png").symlink_to("gone.png")
    for name in ("pipe", "folder", "gone"):
        shutil.copy(root / "masks" / "p00.png", root / "masks" / f"{name}.png")
    shutil.copy(root / "images" / "p00.png", root / "images" / "layer.png")
    os.mkfifo(root / "masks" / "layer.png")
    shutil.copy(root / "images" / "p01.png", root / "images" / "\x1b[31mred\n.png")
    report = check_data(DataConfig(root=str(root)), everything=True)
    found = {issue.file: issue.code for issue in report.errors}
    assert found["images/pipe.png"] == found["masks/layer.png"] == "unreadable"
    assert found["images/folder.png"] == "unreadable"
    assert found["images/gone.png"] == "missing"
    assert "\x1b" not in report.text()
    assert "\\x1b[31mred\\n.png" in report.text()


def test_files_with_the_same_reason_share_a_line(tmp_path):
    """In the report, in the error of a training, and on the page, which lists all names."""
    folder = make_folder(tmp_path / "data", 8)
    report = check_data(DataConfig(root=str(folder), channels=4))
    (line,) = [line for line in report.text().splitlines() if "data.channels is 4" in line]
    images = [issue.file for issue in report.errors if issue.code == "channels"]
    assert len(images) == 8
    assert all(file in line for file in images[:5])
    assert "8 in all" in line
    (line,) = report.lines(report.errors)
    assert str(folder / images[0]) in line
    page = render_check(report)
    assert page.count("and data.channels is 4") == 1
    assert all(page.count(f"<code>{file}</code>") == 1 for file in images)
    assert len([issue for issue in report.to_json()["issues"] if issue["code"] == "channels"]) == 8


def test_reasons_are_in_the_language_of_the_user_and_codes_are_not(spoilt, monkeypatch):
    english = check_data(settings(spoilt), everything=True)
    monkeypatch.setenv("KANSEG_LANG", "zh")
    chinese = check_data(settings(spoilt), everything=True)
    assert [issue.code for issue in chinese.issues] == [issue.code for issue in english.issues]
    reasons = {issue.code: issue.reason for issue in chinese.issues}
    for code in ("size_mismatch", "bad_value", "no_mask", "size_outlier", "duplicate"):
        assert re.search("[\u4e00-\u9fff]", reasons[code]), code
    assert "24x31" in reasons["size_mismatch"]
    text = chinese.text()
    assert KINDS["nan"].title not in text
    assert chinese_texts()[KINDS["nan"].title] in text


def test_masks_with_different_bad_values_share_a_line(folder):
    for position, value in enumerate((3, 3, 7, 12)):
        mask = np.zeros((32, 40), np.uint8)
        mask[position, position] = value
        Image.fromarray(mask).save(folder / "masks" / f"p0{position}.png")
    values, classes = {0: 0, 255: 1}, ["background", "foreground"]
    report = check_data(DataConfig(root=str(folder), mask_values=values, classes=classes))
    assert [issue.code for issue in report.errors] == ["bad_value"] * 4
    (line,) = report.lines(report.errors)
    assert "value 3, 7, 12 is" in line
    assert all(f"p0{position}.png" in line for position in range(4))
    assert "row 2, column 2" in report.errors[2].reason


def test_faults_from_the_cache_are_in_the_language_of_the_user(folder, monkeypatch):
    truncate(folder / "images" / "p02.png")
    (english,) = check_data(DataConfig(root=str(folder))).errors
    monkeypatch.setenv("KANSEG_LANG", "zh")
    report = check_data(DataConfig(root=str(folder)))
    (chinese,) = report.errors
    assert report.prober.decoded == 0
    assert "damaged" in english.reason
    assert "damaged" not in chinese.reason
    assert re.search("[\u4e00-\u9fff]", chinese.reason)
