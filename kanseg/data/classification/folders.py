"""Labeled images in folders: one folder per class, and Tiny ImageNet."""

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

# Folders of these names are splits, not classes.
SPLIT_NAMES = {"train", "training", "val", "valid", "validation", "test", "testing"}


def _natural_key(path: Path) -> list[tuple[int, int, str]]:
    """Sort key: class_2 before class_10."""
    key = []
    for part in re.split(r"([0-9]+)", path.name):
        key.append((1, int(part), "") if part.isdigit() else (0, 0, part))
    return key


def _subfolders(folder: Path) -> list[Path]:
    found = [path for path in folder.iterdir() if path.is_dir() and not path.name.startswith(".")]
    return sorted(found, key=_natural_key)


def _images(folder: Path) -> list[str]:
    """All image files in the folder and below it, without hidden ones."""
    found = []
    for base, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            if name.lower().endswith(IMAGE_SUFFIXES) and not name.startswith("."):
                found.append(f"{base}/{name}")
    return found


def _has_images(folder: Path) -> bool:
    for _, _, names in os.walk(folder):
        if any(name.lower().endswith(IMAGE_SUFFIXES) for name in names):
            return True
    return False


def _looks_like_classes(root: Path) -> bool:
    if not root.is_dir():
        return False
    return (root / "train").is_dir() or any(_has_images(folder) for folder in _subfolders(root))


def _labeled(folder: Path, classes: tuple[str, ...]) -> ImageSource:
    """The images of a split.

    Raises:
        InputError: a folder that is not a class, or no images.
    """
    paths: list[str] = []
    labels: list[int] = []
    for subfolder in _subfolders(folder):
        name = subfolder.name
        if name not in classes:
            raise InputError(
                f"{subfolder}: there is no such class to train on{nearest(name, classes)}"
                f" (classes: {_shortened(classes)})"
            )
        images = _images(subfolder)
        paths += images
        labels += [classes.index(name)] * len(images)
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
    empty = [path for path in _subfolders(folder) if not _has_images(path)]
    lines = [f"{path}: a class without images; add some, or remove the folder" for path in empty]
    if lines:
        raise InputError("\n".join(lines[:SHOWN]))
    return names


def _open_folder(root: Path, download: bool, seed: int) -> FoundImages:
    _must_be_folder(root)
    if (root / "train").is_dir():
        classes = _class_names(root / "train")
        found = {"train": _labeled(root / "train", classes)}
        notes = []
        for path in _subfolders(root):
            if path.name == "train" or not _has_images(path):
                continue
            if any(_has_images(subfolder) for subfolder in _subfolders(path)):
                found[path.name] = _labeled(path, classes)
            else:  # such as ImageNet's test/
                notes.append(f"{path}: its images are in no folders of classes, so it is left out")
        return FoundImages(classes, found, tuple(notes))
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
    for name in ("wnids.txt", "train", "val/images", "val/val_annotations.txt"):
        if not (root / name).exists():
            raise InputError(
                f"{root}: {name} is not there; expected Tiny ImageNet as unpacked: train/, val/"
                " and wnids.txt"
            )
    lines = [line.strip() for line in read_text(root / "wnids.txt").splitlines()]
    ids = tuple(sorted({line for line in lines if line}))
    splits = {"train": _labeled(root / "train", ids), "val": _annotated(root / "val", ids)}
    notes: tuple[str, ...] = ()
    if (root / "test").is_dir():
        notes = ("the images of test/ have no labels: name val for the test too, or leave it out",)
    return FoundImages(_class_words(root / "words.txt", ids), splits, notes)


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


def _class_words(table: Path, ids: tuple[str, ...]) -> tuple[str, ...]:
    """The first word of each id in words.txt, followed by the id where several have the same word;
    the ids themselves without the file.
    """
    if not table.is_file():
        return ids
    words = {}
    for line in read_text(table).splitlines():
        key, tab, value = line.partition("\t")
        if tab:
            words[key.strip()] = value.split(",")[0].strip()
    names = [words.get(key) or key for key in ids]
    unique = []
    for name, key in zip(names, ids, strict=True):
        unique.append(name if names.count(name) == 1 else f"{name} ({key})")
    return tuple(unique)


def _shortened(names: tuple[str, ...]) -> str:
    if len(names) <= 12:
        return ", ".join(names)
    return f"{', '.join(names[:10])}, ... ({len(names)} in all)"


FORMATS.register("tiny_imagenet")(
    ImageFormat(_open_tiny_imagenet, lambda root: (root / "wnids.txt").is_file())
)
FORMATS.register("folder")(ImageFormat(_open_folder, _looks_like_classes, fallback=True))
