"""Predict files of images and videos and write files of masks.

Files that fail are reported and skipped.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from kanseg.data.io.annotation_files import Coco
from kanseg.data.io.images import MAX_PIXELS
from kanseg.inference.files.claims import Claims, process_name
from kanseg.inference.files.inputs import Job, JobList, name_jobs
from kanseg.inference.files.large import LARGE, predict_large
from kanseg.inference.files.outputs import ANNOTATIONS, Outputs, OutputWriter
from kanseg.inference.files.polygons import ImageRegions
from kanseg.inference.files.processes import this_process
from kanseg.inference.files.record import Record, part_name
from kanseg.inference.files.results import FILE_ERRORS, PredictSummary, Results
from kanseg.inference.files.targets import check_targets
from kanseg.inference.files.video import predict_video
from kanseg.inference.segmenter import Prediction, Segmenter
from kanseg.inference.sources import ArrayImage, WindowedImage, open_image
from kanseg.utils.errors import InputError
from kanseg.utils.io import atomic_write_text
from kanseg.utils.iteration import prefetch, progress_bar

GROUP_PIXELS = 2**22  # of images that are predicted together
# Seconds of waiting for files that other processes predict: at first, and at most.
POLL, LONGEST_POLL = 0.2, 5.0
RECORD_CLAIM = "/prediction.json"  # not the name of a job


def predict_files(
    predictor: Segmenter,
    files: Sequence[Path | Job],
    output: Path,
    *,
    outputs: Outputs | None = None,
    skip_existing: bool = False,
    share: bool = False,
    part: tuple[int, int] = (1, 1),
    max_pixels: int = MAX_PIXELS,
    large: int = LARGE,
    log: Callable[[str], None] = print,
    progress: bool = False,
) -> PredictSummary:
    """Write `output/NAME.png` (class indices with a palette) for every image, and the files that
    `outputs` requests.

    The masks of a multilabel task are `output/CLASS/NAME.png` of 0 and 255; a video has a folder
    `output/NAME/` of masks and an overlay video. Each file is written atomically. Files that fail
    are reported and skipped. Images are read and masks are written in threads while the network
    runs. `output/prediction.jsonl` gets a line for each file as soon as it is done.

    Args:
        predictor: a `Predictor` or an `Ensemble`.
        files: images and videos, or jobs of `find_jobs`, which may have subfolders.
        output: folder.
        outputs: files to write beside the masks; by default overlays.
        skip_existing: skip files whose outputs all exist. The folder's prediction.json, which is
            written for predictors that were loaded from checkpoints, must name the same ones.
        share: other processes write into the folder, too: each file is predicted by one of them
            (`Claims`), those of a process that was killed by another, and files whose outputs exist
            are skipped. Returns when all files are done.
        part: (k, n): of the files every n-th, from the k-th on (1 to n); n processes with a part
            each share the work. Masks and names are those of a single process.
        max_pixels: larger images are refused as decompression bombs.
        large: for images of more pixels, the mask is a tiled TIFF, `NAME.tif`, and TIFF images are
            read in windows.
        log: called with a line for each failure.
        progress: whether a terminal shows a bar with images per second and the time left.

    Raises:
        InputError: two masks would have the same name, an input would be overwritten, existing
            masks of other checkpoints or options would be kept, or a part of the files is to have
            COCO annotations, which are one file of all images.
    """
    jobs = name_jobs(files)
    writer = OutputWriter(output, predictor, outputs or Outputs())
    check_targets(jobs, writer)
    jobs = _take_part(jobs, part, share, writer.outputs)
    keep = skip_existing or share
    output.mkdir(parents=True, exist_ok=True)
    name = process_name(this_process()) if share else part_name(part)
    record = Record(output, predictor.provenance(), part=name)
    bar = progress_bar(total=len(jobs), unit="image", show=progress, leave=True)
    claims = Claims(output) if share else None
    results = Results(writer, record.add, bar=bar, log=log, keep=keep, claims=claims)
    with closing(record), bar:
        try:
            _begin_record(record, claims, keep, log)
            predict_jobs(predictor, jobs, results, max_pixels=max_pixels, large=large)
            pause = POLL
            while results.busy:
                waiting = results.wait_for_others(pause)
                predict_jobs(predictor, waiting, results, max_pixels=max_pixels, large=large)
                pause = min(pause * 1.5, LONGEST_POLL)
        finally:
            members = [] if claims is None else claims.leave()
    if members:
        results.sum_up(members)
    is_last = claims is None or members
    if writer.outputs.polygons == "coco" and is_last:
        _write_annotations(output / ANNOTATIONS, jobs, results, predictor)
    if not keep and not results.summary.failed and part[1] == 1:
        record.replace()
    return results.summary


def _begin_record(
    record: Record, claims: Claims | None, keep: bool, log: Callable[[str], None]
) -> None:
    """Processes that begin together do it one after another, so that each finds what the others
    have recorded.
    """
    if claims is None:
        record.begin(keep=keep, log=log)
        return
    while claims.take(RECORD_CLAIM) is not None:
        time.sleep(POLL)
    record.begin(keep=keep, log=log)
    claims.release(RECORD_CLAIM)


def predict_jobs(
    predictor: Segmenter,
    jobs: JobList,
    results: Results,
    *,
    max_pixels: int = MAX_PIXELS,
    large: int = LARGE,
) -> None:
    """Predict the jobs that `results` accepts, first the images, then the videos."""
    writer = results.writer
    images = _open_in_groups(
        jobs, results, batch_size=predictor.batch_size, max_pixels=max_pixels, large=large
    )
    with ThreadPoolExecutor(max_workers=1) as pool:
        writes: list[Future[None]] = []
        for group in prefetch(images):
            start, first = time.perf_counter(), group[0]
            if first.error is not None:
                results.fail(first.job, first.error)
            elif math.prod(first.image.shape) > large:
                with results.catch_errors(first.job):
                    found = predict_large(predictor, first.image, first.job, writer)
                    seconds = first.seconds + time.perf_counter() - start
                    results.add(first.job, [found], seconds, suffix=".tif")
            else:
                predictions = _predict_group(predictor, group, writer.outputs)
                seconds = (time.perf_counter() - start) / len(group)
                _finish(writes)  # so that one group at most waits to be written
                for opened, prediction in zip(group, predictions, strict=True):
                    if isinstance(prediction, Exception):
                        results.fail(opened.job, prediction)
                    else:
                        so_far = opened.seconds + seconds
                        writes.append(
                            pool.submit(_write_image, results, opened, prediction, so_far)
                        )
        _finish(writes)

    for job in jobs.videos():
        if results.begin(job):
            start = time.perf_counter()
            with results.catch_errors(job):
                found = predict_video(
                    predictor,
                    job,
                    writer.outputs,
                    writer.root,
                    max_pixels=max_pixels,
                    progress=results.shows_bar,
                )
                results.add(job, found, time.perf_counter() - start)


@dataclass(frozen=True)
class _OpenedImage:
    """An image that was opened, or the error that opening it raised, and how long it took."""

    job: Job
    seconds: float
    image: WindowedImage | None = None
    error: Exception | None = None


def _take_part(jobs: JobList, part: tuple[int, int], share: bool, outputs: Outputs) -> JobList:
    """Return the jobs of part k of n; neighbors, which are often alike in size, are spread."""
    number, count = part
    if share and count > 1:
        raise InputError("a part of the files or all of them, shared: give --part or --share")
    if not 1 <= number <= count:
        raise InputError(
            "part {number}/{count}: the first number must be from 1 to {count}",
            number=number,
            count=count,
        )
    if count > 1 and outputs.polygons == "coco":
        raise InputError(
            "COCO's {annotations} holds all images, and is not written in parts; predict the"
            " parts without it, then once more all files with --skip_existing",
            annotations=ANNOTATIONS,
        )
    return jobs[number - 1 :: count]


def _open_in_groups(
    jobs: Sequence[Job], results: Results, *, batch_size: int, max_pixels: int, large: int
) -> Iterator[list[_OpenedImage]]:
    """Open the images that `results` accepts one after the other; small ones of one size come
    together, to share a batch.
    """
    group: list[_OpenedImage] = []
    for job in jobs:
        if job.is_video or not results.begin(job):
            continue
        start = time.perf_counter()
        image, error = None, None
        try:
            image = open_image(job.path, max_pixels=max_pixels, large=large)
        except FILE_ERRORS as raised:
            error = raised
        opened = _OpenedImage(job, time.perf_counter() - start, image, error)
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
            novelty=outputs.novelty,
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
    results: Results, opened: _OpenedImage, prediction: Prediction, seconds: float
) -> None:
    """Write the files of an image, and its line in the journal; `seconds` were spent on it so
    far.
    """
    start = time.perf_counter()
    job, image = opened.job, opened.image
    with results.catch_errors(job):
        values = image.read(0, 0, *image.shape)
        found = results.writer.write(job.name, values, prediction, job.path)
        regions = ImageRegions(job.file_name, image.shape, found)
        results.add(job, [regions], seconds + time.perf_counter() - start)


def _finish(writes: list[Future[None]]) -> None:
    """Wait for files that a thread writes, and empty the list."""
    for task in writes:
        task.result()
    writes.clear()


def _write_annotations(
    path: Path, jobs: Sequence[Job], results: Results, predictor: Segmenter
) -> None:
    """Write the COCO annotations of all images, in the order of the jobs."""
    coco = Coco(predictor.classes, predictor.task)
    for job in jobs:
        for image in results.regions_of(job):
            coco.add(image.file_name, image.shape, image.regions)
    atomic_write_text(path, json.dumps(coco.content()))
