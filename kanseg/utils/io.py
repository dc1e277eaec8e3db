"""Write files and folders atomically."""

from __future__ import annotations

import hashlib
import os
import shutil
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def atomic_write(path: Path, *, durable: bool = False) -> Iterator[Path]:
    """Yield a temporary path beside `path`, and rename it to `path` when the block has succeeded.

    Readers see the old file or the new one, never a partial one. After an error the temporary file
    is deleted.

    Args:
        path: the file; missing parent folders are created.
        durable: flush the content to disk first, so that it survives a power loss.

    Example:
        >>> with atomic_write(Path("scores.csv")) as temporary:
        ...     table.to_csv(temporary)
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_beside(path, path.suffix)
    try:
        yield temporary
        if durable:
            with temporary.open("rb") as stream:
                os.fsync(stream.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def atomic_write_text(path: Path, text: str) -> None:
    """Write a UTF-8 text file atomically, also if the power fails."""
    with atomic_write(path, durable=True) as temporary:
        temporary.write_text(text, encoding="utf-8")


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Yield a temporary folder beside `path`, and rename it to `path` when the block has
    succeeded. `path` must not exist or be empty.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_beside(path)
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        temporary.mkdir()
        yield temporary
        if path.exists():
            path.rmdir()
        temporary.replace(path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def user_cache_folder(name: str) -> Path:
    """The folder `name` for files that can be made or fetched again: in KANSEG_CACHE, or in the
    user's cache folder.
    """
    if os.environ.get("KANSEG_CACHE"):
        return Path(os.environ["KANSEG_CACHE"]) / name
    if os.environ.get("XDG_CACHE_HOME"):
        return Path(os.environ["XDG_CACHE_HOME"]) / "kanseg" / name
    folder = "~/.cache"
    if sys.platform == "win32":
        folder = os.environ.get("LOCALAPPDATA") or "~/AppData/Local"
    elif sys.platform == "darwin":
        folder = "~/Library/Caches"
    # os.path: unlike Path.expanduser, it leaves "~" as it is where there is no home
    return Path(os.path.expanduser(folder)) / "kanseg" / name  # noqa: PTH111


def temporary_beside(path: Path, suffix: str = "") -> Path:
    """The temporary path of this process for a file that will be renamed to `path`. Its name is
    hidden, ends in `.tmp` and the suffix, and is short even if that of `path` is long.
    """
    # Processes on several machines, which may share a folder, can have the same number.
    digest = hashlib.sha256(os.fsencode(f"{socket.gethostname()} {path.name}")).hexdigest()[:16]
    return path.with_name(f".{digest}.{os.getpid()}.tmp{suffix}")


def file_digest(path: Path) -> str:
    """SHA-256 of a file, in hex digits."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def replace_folder(temporary: Path, path: Path) -> None:
    """Rename a complete folder to `path`, replacing a folder of that name.

    The old folder is renamed first and deleted last: if the process is killed, one of the two
    folders is still complete.
    """
    old = path.with_name(f".{path.name}.{os.getpid()}.old.tmp")
    _delete(old)
    if os.path.lexists(path):
        path.replace(old)
    temporary.replace(path)
    flush_folder(path.parent)
    _delete(old)


def replace_link(link: Path, target: Path) -> None:
    """Make `link` a relative symbolic link to `target`, replacing an older one atomically. Where
    links are not allowed, copy the folder `target`.
    """
    temporary = link.with_name(f".{link.name}.{os.getpid()}.tmp")
    _delete(temporary)
    try:
        temporary.symlink_to(os.path.relpath(target, link.parent), target_is_directory=True)
    except OSError:  # Windows without the privilege, some network file systems
        shutil.copytree(target, temporary)
    if link.is_dir() and not (link.is_symlink() and temporary.is_symlink()):
        replace_folder(temporary, link)  # a run that was copied without its links has folders here
    else:
        temporary.replace(link)


def flush_folder(folder: Path) -> None:
    """Flush the names in a folder to disk, where the system can."""
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _delete(path: Path) -> None:
    if path.is_symlink():
        path.unlink()
    else:
        shutil.rmtree(path, ignore_errors=True)
