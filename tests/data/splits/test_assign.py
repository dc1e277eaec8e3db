import hashlib
from collections import Counter
from pathlib import Path

import pytest

from kanseg.data.splits import crossing_groups, cut_folds, seeded_split, share_of
from kanseg.utils.errors import InputError


def deal(names, seed=0, groups=None):
    parts = seeded_split(Path("set"), sorted(names), groups, seed, [])
    return {name: split for split, members in parts.items() for name in members}


def test_the_side_of_a_name_is_that_of_its_hash():
    sides = deal([f"n{i}" for i in range(2000)], seed=3)
    for name, side in sides.items():
        digits = hashlib.blake2b(f"split:3:{name}".encode(), digest_size=7).hexdigest()
        share = int(digits, 16) / 16**14
        assert side == ("val" if share < 0.15 else "test" if share < 0.3 else "train")
    counts = Counter(sides.values())  # binomial: 300 +- 16
    assert 250 < counts["val"] < 350
    assert 250 < counts["test"] < 350


def test_a_set_that_grows_or_shrinks_keeps_its_sides():
    names = [f"{i:03d}" for i in range(100)]
    before = deal(names)
    after = deal([*names, "050b", "zz", "000a"])
    assert all(after[name] == before[name] for name in names)
    fewer = deal(names[:50] + names[51:])
    assert all(fewer[name] == before[name] for name in fewer)


def test_what_was_trained_on_is_never_measured_however_small_the_set_begins():
    moved = 0
    for seed in range(40):
        trained = set()
        for count in range(3, 40):
            names = [f"p{i}" for i in range(count)]
            sides = deal(names, seed)
            assert set(sides.values()) == {"train", "val", "test"}
            by_hash = [share_of(name, seed) for name in names]
            if sum(share < 0.3 for share in by_hash) < count:  # else train is filled up too
                moved += len(trained & {name for name in names if sides[name] != "train"})
                trained |= {name for name in names if sides[name] == "train"}
    assert moved == 0


def test_a_group_is_split_by_its_name():
    groups = {f"n{i}": f"g{i // 4}" for i in range(400)}
    sides = deal(groups, groups=groups)
    assert {groups[name]: side for name, side in sides.items()} == deal(set(groups.values()))
    grown = groups | {"n400": "g3", "n401": "g200"}
    after = deal(grown, groups=grown)
    assert all(after[name] == side for name, side in sides.items())
    assert after["n400"] == sides["n12"]


def test_filling_an_empty_split_is_noted():
    notes = []
    parts = seeded_split(Path("set"), ["a", "b", "c"], None, 0, notes)
    assert all(len(members) == 1 for members in parts.values())
    assert "nearest hashes fill it" in notes[0]
    with pytest.raises(InputError, match="at least 3 images"):
        seeded_split(Path("set"), ["a", "b"], None, 0, [])


def test_folds_hold_each_item_once_and_about_as_many_each():
    items = list(range(2000))
    parts = cut_folds(items, [str(i) for i in items], 5, seed=3)
    assert sorted(sum(parts, [])) == items
    assert all(340 < len(part) < 460 for part in parts)  # binomial: 400 +- 18
    assert parts == cut_folds(items, [str(i) for i in items], 5, seed=3)
    assert parts != cut_folds(items, [str(i) for i in items], 5, seed=4)


def test_folds_keep_their_items_as_a_set_grows():
    items = [f"{i:03d}" for i in range(100)]
    before = cut_folds(items, items, 5, 0)
    after = cut_folds([*items, "050b"], [*items, "050b"], 5, 0)
    assert all(set(one) <= set(other) for one, other in zip(before, after, strict=True))


def test_groups_stay_together_and_no_fold_is_empty():
    for seed in range(50):
        groups = [f"g{i // 3}" for i in range(15)]
        parts = cut_folds(list(range(15)), groups, 5, seed)
        assert all(parts)
        found = [{groups[i] for i in part} for part in parts]
        assert sum(map(len, found)) == 5


def test_groups_in_two_splits_are_named():
    lines = crossing_groups(
        {"a": "g", "b": "g", "c": "h"}, {"train": ["a"], "val": ["b", "x"], "test": ["c"]}
    )
    assert len(lines) == 1
    assert "1 groups of groups.csv are in train and in val (the first: g)" in lines[0]
