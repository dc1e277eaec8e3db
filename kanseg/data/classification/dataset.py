"""Sets of labeled images -> tensors."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from torch import Tensor

from kanseg.data.classification import archives, arrays, folders  # noqa: F401 - register
from kanseg.data.classification.augmentation import ImageAugmentation
from kanseg.data.classification.formats import FORMATS, FoundImages, ImageFormat
from kanseg.data.classification.sources import (
    SHOWN,
    ImageSource,
    cut,
    cut_exactly,
    stratified_order,
)
from kanseg.data.dataset import ImageDataset
from kanseg.data.preprocess import Preprocess
from kanseg.data.split_record import Content, digest
from kanseg.data.transforms import sample_seed
from kanseg.utils.errors import InputError
from kanseg.utils.registry import nearest

ROLES = ("train", "val", "test")
Choose = Callable[
    [dict[str, ImageSource], set[str], Sequence[str]], "dict[str, ImageSource] | None"
]
DECODED = (
    50_000  # image files that are decoded before a training; of more, the headers alone are read
)


@dataclass(frozen=True)
class ImageSet:
    """Names of the classes, and labeled images by role: "train", and "val" and "test" where
    there are such.
    """

    classes: tuple[str, ...]
    splits: Mapping[str, ImageSource]


def open_images(
    root: Path | str,
    format: str = "auto",
    *,
    download: bool = False,
    train: Sequence[str] = ("train",),
    val: Sequence[str] = ("val",),
    test: Sequence[str] = ("test",),
    val_share: float = 0.1,
    split_seed: int = 0,
    limit: int | None = None,
    check: bool = True,
    log: Callable[[str], None] = print,
    choose: Choose | None = None,
) -> ImageSet:
    """Find the labeled images under `root`. Nothing is written there, unless a set is downloaded
    to it.

    Args:
        root: folder of the set, or its .npz file.
        format: one of FORMATS, or "auto" for what lies in root.
        download: fetch mnist, fashion_mnist, cifar10 or cifar100 to root where it is missing.
        train, val, test: the splits of the set that serve as such; none for no such role.
        val_share: share of the training images that becomes val where the set has no split val; 0
            for no val then.
        split_seed: of all splits that have to be made.
        limit: training images that are kept, the classes in their proportions.
        check: read all image files once (more than 50 000: their headers).
        log: gets a line for everything that was decided.
        choose: (splits by role, roles that were dealt by kanseg, classes) -> splits by role, in the
            place of `limit`, or None; for runs that go on with the samples that they were begun
            with.

    Raises:
        InputError: nothing that can be used; faulty files, labels or settings, by name.
    """
    if not 0 <= val_share < 1 or (limit is not None and limit < 1):
        raise InputError(
            "expected data.val_share from 0 to below 1 and a data.limit of 1 or more, got"
            f" {val_share} and {limit}"
        )
    root = Path(root)
    form = _detected(root, log) if format == "auto" else format
    if form not in FORMATS:
        raise InputError(
            f"data.format: {form!r} is not one of auto,"
            f" {', '.join(FORMATS)}{nearest(form, FORMATS)}"
        )
    found = FORMATS[form].open(root, download, split_seed)
    for note in found.notes:
        log(f"data: {note}")
    chosen = {"train": train, "val": val, "test": test}
    trained = [name for name in train if name in (*val, *test)]
    if trained:
        raise InputError(
            f"split {', '.join(trained)} is in data.train and in data.val or data.test: a score on"
            " images that were trained on says nothing"
        )
    for name in (name for name in val if name in test):
        log(
            f"data: split {name!r} selects the weights and measures them too: its score is"
            " optimiztic"
        )
    dealt = set(found.dealt)
    splits = {
        role: source
        for role in ROLES
        if (source := _source(root, found, role, list(chosen[role]), log)) is not None
    }
    if "train" not in splits:
        raise InputError(
            f"{root}: no split to train on is named in data.train (found:"
            f" {', '.join(found.splits)})"
        )
    if "val" not in splits and list(val) == ["val"] and val_share > 0 and len(splits["train"]) > 1:
        exact = FORMATS[form].fixed
        splits |= _with_val(splits["train"], val_share, split_seed, root, exact=exact, log=log)
        dealt |= {"train", "val"}
    chosen_anew = None if choose is None else choose(splits, dealt, found.classes)
    if chosen_anew is not None:
        splits = chosen_anew
    elif limit is not None and limit < len(splits["train"]):
        log(f"data: {limit} of {len(splits['train'])} training images are kept")
        splits["train"] = limited(splits["train"], limit, split_seed)
    result = ImageSet(found.classes, {role: splits[role] for role in ROLES if role in splits})
    _check_classes(root, result, log)
    if check:
        _check_images(root, result, log)
    for role, source in result.splits.items():
        log(f"data: {role} {len(source)} images of {len(np.unique(source.labels))} classes")
    return result


def _with_val(
    source: ImageSource,
    share: float,
    seed: int,
    root: Path,
    *,
    exact: bool,
    log: Callable[[str], None],
) -> dict[str, ImageSource]:
    """The training images without those that are taken for val, and these."""
    train, val = cut_exactly(source, share, seed) if exact else cut(source, share, seed, root)
    how = "" if exact else ", by a hash of each"
    log(
        f"data: there is no split 'val': {len(val)} training images are taken for it, by seed"
        f" {seed}{how}"
    )
    return {"train": train, "val": val}


def limited(source: ImageSource, limit: int, seed: int) -> ImageSource:
    """The first `limit` images of a seeded order that has the classes in their proportions."""
    return source.subset(np.sort(stratified_order(source.labels, seed)[:limit]))


def many_files(splits: Mapping[str, ImageSource]) -> bool:
    """Whether there are so many files that not all of them are read before a training."""
    return sum(len(source.in_files) for source in splits.values()) > DECODED


def image_contents(
    source: ImageSource, classes: Sequence[str], root: Path, *, ends_only: bool
) -> dict[str, Content]:
    """Name -> content of each image, and of its label."""
    labels = [digest(name.encode()) for name in classes]
    images = source.digests(ends_only=ends_only)
    return {
        key: Content(image, labels[label])
        for key, image, label in zip(source.keys(root), images, source.labels, strict=True)
    }


def _detected(root: Path, log: Callable[[str], None]) -> str:
    """The one format that root looks like."""
    if not root.exists():
        raise InputError(
            f"{root}: no such file or folder (looked for {root.resolve()}); correct data.root, or"
            " name a data.format that needs none (digits)"
        )
    formats: dict[str, ImageFormat] = {name: FORMATS[name] for name in FORMATS}
    found = [name for name, kind in formats.items() if not kind.fallback and kind.lies_in(root)]
    found = found or [
        name for name, kind in formats.items() if kind.fallback and kind.lies_in(root)
    ]
    if len(found) != 1:
        what = (
            f"looks like {' and '.join(found)}"
            if found
            else "looks like no set of labeled images (their forms: data/README.md)"
        )
        raise InputError(f"{root}: {what}; set data.format to one of {', '.join(FORMATS)}")
    log(f"data: {root} is read as {found[0]}")
    return found[0]


def _source(
    root: Path, found: FoundImages, role: str, names: list[str], log: Callable[[str], None]
) -> ImageSource | None:
    """The images of a role; None where none are asked for, or where the set has no val or test as
    such.
    """
    missing = [name for name in names if name not in found.splits]
    if not missing:
        return (
            ImageSource.joined([found.splits[name] for name in dict.fromkeys(names)])
            if names
            else None
        )
    alike = nearest(missing[0], found.splits) or next(
        (f"; did you mean {name!r}?" for name in found.splits if name.startswith(missing[0])), ""
    )
    if role == "train" or names != [role] or alike:
        raise InputError(
            f"{root}: there is no split {missing[0]!r}{alike} (found: {', '.join(found.splits)});"
            f" correct data.{role}"
        )
    if role == "test":
        log("data: there is no split 'test', so nothing is measured on one")
    return None


def _check_classes(root: Path, images: ImageSet, log: Callable[[str], None]) -> None:
    twice = [name for name in images.classes if images.classes.count(name) > 1]
    if twice:
        raise InputError(f"{root}: two classes are called {twice[0]!r}; give each its own name")
    present = set(np.unique(images.splits["train"].labels).tolist())
    if len(present) < 2:
        raise InputError(
            f"{root}: the training images are of one class only ({images.classes[min(present)]});"
            " there must be two to tell apart"
        )
    absent = [name for index, name in enumerate(images.classes) if index not in present]
    if absent:
        log(
            "data: no image of"
            f" {', '.join(absent[:SHOWN])}{' and others' * (len(absent) > SHOWN)} to train on"
        )


def _check_images(root: Path, images: ImageSet, log: Callable[[str], None]) -> None:
    """Unreadable files, all of them counted and the first 20 listed."""
    decode = not many_files(images.splits)
    faults = list(
        dict.fromkeys(
            fault for source in images.splits.values() for fault in source.faults(decode=decode)
        )
    )
    if faults:
        more = f" (the first {SHOWN} are named above)" if len(faults) > SHOWN else ""
        raise InputError(
            "\n".join(
                [
                    *faults[:SHOWN],
                    f"{root}: {len(faults)} images cannot be read{more}; replace or remove them",
                ]
            )
        )
    if not decode:
        log(
            f"data: more than {DECODED} files: their headers were checked; an image that is"
            " damaged further on stops the run by its name"
        )


class ClassificationDataset(ImageDataset):
    """Items are {"image": (C, H, W) float32, "label": int, "index": int}; a batch of them has int64
    labels.

    Args:
        source: labeled images.
        classes: names, index 0 first.
        preprocess: scaling and normalization, shared with prediction.
        augmentation: None for evaluation.
        seed: of the augmentation.
    """

    def __init__(
        self,
        source: ImageSource,
        classes: Sequence[str],
        preprocess: Preprocess,
        *,
        augmentation: ImageAugmentation | None = None,
        seed: int = 0,
    ):
        super().__init__(preprocess, seed)
        self.source = source
        self.classes = tuple(classes)
        self.augmentation = augmentation

    def __len__(self) -> int:
        return len(self.source)

    @cached_property
    def one_size(self) -> bool:
        """True if all images, before augmentation, have the same size (by their headers)."""
        return self.preprocess.resize is not None or len(self.source.sizes()) <= 1

    def __getitem__(self, key: int | tuple[int, int]) -> dict[str, Tensor | int]:
        epoch, index = key if isinstance(key, tuple) else (0, key)
        decoded, label, name = self.source.decoded(index)
        image = self.preprocess.scale(decoded, name=name)
        if self.augmentation is not None:
            image = self.augmentation(image, sample_seed(self.seed, epoch, index), name=name)
        return {"image": self.to_tensor(image), "label": label, "index": index}
