"""What a run tells: log.jsonl, and what trackers show."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from kanseg.training.trackers import Tracker, shrunk


class RunLog:
    """Appends JSON lines to `log.jsonl`, and passes numbers and pictures to trackers; silent on all
    processes but the first.

    The lines hold no times, so that an interrupted and resumed run writes the same file as one that
    was not.

    Args:
        run: folder of the run.
        active: whether this process writes.
        trackers: that are told too, of the active process.
        keep_bytes: length to which an existing log is cut (what the resumed checkpoint had seen);
            None for a new log.
    """

    def __init__(
        self,
        run: Path,
        *,
        active: bool,
        trackers: Sequence[Tracker] = (),
        keep_bytes: int | None = None,
    ):
        self.path = run / "log.jsonl"
        self.active = active
        self._trackers = tuple(trackers) if active else ()
        if not active:
            return
        if keep_bytes is None:
            self.path.write_text("", encoding="utf-8")
        else:
            self.path.touch()
            os.truncate(self.path, min(keep_bytes, self.path.stat().st_size))

    @property
    def size(self) -> int:
        """Bytes of log.jsonl so far."""
        return self.path.stat().st_size if self.active else 0

    @property
    def draws(self) -> bool:
        """Whether there is a tracker, on this process, that shows pictures."""
        return bool(self._trackers)

    def write(self, entry: dict[str, Any]) -> None:
        """One line; numbers go to the trackers under their slashed names at entry["step"]."""
        if not self.active:
            return
        with self.path.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(plain(entry)) + "\n")
        scalars = dict(_scalars(entry))
        for tracker in self._trackers:
            tracker.scalars(scalars, entry["step"])

    def image(self, name: str, picture: np.ndarray | None, *, step: int) -> None:
        """A picture (H, W, 3) uint8 for the trackers; None for nothing. log.jsonl holds none."""
        if picture is None:
            return
        for tracker in self._trackers:
            tracker.image(name, shrunk(picture), step)

    def close(self) -> None:
        """Let the trackers write what they hold back."""
        for tracker in self._trackers:
            tracker.close()


def read_log(path: Path) -> list[dict[str, Any]]:
    """All lines of a log.jsonl."""
    return [
        json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()
    ]


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
