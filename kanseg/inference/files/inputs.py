"""What a user names as input -> images and videos, and the names of what is written for them."""

from __future__ import annotations

import glob
import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from kanseg.data.io.images import IMAGE_SUFFIXES
from kanseg.utils.errors import InputError

VIDEO_SUFFIXES = (".mp4", ".avi", ".mov", ".mkv")
KNOWN = (*IMAGE_SUFFIXES, *VIDEO_SUFFIXES)
_KINDS = ", ".join(suffix[1:] for suffix in KNOWN)


@dataclass(frozen=True)
class Job:
    """An image or a video to predict.

    Args:
        path: of the file.
        name: of what is written for it: its path below the input folder, without the suffix.
    """

    path: Path
    name: str

    @property
    def is_video(self) -> bool:
        """Whether it is a video, by its suffix."""
        return self.path.suffix.lower() in VIDEO_SUFFIXES

    @property
    def file_name(self) -> str:
        """The file's own name, below the folder of `name`."""
        return (Path(self.name).parent / self.path.name).as_posix()


def find_jobs(
    source: str, *, recursive: bool = False, output: Path | None = None
) -> tuple[list[Job], list[str]]:
    """The images and videos that a file, a folder or a glob pattern means, sorted, and a line for
    each kind of thing that was left out.

    Args:
        source: file, folder or pattern.
        recursive: whether to go into the folders of a folder.
        output: where masks will be written; what lies there is no input of a folder.

    Raises:
        InputError: nothing is there, a file of an unknown kind, or two files whose masks would have
            one name.
    """
    path = Path(source)
    if path.is_file() and path.suffix.lower() not in KNOWN:
        raise InputError(f"{source}: not a kind of file that can be read ({_KINDS}); convert it")
    if path.is_dir():
        listed = path.rglob("*") if recursive else path.iterdir()
        found = [
            p
            for p in listed
            if not _is_hidden(p.relative_to(path))
            and not (output is not None and _real(p).is_relative_to(_real(output)))
        ]
    else:
        found = [path] if path.is_file() else _matching(source)
    # What is no regular file (a pipe, a device, a link to nowhere) is named when it is read.
    files = sorted(p for p in found if not p.is_dir())
    jobs = [p for p in files if p.suffix.lower() in KNOWN]
    notes = _left_out(
        [p for p in files if p.suffix.lower() not in KNOWN],
        [] if recursive else [p for p in found if p.is_dir()],
    )
    if not jobs and output is not None and _real(path).is_relative_to(_real(output)):
        raise InputError(
            f"{source} lies in the output {output}, and what lies there is no input; choose another"
            " --output"
        )
    if not jobs:
        raise InputError(
            "; ".join(
                [
                    (
                        f"{source}: no file, no folder with images or videos ({_KINDS}) and no"
                        " pattern that matches one"
                    ),
                    *notes,
                ]
            )
        )
    return name_jobs(jobs, path if path.is_dir() else None), notes


def find_images(source: str) -> list[Path]:
    """The files of `find_jobs`."""
    return [job.path for job in find_jobs(source)[0]]


def name_jobs(paths: Sequence[Path], root: Path | None = None) -> list[Job]:
    """A name for what is written for each file: its path below `root` (without a root its bare
    name) without the suffix.

    Where two have the same stem the suffix becomes a part of both names: a_png, a_jpg.

    Raises:
        InputError: two files would still have the same name.
    """
    jobs = [
        Job(path, (path.relative_to(root) if root else Path(path.name)).with_suffix("").as_posix())
        for path in paths
    ]
    stems = Counter(job.name for job in jobs)
    jobs = [
        replace(job, name=f"{job.name}_{job.path.suffix[1:]}") if stems[job.name] > 1 else job
        for job in jobs
    ]
    twice = [name for name, count in Counter(job.name for job in jobs).items() if count > 1]
    if twice:
        same = [str(job.path) for job in jobs if job.name == twice[0]]
        raise InputError(
            f"{' and '.join(same[:2])} would be written to the same file; predict their folders one"
            " by one, or with --recursive"
        )
    return jobs


def _matching(pattern: str) -> list[Path]:
    """What a pattern matches; of what links lead to several times, the shortest name."""
    paths = sorted((Path(p) for p in glob.glob(pattern, recursive=True)), key=lambda p: len(str(p)))
    first: dict[Path, Path] = {}
    for path in paths:
        first.setdefault(_real(path.parent) / path.name, path)
    return list(first.values())


def _real(path: Path) -> Path:
    """The path without links; `Path.resolve` raises where a link leads to itself."""
    return Path(os.path.realpath(path))


def _left_out(files: Sequence[Path], folders: Sequence[Path]) -> list[str]:
    lines = []
    if files:
        lines.append(f"left out, since they are no images or videos ({_KINDS}): {_some(files)}")
    if folders:
        lines.append(f"left out: the folders {_some(folders)} (--recursive goes into them)")
    return lines


def _some(paths: Sequence[Path]) -> str:
    names = sorted(path.name for path in paths)
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def _is_hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)


def refuse_to_overwrite(jobs: Sequence[Job], targets: Iterable[Path]) -> None:
    """InputError when something that will be written would replace one of the files that
    are read.
    """
    read = {_real(job.path) for job in jobs}
    for target in targets:
        if _real(target) in read:
            raise InputError(
                f"{target} is one of the images and would be overwritten; choose another --output"
            )


def refuse_clashes(targets: Mapping[Job, Iterable[Path]]) -> None:
    """InputError when two files would be written to one place: the mask of overlays/a.png and the
    overlay of a.png, a frame and an image of its name.
    """
    videos = {job.name: job for job in targets if job.is_video}
    owners: dict[Path, Job] = {}
    for job, paths in targets.items():
        place = Path(job.name)
        video = (
            videos.get(place.parent.as_posix())
            if place.name.startswith("frame_") and not job.is_video
            else None
        )
        other = next(
            (owner for path in paths if (owner := owners.setdefault(path, job)) != job), video
        )
        if other is not None:
            raise InputError(
                f"{other.path} and {job.path} would be written to the same file below the output;"
                " rename one, or predict them one by one"
            )
