"""The labelme form of a data set: images, and a JSON file of drawn shapes for each."""

from __future__ import annotations

import base64
import io
import os
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from kanseg.data.formats.index import DatasetIndex
from kanseg.data.formats.label_settings import ProbeMasks, read_label_settings
from kanseg.data.formats.objects import (
    BACKGROUND,
    ImageFinder,
    check_polygons,
    checked_size,
    object_index,
    object_label_spec,
    polygon_area,
    relative_path,
    sample_names,
)
from kanseg.data.formats.split_files import split_of_folders
from kanseg.data.io.annotation_files import LABELME_IGNORE
from kanseg.data.io.decode_errors import decoder_errors
from kanseg.data.io.images import MAX_PIXELS, image_mode
from kanseg.data.io.outlines import run_lengths
from kanseg.data.io.rasterize import Annotation, Region
from kanseg.data.label_spec import LabelSpec
from kanseg.data.names import natural_key
from kanseg.data.sample import Sample
from kanseg.utils.errors import InputError
from kanseg.utils.language import translate
from kanseg.utils.reading import read_json, read_text

DEPTH = 3  # folders below the root in which JSON files are searched
HEAD = 4096  # bytes at the start of a JSON file that are read to recognize it
KEYS = (b'"shapes"', b'"imagePath"', b'"imageData"')
CLASS_FILES = ("labels.txt", "label_names.txt", "class_names.txt")
LABELME_BACKGROUNDS = ("_background_", "__background__")  # in labelme's own examples
LINE_WIDTH = 10  # pixels; that of labelme's own export (shape_to_mask in labelme/_utils/shape.py)
WITHOUT_AREA = ("point", "points")
WRITE_IMAGES = (
    "python -c \"import base64, json, pathlib; [pathlib.Path(f).with_suffix('.jpg').write_bytes("
    "base64.b64decode(json.load(open(f))['imageData'])) for f in pathlib.Path('{folder}')"
    ".rglob('*.json')]\""
)


@dataclass(frozen=True)
class Shape:
    """One shape of a file: polygons, or a mask whose first pixel is at (column, row) `corner`."""

    label: str
    polygons: Sequence[np.ndarray] = ()
    mask: np.ndarray | None = None
    corner: tuple[int, int] = (0, 0)
    group: object = None

    @property
    def area(self) -> float:
        """Pixels; of overlapping polygons, the sum."""
        if self.mask is not None:
            return float(self.mask.sum())
        return polygon_area(self.polygons)


@dataclass(frozen=True)
class LabelFile:
    """One JSON file; with a fault, the rest is empty."""

    path: Path
    image: str = ""
    size: tuple[int, int] | None = None
    has_data: bool = False
    shapes: tuple[Shape, ...] = ()
    kinds: tuple[str, ...] = ()
    fault: str | None = None


def is_labelme(root: Path) -> bool:
    """True if a JSON file in the folder, or up to three folders below it, is one of labelme."""
    return next(_label_files(root), None) is not None


