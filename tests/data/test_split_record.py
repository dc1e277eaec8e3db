import hashlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from kanseg.data.io.rasterize import Annotation, Region
from kanseg.data.sample import Sample
from kanseg.data.split_record import (
    NOTHING,
    Content,
    SplitRecord,
    file_digest,
    keep_splits,
    leave_out_trained,
    mask_digest,
    name_of,
    read_record,
    sample_contents,
    unit_of,
)
from kanseg.utils.errors import InputError


def content(number):
    return Content(f"{number:016x}", f"{number + 1000:016x}")


def members(*numbers):
    return {f"images/{number}.png": content(number) for number in numbers}


def record(**options):
    splits = {"train": members(3, 0, 2, 1), "val": members(4, 5), "test": members(6, 7)}
    return SplitRecord(splits, **options)


def names(kept, split):
    return [int(Path(name).stem) for name in kept.members[split]]


def test_a_record_is_read_back_equal_and_a_damaged_one_named(tmp_path):
    one = record(earlier=(("images/9.png", content(9)), ("images/9.png", content(8))))
    (tmp_path / "split.json").write_text(one.to_json(), encoding="utf-8")
    assert read_record(tmp_path) == one
    assert list(read_record(tmp_path).splits["train"]) == list(one.splits["train"])
    for text in ("", "[]", "{}", one.to_json()[:-30], one.to_json().replace('"masks"', '"mask"')):
        (tmp_path / "split.json").write_text(text, encoding="utf-8")
        with pytest.raises(InputError, match="damaged"):
            read_record(tmp_path)
    (tmp_path / "split.json").unlink()
    assert read_record(tmp_path) is None


def test_two_hundred_thousand_samples_take_about_ten_megabytes():
    many = {f"images/{number:06d}.png": content(number) for number in range(200_000)}
    assert len(SplitRecord({"train": many}).to_json()) < 12e6


def test_the_digest_is_blake2b_of_the_bytes(tmp_path):
    data = np.random.default_rng(0).bytes(3_000_000)
    (tmp_path / "a").write_bytes(data)
    assert file_digest(tmp_path / "a") == hashlib.blake2b(data, digest_size=8).hexdigest()
    ends = b"3000000" + data[:65536] + data[-65536:]
    sampled = file_digest(tmp_path / "a", ends_only=True)
    assert sampled == hashlib.blake2b(ends, digest_size=8).hexdigest()
    assert file_digest(tmp_path / "b") == NOTHING


def test_the_digest_of_shapes_tells_what_is_drawn():
    square = [np.array([[0.0, 0], [4, 0], [4, 4]])]
    one = Annotation(Path("a.json"), 1, (8, 8), (Region(1, square, 8.0),))
    other_file = Annotation(Path("b.json"), 7, (8, 8), (Region(1, square, 8.0),))
    moved = Annotation(Path("a.json"), 1, (8, 8), (Region(1, [square[0] + 1], 8.0),))
    crowd = Annotation(Path("a.json"), 1, (8, 8), (Region(1, square, 8.0, crowd=True),))
    runs = Annotation(
        Path("a.json"), 1, (8, 8), (Region(1, {"size": [8, 8], "counts": [64]}, 8.0),)
    )
    assert mask_digest(one) == mask_digest(other_file)
    assert len({mask_digest(each) for each in (one, moved, crowd, runs, None)}) == 5


def test_names_are_below_the_root_and_the_same_on_every_system():
    root = Path("somewhere/set")
    assert name_of(root / "images" / "a\u0308.png", root) == "images/\u00e4.png"
    assert unit_of(Sample("a", root / "train" / "images" / "a.b.png"), root) == "train/images/a.b"


def test_what_is_as_it_was_keeps_its_order():
    now = {"train": members(0, 1, 2, 3), "val": members(5, 4), "test": members(6, 7)}
    kept = keep_splits(record(), now, where="set")
    assert (names(kept, "train"), names(kept, "val")) == ([3, 0, 2, 1], [4, 5])
    assert kept.lines == []
    assert kept.record == record()


