"""Probe each file of a data set once, in threads, with a cache of earlier runs."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from kanseg.data.checks.cache import Cache
from kanseg.data.io.images import MAX_PIXELS
from kanseg.data.io.probe import ImageFacts, MaskFacts, fault_of, probe_image, probe_mask
from kanseg.data.label_spec import IGNORE_INDEX, LabelSpec
from kanseg.data.labels import read_label
from kanseg.data.sample import Sample
from kanseg.data.splits.record import file_digest
from kanseg.utils.errors import InputError
from kanseg.utils.iteration import progress_bar

Facts = TypeVar("Facts", ImageFacts, MaskFacts, "LabelFacts", "DigestFacts")
CHUNK = 512  # files that are queued at once
MAX_THREADS = 8


@dataclass
class LabelFacts:
    """Facts about the class indices of a sample (`read_label`).

    Args:
        fault: `fault_of` a label that cannot be used; the other facts are then empty.
        size: [H, W].
        counts: pixels of each class; in a multilabel task a pixel may count for several.
        ignored: pixels that are ignored (multilabel: pixels times classes).
    """

    fault: list[Any] | None = None
    size: list[int] = field(default_factory=list)
    counts: list[int] = field(default_factory=list)
    ignored: int = 0


@dataclass
class DigestFacts:
    """The digest of the bytes of a file."""

    digest: str = ""


class Prober:
    """Facts about the files of a data set, each determined once.

    Args:
        root: of the data set.
        max_pixels: larger images are a fault.
        cache: of earlier runs; None for none.
        progress: whether to show a progress bar, on a terminal.
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
        self._show_bar = progress
        self._known: dict[str, object] = {}

    def probe_samples(self, samples: Sequence[Sample]) -> None:
        """Probe the images and masks of samples in threads; the facts about them are then known."""
        jobs = [partial(self.image, sample.image) for sample in samples]
        for sample in samples:
            jobs += [partial(self.mask, path) for path in mask_files(sample)]
        self._run_in_threads(jobs, "check files")

    def probe_labels(self, samples: Sequence[Sample], spec: LabelSpec) -> None:
        """Probe labels in threads; the facts about them are then known."""
        self._run_in_threads([partial(self.label, each, spec) for each in samples], "check labels")

    def probe_masks(self, paths: Sequence[Path]) -> list[MaskFacts]:
        """Probe mask files in threads and return the facts about them."""
        self._run_in_threads([partial(self.mask, path) for path in paths], "check files")
        return [self.mask(path) for path in paths]

    def image(self, path: Path) -> ImageFacts:
        """Return the facts about an image file."""
        probe = partial(probe_image, path, self.max_pixels)
        return self._facts(f"image {self.name(path)}", [path], ImageFacts, probe)

    def mask(self, path: Path) -> MaskFacts:
        """Return the facts about a mask file."""
        probe = partial(probe_mask, path, self.max_pixels)
        return self._facts(f"mask {self.name(path)}", [path], MaskFacts, probe)

    def digest(self, path: Path) -> str:
        """Return the digest of the bytes of a file; see `file_digest`."""

        def probe() -> DigestFacts:
            return DigestFacts(file_digest(path))

        return self._facts(f"bytes {self.name(path)}", [path], DigestFacts, probe).digest

    def label(self, sample: Sample, spec: LabelSpec) -> LabelFacts:
        """Return the facts about the label of a sample, as `read_label` reads it."""
        digest = hashlib.sha256(repr(spec).encode()).hexdigest()[:16]
        key = f"label {digest} {self.name(sample.image)}"
        return self._facts(key, sample.files, LabelFacts, partial(_probe_label, sample, spec))

    def name(self, path: Path) -> str:
        """Return a path relative to the root, with forward slashes."""
        if path.is_relative_to(self.root):
            return path.relative_to(self.root).as_posix()
        return str(path)

    def _facts(
        self, key: str, files: Sequence[Path], kind: type[Facts], probe: Callable[[], Facts]
    ) -> Facts:
        """Return facts that are known, cached, or else the result of `probe`."""
        if key in self._known:
            return self._known[key]
        stamp = [self.max_pixels, *(_stamp(path) for path in files)]
        stored = None
        if self.cache is not None:
            stored = self.cache.get(key, stamp)
        if stored is not None and stored.keys() == kind.__dataclass_fields__.keys():
            self.from_cache += 1
            facts = kind(**stored)
        else:
            facts = probe()
            self.decoded += 1
            if self.cache is not None:
                self.cache.put(key, stamp, asdict(facts))
        self._known[key] = facts
        return facts

    def _run_in_threads(self, jobs: Sequence[Callable[[], object]], title: str) -> None:
        bar = progress_bar(title=title, total=len(jobs), unit="file", show=self._show_bar)
        # decoding releases the GIL
        with ThreadPoolExecutor(min(MAX_THREADS, os.cpu_count() or 1)) as pool, bar:
            for start in range(0, len(jobs), CHUNK):
                for future in [pool.submit(job) for job in jobs[start : start + CHUNK]]:
                    future.result()
                    bar.update()


def mask_files(sample: Sample) -> Iterator[Path]:
    """Yield the mask files of a sample: none, one, or one per class."""
    masks = sample.mask
    if not isinstance(masks, tuple):
        masks = (masks,)
    for mask in masks:
        if isinstance(mask, Path):
            yield mask


def _stamp(path: Path) -> list[int]:
    """Return [size, time of the last change in nanoseconds] of a file."""
    try:
        status = path.stat()
    except OSError:
        return [-1, 0]
    return [status.st_size, status.st_mtime_ns]


def _probe_label(sample: Sample, spec: LabelSpec) -> LabelFacts:
    try:
        label = read_label(sample, spec)
    except InputError as error:
        return LabelFacts(fault=fault_of(error))
    size = list(label.shape[-2:])
    if label.ndim == 3:
        present = [int((plane == 1).sum()) for plane in label]
        return LabelFacts(None, size, present, int((label == IGNORE_INDEX).sum()))
    counts = np.bincount(label.ravel(), minlength=256)
    of_classes = counts[: len(spec.classes)].tolist()
    return LabelFacts(None, size, of_classes, int(counts[IGNORE_INDEX]))
