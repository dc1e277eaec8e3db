"""Labeled images, wherever they lie: in arrays, in files, or encoded in memory."""

from __future__ import annotations

import io
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np
from PIL import Image

from kanseg.data.io.decode_errors import decoder_errors
from kanseg.data.io.decoded import DecodedImage, as_decoded
from kanseg.data.io.images import decode_image, image_mode
from kanseg.data.split_record import digest, file_digest, name_of, without_suffix
from kanseg.data.splits import share_of
from kanseg.utils.errors import InputError

T = TypeVar("T")
AT_ONCE = 10_000  # images that wait for a thread
SHOWN = 20  # faults that are listed; the rest are counted


class Images(ABC):
    """A sequence of images without labels; it can be pickled for the workers of a loader."""

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def read(self, row: int) -> np.ndarray:
        """(H, W, C) uint8 or uint16.

        Raises:
            InputError: it cannot be read.
        """

    def decoded(self, row: int) -> DecodedImage:
        """The image with its alpha channel and its pixels without data, where it has such."""
        return as_decoded(self.read(row))

    @abstractmethod
    def name(self, row: int) -> str:
        """The name of the image in error messages."""

    @abstractmethod
    def size(self, row: int) -> tuple[int, int]:
        """(H, W), without decoding the image where that can be avoided."""

    def fault(self, row: int, *, decode: bool) -> str | None:
        """Why the image cannot be read, or None; without `decode` only its header is read."""
        return None

    def unit(self, row: int, root: Path) -> str:
        """What a seeded split hashes, so that an image keeps its split as others come and go: the
        path of a file below the root, without the suffix; else the content.
        """
        return self.digest(row)

    def key(self, row: int, root: Path) -> str:
        """The name of the image below the root of the data set."""
        return self.name(row)

    @abstractmethod
    def digest(self, row: int, *, ends_only: bool = False) -> str:
        """Hexadecimal digits of the content, as of `kanseg.data.split_record.digest`.

        Args:
            row: of the image.
            ends_only: for large sets: hash only the size and the ends of a file.
        """


class ArrayImages(Images):
    """Images of one array.

    Args:
        values: (n, H, W) or (n, H, W, C) uint8 or uint16.
        where: name of the array.

    Raises:
        InputError: another shape or type, or no images.
    """

    def __init__(self, values: np.ndarray, where: str):
        if values.dtype not in (np.uint8, np.uint16):
            raise InputError(
                f"{where}: images are uint8 or uint16, got {values.dtype}; convert them (values"
                " in [0, 1]: multiply by 255 and round)"
            )
        if values.ndim not in (3, 4) or 0 in values.shape:
            raise InputError(
                f"{where}: images are (n, H, W) or (n, H, W, C) and n is at least 1, got the"
                f" shape {values.shape}"
            )
        if values.ndim == 4 and values.shape[1] in (1, 3) and values.shape[3] not in (1, 2, 3, 4):
            raise InputError(
                f"{where}: channels come last, (n, H, W, C), got the shape {values.shape}; use"
                " transpose(0, 2, 3, 1)"
            )
        self.values = values if values.ndim == 4 else values[..., None]
        self.where = where

    def __len__(self) -> int:
        return len(self.values)

    def read(self, row: int) -> np.ndarray:
        return self.values[row]

    def name(self, row: int) -> str:
        return f"{self.where}[{row}]"

    def key(self, row: int, root: Path) -> str:
        return _below(self.name(row), root)

    def digest(self, row: int, *, ends_only: bool = False) -> str:
        return digest(self.values[row])

    def size(self, row: int) -> tuple[int, int]:
        return self.values.shape[1:3]


class FileImages(Images):
    """Image files."""

    def __init__(self, paths: Sequence[Path | str]):
        self.paths = [str(path) for path in paths]

    def __len__(self) -> int:
        return len(self.paths)

    def read(self, row: int) -> np.ndarray:
        return self.decoded(row).values

    def decoded(self, row: int) -> DecodedImage:
        return decode_image(self.paths[row])

    def name(self, row: int) -> str:
        return self.paths[row]

    def unit(self, row: int, root: Path) -> str:
        return without_suffix(self.key(row, root))

    def key(self, row: int, root: Path) -> str:
        return name_of(self.paths[row], root)

    def digest(self, row: int, *, ends_only: bool = False) -> str:
        return file_digest(self.paths[row], ends_only=ends_only)

    def size(self, row: int) -> tuple[int, int]:
        return image_mode(self.paths[row])[1]

    def fault(self, row: int, *, decode: bool) -> str | None:
        try:
            decode_image(self.paths[row]) if decode else image_mode(self.paths[row])
        except InputError as error:
            return str(error)
        return None


