"""The folder form of a data set: which pictures, which masks, which splits."""

from __future__ import annotations

import csv
import io
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from kanseg.data.images import IMAGE_SUFFIXES
from kanseg.data.info import LabelInfo, label_info, read_text
from kanseg.errors import InputError
from kanseg.registry import nearest

SPLITS = ("train", "val", "test")
NO_SPLITS = ("readme", "license", "licence", "classes", "requirements")


@dataclass(frozen=True)
class Sample:
    """One picture and its mask (None for a picture without one)."""

    name: str
    image: Path
    mask: Path | None


@dataclass(frozen=True)
class Folder:
    """A data set on disk: its label information and the samples of each split."""

    root: Path
    info: LabelInfo
    splits: Mapping[str, tuple[Sample, ...]]
    notes: tuple[str, ...] = ()
    broken: Mapping[str, InputError] = field(default_factory=dict)  # split files that cannot be used, told when they are asked for

    def samples(self, names: str | Sequence[str] | None) -> list[Sample]:
        """The samples of one split or of several together; an empty list for None.

        Raises:
            InputError: there is no such split, or its file has a fault.
        """
        chosen = [names] if isinstance(names, str) else list(names or [])
        for name in chosen:
            if name in self.broken:
                raise self.broken[name]
            if name not in self.splits:
                raise InputError(f"{self.root}: there is no split {name!r}{nearest(name, self.splits)} (found: {', '.join(self.splits) or 'none'})")
        return list(dict.fromkeys(sample for name in chosen for sample in self.splits[name]))


def read_folder(root: Path | str, overrides: Mapping[str, object] | None = None, *, seed: int = 0) -> Folder:
    """Find pictures, masks, splits and label information under `root`.

    Layouts: `images/` and `masks/` with split files `NAME.txt` (stems, one a line), the same without split files (a seeded 70/15/15 split,
    by group where a `groups.csv` of NAME,GROUP lies beside it), or `train/ val/ test/` each with `images/` and `masks/`.
    `dataset.yaml` gives task, classes, mask_values, ignore_index and palette; `overrides` replace its entries; what is given by
    neither is read off the masks and reported in `notes`.

    Raises:
        InputError: the layout or the label information cannot be used; the line says where and why.
    """
    root = Path(root)
    if not root.is_dir():
        raise InputError(
            f"{root}: no such folder (looked for {root.resolve()}); data.root (or --root) must hold images/ and masks/, or train/, val/ and test/ with them"
        )
    notes: list[str] = []
    broken: dict[str, InputError] = {}
    splits = _split_files(root, notes, broken, seed) if (root / "images").is_dir() else _split_folders(root)
    masks = sorted({s.mask for samples in splits.values() for s in samples if s.mask is not None})
    return Folder(root, label_info(root, overrides or {}, masks, notes), splits, tuple(notes), broken)


def index_pictures(folder: Path) -> dict[str, Path]:
    """Stem (Unicode NFC) -> file of all pictures in a folder, hidden files left out; two files of one stem are an InputError."""
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() not in IMAGE_SUFFIXES or path.name.startswith("."):
            continue
        stem = _nfc(path.stem)
        if stem in found:
            raise InputError(f"{folder}: {found[stem].name} and {path.name} have the same stem; rename one")
        found[stem] = path
    return found


def orphan_masks(folder: Folder) -> list[str]:
    """Masks without a picture beside them, as faults."""
    bases = [folder.root] if (folder.root / "images").is_dir() else [folder.root / name for name in folder.splits]
    faults = []
    for base in bases:
        pictures = index_pictures(base / "images")
        faults += [f"{path}: a mask without a picture in images/" for stem, path in index_pictures(base / "masks").items() if stem not in pictures]
    return faults


def _nfc(text: str) -> str:
    return unicodedata.normalize("NFC", text)


def _split_folders(root: Path) -> dict[str, tuple[Sample, ...]]:
    """train/ val/ test/, each with images/ and masks/."""
    present = [name for name in SPLITS if (root / name / "images").is_dir()]
    if not present:
        raise InputError(f"{root}: neither images/ nor train/images/ is there; see data/README.md for the folder form")
    result = {}
    for name in present:
        pictures = _pictures(root / name)
        result[name] = _pair(root / name, sorted(pictures), pictures)
    return result


