"""The folder form of a data set: which pictures, which masks, which splits, what the values mean."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import yaml

from kanseg.data.images import IMAGE_SUFFIXES, read_mask_values
from kanseg.errors import InputError
from kanseg.registry import nearest

IGNORED = 255  # in a loaded label map: the pixel counts for nothing
TASKS = ("binary", "multiclass")
SPLITS = ("train", "val", "test")


@dataclass(frozen=True)
class Sample:
    """One picture and its mask (None for pictures to predict)."""

    name: str
    image: Path
    mask: Path | None


@dataclass(frozen=True)
class LabelInfo:
    """What the values of the masks mean.

    Args:
        task: "binary" (background and one class, one logit) or "multiclass".
        classes: names, index 0 first.
        mask_values: value in the file -> class index (or `ignore_index`); None when the files hold indices.
        ignore_index: the index that is left out of loss and metrics, or None.
        palette: an RGB colour per class; needed to read colour masks, and used to draw.
    """

    task: str
    classes: tuple[str, ...]
    mask_values: Mapping[int, int] | None = None
    ignore_index: int | None = 255
    palette: tuple[tuple[int, int, int], ...] | None = None

    def __post_init__(self) -> None:
        if self.task not in TASKS:
            raise InputError(f"task {self.task!r} is not one of {', '.join(TASKS)}{nearest(self.task, TASKS)}")
        if len(self.classes) < 2 or (self.task == "binary" and len(self.classes) != 2):
            raise InputError(
                f"a {self.task} task needs {'two' if self.task == 'binary' else 'two or more'} classes (the background is one), got {list(self.classes)}"
            )
        if len(self.classes) > 255:
            raise InputError(f"at most 255 classes are supported, got {len(self.classes)}")
        if self.palette is not None and len(self.palette) < len(self.classes):
            raise InputError(f"the palette has {len(self.palette)} colours for {len(self.classes)} classes")

    @property
    def num_logits(self) -> int:
        """Channels that a network for this task puts out: 1 for binary, else one a class."""
        return 1 if self.task == "binary" else len(self.classes)

    @property
    def colours(self) -> list[tuple[int, int, int]]:
        """An RGB colour per class: the palette, or one of our own."""
        return [tuple(c) for c in self.palette] if self.palette else default_palette(len(self.classes))


@dataclass(frozen=True)
class Folder:
    """A data set on disk: its label information and the samples of each split."""

    root: Path
    info: LabelInfo
    splits: Mapping[str, tuple[Sample, ...]]
    notes: tuple[str, ...] = ()

    def samples(self, names: str | Sequence[str] | None) -> list[Sample]:
        """The samples of one split or of several together; an empty list for None."""
        chosen = [names] if isinstance(names, str) else list(names or [])
        for name in chosen:
            if name not in self.splits:
                raise InputError(f"{self.root}: there is no split {name!r}{nearest(name, self.splits)} (found: {', '.join(self.splits) or 'none'})")
        return [sample for name in chosen for sample in self.splits[name]]


def read_folder(root: Path | str, overrides: Mapping[str, object] | None = None, *, seed: int = 0) -> Folder:
    """Find pictures, masks, splits and label information under `root`.

    Layouts: `images/` and `masks/` with split files `NAME.txt` (stems, one a line), the same without split files (a seeded 70/15/15 split,
    by group where a `groups.csv` of NAME,GROUP lies beside it), or `train/ val/ test/` each with `images/` and `masks/`.
    `dataset.yaml` gives task, classes, mask_values, ignore_index and palette; `overrides` replace its entries; what is given by
    neither is read off the masks and reported in `notes`.

    Raises:
        InputError: one line that names every fault of the layout.
    """
    root = Path(root)
    if not root.is_dir():
        raise InputError(f"{root}: no such folder; data.root must hold images/ and masks/, or train/, val/ and test/ with them")
    notes: list[str] = []
    splits = _split_folders(root) if not (root / "images").is_dir() else _split_files(root, notes, seed)
    given = _dataset_yaml(root) | {k: v for k, v in (overrides or {}).items() if v is not None}
    masks = [s.mask for samples in splits.values() for s in samples if s.mask is not None and s.mask.is_file()]
    info = _label_info(root, given, masks, notes)
    return Folder(root, info, splits, tuple(notes))


def index_pictures(folder: Path) -> dict[str, Path]:
    """Stem -> file of all pictures in a folder; two files of one stem are an InputError."""
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() not in IMAGE_SUFFIXES or path.name.startswith("."):
            continue
        if path.stem in found:
            raise InputError(f"{folder}: {found[path.stem].name} and {path.name} have the same stem; rename one")
        found[path.stem] = path
    if not found:
        raise InputError(f"{folder}: no pictures ({', '.join(s[1:] for s in IMAGE_SUFFIXES)}) in this folder")
    return found


def _split_folders(root: Path) -> dict[str, tuple[Sample, ...]]:
    """train/ val/ test/, each with images/ and masks/."""
    present = [name for name in SPLITS if (root / name / "images").is_dir()]
    if not present:
        raise InputError(f"{root}: neither images/ nor train/images/ is there; see data/README.md for the folder form")
    return {name: _pair(root / name, sorted(index_pictures(root / name / "images"))) for name in present}


def _split_files(root: Path, notes: list[str], seed: int) -> dict[str, tuple[Sample, ...]]:
    """images/ and masks/ with NAME.txt files, or a seeded split."""
    pictures = index_pictures(root / "images")
    files = sorted(path for path in root.glob("*.txt") if path.stem.lower() not in ("readme", "license", "classes"))
    if files:
        return {path.stem: _pair(root, _read_stems(path, pictures), pictures) for path in files}
    names = _seeded_split(root, sorted(pictures), seed)
    notes.append(f"no split files: split by seed {seed} into " + ", ".join(f"{len(v)} {k}" for k, v in names.items()))
    return {name: _pair(root, stems, pictures) for name, stems in names.items()}


def _read_stems(path: Path, pictures: Mapping[str, Path]) -> list[str]:
    stems = [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
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


def _pair(root: Path, stems: Iterable[str], pictures: Mapping[str, Path] | None = None) -> tuple[Sample, ...]:
    """Samples of the stems under root/images and root/masks; a mask that is not there is None."""
    pictures = index_pictures(root / "images") if pictures is None else pictures
    masks = root / "masks"
    if not masks.is_dir():
        raise InputError(f"{root}: images/ has no masks/ beside it")
    held = index_pictures(masks)
    return tuple(Sample(stem, pictures[stem], held.get(stem)) for stem in stems)


def _seeded_split(root: Path, stems: list[str], seed: int) -> dict[str, list[str]]:
    """70 % train, 15 % val, 15 % test of the groups (each picture its own group without groups.csv)."""
    group_of = {stem: stem for stem in stems}
    table = root / "groups.csv"
    if table.is_file():
        with table.open(newline="", encoding="utf-8") as lines:
            given = {row[0].strip(): row[1].strip() for row in csv.reader(lines) if len(row) >= 2}
        missing = [stem for stem in stems if stem not in given]
        if missing:
            raise InputError(f"{table}: {len(missing)} pictures have no group (the first: {missing[0]!r})")
        group_of = {stem: given[stem] for stem in stems}
    groups = sorted(set(group_of.values()))
    if len(groups) < 3:
        raise InputError(f"{root}: a split into train, val and test needs at least 3 {'groups' if table.is_file() else 'pictures'}, found {len(groups)}")
    order = np.random.default_rng(seed).permutation(len(groups))
    held_out = max(1, round(0.15 * len(groups)))
    part = {groups[g]: "val" if i < held_out else "test" if i < 2 * held_out else "train" for i, g in enumerate(order)}
    return {split: [stem for stem in stems if part[group_of[stem]] == split] for split in SPLITS}


def _dataset_yaml(root: Path) -> dict[str, object]:
    path = root / "dataset.yaml"
    if not path.is_file():
        return {}
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except yaml.YAMLError as error:
        raise InputError(f"{path}: not valid YAML ({str(error).splitlines()[0]})") from None
    known = [f.name for f in fields(LabelInfo)]
    if not isinstance(content, dict):
        raise InputError(f"{path}: expected `key: value` lines ({', '.join(known)})")
    for key in content:
        if key not in known:
            raise InputError(f"{path}: unknown key {key!r}{nearest(str(key), known)} (known: {', '.join(known)})")
    return content


def _label_info(root: Path, given: dict[str, object], masks: Sequence[Path], notes: list[str]) -> LabelInfo:
    """LabelInfo from what is given, completed from the values that the masks hold."""
    given = dict(given)
    if "classes" not in given or "task" not in given:
        guess = _guess(root, given, masks, notes)
        given = {f.name: getattr(guess, f.name) for f in fields(LabelInfo)} | given
    try:
        given["classes"] = tuple(str(name) for name in given["classes"])
        if given.get("mask_values") is not None:
            given["mask_values"] = {int(k): int(v) for k, v in given["mask_values"].items()}
        if given.get("palette") is not None:
            given["palette"] = tuple(tuple(int(v) for v in colour) for colour in given["palette"])
    except (TypeError, ValueError, AttributeError) as error:
        raise InputError(f"{root}: classes must be a list of names, mask_values a map of integers, palette a list of [r, g, b] ({error})") from None
    return LabelInfo(**given)


def _guess(root: Path, given: dict[str, object], masks: Sequence[Path], notes: list[str]) -> LabelInfo:
    """Read the task off the values of all masks; what was decided goes into notes."""
    if not masks:
        raise InputError(f"{root}: no masks to read the classes from; give task and classes in dataset.yaml")
    values: set[int] = set()
    for path in masks:
        array = read_mask_values(path)
        if array.ndim == 3:
            raise InputError(f"{path}: a colour mask needs `classes` and `palette` in dataset.yaml (or data.classes and data.palette)")
        values |= set(np.unique(array).tolist())
    mapped = given.get("mask_values")
    if mapped is not None:
        values = set(mapped.values())
    if values <= {0, 255} and 255 in values:
        notes.append("masks hold 0 and 255: read as binary, background and foreground")
        return LabelInfo("binary", ("background", "foreground"), {0: 0, 255: 1})
    indices = values - {given.get("ignore_index", IGNORED)}
    if indices <= {0, 1}:
        notes.append("masks hold 0 and 1: read as binary, background and foreground")
        return LabelInfo("binary", ("background", "foreground"))
    names = given.get("classes") or [f"class_{i}" for i in range(max(indices) + 1)]
    if max(indices) > 64 and "classes" not in given:
        raise InputError(f"{root}: mask values go up to {max(indices)}; say what they mean with `classes` and `mask_values` in dataset.yaml")
    notes.append(
        f"masks hold {len(values)} values up to {max(values)}: read as multiclass with {len(names)} classes" + (", 255 ignored" if 255 in values else "")
    )
    return LabelInfo("multiclass", tuple(names))


def default_palette(classes: int) -> list[tuple[int, int, int]]:
    """Black, then well separated colours (the bit-reversal colours of PASCAL VOC)."""
    colours = []
    for index in range(classes):
        rgb = [sum(((index >> (3 * bit + channel)) & 1) << (7 - bit) for bit in range(3)) for channel in range(3)]
        colours.append(tuple(rgb))
    return colours
