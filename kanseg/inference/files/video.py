"""Predict videos frame by frame: a mask for every frame and a video of overlays."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager, nullcontext
from dataclasses import replace
from itertools import islice
from pathlib import Path

import cv2
import numpy as np
from tqdm import tqdm

from kanseg.data.io.decode_errors import decoder_errors, require_regular_file
from kanseg.inference.files.inputs import Job
from kanseg.inference.files.outputs import OVERLAYS, Outputs, OutputWriter
from kanseg.inference.files.polygons import ImageRegions
from kanseg.inference.segmenter import Prediction, Segmenter
from kanseg.inference.sources import ArrayImage
from kanseg.utils.errors import InputError
from kanseg.utils.io import temporary_beside
from kanseg.utils.iteration import progress_bar

CODEC = "mp4v"
FALLBACK_RATE = 25.0
# Share of the frames that a header promises and that may be missing: some containers only estimate
# their number.
MISSING = 0.05
# FFmpeg writes lines of its own to stderr; errors are reported by the messages here.
os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")


def predict_video(
    predictor: Segmenter,
    job: Job,
    outputs: Outputs,
    root: Path,
    *,
    max_pixels: int,
    progress: bool = False,
) -> list[ImageRegions]:
    """Write `NAME/frame_000000.png` and so on, and `overlays/NAME.mp4`; nothing is left of a video
    that cannot be read to its end.

    Returns:
        Every frame, with its regions if polygons are asked for.

    Raises:
        InputError: not a video, a damaged one, or frames of more than `max_pixels` pixels.
    """
    if outputs.polygons == "labelme":
        raise InputError(
            f"{job.path}: labelme opens image files, not videos; write the frames as images first"
            f" (ffmpeg -i {job.path.name} frames/%06d.png), or choose coco or geojson"
        )
    building = temporary_beside(root / Path(job.name).name)
    writer = OutputWriter(building, predictor, replace(outputs, overlays=False))
    results = [path.relative_to(building) for path in frame_folders(writer, job.name)]
    for folder in results:
        # It may hold anything: files of the user are not deleted, frames of two runs not mixed.
        if (root / folder).exists():
            raise InputError(
                f"{job.path}: {root / folder} exists already; move it away, choose another"
                " --output, or skip the video by --skip_existing"
            )
    if outputs.overlays:  # the last that is moved: where it is, all is
        results.append(Path(OVERLAYS) / f"{job.name}.mp4")
    shutil.rmtree(building, ignore_errors=True)
    try:
        with progress_bar(title=job.path.name, unit="frame", show=progress) as bar:
            found = _write_frames(predictor, job, writer, outputs.overlays, max_pixels, bar)
        for path in results:
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            (building / path).replace(root / path)
    finally:
        shutil.rmtree(building, ignore_errors=True)
    return found


def frame_folders(writer: OutputWriter, name: str) -> list[Path]:
    """The folders of what is written for each frame of a video."""
    overlay = writer.root / OVERLAYS / f"{name}.png"
    folders = [path.with_suffix("") for path in writer.paths(name) if path != overlay]
    return list(dict.fromkeys(folders))


def video_is_complete(writer: OutputWriter, name: str) -> bool:
    """True if everything that is asked for exists for a video."""
    overlay = writer.root / OVERLAYS / f"{name}.mp4"
    if writer.outputs.overlays and not overlay.is_file():
        return False
    return all(folder.is_dir() for folder in frame_folders(writer, name))


def frames(path: Path, *, max_pixels: int) -> Iterator[np.ndarray]:
    """Yield the frames (H, W, 3) uint8 RGB of a video.

    Raises:
        InputError: not a video, frames of more than `max_pixels` pixels, or many frames fewer than
            the file promises.
    """
    with _opened(path) as capture:
        width = int(capture.get(cv2.CAP_PROP_FRAME_WIDTH))
        height = int(capture.get(cv2.CAP_PROP_FRAME_HEIGHT))
        if width * height > max_pixels:
            raise InputError(
                f"{path}: frames of {width}x{height} pixels are more than the limit of"
                f" {max_pixels}; raise --max_pixels"
            )
        promised = max(int(capture.get(cv2.CAP_PROP_FRAME_COUNT)), 0)
        count = 0
        while True:
            with decoder_errors(path, f" at frame {count}"):
                success, frame = capture.read()
            if not success:
                break
            count += 1
            yield cv2.cvtColor(frame, cv2.COLOR_BGR2RGB)
        if count == 0 or count < promised * (1 - MISSING) - 1:
            raise InputError(
                f"{path}: the video is damaged or truncated (after frame {count} of {promised})"
            )


def frame_rate(path: Path) -> float:
    """Frames per second of a video; 25 if the file does not say."""
    with _opened(path) as capture:
        rate = float(capture.get(cv2.CAP_PROP_FPS))
    if 0 < rate < 1000:
        return rate
    return FALLBACK_RATE


def num_frames(path: Path) -> int | None:
    """Number of frames that a video promises; None if it does not say."""
    with _opened(path) as capture:
        count = int(capture.get(cv2.CAP_PROP_FRAME_COUNT))
    return count if count > 0 else None


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
    predictor: Segmenter,
    job: Job,
    writer: OutputWriter,
    overlays: bool,
    max_pixels: int,
    bar: tqdm,
) -> list[ImageRegions]:
    """Predict the frames a batch at a time, and write them while the next batch is predicted."""
    movie = None
    bar.total = num_frames(job.path)
    if overlays:
        movie = MovieWriter(writer.root / OVERLAYS / f"{job.name}.mp4", frame_rate(job.path))
    outputs, found, count = writer.outputs, [], 0
    source = frames(job.path, max_pixels=max_pixels)
    with closing(movie) if movie is not None else nullcontext(), ThreadPoolExecutor(1) as pool:
        writes: list[Future[ImageRegions]] = []
        while batch := list(islice(source, predictor.batch_size)):
            predictions = predictor.predict(
                [ArrayImage(frame, str(job.path)) for frame in batch],
                probabilities=outputs.probabilities is not None,
                uncertainty=outputs.uncertainty,
                novelty=outputs.novelty,
            )
            found += [task.result() for task in writes]
            writes = []
            for index, frame in enumerate(batch):
                name = f"{job.name}/frame_{count:06d}"
                arguments = (writer, movie, name, frame, predictions[index], job.path)
                writes.append(pool.submit(_write_frame, *arguments))
                count += 1
            bar.update(len(batch))
        found += [task.result() for task in writes]
    return found


def _write_frame(
    writer: OutputWriter,
    movie: MovieWriter | None,
    name: str,
    frame: np.ndarray,
    prediction: Prediction,
    source: Path,
) -> ImageRegions:
    found = writer.write(name, frame, prediction, source)
    if movie is not None:
        movie.add(writer.overlay(frame, prediction.label.numpy()))
    return ImageRegions(f"{name}.png", frame.shape[:2], found)


class MovieWriter:
    """Writes an MP4 file of RGB frames; sides are padded to even lengths, as codecs need.

    Args:
        path: of the file.
        rate: frames per second.
    """

    def __init__(self, path: Path, rate: float):
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path, self.rate, self._writer = path, rate, None

    def add(self, frame: np.ndarray) -> None:
        """Add a frame (H, W, 3)."""
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
