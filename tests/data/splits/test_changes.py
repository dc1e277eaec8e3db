from pathlib import Path

import pytest

from kanseg.data.splits.changes import keep_splits
from kanseg.data.splits.record import NOTHING, Content
from kanseg.utils.errors import InputError
from tests.data.splits.test_record import content, members, record


def names(kept, split):
    return [int(Path(name).stem) for name in kept.members[split]]


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
