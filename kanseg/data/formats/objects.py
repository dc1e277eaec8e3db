"""What the layouts of annotated objects (COCO, labelme, YOLO, Label Studio) share: classes, names,
image files, splits.
"""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from kanseg.data.formats.folder import read_groups_or_problem, split_or_problem
from kanseg.data.formats.index import DatasetIndex
from kanseg.data.formats.issues import Issue
from kanseg.data.formats.split_files import list_split_files, read_split_files
from kanseg.data.io.images import IMAGE_SUFFIXES
from kanseg.data.io.rasterize import Annotation
from kanseg.data.label_spec import IGNORE_INDEX, LabelSpec
from kanseg.data.names import few, nfc, shorten
from kanseg.data.sample import Sample
from kanseg.data.splits import SPLITS
from kanseg.data.splits.record import unit_of
from kanseg.utils.errors import InputError
from kanseg.utils.language import translate
from kanseg.utils.registry import nearest

MAX_NAME = 3000  # bytes of a path relative to the root; Linux allows 4096 for the whole path
MAX_COORDINATE = 1e6
BACKGROUND = "background"
TABLES = ("labels", "classes", "flags", "label_names")  # NAME.txt that list classes, not samples


def object_label_spec(
    root: Path,
    names: Sequence[str],
    given: Mapping[str, Any],
    notes: list[str],
    *,
    form: str,
    draw_background: bool = False,
) -> tuple[LabelSpec, dict[str, int | None]]:
    """Return the label spec, and the class index of each name (None if it is not selected).

    Args:
        root: folder of the data set, for messages.
        names: of the classes of the objects, in their order.
        given: label settings; `classes` selects and orders names.
        notes: receives a line about the classes.
        form: of the annotations, for messages, such as "COCO annotations".
        draw_background: whether objects labeled as background cut holes into others; otherwise they
            are left out.

    Raises:
        InputError: settings that have no meaning for objects, or classes that are not in `names`.
    """
    if "mask_values" in given:
        raise InputError(
            "mask_values has no meaning for {form}; leave it out", form=form, where=root
        )
    if given.get("ignore_index", IGNORE_INDEX) not in (None, IGNORE_INDEX):
        raise InputError(
            "ignore_index has no meaning for {form}; leave it out, or select classes",
            form=form,
            where=root,
        )
    multilabel = given.get("task") == "multilabel"
    # the class background is the pixels without objects
    objects = [name for name in names if name != BACKGROUND]
    if multilabel:
        classes = tuple(given.get("classes") or names)
        selected = classes
    else:
        classes = tuple(given.get("classes") or (BACKGROUND, *objects))
        selected = classes[1:]
    for name in selected:
        if name not in names:
            first = translate(", the background first")
            if multilabel:
                first = ""
            raise InputError(
                "class {name!r} is not in the annotations{hint} (known: {names}); give"
                " classes{first}",
                name=name,
                hint=nearest(name, names),
                names=", ".join(names),
                first=first,
                where=root,
            )
    task = given.get("task", "multiclass")
    if "task" not in given and len(classes) == 2:
        task = "binary"
    spec = LabelSpec(task, classes, palette=given.get("palette"))
    note = translate(
        "{form} of {count} classes: read as {task} ({classes})",
        form=form,
        count=len(names),
        task=task,
        classes=shorten(classes),
    )
    left_out = [name for name in names if name not in selected]
    if left_out:
        note += translate("; left out: {left_out}", left_out=shorten(left_out))
    notes.append(note)
    index_of = {name: classes.index(name) for name in selected}
    if draw_background and not multilabel:
        index_of[BACKGROUND] = 0
    return spec, {name: index_of.get(name) for name in names}


