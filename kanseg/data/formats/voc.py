"""PASCAL VOC's form of a data set: JPEGImages/, SegmentationClass/, ImageSets/Segmentation/."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from kanseg.data.formats.folder import Folder
from kanseg.data.formats.labelmap import read_labelmap
from kanseg.data.formats.listing import index_images, some_images
from kanseg.data.io.images import MAX_PIXELS
from kanseg.data.label_spec import IGNORE_INDEX, given_labels, label_spec, voc_palette
from kanseg.data.sample import Sample
from kanseg.data.splits import list_files, read_groups, read_lists, seeded_split
from kanseg.utils.errors import InputError

UNSPLIT = "default"  # the one list of an export of CVAT that was not split
IMAGES, MASKS, LISTS = "JPEGImages", "SegmentationClass", "ImageSets/Segmentation"
# fmt: off
CLASSES = (
    "background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair",
    "cow", "diningtable", "dog", "horse",
    "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)
# fmt: on


def is_voc(root: Path) -> bool:
    """Whether images and masks lie in VOC's folders."""
    return (root / IMAGES).is_dir() and (root / MASKS).is_dir()


def read_voc(
    root: Path | str,
    overrides: Mapping[str, object] | None = None,
    *,
    seed: int = 0,
    max_pixels: int = MAX_PIXELS,
) -> Folder:
    """Images of JPEGImages/, masks of SegmentationClass/ (palette indices, or RGB in VOC's
    colors), splits of ImageSets/Segmentation/*.txt.

    The classes are those of labelmap.txt (`read_labelmap`), without it VOC's 21, and 255 is
    ignored, unless dataset.yaml or `overrides` say otherwise. Without lists the images that have
    a mask are split by the seed, and those of the list default.txt where it is the only one.

    Args:
        root, overrides, seed, max_pixels: as of `read_folder`.

    Raises:
        InputError: folders that are not there, label information or lists that cannot be used.
    """
    root, notes, broken = Path(root), [], {}
    if not is_voc(root):
        raise InputError(f"{root}: format voc needs {IMAGES}/ and {MASKS}/ in it")
    images, masks = some_images(root / IMAGES, notes), index_images(root / MASKS, notes)
    given = given_labels(root, overrides or {})
    known = None if "classes" in given else read_labelmap(root, notes)
    if known is None:
        if "classes" not in given:
            notes.append("classes, colors and the void index 255 are those of PASCAL VOC")
        known = {
            "task": "multiclass",
            "classes": CLASSES,
            "palette": tuple(voc_palette()),
            "ignore_index": IGNORE_INDEX,
        }
    given = known | given
    groups = read_groups(root)
    lists = list_files(root / LISTS) if (root / LISTS).is_dir() else []
    names = read_lists(lists, images, broken, where=f"{IMAGES}/")
    dealt = not lists or [path.stem for path in lists] == [UNSPLIT]
    if dealt:
        stems = sorted(names.get(UNSPLIT, images.keys() & masks.keys()))
        if UNSPLIT not in broken:
            names |= seeded_split(root, stems, groups, seed, notes)
    splits = {
        split: tuple(Sample(stem, images[stem], masks.get(stem), max_pixels) for stem in stems)
        for split, stems in names.items()
    }
    orphans = tuple(path for stem, path in masks.items() if stem not in images)
    info = label_spec(root, given, [], notes)
    return Folder(root, info, splits, tuple(notes), broken, groups, orphans, dealt=dealt)
