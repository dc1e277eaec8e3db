"""The PASCAL VOC layout of a data set: JPEGImages/, SegmentationClass/, ImageSets/Segmentation/."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from kanseg.data.formats.folder import read_groups_or_problem, split_or_problem
from kanseg.data.formats.index import DatasetIndex, problem_of
from kanseg.data.formats.issues import Issue
from kanseg.data.formats.label_settings import ProbeMasks, read_label_settings
from kanseg.data.formats.labelmap import LABELMAP, read_labelmap
from kanseg.data.formats.listing import list_images, no_images
from kanseg.data.formats.split_files import SPLIT_FOLDERS, list_split_files, read_split_files
from kanseg.data.io.colors import voc_palette
from kanseg.data.io.images import MAX_PIXELS
from kanseg.data.label_spec import IGNORE_INDEX, LabelSpec
from kanseg.data.sample import Sample
from kanseg.utils.errors import InputError
from kanseg.utils.language import translate

T = TypeVar("T")
UNSPLIT = "default"  # the only list in an export of CVAT without splits
IMAGES, MASKS, LISTS = "JPEGImages", "SegmentationClass", "ImageSets/Segmentation"
# fmt: off
CLASSES = (
    "background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair",
    "cow", "diningtable", "dog", "horse",
    "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)
# fmt: on


def is_voc(root: Path) -> bool:
    """True if the folder of masks exists with that of images, or with the split files of an export
    that was made without images.
    """
    return (root / MASKS).is_dir() and ((root / IMAGES).is_dir() or (root / LISTS).is_dir())


def read_voc(
    root: Path | str,
    overrides: Mapping[str, object] | None = None,
    *,
    seed: int = 0,
    max_pixels: int = MAX_PIXELS,
    probe: ProbeMasks | None = None,  # noqa: ARG001 - the classes are always given
    strict: bool = True,
) -> DatasetIndex:
    """Index the images of JPEGImages/, the masks of SegmentationClass/ (palette indices, or RGB in
    VOC's colors) and the splits of ImageSets/Segmentation/*.txt.

    The classes are those of labelmap.txt (`read_labelmap`), or VOC's 21 classes without that file,
    and 255 is ignored, unless dataset.yaml or `overrides` replace these settings. Without split
    files, the images with a mask are split by the seed; if default.txt is the only split file, the
    images in it are. In an export of CVAT (with labelmap.txt), frames without a mask are left out,
    and the subsets Train, Validation and Test are train, val and test.

    Args:
        root, overrides, seed, max_pixels, strict: see `read_folder`.

    Raises:
        InputError: folders that do not exist; with `strict` any other error.
    """
    root = Path(root)
    if not (root / MASKS).is_dir():
        raise InputError(
            "format voc needs {images}/ and {masks}/ in it",
            images=IMAGES,
            masks=MASKS,
            where=root,
        )
    if not (root / IMAGES).is_dir():
        raise InputError(
            "format voc needs {images}/, and there is only {masks}/; in CVAT, tick `Save"
            " images` for the export, or copy the images into {images}/",
            images=IMAGES,
            masks=MASKS,
            where=root,
        )
    notes: list[str] = []
    problems: list[Issue] = []
    images = list_images(root / IMAGES, root, notes, problems)
    masks = list_images(root / MASKS, root, notes, problems)
    if not images:
        problems.append(no_images(root / IMAGES, root))
    groups = read_groups_or_problem(root, problems)
    spec = None
    try:
        spec = LabelSpec(**_label_settings(root, overrides or {}, notes))
    except InputError as error:
        problems.append(problem_of(error, root, "settings"))

    lists = list_split_files(root / LISTS)
    stems, split_problems = read_split_files(lists, images, root, image_folder=IMAGES)
    if (root / LABELMAP).is_file():
        stems = _without_frames_of_no_mask(_with_usual_names(stems), masks, notes)
        split_problems = _with_usual_names(split_problems)
    split_by_hash = not lists or [path.stem for path in lists] == [UNSPLIT]
    if split_by_hash and UNSPLIT not in split_problems:
        names = sorted(stems.get(UNSPLIT, images.keys() & masks.keys()))
        stems |= split_or_problem(root, names, groups, seed, notes, problems)
    splits = {}
    for name, some in stems.items():
        samples = [Sample(stem, images[stem], masks.get(stem), max_pixels) for stem in some]
        splits[name] = tuple(samples)
    index = DatasetIndex(
        root,
        spec,
        splits,
        problems=tuple(problems),
        split_problems=split_problems,
        notes=tuple(notes),
        groups=groups,
        split_by_hash=split_by_hash,
    )
    return index.raise_errors() if strict else index


def _with_usual_names(splits: Mapping[str, T]) -> dict[str, T]:
    """Return the splits with CVAT's subsets Train, Validation and Test called train, val and
    test.
    """
    return {SPLIT_FOLDERS.get(name.lower(), name): each for name, each in splits.items()}


def _without_frames_of_no_mask(
    stems: Mapping[str, list[str]], masks: Mapping[str, Path], notes: list[str]
) -> dict[str, list[str]]:
    """Leave out the frames of an export that have no mask: CVAT lists frames without annotation."""
    kept = {split: [stem for stem in some if stem in masks] for split, some in stems.items()}
    missing = sum(len(some) for some in stems.values()) - sum(map(len, kept.values()))
    if missing:
        notes.append(
            translate(
                "left out: {missing} frames without a mask, as CVAT lists frames without"
                " annotation",
                missing=missing,
            )
        )
    return kept


def _label_settings(
    root: Path, overrides: Mapping[str, object], notes: list[str]
) -> dict[str, Any]:
    """Return the label settings, completed from labelmap.txt or VOC's own classes."""
    given = read_label_settings(root, overrides)
    if "classes" not in given:
        known = read_labelmap(root, notes)
        if known is not None:
            return known | given
        notes.append(translate("classes, colors and ignore_index 255 are those of PASCAL VOC"))
    default = {
        "task": "multiclass",
        "classes": CLASSES,
        "palette": tuple(voc_palette()),
        "ignore_index": IGNORE_INDEX,
    }
    return default | given
