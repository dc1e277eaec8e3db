"""MNIST, Fashion-MNIST, CIFAR-10 and CIFAR-100 in the files of their authors."""

from __future__ import annotations

import gzip
import zlib
from functools import partial
from itertools import product
from pathlib import Path

import numpy as np

from kanseg.data.classification.formats import FORMATS, FoundImages, ImageFormat
from kanseg.data.classification.sources import ArrayImages, ImageSource, checked_labels
from kanseg.utils.errors import InputError
from kanseg.utils.language import translate

FASHION = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)
PREFIXES = {"train": "train", "test": "t10k"}
IMAGES, LABELS = 3, 1  # dimensions of the array in a file, which its magic number holds
# torchvision's name of the set, its classes, and its first training labels, which identify the set
# where its files are not in a folder of its name
IDX_SETS = {
    "mnist": ("MNIST", tuple(map(str, range(10))), (5, 0, 4, 1, 9, 2, 1, 3, 1, 4)),
    "fashion_mnist": ("FashionMNIST", FASHION, (9, 0, 0, 3, 0, 2, 7, 2, 5, 5)),
}
# torchvision's name of the set, its folder
CIFARS = {
    "cifar10": ("CIFAR10", "cifar-10-batches-py"),
    "cifar100": ("CIFAR100", "cifar-100-python"),
}


def _idx_files(root: Path, name: str) -> dict[tuple[str, int], Path] | None:
    """Find (split, dimensions) -> file, compressed or not, in root or where torchvision puts it.

    Returns None unless all four files exist.
    """
    for folder in (root / IDX_SETS[name][0] / "raw", root, root / "raw"):
        found = {}
        for split, prefix in PREFIXES.items():
            for dimensions, kind in ((IMAGES, "images"), (LABELS, "labels")):
                for sign, suffix in product("-.", ("", ".gz")):
                    path = folder / f"{prefix}-{kind}{sign}idx{dimensions}-ubyte{suffix}"
                    if path.is_file():
                        found.setdefault((split, dimensions), path)
        if len(found) == 4:
            return found
    return None


def _read_idx(path: Path, dimensions: int) -> np.ndarray:
    """Read the array in an idx file: two zeros, 8 for uint8, the number of dimensions, the
    dimensions (uint32, big endian), the values.

    Raises:
        InputError: a damaged file, or one of another kind.
    """
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as stream:
            content = stream.read()
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(
            "the file is damaged or truncated ({reason}); download it again",
            reason=error,
            where=path,
        ) from None
    start = 4 * (1 + dimensions)
    shape: tuple[int, ...] = ()
    if len(content) >= start:
        shape = tuple(np.frombuffer(content[4:start], ">u4").tolist())
    if content[:4] != bytes((0, 0, 8, dimensions)) or len(content) - start != np.prod(shape):
        raise InputError(
            "not an idx file of a {dimensions}-dimensional array of bytes ({count} bytes);"
            " download it again",
            dimensions=dimensions,
            count=len(content),
            where=path,
        )
    return np.frombuffer(content, np.uint8, offset=start).reshape(shape)


def _is_idx(root: Path, *, name: str) -> bool:
    """True if the files of the set are in torchvision's folder, or have its first labels."""
    files = _idx_files(root, name)
    if files is None:
        return False
    labels = files["train", LABELS]
    if labels.parent not in (root, root / "raw"):
        return True  # in torchvision's folder of that name
    return tuple(_read_idx(labels, LABELS)[:10].tolist()) == IDX_SETS[name][2]


def _open_idx(root: Path, download: bool, seed: int, *, name: str) -> FoundImages:
    original, classes, _ = IDX_SETS[name]
    if _idx_files(root, name) is None and download:
        _download(original, root)
    files = _idx_files(root, name)
    if files is None:
        raise InputError(
            "{original} not found: looked for train-images-idx3-ubyte and the three files that"
            " belong to it (also .gz) in it and in {original}/raw/; copy them there, or set"
            " --data.download true",
            original=original,
            where=root,
        )
    splits = {}
    for split in PREFIXES:
        path = files[split, IMAGES]
        images = ArrayImages(_read_idx(path, IMAGES), str(path))
        path = files[split, LABELS]
        values = _read_idx(path, LABELS)
        labels = checked_labels(values, len(images), str(path), num_classes=len(classes))
        splits[split] = ImageSource.of(images, labels)
    return FoundImages(classes, splits)


def _download(name: str, root: Path) -> None:
    """Let torchvision download a set and verify its checksums."""
    from torchvision import datasets

    try:
        getattr(datasets, name)(root, download=True)
    except (OSError, RuntimeError) as error:  # URLError is an OSError
        raise InputError(
            "{name} could not be downloaded ({reason}); copy its files there by hand",
            name=name,
            reason=error,
            where=root,
        ) from None


def _cifar_parent(root: Path, name: str) -> Path:
    """Return the folder that holds the folder of the set; root may be either of them."""
    if root.name == CIFARS[name][1]:
        return root.parent
    return root


def _open_cifar(root: Path, download: bool, seed: int, *, name: str) -> FoundImages:
    """Open CIFAR with torchvision. Its files are pickles, so only files with the MD5 sums of the
    authors' files are opened.
    """
    from torchvision import datasets

    original, folder = CIFARS[name]
    kind, parent = getattr(datasets, original), _cifar_parent(root, name)
    if download and not (parent / folder).is_dir():
        _download(original, parent)
    try:
        parts = {split: kind(parent, train=split == "train") for split in ("train", "test")}
    except RuntimeError:
        state = translate("is missing")
        if (parent / folder).is_dir():
            state = translate("is incomplete or damaged (by its MD5 sums)")
        raise InputError(
            "{folder}/ {state}; unpack {url} there, or remove it and set --data.download true",
            folder=folder,
            state=state,
            url=kind.url,
            where=parent,
        ) from None
    classes = tuple(parts["train"].classes)
    splits = {}
    for split, part in parts.items():
        name_of_array = f"{folder}: {split}"
        images, targets = ArrayImages(part.data, name_of_array), np.asarray(part.targets)
        labels = checked_labels(targets, len(images), name_of_array, num_classes=len(classes))
        splits[split] = ImageSource.of(images, labels)
    return FoundImages(classes, splits)


for _name in IDX_SETS:
    FORMATS.register(_name)(
        ImageFormat(partial(_open_idx, name=_name), partial(_is_idx, name=_name), fixed=True)
    )
for _name in CIFARS:
    FORMATS.register(_name)(
        ImageFormat(
            partial(_open_cifar, name=_name),
            lambda root, name=_name: (_cifar_parent(root, name) / CIFARS[name][1]).is_dir(),
            fixed=True,
        )
    )
