"""The log of a run: log.jsonl and trackers."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from kanseg.training.run_folder.trackers import Tracker, shrunk
from kanseg.utils.io import atomic_write
from kanseg.utils.reading import parse_json_line, read_json_lines

ENTRY = {"step": int, "epoch": int}  # what every line of log.jsonl has


class RunLog:
    """Appends JSON lines to `log.jsonl`, and passes numbers and images to trackers, in the main
    process only.

    The lines have no times, so that a resumed run writes the same file as an uninterrupted run.

    Args:
        run: folder of the run.
        active: True in the main process.
        trackers: of the main process.
        resumed: True to keep the existing lines.
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
        if not self.active:
            return 0
        return self.path.stat().st_size

    @property
    def draws(self) -> bool:
        """True if there is a tracker that shows images in this process."""
        return bool(self._trackers)

    def flush(self) -> None:
        """Flush the lines to disk, before a checkpoint stores their size."""
        if self.active:
            with self.path.open("rb+") as stream:
                os.fsync(stream.fileno())

    def write(self, entry: dict[str, Any]) -> None:
        """Write a line; pass its numbers to the trackers under names such as val/mean_iou."""
        if not self.active:
            return
        with self.path.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(plain(entry)) + "\n")
        scalars = dict(_scalars(entry))
        for tracker in self._trackers:
            tracker.scalars(scalars, entry["step"])

    def image(self, name: str, pixels: np.ndarray | None, *, step: int) -> None:
        """Pass an image (H, W, 3) uint8 to the trackers; None is ignored."""
        if pixels is None:
            return
        for tracker in self._trackers:
            tracker.image(name, shrunk(pixels), step)

    def close(self) -> None:
        """Close the trackers."""
        for tracker in self._trackers:
            tracker.close()

    def __enter__(self) -> RunLog:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            self.close()
        except OSError:
            # After an error this one only follows from it, as on a full disk.
            if error is None:
                raise


def read_log(path: Path) -> list[dict[str, Any]]:
    """Read all lines of a log.jsonl.

    Raises:
        InputError: a line that is not a log entry.
    """
    return read_json_lines(path, ENTRY, hint="delete the line to go on")


def trim_log(run: Path, state: Mapping[str, Any]) -> str | None:
    """Remove lines after the checkpoint and damaged lines from the log of a resumed run; create a
    missing log.

    Args:
        run: folder of the run.
        state: of the checkpoint: `log_bytes`, `step` and `epoch`.

    Returns:
        A message if lines are missing; None otherwise.
    """
    path = run / "log.jsonl"
    stored = b""
    if path.exists():
        stored = path.read_bytes()
    kept, damaged = [], 0
    for line in stored.splitlines(keepends=True):
        entry = parse_json_line(line, ENTRY)
        if entry is None or not line.endswith(b"\n"):
            damaged += 1
            continue
        # by step and epoch: byte counts are unreliable if lines before the checkpoint are lost
        is_later = entry["step"] > state["step"]
        if "train" in entry:  # the entry at the end of an epoch
            is_later = is_later or entry["epoch"] > state["epoch"]
        if not is_later:
            kept.append(line)
    text = b"".join(kept)
    if text != stored or not path.exists():
        with atomic_write(path) as temporary:
            temporary.write_bytes(text)
    if len(text) == state["log_bytes"]:
        return None
    return (
        f"{path} was damaged: {len(text)} bytes are left of the {state['log_bytes']} at the time of"
        f" the checkpoint ({damaged} unreadable lines); curves and report lack the rest"
    )


def plain(value: Any) -> Any:
    """Replace NaN and infinities in a nested value by None, for JSON."""
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
