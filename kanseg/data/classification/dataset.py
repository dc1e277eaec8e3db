"""Open sets of labeled images, and load them as tensors."""

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
from kanseg.data.names import few
from kanseg.data.preprocess import Preprocess
from kanseg.data.splits import SPLITS, check_folds, cut_folds
from kanseg.data.splits.record import Content, digest
from kanseg.utils.errors import InputError
from kanseg.utils.language import translate
from kanseg.utils.registry import nearest

# (images by split, splits that kanseg has made, names of the classes) -> images by split, or None
Choose = Callable[
    [dict[str, ImageSource], set[str], Sequence[str]], "dict[str, ImageSource] | None"
]
# Up to this number of image files, a training decodes all of them first; of more, it reads only the
# headers.
DECODED = 50_000


@dataclass(frozen=True)
class ImageSet:
    """Class names, and labeled images by split: "train", and "val" and "test" if the set has
    them.
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
    folds: int = 0,
    fold: int = 0,
    limit: int | None = None,
    check: bool = True,
    log: Callable[[str], None] = print,
    choose: Choose | None = None,
) -> ImageSet:
    """Open a set of labeled images. Nothing is written under `root`, unless the set is downloaded.

    Args:
        root: folder of the set, or its .npz file.
        format: one of FORMATS, or "auto" to detect it.
        download: download mnist, fashion_mnist, cifar10 or cifar100 to root if it is missing.
        train, val, test: names of the splits of the set to use; empty for none.
        val_share: share of the training images that becomes val if the set has no split val; 0
            for no val.
        split_seed: of all splits that kanseg makes.
        folds: number of folds over train and val together; 0 for none.
        fold: the fold that is val; the others are train.
        limit: number of training images to keep, with the classes in their proportions.
        check: read all image files once (of more than 50 000, only the headers).
        log: receives a line for every decision.
        choose: for a resumed run, instead of `limit`: returns the images in the splits of that run,
            or None to keep the splits that were found.

    Raises:
        InputError: files, labels or settings that cannot be used.
    """
    if not 0 <= val_share < 1 or (limit is not None and limit < 1):
        raise InputError(
            "expected data.val_share from 0 to below 1 and a data.limit of 1 or more, got"
            " {val_share} and {limit}",
            val_share=val_share,
            limit=limit,
        )
    check_folds(folds, fold, train=train, val=val, test=test)
    root = Path(root)
    if format == "auto":
        format = _detect_format(root, log)
    elif format not in FORMATS:
        raise InputError(
            "data.format: {format!r} is not one of auto, {formats}{hint}",
            format=format,
            formats=", ".join(FORMATS),
            hint=nearest(format, FORMATS),
        )
    found = FORMATS[format].open(root, download, split_seed)
    for note in found.notes:
        log(translate("data: {line}", line=note))
    splits = _named_splits(root, found, {"train": train, "val": val, "test": test}, log)
    seeded = set(found.seeded)
    if folds:
        splits |= _divide_into_folds(root, splits, found.classes, folds, fold, split_seed, log)
        seeded |= {"train", "val"}
    elif _needs_val(splits, val, val_share):
        # Of a set that was cut by hash already, the smallest hashes are in its test split.
        purpose = "val" if "test" in seeded else "cut"
        splits |= _with_val(
            splits["train"],
            val_share,
            split_seed,
            root,
            exact=FORMATS[format].fixed,
            purpose=purpose,
            log=log,
        )
        seeded |= {"train", "val"}
    kept = None
    if choose is not None:
        kept = choose(splits, seeded, found.classes)
    if kept is not None:
        splits = kept
    elif limit is not None and limit < len(splits["train"]):
        log(
            translate(
                "data: data.limit keeps {limit} of {count} training images",
                limit=limit,
                count=len(splits["train"]),
            )
        )
        splits["train"] = limited(splits["train"], limit, split_seed)
    ordered = {split: splits[split] for split in SPLITS if split in splits}
    result = ImageSet(found.classes, ordered)
    _check_classes(root, result, log)
    if check:
        _check_images(root, result, log)
    for split, source in result.splits.items():
        log(
            translate(
                "data: {split} {count} images of {classes} classes",
                split=split,
                count=len(source),
                classes=len(np.unique(source.labels)),
            )
        )
    return result


def _named_splits(
    root: Path,
    found: FoundImages,
    names: Mapping[str, Sequence[str]],
    log: Callable[[str], None],
) -> dict[str, ImageSource]:
    """Return the images of train, val and test.

    Args:
        root: of the set.
        found: its splits.
        names: train, val and test -> the splits of the set to use.
        log: receives a line for every decision.

    Raises:
        InputError: splits that the set does not have, no training split, or a training split that
            is used for val or test too.
    """
    train, val, test = (names[split] for split in SPLITS)
    trained = [name for name in train if name in (*val, *test)]
    if trained:
        raise InputError(
            "split {split} is in data.train and in data.val or data.test: scores on training"
            " images are meaningless",
            split=", ".join(trained),
        )
    for name in val:
        if name in test:
            log(
                translate(
                    "data: split {name!r} is used as val, which selects the weights, and as test:"
                    " its score is too good",
                    name=name,
                )
            )
    splits = {}
    for split in SPLITS:
        source = _source(root, found, split, list(names[split]), log)
        if source is not None:
            splits[split] = source
    if "train" not in splits:
        raise InputError(
            "data.train names no split to train on (found: {splits})",
            splits=", ".join(found.splits),
            where=root,
        )
    return splits


def _needs_val(splits: Mapping[str, ImageSource], val: Sequence[str], share: float) -> bool:
    """True if the set has no split val, and the settings want one made of training images."""
    return "val" not in splits and list(val) == ["val"] and share > 0 and len(splits["train"]) > 1


def _with_val(
    source: ImageSource,
    share: float,
    seed: int,
    root: Path,
    *,
    exact: bool,
    purpose: str,
    log: Callable[[str], None],
) -> dict[str, ImageSource]:
    """Split training images into train and val."""
    if exact:
        train, val = cut_exactly(source, share, seed)
        how = f"seed {seed}"
    else:
        train, val = cut(source, share, seed, root, purpose=purpose)
        how = f"seed {seed} and a hash of each"
    log(
        translate(
            "data: there is no split 'val': {count} training images become val, by {how}",
            count=len(val),
            how=how,
        )
    )
    return {"train": train, "val": val}


def _divide_into_folds(
    root: Path,
    splits: Mapping[str, ImageSource],
    classes: Sequence[str],
    folds: int,
    fold: int,
    seed: int,
    log: Callable[[str], None],
) -> dict[str, ImageSource]:
    """Divide the images of train and val into folds, the images of each class by a hash of their
    names: val is one fold, train the others.

    Raises:
        InputError: a class with fewer images than folds.
    """
    names = [split for split in ("train", "val") if split in splits]
    pool = ImageSource.joined([splits[split] for split in names])
    units = np.array(pool.units(root))
    fold_of = np.zeros(len(pool), np.int64)
    for label in np.unique(pool.labels):
        members = np.flatnonzero(pool.labels == label)
        if len(set(units[members])) < folds:
            raise InputError(
                "{folds} folds need as many images of every class, and {classes} has {count} in"
                " {splits}; lower data.folds",
                folds=folds,
                classes=classes[label],
                count=len(set(units[members])),
                splits=" + ".join(names),
                where=root,
            )
        for number, part in enumerate(cut_folds(members, units[members], folds, seed)):
            fold_of[part] = number
    sizes = np.bincount(fold_of, minlength=folds)
    log(
        translate(
            "data: fold {fold} of {folds} by seed {seed}, over {count} images of {splits}:"
            " {train} images to train on, {val} as val (all folds, by a hash in each class:"
            " {sizes})",
            fold=fold,
            folds=folds,
            seed=seed,
            count=len(pool),
            splits=" + ".join(names),
            train=len(pool) - sizes[fold],
            val=sizes[fold],
            sizes=", ".join(map(str, sizes)),
        )
    )
    return {
        "train": pool.subset(np.flatnonzero(fold_of != fold)),
        "val": pool.subset(np.flatnonzero(fold_of == fold)),
    }


def limited(source: ImageSource, limit: int, seed: int) -> ImageSource:
    """Return `limit` images, drawn by a seed with the classes in their proportions."""
    return source.subset(np.sort(stratified_order(source.labels, seed)[:limit]))


def many_files(splits: Mapping[str, ImageSource]) -> bool:
    """True if there are so many files that only their headers are read before a training."""
    return sum(len(source.in_files) for source in splits.values()) > DECODED


def image_contents(
    source: ImageSource, classes: Sequence[str], root: Path, *, ends_only: bool
) -> dict[str, Content]:
    """Return name -> digests of each image and of its label."""
    labels = [digest(name.encode()) for name in classes]
    images = source.digests(ends_only=ends_only)
    contents = {}
    for key, image, label in zip(source.keys(root), images, source.labels, strict=True):
        contents[key] = Content(image, labels[label])
    return contents


def _detect_format(root: Path, log: Callable[[str], None]) -> str:
    """Return the name of the format of a set.

    Raises:
        InputError: no format matches, or several do.
    """
    if not root.exists():
        raise InputError(
            "no such file or folder (looked for {path}); correct data.root, or set data.format"
            " to one without files (digits)",
            path=root.resolve(),
            where=root,
        )
    found: list[str] = []
    for fallback in (False, True):
        for name in FORMATS:
            kind: ImageFormat = FORMATS[name]
            if kind.fallback == fallback and kind.matches(root):
                found.append(name)
        if found:
            break
    if len(found) != 1:
        what = translate("is not a set of labeled images in a known format (data/README.md)")
        if found:
            what = translate("matches the formats {names}", names=" and ".join(found))
        raise InputError(
            "{what}; set data.format to one of {formats}",
            what=what,
            formats=", ".join(FORMATS),
            where=root,
        )
    log(translate("data: {root} is read as {found}", root=root, found=found[0]))
    return found[0]


def _source(
    root: Path, found: FoundImages, split: str, names: list[str], log: Callable[[str], None]
) -> ImageSource | None:
    """Return the images of train, val or test, which are those of the splits `names` of the set;
    None without names, or if the set has no val or test.
    """
    if not names:
        return None
    missing = [name for name in names if name not in found.splits]
    if not missing:
        return ImageSource.joined([found.splits[name] for name in dict.fromkeys(names)])
    hint = nearest(missing[0], found.splits)
    for name in found.splits:
        if not hint and name.startswith(missing[0]):
            hint = f"; did you mean {name!r}?"
    if split == "train" or names != [split] or hint:
        raise InputError(
            "there is no split {name!r}{hint} (found: {splits}); correct data.{split}",
            name=missing[0],
            hint=hint,
            splits=", ".join(found.splits),
            split=split,
            where=root,
        )
    if split == "test":
        log("data: there is no split 'test', so there will be no test scores")
    return None


def _check_classes(root: Path, images: ImageSet, log: Callable[[str], None]) -> None:
    """Check that class names are unique and that the training images have two classes or more; log
    the classes that a split lacks.
    """
    for name in images.classes:
        if images.classes.count(name) > 1:
            raise InputError(
                "two classes are called {name!r}; give each its own name",
                name=name,
                where=root,
            )
    present = set(np.unique(images.splits["train"].labels).tolist())
    if len(present) < 2:
        raise InputError(
            "the training images are all of one class ({classes}); a classifier needs two or more",
            classes=images.classes[min(present)],
            where=root,
        )
    absent = [name for index, name in enumerate(images.classes) if index not in present]
    if absent:
        log(translate("data: there are no training images of {names}", names=few(absent)))
    for split in ("val", "test"):
        if split not in images.splits:
            continue
        missing = sorted(present - set(images.splits[split].labels.tolist()))
        if missing:
            log(
                translate(
                    "data: warning: {split} has no images of {names}, which are in train: its"
                    " scores say nothing about these classes; add images of them to it",
                    split=split,
                    names=few(images.classes[label] for label in missing),
                )
            )


def _check_images(root: Path, images: ImageSet, log: Callable[[str], None]) -> None:
    """Check that all image files can be read.

    Raises:
        InputError: the first 20 unreadable files, and their number.
    """
    decode = not many_files(images.splits)
    faults: dict[str, None] = {}  # a file can be in two splits
    for source in images.splits.values():
        faults |= dict.fromkeys(source.faults(decode=decode))
    if faults:
        more = ""
        if len(faults) > SHOWN:
            more = translate(" (the first {shown} are named above)", shown=SHOWN)
        count = translate(
            "{root}: {count} images cannot be read{more}; replace or remove them",
            root=root,
            count=len(faults),
            more=more,
        )
        raise InputError("\n".join([*list(faults)[:SHOWN], count]))
    if not decode:
        log(
            translate(
                "data: more than {decoded} files, so only their headers were checked; an image with"
                " damaged pixels stops the run with an error that names it",
                decoded=DECODED,
            )
        )


class ClassificationDataset(ImageDataset):
    """Labeled images as tensors: items are {"image": (C, H, W) float32, "label": int, "index":
    int}; a batch has int64 labels.

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
        index = self.position(key)
        decoded, label, name = self.source.decoded(index)
        image = self.preprocess.scale(decoded, name=name)
        if self.augmentation is not None:
            image = self.augmentation(image, self.augmentation_seed(key), name=name)
        return {"image": self.to_tensor(image), "label": label, "index": index}
