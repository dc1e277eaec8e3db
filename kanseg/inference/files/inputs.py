"""Find the images and videos that a user names as input, and name what is written for them."""

from __future__ import annotations

import glob
import os
import sys
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from kanseg.data.io.images import IMAGE_SUFFIXES
from kanseg.utils.errors import InputError
from kanseg.utils.reading import read_text

VIDEO_SUFFIXES = (".mp4", ".avi", ".mov", ".mkv")
KNOWN = (*IMAGE_SUFFIXES, *VIDEO_SUFFIXES)
_KINDS = ", ".join(suffix[1:] for suffix in KNOWN)


@dataclass(frozen=True)
class Job:
    """An image or a video to predict.

    Args:
        path: of the file.
        name: of the files that are written for it: its path below the input folder, without the
            suffix.
    """

    path: Path
    name: str

    @property
    def is_video(self) -> bool:
        """True for a video, by its suffix."""
        return self.path.suffix.lower() in VIDEO_SUFFIXES

    @property
    def file_name(self) -> str:
        """The path below the input folder."""
        return (Path(self.name).parent / self.path.name).as_posix()


def find_jobs(
    source: str, *, recursive: bool = False, output: Path | None = None
) -> tuple[list[Job], list[str]]:
    """Find images and videos.

    Args:
        source: a file, a folder or a glob pattern.
        recursive: go into the folders of a folder.
        output: folder of the masks; files in it are not taken as input of a folder.

    Returns:
        (jobs, sorted by path; a message for each kind of file that was skipped).

    Raises:
        InputError: nothing is found, a file of an unknown kind, or two files whose masks would have
            one name.
    """
    path = Path(source)
    if path.is_file() and path.suffix.lower() not in KNOWN:
        raise InputError(f"{source}: not a kind of file that can be read ({_KINDS}); convert it")
    if path.is_dir():
        found = _list_folder(path, recursive, output)
    elif path.is_file():
        found = [path]
    else:
        found = _match_pattern(source)
    # Pipes, devices and dangling links are kept: opening them reports what they are.
    files = sorted(p for p in found if not p.is_dir())
    known = [p for p in files if p.suffix.lower() in KNOWN]
    unknown = [p for p in files if p.suffix.lower() not in KNOWN]
    notes = []
    if unknown:
        notes.append(f"skipped, not images or videos ({_KINDS}): {_some_names(unknown)}")
    folders = [p for p in found if p.is_dir()]
    if folders and not recursive:
        notes.append(f"skipped: the folders {_some_names(folders)} (--recursive goes into them)")
    if known:
        return name_jobs(known, path if path.is_dir() else None), notes
    if output is not None and _real_path(path).is_relative_to(_real_path(output)):
        raise InputError(
            f"{source} is in the output {output}, whose files are not used as input; choose"
            " another --output"
        )
    nothing = f"{source}: no file, no folder with images or videos ({_KINDS}) and no pattern"
    raise InputError("; ".join([f"{nothing} that matches one", *notes]))


def read_list(source: str) -> list[Job]:
    """Read the paths of images and videos from a file, one per line, or from the standard input
    for "-"; empty lines are skipped.

    Raises:
        InputError: no paths, a file of an unknown kind, or two files whose masks would have one
            name.
    """
    text = sys.stdin.read() if source == "-" else read_text(Path(source))
    paths = [Path(line.strip()) for line in text.splitlines() if line.strip()]
    if not paths:
        raise InputError(f"--list {source}: no paths in it, one per line")
    unknown = [path for path in paths if path.suffix.lower() not in KNOWN]
    if unknown:
        raise InputError(
            f"--list {source}: not images or videos ({_KINDS}): {_some_names(unknown)}"
        )
    return name_jobs(list(dict.fromkeys(paths)))


def find_images(source: str) -> list[Path]:
    """Find images and videos as `find_jobs` does, and return their paths."""
    return [job.path for job in find_jobs(source)[0]]


