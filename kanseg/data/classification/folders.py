"""Labeled images in folders: a folder a class, and Tiny ImageNet."""

from __future__ import annotations

import os
import re
from pathlib import Path

from kanseg.data.classification.arrays import TEST_SHARE
from kanseg.data.classification.formats import FORMATS, FoundImages, ImageFormat
from kanseg.data.classification.sources import SHOWN, FileImages, ImageSource, cut
from kanseg.data.io.images import IMAGE_SUFFIXES
from kanseg.utils.errors import InputError
from kanseg.utils.reading import read_text
from kanseg.utils.registry import nearest

SPLIT_NAMES = {
    "train",
    "training",
    "val",
    "valid",
    "validation",
    "test",
    "testing",
}  # of folders that are no classes


def _natural(name: str) -> tuple:
    """Sort key: class_2 before class_10."""
    return tuple(
        (1, int(part), "") if part.isdigit() else (0, 0, part)
        for part in re.split(r"([0-9]+)", name)
    )


def _subfolders(folder: Path) -> list[Path]:
    return sorted(
        (path for path in folder.iterdir() if path.is_dir() and not path.name.startswith(".")),
        key=lambda path: _natural(path.name),
    )


def _images(folder: Path) -> list[str]:
    """All image files in the folder and below it, hidden ones left out."""
    found = []
    for base, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        found += [
            f"{base}/{name}"
            for name in sorted(names)
            if name.lower().endswith(IMAGE_SUFFIXES) and not name.startswith(".")
        ]
    return found


def _holds_images(folder: Path) -> bool:
    return any(
        name.lower().endswith(IMAGE_SUFFIXES) for _, _, names in os.walk(folder) for name in names
    )


def _looks_like_classes(root: Path) -> bool:
    if not root.is_dir():
        return False
    return (root / "train").is_dir() or any(_holds_images(folder) for folder in _subfolders(root))


def _labeled(folder: Path, classes: tuple[str, ...]) -> ImageSource:
    """The images of a split; a folder that is no class is an InputError."""
    paths: list[str] = []
    labels: list[int] = []
    for place in _subfolders(folder):
        if place.name not in classes:
            raise InputError(
                f"{place}: there is no such class to train on{nearest(place.name, classes)}"
                f" (classes: {_few(classes)})"
            )
        mine = _images(place)
        paths += mine
        labels += [classes.index(place.name)] * len(mine)
    if not paths:
        raise InputError(
            f"{folder}: no images ({', '.join(s[1:] for s in IMAGE_SUFFIXES)}) in folders CLASS/"
            " of it"
        )
    return ImageSource.of(FileImages(paths), labels)


def _class_names(folder: Path) -> tuple[str, ...]:
    names = tuple(path.name for path in _subfolders(folder))
    if {"images", "masks"} <= set(names):
        raise InputError(
            f"{folder}: images/ and masks/ are the form for segmentation; to classify, put the"
            " images into a folder a class"
        )
    empty = [path for path in _subfolders(folder) if not _holds_images(path)]
    if empty:
        raise InputError(
            "\n".join(
                f"{path}: a class without images; add some, or remove the folder"
                for path in empty[:SHOWN]
            )
        )
    return names


def _open_folder(root: Path, download: bool, seed: int) -> FoundImages:
    _must_be_folder(root)
    if (root / "train").is_dir():
        classes = _class_names(root / "train")
        others = [
            path for path in _subfolders(root) if path.name != "train" and _holds_images(path)
        ]
        flat = [
            path for path in others if not any(_holds_images(place) for place in _subfolders(path))
        ]  # ImageNet's test/ is such
        notes = tuple(
            f"{path}: its images are in no folders of classes, so it is left out" for path in flat
        )
        return FoundImages(
            classes,
            {
                path.name: _labeled(path, classes)
                for path in (root / "train", *others)
                if path not in flat
            },
            notes,
        )
    splits = [path.name for path in _subfolders(root) if path.name.lower() in SPLIT_NAMES]
    if splits:
        raise InputError(
            f"{root}: {', '.join(splits)} look like splits, but there is no folder train/: name"
            " them train/, val/ and test/"
        )
    classes = _class_names(root)
    train, test = cut(_at_least_two(_labeled(root, classes), root), TEST_SHARE, seed, root)
    note = (
        f"no folder train/: the folders are classes, and {len(test)} of {len(train) + len(test)}"
        f" images are split off for the test by seed {seed}, by a hash of the name"
    )
    return FoundImages(classes, {"train": train, "test": test}, (note,), ("train", "test"))


