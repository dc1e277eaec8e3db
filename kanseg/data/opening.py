"""The data set that the settings ask for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from kanseg.config import DataConfig
from kanseg.data.blue_marble import prepare_blue_marble
from kanseg.data.formats.coco import is_coco, read_coco
from kanseg.data.formats.folder import Folder, read_folder
from kanseg.data.formats.voc import is_voc, read_voc
from kanseg.data.split_record import unit_of
from kanseg.data.splits import SPLITS, crossing_groups, cut_folds, group_each
from kanseg.utils.errors import InputError

PREPARED = {"blue_marble": prepare_blue_marble}
READERS: dict[str, Callable[..., Folder]] = {
    "folder": read_folder,
    "coco": read_coco,
    "voc": read_voc,
}


def open_data(data: DataConfig, *, log: Any = print) -> Folder:
    """The data set of the settings, prepared first if it is an embedded one, and cut into folds if
    they are asked for.

    Raises:
        InputError: settings that cannot be used, and what the reader of the format finds.
    """
    if data.prepare is not None:
        if data.prepare not in PREPARED:
            raise InputError(f"data.prepare: {data.prepare!r} is not one of {', '.join(PREPARED)}")
        PREPARED[data.prepare](data.root)
    if data.max_pixels < 1:
        raise InputError(f"data.max_pixels must be at least 1, got {data.max_pixels}")
    overrides = {
        key: getattr(data, key)
        for key in ("task", "classes", "mask_values", "ignore_index", "palette")
    }
    kind = form_of(data)
    folder = READERS[kind](data.root, overrides, seed=data.split_seed, max_pixels=data.max_pixels)
    if kind != "folder" and data.format == "auto":
        folder = replace(
            folder,
            notes=(
                f"{data.root}: read in the form of {kind.upper()} (data.format names another)",
                *folder.notes,
            ),
        )
    folder = _warned(folder_of_fold(folder, data), data)
    for note in folder.notes:
        log(f"data: {note}")
    return folder


def folder_of_fold(folder: Folder, data: DataConfig) -> Folder:
    """The same data set with train and val pooled and cut anew into what fold `data.fold` trains on
    and what it holds out; test stays.

    Raises:
        InputError: a number out of range, fewer groups than folds, or splits that are named for two
            roles.
    """
    _check_folds(data)
    if not data.folds:
        return folder
    names = [
        name
        for name in (*data.train, *data.val)
        if name in folder.splits or name in folder.broken or name != "val"
    ]
    pool = folder.samples(names)
    group_of = group_each(folder.root, [sample.name for sample in pool], folder.groups)
    groups = [
        group_of[sample.name] if folder.groups is not None else unit_of(sample, folder.root)
        for sample in pool
    ]
    count = len(set(groups))
    if count < data.folds:
        raise InputError(
            f"{folder.root}: {data.folds} folds need as many {_unit(folder)}, and"
            f" {' + '.join(names)} have {count}; lower data.folds"
        )
    parts = cut_folds(pool, groups, data.folds, data.split_seed)
    held_out = parts[data.fold]
    rest = [sample for fold, part in enumerate(parts) if fold != data.fold for sample in part]
    splits = (
        dict(folder.splits)
        | dict.fromkeys((*data.train, *data.val), ())
        | {
            data.train[0]: tuple(rest),
            data.val[0]: tuple(held_out),
        }
    )
    note = (
        f"fold {data.fold} of {data.folds} by seed {data.split_seed}, over {count} {_unit(folder)}"
        f" of {' + '.join(names)}: {len(rest)} images to train on, {len(held_out)} held out as"
        f" {data.val[0]} (all folds, by a hash: {', '.join(str(len(part)) for part in parts)})"
    )
    broken = {name: error for name, error in folder.broken.items() if name not in splits}
    return replace(folder, splits=splits, broken=broken, notes=(*folder.notes, note))


def _check_folds(data: DataConfig) -> None:
    """Range and names of the settings of a cross-validation."""
    if data.folds < 0 or data.folds == 1:
        raise InputError(f"data.folds must be 0 (none) or at least 2, got {data.folds}")
    if not 0 <= data.fold < max(data.folds, 1):
        cure = f"from 0 to {data.folds - 1}" if data.folds else "0 without data.folds"
        raise InputError(f"data.fold must be {cure}, got {data.fold}")
    if not data.folds:
        return
    if not data.train or not data.val:
        raise InputError(
            "data.folds pools the splits of data.train and data.val: each needs a name, such as"
            " [train] and [val]"
        )
    twice = sorted((set(data.train) & set(data.val)) | ({*data.train, *data.val} & set(data.test)))
    if twice:
        raise InputError(
            f"data.folds pools train and val, but split {twice[0]!r} has two roles; name it in one"
            " of data.train, data.val, data.test"
        )


def _unit(folder: Folder) -> str:
    return "images" if folder.groups is None else "groups"


def _warned(folder: Folder, data: DataConfig) -> Folder:
    """With a note for groups that are trained on and measured on."""
    roles = {
        role: [name for name in getattr(data, role) if name in folder.splits] for role in SPLITS
    }
    members = {
        role: [
            sample.name for sample in folder.samples([n for n in names if n not in folder.broken])
        ]
        for role, names in roles.items()
    }
    same = {role for role in ("val", "test") if set(roles[role]) & set(roles["train"])}  # meant so
    lines = crossing_groups(
        folder.groups or {}, {role: names for role, names in members.items() if role not in same}
    )
    return replace(folder, notes=(*folder.notes, *lines)) if lines else folder


def form_of(data: DataConfig) -> str:
    """The name of the form in which the data set is read: the one asked for, or else the one that
    lies in the root.

    Raises:
        InputError: the root holds several.
    """
    return _detected(Path(data.root)) if data.format == "auto" else data.format


def _detected(root: Path) -> str:
    """The form that lies in the root: the folder form where there is one."""
    if (root / "images").is_dir() and (root / "masks").is_dir():
        return "folder"
    found = [kind for kind, there in (("coco", is_coco(root)), ("voc", is_voc(root))) if there]
    if len(found) > 1:
        raise InputError(
            f"{root}: holds data in the forms of {' and '.join(found)}; choose one with data.format"
        )
    return next(iter(found), "folder")