class JpegImages(Images):
    """JPEG images in one array of bytes, which share a header.

    Args:
        header: bytes that come first in each of them.
        data: (bytes,) uint8, the rest of all.
        offsets: (n + 1,) where each begins and ends in `data`.
        where: name of the array.
    """

    def __init__(self, header: np.ndarray, data: np.ndarray, offsets: np.ndarray, where: str):
        offsets = offsets.astype(np.int64)
        covers = len(offsets) >= 2 and offsets[0] == 0 and offsets[-1] == len(data)
        if not covers or (np.diff(offsets) <= 0).any():
            raise InputError(
                f"{where}: the offsets must rise from 0 to the {len(data)} bytes of the images;"
                " the file is damaged, fetch it anew"
            )
        self.header, self.data, self.offsets, self.where = header.tobytes(), data, offsets, where

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def _open(self, row: int) -> Image.Image:
        content = self.data[self.offsets[row] : self.offsets[row + 1]].tobytes()
        return Image.open(io.BytesIO(self.header + content))

    def read(self, row: int) -> np.ndarray:
        try:
            with decoder_errors(self.name(row)), self._open(row) as image:
                array = np.asarray(image)
        except InputError as error:
            raise InputError(f"{error}; fetch the file anew") from None
        return array if array.ndim == 3 else array[:, :, None]

    def name(self, row: int) -> str:
        return f"{self.where}[{row}]"

    def key(self, row: int, root: Path) -> str:
        return _below(self.name(row), root)

    def digest(self, row: int, *, ends_only: bool = False) -> str:
        return digest(self.data[self.offsets[row] : self.offsets[row + 1]])

    def size(self, row: int) -> tuple[int, int]:
        with self._open(row) as image:
            return image.height, image.width


def _below(name: str, root: Path) -> str:
    """The name of a row without the folder of its file: FILE.npz: x_train[3]."""
    folder = root if root.is_dir() else root.parent
    return name.removeprefix(f"{folder}/")


@dataclass(frozen=True, eq=False)
class ImageSource:
    """Labeled images: `source[i]` is (image (H, W, C) uint8 or uint16, label, name).

    Args:
        parts: where the images are.
        places: (n, 2) part and row in it of each image.
        labels: (n,) int64 class indices.
    """

    parts: tuple[Images, ...]
    places: np.ndarray
    labels: np.ndarray

    @staticmethod
    def of(images: Images, labels: np.ndarray) -> ImageSource:
        """All of the images, in their order."""
        assert len(images) == len(labels)
        rows = np.arange(len(images))
        places = np.stack([np.zeros_like(rows), rows], axis=1)
        return ImageSource((images,), places, np.asarray(labels, dtype=np.int64))

    @staticmethod
    def joined(sources: Sequence[ImageSource]) -> ImageSource:
        """The images of several sources, one after the other."""
        parts: list[Images] = []
        places, labels = [], []
        for source in sources:
            places.append(source.places + [len(parts), 0])
            labels.append(source.labels)
            parts += source.parts
        return ImageSource(tuple(parts), np.concatenate(places), np.concatenate(labels))

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[np.ndarray, int, str]:
        image, label, name = self.decoded(index)
        return image.values, label, name

    def decoded(self, index: int) -> tuple[DecodedImage, int, str]:
        """(image with its alpha channel and pixels without data, label, name)."""
        part, row = self._place(index)
        return part.decoded(row), int(self.labels[index]), part.name(row)

    def _place(self, index: int) -> tuple[Images, int]:
        part, row = self.places[index]
        return self.parts[part], int(row)

    def subset(self, indices: np.ndarray) -> ImageSource:
        """The images at the indices, in the order of the indices."""
        return ImageSource(self.parts, self.places[indices], self.labels[indices])

    def names(self) -> list[str]:
        """The names of all images; no image is read."""
        return [part.name(row) for part, row in map(self._place, range(len(self)))]

    def units(self, root: Path) -> list[str]:
        """What a seeded split hashes of each image (`Images.unit`)."""
        return list(self._each(partial(_unit, root=root), np.arange(len(self))))

    def keys(self, root: Path) -> list[str]:
        """The name of each image below the root (`Images.key`)."""
        return [part.key(row, root) for part, row in map(self._place, range(len(self)))]

    def digests(self, *, ends_only: bool = False) -> list[str]:
        """The content of each image (`Images.digest`)."""
        return list(self._each(partial(_digest, ends_only=ends_only), np.arange(len(self))))

    def sizes(self) -> set[tuple[int, int]]:
        """The (H, W) of all images, by their headers."""
        parts = np.unique(self.places[:, 0]).tolist()
        if all(isinstance(self.parts[i], ArrayImages) for i in parts):
            return {self.parts[i].size(0) for i in parts}
        return set(self._each(_size, np.arange(len(self))))

    @property
    def in_files(self) -> np.ndarray:
        """Indices of the images that are files of their own."""
        files = [number for number, part in enumerate(self.parts) if isinstance(part, FileImages)]
        return np.flatnonzero(np.isin(self.places[:, 0], files))

    def faults(self, *, decode: bool) -> list[str]:
        """A line for each file that cannot be read."""
        found = self._each(partial(_fault, decode=decode), self.in_files)
        return [fault for fault in found if fault is not None]

    def _each(
        self, function: Callable[[tuple[Images, int]], T], indices: np.ndarray
    ) -> Iterator[T]:
        """Call a function with the place of each image, in threads: decoding releases the GIL.
        Sets can hold millions of images, so they are submitted in pieces.
        """
        with ThreadPoolExecutor() as pool:
            for start in range(0, len(indices), AT_ONCE):
                yield from pool.map(function, map(self._place, indices[start : start + AT_ONCE]))


