"""Labeled images in one .npz file, as arrays or as JPEG bytes, and scikit-learn's digits."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import numpy as np

from kanseg.data.classification.formats import FORMATS, FoundImages, ImageFormat
from kanseg.data.classification.sources import (
    ArrayImages,
    ImageSource,
    JpegImages,
    checked_labels,
    cut_exactly,
)
from kanseg.data.io.decode_errors import decoder_errors
from kanseg.data.splits import SPLITS
from kanseg.utils.errors import InputError

CIFAR10_CLASSES = (
    "airplane",
    "automobile",
    "bird",
    "cat",
    "deer",
    "dog",
    "frog",
    "horse",
    "ship",
    "truck",
)
TEST_SHARE = 0.2  # of the images of a set without test images


def npz_keys(root: Path) -> set[str]:
    """Return the names of the arrays in the .npz file `root`, or in the only .npz file of that
    folder; empty if there is no such file.
    """
    files = _npz_files(root)
    if len(files) != 1 or not zipfile.is_zipfile(files[0]):
        return set()
    with suppress(InputError), decoder_errors(files[0]), zipfile.ZipFile(files[0]) as archive:
        return {name.removesuffix(".npy") for name in archive.namelist()}
    return set()


def _npz_files(root: Path) -> list[Path]:
    if root.is_dir():
        return sorted(path for path in root.glob("*.npz") if not path.name.startswith("."))
    if root.suffix == ".npz" and root.is_file():
        return [root]
    return []


def _read_npz(root: Path) -> tuple[Path, dict[str, np.ndarray]]:
    """Return the file and its arrays; pickled objects are refused."""
    files = _npz_files(root)
    if len(files) != 1:
        hint = "; data.root must be the file, or the folder that holds it"
        if files:
            hint = f": {', '.join(path.name for path in files)}; give one of them as root"
        raise InputError(
            "expected one .npz file, found {count}{hint}",
            count=len(files),
            hint=hint,
            where=root,
        )
    path = files[0]
    if not zipfile.is_zipfile(path):  # np.load would take it for a pickle
        raise InputError(
            "not an .npz file, or a truncated one; write it with numpy.savez", where=path
        )
    try:
        with decoder_errors(path), np.load(path, allow_pickle=False) as archive:
            return path, {name: archive[name] for name in archive.files}
    except InputError as error:
        if "allow_pickle" not in str(error):
            raise InputError("{reason}; download it again", reason=error) from None
        raise InputError(
            "holds Python objects, which are refused; save plain arrays", where=path
        ) from None


def _open_npz(root: Path, download: bool, seed: int) -> FoundImages:
    path, arrays = _read_npz(root)
    splits = [name for name in SPLITS if f"x_{name}" in arrays or f"y_{name}" in arrays]
    for name in ("train", *splits):
        _require(path, arrays, f"x_{name}", f"y_{name}")
    classes = _class_names(path, arrays)
    found = {}
    for name in splits:
        images = ArrayImages(arrays[f"x_{name}"], f"{path}: x_{name}")
        labels = checked_labels(
            arrays[f"y_{name}"], len(images), f"{path}: y_{name}", num_classes=len(classes)
        )
        found[name] = ImageSource.of(images, labels)
    return FoundImages(classes, found)


def _require(path: Path, arrays: Mapping[str, np.ndarray], *names: str) -> None:
    """Raise an InputError for the first array that is missing."""
    for name in names:
        if name not in arrays:
            raise InputError(
                "there is no array {name} (found: {arrays})",
                name=name,
                arrays=", ".join(arrays) or "none",
                where=path,
            )


def _class_names(path: Path, arrays: Mapping[str, np.ndarray]) -> tuple[str, ...]:
    """Return the array `classes`, or the numbers up to the largest label of the training images."""
    if "classes" not in arrays:
        labels = checked_labels(arrays["y_train"], len(arrays["x_train"]), f"{path}: y_train")
        present = np.unique(labels)
        gap = np.flatnonzero(present != np.arange(len(present)))
        if len(gap):
            raise InputError(
                "y_train: no image has the label {gap}, but some have {present}; number the"
                " classes 0, 1, ..., or add `classes`",
                gap=gap[0],
                present=present[-1],
                where=path,
            )
        return tuple(map(str, present))
    names = arrays["classes"]
    if names.dtype.kind not in "US" or names.ndim != 1:
        raise InputError(
            "classes: expected a row of strings, got {dtype} of shape {shape}",
            dtype=names.dtype,
            shape=names.shape,
            where=path,
        )
    if names.dtype.kind == "S":
        return tuple(name.decode() for name in names.tolist())
    return tuple(names.tolist())


def _open_cifar10_jpeg(root: Path, download: bool, seed: int) -> FoundImages:
    path, arrays = _read_npz(root)
    splits = {}
    for name in SPLITS:
        if name != "train" and f"data_{name}" not in arrays:
            continue
        _require(path, arrays, "header", f"data_{name}", f"off_{name}", f"y_{name}")
        images = JpegImages(
            arrays["header"], arrays[f"data_{name}"], arrays[f"off_{name}"], f"{path}: {name}"
        )
        labels = checked_labels(
            arrays[f"y_{name}"],
            len(images),
            f"{path}: y_{name}",
            num_classes=len(CIFAR10_CLASSES),
        )
        splits[name] = ImageSource.of(images, labels)
    return FoundImages(
        CIFAR10_CLASSES,
        splits,
        ("CIFAR-10 after JPEG compression: scores are not those of the original images",),
    )


def _open_digits(root: Path, download: bool, seed: int) -> FoundImages:
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        raise InputError(
            "data.format digits needs scikit-learn: python -m pip install scikit-learn"
        ) from None
    digits = load_digits()
    images = ArrayImages(np.round(digits.images * (255 / 16)).astype(np.uint8), "digits")
    # always by seed 0, so that scores can be compared
    train, test = cut_exactly(ImageSource.of(images, digits.target), TEST_SHARE, 0)
    return FoundImages(tuple(map(str, range(10))), {"train": train, "test": test})


FORMATS.register("npz")(ImageFormat(_open_npz, lambda root: "x_train" in npz_keys(root)))
FORMATS.register("cifar10_jpeg")(
    ImageFormat(
        _open_cifar10_jpeg,
        lambda root: {"header", "data_train", "off_train"} <= npz_keys(root),
        fixed=True,
    )
)
FORMATS.register("digits")(ImageFormat(_open_digits, lambda root: False, fixed=True))
