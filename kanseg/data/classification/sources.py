"""Labeled images in arrays, in files, or as JPEG bytes in memory."""

from __future__ import annotations

import io
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
from PIL import Image

from kanseg.data.io.decode_errors import decoder_errors
from kanseg.data.io.decoded import DecodedImage, as_decoded
from kanseg.data.io.images import decode_image, image_mode
from kanseg.data.splits import share_of
from kanseg.data.splits.record import digest, file_digest, name_of, without_suffix
from kanseg.utils.errors import InputError
from kanseg.utils.language import translate

T = TypeVar("T")
CHUNK = 10_000  # images that are queued at once
SHOWN = 20  # faults that are listed; the rest is counted


class Images(ABC):
    """A sequence of images without labels; it can be pickled for the workers of a loader."""

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def read(self, row: int) -> np.ndarray:
        """Read an image, (H, W, C) uint8 or uint16.

        Raises:
            InputError: it cannot be read.
        """

    def decoded(self, row: int) -> DecodedImage:
        """Read an image with its alpha channel and its pixels without data, if it has any."""
        return as_decoded(self.read(row))

    @abstractmethod
    def name(self, row: int) -> str:
        """Return the name of an image for error messages."""

    @abstractmethod
    def size(self, row: int) -> tuple[int, int]:
        """Return (H, W), without decoding the image if that can be avoided."""

    def fault(self, row: int, *, decode: bool) -> str | None:
        """Return why an image cannot be read, or None; without `decode` only its header is read."""
        return None

    def unit(self, row: int, root: Path) -> str:
        """Return the string that a seeded split hashes: the path of a file relative to the root,
        without the suffix; for images without a file, the digest. An image keeps its split when
        others are added or removed.
        """
        return self.digest(row)

    def key(self, row: int, root: Path) -> str:
        """Return the name of an image relative to the root of the data set."""
        return self.name(row)

    @abstractmethod
    def digest(self, row: int, *, ends_only: bool = False) -> str:
        """Return the digest of the content; see `kanseg.data.splits.record.digest`.

        Args:
            row: of the image.
            ends_only: hash only the size and both ends of a file, for large sets.
        """


class _RowImages(Images):
    """Images that are the rows of an array; `where` is the name of the array."""

    where: str

    def name(self, row: int) -> str:
        return f"{self.where}[{row}]"

    def key(self, row: int, root: Path) -> str:
        """Return the name without the folder of its file: FILE.npz: x_train[3]."""
        folder = root if root.is_dir() else root.parent
        return self.name(row).removeprefix(f"{folder}/")


class ArrayImages(_RowImages):
    """Images in one array.

    Args:
        values: (n, H, W) or (n, H, W, C) uint8 or uint16.
        where: name of the array.

    Raises:
        InputError: another shape or type, or no images.
    """

    def __init__(self, values: np.ndarray, where: str):
        if values.dtype not in (np.uint8, np.uint16):
            raise InputError(
                "images are uint8 or uint16, got {kind}; convert them (values in [0, 1]:"
                " multiply by 255 and round)",
                kind=values.dtype,
                where=where,
            )
        if values.ndim not in (3, 4) or 0 in values.shape:
            raise InputError(
                "images are (n, H, W) or (n, H, W, C) and n is at least 1, got the shape {shape}",
                shape=values.shape,
                where=where,
            )
        if values.ndim == 4 and values.shape[1] in (1, 3) and values.shape[3] not in (1, 2, 3, 4):
            raise InputError(
                "channels come last, (n, H, W, C), got the shape {shape}; use transpose(0, 2,"
                " 3, 1)",
                shape=values.shape,
                where=where,
            )
        if values.ndim == 3:
            values = values[..., None]
        self.values, self.where = values, where

    def __len__(self) -> int:
        return len(self.values)

    def read(self, row: int) -> np.ndarray:
        return self.values[row]

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
            if decode:
                decode_image(self.paths[row])
            else:
                image_mode(self.paths[row])
        except InputError as error:
            return str(error)
        return None


