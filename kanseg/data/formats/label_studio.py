"""Label Studio's JSON export: polygons, brush strokes, rectangles and ellipses of tasks."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import parse_qs, unquote, urlparse

import numpy as np

from kanseg.data.formats.index import DatasetIndex
from kanseg.data.formats.label_settings import ProbeMasks, read_label_settings
from kanseg.data.formats.objects import (
    ImageFinder,
    check_polygons,
    checked_size,
    object_index,
    object_label_spec,
    polygon_area,
    relative_path,
    sample_names,
)
from kanseg.data.io.images import IMAGE_SUFFIXES, MAX_PIXELS
from kanseg.data.io.rasterize import Annotation, Region
from kanseg.data.names import few, natural_key
from kanseg.data.sample import Sample
from kanseg.utils.errors import InputError
from kanseg.utils.language import translate
from kanseg.utils.reading import read_json

HEAD = 65536  # bytes at the start of a JSON file that are read to recognize it
TASK_KEYS = (b'"annotations"', b'"completions"')
MINIMAL_KEYS = (b'"annotation_id"', b'"annotator"')  # of the export JSON-MIN
LABEL_KEYS = ("polygonlabels", "brushlabels", "rectanglelabels", "ellipselabels", "labels")
UPLOAD_PREFIX = re.compile(r"^[0-9a-f]{8}-")  # before the name of an uploaded file
BRUSH_FILE = "task-*-annotation-*.png"  # of the export "Brush labels to PNG"
ELLIPSE_POINTS = 256


@dataclass(frozen=True)
class Task:
    """One image of the export with the result of one annotator."""

    source: Path
    number: str
    image: str
    results: Sequence[Mapping[str, Any]]


def is_label_studio(root: Path) -> bool:
    """True if the folder has a JSON export of Label Studio, or its PNG files of brush strokes."""
    return bool(_exports(root)) or next(root.glob(BRUSH_FILE), None) is not None


def read_label_studio(
    root: Path | str,
    overrides: Mapping[str, object] | None = None,
    *,
    seed: int = 0,
    max_pixels: int = MAX_PIXELS,
    probe: ProbeMasks | None = None,  # noqa: ARG001 - there are no mask files
    strict: bool = True,
) -> DatasetIndex:
    """Index the tasks of Label Studio's JSON export (`*.json` in the root) that are annotated.

    The images are found anywhere below the root by the end of their path or URL, also without the
    prefix of uploads (8 digits and a dash). Of several annotations of a task, the ground truth or
    else the last submitted one is read; skipped ones and predictions are not. Smaller objects are
    drawn over larger ones; an object with two labels is one of each. The classes are the background
    and the labels, sorted. The split is by split files or a hash.

    Args:
        root, overrides, seed, max_pixels, strict: see `read_folder`.

    Raises:
        InputError: no such file, or no image of it; with `strict` any other error. A task that
            cannot be read is a fault of its image.
    """
    root = Path(root)
    notes: list[str] = []
    tasks = []
    for path in _exports(root):
        tasks += _read_tasks(path, notes)
    if not tasks:
        raise _no_tasks(root)
    finder = ImageFinder(root)
    images = _find_images(root, tasks, finder)
    given = read_label_settings(root, overrides or {})
    labels = {label for task in tasks for result in task.results for label in _labels(result)}
    names = sorted(labels, key=natural_key)
    form = translate("Label Studio annotations")
    spec, class_of = object_label_spec(root, names, given, notes, form=form, draw_background=True)
    left_out: Counter = Counter()
    stems = sample_names([image.relative_to(root).as_posix() for image in images])
    samples = []
    for name, image, task in zip(stems, images, tasks, strict=True):
        annotation = _annotation(task, class_of, left_out)
        samples.append(Sample(name, image, annotation, max_pixels))
    if left_out:
        kinds = ", ".join(f"{count} {kind}" for kind, count in left_out.items())
        notes.append(
            translate("left out: results that are not labeled areas: {kinds}", kinds=kinds)
        )
    return object_index(
        root, spec, {"": samples}, notes, seed=seed, strict=strict, split_files=True
    )


def _exports(root: Path) -> list[Path]:
    """Return the JSON files of Label Studio in the root, recognized by their first bytes."""
    found = []
    for path in sorted(root.glob("*.json")):
        with path.open("rb") as stream:
            head = stream.read(HEAD).lstrip(b"\xef\xbb\xbf \t\r\n")
        if head.startswith(b"[") and any(key in head for key in (*TASK_KEYS, *MINIMAL_KEYS)):
            found.append(path)
    return found


def _no_tasks(root: Path) -> InputError:
    """Return why there is nothing to read."""
    exports = _exports(root)
    if exports:
        return InputError("no task is annotated", where=exports[0])
    reason = translate("format label_studio needs a JSON export of Label Studio in it")
    if next(root.glob(BRUSH_FILE), None) is not None:
        reason = translate(
            "these PNG files of brush strokes are named after tasks, not after images; export as"
            " JSON too (it holds the strokes), and put that file and the images here"
        )
    return InputError(reason, where=root)


def _read_tasks(path: Path, notes: list[str]) -> list[Task]:
    """Read the annotated tasks of a JSON export."""
    content = read_json(path)
    if not isinstance(content, list) or not all(isinstance(each, dict) for each in content):
        raise InputError("not an export of Label Studio, which is a list of tasks", where=path)
    tasks, several, without = [], 0, 0
    for number, entry in enumerate(content):
        if "annotations" not in entry and "completions" not in entry:
            raise InputError(
                "task {number} has no annotations; export as JSON (not JSON-MIN)",
                number=number,
                where=path,
            )
        annotations = [
            each
            for each in _objects(entry.get("annotations") or entry.get("completions"))
            if not each.get("was_cancelled") and not each.get("skipped")
        ]
        if not annotations:
            without += 1
            continue
        several += len(annotations) > 1
        last = max(annotations, key=_submitted)
        results = _objects(last.get("result"))
        image = _image_of(path, number, entry)
        tasks.append(Task(path, str(entry.get("id", number)), image, results))
    if several:
        notes.append(
            translate(
                "{several} images have several annotations: the ground truth, or else the last"
                " submitted one, is read",
                several=several,
            )
        )
    if without:
        notes.append(translate("left out: {without} tasks without an annotation", without=without))
    return tasks


def _objects(value: object) -> list[dict[str, Any]]:
    """Return the objects in a list of a JSON file; [] for anything else."""
    if not isinstance(value, list):
        return []
    return [each for each in value if isinstance(each, dict)]


def _submitted(annotation: Mapping[str, Any]) -> tuple[bool, str]:
    """Return a key that is largest for the ground truth, then for the last submitted."""
    when = annotation.get("updated_at") or annotation.get("created_at") or ""
    return bool(annotation.get("ground_truth")), str(when)


def _image_of(path: Path, number: int, entry: Mapping[str, Any]) -> str:
    """Return the path or URL of the image of a task."""
    data = entry.get("data")
    if isinstance(data, dict):
        texts = [value for value in data.values() if isinstance(value, str)]
        images = [text for text in texts if _path_in(text).suffix.lower() in IMAGE_SUFFIXES]
        if images:
            return images[0]
    upload = entry.get("file_upload")
    if isinstance(upload, str) and _path_in(upload).name:
        return upload
    raise InputError("task {number} names no image in its data", number=number, where=path)


def _path_in(text: str) -> PurePosixPath:
    """Return the path in a URL, such as `/data/local-files/?d=folder/a.jpg` or `s3://bucket/a.jpg`;
    of a plain path, the path.
    """
    try:
        url = urlparse(text)
    except ValueError:  # brackets that are not those of an address
        return PurePosixPath(text)
    query = parse_qs(url.query)
    for key in ("d", "filepath", "fileuri"):
        if key in query:
            return PurePosixPath(query[key][0])
    return PurePosixPath(unquote(url.path))


def _find_images(root: Path, tasks: Sequence[Task], finder: ImageFinder) -> list[Path]:
    """Return the image of each task; a missing one is the path where it was expected."""
    images, missing = [], []
    for task in tasks:
        path = _path_in(task.image)
        plain = path.with_name(UPLOAD_PREFIX.sub("", path.name))
        found = finder.find(path.as_posix(), root) or finder.find(plain.as_posix(), root)
        if found is None:
            missing.append(plain.name)
            found = root / "images" / relative_path(task.source, plain.name)
        images.append(found)
    if len(missing) == len(tasks):
        raise InputError(
            "none of the {count} images exists; Label Studio's JSON export does not hold them:"
            " put the files into {folder} ({names})",
            count=len(tasks),
            folder=root / "images",
            names=few(missing),
            where=tasks[0].source,
        )
    for image, count in Counter(images).items():
        if count > 1:  # as two samples, each would lack the objects of the other
            raise InputError(
                "{image} is the image of {count} tasks; keep one of them",
                image=image.name,
                count=count,
                where=tasks[0].source,
            )
    return images


def _labels(result: Mapping[str, Any]) -> list[str]:
    """Return the labels of a result that is an area; [] for others, such as choices."""
    value = result.get("value")
    if not isinstance(value, dict) or not _kind_of_area(value):
        return []
    for key in LABEL_KEYS:
        if isinstance(value.get(key), list):
            return [str(label) for label in value[key]]
    return []


def _kind_of_area(value: Mapping[str, Any]) -> str:
    """Return the kind of area in a value; "" if there is none."""
    for kind, keys in AREAS.items():
        if keys <= value.keys():
            return kind
    return ""


AREAS = {
    "brush": {"rle"},
    "polygon": {"points"},
    "ellipse": {"x", "y", "radiusX", "radiusY"},
    "rectangle": {"x", "y", "width", "height"},
}


def _annotation(task: Task, class_of: Mapping[str, int | None], left_out: Counter) -> Annotation:
    """Return the areas of a task as objects of the selected classes."""
    regions, size = [], None
    labeled = {repr(result.get("id")) for result in task.results if _labels(result)}
    for number, result in enumerate(task.results):
        labels = _labels(result)
        if not labels:
            # With a tag for shapes and one for labels, the shape is stored twice under one id.
            if result.get("id") is None or repr(result["id"]) not in labeled:
                left_out[str(result.get("type"))] += 1
            continue
        try:
            size, shape, area = _shape(result)
        except (TypeError, ValueError, KeyError, OverflowError) as error:
            fault = translate(
                "result {number} of task {task} cannot be read: {reason}",
                number=number,
                task=task.number,
                reason=error,
            )
            return Annotation(task.source, task.number, fault=fault)
        for label in labels:
            if class_of[label] is not None:
                regions.append(Region(class_of[label], shape, area))
    return Annotation(task.source, task.number, size, tuple(regions))


def _shape(result: Mapping[str, Any]) -> tuple[tuple[int, int], Any, float | None]:
    """Return the size (H, W) of the image, the shape of an area, and its area."""
    value = result["value"]
    size = checked_size(result.get("original_height"), result.get("original_width"))
    if size is None:
        raise ValueError("it has no original_width and original_height")
    if result.get("image_rotation"):
        raise ValueError(f"the image was rotated by {result['image_rotation']} degrees")
    kind = _kind_of_area(value)
    if kind == "brush":
        if not isinstance(value["rle"], list):
            raise ValueError("rle is not a list of bytes")
        return size, {"size": list(size), "rle": value["rle"]}, None
    pixels = np.array([size[1], size[0]]) / 100  # of a percent
    if kind == "polygon":
        (points,) = check_polygons([value["points"]])
        points = points * pixels
    else:
        points = _outline(value, kind, pixels)
    (points,) = check_polygons([points.tolist()])
    return size, [points], polygon_area([points])


def _outline(value: Mapping[str, Any], kind: str, pixels: np.ndarray) -> np.ndarray:
    """Return the outline (n, 2) of a rectangle or an ellipse, which may be rotated clockwise: a
    rectangle about its corner (x, y), an ellipse about its center (x, y).
    """
    anchor = np.array([value["x"], value["y"]], dtype=np.float64) * pixels
    if kind == "rectangle":
        size = np.array([value["width"], value["height"]], dtype=np.float64) * pixels
        points = np.array([(0, 0), (1, 0), (1, 1), (0, 1)]) * size
    else:
        radii = np.array([value["radiusX"], value["radiusY"]], dtype=np.float64) * pixels
        angles = np.linspace(0, 2 * np.pi, ELLIPSE_POINTS, endpoint=False)
        points = np.stack([np.cos(angles), np.sin(angles)], axis=1) * radii
    angle = np.deg2rad(float(value.get("rotation") or 0))
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    return anchor + points @ turn