def read_labelme(
    root: Path | str,
    overrides: Mapping[str, object] | None = None,
    *,
    seed: int = 0,
    max_pixels: int = MAX_PIXELS,
    probe: ProbeMasks | None = None,  # noqa: ARG001 - there are no mask files
    strict: bool = True,
) -> DatasetIndex:
    """Index the images that have a JSON file of labelme, beside them or in another folder.

    Polygons, rectangles, circles and masks are filled; lines are 10 pixels wide, as in labelme's
    own export; points are left out. Smaller shapes are drawn over larger ones, where shapes of one
    label and group_id count as one; shapes labeled `__ignore__` are ignored pixels. The classes
    are the background and the labels, in the order of labels.txt or else sorted. The split is that
    of folders named train, val and test, of split files, or by a hash. Flags are not read.

    Args:
        root, overrides, seed, max_pixels, strict: see `read_folder`.

    Raises:
        InputError: no such file, images that are only inside the JSON files, classes that are not
            labels; with `strict` any other error. A file that cannot be read is a fault of its
            image.
    """
    root = Path(root)
    notes: list[str] = []
    files = [_read_label_file(path) for path in _label_files(root)]
    if not files:
        raise InputError("format labelme needs JSON files of labelme in it", where=root)
    finder = ImageFinder(root)
    images = _find_images(root, files, finder)
    given = read_label_settings(root, overrides or {})
    labels = _labels(root, files, notes)
    spec, class_of = object_label_spec(
        root, labels, given, notes, form=translate("labelme files"), draw_background=True
    )
    _note_kinds(files, notes)
    _note_images_without_file(finder, images, notes)
    names = sample_names([file.path.relative_to(root).as_posix() for file in files])
    samples: dict[str, list[Sample]] = defaultdict(list)
    for name, file in zip(names, files, strict=True):
        image = images[file.path]
        annotation = _annotation(file, image, class_of, spec)
        split = split_of_folders(file.path.relative_to(root).parts[:-1])
        samples[split].append(Sample(name, image, annotation, max_pixels))
    return object_index(root, spec, samples, notes, seed=seed, strict=strict, split_files=True)


def _label_files(root: Path) -> Iterator[Path]:
    """Yield the JSON files of labelme, recognized by their first bytes."""
    for folder, folders, files in os.walk(root):
        depth = len(Path(folder).relative_to(root).parts)
        folders[:] = sorted(name for name in folders if not name.startswith(".") and depth < DEPTH)
        for name in sorted(files):
            if name.endswith(".json") and not name.startswith("."):
                path = Path(folder, name)
                with path.open("rb") as stream:
                    head = stream.read(HEAD)
                if any(key in head for key in KEYS):
                    yield path


def _read_label_file(path: Path) -> LabelFile:
    """Read a JSON file; what cannot be read is its fault."""
    try:
        content = read_json(path)
        if not isinstance(content, dict) or not isinstance(content.get("shapes"), list):
            raise InputError("not a file of labelme, there is no list 'shapes'")
        shapes, kinds = [], []
        for number, entry in enumerate(content["shapes"]):
            kind = _kind(number, entry)
            kinds.append(kind)
            if kind not in WITHOUT_AREA:
                shapes.append(_shape(number, entry, kind))
    except InputError as error:
        return LabelFile(path, fault=error.reason)
    size = checked_size(content.get("imageHeight"), content.get("imageWidth"))
    image, data = content.get("imagePath"), content.get("imageData")
    return LabelFile(path, str(image or ""), size, bool(data), tuple(shapes), tuple(kinds))


def _kind(number: int, entry: object) -> str:
    """Return the type of a shape; before labelme 3 there were only polygons."""
    if not isinstance(entry, dict) or not isinstance(entry.get("label"), str):
        raise InputError("shapes[{number}] has no label", number=number)
    return str(entry.get("shape_type") or "polygon")


def _shape(number: int, entry: Mapping[str, Any], kind: str) -> Shape:
    """Return a shape that has an area."""
    label, group = entry["label"], entry.get("group_id")
    if label in LABELME_BACKGROUNDS:
        label = BACKGROUND
    try:
        (points,) = check_polygons([entry.get("points")])
        if kind == "mask":
            mask, corner = _mask(entry, points)
            return Shape(label, mask=mask, corner=corner, group=group)
        return Shape(label, OUTLINES[kind](points), group=group)
    except KeyError:
        known = ", ".join([*OUTLINES, "mask", *WITHOUT_AREA])
        raise InputError(
            "shapes[{number}] is a {kind!r:.40}, not one of {known}",
            number=number,
            kind=kind,
            known=known,
        ) from None
    except (TypeError, ValueError, OverflowError) as error:
        raise InputError(
            "shapes[{number}] ({label}, {kind}) cannot be read: {reason}",
            number=number,
            label=label,
            kind=kind,
            reason=error,
        ) from None


