"""Image and video files -> files of masks; a bad file is told and does not stop the others."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path

import cv2

from kanseg.data.io.images import MAX_PIXELS
from kanseg.inference.files.inputs import Job, name_jobs, refuse_clashes, refuse_to_overwrite
from kanseg.inference.files.large import LARGE, predict_large
from kanseg.inference.files.outputs import OVERLAYS, Outputs, Writer
from kanseg.inference.files.polygons import Coco, Region, regions
from kanseg.inference.files.video import is_done, predict_video
from kanseg.inference.segmenter import Prediction, Segmenter
from kanseg.inference.sources import ArrayImage, WindowedImage, open_image
from kanseg.utils.errors import InputError
from kanseg.utils.io import atomic_write_text
from kanseg.utils.prefetch import ahead, drawn_ahead

TOGETHER = 2**22  # pixels of images that are predicted together
ANNOTATIONS = "annotations.json"
Found = tuple[str, tuple[int, int], Sequence[Region]]


@dataclass
class Outcome:
    """What became of a list of files."""

    written: list[Path] = field(default_factory=list)
    skipped: list[Path] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class _Step:
    """A file on its way: read, then predicted, then written; or what is wrong with it."""

    job: Job
    image: WindowedImage | None = None
    prediction: Prediction | None = None
    fault: str | None = None
    skipped: bool = False
    found: Sequence[Found] = ()


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
) -> Outcome:
    """Write `output/NAME.png` (class indices with a palette) for every image, and what `outputs`
    asks for.

    The masks of a multilabel task are `output/CLASS/NAME.png` of 0 and 255; a video has a folder
    `output/NAME/` of masks and an overlay video. Each file is written whole or not at all. A file
    that cannot be read or predicted is told and counted, and the rest goes on.

    Args:
        predictor: a `Predictor` or an `Ensemble`.
        files: images and videos, or jobs of `find_jobs`, which know a folder below the output.
        output: folder.
        outputs: what is written beside the masks; by default overlays.
        skip_existing: leave files out for which all is there.
        max_pixels: larger images are refused as decompression bombs.
        large: pixels beyond which the mask is a tiled TIFF, `NAME.tif`, and an image in a TIFF is
            read by windows.
        log: takes a line for each failure.

    Raises:
        InputError: masks of two files would have one name, or something would overwrite an input.
    """
    jobs = _jobs(files)
    writer = Writer(output, predictor, outputs or Outputs())
    targets = {job: set(_targets(job, writer)) for job in jobs}
    refuse_to_overwrite(jobs, [output / ANNOTATIONS, *chain.from_iterable(targets.values())])
    refuse_clashes(targets)
    output.mkdir(parents=True, exist_ok=True)
    run = _Run(predictor, writer, skip_existing, max_pixels, large)
    outcome, coco = Outcome(), Coco(predictor.classes, predictor.task)
    for step in run.steps(jobs):
        if step.fault is not None:
            outcome.failed.append(step.fault)
            log(f"failed: {step.fault}")
            continue
        (outcome.skipped if step.skipped else outcome.written).append(_result(step, writer))
        for each in step.found:
            coco.add(*each)
    if writer.outputs.polygons == "coco":
        atomic_write_text(output / ANNOTATIONS, json.dumps(coco.content()))
    return outcome


@dataclass(frozen=True)
class _Run:
    """The way of the files: images are read in one thread, predicted here, and written in
    another.
    """

    predictor: Segmenter
    writer: Writer
    skip_existing: bool
    max_pixels: int
    large: int

    def steps(self, jobs: Iterable[Job]) -> Iterator[_Step]:
        """What became of each file, in order."""
        return ahead(self.write, self.predicted(drawn_ahead(self.groups(jobs))))

    def groups(self, jobs: Iterable[Job]) -> Iterator[list[_Step]]:
        """Files as they are read: small images of one size together, everything else by
        itself.
        """
        group: list[_Step] = []
        for step in map(self.read, jobs):
            if group and not self._fits(group, step):
                yield group
                group = []
            group.append(step)
        if group:
            yield group

    def read(self, job: Job) -> _Step:
        """Open an image, unless all is there; a video is not opened yet."""
        if self.skip_existing and self._is_done(job):
            return guarded(_Step(job, skipped=True), self._found_before)
        if job.is_video:
            return _Step(job)
        return guarded(
            _Step(job),
            lambda step: replace(
                step, image=open_image(job.path, max_pixels=self.max_pixels, large=self.large)
            ),
        )

    def predicted(self, groups: Iterable[list[_Step]]) -> Iterator[_Step]:
        """Each file with its prediction; videos and large images are written here already."""
        for group in groups:
            first = group[0]
            if first.fault is not None or first.skipped:
                yield first
            elif first.image is None:
                yield guarded(first, self.video)
            elif _pixels(first) > self.large:
                yield guarded(first, self.large_image)
            else:
                yield from self.together(group)

    def together(self, group: list[_Step]) -> list[_Step]:
        """Predict images of one size; one by one where they do not fit into memory together."""
        wanted = self.writer.outputs
        try:
            images = [step.image for step in group]
            prediction = self.predictor.predict(
                images,
                probabilities=wanted.probabilities is not None,
                uncertainty=wanted.uncertainty,
            )
        except FAULTS as error:
            if len(group) > 1:
                return [done for step in group for done in self.together([step])]
            return [replace(group[0], image=None, fault=fault_line(group[0].job.path, error))]
        return [replace(step, prediction=prediction.of(place)) for place, step in enumerate(group)]

    def video(self, step: _Step) -> _Step:
        """Predict and write a video."""
        found = predict_video(
            self.predictor,
            step.job,
            self.writer.outputs,
            self.writer.root,
            max_pixels=self.max_pixels,
        )
        return replace(step, found=found)

    def large_image(self, step: _Step) -> _Step:
        """Predict and write an image by bands."""
        with closing(step.image):
            found = predict_large(
                self.predictor, step.image, step.job.name, self.writer, step.job.path
            )
        return replace(step, image=None, found=[(step.job.file_name, step.image.shape, found)])

    def write(self, step: _Step) -> _Step:
        """Write an image; the others pass."""
        return step if step.prediction is None else guarded(step, self._write)

    def _write(self, step: _Step) -> _Step:
        image = step.image
        found = self.writer.write(
            step.job.name, image.read(0, 0, *image.shape), step.prediction, step.job.path
        )
        return _Step(step.job, found=[(step.job.file_name, image.shape, found)])

    def _fits(self, group: Sequence[_Step], step: _Step) -> bool:
        """Whether an image can be predicted together with those before it."""
        first = group[0].image
        if (
            not isinstance(step.image, ArrayImage)
            or not isinstance(first, ArrayImage)
            or len(group) == self.predictor.batch_size
        ):
            return False
        return (
            step.image.image.shape == first.image.shape
            and (len(group) + 1) * _pixels(step) <= TOGETHER
        )

    def _is_done(self, job: Job) -> bool:
        return (
            is_done(self.writer, job.name)
            if job.is_video
            else self.writer.existing(job.name) is not None
        )

    def _found_before(self, step: _Step) -> _Step:
        """The regions in the masks of an image or video that is left out: the annotations tell of
        all.
        """
        if self.writer.outputs.polygons != "coco":
            return step
        if step.job.is_video:
            numbers = range(
                len(list(self.writer.masks(step.job.name)[0].with_suffix("").glob("frame_*.png")))
            )
            names = [(f"{step.job.name}/frame_{number:06d}", ".png", None) for number in numbers]
        else:
            names = [(step.job.name, self.writer.existing(step.job.name), step.job.file_name)]
        found = []
        for name, suffix, file_name in names:
            label = self.writer.read_label(name, suffix)
            found.append(
                (
                    file_name or f"{name}.png",
                    label.shape[-2:],
                    list(regions(label, self.predictor.task)),
                )
            )
        return replace(step, found=found)


FAULTS = (
    RuntimeError,
    MemoryError,
    OSError,
    ValueError,
    cv2.error,
)  # out of memory or disk, a file that a library chokes on: the next may do


def guarded(step: _Step, work: Callable[[_Step], _Step]) -> _Step:
    """work(step), or the step with what went wrong."""
    try:
        return work(step)
    except FAULTS as error:
        return _Step(step.job, fault=fault_line(step.job.path, error))


def fault_line(path: Path, error: Exception) -> str:
    """What went wrong with a file, on one line that names it."""
    text = " ".join(str(error).split())
    if not isinstance(error, InputError):
        return f"{path}: {type(error).__name__}: {text[:300]}"
    return text if str(path) in text else f"{path}: {text}"


def _pixels(step: _Step) -> int:
    return step.image.shape[0] * step.image.shape[1]


def _jobs(files: Sequence[Path | Job]) -> list[Job]:
    if all(isinstance(file, Job) for file in files):
        return list(files)
    return name_jobs([file.path if isinstance(file, Job) else file for file in files])


def _targets(job: Job, writer: Writer) -> Iterator[Path]:
    """Whatever could be written for a file, the frames of a video left out."""
    if job.is_video:
        yield writer.root / OVERLAYS / f"{job.name}.mp4"
    else:
        for suffix in (".png", ".tif"):
            yield from writer.targets(job.name, suffix)


def _result(step: _Step, writer: Writer) -> Path:
    """The mask, or the folder of masks, of a file."""
    if step.job.is_video:
        return writer.masks(step.job.name)[0].with_suffix("")
    return writer.masks(step.job.name, writer.existing(step.job.name) or ".png")[0]
