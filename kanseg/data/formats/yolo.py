"""The form of YOLO (Ultralytics) for segmentation: data.yaml, images/ and labels/ with a text file
of polygons for each image.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import numpy as np

from kanseg.data.formats.index import DatasetIndex
from kanseg.data.formats.label_settings import ProbeMasks, is_yolo_yaml, read_label_settings
from kanseg.data.formats.objects import (
    BACKGROUND,
    object_index,
    object_label_spec,
    polygon_area,
    sample_names,
)
from kanseg.data.formats.split_files import split_of_folders
from kanseg.data.io.images import IMAGE_SUFFIXES, MAX_PIXELS
from kanseg.data.io.rasterize import Annotation, Region
from kanseg.data.names import few
from kanseg.data.sample import Sample
from kanseg.utils.errors import InputError
from kanseg.utils.language import translate
from kanseg.utils.reading import read_text, read_yaml

YAML_NAMES = ("data.yaml", "data.yml", "dataset.yaml", "dataset.yml")  # looked for first
CLASSES = "classes.txt"
SPLIT_KEYS = {"train": "train", "val": "val", "valid": "val", "test": "test"}
TOLERANCE = 0.01  # of coordinates beyond the image; that of Ultralytics
CLASS = re.compile("[0-9]{1,3}")  # index of a class
FEWEST = 7  # numbers in a line: the class and three points
BOX = (5, 6)  # numbers of a box: class, center, size, and in predictions the confidence


def is_yolo(root: Path) -> bool:
    """True if the folder has a data.yaml with names and splits, or images/ and labels/ of text
    files.
    """
    if _find_yaml(root) is not None:
        return True
    folder = root / "labels"
    has_texts = folder.is_dir() and next(folder.rglob("*.txt"), None) is not None
    return has_texts and (root / "images").is_dir()


def read_yolo(
    root: Path | str,
    overrides: Mapping[str, object] | None = None,
    *,
    seed: int = 0,
    max_pixels: int = MAX_PIXELS,
    probe: ProbeMasks | None = None,  # noqa: ARG001 - there are no mask files
    strict: bool = True,
) -> DatasetIndex:
    """Index the images of data.yaml and their polygons.

    `train`, `val` and `test` of data.yaml are folders, lists of them, or text files of paths; the
    labels of `images/a.jpg` are in `labels/a.txt`, with lines `CLASS x1 y1 x2 y2 ...` in shares of
    width and height. An image without that file, or with an empty one, has no object. The classes
    are the background and `names`. Without data.yaml, `images/` and `labels/` are read with the
    names of classes.txt, by folders named train, val and test, split files, or a hash.

    Args:
        root, overrides, seed, max_pixels, strict: see `read_folder`.

    Raises:
        InputError: folders that do not exist, boxes instead of polygons; with `strict` any other
            error. A label file that cannot be read is a fault of its image.
    """
    root = Path(root)
    notes: list[str] = []
    content, path = {}, _find_yaml(root)
    if path is not None:
        content = read_yaml(path)
        if "kpt_shape" in content:
            raise InputError(
                "kpt_shape: these are keypoints, not polygons; export polygons (YOLO segmentation)",
                where=path,
            )
        images = _images_of_yaml(root, path, content, notes)
    else:
        images = _images_by_folder(root)
    if not any(images.values()):
        raise InputError(
            "format yolo needs data.yaml with names and train, or images/ and labels/",
            where=root,
        )
    names = _class_names(root, path, content, notes)
    given = read_label_settings(root, overrides or {})
    labels = {image: _label_path(root, image) for each in images.values() for image in each}
    _refuse_without_labels(root, labels, notes)
    if names is None:
        names = _numbered_classes(labels.values(), notes)
    spec, class_of = object_label_spec(root, names, given, notes, form=translate("YOLO polygons"))
    if BACKGROUND in class_of and spec.task != "multilabel":
        class_of[BACKGROUND] = 0
    index_of = [class_of[name] for name in names]
    stems = sample_names([image.relative_to(root).as_posix() for image in labels])
    name_of = dict(zip(labels, stems, strict=True))
    samples = {}
    for split, members in images.items():
        found = []
        for image in members:
            annotation = _annotation(labels[image], index_of)
            found.append(Sample(name_of[image], image, annotation, max_pixels))
        samples[split] = found
    return object_index(root, spec, samples, notes, seed=seed, strict=strict, split_files=True)


def _find_yaml(root: Path) -> Path | None:
    """Return the YAML file with names and splits; data.yaml before files of other names."""
    others = [path for path in sorted(root.glob("*.y*ml")) if path.name not in YAML_NAMES]
    for path in (*(root / name for name in YAML_NAMES), *others):
        if not path.is_file():
            continue
        try:
            content = read_yaml(path)
        except InputError:
            continue
        if is_yolo_yaml(content):
            return path
    return None


def _images_of_yaml(
    root: Path, path: Path, content: Mapping[str, Any], notes: list[str]
) -> dict[str, list[Path]]:
    """Return the images of each split of data.yaml."""
    images: dict[str, list[Path]] = {}
    base = str(content.get("path") or "")
    for key, split in SPLIT_KEYS.items():
        value = content.get(key)
        places = value if isinstance(value, list) else [value]
        found: list[Path] = []
        for place in filter(None, places):
            where = _find_place(root, base, str(place))
            if where is not None:
                found += _images_of_place(root, where)
            elif split == "test":  # Roboflow names it always
                notes.append(
                    translate(
                        "left out: {key}: {place} of {file}, which does not exist",
                        key=key,
                        place=place,
                        file=path.name,
                    )
                )
            else:
                raise InputError(
                    "{key}: {place!r:.200} does not exist below {root}; correct it, or remove it",
                    key=key,
                    place=str(place),
                    root=root,
                    where=path,
                )
        if found:
            images[split] = list(dict.fromkeys(found))
    return images


def _find_place(root: Path, base: str, place: str) -> Path | None:
    """Return the folder or list below the root that data.yaml names.

    `path` often is a folder of another computer, and Roboflow writes `../train/images` for
    `train/images`, so `path` counts only as far as it exists; of an absolute place, its longest end
    that exists.
    """
    if PurePosixPath(place).is_absolute() or PureWindowsPath(place).is_absolute():
        return _longest_end(root, _parts(place))
    return _longest_end(root, [*_parts(base), *_parts(place)], kept=len(_parts(place)))


def _images_of_place(root: Path, place: Path) -> list[Path]:
    """Return the images of a folder, or of a text file of paths."""
    if place.is_dir():
        return list(_walk(place))
    images = []
    for line in read_text(place).splitlines():
        if not line.strip():
            continue
        image = _longest_end(root, _parts(line.strip()))
        if image is None:
            raise InputError(
                "the image {name!r:.200} does not exist", name=line.strip(), where=place
            )
        images.append(image)
    return images


def _parts(place: str) -> list[str]:
    """Return the names in a path, without `.`, `..` and `/`."""
    parts = PurePosixPath(place.replace("\\", "/")).parts
    return [part for part in parts if part not in (".", "..", "/")]


def _longest_end(root: Path, parts: Sequence[str], kept: int = 1) -> Path | None:
    """Return the file or folder below the root that the longest end of a path names, of at least
    `kept` parts.
    """
    for start in range(len(parts) - kept + 1):
        path = root.joinpath(*parts[start:])
        with suppress(OSError):  # such as a name that is too long
            if path.exists():
                return path
    return None


def _walk(folder: Path) -> Iterator[Path]:
    """Yield the images of a folder and its subfolders, without hidden files."""
    for where, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(files):
            if Path(name).suffix.lower() in IMAGE_SUFFIXES and not name.startswith("."):
                yield Path(where, name)


def _images_by_folder(root: Path) -> dict[str, list[Path]]:
    """Return the images of images/ by the folders named after splits, else all under ""."""
    images: dict[str, list[Path]] = {}
    for image in _walk(root / "images"):
        split = split_of_folders(image.relative_to(root / "images").parts[:-1])
        images.setdefault(split, []).append(image)
    return images


def _label_path(root: Path, image: Path) -> Path:
    """Return the label file of an image: the last folder `images` becomes `labels`."""
    parts = list(image.relative_to(root).with_suffix(".txt").parts)
    for number in reversed(range(len(parts) - 1)):
        if parts[number] == "images":
            parts[number] = "labels"
            break
    return root.joinpath(*parts)


def _refuse_without_labels(root: Path, labels: Mapping[Path, Path], notes: list[str]) -> None:
    """Raise InputError if no image has a label file; note how many have none."""
    missing = [image for image, label in labels.items() if not label.is_file()]
    if len(missing) == len(labels):
        raise InputError(
            "no image has a label file; for this one it would be {file}",
            file=labels[missing[0]].relative_to(root).as_posix(),
            where=missing[0],
        )
    if missing:
        names = few(image.name for image in missing)
        notes.append(
            translate(
                "{count} images have no label file and are read as images without objects, as"
                " Ultralytics reads them: {names}",
                count=len(missing),
                names=names,
            )
        )


def _class_names(
    root: Path, path: Path | None, content: Mapping[str, Any], notes: list[str]
) -> list[str] | None:
    """Return the names of data.yaml (a list, or index -> name) or classes.txt; None if there are
    none.
    """
    if path is None:
        table = root / CLASSES
        if not table.is_file():
            return None
        notes.append(translate("classes are read from {classes}", classes=CLASSES))
        return [line.strip() for line in read_text(table).splitlines() if line.strip()]
    names = content["names"]
    if isinstance(names, dict):
        if sorted(names, key=str) != sorted(range(len(names)), key=str):
            raise InputError(
                "names must be numbered 0, 1, 2, ..., got {found}",
                found=list(names),
                where=path,
            )
        names = [names[index] for index in range(len(names))]
    if not isinstance(names, list) or not names:
        raise InputError(
            "names must be a list of names, or a map 0: NAME, got {names!r}",
            names=names,
            where=path,
        )
    return [str(name) for name in names]


def _numbered_classes(labels: Sequence[Path], notes: list[str]) -> list[str]:
    """Return names for the classes in label files, where nothing names them."""
    largest = 0
    for path in labels:
        if path.is_file():
            firsts = [line.split()[0] for line in read_text(path).splitlines() if line.strip()]
            largest = max([largest, *(int(first) for first in firsts if CLASS.fullmatch(first))])
    notes.append(
        translate(
            "neither data.yaml nor {classes} names the classes: they are numbered", classes=CLASSES
        )
    )
    return [f"class_{index}" for index in range(largest + 1)]


def _annotation(path: Path, index_of: Sequence[int | None]) -> Annotation:
    """Read a label file; an image without one has no object."""
    if not path.is_file():
        return Annotation(path, 0)
    regions = []
    try:
        for number, line in enumerate(read_text(path).splitlines(), 1):
            if line.strip():
                label, polygon = _parse_line(number, line, len(index_of))
                if index_of[label] is not None:
                    area = polygon_area([polygon])
                    regions.append(Region(index_of[label], [polygon], area))
    except InputError as error:
        return Annotation(path, 0, fault=error.reason)
    return Annotation(path, 0, regions=tuple(regions), normalized=True)


def _parse_line(number: int, line: str, classes: int) -> tuple[int, np.ndarray]:
    """Return (class, polygon (n, 2) in shares of width and height) of a line."""
    words = line.split()
    if len(words) in BOX:
        raise InputError(
            "line {number} is a box ({count} numbers); boxes are not enough to train"
            " segmentation: export polygons (YOLO segmentation), CLASS x1 y1 x2 y2 x3 y3 ...",
            number=number,
            count=len(words),
        )
    if len(words) < FEWEST or len(words) % 2 == 0 or not CLASS.fullmatch(words[0]):
        raise InputError(
            "line {number}: expected CLASS x1 y1 x2 y2 x3 y3 ..., got {line!r:.80}",
            number=number,
            line=line,
        )
    label = int(words[0])
    if label >= classes:
        raise InputError(
            "line {number}: class {label}, but there are {classes} names",
            number=number,
            label=label,
            classes=classes,
        )
    try:
        values = np.array(words[1:], dtype=np.float64)
    except ValueError:
        raise InputError(
            "line {number} holds words that are not numbers: {line!r:.80}", number=number, line=line
        ) from None
    inside = (values >= -TOLERANCE) & (values <= 1 + TOLERANCE)
    if not inside.all():  # NaN fails too
        raise InputError(
            "line {number}: coordinates must be shares of width and height, from 0 to 1, got"
            " {values}",
            number=number,
            values=f"{values[~inside][0]:g}",
        )
    return label, values.reshape(-1, 2)