class JpegImages(_RowImages):
    """JPEG images in one array of bytes, with a common header.

    Args:
        header: bytes at the start of every image.
        data: (bytes,) uint8, the remaining bytes of all images.
        offsets: (n + 1,) start of each image in `data`, and the end of the last.
        where: name of the array.
    """

    def __init__(self, header: np.ndarray, data: np.ndarray, offsets: np.ndarray, where: str):
        offsets = offsets.astype(np.int64)
        covers = len(offsets) >= 2 and offsets[0] == 0 and offsets[-1] == len(data)
        if not covers or (np.diff(offsets) <= 0).any():
            raise InputError(
                "the offsets must rise from 0 to the {count} bytes of the images; the file is"
                " damaged, download it again",
                count=len(data),
                where=where,
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
            raise InputError("{reason}; download the file again", reason=error) from None
        if array.ndim == 2:
            array = array[:, :, None]
        return array

    def digest(self, row: int, *, ends_only: bool = False) -> str:
        return digest(self.data[self.offsets[row] : self.offsets[row + 1]])

    def size(self, row: int) -> tuple[int, int]:
        with self._open(row) as image:
            return image.height, image.width


@dataclass(frozen=True, eq=False)
class ImageSource:
    """Labeled images: `source[i]` is (image (H, W, C) uint8 or uint16, label, name).

    Args:
        parts: where the images are.
        locations: (n, 2) index of the part, and row in it, of each image.
        labels: (n,) int64 class indices.
    """

    parts: tuple[Images, ...]
    locations: np.ndarray
    labels: np.ndarray

    @staticmethod
    def of(images: Images, labels: np.ndarray) -> ImageSource:
        """Return all images, in their order."""
        assert len(images) == len(labels)
        rows = np.arange(len(images))
        locations = np.stack([np.zeros_like(rows), rows], axis=1)
        return ImageSource((images,), locations, np.asarray(labels, dtype=np.int64))

    @staticmethod
    def joined(sources: Sequence[ImageSource]) -> ImageSource:
        """Return the images of several sources, one after the other."""
        parts: list[Images] = []
        locations, labels = [], []
        for source in sources:
            locations.append(source.locations + [len(parts), 0])
            labels.append(source.labels)
            parts += source.parts
        return ImageSource(tuple(parts), np.concatenate(locations), np.concatenate(labels))

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[np.ndarray, int, str]:
        image, label, name = self.decoded(index)
        return image.values, label, name

    def decoded(self, index: int) -> tuple[DecodedImage, int, str]:
        """Read an image with its alpha channel and pixels without data; (image, label, name)."""
        part, row = self._locate(index)
        return part.decoded(row), int(self.labels[index]), part.name(row)

    def _locate(self, index: int) -> tuple[Images, int]:
        """Return the part that holds an image, and its row there."""
        part, row = self.locations[index]
        return self.parts[part], int(row)

    def subset(self, indices: np.ndarray) -> ImageSource:
        """Return the images at the indices, in the order of the indices."""
        return ImageSource(self.parts, self.locations[indices], self.labels[indices])

    def names(self) -> list[str]:
        """Return the names of all images; no image is read."""
        return [part.name(row) for part, row in map(self._locate, range(len(self)))]

    def units(self, root: Path) -> list[str]:
        """Return the string of each image that a seeded split hashes (`Images.unit`)."""
        return self._map(lambda part, row: part.unit(row, root), np.arange(len(self)))

    def keys(self, root: Path) -> list[str]:
        """Return the name of each image relative to the root (`Images.key`)."""
        return [part.key(row, root) for part, row in map(self._locate, range(len(self)))]

    def digests(self, *, ends_only: bool = False) -> list[str]:
        """Return the digest of each image (`Images.digest`)."""
        return self._map(
            lambda part, row: part.digest(row, ends_only=ends_only), np.arange(len(self))
        )

    def sizes(self) -> set[tuple[int, int]]:
        """Return the (H, W) of all images, from their headers."""
        parts = [self.parts[number] for number in np.unique(self.locations[:, 0])]
        if all(isinstance(part, ArrayImages) for part in parts):
            return {part.size(0) for part in parts}
        return set(self._map(lambda part, row: part.size(row), np.arange(len(self))))

    @property
    def in_files(self) -> np.ndarray:
        """Indices of the images that are files of their own."""
        files = [number for number, part in enumerate(self.parts) if isinstance(part, FileImages)]
        return np.flatnonzero(np.isin(self.locations[:, 0], files))

    def faults(self, *, decode: bool) -> list[str]:
        """Return a line for each file that cannot be read."""
        found = self._map(lambda part, row: part.fault(row, decode=decode), self.in_files)
        return [fault for fault in found if fault is not None]

    def _map(self, function: Callable[[Images, int], T], indices: np.ndarray) -> list[T]:
        """Call a function with the part and the row of each image, in threads.

        Decoding releases the GIL. A set can hold millions of images, so they are queued in chunks.
        """
        results: list[T] = []
        with ThreadPoolExecutor() as pool:
            for start in range(0, len(indices), CHUNK):
                chunk = self.locations[indices[start : start + CHUNK]]
                parts = [self.parts[part] for part in chunk[:, 0]]
                results += pool.map(function, parts, chunk[:, 1].tolist())
        return results


def checked_labels(
    values: np.ndarray, count: int, where: str, *, num_classes: int | None = None
) -> np.ndarray:
    """Check the labels of `count` images and return them as (n,) int64 class indices.

    Raises:
        InputError: values that are not integers, one label too many or too few, or indices without
            a class.
    """
    if values.ndim == 2 and values.shape[1] == 1:
        values = values[:, 0]
    if values.dtype.kind not in "iu" or values.ndim != 1:
        raise InputError(
            "labels must be (n,) integers, class indices from 0, got {kind} of shape {shape};"
            " convert them",
            kind=values.dtype,
            shape=values.shape,
            where=where,
        )
    if len(values) != count:
        raise InputError(
            "{count} labels for {images} images; each image must have one",
            count=len(values),
            images=count,
            where=where,
        )
    largest, allowed = np.inf, "0 or more"
    if num_classes is not None:
        largest, allowed = (
            num_classes - 1,
            translate("{low} to {high}", low=0, high=num_classes - 1),
        )
    bad = np.flatnonzero((values < 0) | (values > largest))
    if len(bad):
        rows = ", ".join(f"{values[i]} in row {i}" for i in bad[:5])
        raise InputError(
            "{count} labels are out of range ({allowed}): {rows}; correct them, or the list of"
            " classes",
            count=len(bad),
            allowed=allowed,
            rows=rows,
            where=where,
        )
    return values.astype(np.int64)


def stratified_order(labels: np.ndarray, seed: int, *, offset: float = 0.0) -> np.ndarray:
    """Return a seeded order of the samples in which every prefix has the classes in their
    proportions.

    Sample r of a class of n samples (in a seeded order) is sorted by (r + offset) / n. With offset
    0 the first samples hold one of each class; with 0.5 a class of one sample is in no prefix of
    less than half of all samples.
    """
    mixed = np.random.default_rng(seed).permutation(len(labels))
    by_class = np.argsort(labels[mixed], kind="stable")
    counts = np.bincount(labels)
    rank = np.empty(len(labels))
    rank[by_class] = np.arange(len(labels)) - np.repeat(np.cumsum(counts) - counts, counts)
    return mixed[np.argsort((rank + offset) / counts[labels[mixed]], kind="stable")]


def cut(
    source: ImageSource, share: float, seed: int, root: Path = Path(), *, purpose: str = "cut"
) -> tuple[ImageSource, ImageSource]:
    """Cut off a seeded `share` of the images.

    A hash of the seed and of the name of an image, or of its pixels if it has no file, decides, so
    that images keep their split when a set grows. At least one image of each class remains, and at
    least one image is cut off.

    Args:
        source: two images or more.
        share: from 0 to 1.
        seed: of the hash.
        root: of the data set.
        purpose: a part of the hash. A second cut needs another one: the images with the smallest
            hashes are gone.

    Returns:
        The remaining images and those that are cut off, both in the order of the source.
    """
    hashes = np.array([share_of(unit, seed, purpose) for unit in source.units(root)])
    off = hashes < share
    for label in np.unique(source.labels):
        members = np.flatnonzero(source.labels == label)
        if off[members].all():
            off[members[hashes[members].argmax()]] = False
    if not off.any():
        counts = np.bincount(source.labels)
        spare = counts[source.labels] > 1  # its class keeps another image
        off[np.where(spare | ~spare.any(), hashes, 2.0).argmin()] = True
    return source.subset(np.flatnonzero(~off)), source.subset(np.flatnonzero(off))


def cut_exactly(source: ImageSource, share: float, seed: int) -> tuple[ImageSource, ImageSource]:
    """Cut off a seeded, stratified `share` of a set that never changes.

    Returns:
        The remaining images and those that are cut off, both in the order of the source.
    """
    count = min(max(1, round(share * len(source))), len(source) - 1)
    order = stratified_order(source.labels, seed, offset=0.5)
    return source.subset(np.sort(order[count:])), source.subset(np.sort(order[:count]))