def _split_files(root: Path, notes: list[str], broken: dict[str, InputError], seed: int) -> dict[str, tuple[Sample, ...]]:
    """images/ and masks/ with NAME.txt files, or a seeded split."""
    pictures = _pictures(root)
    files = sorted(path for path in root.glob("*.txt") if path.stem.lower() not in NO_SPLITS and not path.name.startswith("."))
    names: dict[str, list[str]] = {}
    for path in files:
        try:
            names[path.stem] = _read_stems(path, pictures)
        except InputError as error:
            broken[path.stem] = error
    if not any(name in names or name in broken for name in SPLITS) and not names:
        names = _seeded_split(root, sorted(pictures), seed)
        notes.append(f"no split files: split by seed {seed} into " + ", ".join(f"{len(v)} {k}" for k, v in names.items()))
    return {name: _pair(root, stems, pictures) for name, stems in names.items()}


def _pictures(base: Path) -> dict[str, Path]:
    pictures = index_pictures(base / "images")
    if not pictures:
        raise InputError(f"{base / 'images'}: no pictures ({', '.join(s[1:] for s in IMAGE_SUFFIXES)}) in this folder")
    return pictures


def _read_stems(path: Path, pictures: Mapping[str, Path]) -> list[str]:
    """The names in a split file, each of which must be a picture."""
    stems = [_nfc(line.strip()) for line in read_text(path).splitlines() if line.strip()]
    bad = [stem for stem in stems if "/" in stem or "\\" in stem or stem in (".", "..")]
    if bad:
        raise InputError(f"{path}: {bad[0]!r} is not a plain file stem; paths are refused")
    missing = [stem for stem in stems if stem not in pictures]
    if missing:
        raise InputError(f"{path}: {len(missing)} of {len(stems)} names have no picture in images/ (the first: {missing[0]!r}{nearest(missing[0], pictures)})")
    if len(set(stems)) < len(stems):
        twice = next(stem for stem in stems if stems.count(stem) > 1)
        raise InputError(f"{path}: {twice!r} is listed twice")
    return stems


def _pair(root: Path, stems: Iterable[str], pictures: Mapping[str, Path]) -> tuple[Sample, ...]:
    """Samples of the stems under root/images and root/masks; a mask that is not there is None."""
    if not (root / "masks").is_dir():
        raise InputError(f"{root}: images/ has no masks/ beside it")
    masks = index_pictures(root / "masks")
    return tuple(Sample(stem, pictures[stem], masks.get(stem)) for stem in stems)


def _seeded_split(root: Path, stems: list[str], seed: int) -> dict[str, list[str]]:
    """70 % train, 15 % val, 15 % test of the groups (each picture its own group without groups.csv)."""
    group_of = _groups(root / "groups.csv", stems) if (root / "groups.csv").is_file() else {stem: stem for stem in stems}
    groups = sorted(set(group_of.values()))
    if len(groups) < 3:
        raise InputError(f"{root}: a split into train, val and test needs at least 3 pictures (or groups), found {len(groups)}")
    order = np.random.default_rng(seed).permutation(len(groups))
    held_out = max(1, round(0.15 * len(groups)))
    part = {groups[g]: "val" if i < held_out else "test" if i < 2 * held_out else "train" for i, g in enumerate(order)}
    return {split: [stem for stem in stems if part[group_of[stem]] == split] for split in SPLITS}


def _groups(table: Path, stems: Sequence[str]) -> dict[str, str]:
    """Stem -> group of a groups.csv that names every picture."""
    given = {_nfc(row[0].strip()): row[1].strip() for row in csv.reader(io.StringIO(read_text(table))) if len(row) >= 2}
    missing = [stem for stem in stems if stem not in given]
    if missing:
        raise InputError(f"{table}: {len(missing)} pictures have no group (the first: {missing[0]!r})")
    return {stem: given[stem] for stem in stems}
