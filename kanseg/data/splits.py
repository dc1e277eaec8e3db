"""Which samples are trained on, and which are held out: lists of names, a seeded split, folds,
groups.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np

from kanseg.errors import InputError
from kanseg.reading import parse_csv, read_text
from kanseg.registry import nearest

SPLITS = ("train", "val", "test")
NO_SPLITS = ("readme", "license", "licence", "classes", "requirements", "labelmap")
T = TypeVar("T")


def nfc(text: str) -> str:
    """Composed letters, so that names from other systems compare equal."""
    return unicodedata.normalize("NFC", text)


def list_files(folder: Path) -> list[Path]:
    """The NAME.txt files of a folder that are lists of samples."""
    return sorted(
        path
        for path in folder.glob("*.txt")
        if path.stem.lower() not in NO_SPLITS and not path.name.startswith(".")
    )


def read_lists(
    files: Iterable[Path],
    pictures: Mapping[str, Path],
    broken: dict[str, InputError],
    *,
    where: str = "images/",
) -> dict[str, list[str]]:
    """The stems in each list, by the stem of the list's file; a list that has a fault goes into
    `broken`.
    """
    names: dict[str, list[str]] = {}
    for path in files:
        try:
            names[path.stem] = _read_stems(path, pictures, where)
        except InputError as error:
            broken[path.stem] = error
    return names


def _read_stems(path: Path, pictures: Mapping[str, Path], where: str) -> list[str]:
    """The names in a split file, each of which must be a picture."""
    stems = [nfc(line.strip()) for line in read_text(path).splitlines() if line.strip()]
    bad = [stem for stem in stems if "/" in stem or "\\" in stem or stem in (".", "..")]
    if bad:
        raise InputError(f"{path}: {bad[0]!r} is not a plain file stem; paths are refused")
    missing = [stem for stem in stems if stem not in pictures]
    if missing:
        raise InputError(
            f"{path}: {len(missing)} of {len(stems)} names have no picture in {where} (the first:"
            f" {missing[0]!r}{nearest(missing[0], pictures)})"
        )
    if len(set(stems)) < len(stems):
        twice = next(stem for stem in stems if stems.count(stem) > 1)
        raise InputError(f"{path}: {twice!r} is listed twice")
    return stems


def read_groups(root: Path) -> dict[str, str] | None:
    """Name -> group of root/groups.csv; None where there is none."""
    table = root / "groups.csv"
    if not table.is_file():
        return None
    found: dict[str, str] = {}
    for row in parse_csv(read_text(table), table):
        if (
            len(row) >= 2
            and found.setdefault(nfc(row[0].strip()), row[1].strip()) != row[1].strip()
        ):
            raise InputError(
                f"{table}: {row[0].strip()!r} is in two groups, {found[nfc(row[0].strip())]!r} and"
                f" {row[1].strip()!r}; keep one line"
            )
    if not found:
        raise InputError(f"{table}: no line NAME,GROUP, with a comma between")
    return found


def seeded_split(
    root: Path, names: Sequence[str], groups: Mapping[str, str] | None, seed: int, notes: list[str]
) -> dict[str, list[str]]:
    """70 % train, 15 % val, 15 % test of the groups (each picture its own group without any); what
    was done goes into notes.

    Raises:
        InputError: fewer than three groups, or a picture without one.
    """
    group_of = group_each(root, names, groups)
    found = sorted(set(group_of.values()))
    if len(found) < 3:
        raise InputError(
            f"{root}: a split into train, val and test needs at least 3 pictures (or groups), found"
            f" {len(found)}"
        )
    order = np.random.default_rng(seed).permutation(len(found))
    held_out = max(1, round(0.15 * len(found)))
    part = {
        found[g]: "val" if i < held_out else "test" if i < 2 * held_out else "train"
        for i, g in enumerate(order)
    }
    result = {split: [name for name in names if part[group_of[name]] == split] for split in SPLITS}
    by = "" if groups is None else f", {len(found)} groups of groups.csv kept together,"
    notes.append(
        f"no split files: split by seed {seed}{by} into "
        + ", ".join(f"{len(v)} {k}" for k, v in result.items())
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
            f"{root / 'groups.csv'}: {len(missing)} pictures have no group (the first:"
            f" {missing[0]!r}{nearest(missing[0], groups)})"
        )
    return {name: groups[name] for name in names}


def cut_folds(items: Sequence[T], groups: Sequence[str], folds: int, seed: int) -> list[list[T]]:
    """Items -> `folds` parts of about the same size, items of one group together: large groups
    first, each to the part that has least.

    Args:
        items: what is cut; parts keep their order.
        groups: of each item.
        folds: number of parts.
        seed: of the order in which groups of a size are dealt out.
    """
    names, counts = np.unique(np.array(groups, dtype=object), return_counts=True)
    order = np.random.default_rng(seed).permutation(len(names))
    sizes, part = [0] * folds, {}
    for g in sorted(order, key=lambda g: -counts[g]):
        smallest = sizes.index(min(sizes))
        part[names[g]] = smallest
        sizes[smallest] += counts[g]
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
