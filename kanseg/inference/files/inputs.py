"""Find the images and videos that a user names as input, and name what is written for them."""

from __future__ import annotations

import glob
import os
import sys
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import numpy as np

from kanseg.data.io.images import IMAGE_SUFFIXES
from kanseg.utils.errors import InputError
from kanseg.utils.language import translate
from kanseg.utils.reading import read_text

VIDEO_SUFFIXES = (".mp4", ".avi", ".mov", ".mkv")
KNOWN = (*IMAGE_SUFFIXES, *VIDEO_SUFFIXES)
_KINDS = ", ".join(suffix[1:] for suffix in KNOWN)
T = TypeVar("T")


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


class JobList(Sequence[Job]):
    """Jobs that are made when they are asked for: a million take about 100 MB.

    Args:
        files: paths, below `root` if there is one.
        root: input folder.
        names: of jobs, by file, where they differ from `default_name`.
        has_links: whether a file may be a link to one in the output.
    """

    def __init__(
        self,
        files: Sequence[str],
        root: Path | None = None,
        names: Mapping[str, str] | None = None,
        *,
        has_links: bool = True,
    ):
        self.root, self.has_links = root, has_links
        self._files, self._names = files, names or {}

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, index):
        if isinstance(index, slice):
            return JobList(self._files[index], self.root, self._names, has_links=self.has_links)
        file = self._files[index]
        path = Path(file) if self.root is None else self.root / file
        return Job(path, self._name(file))

    def names(self) -> Iterator[str]:
        """The name of every job."""
        return map(self._name, self._files)

    def paths(self) -> Iterator[str]:
        """The path of every file."""
        root = "" if self.root is None else f"{self.root}{os.sep}"
        return (root + file for file in self._files)

    def folders(self) -> set[str]:
        """The folders that hold files."""
        return {os.path.split(path)[0] for path in self.paths()}

    def videos(self) -> JobList:
        """The videos among the jobs."""
        files = [file for file in self._files if file.lower().endswith(VIDEO_SUFFIXES)]
        return JobList(files, self.root, self._names, has_links=self.has_links)

    def _name(self, file: str) -> str:
        return self._names.get(file) or default_name(file, self.root)


def default_name(file: str, root: Path | None) -> str:
    """A path below the input folder (without a folder its last part) without the suffix."""
    if root is None:
        file = os.path.split(file)[1]
    return _split_suffix(file)[0]


def _split_suffix(file: str) -> tuple[str, str]:
    return os.path.splitext(file)  # noqa: PTH122 - Path takes ten times as long


