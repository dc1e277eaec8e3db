"""COCO's form of a data set: images and JSON files of objects."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from kanseg.data.formats.folder import Folder
from kanseg.data.io.images import MAX_PIXELS
from kanseg.data.io.rasterize import Annotation, Region
from kanseg.data.label_spec import IGNORE_INDEX, LabelSpec, given_labels
from kanseg.data.sample import Sample
from kanseg.data.split_record import unit_of
from kanseg.data.splits import SPLITS, nfc, read_groups, seeded_split
from kanseg.utils.errors import InputError
from kanseg.utils.reading import LARGEST, read_json
from kanseg.utils.registry import nearest

LONGEST_NAME = 3000  # bytes of a path below the root; Linux takes 4096 in all
SINGLE = "annotations.json"
BACKGROUND = "background"
PREFIX = "instances_"
BESIDE = "_annotations.coco.json"  # of Roboflow, beside the images of a split
BESIDE_SPLITS = {"train": "train", "valid": "val", "val": "val", "test": "test"}


@dataclass(frozen=True)
class Source:
    """One JSON file, and the names of the split that it may be (`train2017` is also `train`)."""

    path: Path
    split: str
    folder: str


def is_coco(root: Path) -> bool:
    """Whether there are JSON files where COCO has them."""
    return bool(_sources(root))


def read_coco(
    root: Path | str,
    overrides: Mapping[str, object] | None = None,
    *,
    seed: int = 0,
    max_pixels: int = MAX_PIXELS,
) -> Folder:
    """The images and objects of annotations/{train,val,test}.json, annotations/instances_*.json,
    {train,valid,test}/_annotations.coco.json (Roboflow), or of annotations.json (a seeded split).

    An image's `file_name` is looked for in images/SPLIT/, images/, SPLIT/ and root. The classes
    are the background and the categories by id, and smaller objects lie on larger ones; `task:
    multilabel` keeps overlaps, without a background. Given `classes` choose among the categories.
    Crowds are ignored pixels, but where every object is one, as exports of brushes mark them, they
    are objects.

    Args:
        root, overrides, seed, max_pixels: as of `read_folder`.

    Raises:
        InputError: files that are no COCO annotations, names that lead out of the folder, classes
            that are no categories.
    """
    root, notes = Path(root), []
    sources = _sources(root)
    if not sources:
        raise InputError(
            f"{root}: format coco needs {SINGLE}, annotations/train.json,"
            f" annotations/{PREFIX}*.json or train/{BESIDE} in it"
        )
    contents = {source: _read(source.path) for source in sources}
    categories = _categories(contents)
    unused = _unused_parents(contents)
    if unused and "classes" not in given_labels(root, overrides or {}):
        shown = ", ".join(categories[number] for number in sorted(unused))
        notes.append(f"left out: the category {shown}, of which others are a part and no object is")
        categories = {number: categories[number] for number in categories if number not in unused}
    if _all_crowds(contents):
        notes.append(
            "every object is marked iscrowd: 1, as exports of brushes and of SAM are: they are read"
            " as objects, not as ignored crowds"
        )
        contents = {source: _without_crowds(content) for source, content in contents.items()}
    info, index = _labels(root, categories, given_labels(root, overrides or {}), notes)
    splits = {
        source.split: _samples(root, source, content, index, max_pixels, notes)
        for source, content in contents.items()
    }
    groups = read_groups(root)
    dealt = sources[0].split == ""
    if dealt:
        by_name = {sample.name: sample for sample in splits[""]}
        # By the file: a name becomes longer when another folder gets a file of the same stem.
        units = {name: unit_of(sample, root) for name, sample in by_name.items()}
        names = seeded_split(root, sorted(by_name), groups, seed, notes, units=units)
        splits = {
            split: tuple(by_name[name] for name in members) for split, members in names.items()
        }
    return Folder(root, info, splits, tuple(notes), {}, groups, dealt=dealt)


def _sources(root: Path) -> list[Source]:
    folder = root / "annotations"
    official = sorted(folder.glob(f"{PREFIX}*.json"))
    named = [folder / f"{split}.json" for split in SPLITS if (folder / f"{split}.json").is_file()]
    stems = {path: path.stem.removeprefix(PREFIX) for path in [*official, *named]}
    plain = {
        path: re.sub(r"^(train|val|test)[-_]?\d{4}$", r"\1", stem) for path, stem in stems.items()
    }
    count = Counter(plain.values())
    sources = [
        Source(path, plain[path] if count[plain[path]] == 1 else stem, stem)
        for path, stem in stems.items()
    ]
    if sources:
        return sources
    beside = [
        Source(root / name / BESIDE, split, name)
        for name, split in BESIDE_SPLITS.items()
        if (root / name / BESIDE).is_file()
    ]
    singles = [root / name for name in (SINGLE, BESIDE) if (root / name).is_file()]
    return beside or [Source(path, "", "") for path in singles[:1]]


def _read(path: Path) -> dict[str, Any]:
    """A JSON file with lists of images, annotations and categories."""
    content = read_json(path)
    for key, needed in (
        ("images", ("id", "file_name")),
        ("annotations", ("image_id", "category_id")),
        ("categories", ("id", "name")),
    ):
        entries = content.get(key) if isinstance(content, dict) else None
        if not isinstance(entries, list):
            raise InputError(f"{path}: no COCO annotations, there is no list {key!r}")
        bad = next((i for i, entry in enumerate(entries) if not _has(entry, needed)), None)
        if bad is not None:
            raise InputError(
                f"{path}: {key}[{bad}] has no {' or no '.join(repr(name) for name in needed)}"
            )
    return content


def _has(entry: object, needed: Sequence[str]) -> bool:
    return isinstance(entry, dict) and all(
        isinstance(entry.get(name), (int, str)) for name in needed
    )


def _categories(contents: Mapping[Source, dict[str, Any]]) -> dict[int, str]:
    """Id -> name of all files, by id; a name that several have gets its id behind."""
    found: dict[int, str] = {}
    for source, content in contents.items():
        for entry in content["categories"]:
            if found.setdefault(entry["id"], str(entry["name"])) != str(entry["name"]):
                raise InputError(
                    f"{source.path}: category {entry['id']} is {entry['name']!r} here and"
                    f" {found[entry['id']]!r} in another file"
                )
    if not found or not all(isinstance(number, int) for number in found):
        raise InputError(
            f"{next(iter(contents)).path}: categories must have integers as ids, got"
            f" {list(found)[:5]}"
        )
    count = Counter(found.values())
    return {
        number: found[number] if count[found[number]] == 1 else f"{found[number]}_{number}"
        for number in sorted(found)
    }


def _unused_parents(contents: Mapping[Source, dict[str, Any]]) -> set[int]:
    """The categories that are the supercategory of another and have no object, as Roboflow puts one
    first.
    """
    entries = [entry for content in contents.values() for entry in content["categories"]]
    parents = {
        str(entry["supercategory"]) for entry in entries if entry.get("supercategory") is not None
    }
    used = {
        entry["category_id"] for content in contents.values() for entry in content["annotations"]
    }
    return {
        entry["id"]
        for entry in entries
        if entry["id"] not in used
        and str(entry["name"]) in parents
        and str(entry["name"]) != str(entry.get("supercategory"))
    }


def _all_crowds(contents: Mapping[Source, dict[str, Any]]) -> bool:
    """Whether there are objects and all of them are marked as crowds."""
    marks = [
        bool(entry.get("iscrowd"))
        for content in contents.values()
        for entry in content["annotations"]
    ]
    return bool(marks) and all(marks)


def _without_crowds(content: Mapping[str, Any]) -> dict[str, Any]:
    annotations = [entry | {"iscrowd": 0} for entry in content["annotations"]]
    return dict(content) | {"annotations": annotations}


def _labels(
    root: Path, categories: Mapping[int, str], given: Mapping[str, Any], notes: list[str]
) -> tuple[LabelSpec, dict[int, int | None]]:
    """What the classes are, and the class of each category (None for one that was not chosen)."""
    many = given.get("task") == "multilabel"
    named = tuple(
        name for name in categories.values() if many or name != BACKGROUND
    )  # a category of that name is what no object covers
    classes = given.get("classes") or (() if many else (BACKGROUND,)) + named
    chosen = classes if many else classes[1:]
    for name in chosen:
        if name not in categories.values():
            known = ", ".join(categories.values())
            first = "" if many else ", the background first"
            raise InputError(
                f"{root}: class {name!r} is no category{nearest(name, categories.values())} (known:"
                f" {known}); give classes{first}"
            )
    if "mask_values" in given:
        raise InputError(f"{root}: mask_values has no meaning for COCO annotations; leave it out")
    if given.get("ignore_index", IGNORE_INDEX) not in (None, IGNORE_INDEX):
        raise InputError(
            f"{root}: ignore_index has no meaning for COCO annotations, of which crowds are"
            " ignored; leave it out, or choose among the classes"
        )
    task = given.get("task") or ("binary" if len(classes) == 2 else "multiclass")
    info = LabelSpec(task, tuple(classes), palette=given.get("palette"))
    place = {name: i for i, name in enumerate(classes) if many or i}
    left = [name for name in categories.values() if name not in place]
    notes.append(
        f"COCO annotations of {len(categories)} categories: read as {task} ({_few(classes)})"
        + (f"; left out: {_few(left)}" if left else "")
    )
    return info, {number: place.get(name) for number, name in categories.items()}


def _samples(
    root: Path,
    source: Source,
    content: Mapping[str, Any],
    index: Mapping[int, int | None],
    max_pixels: int,
    notes: list[str],
) -> tuple[Sample, ...]:
    images = {entry["id"]: entry for entry in content["images"]}
    if len(images) < len(content["images"]):
        raise InputError(f"{source.path}: two images have the same id")
    if not images:
        return ()
    regions: dict[Any, list[Region]] = {number: [] for number in images}
    stray = 0
    for number, entry in enumerate(content["annotations"]):
        if entry["category_id"] not in index:
            raise InputError(
                f"{source.path}: annotations[{number}] has category_id {entry['category_id']!r},"
                " which is no category"
            )
        stray += entry["image_id"] not in regions
        if entry["image_id"] in regions and index[entry["category_id"]] is not None:
            regions[entry["image_id"]].append(
                _region(source.path, number, entry, index[entry["category_id"]])
            )
    if stray:
        notes.append(
            f"{source.path}: {stray} annotations belong to no image of the file and are left out"
        )
    files = {number: _inside(source.path, entry["file_name"]) for number, entry in images.items()}
    twice = next((file for file, count in Counter(files.values()).items() if count > 1), None)
    if twice is not None:  # as two samples each would lack the other's objects
        raise InputError(
            f"{source.path}: {twice!r} is the file of two images; give their annotations one"
            " image_id, and remove the other image"
        )
    base = _image_folder(root, source, next(iter(files.values())))
    names = _names(list(files.values()))
    return tuple(
        Sample(
            name,
            base / file,
            Annotation(source.path, number, _size(images[number]), tuple(regions[number])),
            max_pixels,
        )
        for name, (number, file) in zip(names, files.items(), strict=True)
    )


def _region(path: Path, number: int, entry: Mapping[str, Any], label: int) -> Region:
    """One object; its shape is looked at here, its pixels when it is drawn."""
    shape = entry.get("segmentation")
    try:
        if isinstance(shape, Mapping) and {"size", "counts"} <= shape.keys():
            return Region(label, shape, _area(entry), bool(entry.get("iscrowd")))
        polygons = (
            [np.array(points, dtype=np.float64).reshape(-1, 2) for points in shape]
            if isinstance(shape, list)
            else []
        )
    except (TypeError, ValueError, OverflowError):
        polygons = []
    if not polygons or any(
        len(points) < 1 or not np.isfinite(points).all() or np.abs(points).max() > 1e6
        for points in polygons
    ):
        raise InputError(
            f"{path}: annotations[{number}] needs a segmentation: a list of polygons [x, y, x, y,"
            " ...], or {size, counts}; a box has no outline"
        )
    return Region(label, polygons, _area(entry, polygons), bool(entry.get("iscrowd")))


def _area(entry: Mapping[str, Any], polygons: Sequence[np.ndarray] = ()) -> float:
    """The stated area, or that of the polygons by the shoelace formula."""
    stated = entry.get("area")
    if isinstance(stated, (int, float)) and 0 < stated < LARGEST:
        return float(stated)
    return float(
        sum(
            abs(np.dot(p[:, 0], np.roll(p[:, 1], 1)) - np.dot(p[:, 1], np.roll(p[:, 0], 1))) / 2
            for p in polygons
        )
    )


def _size(image: Mapping[str, Any]) -> tuple[int, int] | None:
    sides = image.get("height"), image.get("width")
    return sides if all(isinstance(side, int) and side > 0 for side in sides) else None


def _inside(path: Path, name: object) -> str:
    """The file name, as long as it stays inside the folder."""
    text = str(name)
    parts = PurePosixPath(text.replace("\\", "/")).parts
    if not text.isprintable():
        raise InputError(f"{path}: file_name {text!r:.100} has characters that cannot be printed")
    if len(text.encode()) > LONGEST_NAME or any(len(p.encode()) > 255 for p in parts):
        raise InputError(f"{path}: file_name {text!r:.100} is longer than a file system allows")
    if not parts or text.startswith(("/", "\\")) or ".." in parts or ":" in parts[0]:
        raise InputError(
            f"{path}: file_name {text!r} must be a relative path inside the folder of the images;"
            " .. and absolute paths are refused"
        )
    return "/".join(parts)


def _image_folder(root: Path, source: Source, file: str) -> Path:
    """The folder that the file names of a JSON file start from: the first that has the file."""
    inside = dict.fromkeys(
        [
            root / "images" / source.folder,
            root / "images" / source.split,
            root / "images",
            root / source.folder,
            root / source.split,
            root,
        ]
    )
    return next((folder for folder in inside if (folder / file).is_file()), root / "images")


def _names(files: Sequence[str]) -> list[str]:
    """The stem of each file, or its whole path where several share one."""
    stems = [nfc(PurePosixPath(file).stem) for file in files]
    count = Counter(stems)
    return [
        stem if count[stem] == 1 else nfc(file.replace("/", "_").replace(".", "_"))
        for stem, file in zip(stems, files, strict=True)
    ]


def _few(names: Sequence[str]) -> str:
    return ", ".join(names) if len(names) <= 8 else f"{', '.join(names[:7])}, ... {names[-1]}"
