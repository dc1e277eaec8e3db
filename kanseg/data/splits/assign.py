"""Divide samples into splits and folds by a seeded hash of their names or groups."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import TypeVar

from kanseg.utils.errors import InputError
from kanseg.utils.language import translate
from kanseg.utils.registry import nearest

SPLITS = ("train", "val", "test")
BORDERS = (0.15, 0.30)  # of the hashes: val below the first, test below the second
T = TypeVar("T")


def share_of(unit: str, seed: int, purpose: str = "split") -> float:
    """Return a hash from 0 to below 1 that depends only on the arguments. It is uniform over the
    units (names or groups) and the same on every computer.
    """
    digest = hashlib.blake2b(f"{purpose}:{seed}:{unit}".encode(), digest_size=7).digest()
    return int.from_bytes(digest, "big") / 2**56


def seeded_split(
    root: Path,
    names: Sequence[str],
    groups: Mapping[str, str] | None,
    seed: int,
    notes: list[str],
    *,
    units: Mapping[str, str] | None = None,
) -> dict[str, list[str]]:
    """Split names into about 70 % train, 15 % val and 15 % test by a seeded hash of the name, or of
    the group if there are groups.

    The split of a name depends only on the seed and on the name (or its group), so that names keep
    their split when a data set grows or shrinks. If train, val or test would be empty, the units
    with the nearest hashes fill it; when such a set grows, they may return to train, while a name
    in train stays there (unless hardly any unit has a hash of train).

    Args:
        root: of the data set, for messages.
        names: of the samples.
        groups: name -> group.
        seed: of the hash.
        notes: receives a line about the split.
        units: name -> text that is hashed instead of the name, if names change as a set grows.

    Raises:
        InputError: fewer than three groups, or a sample without a group.
    """
    unit_of = group_each(root, names, groups)
    if groups is None and units is not None:
        unit_of = {name: units[name] for name in names}
    shares = {unit: share_of(unit, seed) for unit in set(unit_of.values())}
    if len(shares) < 3:
        raise InputError(
            "a split into train, val and test needs at least 3 images (or groups), found {count}",
            count=len(shares),
            where=root,
        )
    order = sorted(shares, key=lambda unit: (shares[unit], unit))
    by_hash = [sum(share < border for share in shares.values()) for border in BORDERS]
    # At least one unit each: val is order[:first], test order[first:second], train the rest.
    second = min(max(by_hash[1], 2), len(order) - 1)
    first = min(max(by_hash[0], 1), second - 1)
    split_of = dict.fromkeys(order, "train")
    split_of |= dict.fromkeys(order[:first], "val")
    split_of |= dict.fromkeys(order[first:second], "test")
    result: dict[str, list[str]] = {"train": [], "val": [], "test": []}
    for name in names:
        result[split_of[unit_of[name]]].append(name)
    hashed = translate("the name")
    if groups is not None:
        hashed = translate("the group ({count} groups of groups.csv)", count=len(shares))
    filled = ""
    if [first, second] != by_hash:
        filled = translate(" (a split would be empty, so the nearest hashes fill it)")
    sizes = ", ".join(f"{len(members)} {split}" for split, members in result.items())
    notes.append(
        translate(
            "no split files: split by seed {seed}, by a hash of {hashed}, into {sizes}{filled}",
            seed=seed,
            hashed=hashed,
            sizes=sizes,
            filled=filled,
        )
    )
    return result


def group_each(
    root: Path, names: Sequence[str], groups: Mapping[str, str] | None
) -> dict[str, str]:
    """Return the group of each name, or the name itself if there are no groups.

    Raises:
        InputError: a name has no group.
    """
    if groups is None:
        return {name: name for name in names}
    missing = [name for name in names if name not in groups]
    if missing:
        raise InputError(
            "{count} images have no group (the first: {name!r}{hint})",
            count=len(missing),
            name=missing[0],
            hint=nearest(missing[0], groups),
            where=root / "groups.csv",
        )
    return {name: groups[name] for name in names}


def cut_folds(items: Sequence[T], groups: Sequence[str], folds: int, seed: int) -> list[list[T]]:
    """Divide items into `folds` parts by a seeded hash of the name of their group.

    Items keep their fold when a set grows, and the parts have about the same size if there are many
    groups. An empty part gets the group with the smallest hash of the part with the most groups.

    Args:
        items: to be divided; parts keep their order.
        groups: group of each item; at least as many groups as folds.
        folds: number of parts.
        seed: of the hash.
    """
    fold_of = {group: int(share_of(group, seed, "fold") * folds) for group in set(groups)}
    members: list[list[str]] = [[] for _ in range(folds)]
    for group in sorted(fold_of):
        members[fold_of[group]].append(group)
    for fold in range(folds):
        if not members[fold]:
            largest = max(members, key=len)
            moved = min(largest, key=lambda group: (share_of(group, seed, "fill"), group))
            largest.remove(moved)
            members[fold].append(moved)
            fold_of[moved] = fold
    parts: list[list[T]] = [[] for _ in range(folds)]
    for item, group in zip(items, groups, strict=True):
        parts[fold_of[group]].append(item)
    return parts


def check_folds(
    folds: int, fold: int, *, train: Sequence[str], val: Sequence[str], test: Sequence[str]
) -> None:
    """Check the settings of a cross-validation.

    Args:
        folds, fold: `data.folds` and `data.fold`.
        train, val, test: names of the splits.

    Raises:
        InputError: a number out of range, or splits that cannot be pooled.
    """
    if folds < 0 or folds == 1:
        raise InputError("data.folds must be 0 (none) or at least 2, got {folds}", folds=folds)
    if not 0 <= fold < max(folds, 1):
        allowed = translate("0 without data.folds")
        if folds:
            allowed = translate("from 0 to {last}", last=folds - 1)
        raise InputError("data.fold must be {allowed}, got {fold}", allowed=allowed, fold=fold)
    if not folds:
        return
    if not train or not val:
        raise InputError(
            "data.folds pools the splits of data.train and data.val: each needs a name, such as"
            " [train] and [val]"
        )
    twice = set(train) & set(val) | {*train, *val} & set(test)
    if twice:
        raise InputError(
            "data.folds pools train and val, but split {split!r} is used twice; name it in only"
            " one of data.train, data.val, data.test",
            split=min(twice),
        )


def crossing_groups(groups: Mapping[str, str], names: Mapping[str, Iterable[str]]) -> list[str]:
    """Return a warning for each pair of train, val and test with common groups.

    Args:
        groups: name -> group; names without a group do not count.
        names: train, val and test -> names.
    """
    found = {}
    for split, members in names.items():
        found[split] = {groups[name] for name in members if name in groups}
    lines = []
    for one, other in combinations(found, 2):
        both = sorted(found[one] & found[other])
        if both:
            lines.append(
                translate(
                    "warning: {count} groups of groups.csv are in {one} and in {other} (the first:"
                    " {name}); scores on {other} may be too good",
                    count=len(both),
                    one=one,
                    other=other,
                    name=both[0],
                )
            )
    return lines
