"""The COCO form of a data set: images, and JSON files of annotated objects."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from kanseg.data.formats.index import DatasetIndex
from kanseg.data.formats.label_settings import ProbeMasks, read_label_settings
from kanseg.data.formats.objects import (
    check_polygons,
    checked_size,
    object_index,
    object_label_spec,
    polygon_area,
    relative_path,
    sample_names,
)
from kanseg.data.formats.split_files import SPLIT_FOLDERS
from kanseg.data.io.images import MAX_PIXELS
from kanseg.data.io.rasterize import Annotation, Region
from kanseg.data.sample import Sample
from kanseg.data.splits import SPLITS
from kanseg.utils.errors import InputError
from kanseg.utils.language import translate
from kanseg.utils.reading import LARGEST, read_json

HEAD = 4096  # bytes that are read to recognize a file
SINGLE = "annotations.json"
PREFIX = "instances_"
ROBOFLOW = "_annotations.coco.json"  # beside the images of a split
ROBOFLOW_SPLITS = ("train", "valid", "val", "test")
LABEL_STUDIO = "result.json"  # of its COCO export; it has JSON exports of other forms too
UNSPLIT = "default"  # the only file in an export of CVAT without splits
NEEDED_KEYS = {
    "images": ("id", "file_name"),
    "annotations": ("image_id", "category_id"),
    "categories": ("id", "name"),
}


@dataclass(frozen=True)
class AnnotationFile:
    """One JSON file.

    Args:
        path: of the file.
        split: name of its split; "" for a single file, which is split by hash.
        folder: the split as it is spelled in the name of the file (`train2017` for train).
    """

    path: Path
    split: str
    folder: str


def is_coco(root: Path) -> bool:
    """True if the folder has JSON files with the names of COCO annotations."""
    return bool(_annotation_files(root))


def read_coco(
    root: Path | str,
    overrides: Mapping[str, object] | None = None,
    *,
    seed: int = 0,
    max_pixels: int = MAX_PIXELS,
    probe: ProbeMasks | None = None,  # noqa: ARG001 - there are no mask files
    strict: bool = True,
) -> DatasetIndex:
    """Index the images and objects of annotations/{train,val,test}.json,
    annotations/instances_*.json, {train,valid,test}/_annotations.coco.json (Roboflow), or with a
    seeded split of annotations.json, annotations/instances_default.json (CVAT) or result.json
    (Label Studio).

    The `file_name` of an image is searched in images/SPLIT/, images/, SPLIT/ and root. The classes
    are the background and the categories by id, and smaller objects are drawn over larger ones;
    `task: multilabel` keeps overlaps and has no background. `classes` in the settings select
    categories. Crowds become ignored pixels, unless every object is a crowd, as in the exports of
    brush tools: then they are read as objects.

    Args:
        root, overrides, seed, max_pixels, strict: see `read_folder`.

    Raises:
        InputError: files that are not COCO annotations, file names outside of the folder, classes
            that are not categories; with `strict` any other error.
    """
    root = Path(root)
    notes: list[str] = []
    files = _annotation_files(root)
    if not files:
        raise InputError(
            "format coco needs {single}, annotations/train.json, annotations/{prefix}*.json or"
            " train/{roboflow} in it",
            single=SINGLE,
            prefix=PREFIX,
            roboflow=ROBOFLOW,
            where=root,
        )
    given = read_label_settings(root, overrides or {})
    contents = {file: _read_annotations(file.path) for file in files}
    categories = _categories(contents)
    if "classes" not in given:
        categories = _without_unused_parents(categories, contents, notes)
    contents = _crowds_as_objects(contents, notes)
    names = list(categories.values())
    spec, index_of = object_label_spec(
        root, names, given, notes, form=translate("COCO annotations")
    )
    class_of = {number: index_of[name] for number, name in categories.items()}
    splits = {}
    for file, content in contents.items():
        splits[file.split] = _samples(root, file, content, class_of, max_pixels, notes)
    return object_index(root, spec, splits, notes, seed=seed, strict=strict)


def _annotation_files(root: Path) -> list[AnnotationFile]:
    """Find the JSON files of the first layout that exists: annotations/, Roboflow's, one file."""
    files = _files_of_folder(root / "annotations")
    if files:
        return files
    for name in ROBOFLOW_SPLITS:
        if (root / name / ROBOFLOW).is_file():
            files.append(AnnotationFile(root / name / ROBOFLOW, SPLIT_FOLDERS[name], name))
    if files:
        return files
    for name in (SINGLE, ROBOFLOW):
        if (root / name).is_file():
            return [AnnotationFile(root / name, "", "")]
    if _is_coco_file(root / LABEL_STUDIO):
        return [AnnotationFile(root / LABEL_STUDIO, "", "")]
    return []


