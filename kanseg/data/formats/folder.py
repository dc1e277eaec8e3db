"""The folder form of a data set: which images, which masks, which splits."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from kanseg.data.formats.class_folders import MaskFiles, class_folders, index_masks
from kanseg.data.formats.listing import some_images
from kanseg.data.io.images import MAX_PIXELS
from kanseg.data.label_spec import LabelSpec, given_labels, label_spec
from kanseg.data.sample import Sample
from kanseg.data.splits import SPLITS, list_files, read_groups, read_lists, seeded_split
from kanseg.utils.errors import InputError
from kanseg.utils.registry import nearest


@dataclass(frozen=True)
class Folder:
    """A data set on disk: its label information and the samples of each split.

    Args:
        root: where it lies.
        info: what the masks mean.
        splits: name -> samples.
        notes: what was decided, for the user.
        broken: split files that cannot be used, told when they are asked for.
        groups: name of a sample -> group, of groups.csv; None where there is none.
        orphans: masks without an image.
        dealt: whether the splits were made by `seeded_split`.
    """

    root: Path
    info: LabelSpec
    splits: Mapping[str, tuple[Sample, ...]]
    notes: tuple[str, ...] = ()
    broken: Mapping[str, InputError] = field(default_factory=dict)
    groups: Mapping[str, str] | None = None
    orphans: tuple[Path, ...] = ()
    dealt: bool = False

    def samples(self, names: str | Sequence[str] | None) -> list[Sample]:
        """The samples of one split or of several together; an empty list for None.

        Raises:
            InputError: there is no such split, or its file has a fault.
        """
        chosen = [names] if isinstance(names, str) else list(names or [])
        for name in chosen:
            if name in self.broken:
                raise self.broken[name]
            if name not in self.splits:
                raise InputError(
                    f"{self.root}: there is no split {name!r}{nearest(name, self.splits)} (found:"
                    f" {', '.join(self.splits) or 'none'})"
                )
        return list(dict.fromkeys(sample for name in chosen for sample in self.splits[name]))


def read_folder(
    root: Path | str,
    overrides: Mapping[str, object] | None = None,
    *,
    seed: int = 0,
    max_pixels: int = MAX_PIXELS,
) -> Folder:
    """Find images, masks, splits and label information under `root`.

    Layouts: `images/` and `masks/` with split files `NAME.txt` (stems, one a line), the same
    without split files (a seeded 70/15/15 split, by group where a `groups.csv` of NAME,GROUP lies
    beside it), or `train/ val/ test/` each with `images/` and `masks/`. Of a multilabel task
    `masks/` has a folder a class (`masks/0/NAME.png` or `masks/CLASS/NAME.png`); a class without a
    file is absent from that image. `dataset.yaml` gives task, classes, mask_values, ignore_index
    and palette; `overrides` replace its entries; what is given by neither is read off the masks and
    reported in `notes`.

    Args:
        root: the folder.
        overrides: entries that replace those of dataset.yaml.
        seed: of a seeded split.
        max_pixels: of an image or mask that is read.

    Raises:
        InputError: the layout or the label information cannot be used; the line says where and why.
    """
    root = Path(root)
    if not root.is_dir():
        raise InputError(
            f"{root}: no such folder (looked for {root.resolve()}); data.root (or --root) must hold"
            " images/ and masks/, or train/, val/ and test/ with them"
        )
    notes: list[str] = []
    broken: dict[str, InputError] = {}
    groups = read_groups(root)
    bases = _bases(root)
    images = {base: some_images(base / "images", notes) for base in bases}
    masks = {base: index_masks(base / "masks", notes) for base in bases}
    given = given_labels(root, overrides or {})
    masks, folders, info = _labels(root, masks, given, notes, max_pixels)
    dealt = False
    if root in bases:
        names = read_lists(list_files(root), images[root], broken)
        dealt = not names and not any(name in broken for name in SPLITS)
        if dealt:
            names = seeded_split(root, sorted(images[root]), groups, seed, notes)
        members = {split: (root, stems) for split, stems in names.items()}
    else:
        members = {base.name: (base, sorted(images[base])) for base in bases}
    splits = {
        split: tuple(
            Sample(stem, images[base][stem], masks[base].of(stem, folders), max_pixels)
            for stem in stems
        )
        for split, (base, stems) in members.items()
    }
    orphans = tuple(path for base in bases for path in _without_image(masks[base], images[base]))
    return Folder(root, info, splits, tuple(notes), broken, groups, orphans, dealt)


def orphan_masks(folder: Folder) -> list[str]:
    """Masks without an image beside them, as faults."""
    return [f"{path}: a mask without an image in images/" for path in folder.orphans]


def _bases(root: Path) -> list[Path]:
    """The folders that hold images/ and masks/: the root, or its train/ val/ test/."""
    bases = (
        [root]
        if (root / "images").is_dir()
        else [root / name for name in SPLITS if (root / name / "images").is_dir()]
    )
    if not bases:
        raise InputError(
            f"{root}: neither images/ nor train/images/ is there; see data/README.md for the folder"
            " form"
        )
    return bases


def _labels(
    root: Path,
    masks: Mapping[Path, MaskFiles],
    given: Mapping[str, object],
    notes: list[str],
    max_pixels: int,
) -> tuple[Mapping[Path, MaskFiles], list[str] | None, LabelSpec]:
    """The masks, the folder of each class (None for one mask an image), and what the
    masks mean.
    """
    layered = any(each.by_class for each in masks.values())
    if (
        layered
        and given.get("task") == "binary"
        and all(len(each.by_class) <= 1 for each in masks.values())
    ):
        masks = {
            base: MaskFiles(each.folder, next(iter(each.by_class.values()), {}), {})
            for base, each in masks.items()
        }
    elif layered:
        info, folders = class_folders(root, list(masks.values()), given, notes)
        return masks, folders, info
    elif given.get("task") == "multilabel":
        raise InputError(
            f"{root}: a multilabel task needs a folder a class, masks/0/NAME.png, masks/1/NAME.png,"
            " ..., but the masks lie in masks/ itself"
        )
    files = sorted(path for each in masks.values() for path in each.files.values())
    return masks, None, label_spec(root, given, files, notes, max_pixels=max_pixels)


def _without_image(masks: MaskFiles, images: Iterable[str]) -> list[Path]:
    known = set(images)
    every = [masks.files, *masks.by_class.values()]
    return [path for files in every for stem, path in files.items() if stem not in known]