def find_jobs(
    source: str, *, recursive: bool = False, output: Path | None = None
) -> tuple[JobList, list[str]]:
    """Find images and videos.

    A folder is listed completely before the first image is predicted, since the names of masks
    depend on all files (a.png and a.jpg); the files themselves are not looked at.

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
        raise InputError(
            "not a kind of file that can be read ({kinds}); convert it",
            kinds=_KINDS,
            where=source,
        )
    if path.is_dir():
        found = _Listing()
        _list_folder(path, "", recursive, None if output is None else real_path(output), found)
    else:
        found = _sort_kinds([path] if path.is_file() else _match_pattern(source))
    notes = []
    if found.unknown:
        notes.append(
            translate(
                "skipped, not images or videos ({kinds}): {names}",
                kinds=_KINDS,
                names=_some_names(found.unknown),
            )
        )
    if found.folders:
        names = _some_names(found.folders)
        notes.append(
            translate("skipped: the folders {names} (--recursive goes into them)", names=names)
        )
    if found.closed:
        notes.append(
            translate(
                "skipped: folders that cannot be read: {names}",
                names=_some_names(found.closed),
            )
        )
    if found.files and path.is_dir():
        return _name_files(found.files, path, has_links=False), notes
    if found.files:
        return _name_files(found.files, None), notes
    if output is not None and real_path(path).is_relative_to(real_path(output)):
        raise InputError(
            "{source} is in the output {output}, whose files are not used as input; choose"
            " another --output",
            source=source,
            output=output,
        )
    nothing = translate(
        "no file, no folder with images or videos ({kinds}) and no pattern that matches one",
        kinds=_KINDS,
    )
    raise InputError("; ".join([nothing, *notes]), where=source)


def read_list(source: str) -> JobList:
    """Read the paths of images and videos from a file, one per line, or from the standard input
    for "-"; empty lines are skipped.

    Raises:
        InputError: no paths, a file of an unknown kind, or two files whose masks would have one
            name.
    """
    text = sys.stdin.read() if source == "-" else read_text(Path(source))
    files = [line.strip() for line in text.splitlines() if line.strip()]
    if not files:
        raise InputError("--list {source}: no paths in it, one per line", source=source)
    unknown = [file for file in files if not file.lower().endswith(KNOWN)]
    if unknown:
        raise InputError(
            "--list {source}: not images or videos ({kinds}): {names}",
            source=source,
            kinds=_KINDS,
            names=_some_names(unknown),
        )
    return _name_files(list(dict.fromkeys(files)), None)


def find_images(source: str) -> list[Path]:
    """Find images and videos as `find_jobs` does, and return their paths."""
    return [job.path for job in find_jobs(source)[0]]


def name_jobs(files: Sequence[Path | Job]) -> JobList:
    """Make jobs of paths, each named by the path's last part without the suffix; jobs keep their
    names.

    Where two would have the same name, the suffix becomes a part of both: a_png, a_jpg.

    Raises:
        InputError: two files would still have the same name.
    """
    if isinstance(files, JobList):
        return files
    named = {str(file.path): file.name for file in files if isinstance(file, Job)}
    paths = [str(file.path if isinstance(file, Job) else file) for file in files]
    return _name_files(paths, None, named)


def _name_files(
    files: Sequence[str],
    root: Path | None,
    named: Mapping[str, str] | None = None,
    *,
    has_links: bool = True,
) -> JobList:
    """Make jobs of files; those that are not `named` get their default name, or if another file
    has it too, with the suffix as a part.

    Raises:
        InputError: two files would still have the same name.
    """
    names = dict(named or {})

    def name(file: str) -> str:
        return names.get(file) or default_name(file, root)

    for group in _with_one_name([file for file in files if file not in names], name):
        for file in group:
            names[file] = f"{name(file)}_{_split_suffix(file)[1][1:]}"
    jobs = JobList(files, root, names, has_links=has_links)
    for group in _with_one_name(range(len(jobs)), lambda index: name(files[index])):
        first, second = jobs[group[0]], jobs[group[1]]
        raise InputError(
            "{path} and {other} would be written to the same file; predict their folders one"
            " by one, or with --recursive",
            path=first.path,
            other=second.path,
        )
    return jobs


def _with_one_name(items: Sequence[T], name: Callable[[T], str]) -> list[list[T]]:
    """Return the items that share their name with another, by name. The names of a million items
    are not held, only their hashes.
    """
    hashes = np.fromiter((hash(name(item)) for item in items), np.int64, len(items))
    values, counts = np.unique(hashes, return_counts=True)
    suspects = np.flatnonzero(np.isin(hashes, values[counts > 1]))
    groups: dict[str, list[T]] = defaultdict(list)
    for index in suspects.tolist():
        groups[name(items[index])].append(items[index])
    return [group for group in groups.values() if len(group) > 1]


def refuse_to_overwrite(jobs: Sequence[Job], targets: Iterable[Path]) -> None:
    """Raise InputError if a file that will be written would replace an input."""
    inputs = {real_path(job.path) for job in jobs}
    for target in targets:
        if real_path(target) in inputs:
            raise InputError(
                "{target} is one of the images and would be overwritten; choose another --output",
                target=target,
            )


def refuse_masks_among_images(jobs: Sequence[Job], folders: Iterable[Path]) -> None:
    """Raise InputError if masks would be written into a folder that holds inputs: the next reader
    of that folder, such as a training, would take the masks for images.
    """
    inputs = {real_path(job.path.parent) for job in jobs}
    for folder in folders:
        if real_path(folder) in inputs:
            raise InputError(
                "{folder} holds the images, and masks among them would be taken for images;"
                " choose another --output",
                folder=folder,
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
            "{path} and {other} would be written to the same file below the output; rename"
            " one, or predict them one by one",
            path=other.path,
            other=job.path,
        )


@dataclass
class _Listing:
    """What was found, in the order of paths: files of known and of unknown kinds, folders that were
    not entered, and folders that cannot be read.
    """

    files: list[str] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)
    folders: list[str] = field(default_factory=list)
    closed: list[str] = field(default_factory=list)


def _list_folder(
    folder: Path, below: str, recursive: bool, output: Path | None, found: _Listing
) -> None:
    """List a folder without hidden files and without what lies in the output; `below` is its path
    below the input folder, which ends in a slash.

    Pipes, devices and dangling links are kept: opening them reports what they are. No file is
    looked at, which would take minutes for a million on a network file system.
    """
    real = real_path(folder)
    if output is not None and real.is_relative_to(output):
        return
    names, folders = [], {}
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.name.startswith("."):
                    continue
                link = entry.is_symlink()
                if link and output is not None and real_path(entry).is_relative_to(output):
                    continue
                names.append(entry.name)
                if _is_folder(entry):
                    folders[entry.name] = link
    except OSError:
        found.closed.append(below or str(folder))
    names.sort()
    for name in names:
        if name not in folders:
            kind = found.files if name.lower().endswith(KNOWN) else found.unknown
            kind.append(below + name)
        elif not recursive:
            if output is None or not (real / name).is_relative_to(output):
                found.folders.append(below + name)
        elif not folders[name]:  # links to folders could lead in circles
            _list_folder(folder / name, f"{below}{name}/", recursive, output, found)


def _is_folder(entry: os.DirEntry) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link that leads to itself
        return False


def _sort_kinds(paths: Sequence[Path]) -> _Listing:
    """Sort paths by their kinds."""
    found = _Listing()
    for path in sorted(paths):
        if path.is_dir():
            found.folders.append(str(path))
        elif path.suffix.lower() in KNOWN:
            found.files.append(str(path))
        else:
            found.unknown.append(str(path))
    return found


def _match_pattern(pattern: str) -> list[Path]:
    """List what a pattern matches; of a file that links lead to several times, the shortest
    path.
    """
    paths = [Path(path) for path in glob.glob(pattern, recursive=True)]
    real = {folder: real_path(folder) for folder in {path.parent for path in paths}}
    first: dict[Path, Path] = {}
    for path in sorted(paths, key=lambda path: len(str(path))):
        first.setdefault(real[path.parent] / path.name, path)
    return list(first.values())


def real_path(path: str | os.PathLike) -> Path:
    """Resolve links; `Path.resolve` raises for a link that leads to itself."""
    return Path(os.path.realpath(path))


def _some_names(paths: Sequence[str]) -> str:
    names = sorted(Path(path).name for path in paths)
    if len(names) > 5:
        return f"{', '.join(names[:5])} and {len(names) - 5} more"
    return ", ".join(names)