def _files_of_folder(folder: Path) -> list[AnnotationFile]:
    """Find instances_SPLIT.json and train.json, val.json, test.json in annotations/."""
    paths = sorted(folder.glob(f"{PREFIX}*.json"))
    for split in SPLITS:
        if (folder / f"{split}.json").is_file():
            paths.append(folder / f"{split}.json")
    year = re.compile(r"^(train|val|test)[-_]?\d{4}$")
    files, without_year = [], []
    for path in paths:
        stem = path.stem.removeprefix(PREFIX)
        files.append(AnnotationFile(path, stem, stem))
        without_year.append(year.sub(r"\1", stem))
    for number, split in enumerate(without_year):
        if without_year.count(split) == 1:  # train2017 is train, unless there is a train2014 too
            files[number] = replace(files[number], split=split)
    if [file.split for file in files] == [UNSPLIT]:
        return [replace(files[0], split="")]
    return files


def _is_coco_file(path: Path) -> bool:
    """True if a JSON file begins as COCO annotations do: an object with a list of images."""
    if not path.is_file():
        return False
    with path.open("rb") as stream:
        head = stream.read(HEAD).lstrip()
    return head.startswith(b"{") and b'"images"' in head


def _read_annotations(path: Path) -> dict[str, Any]:
    """Read a JSON file with lists of images, annotations and categories."""
    content = read_json(path)
    for key, needed in NEEDED_KEYS.items():
        if not isinstance(content, dict) or not isinstance(content.get(key), list):
            raise InputError("not COCO annotations, there is no list {key!r}", key=key, where=path)
        for number, entry in enumerate(content[key]):
            for name in needed:
                if not isinstance(entry, dict) or not isinstance(entry.get(name), (int, str)):
                    raise InputError(
                        "{key}[{number}] has no {name!r}",
                        key=key,
                        number=number,
                        name=name,
                        where=path,
                    )
    return content


def _categories(contents: Mapping[AnnotationFile, dict[str, Any]]) -> dict[int, str]:
    """Return id -> name of the categories of all files, sorted by id; duplicate names get the id
    as suffix.
    """
    found: dict[int, str] = {}
    for file, content in contents.items():
        for entry in content["categories"]:
            number, name = entry["id"], str(entry["name"])
            if found.setdefault(number, name) != name:
                raise InputError(
                    "category {number} is {name!r} here and {found!r} in another file",
                    number=number,
                    name=name,
                    found=found[number],
                    where=file.path,
                )
    if not found or not all(isinstance(number, int) for number in found):
        first = next(iter(contents))
        raise InputError(
            "categories must have integers as ids, got {found}",
            found=list(found)[:5],
            where=first.path,
        )
    count = Counter(found.values())
    unique = {}
    for number in sorted(found):
        name = found[number]
        if count[name] > 1:
            name = f"{name}_{number}"
        unique[number] = name
    return unique


def _without_unused_parents(
    categories: dict[int, str],
    contents: Mapping[AnnotationFile, dict[str, Any]],
    notes: list[str],
) -> dict[int, str]:
    """Leave out categories that are the supercategory of another category and have no object, such
    as the first category in Roboflow's files.
    """
    parents, used, unused = set(), set(), []
    for content in contents.values():
        for entry in content["categories"]:
            parents.add(repr(entry.get("supercategory")))
        for entry in content["annotations"]:
            used.add(entry["category_id"])
    for content in contents.values():
        for entry in content["categories"]:
            is_parent = repr(entry["name"]) in parents
            is_parent &= entry["name"] != entry.get("supercategory")
            if is_parent and entry["id"] not in used:
                unused.append(entry["id"])
    if not unused:
        return categories
    shown = ", ".join(categories[number] for number in sorted(set(unused)))
    notes.append(
        translate(
            "left out: the category {shown}, which is the parent of others and has no object",
            shown=shown,
        )
    )
    return {number: name for number, name in categories.items() if number not in unused}