def object_index(
    root: Path,
    spec: LabelSpec,
    samples: Mapping[str, Sequence[Sample]],
    notes: list[str],
    *,
    seed: int,
    strict: bool,
    split_files: bool = False,
) -> DatasetIndex:
    """Return the index of samples with annotated objects.

    Args:
        root: folder of the data set.
        spec: meaning of the classes.
        samples: name of a split -> its samples. Those of the split "" are divided by split files or
            by a hash if there is no other split, else they are unlisted.
        notes: receives lines about decisions.
        seed: of the hash.
        strict: raise the first problem that stops a training.
        split_files: whether `root/NAME.txt` may list samples.

    Raises:
        InputError: no object can be read; with `strict` any other error.
    """
    everything = [sample for members in samples.values() for sample in members]
    _refuse_if_nothing_is_readable(everything)
    problems: list[Issue] = []
    split_problems: dict[str, tuple[Issue, ...]] = {}
    groups = read_groups_or_problem(root, problems)
    by_name = {sample.name: sample for sample in samples.get("", ())}
    splits = {name: tuple(members) for name, members in samples.items() if name}
    split_by_hash = not splits
    if split_files and split_by_hash:
        files = {name: sample.image for name, sample in by_name.items()}
        lists = [path for path in list_split_files(root) if path.stem.lower() not in TABLES]
        stems, split_problems = read_split_files(lists, files, root)
        # Other text files without the name of an image are not split files.
        stems = {name: some for name, some in stems.items() if some or name in SPLITS}
        split_problems = {name: each for name, each in split_problems.items() if name in stems}
        splits = _pick(by_name, stems)
        split_by_hash = not splits
    if split_by_hash:
        # The path of the file is hashed, because the name of a sample changes when another folder
        # gets a file with the same stem.
        units = {name: unit_of(sample, root) for name, sample in by_name.items()}
        stems = split_or_problem(root, sorted(by_name), groups, seed, notes, problems, units=units)
        splits = _pick(by_name, stems)
    listed = {sample.name for members in splits.values() for sample in members}
    unlisted = [sample for name, sample in by_name.items() if name not in listed]
    index = DatasetIndex(
        root,
        spec,
        splits,
        unlisted=tuple(unlisted),
        problems=tuple(problems),
        split_problems=split_problems,
        notes=tuple(notes),
        groups=groups,
        split_by_hash=split_by_hash,
    )
    return index.raise_errors() if strict else index


def _pick(
    by_name: Mapping[str, Sample], stems: Mapping[str, Sequence[str]]
) -> dict[str, tuple[Sample, ...]]:
    picked = {}
    for split, members in stems.items():
        picked[split] = tuple(by_name[name] for name in members)
    return picked


def _refuse_if_nothing_is_readable(samples: Sequence[Sample]) -> None:
    """Raise the first fault if no object of any image can be read: it is the cause of all others,
    such as boxes instead of polygons.
    """
    masks = {sample.mask for sample in samples if isinstance(sample.mask, Annotation)}
    faulty = sorted((mask for mask in masks if mask.fault is not None), key=lambda m: m.source)
    if faulty and not any(mask.regions for mask in masks):
        others = ""
        if len(faulty) > 1:
            others = translate(" (and {count} other files alike)", count=len(faulty) - 1)
        raise InputError(f"{faulty[0].fault}{others}", where=faulty[0].source)


def check_polygons(shape: object) -> list[np.ndarray]:
    """Return polygons (n, 2) of x and y; ValueError for anything else."""
    if not isinstance(shape, list) or not shape:
        raise ValueError("not a list of polygons")
    polygons = []
    for coordinates in shape:
        points = np.array(coordinates, dtype=np.float64).reshape(-1, 2)
        if not len(points) or not (np.abs(points) <= MAX_COORDINATE).all():  # NaN fails too
            raise ValueError("no point, or one that is out of range")
        polygons.append(points)
    return polygons


def polygon_area(polygons: Sequence[np.ndarray]) -> float:
    """Return the area of polygons by the shoelace formula."""
    area = 0.0
    for polygon in polygons:
        x, y = polygon.T
        area += abs(np.dot(x, np.roll(y, 1)) - np.dot(y, np.roll(x, 1))) / 2
    return float(area)


def checked_size(height: object, width: object) -> tuple[int, int] | None:
    """Return (H, W) of entries of a file; None if they are missing or invalid."""
    if not isinstance(height, int) or not isinstance(width, int) or min(height, width) < 1:
        return None
    return height, width


