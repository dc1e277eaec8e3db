"""Find the folders of images and of masks by their names, and the suffixes in which the names of
an image and its mask differ.
"""

from __future__ import annotations

import os
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from kanseg.data.formats.split_files import SPLIT_FOLDERS
from kanseg.data.io.images import IMAGE_SUFFIXES
from kanseg.data.splits import SPLITS
from kanseg.utils.language import translate

DEPTH = 3  # folders below the root
IMAGES, MASKS = "images", "masks"
# Names of folders, in small letters, without spaces, dashes and underscores.
# fmt: off
IMAGE_FOLDERS = (
    "images", "image", "imgs", "img", "imgdir", "inputs", "input", "photos", "jpegimages",
    "leftimg8bit",
)
MASK_FOLDERS = (
    "masks", "mask", "maskdir", "labels", "label", "labelmaps", "annotations", "annotation",
    "annots", "annot", "anno", "ann", "anndir", "gt", "gts", "gtfine", "groundtruth",
    "segmentations", "segmentation", "segs", "seg", "segmentationclass", "targets", "target",
    "1stmanual",
)
# Parts of the names of mask files, where images and masks are in one folder.
MASK_WORDS = {
    "mask", "masks", "label", "labels", "labelids", "gt", "seg", "segmentation", "anno",
    "annotation",
}
# fmt: on
KINDS = dict.fromkeys(IMAGE_FOLDERS, IMAGES) | dict.fromkeys(MASK_FOLDERS, MASKS)
SEPARATORS = "_-. "
Classify = Callable[[str], tuple[str, str]]  # name of a folder -> (split, kind)


@dataclass(frozen=True)
class Pair:
    """A folder of images and the folder of their masks, which may be the same.

    Args:
        split: its name; "" for the whole data set.
        images, masks: the folders.
    """

    split: str
    images: Path
    masks: Path


def find_pairs(root: Path, named: Mapping[str, str], notes: list[str]) -> list[Pair]:
    """Return the folders of images and masks of each split; [] if they are not found.

    `images/` and `masks/` come first, then `train/`, `val/` and `test/` with them, then other
    names (`KINDS`), with the split in the same name (`train_masks`), above it (`train/labels`) or
    below it (`img_dir/train`).

    Args:
        root: folder of the data set.
        named: the entries images and masks of dataset.yaml.
        notes: receives a line about other names than images/ and masks/.
    """
    if named:
        images = root / named.get(IMAGES, IMAGES)
        masks = root / named.get(MASKS, MASKS)
        return _named_pairs(images, masks) if images.is_dir() else []
    plain = [Pair("", root / IMAGES, root / MASKS)]
    if not plain[0].images.is_dir():
        folders = _split_folders(root, notes)
        plain = [Pair(split, base / IMAGES, base / MASKS) for split, base in folders.items()]
    if any(_has_images(pair.images) and pair.masks.is_dir() for pair in plain):
        return plain
    found = _pairs_by_name(root, _classify, notes) or _pairs_by_name(root, _classify_words, notes)
    if not found:
        return plain
    for pair in found:
        images, masks = (path.relative_to(root).as_posix() for path in (pair.images, pair.masks))
        split = f" ({pair.split})" if pair.split else ""
        notes.append(
            translate(
                "images are in {images}/, masks in {masks}/{split}",
                images=images,
                masks=masks,
                split=split,
            )
        )
    return found


def are_class_folders(root: Path) -> bool:
    """True if two folders beside each other hold images, and no name distinguishes images from
    masks: probably images to classify, in a folder for each class.
    """
    siblings = Counter()
    for folder in _folders_with_images(root):
        split, kind, base = _classify_path(root, folder, _classify)
        if kind:
            return False
        if not (split and base == folder):  # train/ is no class
            siblings[folder.parent] += 1
    return max(siblings.values(), default=0) > 1


