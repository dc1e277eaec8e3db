"""List the image files of a folder."""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from pathlib import Path

from kanseg.data.formats.issues import Issue
from kanseg.data.io.images import IMAGE_SUFFIXES
from kanseg.data.names import nfc
from kanseg.utils.errors import InputError
from kanseg.utils.language import translate

LISTED_DEPTH = 2  # levels of folders below the root that `unknown_layout` lists
LISTED_FOLDERS = 12  # that it names
_NO_NOTE = (".db", ".ini", ".txt", ".md")  # usual files next to images, skipped without a note


def list_images(
    folder: Path, root: Path, notes: list[str], problems: list[Issue]
) -> dict[str, Path]:
    """Return stem (Unicode NFC) -> file of the images in a folder, without hidden files.

    Of several files with the same stem the first is used.

    Args:
        folder: where to look.
        root: of the data set; problems name files relative to it.
        notes: receives a line about files in other formats.
        problems: receives duplicate stems.
    """
    files: dict[str, Path] = {}
    same_stem: dict[str, list[Path]] = {}
    others: Counter = Counter()
    for path in sorted(folder.iterdir()):
        suffix = path.suffix.lower()
        if path.name.startswith("."):
            continue
        if suffix in IMAGE_SUFFIXES:
            stem = nfc(path.stem)
            first = files.setdefault(stem, path)
            if first is not path:
                same_stem.setdefault(stem, [first]).append(path)
        elif path.is_dir():
            others["folders"] += 1
        elif suffix not in _NO_NOTE:
            others[suffix or path.name] += 1
    for paths in same_stem.values():
        names = ", ".join(path.name for path in paths)
        reason = translate("{names} have the same stem; rename or remove all but one", names=names)
        problems.append(Issue("same_stem", paths[0].relative_to(root).as_posix(), reason))
    if files and others:
        left_out = ", ".join(f"{count} {kind}" for kind, count in others.items())
        notes.append(
            translate(
                "{folder}: left out files that are not images: {left_out} (supported: {formats})",
                folder=folder,
                left_out=left_out,
                formats=supported_formats(),
            )
        )
    return files


def index_images(folder: Path) -> dict[str, Path]:
    """Return stem (Unicode NFC) -> file of the images in a folder.

    Raises:
        InputError: two files have the same stem.
    """
    problems: list[Issue] = []
    files = list_images(folder, folder, [], problems)
    for problem in problems:
        raise InputError(problem.reason, where=folder)
    return files


def no_images(folder: Path, root: Path) -> Issue:
    """Return the problem of a folder without images; it names the first other files."""
    inside = sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))
    reason = translate("no images ({formats}) in this folder", formats=supported_formats())
    if inside:
        shown = inside[:3]
        if len(inside) > 3:
            shown.append("...")
        names = ", ".join(shown)
        reason += translate(", only {names}; images must be directly in it", names=names)
    return Issue("layout", folder.relative_to(root).as_posix(), reason)


def describe_folders(root: Path) -> str:
    """Return what is in a folder that no reader understands, and a dataset.yaml to paste, as text
    for an error.
    """
    found, with_images = [], []
    for folder, folders, files in os.walk(root):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        place = Path(folder).relative_to(root)
        if len(place.parts) == LISTED_DEPTH:
            folders.clear()
        kinds = Counter(Path(name).suffix.lower() for name in files if not name.startswith("."))
        kinds = Counter({suffix[1:] or "file": count for suffix, count in kinds.items()})
        if kinds:
            counts = ", ".join(f"{count} {kind}" for kind, count in kinds.most_common(4))
            found.append(f"{place.as_posix()}/ ({counts})")
        if any(f".{kind}" in IMAGE_SUFFIXES for kind in kinds):
            with_images.append((place.as_posix(), "png" in kinds and len(kinds) == 1))
    shown = ", ".join(found[:LISTED_FOLDERS]) or translate("nothing")
    if len(found) > LISTED_FOLDERS:
        shown += translate(", ... ({count} folders in all)", count=len(found))
    advice = translate(
        "expected images/ and masks/, or train/, val/ and test/ with them; data/README.md"
        " describes other layouts"
    )
    if len(with_images) >= 2:
        # masks are PNG more often than images are
        images, masks = sorted(with_images[:2], key=lambda each: each[1])
        advice = translate(
            "name the folders in dataset.yaml, such as {{images: {images}, masks: {masks}}}"
            " (and mask_suffix: _x if the mask of a.png is a_x.png); {advice}",
            images=_quoted(images[0]),
            masks=_quoted(masks[0]),
            advice=advice,
        )
    return translate("found: {found}; {advice}", found=shown, advice=advice)


def _quoted(name: str) -> str:
    """Return a name as YAML, in quotes where it needs them."""
    if re.fullmatch(r"[A-Za-z][A-Za-z0-9_./ -]*", name):
        return name
    return json.dumps(name, ensure_ascii=False)


def supported_formats() -> str:
    """Return the suffixes of images that can be read, as text."""
    return ", ".join(suffix[1:] for suffix in IMAGE_SUFFIXES)
