"""Classify files of images: a table of all, and thumbnails sorted by class.

Files that fail are reported and skipped.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from kanseg.data.io.decode_errors import require_regular_file
from kanseg.data.io.images import MAX_PIXELS, decode_image
from kanseg.data.overlay import viewable
from kanseg.data.preprocess import resize_image
from kanseg.inference.classifier import Classifier
from kanseg.inference.files.class_table import probability_cells, probability_columns
from kanseg.inference.files.inputs import Job, name_jobs
from kanseg.inference.files.outputs import class_folders
from kanseg.inference.files.record import (
    FileResult,
    Record,
    journal_path,
    journals_in,
    part_name,
    read_journal,
)
from kanseg.inference.files.results import FILE_ERRORS, error_line
from kanseg.utils.errors import InputError
from kanseg.utils.io import atomic_write, atomic_write_text
from kanseg.utils.iteration import prefetch, progress_bar
from kanseg.utils.tables import csv_table
from kanseg.utils.text import printable

PREDICTIONS = "predictions.csv"
THUMBNAILS = "thumbnails"
THUMBNAIL = 160  # pixels of the longer side
READERS = 4  # threads


@dataclass
class ClassifySummary:
    """What `classify_files` did with the images of its part.

    Args:
        written: paths of the images that were predicted.
        skipped: of those that had been predicted before.
        failed: a line for each image that failed.
    """

    written: list[Path] = field(default_factory=list)
    skipped: list[Path] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)


def classify_files(
    classifier: Classifier,
    files: Sequence[Path | Job],
    output: Path,
    *,
    thumbnails: bool = True,
    skip_existing: bool = False,
    part: tuple[int, int] = (1, 1),
    max_pixels: int = MAX_PIXELS,
    log: Callable[[str], None] = print,
    progress: bool = False,
) -> ClassifySummary:
    """Write `output/predictions.csv`, a table with a row for every image, and
    `output/thumbnails/CLASS/NAME.jpg`.

    The columns are file, class, probability, and CLASS/probability of all classes; of more than 20
    classes, class_1, probability_1, ... of the five most likely. The table is written atomically
    when all parts are done, by the part that ends last. Files that fail are reported and have no
    row. `output/prediction.jsonl` gets a line for each file as soon as it is done.

    Args:
        classifier: loaded from checkpoints.
        files: images, or jobs of `find_jobs`.
        output: folder.
        thumbnails: whether to write thumbnails.
        skip_existing: keep what a killed or an earlier run with the same checkpoints and options
            has predicted.
        part: (k, n): of the files every n-th, from the k-th on (1 to n); n processes with a part
            each share the work.
        max_pixels: larger images are refused as decompression bombs.
        log: called with a line for each failure.
        progress: whether a terminal shows a bar with images per second and the time left.

    Raises:
        InputError: an input would be overwritten, existing predictions of other checkpoints or
            options would be kept, or a part that does not exist.
    """
    jobs = name_jobs(files)
    number, count = part
    if not 1 <= number <= count:
        raise InputError(
            "part {number}/{count}: the first number must be from 1 to {count}",
            number=number,
            count=count,
        )
    _refuse_thumbnails(jobs, output / THUMBNAILS)
    output.mkdir(parents=True, exist_ok=True)
    provenance = classifier.provenance()
    made_by = hashlib.sha256(json.dumps([provenance, thumbnails]).encode()).hexdigest()[:16]
    record = Record(output, provenance, part=part_name(part))
    record.begin(keep=skip_existing, log=log)

    (output / PREDICTIONS).unlink(missing_ok=True)
    if not skip_existing:
        _clear_journals(output, made_by, part)
    kept = {file for file, result in _results(output, made_by).items() if "error" not in result}
    mine = jobs[number - 1 :: count]
    known = [job for job in mine if str(job.path) in kept]
    todo = [job for job in mine if str(job.path) not in kept]
    names = thumbnail_names(jobs) if thumbnails else {}
    recorder = _Recorder(classifier, record, made_by, names, log)
    recorder.summary.skipped += [job.path for job in known]
    bar = progress_bar(total=len(todo), unit="image", show=progress, leave=True)
    with closing(record), bar, ThreadPoolExecutor(READERS) as pool:
        chunks = _read_in_chunks(classifier, todo, pool, max_pixels, thumbnails=thumbnails)
        for chunk in prefetch(chunks):
            recorder.add(_predict(classifier, chunk), pool)
            bar.update(len(chunk))
    if recorder.other_sizes:
        log(
            f"warning: {recorder.other_sizes} images have another size than those of the training,"
            " and the network was not trained to resize them: their classes may be wrong; train"
            " with data.resize"
        )
    _write_table(output, [str(job.path) for job in jobs], classifier.classes, made_by)
    if not skip_existing and not recorder.summary.failed and count == 1:
        record.replace()
    return recorder.summary


@dataclass(frozen=True)
class _ReadImage:
    """An image that was read and perhaps predicted, or the error that it raised."""

    job: Job
    inputs: tuple[Tensor, ...] = ()
    thumbnail: np.ndarray | None = None
    other_size: bool = False
    probabilities: Tensor | None = None
    size: tuple[int, int] | None = None
    error: Exception | None = None


class _Recorder:
    """Writes thumbnails and the journal of images that are done.

    Args:
        classifier: gives the classes.
        record: of the output folder.
        made_by: digest of the networks and options.
        names: of the thumbnails; empty for none.
        log: called with a line for each failure.
    """

    def __init__(
        self,
        classifier: Classifier,
        record: Record,
        made_by: str,
        names: Mapping[Job, str],
        log: Callable[[str], None],
    ):
        self.classifier, self.record, self.made_by = classifier, record, made_by
        self.names, self.log = names, log
        self.folders = class_folders(classifier.classes)
        self.summary = ClassifySummary()
        self.other_sizes = 0  # images of another size than those of the training

    def add(self, images: Sequence[_ReadImage], pool: ThreadPoolExecutor) -> None:
        """Write images that are predicted, or report their errors."""
        drawn = []
        for image in images:
            if image.error is not None:
                self._fail(image.job, image.error)
                continue
            best = int(image.probabilities.argmax())
            target = None
            if self.names:
                target = f"{THUMBNAILS}/{self.folders[best]}/{self.names[image.job]}"
                drawn.append((image.job, self.record.folder / target, image.thumbnail))
            # Before the thumbnail is written, so that a later run can remove it.
            self.record.add(
                FileResult(
                    str(image.job.path),
                    target,
                    image.size,
                    cells=_cells(self.classifier, image, best),
                    made_by=self.made_by,
                )
            )
            self.summary.written.append(image.job.path)
            self.other_sizes += image.other_size
        for (job, *_), error in zip(drawn, pool.map(_write_thumbnail, drawn), strict=True):
            if error is not None:
                self._fail(job, error)

    def _fail(self, job: Job, error: Exception) -> None:
        line = error_line(job.path, error)
        self.record.add(FileResult(str(job.path), error=line, made_by=self.made_by))
        self.summary.failed.append(line)
        with tqdm.external_write_mode():
            self.log(f"failed: {line}")


def _refuse_thumbnails(jobs: Sequence[Job], folder: Path) -> None:
    """Raise InputError if an input lies in the folder for the thumbnails."""
    root = Path(os.path.realpath(folder))
    for job in jobs:
        if Path(os.path.realpath(job.path)).is_relative_to(root):
            raise InputError(
                "{path} lies in the folder for the thumbnails and could be overwritten; choose"
                " another --output",
                path=job.path,
            )


def _clear_journals(output: Path, made_by: str, part: tuple[int, int]) -> None:
    """Remove the journals of earlier runs with their thumbnails; the journals of other parts of
    this run stay.
    """
    own = journal_path(output, part_name(part))
    for path in journals_in(output):
        lines = list(read_journal(path))
        same_parts = part[1] > 1 and path.name.endswith(f"-of-{part[1]}.jsonl")
        if path != own and same_parts and all(line.get("made_by") == made_by for line in lines):
            continue
        for line in lines:
            if "made_by" in line and "output" in line:
                _remove_thumbnail(output, str(line["output"]))
        path.unlink(missing_ok=True)


def _results(output: Path, made_by: str) -> dict[str, dict[str, Any]]:
    """Return the last line of each file in all journals, by its path, of those that these networks
    and options made and whose thumbnail exists.
    """
    found: dict[str, dict[str, Any]] = {}
    for path in journals_in(output):
        for line in read_journal(path):
            if line.get("made_by") != made_by:
                continue
            if "output" in line and not (output / str(line["output"])).is_file():
                continue
            file, time = str(line.get("input")), str(line.get("time"))
            if file not in found or time >= str(found[file].get("time")):
                found[file] = line
    return found


def _remove_thumbnail(output: Path, name: str) -> None:
    """Remove a thumbnail and its folder, if it is the last one there."""
    path = output / name
    if path.parent.parent != output / THUMBNAILS or ".." in path.parts:
        return  # a journal that was changed
    path.unlink(missing_ok=True)
    if path.parent.is_dir() and not any(path.parent.iterdir()):
        path.parent.rmdir()


def _read_in_chunks(
    classifier: Classifier,
    jobs: Sequence[Job],
    pool: ThreadPoolExecutor,
    max_pixels: int,
    *,
    thumbnails: bool,
) -> Iterator[list[_ReadImage]]:
    """Read and preprocess images, a batch at a time, in threads; at most 8 that keep their size,
    which may be large.
    """
    read = partial(_read, classifier, max_pixels=max_pixels, thumbnails=thumbnails)
    size = classifier.batch_size
    if any(network.preprocess.resize is None for network in classifier.networks):
        size = min(size, 8)
    for start in range(0, len(jobs), size):
        yield list(pool.map(read, jobs[start : start + size]))


def _read(classifier: Classifier, job: Job, *, max_pixels: int, thumbnails: bool) -> _ReadImage:
    try:
        if job.is_video:
            raise InputError(
                "is a video, and a classifier takes images; save its frames as images",
                where=job.path,
            )
        require_regular_file(job.path)
        image = decode_image(job.path, max_pixels=max_pixels)
        inputs = classifier.prepare(image, name=str(job.path))
        small = _thumbnail(image.values) if thumbnails else None
    except FILE_ERRORS as error:
        return _ReadImage(job, error=error)
    other_size = classifier.takes_other_size(inputs)
    return _ReadImage(job, inputs, small, other_size, size=image.values.shape[:2])


def _predict(classifier: Classifier, chunk: Sequence[_ReadImage]) -> list[_ReadImage]:
    """Predict a chunk; one by one if that fails."""
    readable = [image for image in chunk if image.error is None]
    found: dict[Job, _ReadImage] = {}
    try:
        rows = _probabilities(classifier, readable)
        for image, row in zip(readable, rows, strict=True):
            found[image.job] = replace(image, probabilities=row)
    except FILE_ERRORS:
        for image in readable:
            try:
                row = _probabilities(classifier, [image])[0]
                found[image.job] = replace(image, probabilities=row)
            except FILE_ERRORS as error:
                found[image.job] = replace(image, error=error)
    return [found.get(image.job, image) for image in chunk]


def _probabilities(classifier: Classifier, images: Sequence[_ReadImage]) -> Tensor:
    names = [str(image.job.path) for image in images]
    return classifier.predict([image.inputs for image in images], names)


def _cells(classifier: Classifier, image: _ReadImage, best: int) -> list[str]:
    """Return the cells of an image after its path: class, probability, all probabilities."""
    values = image.probabilities.tolist()
    others = probability_cells(classifier.classes, values)
    return [classifier.classes[best], f"{values[best]:.6g}", *others]


def _thumbnail(image: np.ndarray) -> np.ndarray:
    """Reduce an image (H, W, C) to (h, w, 3) uint8 of at most THUMBNAIL pixels a side."""
    factor = min(1, THUMBNAIL / max(image.shape[:2]))
    size = [max(1, round(side * factor)) for side in image.shape[:2]]
    return viewable(resize_image(image, size, "area"))


def _write_thumbnail(drawn: tuple[Job, Path, np.ndarray]) -> OSError | None:
    """Write a thumbnail; return the error if that fails."""
    _, path, image = drawn
    try:
        with atomic_write(path) as temporary:
            Image.fromarray(image).save(temporary, format="JPEG", quality=90)
    except OSError as error:
        return error
    return None


def thumbnail_names(jobs: Sequence[Job]) -> dict[Job, str]:
    """Return a file name for each thumbnail, without folders: a/b -> a_b.jpg; of equal names the
    later ones get a number.
    """
    names: dict[Job, str] = {}
    taken: set[str] = set()
    for job in jobs:
        plain = job.name.replace("/", "_")
        name, number = plain, 1
        while name.casefold() in taken:
            number += 1
            name = f"{plain}_{number}"
        taken.add(name.casefold())
        names[job] = f"{name}.jpg"
    return names


def _write_table(output: Path, files: Sequence[str], classes: Sequence[str], made_by: str) -> None:
    """Write the table if all files are done, by this and all other parts."""
    results = _results(output, made_by)
    lines = []
    for file in files:
        if file not in results:
            return
        if "cells" in results[file]:
            lines.append([printable(file, line=True), *results[file]["cells"]])
    columns = ["file", "class", "probability", *probability_columns(classes)]
    atomic_write_text(output / PREDICTIONS, csv_table(columns, lines))