def _split_folders(root: Path, notes: list[str]) -> dict[str, Path]:
    """Return the folder of each split, such as train/ or valid/, that has images/ in it."""
    existing = {path.name.lower(): path for path in sorted(root.iterdir())}
    found: dict[str, Path] = {}
    for name, split in SPLIT_FOLDERS.items():
        folder = existing.get(name)
        if folder is None or not (folder / IMAGES).is_dir():
            continue
        if split in found:
            notes.append(
                translate(
                    "{folder}/ is not used: {other}/ is the split {split}",
                    folder=folder.name,
                    other=found[split].name,
                    split=split,
                )
            )
            continue
        found[split] = folder
        if name != split:
            notes.append(
                translate("{folder}/ is the split {split}", folder=folder.name, split=split)
            )
    return found


def _named_pairs(images: Path, masks: Path) -> list[Pair]:
    """Return the two folders, or their subfolders that are named after splits."""
    if not _has_images(images) and images.is_dir():
        pairs = []
        for path in sorted(images.iterdir()):
            split = SPLIT_FOLDERS.get(path.name.lower())
            if split and (masks / path.name).is_dir():
                pairs.append(Pair(split, path, masks / path.name))
        if pairs:
            return pairs
    return [Pair("", images, masks)]


def _pairs_by_name(root: Path, classify: Classify, notes: list[str]) -> list[Pair]:
    """Return the pairs of the folders that hold images, by the names in their paths."""
    folders: dict[tuple[str, str], dict[Path, None]] = defaultdict(dict)
    for folder in _folders_with_images(root):
        split, kind, base = _classify_path(root, folder, classify)
        folders[split, kind].setdefault(base)
    pairs, without = [], []
    for split in dict.fromkeys(split for split, _ in folders):
        images = list(folders[split, IMAGES] or folders[split, ""])
        masks = list(folders[split, MASKS])
        if len(images) == 1 and len(masks) == 1:
            pairs.append(Pair(split, images[0], _only_subfolder(masks[0])))
        elif len(images) == 1 and not masks and _is_mixed(images[0]):
            pairs.append(Pair(split, images[0], images[0]))
        else:
            without += [*images, *masks]
    if any(pair.split for pair in pairs):
        without += [pair.images for pair in pairs if not pair.split]
        pairs = [pair for pair in pairs if pair.split]
    if pairs and without:
        names = ", ".join(f"{path.relative_to(root).as_posix()}/" for path in without)
        notes.append(
            translate("left out: {names} (no images and masks that belong together)", names=names)
        )
    return sorted(pairs, key=lambda pair: [*SPLITS, pair.split].index(pair.split))


def _folders_with_images(root: Path) -> list[Path]:
    """Return the folders, the root included, that hold images directly."""
    found = []
    for folder, folders, files in os.walk(root):
        depth = len(Path(folder).relative_to(root).parts)
        folders[:] = sorted(name for name in folders if not name.startswith(".") and depth < DEPTH)
        if any(_is_image(name) for name in files):
            found.append(Path(folder))
    return found


def _classify_path(root: Path, folder: Path, classify: Classify) -> tuple[str, str, Path]:
    """Return (split, kind, the folder itself or its last parent whose name says one of them)."""
    split, kind, base = "", "", folder
    path = root
    for name in folder.relative_to(root).parts:
        path = path / name
        of_split, of_kind = classify(name)
        split, kind = split or of_split, kind or of_kind
        if of_split or of_kind:
            base = path
    return split, kind, base


def _classify(name: str) -> tuple[str, str]:
    """Return (split, kind) of the name of a folder: `train_masks` is ("train", "masks"), `x` is
    ("", "").
    """
    plain = re.sub(f"[{re.escape(SEPARATORS)}]", "", name.lower())
    if plain in KINDS:
        return "", KINDS[plain]
    for word in sorted(SPLIT_FOLDERS, key=len, reverse=True):
        for rest in (plain.removeprefix(word), plain.removesuffix(word)):
            if rest == "" or (rest != plain and rest in KINDS):
                return SPLIT_FOLDERS[word], KINDS.get(rest, "")
    return "", ""


