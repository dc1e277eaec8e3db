"""Masks in a folder a class: masks/0/NAME.png, masks/1/NAME.png, or the classes' names instead of
numbers.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kanseg.data.formats.listing import index_images
from kanseg.data.label_spec import LabelSpec
from kanseg.utils.errors import InputError
from kanseg.utils.registry import nearest

Files = dict[str, Path]  # stem -> file


@dataclass(frozen=True)
class MaskFiles:
    """The masks under one masks/: files, or files in a folder a class."""

    folder: Path
    files: Files
    by_class: Mapping[str, Files]

    def of(self, stem: str, folders: Sequence[str] | None) -> Path | tuple[Path | None, ...] | None:
        """The mask of an image: a file, or of a multilabel task a file or None for each of the
        classes' folders; None for no file at all.
        """
        if folders is None:
            return self.files.get(stem)
        layers = tuple(self.by_class.get(name, {}).get(stem) for name in folders)
        return layers if any(layers) else None


def index_masks(folder: Path, notes: list[str]) -> MaskFiles:
    """What lies in a folder masks/; folders beside files are told and left out.

    Raises:
        InputError: there is no such folder.
    """
    if not folder.is_dir():
        raise InputError(f"{folder.parent}: images/ has no masks/ beside it")
    files = index_images(folder, notes)
    folders = sorted(
        path for path in folder.iterdir() if path.is_dir() and not path.name.startswith(".")
    )
    if files:
        return MaskFiles(folder, files, {})
    return MaskFiles(folder, {}, {path.name: index_images(path, notes) for path in folders})


def class_folders(
    root: Path, masks: Sequence[MaskFiles], given: Mapping[str, Any], notes: list[str]
) -> tuple[LabelSpec, list[str]]:
    """The label information of masks in folders, and the folder of each class; what was decided
    goes into notes.

    Raises:
        InputError: another task was asked for, or folders that are no class.
    """
    task = given.get("task", "multilabel")
    if task != "multilabel":
        cure = "give task: multilabel" + (
            ", or for task: binary put all masks into one of them" if task == "binary" else ""
        )
        raise InputError(
            f"{root}: masks/ holds a folder a class, which a {task} task cannot have; {cure}"
        )
    found = sorted({name for each in masks for name in each.by_class}, key=_natural)
    classes = given.get("classes") or _names(root, found)
    folders = (
        list(map(str, range(len(classes))))
        if all(name.isdigit() for name in found)
        else list(classes)
    )
    for name in found:
        if name not in folders:
            raise InputError(
                f"{root}: masks/{name} is no class (expected"
                f" {', '.join(folders)}){nearest(name, folders)}; rename it, or give classes"
            )
    info = LabelSpec(
        **({"task": task, "ignore_index": None} | dict(given) | {"classes": tuple(classes)})
    )
    if "task" not in given:
        single = "; task: binary reads it as background and foreground" if len(found) == 1 else ""
        notes.append(
            f"masks/ has a folder a class ({', '.join(found)}): read as multilabel, all values but"
            f" 0 mean that the class is there{single}"
        )
    return info, folders


def _names(root: Path, found: Sequence[str]) -> list[str]:
    """Names of the classes, from the folders."""
    if not all(name.isdigit() for name in found):
        return list(found)
    if found != [str(i) for i in range(len(found))]:
        raise InputError(
            f"{root}: the folders of masks/ ({', '.join(found)}) are not numbered 0, 1, 2, ...;"
            " rename them, or give classes"
        )
    return [f"class_{name}" for name in found]


def _natural(name: str) -> list[tuple[int, str]]:
    """class_2 before class_10."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", name)]