def _crowds_as_objects(
    contents: dict[AnnotationFile, dict[str, Any]], notes: list[str]
) -> dict[AnnotationFile, dict[str, Any]]:
    """Read crowds as objects if all objects are crowds."""
    crowds = objects = 0
    for content in contents.values():
        objects += len(content["annotations"])
        crowds += sum(bool(entry.get("iscrowd")) for entry in content["annotations"])
    if not objects or crowds < objects:
        return contents
    notes.append(
        translate(
            "all objects have iscrowd: 1, as in the exports of brush tools and SAM: they are read"
            " as objects, not as ignored crowds"
        )
    )
    unmarked = {}
    for file, content in contents.items():
        annotations = [entry | {"iscrowd": 0} for entry in content["annotations"]]
        unmarked[file] = content | {"annotations": annotations}
    return unmarked


def _samples(
    root: Path,
    file: AnnotationFile,
    content: Mapping[str, Any],
    class_of: Mapping[int, int | None],
    max_pixels: int,
    notes: list[str],
) -> tuple[Sample, ...]:
    """Return the images of a file with their objects."""
    images: dict[Any, Any] = {}
    names: dict[Any, str] = {}
    used: set[str] = set()
    for entry in content["images"]:
        if entry["id"] in images:
            raise InputError("two images have the same id", where=file.path)
        images[entry["id"]] = entry
        name = relative_path(file.path, entry["file_name"])
        names[entry["id"]] = name
        if name in used:  # as two samples, each would lack the objects of the other
            raise InputError(
                "{name!r} is the file of two images; give their annotations one image_id, and"
                " remove the other image",
                name=name,
                where=file.path,
            )
        used.add(name)
    if not images:
        return ()
    regions = _regions(file.path, content["annotations"], images, class_of, notes)
    folder = _image_folder(root, file, next(iter(names.values())))
    unique = sample_names(list(names.values()))
    samples = []
    for sample_name, (number, name) in zip(unique, names.items(), strict=True):
        size = checked_size(images[number].get("height"), images[number].get("width"))
        annotation = Annotation(file.path, number, size, tuple(regions[number]))
        samples.append(Sample(sample_name, folder / name, annotation, max_pixels))
    return tuple(samples)


def _regions(
    path: Path,
    annotations: Sequence[Mapping[str, Any]],
    images: Mapping[Any, Any],
    class_of: Mapping[int, int | None],
    notes: list[str],
) -> dict[Any, list[Region]]:
    """Return image id -> objects of the selected classes."""
    regions: dict[Any, list[Region]] = {number: [] for number in images}
    without_image = 0
    for number, entry in enumerate(annotations):
        if entry["category_id"] not in class_of:
            raise InputError(
                "annotations[{number}] has category_id {entry!r}, which is not a category",
                number=number,
                entry=entry["category_id"],
                where=path,
            )
        label = class_of[entry["category_id"]]
        if entry["image_id"] not in regions:
            without_image += 1
        elif label is not None:
            regions[entry["image_id"]].append(_region(path, number, entry, label))
    if without_image:
        notes.append(
            translate(
                "{path}: {without_image} annotations belong to no image of the file and are left"
                " out",
                path=path,
                without_image=without_image,
            )
        )
    return regions


def _region(path: Path, number: int, entry: Mapping[str, Any], label: int) -> Region:
    """Return one object. Polygons are checked here, run lengths when they are drawn."""
    shape, crowd = entry.get("segmentation"), bool(entry.get("iscrowd"))
    if isinstance(shape, Mapping) and {"size", "counts"} <= shape.keys():
        return Region(label, shape, _area(entry, []), crowd)
    try:
        polygons = check_polygons(shape)
    except (TypeError, ValueError, OverflowError):
        raise InputError(
            "annotations[{number}] needs a segmentation: a list of polygons [x, y, x, y, ...],"
            " or {{size, counts}}; a box is not enough",
            number=number,
            where=path,
        ) from None
    return Region(label, polygons, _area(entry, polygons), crowd)


def _area(entry: Mapping[str, Any], polygons: Sequence[np.ndarray]) -> float:
    """Return the area in the file, or the area of the polygons by the shoelace formula."""
    stated = entry.get("area")
    if isinstance(stated, (int, float)) and 0 < stated < LARGEST:
        return float(stated)
    return polygon_area(polygons)


def _image_folder(root: Path, file: AnnotationFile, image: str) -> Path:
    """Return the folder that the file names are relative to: the first that contains an image."""
    candidates = (
        root / "images" / file.folder,
        root / "images" / file.split,
        root / "images",
        root / file.folder,
        root / file.split,
        root,
    )
    for folder in candidates:
        if (folder / image).is_file():
            return folder
    return root / "images"
