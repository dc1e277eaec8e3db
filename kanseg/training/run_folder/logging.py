"""What a run tells: log.jsonl, and what trackers show."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from kanseg.training.run_folder.trackers import Tracker, shrunk
from kanseg.utils.io import atomic_write
from kanseg.utils.reading import parse_json_line, read_json_lines

ENTRY = {"step": int, "epoch": int}  # what every line of log.jsonl has


class RunLog:
    """Appends JSON lines to `log.jsonl`, and passes numbers and images to trackers; silent on all
    processes but the first.

    The lines hold no times, so that an interrupted and resumed run writes the same file as one that
    was not.

    Args:
        run: folder of the run.
        active: whether this process writes.
        trackers: that are told too, of the active process.
        resumed: whether the lines that are there are kept.
    """

    def __init__(
        self,
        run: Path,
        *,
        active: bool,
        trackers: Sequence[Tracker] = (),
        resumed: bool = False,
    ):
        self.path = run / "log.jsonl"
        self.active = active
        self._trackers = tuple(trackers) if active else ()
        if not active:
            return
        if not resumed:
            self.path.write_text("", encoding="utf-8")

    @property
    def size(self) -> int:
        """Bytes of log.jsonl so far."""
        return self.path.stat().st_size if self.active else 0

    @property
    def draws(self) -> bool:
        """Whether there is a tracker, on this process, that shows images."""
        return bool(self._trackers)

    def flush(self) -> None:
        """Put the lines on the disk, before a checkpoint counts them."""
        if self.active:
            with self.path.open("rb+") as stream:
                os.fsync(stream.fileno())

    def write(self, entry: dict[str, Any]) -> None:
        """One line; numbers go to the trackers under their slashed names at entry["step"]."""
        if not self.active:
            return
        with self.path.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(plain(entry)) + "\n")
        scalars = dict(_scalars(entry))
        for tracker in self._trackers:
            tracker.scalars(scalars, entry["step"])

    def image(self, name: str, pixels: np.ndarray | None, *, step: int) -> None:
        """An image (H, W, 3) uint8 for the trackers; None for nothing. log.jsonl holds none."""
        if pixels is None:
            return
        for tracker in self._trackers:
            tracker.image(name, shrunk(pixels), step)

    def close(self) -> None:
        """Let the trackers write what they hold back."""
        for tracker in self._trackers:
            tracker.close()


def read_log(path: Path) -> list[dict[str, Any]]:
    """All lines of a log.jsonl.

    Raises:
        InputError: a line that is not an entry.
    """
    return read_json_lines(path, ENTRY, cure="delete the line to go on")


def mend_log(run: Path, state: Mapping[str, Any]) -> str | None:
    """Cut the log of a run that goes on to what its checkpoint had seen, without damaged lines;
    made anew where it is gone.

    Args:
        run: folder of the run.
        state: of the checkpoint: `log_bytes`, `step` and `epoch`.

    Returns:
        What is missing, in words; None where the log is as long as it was.
    """
    path = run / "log.jsonl"
    stored = path.read_bytes() if path.exists() else b""
    kept, damaged = [], 0
    for line in stored.splitlines(keepends=True):
        entry = parse_json_line(line, ENTRY)
        if entry is None or not line.endswith(b"\n"):
            damaged += 1
        elif not _later(entry, state):
            kept.append(line)
    text = b"".join(kept)
    if text != stored or not path.exists():
        with atomic_write(path) as temporary:
            temporary.write_bytes(text)
    if len(text) == state["log_bytes"]:
        return None
    return (
        f"{path} was damaged: {len(text)} bytes are left of the {state['log_bytes']} that the"
        f" checkpoint has seen ({damaged} lines cannot be read); curves and report lack the others"
    )


def _later(entry: Mapping[str, Any], state: Mapping[str, Any]) -> bool:
    """Whether an entry was written after a checkpoint. Its number of bytes does not tell where a
    line was lost before.
    """
    ends_epoch = "train" in entry
    return entry["step"] > state["step"] or (ends_epoch and entry["epoch"] > state["epoch"])


def plain(value: Any) -> Any:
    """The same nested value with NaN and infinities as None, which JSON can hold."""
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def _scalars(entry: dict[str, Any], prefix: str = ""):
    for key, value in entry.items():
        if isinstance(value, dict):
            yield from _scalars(value, f"{prefix}{key}/")
        elif (
            isinstance(value, (int, float))
            and not isinstance(value, bool)
            and key not in ("step", "epoch")
            and math.isfinite(value)
        ):
            yield prefix + key, value
