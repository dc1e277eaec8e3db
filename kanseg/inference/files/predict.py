"""Predict files of images and videos and write files of masks.

Files that fail are reported and skipped.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import cv2

from kanseg.data.io.annotation_files import Coco
from kanseg.data.io.images import MAX_PIXELS
from kanseg.data.io.outlines import regions
from kanseg.inference.files.inputs import (
    Job,
    name_jobs,
    refuse_clashes,
    refuse_masks_among_images,
    refuse_to_overwrite,
)
from kanseg.inference.files.large import LARGE, predict_large
from kanseg.inference.files.outputs import OVERLAYS, Outputs, OutputWriter
from kanseg.inference.files.polygons import ImageRegions
from kanseg.inference.files.record import begin_record, replace_record
from kanseg.inference.files.video import predict_video, video_is_complete
from kanseg.inference.segmenter import Prediction, Segmenter
from kanseg.inference.sources import ArrayImage, WindowedImage, open_image
from kanseg.utils.errors import InputError
from kanseg.utils.io import atomic_write_text
from kanseg.utils.prefetch import prefetch
from kanseg.utils.text import one_line

GROUP_PIXELS = 2**22  # of images that are predicted together
ANNOTATIONS = "annotations.json"
# No memory or disk left, or a file that a library cannot handle: the next file may succeed.
FILE_ERRORS = (RuntimeError, MemoryError, OSError, ValueError, cv2.error)


@dataclass
class PredictSummary:
    """What `predict_files` did.

    Args:
        written: masks (or folders of masks) that were written.
        skipped: those that existed already.
        failed: a line for each file that failed.
    """

    written: list[Path] = field(default_factory=list)
    skipped: list[Path] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)


def predict_files(
    predictor: Segmenter,
    files: Sequence[Path | Job],
    output: Path,
    *,
    outputs: Outputs | None = None,
    skip_existing: bool = False,
    max_pixels: int = MAX_PIXELS,
    large: int = LARGE,
    log: Callable[[str], None] = print,
) -> PredictSummary:
    """Write `output/NAME.png` (class indices with a palette) for every image, and the files that
    `outputs` requests.

    The masks of a multilabel task are `output/CLASS/NAME.png` of 0 and 255; a video has a folder
    `output/NAME/` of masks and an overlay video. Each file is written atomically. Files that fail
    are reported and skipped. Images are read and masks are written in threads while the network
    runs.

    Args:
        predictor: a `Predictor` or an `Ensemble`.
        files: images and videos, or jobs of `find_jobs`, which may have subfolders.
        output: folder.
        outputs: files to write beside the masks; by default overlays.
        skip_existing: skip files whose outputs all exist. The folder's prediction.json, which is
            written for predictors that were loaded from checkpoints, must name the same ones.
        max_pixels: larger images are refused as decompression bombs.
        large: for images of more pixels, the mask is a tiled TIFF, `NAME.tif`, and TIFF images are
            read in windows.
        log: called with a line for each failure.

    Raises:
        InputError: two masks would have the same name, an input would be overwritten, or existing
            masks of other checkpoints or options would be kept.
    """
    jobs = [file for file in files if isinstance(file, Job)]
    jobs += name_jobs([file for file in files if not isinstance(file, Job)])
    writer = OutputWriter(output, predictor, outputs or Outputs())
    _check_targets(jobs, writer)
    output.mkdir(parents=True, exist_ok=True)
    provenance = predictor.provenance()
    begin_record(output, provenance, skip_existing=skip_existing, log=log)
    results = _Results(log)
    if skip_existing:
        _collect_existing(jobs, writer, results)
    todo = [job for job in jobs if job not in results]

    images = _open_in_groups(
        [job for job in todo if not job.is_video],
        batch_size=predictor.batch_size,
        max_pixels=max_pixels,
        large=large,
    )
    with ThreadPoolExecutor(max_workers=1) as pool:
        writes: list[tuple[Job, Future[ImageRegions]]] = []
        for group in prefetch(images):
            first = group[0]
            if first.error is not None:
                results.fail(first.job, first.error)
            elif math.prod(first.image.shape) > large:
                with results.catch_errors(first.job):
                    found = predict_large(predictor, first.image, first.job, writer)
                    results.add(first.job, [found])
            else:
                predictions = _predict_group(predictor, group, writer.outputs)
                _finish_writes(writes, results)  # so that one group at most waits to be written
                for opened, prediction in zip(group, predictions, strict=True):
                    if isinstance(prediction, Exception):
                        results.fail(opened.job, prediction)
                    else:
                        task = pool.submit(_write_image, writer, opened, prediction)
                        writes.append((opened.job, task))
        _finish_writes(writes, results)

    for job in todo:
        if job.is_video:
            with results.catch_errors(job):
                found = predict_video(predictor, job, writer.outputs, output, max_pixels=max_pixels)
                results.add(job, found)

    if writer.outputs.polygons == "coco":
        _write_annotations(output / ANNOTATIONS, jobs, results, predictor)
    summary = results.summary(jobs, writer)
    if not skip_existing and not summary.failed:
        replace_record(output, provenance)
    return summary


@dataclass(frozen=True)
class _OpenedImage:
    """An image that was opened, or the error that opening it raised."""

    job: Job
    image: WindowedImage | None = None
    error: Exception | None = None


class _Results:
    """Regions, or the error, of every file that is done.

    Args:
        log: takes a line for each failure.
    """

    def __init__(self, log: Callable[[str], None]):
        self.regions: dict[Job, list[ImageRegions]] = {}
        self._failed: dict[Job, str] = {}
        self._skipped: set[Job] = set()
        self._log = log

    def __contains__(self, job: Job) -> bool:
        return job in self.regions or job in self._failed

    def add(self, job: Job, found: list[ImageRegions], *, skipped: bool = False) -> None:
        """Add a file that was written, or skipped, with the regions of its images."""
        self.regions[job] = found
        if skipped:
            self._skipped.add(job)

    def fail(self, job: Job, error: Exception) -> None:
        """Report a file that failed."""
        self._failed[job] = error_line(job.path, error)
        self._log(f"failed: {self._failed[job]}")

    @contextmanager
    def catch_errors(self, job: Job) -> Iterator[None]:
        """Report the file as failed where the block raises one of `FILE_ERRORS`."""
        try:
            yield
        except FILE_ERRORS as error:
            self.fail(job, error)

    def summary(self, jobs: Sequence[Job], writer: OutputWriter) -> PredictSummary:
        """Summarize in the order of the jobs."""
        summary = PredictSummary()
        for job in jobs:
            if job in self._failed:
                summary.failed.append(self._failed[job])
            elif job in self._skipped:
                summary.skipped.append(_result_path(job, writer))
            else:
                summary.written.append(_result_path(job, writer))
        return summary


def _open_in_groups(
    jobs: Sequence[Job], *, batch_size: int, max_pixels: int, large: int
) -> Iterator[list[_OpenedImage]]:
    """Open images one after the other; small ones of one size come together, to share a batch."""
    group: list[_OpenedImage] = []
    for job in jobs:
        try:
            opened = _OpenedImage(job, open_image(job.path, max_pixels=max_pixels, large=large))
        except FILE_ERRORS as error:
            opened = _OpenedImage(job, error=error)
        if group and not _can_join(opened, group, batch_size=batch_size, large=large):
            yield group
            group = []
        group.append(opened)
    if group:
        yield group


def _can_join(
    opened: _OpenedImage, group: Sequence[_OpenedImage], *, batch_size: int, large: int
) -> bool:
    """True if an image can be predicted together with a group."""
    image, first = opened.image, group[0].image
    if not isinstance(image, ArrayImage) or not isinstance(first, ArrayImage):
        return False
    pixels = math.prod(image.shape)
    return (
        len(group) < batch_size
        and image.image.shape == first.image.shape
        and pixels <= large
        and (len(group) + 1) * pixels <= GROUP_PIXELS
    )


def _predict_group(
    predictor: Segmenter, group: Sequence[_OpenedImage], outputs: Outputs
) -> list[Prediction | Exception]:
    """Predict images of one size together; one by one if there is not enough memory for all."""
    images = [opened.image for opened in group]
    try:
        predictions = predictor.predict(
            images,
            probabilities=outputs.probabilities is not None,
            uncertainty=outputs.uncertainty,
        )
        return [predictions[index] for index in range(len(group))]
    except FILE_ERRORS as error:
        if len(group) == 1:
            return [error]
    results = []
    for opened in group:
        results += _predict_group(predictor, [opened], outputs)
    return results


def _write_image(
    writer: OutputWriter, opened: _OpenedImage, prediction: Prediction
) -> ImageRegions:
    job, image = opened.job, opened.image
    values = image.read(0, 0, *image.shape)
    found = writer.write(job.name, values, prediction, job.path)
    return ImageRegions(job.file_name, image.shape, found)


def _finish_writes(writes: list[tuple[Job, Future[ImageRegions]]], results: _Results) -> None:
    """Wait for files that a thread writes, and empty the list."""
    for job, task in writes:
        with results.catch_errors(job):
            results.add(job, [task.result()])
    writes.clear()


def _write_annotations(
    path: Path, jobs: Sequence[Job], results: _Results, predictor: Segmenter
) -> None:
    """Write the COCO annotations of all images, in the order of the jobs."""
    coco = Coco(predictor.classes, predictor.task)
    for job in jobs:
        for image in results.regions.get(job, ()):
            coco.add(image.file_name, image.shape, image.regions)
    atomic_write_text(path, json.dumps(coco.content()))


def _collect_existing(jobs: Sequence[Job], writer: OutputWriter, results: _Results) -> None:
    """Add the files for which everything exists, with the regions of their masks where COCO's
    annotations, which hold all images, need them.
    """
    for job in jobs:
        if job.is_video:
            complete = video_is_complete(writer, job.name)
        else:
            complete = writer.existing_suffix(job.name) is not None
        if complete:
            with results.catch_errors(job):
                found = []
                if writer.outputs.polygons == "coco":
                    found = _regions_of_masks(job, writer)
                results.add(job, found, skipped=True)


def _regions_of_masks(job: Job, writer: OutputWriter) -> list[ImageRegions]:
    """Outline the masks that exist of an image, or of the frames of a video."""
    if not job.is_video:
        label = writer.read_label(job.name, writer.existing_suffix(job.name))
        found = list(regions(label, writer.task))
        return [ImageRegions(job.file_name, label.shape[-2:], found)]
    results = []
    for path in sorted(_result_path(job, writer).glob("frame_*.png")):
        frame = f"{job.name}/{path.stem}"
        label = writer.read_label(frame, ".png")
        found = list(regions(label, writer.task))
        results.append(ImageRegions(f"{frame}.png", label.shape[-2:], found))
    return results


def _check_targets(jobs: Sequence[Job], writer: OutputWriter) -> None:
    """Raise InputError if two jobs would write one file, one would overwrite an input, or masks
    would lie among the images.
    """
    targets = {}
    for job in jobs:
        if job.is_video:
            targets[job] = {writer.root / OVERLAYS / f"{job.name}.mp4"}
        else:
            targets[job] = {*writer.paths(job.name, ".png"), *writer.paths(job.name, ".tif")}
    refuse_to_overwrite(jobs, [writer.root / ANNOTATIONS, *set().union(*targets.values())])
    refuse_clashes(targets)
    folders = {writer.mask_paths(job.name)[0].parent for job in jobs}
    refuse_masks_among_images(jobs, folders)


def error_line(path: Path, error: Exception) -> str:
    """Say on one line, which names the file, what went wrong."""
    if not isinstance(error, InputError):
        return f"{path}: {type(error).__name__}: {one_line(error)}"
    text = one_line(error, None)
    if str(path) in text:
        return text
    return f"{path}: {text}"


def _result_path(job: Job, writer: OutputWriter) -> Path:
    """The mask of an image, or the folder of masks of a video."""
    if job.is_video:
        return writer.mask_paths(job.name)[0].with_suffix("")
    suffix = writer.existing_suffix(job.name) or ".png"
    return writer.mask_paths(job.name, suffix)[0]