def _fault(place: tuple[Images, int], *, decode: bool) -> str | None:
    return place[0].fault(place[1], decode=decode)


def _size(place: tuple[Images, int]) -> tuple[int, int]:
    return place[0].size(place[1])


def _unit(place: tuple[Images, int], *, root: Path) -> str:
    return place[0].unit(place[1], root)


def _digest(place: tuple[Images, int], *, ends_only: bool) -> str:
    return place[0].digest(place[1], ends_only=ends_only)


def checked_labels(
    values: np.ndarray, count: int, where: str, *, num_classes: int | None = None
) -> np.ndarray:
    """(n,) int64 class indices for `count` images.

    Raises:
        InputError: other than integers, another number than there are images, or indices without
            a class.
    """
    if values.ndim == 2 and values.shape[1] == 1:
        values = values[:, 0]
    if values.dtype.kind not in "iu" or values.ndim != 1:
        raise InputError(
            f"{where}: labels are (n,) integers, class indices from 0 on, got {values.dtype} of"
            f" shape {values.shape}; convert them"
        )
    if len(values) != count:
        raise InputError(
            f"{where}: {len(values)} labels for {count} images; each image must have one"
        )
    top = np.inf if num_classes is None else num_classes - 1
    bad = np.flatnonzero((values < 0) | (values > top))
    if len(bad):
        allowed = "0 or more" if num_classes is None else f"0 to {num_classes - 1}"
        rows = ", ".join(f"{values[i]} in row {i}" for i in bad[:5])
        raise InputError(
            f"{where}: {len(bad)} labels are out of range ({allowed}): {rows}; correct them, or the"
            " list of classes"
        )
    return values.astype(np.int64)


def stratified_order(labels: np.ndarray, seed: int, *, offset: float = 0.0) -> np.ndarray:
    """A seeded order of the samples in which every prefix has the classes in their proportions.

    The r-th sample of a class of n (in a seeded order) comes at (r + offset) / n. With offset 0 the
    first samples hold one of each class; with 0.5 a class of one sample is left out of every
    beginning below a half.
    """
    mixed = np.random.default_rng(seed).permutation(len(labels))
    by_class = np.argsort(labels[mixed], kind="stable")
    counts = np.bincount(labels)
    rank = np.empty(len(labels))
    rank[by_class] = np.arange(len(labels)) - np.repeat(np.cumsum(counts) - counts, counts)
    return mixed[np.argsort((rank + offset) / counts[labels[mixed]], kind="stable")]


def cut(
    source: ImageSource, share: float, seed: int, root: Path = Path()
) -> tuple[ImageSource, ImageSource]:
    """Cut off a seeded `share` of the images.

    An image is cut off by a hash of the seed and of its name below the root, or of its pixels where
    it has no file, so that images of a growing set keep their splits. One image of each class is
    left, and at least one is cut off.

    Args:
        source: two images or more.
        share: from 0 to 1.
        seed: of the hash.
        root: of the data set.

    Returns:
        The rest and the share, both in the order of the source.
    """
    hashes = np.array([share_of(unit, seed, "cut") for unit in source.units(root)])
    off = hashes < share
    for label in np.unique(source.labels):
        mine = np.flatnonzero(source.labels == label)
        if off[mine].all():
            off[mine[hashes[mine].argmax()]] = False
    if not off.any():
        counts = np.bincount(source.labels)
        spare = counts[source.labels] > 1  # of a class that is left with one
        off[np.where(spare | ~spare.any(), hashes, 2.0).argmin()] = True
    return source.subset(np.flatnonzero(~off)), source.subset(np.flatnonzero(off))


def cut_exactly(source: ImageSource, share: float, seed: int) -> tuple[ImageSource, ImageSource]:
    """Cut off a seeded, stratified `share` of a set that never changes.

    Returns:
        The rest and the share, both in the order of the source.
    """
    count = min(max(1, round(share * len(source))), len(source) - 1)
    order = stratified_order(source.labels, seed, offset=0.5)
    return source.subset(np.sort(order[count:])), source.subset(np.sort(order[:count]))