def test_new_samples_are_named_and_left_out():
    now = {"train": members(0, 1, 2, 3, 8), "val": members(4, 5), "test": members(6, 7, 9)}
    kept = keep_splits(record(), now, where="set")
    assert (names(kept, "train"), names(kept, "test")) == ([3, 0, 2, 1], [6, 7])
    assert len(kept.lines) == 1
    assert "2 images are new" in kept.lines[0]
    assert "images/8.png, images/9.png" in kept.lines[0]
    accepted = keep_splits(record(), now, where="set", accept=True)
    assert names(accepted, "train") == [0, 1, 2, 3, 8]
    assert names(accepted, "test") == [6, 7, 9]


CHANGES = {
    "missing from train: 1 images: images/2.png": {"train": members(0, 1, 3)},
    "moved from train to test: 1 images: images/2.png": {
        "train": members(0, 1, 3),
        "test": members(2, 6, 7),
    },
    "moved from test to train: 2 images": {"train": members(0, 1, 2, 3, 6, 7), "test": {}},
    "another image under the name [(]train[)]: 1 images: images/2.png": {
        "train": members(0, 1, 3) | {"images/2.png": content(22)}
    },
    "another mask or label [(]train[)]: 1 images: images/2.png": {
        "train": members(0, 1, 3) | {"images/2.png": Content(content(2).image, NOTHING)}
    },
    "images/2.png is now images/new.png": {
        "train": members(0, 1, 3) | {"images/new.png": content(2)}
    },
    "moved from train to val: 1 images: images/2.png": {
        "train": members(0, 1, 3),
        "val": members(4, 5) | {"images/new.png": content(2)},
    },
}


@pytest.mark.parametrize("message", CHANGES)
def test_a_change_is_refused_with_what_changed_and_accepted_if_asked(message):
    now = {"train": members(0, 1, 2, 3), "val": members(4, 5), "test": members(6, 7)}
    now |= CHANGES[message]
    with pytest.raises(InputError, match=message):
        keep_splits(record(), now, where="set")
    kept = keep_splits(record(), now, where="set", accept=True)
    assert kept.members == {split: list(some) for split, some in now.items()}
    assert kept.lines


def test_what_was_trained_on_before_an_accepted_change_stays_known():
    now = {"train": members(0, 4), "val": members(1, 5), "test": members(2, 6, 7)}
    kept = keep_splits(record(), now, where="set", accept=True)
    assert any("1 of 3 images of test" in line for line in kept.lines)
    assert any("1 of 2 images of val" in line for line in kept.lines)
    assert {name for name, _ in kept.record.trained} == {*members(0, 1, 2, 3, 4)}
    again = keep_splits(kept.record, now, where="set", accept=True)
    assert {name for name, _ in again.record.trained} == {*members(0, 1, 2, 3, 4)}


def test_another_seeded_split_moves_nothing():
    now = {"train": members(0, 1, 2, 4), "val": members(3, 5), "test": members(6, 7)}
    with pytest.raises(InputError, match="moved from train to val"):
        keep_splits(record(), now, where="set")
    kept = keep_splits(record(), now, where="set", seeded=("train", "val"))
    assert (names(kept, "train"), names(kept, "val")) == ([3, 0, 2, 1], [4, 5])
    assert "images/3.png, images/4.png" in kept.lines[0]


def test_a_test_split_that_is_chosen_anew_must_not_have_been_trained_on():
    now = {"train": members(0, 1, 2, 3), "val": members(4, 5), "test": members(10, 11)}
    assert names(keep_splits(record(), now, where="set", changed=["test"]), "test") == [10, 11]
    now["test"] = {"other/name.png": content(2)}
    with pytest.raises(InputError, match="trained on, .*in test: 1 .*other/name.png"):
        keep_splits(record(), now, where="set", changed=["test"])


@pytest.fixture
def images(tmp_path):
    """Eight samples under tmp_path/set, and the record of a run that trained on 0 to 3."""
    (tmp_path / "set" / "images").mkdir(parents=True)
    samples = []
    for number in range(8):
        path = tmp_path / "set" / "images" / f"{number}.png"
        Image.fromarray(np.full((4, 4), number, np.uint8)).save(path)
        samples.append(Sample(str(number), path))
    contents = sample_contents(samples, tmp_path / "set")
    parts = {"train": samples[:4], "val": samples[4:6], "test": samples[6:]}
    splits = {
        split: {name_of(sample.image, tmp_path / "set"): contents[sample] for sample in some}
        for split, some in parts.items()
    }
    return tmp_path / "set", samples, SplitRecord(splits)


