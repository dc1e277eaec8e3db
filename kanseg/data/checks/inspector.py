"""Files looked at in threads, each once, through the cache."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from tqdm import tqdm

from kanseg.data.checks.cache import Cache
from kanseg.data.checks.files import ImageFacts, Mask, look_at_image, look_at_mask
from kanseg.data.io.images import MAX_PIXELS
from kanseg.data.label_spec import IGNORE_INDEX, LabelSpec
from kanseg.data.labels import read_label
from kanseg.data.sample import Sample
from kanseg.data.split_record import file_digest
from kanseg.utils.errors import InputError

F = TypeVar("F", ImageFacts, Mask, "Label", "Bytes")
TOGETHER = 512  # jobs handed to the threads at once


@dataclass
class Label:
    """The label map of a sample.

    Args:
        fault: [code, reason] of a label that cannot be used; then the rest is empty.
        size: (H, W).
        counts: pixels of each class; of a multilabel task a pixel may count for several.
        ignored: pixels that are ignored (multilabel: pixels times classes).
    """

    fault: list[str] | None = None
    size: list[int] = field(default_factory=list)
    counts: list[int] = field(default_factory=list)
    ignored: int = 0


@dataclass
class Bytes:
    """The bytes of a file.

    Args:
        digest: of all of them.
    """

    digest: str = ""


class Inspector:
    """Facts about files, each looked at once.

    Args:
        root: of the data set.
        max_pixels: larger images are a fault.
        cache: of earlier runs; None for none.
        progress: whether to show a bar (on a terminal only).
    """

    def __init__(
        self,
        root: Path,
        *,
        max_pixels: int = MAX_PIXELS,
        cache: Cache | None = None,
        progress: bool = True,
    ):
        self.root, self.max_pixels, self.cache = root, max_pixels, cache
        self.decoded = self.from_cache = 0
        self._bar = None if progress else True
        self._known: dict[str, Any] = {}

    def look(self, images: Iterable[Path], masks: Iterable[Path]) -> None:
        """Look at files in threads; afterwards `image` and `mask` answer at once."""
        self._all(
            [(self.image, path) for path in images] + [(self.mask, path) for path in masks],
            "check files",
        )

    def look_at_labels(self, samples: Sequence[Sample], info: LabelSpec) -> None:
        """The same for `label`."""
        self._all(
            [(lambda sample: self.label(sample, info), sample) for sample in samples],
            "check labels",
        )

    def image(self, path: Path) -> ImageFacts:
        """What an image file is."""
        return self._facts(
            f"image {self.name(path)}",
            [path],
            ImageFacts,
            lambda: look_at_image(path, self.max_pixels),
        )

    def mask(self, path: Path) -> Mask:
        """What a mask file holds."""
        return self._facts(
            f"mask {self.name(path)}", [path], Mask, lambda: look_at_mask(path, self.max_pixels)
        )

    def digest(self, path: Path) -> str:
        """The digest of a file's bytes, as of `file_digest`."""
        return self._facts(
            f"bytes {self.name(path)}", [path], Bytes, lambda: Bytes(file_digest(path))
        ).digest

    def label(self, sample: Sample, info: LabelSpec) -> Label:
        """The label map of a sample, by `read_label`."""
        digest = hashlib.sha256(repr(info).encode()).hexdigest()[:16]
        return self._facts(
            f"label {digest} {self.name(sample.image)}",
            files_of(sample),
            Label,
            lambda: _look_at_label(sample, info),
        )

    def name(self, path: Path) -> str:
        """A path relative to the root, with forward slashes."""
        return (
            path.relative_to(self.root).as_posix() if path.is_relative_to(self.root) else str(path)
        )

    def _facts(self, key: str, files: Sequence[Path], kind: type[F], look: Callable[[], F]) -> F:
        if key not in self._known:
            self._known[key] = self._stored(key, files, kind, look)
        return self._known[key]

    def _stored(self, key: str, files: Sequence[Path], kind: type[F], look: Callable[[], F]) -> F:
        stamp = [self.max_pixels, *(_stamp(path) for path in files)]
        stored = None if self.cache is None else self.cache.get(key, stamp)
        if stored is not None and stored.keys() == kind.__dataclass_fields__.keys():
            self.from_cache += 1
            return kind(**stored)
        facts = look()
        self.decoded += 1
        if self.cache is not None:
            self.cache.put(key, stamp, asdict(facts))
        return facts

    def _all(self, jobs: list[tuple[Callable[[Any], Any], Any]], title: str) -> None:
        rest = iter(jobs)
        with (
            ThreadPoolExecutor(
                min(8, os.cpu_count() or 1)
            ) as pool,  # decoding releases the interpreter
            tqdm(total=len(jobs), desc=title, leave=False, disable=self._bar, unit="file") as bar,
        ):
            while some := list(islice(rest, TOGETHER)):
                for _ in pool.map(lambda job: job[0](job[1]), some):
                    bar.update()


def files_of(sample: Sample) -> list[Path]:
    """All files that a sample consists of, the image first."""
    if hasattr(sample, "files"):
        return list(sample.files)
    return [sample.image, *mask_files(sample)]


def mask_files(sample: Sample) -> Iterator[Path]:
    """The mask files of a sample: none, one, or one a class."""
    parts = sample.mask if isinstance(sample.mask, tuple) else (sample.mask,)
    yield from (part for part in parts if isinstance(part, Path))


def _stamp(path: Path) -> list[int]:
    """[size, time of the last change in nanoseconds]."""
    try:
        status = path.stat()
    except OSError:
        return [-1, 0]
    return [status.st_size, status.st_mtime_ns]


def _look_at_label(sample: Sample, info: LabelSpec) -> Label:
    try:
        label = read_label(sample, info)
    except InputError as error:
        return Label(fault=["label", str(error)])
    if label.ndim == 3:
        return Label(
            None,
            list(label.shape[1:]),
            [int((one == 1).sum()) for one in label],
            int((label == IGNORE_INDEX).sum()),
        )
    counts = np.bincount(label.ravel(), minlength=256)
    return Label(
        None, list(label.shape), counts[: len(info.classes)].tolist(), int(counts[IGNORE_INDEX])
    )
