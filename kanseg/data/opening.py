"""Open the data set of the settings."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from kanseg.config import DataConfig
from kanseg.data.blue_marble import prepare_blue_marble
from kanseg.data.formats.coco import is_coco, read_coco
from kanseg.data.formats.folder import read_folder
from kanseg.data.formats.index import DatasetIndex, problem_of
from kanseg.data.formats.issues import Issue
from kanseg.data.formats.label_settings import ProbeMasks, read_layout_settings
from kanseg.data.formats.label_studio import is_label_studio, read_label_studio
from kanseg.data.formats.labelme import is_labelme, read_labelme
from kanseg.data.formats.nnunet import is_nnunet, read_nnunet
from kanseg.data.formats.voc import is_voc, read_voc
from kanseg.data.formats.yolo import is_yolo, read_yolo
from kanseg.data.sample import Sample
from kanseg.data.splits import SPLITS, check_folds, crossing_groups, cut_folds, group_each
from kanseg.data.splits.record import unit_of
from kanseg.utils.errors import InputError
from kanseg.utils.language import translate

PREPARED = {"blue_marble": prepare_blue_marble}
READERS: dict[str, Callable[..., DatasetIndex]] = {
    "folder": read_folder,
    "coco": read_coco,
    "voc": read_voc,
    "labelme": read_labelme,
    "yolo": read_yolo,
    "label_studio": read_label_studio,
    "nnunet": read_nnunet,
}
RECOGNIZED: dict[str, Callable[[Path], bool]] = {
    "coco": is_coco,
    "voc": is_voc,
    "labelme": is_labelme,
    "yolo": is_yolo,
    "label_studio": is_label_studio,
    "nnunet": is_nnunet,
}
LABEL_SETTINGS = ("task", "classes", "mask_values", "ignore_index", "palette")


def open_data(data: DataConfig, *, log: Any = print) -> DatasetIndex:
    """Return the data set of the settings, divided into folds if they have data.folds.

    An embedded data set (data.prepare) is written first.

    Raises:
        InputError: the first problem of the settings or of the layout that stops a training.
    """
    index = open_index(data).raise_errors()
    for note in index.notes:
        log(translate("data: {line}", line=note))
    return index


def open_index(data: DataConfig, *, probe: ProbeMasks | None = None) -> DatasetIndex:
    """Return the data set of the settings with all of its problems, for the check of the data.

    Args:
        data: the settings.
        probe: returns the facts about mask files, for example from a cache; see `read_folder`.

    Raises:
        InputError: an unknown embedded data set, a limit of pixels below 1, or no such folder.
    """
    if data.prepare is not None:
        if data.prepare not in PREPARED:
            raise InputError(
                "data.prepare: {prepare!r} is not one of {known}",
                prepare=data.prepare,
                known=", ".join(PREPARED),
            )
        PREPARED[data.prepare](data.root)
    if data.max_pixels < 1:
        raise InputError(
            "data.max_pixels must be at least 1, got {max_pixels}", max_pixels=data.max_pixels
        )
    root = Path(data.root)
    if not root.is_dir():
        raise InputError(
            "no such folder (looked for {path}); data.root (or --root) must hold images/ and"
            " masks/, or train/, val/ and test/ with them",
            path=root.resolve(),
            where=root,
        )
    index = _read_layout(root, data, probe)
    if any(problem.kind.stops for problem in index.problems):
        return index
    broken: list[Issue] = []
    for name in (*data.train, *data.val):
        broken += index.split_problems.get(name, ())
    if data.folds and broken:  # folds need the samples of these splits
        return index.with_problems(broken)
    try:
        index = divide_into_folds(index, data)
    except InputError as error:
        return index.with_problems([problem_of(error, root, "settings")])
    return replace(index, notes=(*index.notes, *_warn_of_shared_groups(index, data)))


def _read_layout(root: Path, data: DataConfig, probe: ProbeMasks | None) -> DatasetIndex:
    """Read the layout; if that is impossible, return an empty index with the problem."""
    overrides = {key: getattr(data, key) for key in LABEL_SETTINGS}
    layout = data.format
    try:
        if layout == "auto":
            layout = detect_layout(root)
        index = READERS[layout](
            root,
            overrides,
            seed=data.split_seed,
            max_pixels=data.max_pixels,
            probe=probe,
            strict=False,
        )
    except InputError as error:
        return DatasetIndex(root, problems=(problem_of(error, root),))
    if layout != "folder" and data.format == "auto":
        note = translate(
            "{root}: read as {layout} (set data.format to read another layout)",
            root=root,
            layout=layout.upper(),
        )
        index = replace(index, notes=(note, *index.notes))
    return index


def detect_layout(root: Path) -> str:
    """Return the name of the layout in a folder; "folder" if it has images/ and masks/, or if
    dataset.yaml names these folders.

    Raises:
        InputError: the folder has several other layouts.
    """
    if (root / "images").is_dir() and (root / "masks").is_dir():
        return "folder"
    if read_layout_settings(root):
        return "folder"
    found = [name for name, is_layout in RECOGNIZED.items() if is_layout(root)]
    if len(found) > 1:
        raise InputError(
            "holds the layouts {names}; choose one with data.format",
            names=" and ".join(found),
            where=root,
        )
    if found:
        return found[0]
    return "folder"


def divide_into_folds(index: DatasetIndex, data: DataConfig) -> DatasetIndex:
    """Return the data set with the samples of train and val divided into folds: val is fold
    `data.fold`, train the others. Test does not change.

    Raises:
        InputError: a number out of range, fewer groups than folds, or a split that is used twice.
    """
    check_folds(data.folds, data.fold, train=data.train, val=data.val, test=data.test)
    if not data.folds:
        return index
    names = [name for name in (*data.train, *data.val) if name in index.splits or name != "val"]
    pool = index.samples(names)
    if index.groups is None:
        unit, groups = translate("images"), [unit_of(sample, index.root) for sample in pool]
    else:
        group_of = group_each(index.root, [sample.name for sample in pool], index.groups)
        unit, groups = translate("groups"), [group_of[sample.name] for sample in pool]
    count = len(set(groups))
    if count < data.folds:
        raise InputError(
            "{folds} folds need as many {unit}, and {splits} have {count}; lower data.folds",
            folds=data.folds,
            unit=unit,
            splits=" + ".join(names),
            count=count,
            where=index.root,
        )
    parts = cut_folds(pool, groups, data.folds, data.split_seed)
    train: list[Sample] = []
    for number, part in enumerate(parts):
        if number != data.fold:
            train += part
    splits = dict(index.splits) | dict.fromkeys((*data.train, *data.val), ())
    splits[data.train[0]] = tuple(train)
    splits[data.val[0]] = tuple(parts[data.fold])
    sizes = ", ".join(str(len(part)) for part in parts)
    note = translate(
        "fold {fold} of {folds} by seed {seed}, over {count} {unit} of {splits}: {train} images to"
        " train on, {others} as {split} (all folds, by a hash: {sizes})",
        fold=data.fold,
        folds=data.folds,
        seed=data.split_seed,
        count=count,
        unit=unit,
        splits=" + ".join(names),
        train=len(train),
        others=len(parts[data.fold]),
        split=data.val[0],
        sizes=sizes,
    )
    return replace(index, splits=splits, notes=(*index.notes, note))


def _warn_of_shared_groups(index: DatasetIndex, data: DataConfig) -> list[str]:
    """Return warnings for groups that are in two of train, val and test."""
    members: dict[str, list[str]] = {}
    for split in SPLITS:
        names = getattr(data, split)
        if split != "train" and set(names) & set(data.train):
            continue  # the user wants this split in both
        present = [name for name in names if name in index.splits]
        usable = [name for name in present if name not in index.split_problems]
        members[split] = [sample.name for sample in index.samples(usable)]
    return crossing_groups(index.groups or {}, members)
