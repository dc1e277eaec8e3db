"""Labeled images in folders: one folder per class, and Tiny ImageNet."""

from __future__ import annotations

import os
from pathlib import Path

from kanseg.data.classification.arrays import TEST_SHARE
from kanseg.data.classification.formats import FORMATS, FoundImages, ImageFormat
from kanseg.data.classification.sources import SHOWN, FileImages, ImageSource, cut
from kanseg.data.formats.listing import supported_formats
from kanseg.data.io.images import IMAGE_SUFFIXES
from kanseg.data.names import natural_key, shorten
from kanseg.utils.errors import InputError
from kanseg.utils.language import translate
from kanseg.utils.reading import read_text
from kanseg.utils.registry import nearest

# Folders of these names are splits, not classes.
SPLIT_NAMES = {"train", "training", "val", "valid", "validation", "test", "testing"}


def _subfolders(folder: Path) -> list[Path]:
    """Return the folders in a folder, without hidden ones, class_2 before class_10."""
    found = [path for path in folder.iterdir() if path.is_dir() and not path.name.startswith(".")]
    return sorted(found, key=lambda path: natural_key(path.name))


def _images(folder: Path) -> list[str]:
    """Return all image files in the folder and below it, without hidden ones."""
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


def _has_class_folders(root: Path) -> bool:
    """True if the folder has a folder train/, or folders with images."""
    if not root.is_dir():
        return False
    return (root / "train").is_dir() or any(_has_images(folder) for folder in _subfolders(root))


def _labeled(folder: Path, classes: tuple[str, ...]) -> ImageSource:
    """Return the images of a split with their labels.

    Raises:
        InputError: a folder that is not a class, or no images.
    """
    paths: list[str] = []
    labels: list[int] = []
    for subfolder in _subfolders(folder):
        name = subfolder.name
        if name not in classes:
            raise InputError(
                "the training images have no such class{hint} (classes: {classes})",
                hint=nearest(name, classes),
                classes=shorten(classes),
                where=subfolder,
            )
        images = _images(subfolder)
        paths += images
        labels += [classes.index(name)] * len(images)
    if not paths:
        raise InputError(
            "expected a folder of images ({formats}) for each class, found none",
            formats=supported_formats(),
            where=folder,
        )
    return ImageSource.of(FileImages(paths), labels)


def _class_names(folder: Path) -> tuple[str, ...]:
    """Return the names of the class folders in a folder.

    Raises:
        InputError: folders without images, or a data set for segmentation.
    """
    names, empty = [], []
    for path in _subfolders(folder):
        names.append(path.name)
        if not _has_images(path):
            empty.append(f"{path}: a class without images; add some, or remove the folder")
    if {"images", "masks"} <= set(names):
        raise InputError(
            "images/ and masks/ are the layout for segmentation; to classify, put the images of"
            " each class into a folder of its own",
            where=folder,
        )
    if empty:
        raise InputError("\n".join(empty[:SHOWN]))
    return tuple(names)


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
                notes.append(
                    translate(
                        "{path}: left out, because its images are not in class folders", path=path
                    )
                )
        return FoundImages(classes, found, tuple(notes))
    splits = [path.name for path in _subfolders(root) if path.name.lower() in SPLIT_NAMES]
    if splits:
        raise InputError(
            "{splits} look like splits, but there is no folder train/: rename them to train/,"
            " val/ and test/",
            splits=", ".join(splits),
            where=root,
        )
    classes = _class_names(root)
    source = _labeled(root, classes)
    if len(source) < 2:
        raise InputError("one image cannot be split into train and test", where=root)
    train, test = cut(source, TEST_SHARE, seed, root)
    note = (
        f"no folder train/: the folders are classes, and {len(test)} of {len(source)} images become"
        f" the test split, by seed {seed} and a hash of the name"
    )
    return FoundImages(classes, {"train": train, "test": test}, (note,), ("train", "test"))


def _must_be_folder(root: Path) -> None:
    if not root.is_dir():
        raise InputError(
            "no such folder (looked for {path}); data.root must hold train/CLASS/ or CLASS/"
            " with images",
            path=root.resolve(),
            where=root,
        )


def _open_tiny_imagenet(root: Path, download: bool, seed: int) -> FoundImages:
    """Open Tiny ImageNet; classes are numbered by their sorted WordNet ids, as torchvision's
    ImageFolder does.
    """
    _must_be_folder(root)
    for name in ("wnids.txt", "train", "val/images", "val/val_annotations.txt"):
        if not (root / name).exists():
            raise InputError(
                "{name} is missing; expected the unpacked Tiny ImageNet: train/, val/ and"
                " wnids.txt",
                name=name,
                where=root,
            )
    lines = [line.strip() for line in read_text(root / "wnids.txt").splitlines()]
    ids = tuple(sorted({line for line in lines if line}))
    splits = {"train": _labeled(root / "train", ids), "val": _annotated(root / "val", ids)}
    notes: tuple[str, ...] = ()
    if (root / "test").is_dir():
        notes = (
            "the images of test/ have no labels and are left out; set data.test to [val], or leave"
            " it out",
        )
    return FoundImages(_class_words(root / "words.txt", ids), splits, notes)


def _annotated(folder: Path, ids: tuple[str, ...]) -> ImageSource:
    """Return the labeled images that val_annotations.txt lists: `NAME<tab>ID<tab>box`."""
    table, paths, labels = folder / "val_annotations.txt", [], []
    for number, line in enumerate(read_text(table).splitlines(), 1):
        if not line.strip():
            continue
        name, *rest = line.split("\t")
        if not rest or rest[0] not in ids or "/" in name or "\\" in name or name in (".", ".."):
            raise InputError(
                "{table}, line {number}: expected a file name and an id of wnids.txt between"
                " tabs, got {line!r:.80}",
                table=table,
                number=number,
                line=line,
            )
        paths.append(folder / "images" / name)
        labels.append(ids.index(rest[0]))
    if not paths:
        raise InputError("lists no images", where=table)
    return ImageSource.of(FileImages(paths), labels)


def _class_words(table: Path, ids: tuple[str, ...]) -> tuple[str, ...]:
    """Return the first word of each id in words.txt, followed by the id if several have the same
    word; the ids themselves without that file.
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
        if names.count(name) > 1:
            name = f"{name} ({key})"
        unique.append(name)
    return tuple(unique)


FORMATS.register("tiny_imagenet")(
    ImageFormat(_open_tiny_imagenet, lambda root: (root / "wnids.txt").is_file())
)
FORMATS.register("folder")(ImageFormat(_open_folder, _has_class_folders, fallback=True))
