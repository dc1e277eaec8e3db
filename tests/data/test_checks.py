import numpy as np
from PIL import Image

from kanseg.data import check_samples, overlapping, read_folder


def all_samples(folder):
    return [s for samples in folder.splits.values() for s in samples]


def test_all_faults_are_reported_at_once(folder):
    found = read_folder(folder)
    (folder / "masks" / "p00.png").unlink()
    Image.fromarray(np.full((32, 40), 7, np.uint8)).save(folder / "masks" / "p01.png")
    Image.fromarray(np.zeros((3, 3), np.uint8)).save(folder / "masks" / "p02.png")
    (folder / "images" / "p03.png").write_bytes(b"broken")
    again = read_folder(folder, {"task": "binary", "classes": ["a", "b"], "mask_values": found.info.mask_values})
    report = check_samples(all_samples(again), again.info)
    text = "\n".join(report.faults.values())
    assert len(report.faults) == 4
    assert "p00.png: the picture has no mask" in text
    assert "value 7 at row 0" in text
    assert "the mask is 3x3 and the picture 40x32" in text
    assert "p03.png: not a picture" in text
    assert {s.name for s in report.faults} == {"p00", "p01", "p02", "p03"}


def test_summary_counts_kinds_and_classes(folder):
    found = read_folder(folder)
    report = check_samples(all_samples(found), found.info)
    assert report.pixels.sum() == 6 * 32 * 40
    assert report.summary(found.info).startswith("RGB: 6 pictures; pixels: background ")


def test_a_picture_in_train_and_test_is_found_unless_the_split_was_named_for_both(folder):
    (folder / "test.txt").write_text("p00\n")
    found = read_folder(folder)
    faults = overlapping(found, {"train": ["train", "val"], "val": ["val"], "test": ["test"]})
    assert faults == [f"{folder}: 1 pictures are in train + val and in test (the first: p00)"]