def untrained(images, samples, **options):
    root, _, stored = images
    options = {"root": root, "same_set": True, "splits": {"test"}} | options
    return leave_out_trained(stored, samples, **options)


def test_what_was_trained_on_is_left_out_and_named(images):
    _, samples, _ = images
    result = untrained(images, [samples[1], *samples[6:]])
    assert (result.keep, result.left_out) == (samples[6:], [samples[1]])
    assert "1 of 3 images" in result.lines[0]
    assert "images/1.png" in result.lines[0]
    fine = untrained(images, samples[6:])
    assert fine.keep == samples[6:]
    assert len(fine.lines) == 1
    assert "none of these 2 images" in fine.lines[0]


def test_a_renamed_and_a_copied_image_are_known_by_their_content(images, tmp_path):
    root, samples, _ = images
    renamed = Sample("new", root / "images" / "new.png")
    renamed.image.write_bytes(samples[2].image.read_bytes())
    elsewhere = Sample("x", tmp_path / "other" / "x.png")
    elsewhere.image.parent.mkdir()
    elsewhere.image.write_bytes(samples[3].image.read_bytes())
    assert untrained(images, [renamed, samples[6]]).left_out == [renamed]
    options = {"root": tmp_path / "other", "same_set": False}
    assert untrained(images, [elsewhere], **options).left_out == [elsewhere]


def test_an_image_that_was_saved_anew_is_known_by_its_name_in_the_same_set_alone(images):
    _, samples, _ = images
    Image.fromarray(np.full((4, 4), 99, np.uint8)).save(samples[2].image)
    assert untrained(images, [samples[2], samples[6]]).left_out == [samples[2]]
    Image.fromarray(np.full((4, 4), 98, np.uint8)).save(samples[6].image)
    options = {"same_set": False}  # a stranger's 2.png
    assert untrained(images, [samples[2], samples[6]], **options).left_out == []
    samples[6].image.write_bytes(samples[7].image.read_bytes())
    # A set that was moved is known by what it holds.
    assert untrained(images, [samples[2], samples[7]], **options).left_out == [samples[2]]


def test_a_requested_training_split_is_evaluated_and_logged(images):
    _, samples, _ = images
    result = untrained(images, samples[:4], splits={"train"}, requested_train=samples[:4])
    assert result.keep == samples[:4]
    assert any("4 of these images" in line for line in result.lines)


def test_new_changed_and_missing_images_of_the_test_are_named(images):
    root, samples, _ = images
    new = Sample("new", root / "images" / "new.png")
    Image.fromarray(np.full((4, 4), 77, np.uint8)).save(new.image)
    Image.fromarray(np.full((4, 4), 78, np.uint8)).save(samples[7].image)
    lines = "\n".join(untrained(images, [new, samples[7], samples[4]]).lines)
    assert "1 images are new since the training: images/new.png" in lines
    assert "1 images or masks have changed since the training: images/7.png" in lines
    assert "1 images selected the weights of this run (its split val): images/4.png" in lines
    assert "1 images that this run has in test" in lines
    assert ": images/6.png" in lines


def test_a_blank_image_in_train_and_test_of_the_run_itself_is_measured(images):
    root, samples, _ = images
    samples[6].image.write_bytes(samples[0].image.read_bytes())
    contents = sample_contents(samples, root)
    splits = {
        "train": {"images/0.png": contents[samples[0]]},
        "test": {"images/6.png": contents[samples[6]]},
    }
    assert leave_out_trained(
        SplitRecord(splits), [samples[6]], root=root, same_set=True, splits={"test"}
    ).keep == [samples[6]]


def test_a_run_without_a_record_is_logged_and_not_refused(images):
    root, samples, stored = images
    result = leave_out_trained(None, samples, root=root, same_set=True, splits={"test"})
    assert result.keep == samples
    assert "no record of its splits" in result.lines[0]
    older = SplitRecord(stored.splits, complete=False)
    result = leave_out_trained(older, samples[6:], root=root, same_set=True, splits={"test"})
    assert "older version" in result.lines[0]
