"""How the files of a prediction went: written, kept, failed, or left to another process."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import cv2
from tqdm import tqdm

from kanseg.data.io.outlines import regions
from kanseg.inference.files.claims import Claims, Member, process_name
from kanseg.inference.files.inputs import Job, JobList, name_jobs
from kanseg.inference.files.outputs import OutputWriter
from kanseg.inference.files.polygons import ImageRegions
from kanseg.inference.files.record import FileResult, journal_path, read_journal, utc_time
from kanseg.inference.files.video import video_is_complete
from kanseg.utils.errors import InputError
from kanseg.utils.text import one_line

# No memory or disk left, or a file that a library cannot handle: the next file may succeed.
FILE_ERRORS = (RuntimeError, MemoryError, OSError, ValueError, cv2.error)
SHORT_WAIT = 10.0  # seconds that are waited for other processes without a word


class PathList(Sequence[Path]):
    """Paths below a folder, of which only the names are held: 100 MB for a million.

    Args:
        root: the folder.
    """

    def __init__(self, root: Path):
        self.root = root
        self._names: list[str] = []

    def append(self, name: str) -> None:
        """Add a path below the folder."""
        self._names.append(name)

    def __len__(self) -> int:
        return len(self._names)

    def __getitem__(self, index):
        if isinstance(index, slice):
            return [self.root / name for name in self._names[index]]
        return self.root / self._names[index]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and list(self) == list(other)

    def __repr__(self) -> str:
        return repr(list(self))


@dataclass(frozen=True)
class ProcessTotal:
    """What one of several processes did.

    Args:
        name: host and number.
        written: number of files.
        failed: number of files.
        killed: whether it ended without a word.
    """

    name: str
    written: int
    failed: int
    killed: bool


@dataclass
class PredictSummary:
    """What `predict_files` did, in the order in which it was done.

    Args:
        written: masks (or folders of masks) that were written.
        skipped: those that existed already, or that other processes wrote.
        failed: a line for each file that failed, here or in another process.
        processes: of the last one of several processes with `share`: what each of them did.
        seconds: since the first of these processes began.
    """

    written: PathList
    skipped: PathList
    failed: list[str] = field(default_factory=list)
    processes: list[ProcessTotal] = field(default_factory=list)
    seconds: float = 0.0


class Results:
    """Decides for each file whether this process predicts it, and collects how it went.

    Args:
        writer: of the files.
        record: takes the result of each file that was predicted or failed here.
        bar: counts the files that are done.
        log: takes a line for each failure.
        keep: whether files whose outputs all exist are skipped.
        claims: shares the files with other processes.
    """

    def __init__(
        self,
        writer: OutputWriter,
        record: Callable[[FileResult], None],
        *,
        bar: tqdm,
        log: Callable[[str], None],
        keep: bool = False,
        claims: Claims | None = None,
    ):
        self.writer = writer
        self.summary = PredictSummary(PathList(writer.root), PathList(writer.root))
        self.busy: list[Job] = []  # in other processes
        self._record, self._bar, self._log = record, bar, log
        self._keep, self._claims = keep, claims
        self._needs_regions = writer.outputs.polygons == "coco"
        self._regions: dict[str, list[ImageRegions]] = {}
        self._lock = threading.Lock()  # files are begun and added by several threads
        self._waited = 0.0

    @property
    def shows_bar(self) -> bool:
        """Whether a progress bar is seen."""
        return not self._bar.disable

    def begin(self, job: Job) -> bool:
        """True if this process has to predict the file now."""
        if self._keep and (suffix := self._existing_suffix(job)) is not None:
            self._skip(job, suffix)
            return False
        if self._claims is None:
            return True
        other = self._claims.take(job.name)
        if other is None:
            # It may have been written between the look and the claim.
            suffix = self._existing_suffix(job)
            if suffix is None:
                return True
            self._claims.release(job.name)
            self._skip(job, suffix)
        elif other.error is not None:
            self._count(self.summary.failed, other.error)
        else:
            self.busy.append(job)
        return False

    def add(
        self, job: Job, found: Sequence[ImageRegions], seconds: float, *, suffix: str = ".png"
    ) -> None:
        """Add a file that was written.

        Args:
            job: of the file.
            found: its image, or the frames of a video.
            seconds: that it took.
            suffix: of the mask.
        """
        frames = None
        if job.is_video:
            frames, suffix = len(found), ""
        output = self._output(job, suffix)
        size, seconds = found[0].shape, round(seconds, 4)
        with self._lock:
            self._record(FileResult(str(job.path), output, size, frames, seconds))
        if self._needs_regions:
            self._regions[job.name] = found
        if self._claims is not None:
            self._claims.release(job.name)
        self._count(self.summary.written, output)

    def fail(self, job: Job, error: Exception) -> None:
        """Report a file that failed."""
        line = error_line(job.path, error)
        with self._lock:
            self._record(FileResult(str(job.path), error=line))
        self._regions[job.name] = []
        if self._claims is not None:
            self._claims.fail(job.name, line)
        self._count(self.summary.failed, line)
        self._bar.clear()
        self._log(f"failed: {line}")

    @contextmanager
    def catch_errors(self, job: Job) -> Iterator[None]:
        """Report the file as failed where the block raises one of `FILE_ERRORS`."""
        try:
            yield
        except FILE_ERRORS as error:
            self.fail(job, error)

    def wait_for_others(self, seconds: float) -> JobList:
        """Sleep, and return the files that were busy in other processes, to look at them again."""
        time.sleep(seconds)
        if self._waited < SHORT_WAIT <= self._waited + seconds:
            self._bar.clear()
            self._log(f"waiting for {len(self.busy)} files that other processes predict")
        self._waited += seconds
        waiting = name_jobs(self.busy)
        self.busy = []
        return waiting

    def sum_up(self, members: Sequence[Member]) -> None:
        """Add to the summary what all processes did, and delete what killed ones had begun."""
        for member in members:
            if not member.left:
                delete_temporaries(self.writer.root, member.process.pid)
        self.summary.processes = process_totals(self.writer.root, members)
        self.summary.seconds = time.time() - min(member.began for member in members)

    def regions_of(self, job: Job) -> list[ImageRegions]:
        """The regions of the images of a file, for annotations of all; none if it failed."""
        if job.name not in self._regions and self._existing_suffix(job) is not None:
            return self._regions_of_masks(job)
        return self._regions.get(job.name, [])

    def _existing_suffix(self, job: Job) -> str | None:
        """The suffix of the mask if everything that is asked for exists, else None; empty for a
        video, whose masks are a folder.
        """
        if not job.is_video:
            return self.writer.existing_suffix(job.name)
        return "" if video_is_complete(self.writer, job.name) else None

    def _skip(self, job: Job, suffix: str) -> None:
        """Add a file whose outputs exist."""
        # Shared files have their annotations made by the last process, from the masks.
        if self._needs_regions and self._claims is None:
            try:
                self._regions[job.name] = self._regions_of_masks(job)
            except FILE_ERRORS as error:
                self.fail(job, error)
                return
        with self._lock:
            self.summary.skipped.append(self._output(job, suffix))
            self._bar.total -= 1  # rate and time left are those of files that are predicted

    def _count(self, done: PathList | list[str], line: str) -> None:
        with self._lock:
            done.append(line)
            self._bar.update()

    def _output(self, job: Job, suffix: str) -> str:
        """The mask of an image, or the folder of masks of a video, below the output folder."""
        path = self.writer.mask_paths(job.name, suffix)[0]
        return path.relative_to(self.writer.root).as_posix()

    def _regions_of_masks(self, job: Job) -> list[ImageRegions]:
        """Outline the masks that exist of an image, or of the frames of a video."""
        if not job.is_video:
            label = self.writer.read_label(job.name, self.writer.existing_suffix(job.name))
            found = list(regions(label, self.writer.task))
            return [ImageRegions(job.file_name, label.shape[-2:], found)]
        results = []
        folder = self.writer.mask_paths(job.name, "")[0]
        for path in sorted(folder.glob("frame_*.png")):
            frame = f"{job.name}/{path.stem}"
            label = self.writer.read_label(frame, ".png")
            found = list(regions(label, self.writer.task))
            results.append(ImageRegions(f"{frame}.png", label.shape[-2:], found))
        return results


def delete_temporaries(output: Path, pid: int | None = None, *, since: float = 0.0) -> None:
    """Delete files that were not finished (`kanseg.utils.io.temporary_beside`).

    Args:
        output: folder of the prediction.
        pid: of the killed process; by default of all, which must have ended or be idle.
        since: seconds since 1970; older files stay.
    """
    process = "*" if pid is None else str(pid)
    for path in output.rglob(f".*.{process}.tmp*"):
        if path.stat().st_mtime < since:
            continue
        if path.is_dir():  # frames of a video
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def process_totals(output: Path, members: Sequence[Member]) -> list[ProcessTotal]:
    """Count what each process wrote in its journal since it began."""
    totals = []
    for member in members:
        name, written, failed = process_name(member.process), 0, 0
        path = journal_path(output, name)
        lines = read_journal(path) if path.is_file() else ()
        for line in lines:
            if line["time"] < utc_time(member.began):
                continue
            if "error" in line:
                failed += 1
            else:
                written += 1
        totals.append(ProcessTotal(name, written, failed, killed=not member.left))
    return totals


def error_line(path: Path, error: Exception) -> str:
    """Say on one line, which names the file, what went wrong."""
    if not isinstance(error, InputError):
        return f"{path}: {type(error).__name__}: {one_line(error)}"
    text = one_line(error, None)
    if str(path) in text:
        return text
    return f"{path}: {text}"