def _at_least_two(source: ImageSource, root: Path) -> ImageSource:
    if len(source) < 2:
        raise InputError(f"{root}: one image cannot be split into train and test")
    return source


def _must_be_folder(root: Path) -> None:
    if not root.is_dir():
        raise InputError(
            f"{root}: no such folder (looked for {root.resolve()}); data.root must hold"
            " train/CLASS/ or CLASS/ with images"
        )


def _open_tiny_imagenet(root: Path, download: bool, seed: int) -> FoundImages:
    """Classes are numbered in the order of their sorted WordNet ids, as if they were folders."""
    _must_be_folder(root)
    missing = [
        name
        for name in ("wnids.txt", "train", "val/images", "val/val_annotations.txt")
        if not (root / name).exists()
    ]
    if missing:
        raise InputError(
            f"{root}: {missing[0]} is not there; expected Tiny ImageNet as unpacked: train/, val/"
            " and wnids.txt"
        )
    ids = tuple(
        sorted(
            {line.strip() for line in read_text(root / "wnids.txt").splitlines() if line.strip()}
        )
    )
    train = _labeled(root / "train", ids)
    notes = (
        ("the images of test/ have no labels: name val for the test too, or leave it out",)
        if (root / "test").is_dir()
        else ()
    )
    return FoundImages(
        _words(root / "words.txt", ids),
        {"train": train, "val": _annotated(root / "val", ids)},
        notes,
    )


def _annotated(folder: Path, ids: tuple[str, ...]) -> ImageSource:
    """The images that val_annotations.txt lists: `NAME<tab>ID<tab>box`."""
    table, paths, labels = folder / "val_annotations.txt", [], []
    for number, line in enumerate(read_text(table).splitlines(), 1):
        if not line.strip():
            continue
        name, *rest = line.split("\t")
        if not rest or rest[0] not in ids or "/" in name or "\\" in name or name in (".", ".."):
            raise InputError(
                f"{table}, line {number}: expected a file name and an id of wnids.txt between tabs,"
                f" got {line!r:.80}"
            )
        paths.append(folder / "images" / name)
        labels.append(ids.index(rest[0]))
    if not paths:
        raise InputError(f"{table}: lists no images")
    return ImageSource.of(FileImages(paths), labels)


def _words(table: Path, ids: tuple[str, ...]) -> tuple[str, ...]:
    """The first word for each id, with the id where two have the same one; the ids themselves
    without words.txt.
    """
    if not table.is_file():
        return ids
    lines = (line.split("\t", 1) for line in read_text(table).splitlines() if "\t" in line)
    words = {key.strip(): value.split(",")[0].strip() for key, value in lines}
    names = [words.get(key) or key for key in ids]
    return tuple(
        name if names.count(name) == 1 else f"{name} ({key})"
        for name, key in zip(names, ids, strict=True)
    )


def _few(names: tuple[str, ...]) -> str:
    return (
        ", ".join(names)
        if len(names) <= 12
        else f"{', '.join(names[:10])}, ... ({len(names)} in all)"
    )


FORMATS.register("tiny_imagenet")(
    ImageFormat(_open_tiny_imagenet, lambda root: (root / "wnids.txt").is_file())
)
FORMATS.register("folder")(ImageFormat(_open_folder, _looks_like_classes, fallback=True))
