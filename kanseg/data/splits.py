"""Which samples are trained on, and which are held out: lists of names, a seeded split, folds,
groups.
"""

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from kanseg.utils.errors import InputError
from kanseg.utils.registry import nearest

SPLITS = ("train", "val", "test")
BORDERS = (0.15, 0.30)  # of the hashes: val below the first, test below the second
T = TypeVar("T")


def nfc(text: str) -> str:
    """Composed letters, so that names from other systems compare equal."""
    return unicodedata.normalize("NFC", text)


def share_of(unit: str, seed: int, purpose: str = "split") -> float:
    """A number from 0 to below 1 that depends on nothing but the arguments: evenly spread over the
    units (names, or groups), and the same on every machine.
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
    """About 70 % train, 15 % val, 15 % test, by a seeded hash of the name, or of the group where
    there are groups; what was done goes into notes.

    The side of a name depends on the seed and on itself (or its group) alone, so that a set that
    grows or shrinks keeps its sides. Only where val, test or train would be empty do the units that
    are nearest to the border fill it; as such a set grows they may go back to train, while a name
    that was in train stays there (unless hardly any unit has a hash of train).

    Args:
        root: of the set.
        names: of the samples.
        groups: name -> group.
        seed: of the hash.
        notes: get what was decided.
        units: name -> what is hashed instead of the name, where names themselves change as a set
            grows.

    Raises:
        InputError: fewer than three groups, or a sample without one.
    """
    unit_of = group_each(root, names, groups)
    if groups is None and units is not None:
        unit_of = {name: units[name] for name in names}
    shares = {unit: share_of(unit, seed) for unit in set(unit_of.values())}
    if len(shares) < 3:
        raise InputError(
            f"{root}: a split into train, val and test needs at least 3 images (or groups), found"
            f" {len(shares)}"
        )
    order = sorted(shares, key=lambda unit: (shares[unit], unit))
    by_hash = [sum(share < border for share in shares.values()) for border in BORDERS]
    # At least one unit each: val is order[:first], test order[first:second], train the rest.
    second = min(max(by_hash[1], 2), len(order) - 1)
    first = min(max(by_hash[0], 1), second - 1)
    side = dict.fromkeys(order[:first], "val") | dict.fromkeys(order[first:second], "test")
    result = {
        split: [name for name in names if side.get(unit_of[name], "train") == split]
        for split in SPLITS
    }
    by = "the name" if groups is None else f"the group ({len(shares)} groups of groups.csv)"
    filled = ""
    if [first, second] != by_hash:
        filled = " (so few that the nearest ones fill a split that had none)"
    notes.append(
        f"no split files: split by seed {seed}, by a hash of {by}, into "
        + ", ".join(f"{len(v)} {k}" for k, v in result.items())
        + filled
    )
    return result


def group_each(
    root: Path, names: Sequence[str], groups: Mapping[str, str] | None
) -> dict[str, str]:
    """The group of each name, itself where there are no groups; a name without one is an
    InputError.
    """
    if groups is None:
        return {name: name for name in names}
    missing = [name for name in names if name not in groups]
    if missing:
        raise InputError(
            f"{root / 'groups.csv'}: {len(missing)} images have no group (the first:"
            f" {missing[0]!r}{nearest(missing[0], groups)})"
        )
    return {name: groups[name] for name in names}


def cut_folds(items: Sequence[T], groups: Sequence[str], folds: int, seed: int) -> list[list[T]]:
    """Items -> `folds` parts, items of one group together, each group by a seeded hash of its name:
    a set that grows keeps its folds, and the parts are of about the same size for many groups.

    A part that would be empty gets the group with the smallest hash of the part with most groups.

    Args:
        items: what is cut; parts keep their order.
        groups: of each item; at least as many as folds.
        folds: number of parts.
        seed: of the hash.
    """
    part = {group: int(share_of(group, seed, "fold") * folds) for group in set(groups)}
    members = [sorted(group for group in part if part[group] == fold) for fold in range(folds)]
    for fold in range(folds):
        if not members[fold]:
            largest = max(members, key=len)
            moved = min(largest, key=lambda group: (share_of(group, seed, "fill"), group))
            largest.remove(moved)
            members[fold].append(moved)
            part[moved] = fold
    return [
        [item for item, group in zip(items, groups, strict=True) if part[group] == fold]
        for fold in range(folds)
    ]


def crossing_groups(groups: Mapping[str, str], names: Mapping[str, Iterable[str]]) -> list[str]:
    """A line for each two roles (train, val, test) that share groups; names without a group count
    for nothing.
    """
    found = {
        role: {groups[name] for name in members if name in groups}
        for role, members in names.items()
    }
    roles, lines = list(found), []
    for i, one in enumerate(roles):
        for other in roles[i + 1 :]:
            both = sorted(found[one] & found[other])
            if both:
                lines.append(
                    f"warning: {len(both)} groups of groups.csv are in {one} and in {other} (the"
                    f" first: {both[0]}); scores on {other} may flatter"
                )
    return lines