def name_jobs(paths: Sequence[Path], root: Path | None = None) -> list[Job]:
    """Name the files that are written for each path: its path below `root` (without a root its own
    name) without the suffix.

    Where two would have the same name, the suffix becomes a part of both: a_png, a_jpg.

    Raises:
        InputError: two files would still have the same name.
    """
    jobs = []
    for path in paths:
        below = path.relative_to(root) if root else Path(path.name)
        jobs.append(Job(path, below.with_suffix("").as_posix()))
    counts = Counter(job.name for job in jobs)
    for index, job in enumerate(jobs):
        if counts[job.name] > 1:
            jobs[index] = replace(job, name=f"{job.name}_{job.path.suffix[1:]}")
    named: dict[str, Job] = {}
    for job in jobs:
        other = named.setdefault(job.name, job)
        if other is not job:
            raise InputError(
                f"{other.path} and {job.path} would be written to the same file; predict their"
                " folders one by one, or with --recursive"
            )
    return jobs


def refuse_to_overwrite(jobs: Sequence[Job], targets: Iterable[Path]) -> None:
    """Raise InputError if a file that will be written would replace an input."""
    inputs = {_real_path(job.path) for job in jobs}
    for target in targets:
        if _real_path(target) in inputs:
            raise InputError(
                f"{target} is one of the images and would be overwritten; choose another --output"
            )


def refuse_masks_among_images(jobs: Sequence[Job], folders: Iterable[Path]) -> None:
    """Raise InputError if masks would be written into a folder that holds inputs: the next reader
    of that folder, such as a training, would take the masks for images.
    """
    inputs = {_real_path(job.path.parent) for job in jobs}
    for folder in folders:
        if _real_path(folder) in inputs:
            raise InputError(
                f"{folder} holds the images, and masks among them would be taken for images;"
                " choose another --output"
            )


def refuse_clashes(targets: Mapping[Job, Iterable[Path]]) -> None:
    """Raise InputError if two jobs would write the same file, such as the mask of overlays/a.png
    and the overlay of a.png, or a frame of a video and an image of its name.

    Args:
        targets: the files that are written for each job; of a video without its frames.
    """
    videos = {job.name: job for job in targets if job.is_video}
    owners: dict[Path, Job] = {}
    for job, paths in targets.items():
        for path in paths:
            _refuse_clash(owners.setdefault(path, job), job)
        folder, name = os.path.split(job.name)
        if name.startswith("frame_") and folder in videos and not job.is_video:
            _refuse_clash(videos[folder], job)


def _refuse_clash(other: Job, job: Job) -> None:
    if other != job:
        raise InputError(
            f"{other.path} and {job.path} would be written to the same file below the output;"
            " rename one, or predict them one by one"
        )


def _list_folder(folder: Path, recursive: bool, output: Path | None) -> list[Path]:
    """List a folder without hidden files and without what lies in the output."""
    found = []
    for path in folder.rglob("*") if recursive else folder.iterdir():
        hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
        written = output is not None and _real_path(path).is_relative_to(_real_path(output))
        if not hidden and not written:
            found.append(path)
    return found


def _match_pattern(pattern: str) -> list[Path]:
    """List what a pattern matches; of a file that links lead to several times, the shortest
    path.
    """
    paths = [Path(path) for path in glob.glob(pattern, recursive=True)]
    first: dict[Path, Path] = {}
    for path in sorted(paths, key=lambda path: len(str(path))):
        first.setdefault(_real_path(path.parent) / path.name, path)
    return list(first.values())


def _real_path(path: Path) -> Path:
    """Resolve links; `Path.resolve` raises for a link that leads to itself."""
    return Path(os.path.realpath(path))


def _some_names(paths: Sequence[Path]) -> str:
    names = sorted(path.name for path in paths)
    if len(names) > 5:
        return f"{', '.join(names[:5])} and {len(names) - 5} more"
    return ", ".join(names)
