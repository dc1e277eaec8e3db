"""The log of a run: log.jsonl and trackers."""

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
    """Appends JSON lines to `log.jsonl`, and passes numbers and images to trackers, in the main
    process only.

    The lines hold no times, so that a resumed run writes the same file as one that was not
    interrupted.

    Args:
        run: folder of the run.
        active: True in the main process.
        trackers: of the main process.
        resumed: keep the lines that are there.
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
        """True if there is a tracker that shows images in this process."""
        return bool(self._trackers)

    def flush(self) -> None:
        """Flush the lines to the disk, before a checkpoint counts them."""
        if self.active:
            with self.path.open("rb+") as stream:
                os.fsync(stream.fileno())

    def write(self, entry: dict[str, Any]) -> None:
        """Write a line; the trackers get its numbers by names such as val/mean_iou."""
        if not self.active:
            return
        with self.path.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(plain(entry)) + "\n")
        scalars = dict(_scalars(entry))
        for tracker in self._trackers:
            tracker.scalars(scalars, entry["step"])

    def image(self, name: str, pixels: np.ndarray | None, *, step: int) -> None:
        """Give the trackers an image (H, W, 3) uint8; None is ignored."""
        if pixels is None:
            return
        for tracker in self._trackers:
            tracker.image(name, shrunk(pixels), step)

    def close(self) -> None:
        """Close the trackers."""
        for tracker in self._trackers:
            tracker.close()


def read_log(path: Path) -> list[dict[str, Any]]:
    """All lines of a log.jsonl.

    Raises:
        InputError: a line that is not an entry.
    """
    return read_json_lines(path, ENTRY, hint="delete the line to go on")


def trim_log(run: Path, state: Mapping[str, Any]) -> str | None:
    """Cut the log of a resumed run to what its checkpoint had seen, and drop damaged lines; a
    missing log is created.

    Args:
        run: folder of the run.
        state: of the checkpoint: `log_bytes`, `step` and `epoch`.

    Returns:
        A message if lines are missing; None otherwise.
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
    """True if an entry was written after a checkpoint. Byte counts do not tell, since lines before
    it may have been lost.
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
