"""Claim files, by which processes that write into one folder divide the files among them."""

from __future__ import annotations

import hashlib
import json
import os
import re
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from kanseg.inference.files.processes import ProcessId, this_process
from kanseg.utils.io import atomic_write

CLAIMS = ".claims"  # folder in the output
MEMBER = "process."  # first part of the name of a process's own file
BEAT = 20.0  # seconds between two signs of life
# Seconds without a sign of life after which a process on another machine has ended.
PATIENCE = 300.0


@dataclass(frozen=True)
class Claim:
    """What a claim file holds.

    Args:
        process: that has the file, or had it.
        error: why the file failed there; None while it is predicted.
    """

    process: ProcessId
    error: str | None = None


UNKNOWN = Claim(ProcessId("", 0, 0.0))


@dataclass(frozen=True)
class Member:
    """A process that takes part.

    Args:
        process: which.
        began: seconds since 1970, by its own clock.
        left: whether it has ended in order.
    """

    process: ProcessId
    began: float
    left: bool = False


class Claims:
    """Lets each file be taken by one process.

    A claim is a file `KEY.0` that is created by one process and no other (O_EXCL), and names it.
    Where that process has ended, the claim is taken over by creating `KEY.1`, which again only one
    process can, and so on; claims are never changed by others. A process of this machine has ended
    if its number is gone or was given to another; one of another machine if its own file
    `process.NAME` was not touched for `PATIENCE` seconds, by the clock of the file system.

    Masks must exist before a claim is released, and be looked for after it was taken.

    Args:
        output: folder that the processes share.
        process: that claims; by default this one.
    """

    def __init__(self, output: Path, process: ProcessId | None = None):
        self.folder = output / CLAIMS
        self.process = process or this_process()
        self._member = Member(self.process, time.time())
        self._path = self.folder / _member_name(self.process)
        self._held: dict[str, Path] = {}
        self._write_member()
        self._began = self._path.stat().st_mtime
        self._stop = threading.Event()
        self._beats = threading.Thread(target=self._beat, daemon=True)
        self._beats.start()

    def take(self, name: str) -> Claim | None:
        """Claim a file; None if this process has it now, otherwise the claim of another.

        A claim with an error says that the file has failed in another process since this one began.
        """
        key = hashlib.sha256(os.fsencode(name)).hexdigest()[:32]
        generation = 0
        while True:
            path = self.folder / f"{key}.{generation}"
            if self._create(path):
                self._held[name] = path
                return None
            claim, touched = self._read(path)
            if touched is None:  # released just now
                continue
            if not self._is_stale(claim, touched):
                return claim
            generation += 1

    def release(self, name: str) -> None:
        """Give a file back whose masks exist, or that was not predicted."""
        self._held.pop(name).unlink(missing_ok=True)

    def fail(self, name: str, error: str) -> None:
        """Let no process that runs now try a file again."""
        self._write(self._held.pop(name), Claim(self.process, error))

    def leave(self) -> list[Member]:
        """Give back everything, and end. Returns all processes that took part if this one is the
        last of them, and removes their claims; otherwise an empty list.
        """
        self._stop.set()
        self._beats.join()
        for name in list(self._held):
            self.release(name)
        files = list(self.folder.iterdir())
        self._member = Member(self.process, self._member.began, left=True)
        self._write_member()
        members = list(self._members())
        if not all(member.left or self._has_ended(member.process) for member in members):
            return []
        if self.take("") is not None:  # another one sums up at the same time
            return []
        # Files of a process that has begun meanwhile are not among them.
        for path in [*files, self._held.pop("")]:
            path.unlink(missing_ok=True)
        with suppress(OSError):
            self.folder.rmdir()
        return members

    def _beat(self) -> None:
        while not self._stop.wait(BEAT):
            with suppress(OSError):  # a network file system may answer again
                self._show_life()

    def _create(self, path: Path) -> bool:
        """Create a claim; False if it exists."""
        text = json.dumps(asdict(Claim(self.process)))
        while True:
            try:
                with path.open("x", encoding="utf-8") as file:
                    file.write(text)
                return True
            except FileExistsError:
                return False
            except FileNotFoundError:  # the last of earlier processes has removed the folder
                self._write_member()

    def _write_member(self) -> None:
        self._write(self._path, self._member)

    def _write(self, path: Path, content: Claim | Member) -> None:
        text = json.dumps(asdict(content))
        while True:
            try:
                with atomic_write(path) as temporary:
                    temporary.write_text(text, encoding="utf-8")
                return
            except FileNotFoundError:  # the last of earlier processes removes the folder
                continue

    def _read(self, path: Path) -> tuple[Claim, float | None]:
        """Read (a claim, the time of its file, None if it was released)."""
        try:
            touched = path.stat().st_mtime
            content = json.loads(path.read_text(encoding="utf-8"))
            return Claim(ProcessId(**content["process"]), content["error"]), touched
        except FileNotFoundError:
            return UNKNOWN, None
        except ValueError:  # it is being written, or its process was killed then
            return UNKNOWN, touched

    def _is_stale(self, claim: Claim, touched: float) -> bool:
        if claim.error is not None:
            return touched < self._began
        if claim is UNKNOWN:
            return self._now() - touched > PATIENCE
        return self._has_ended(claim.process)

    def _has_ended(self, process: ProcessId) -> bool:
        ended = process.has_ended()
        if ended is not None:
            return ended
        try:
            touched = (self.folder / _member_name(process)).stat().st_mtime
        except FileNotFoundError:
            return True
        return self._now() - touched > PATIENCE

    def _now(self) -> float:
        """The time by the clock of the file system."""
        self._show_life()
        return self._path.stat().st_mtime

    def _show_life(self) -> None:
        try:
            os.utime(self._path)
        except FileNotFoundError:  # the last of earlier processes has removed it
            self._write_member()

    def _members(self) -> Iterator[Member]:
        for path in sorted(self.folder.glob(f"{MEMBER}*")):
            with suppress(FileNotFoundError):
                content = json.loads(path.read_text(encoding="utf-8"))
                process = ProcessId(**content["process"])
                yield Member(process, content["began"], content["left"])


def process_name(process: ProcessId) -> str:
    """A name for files of a process."""
    host = re.sub(r"[^\w-]", "_", process.host.partition("/")[0])
    return f"{host}-{process.pid}"


def _member_name(process: ProcessId) -> str:
    digest = hashlib.sha256(f"{process.host} {process.started}".encode()).hexdigest()[:8]
    return f"{MEMBER}{process_name(process)}.{digest}"
