"""Videos -> a mask for every frame and a video of overlays, frame by frame."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import closing, contextmanager, nullcontext
from dataclasses import replace
from itertools import islice
from pathlib import Path

import cv2
import numpy as np

from kanseg.data.io.decode_errors import decoder_errors, require_regular_file
from kanseg.inference.files.inputs import Job
from kanseg.inference.files.outputs import OVERLAYS, Outputs, Writer
from kanseg.inference.files.polygons import Region
from kanseg.inference.segmenter import Prediction, Segmenter
from kanseg.inference.sources import ArrayImage
from kanseg.utils.errors import InputError
from kanseg.utils.io import temporary_beside
from kanseg.utils.prefetch import ahead

CODEC = "mp4v"
# share of the frames that the header promises and that need not come: some containers only estimate
# them
MISSING = 0.05
FALLBACK_RATE = 25.0
os.environ.setdefault(
    "OPENCV_FFMPEG_LOGLEVEL", "-8"
)  # its decoder writes lines of its own to stderr; what is wrong is told here
Found = tuple[str, tuple[int, int], list[Region]]


def predict_video(
    predictor: Segmenter, job: Job, outputs: Outputs, root: Path, *, max_pixels: int
) -> list[Found]:
    """Write `NAME/frame_000000.png` and so on, and `overlays/NAME.mp4`; nothing is left of a video
    that cannot be read to its end.

    Returns:
        (name, size, regions) of every frame, where polygons are wanted.

    Raises:
        InputError: no video, a damaged one, or frames of more than `max_pixels` pixels.
    """
    building = temporary_beside(root / Path(job.name).name)
    writer = Writer(building, predictor, replace(outputs, overlays=False))
    results = [path.relative_to(building) for path in frame_folders(writer, job.name)]
    there = [root / folder for folder in results if (root / folder).exists()]
    # it may hold anything: what a user keeps there is not deleted, and frames of two runs are not
    # mixed
    if there:
        raise InputError(
            f"{job.path}: {there[0]} exists already; move it away, choose another --output, or"
            " leave the video out by --skip_existing"
        )
    shutil.rmtree(building, ignore_errors=True)
    try:
        found = _write_frames(predictor, job, writer, outputs.overlays, max_pixels)
        for place in [
            *results,
            *([Path(OVERLAYS) / f"{job.name}.mp4"] if outputs.overlays else []),
        ]:  # the video last, a sign that all is there
            (root / place).parent.mkdir(parents=True, exist_ok=True)
            (building / place).replace(root / place)
    finally:
        shutil.rmtree(building, ignore_errors=True)
    return found


def frame_folders(writer: Writer, name: str) -> list[Path]:
    """The folders of what is written for each frame of a video."""
    without_overlays = writer.targets(name)[int(writer.outputs.overlays) :]
    return list(dict.fromkeys(path.with_suffix("") for path in without_overlays))


def is_done(writer: Writer, name: str) -> bool:
    """Whether all is there that is wanted for a video."""
    overlay = writer.root / OVERLAYS / f"{name}.mp4"
    return all(folder.is_dir() for folder in frame_folders(writer, name)) and (
        overlay.is_file() or not writer.outputs.overlays
    )


def frames(path: Path, *, max_pixels: int) -> Iterator[np.ndarray]:
    """The frames (H, W, 3) uint8 RGB of a video.

    Raises:
        InputError: no video, frames of more than `max_pixels` pixels, or an end long before the one
            that the file promises.
    """
    with _opened(path) as capture:
        width, height = (
            int(capture.get(key)) for key in (cv2.CAP_PROP_FRAME_WIDTH, cv2.CAP_PROP_FRAME_HEIGHT)
        )
        if width * height > max_pixels:
            raise InputError(
                f"{path}: frames of {width}x{height} pixels are more than the limit of"
                f" {max_pixels}; raise --max_pixels"
            )
        promised, count = int(capture.get(cv2.CAP_PROP_FRAME_COUNT)), 0
        while True:
            with decoder_errors(path, f" at frame {count}"):
                there, frame = capture.read()
            if not there:
                break
            count += 1
            yield cv2.cvtColor(frame, cv2.COLOR_BGR2RGB)
        if count == 0 or count < promised * (1 - MISSING) - 1:
            raise InputError(
                f"{path}: the video is damaged or truncated (after frame {count} of"
                f" {max(promised, 0)})"
            )


def frame_rate(path: Path) -> float:
    """Frames a second; 25 where the file does not tell."""
    with _opened(path) as capture:
        rate = float(capture.get(cv2.CAP_PROP_FPS))
    return rate if 0 < rate < 1000 else FALLBACK_RATE


@contextmanager
def _opened(path: Path) -> Iterator[cv2.VideoCapture]:
    require_regular_file(path)
    with decoder_errors(path):
        capture = cv2.VideoCapture(str(path))
    try:
        if not capture.isOpened():
            raise InputError(
                f"{path}: not a video that can be read (damaged, or of a codec that this OpenCV"
                " lacks)"
            )
        yield capture
    finally:
        capture.release()


def _write_frames(
    predictor: Segmenter, job: Job, writer: Writer, overlays: bool, max_pixels: int
) -> list[Found]:
    """Predict the frames a batch at a time, and write while the next batch is predicted."""
    outputs, found = writer.outputs, []
    movie = (
        _Movie(writer.root / OVERLAYS / f"{job.name}.mp4", frame_rate(job.path))
        if overlays
        else None
    )

    def write(item: tuple[int, np.ndarray, Prediction]) -> None:
        number, frame, prediction = item
        name = f"{job.name}/frame_{number:06d}"
        outlined = writer.write(name, frame, prediction, job.path)
        if outputs.polygons is not None:
            found.append((f"{name}.png", frame.shape[:2], outlined))
        if movie is not None:
            movie.add(writer.overlay(frame, prediction.label.numpy()))

    with closing(movie) if movie is not None else nullcontext():
        for _ in ahead(write, _predicted(predictor, job.path, outputs, max_pixels)):
            pass
    return found


def _predicted(
    predictor: Segmenter, path: Path, outputs: Outputs, max_pixels: int
) -> Iterator[tuple[int, np.ndarray, Prediction]]:
    """(number, frame, what is known of it) of every frame."""
    number = 0
    source = frames(path, max_pixels=max_pixels)
    while batch := list(islice(source, predictor.batch_size)):
        images = [ArrayImage(frame, str(path)) for frame in batch]
        prediction = predictor.predict(
            images,
            probabilities=outputs.probabilities is not None,
            uncertainty=outputs.uncertainty,
        )
        for place, frame in enumerate(batch):
            yield number, frame, prediction.of(place)
            number += 1


class _Movie:
    """An MP4 file of RGB frames; its sides are even, as codecs want them."""

    def __init__(self, path: Path, rate: float):
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path, self.rate, self._writer = path, rate, None

    def add(self, frame: np.ndarray) -> None:
        """One more frame (H, W, 3)."""
        height, width = (side + side % 2 for side in frame.shape[:2])
        if self._writer is None:
            self._writer = cv2.VideoWriter(
                str(self.path), cv2.VideoWriter_fourcc(*CODEC), self.rate, (width, height)
            )
            if not self._writer.isOpened():
                raise InputError(
                    f"{self.path}: this OpenCV cannot write {CODEC} videos; use --no_overlays"
                )
        frame = np.pad(
            frame, ((0, height - frame.shape[0]), (0, width - frame.shape[1]), (0, 0)), mode="edge"
        )
        self._writer.write(cv2.cvtColor(frame, cv2.COLOR_RGB2BGR))

    def close(self) -> None:
        """Finish the file."""
        if self._writer is not None:
            self._writer.release()