def relative_path(path: Path, name: object) -> str:
    """Return the file name of an image; InputError if it is outside of the folder.

    Args:
        path: of the file that states the name, for messages.
        name: as the file states it.
    """
    text = str(name)
    parts = PurePosixPath(text.replace("\\", "/")).parts
    if not text.isprintable():
        raise InputError(
            "file_name {path!r:.100} has characters that cannot be printed",
            path=text,
            where=path,
        )
    if len(text.encode()) > MAX_NAME or any(len(part.encode()) > 255 for part in parts):
        raise InputError(
            "file_name {path!r:.100} is longer than a file system allows",
            path=text,
            where=path,
        )
    if not parts or text.startswith(("/", "\\")) or ".." in parts or ":" in parts[0]:
        raise InputError(
            "file_name {path!r} must be a relative path inside the folder of the images; .."
            " and absolute paths are refused",
            path=text,
            where=path,
        )
    return "/".join(parts)


def sample_names(files: Sequence[str]) -> list[str]:
    """Return the stem of each file, or its whole path if several files have the same stem."""
    names = [nfc(PurePosixPath(file).stem) for file in files]
    count = Counter(names)
    for number, file in enumerate(files):
        if count[names[number]] > 1:
            names[number] = nfc(file.replace("/", "_").replace(".", "_"))
    return names


class ImageFinder:
    """Finds image files below a folder by the paths that annotation tools store, which often are
    those of another computer. Only the end of a path counts, so nothing outside is ever read.

    Args:
        root: the folder; hidden files and folders are left out.
    """

    def __init__(self, root: Path):
        self.root = root
        self._by_name: dict[str, list[Path]] = defaultdict(list)
        self._by_stem: dict[str, list[Path]] = defaultdict(list)
        for folder, folders, files in os.walk(root):
            folders[:] = sorted(name for name in folders if not name.startswith("."))
            for name in sorted(files):
                path = Path(folder, name)
                if not name.startswith(".") and path.suffix.lower() in IMAGE_SUFFIXES:
                    self._by_name[nfc(name)].append(path)
                    self._by_stem[nfc(path.stem)].append(path)

    def all(self) -> list[Path]:
        """Return all images."""
        return [path for paths in self._by_name.values() for path in paths]

    def find(self, stored: str, near: Path) -> Path | None:
        """Return the image whose path ends as a stored path does; None if there is none.

        Args:
            stored: the path, with slashes or backslashes.
            near: folder of the file that states it; of several images of the same name, the nearest
                is taken.

        Raises:
            InputError: two images fit equally well.
        """
        parts = PurePosixPath(nfc(stored.replace("\\", "/"))).parts
        if not parts:
            return None
        return self._best(self._by_name.get(parts[-1], []), parts, near)

    def find_stem(self, stem: str, near: Path) -> Path | None:
        """Return the image with this stem; None if there is none. Arguments and errors as of
        `find`.
        """
        return self._best(self._by_stem.get(nfc(stem), []), (), near)

    def _best(self, candidates: list[Path], parts: Sequence[str], near: Path) -> Path | None:
        if not candidates:
            return None

        def closeness(path: Path) -> tuple[int, int]:
            own = path.relative_to(self.root).parts
            folder = near.relative_to(self.root).parts
            return _common(own[::-1], parts[::-1]), _common(own, folder)

        best = max(candidates, key=closeness)
        equal = [path for path in candidates if closeness(path) == closeness(best)]
        if len(equal) > 1:
            names = few(path.relative_to(self.root).as_posix() for path in equal)
            raise InputError(
                "the image {name} may be {names}; rename or remove all but one",
                name=best.name,
                names=names,
                where=near,
            )
        return best


def _common(one: Sequence[str], other: Sequence[str]) -> int:
    """Return the number of equal parts at the start."""
    count = 0
    for left, right in zip(one, other, strict=False):
        if left != right:
            break
        count += 1
    return count