def _rectangle(points: np.ndarray) -> list[np.ndarray]:
    """Two opposite corners."""
    (left, top), (right, bottom) = points
    return [np.array([(left, top), (right, top), (right, bottom), (left, bottom)])]


def _circle(points: np.ndarray) -> list[np.ndarray]:
    """The center and a point on the circle."""
    center, edge = points
    return [_disc(center, float(np.hypot(*(edge - center))))]


def _disc(center: np.ndarray, radius: float) -> np.ndarray:
    """Return a circle as a polygon that is less than 0.01 pixels within it."""
    angles = np.linspace(0, 2 * np.pi, 32 + int(32 * radius**0.5), endpoint=False)
    return center + radius * np.stack([np.cos(angles), np.sin(angles)], axis=1)


def _line(points: np.ndarray) -> list[np.ndarray]:
    """A line through the points: a rectangle for each part, and discs where two parts meet."""
    outlines = [_disc(point, LINE_WIDTH / 2) for point in points[1:-1]]
    for start, end in zip(points[:-1], points[1:], strict=True):
        direction = end - start
        length = float(np.hypot(*direction))
        if length:
            side = np.array([-direction[1], direction[0]]) / length * LINE_WIDTH / 2
            outlines.append(np.array([start + side, end + side, end - side, start - side]))
    return outlines


def _polygon(points: np.ndarray) -> list[np.ndarray]:
    return [points]


OUTLINES = {
    "polygon": _polygon,
    "rectangle": _rectangle,
    "oriented_rectangle": _polygon,
    "circle": _circle,
    "line": _line,
    "linestrip": _line,
}


def _mask(entry: Mapping[str, Any], points: np.ndarray) -> tuple[np.ndarray, tuple[int, int]]:
    """Return the mask of a shape, (rows, columns) bool, and its first (column, row).

    The two points are the first and the last pixel. As in labelme, integer points also cut the
    mask (`shapes_to_label` in labelme/_utils/shape.py).
    """
    if not isinstance(entry.get("mask"), str):
        raise ValueError("it has no mask (PNG in base64)")
    data = base64.b64decode(entry["mask"])
    with (
        decoder_errors("its mask (PNG in base64)"),
        Image.open(io.BytesIO(data), formats=["PNG"]) as image,
    ):
        mask = np.asarray(image).astype(bool)
    if mask.ndim != 2:
        raise ValueError("its mask has several channels")
    (left, top), (right, bottom) = np.round(points).astype(int).tolist()
    if (points == np.round(points)).all():
        mask = mask[: max(bottom - top + 1, 0), : max(right - left + 1, 0)]
    return mask, (left, top)


def _find_images(root: Path, files: Sequence[LabelFile], finder: ImageFinder) -> dict[Path, Path]:
    """Return JSON file -> image; a missing image is the path where it was expected."""
    images: dict[Path, Path] = {}
    only_inside = []
    for file in files:
        near = file.path.parent
        found = finder.find(file.image, near) or finder.find_stem(file.path.stem, near)
        if found is None and file.has_data:
            only_inside.append(file)
        if found is None:
            name = file.image.replace("\\", "/").rsplit("/", 1)[-1] or f"{file.path.stem}.jpg"
            found = near / relative_path(file.path, name)
        images[file.path] = found
    if only_inside:
        first = only_inside[0]
        folder = root.as_posix().replace("'", "")
        raise InputError(
            "the image {image!r} does not exist as a file, only inside the JSON (imageData;"
            " {count} of {total} files alike); copy the images beside the JSON files, or write"
            " them once: {format}",
            image=first.image,
            count=len(only_inside),
            total=len(files),
            format=WRITE_IMAGES.format(folder=folder),
            where=first.path,
        )
    for image, count in Counter(images.values()).items():
        if count > 1:  # as two samples, each would lack the shapes of the other
            both = [str(path.relative_to(root)) for path, each in images.items() if each == image]
            raise InputError(
                "{both} is of the same image {image}; remove one of them",
                both=both[1],
                image=image.name,
                where=root / both[0],
            )
    return images


