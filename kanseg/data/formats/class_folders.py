"""Mask files: one per image in masks/, or one per image and class in masks/0/, masks/1/, ... (or
folders named after the classes).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kanseg.data.formats.issues import Issue
from kanseg.data.formats.listing import describe_folders, list_images
from kanseg.data.label_spec import LabelSpec
from kanseg.data.names import natural_key
from kanseg.utils.errors import InputError
from kanseg.utils.language import translate
from kanseg.utils.registry import nearest

Files = dict[str, Path]  # stem -> file


@dataclass(frozen=True)
class MaskFiles:
    """The files of one folder masks/: directly in it, or in a folder per class."""

    files: Files
    by_class: Mapping[str, Files]

    def mask_of(
        self, stem: str, class_folders: Sequence[str] | None
    ) -> Path | tuple[Path | None, ...] | None:
        """Return the mask of an image: a file, or for a multilabel task a file or None for each
        class folder; None if there is no file at all.
        """
        if class_folders is None:
            return self.files.get(stem)
        masks = tuple(self.by_class.get(name, {}).get(stem) for name in class_folders)
        return masks if any(masks) else None

    def all_files(self) -> list[tuple[str, Path]]:
        """Return (stem, file) of all masks."""
        found = list(self.files.items())
        for files in self.by_class.values():
            found += files.items()
        return found


def list_masks(folder: Path, root: Path, notes: list[str], problems: list[Issue]) -> MaskFiles:
    """List the files of a folder masks/; folders next to files are left out, with a note.

    Args:
        folder, root, notes, problems: see `list_images`; a missing folder is a problem.
    """
    if not folder.is_dir():
        where = folder.parent.relative_to(root).as_posix()
        reason = translate(
            "there is a folder images/, but no folder masks/; {found}", found=describe_folders(root)
        )
        problems.append(Issue("layout", where, reason))
        return MaskFiles({}, {})
    files = list_images(folder, root, notes, problems)
    if files:
        return MaskFiles(files, {})
    by_class = {}
    for path in sorted(folder.iterdir()):
        if path.is_dir() and not path.name.startswith("."):
            by_class[path.name] = list_images(path, root, notes, problems)
    return MaskFiles({}, by_class)


def class_folder_names(masks: Sequence[MaskFiles]) -> list[str]:
    """Return the names of the class folders, class_2 before class_10."""
    names: set[str] = set()
    for files in masks:
        names.update(files.by_class)
    return sorted(names, key=natural_key)


def multilabel_spec(
    found: Sequence[str], given: Mapping[str, Any], notes: list[str]
) -> tuple[LabelSpec, list[str]]:
    """Return the label spec of masks in class folders, and the folder of each class.

    Args:
        found: names of the folders, from `class_folder_names`.
        given: label settings.
        notes: receives lines about decisions.

    Raises:
        InputError: the settings have another task, or a folder is not a class.
    """
    task = given.get("task", "multilabel")
    if task != "multilabel":
        fix = translate("give task: multilabel")
        if task == "binary":
            fix += translate(", or for task: binary put all masks into one folder")
        raise InputError(
            "masks/ holds a folder per class, which does not fit a {task} task; {fix}",
            task=task,
            fix=fix,
        )
    classes = given.get("classes") or _class_names(found)
    folders = list(classes)
    if all(name.isdigit() for name in found):
        folders = [str(index) for index in range(len(classes))]
    for name in found:
        if name not in folders:
            raise InputError(
                "masks/{name} is not a class (expected {folders}){hint}; rename it, or give"
                " classes",
                name=name,
                folders=", ".join(folders),
                hint=nearest(name, folders),
            )
    settings = {"task": task, "ignore_index": None} | dict(given) | {"classes": tuple(classes)}
    spec = LabelSpec(**settings)
    if "task" not in given:
        single = ""
        if len(found) == 1:
            single = translate("; task: binary reads it as background and foreground")
        notes.append(
            translate(
                "masks/ has a folder per class ({found}): read as multilabel, all values except 0"
                " mean that the class is present{single}",
                found=", ".join(found),
                single=single,
            )
        )
    return spec, folders


def _class_names(found: Sequence[str]) -> list[str]:
    """Return the class names for folders that are named or numbered."""
    if not all(name.isdigit() for name in found):
        return list(found)
    if list(found) != [str(index) for index in range(len(found))]:
        raise InputError(
            "the folders of masks/ ({found}) are not numbered 0, 1, 2, ...; rename them, or"
            " give classes",
            found=", ".join(found),
        )
    return [f"class_{name}" for name in found]