def _classify_words(name: str) -> tuple[str, str]:
    """Return (split, kind) of the first words of a name that say them, as in ISIC's
    `ISIC2018_Task1_Training_GroundTruth`.
    """
    words = re.split(f"[{re.escape(SEPARATORS)}]", name.lower())
    split = next((SPLIT_FOLDERS[word] for word in words if word in SPLIT_FOLDERS), "")
    return split, next((KINDS[word] for word in words if word in KINDS), "")


def _only_subfolder(folder: Path) -> Path:
    """Return the folder, or its only subfolder with images if it holds none itself: the masks of
    `annotations/trimaps/`. With several, they are the folders of classes.
    """
    below = [path for path in _folders_with_images(folder) if path != folder]
    if len(below) == 1 and not _has_images(folder):
        return below[0]
    return folder


def _is_image(name: str) -> bool:
    return not name.startswith(".") and Path(name).suffix.lower() in IMAGE_SUFFIXES


def _has_images(folder: Path) -> bool:
    """True if there are images directly in the folder."""
    return folder.is_dir() and any(_is_image(path.name) for path in folder.iterdir())


def _is_mixed(folder: Path) -> bool:
    stems = [path.stem for path in folder.iterdir() if _is_image(path.name)]
    return divide_mixed(stems) is not None


def divide_mixed(stems: Iterable[str]) -> tuple[list[str], list[str]] | None:
    """Divide the names of files in one folder into images and masks; None if they cannot be.

    Masks are the files with a common suffix that names them (`_mask`, `_gt`, ...), if every one of
    them belongs to one of the other files.
    """
    stems = sorted(stems)
    suffixes = {}
    for stem in stems:
        for match in re.finditer(f"[{re.escape(SEPARATORS)}]", stem):
            suffix = stem[match.start() :]
            if set(re.split(f"[{re.escape(SEPARATORS)}]", suffix.lower())) & MASK_WORDS:
                suffixes.setdefault(suffix)
    for suffix in sorted(suffixes, key=len):
        masks = [stem for stem in stems if stem.endswith(suffix)]
        images = [stem for stem in stems if not stem.endswith(suffix)]
        if find_suffixes(images, masks) is not None:
            return images, masks
    return None


def find_suffixes(images: Iterable[str], masks: Iterable[str]) -> tuple[str, str] | None:
    """Return the suffixes (of images, of masks) behind the part of a name that an image and its
    mask share; ("", "") if any name is the same, None if no suffixes fit every mask.

    Example:
        >>> find_suffixes(["7_sat", "8_sat"], ["7_mask", "8_mask"])
        ('_sat', '_mask')
    """
    images, masks = set(images), sorted(masks)
    if not masks or not images.isdisjoint(masks):
        return "", ""
    first = masks[0]
    common = {image: len(os.path.commonprefix([image, first])) for image in images}
    longest = max(common.values(), default=0)
    candidates = set()
    for image, length in common.items():
        if length == longest > 0:
            shared = _whole_words(first, image, length)
            candidates.add((image[shared:], first[shared:]))
    for of_image, of_mask in sorted(candidates, key=lambda pair: (len(pair[0]), pair)):
        names = [mask.removesuffix(of_mask) + of_image for mask in masks if mask.endswith(of_mask)]
        if len(names) == len(masks) and images.issuperset(names):
            return of_image, of_mask
    return None


def _whole_words(one: str, other: str, length: int) -> int:
    """Return the length of a common start without a part of a word: of `7_sat` and `7_seg`, 1."""
    if length == len(other) or length == len(one):
        return length
    for position in range(length, 0, -1):
        if one[position - 1] in SEPARATORS:
            return position - 1
    return length