def _labels(root: Path, files: Sequence[LabelFile], notes: list[str]) -> list[str]:
    """Return the labels of all shapes: in the order of labels.txt, then others, sorted."""
    found = {shape.label for file in files for shape in file.shapes} - {LABELME_IGNORE}
    listed: list[str] = []
    for name in CLASS_FILES:
        if (root / name).is_file():
            lines = [line.strip() for line in read_text(root / name).splitlines()]
            listed = [line for line in dict.fromkeys(lines) if line and line != LABELME_IGNORE]
            notes.append(translate("the order of the classes is that of {name}", name=name))
            break
    listed = [BACKGROUND if name in LABELME_BACKGROUNDS else name for name in listed]
    return [*listed, *sorted(found - set(listed), key=natural_key)]


def _note_kinds(files: Sequence[LabelFile], notes: list[str]) -> None:
    """Say what was decided about lines and points."""
    count = Counter(kind for file in files for kind in file.kinds)
    lines = count["line"] + count["linestrip"]
    points = sum(count[kind] for kind in WITHOUT_AREA)
    if lines:
        notes.append(
            translate(
                "{lines} lines are drawn {line_width} pixels wide, as labelme's own export draws"
                " them",
                lines=lines,
                line_width=LINE_WIDTH,
            )
        )
    if points:
        notes.append(translate("left out: {points} points, which have no area", points=points))


def _note_images_without_file(
    finder: ImageFinder, images: Mapping[Path, Path], notes: list[str]
) -> None:
    """Say how many images have no JSON file: they are not annotated."""
    missing = len(set(finder.all()) - set(images.values()))
    if missing:
        notes.append(
            translate("left out: {missing} images without a JSON file of labelme", missing=missing)
        )


def _annotation(
    file: LabelFile, image: Path, class_of: Mapping[str, int | None], spec: LabelSpec
) -> Annotation:
    """Return the shapes of a file as objects of the selected classes."""
    if file.fault is not None:
        return Annotation(file.path, 0, fault=file.fault)
    size = file.size
    if size is None and any(shape.mask is not None for shape in file.shapes):
        try:
            size = image_mode(image)[1]
        except InputError as error:
            return Annotation(file.path, 0, fault=str(error))
    areas: Counter = Counter()
    for shape in file.shapes:
        areas[_object_of(shape)] += shape.area
    regions = []
    for shape in file.shapes:
        content = shape.polygons
        if shape.mask is not None:
            content = _runs(shape, size)
        area = areas[_object_of(shape)]
        if shape.label == LABELME_IGNORE:
            ignored = range(len(spec.classes)) if spec.task == "multilabel" else [0]
            regions += [Region(label, content, area, crowd=True) for label in ignored]
        elif class_of[shape.label] is not None:
            regions.append(Region(class_of[shape.label], content, area))
    return Annotation(file.path, 0, file.size, tuple(regions))


def _object_of(shape: Shape) -> object:
    """Return what shapes of one object have in common: label and group."""
    if shape.group is None:
        return id(shape)
    return shape.label, repr(shape.group)


def _runs(shape: Shape, size: tuple[int, int]) -> dict[str, Any]:
    """Return the mask of a shape as COCO's run lengths, cut at the border of the image."""
    left, top = shape.corner
    mask = shape.mask[max(-top, 0) : max(size[0] - top, 0), max(-left, 0) : max(size[1] - left, 0)]
    height, width = mask.shape
    counts = [size[0] * size[1]]
    if mask.size:
        counts = run_lengths(mask, (max(left, 0), max(top, 0), width, height), size)
    return {"size": list(size), "counts": counts}
