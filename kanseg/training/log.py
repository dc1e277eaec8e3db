"""What a run tells: log.jsonl, TensorBoard, a line a validation on the terminal."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any


class RunLog:
    """Appends JSON lines to `log.jsonl`, and scalars to TensorBoard; silent on all processes but the first.

    The lines hold no times, so that an interrupted and resumed run writes the same file as one that was not.

    Args:
        run: folder of the run.
        active: whether this process writes.
        tensorboard: whether to write event files too.
        keep_bytes: length to which an existing log is cut (what the resumed checkpoint had seen); None for a new log.
        step: the step that is resumed, for TensorBoard.
    """

    def __init__(self, run: Path, *, active: bool, tensorboard: bool, keep_bytes: int | None = None, step: int = 0):
        self.path = run / "log.jsonl"
        self.active = active
        self._events = None
        if not active:
            return
        if keep_bytes is None:
            self.path.write_text("", encoding="utf-8")
        else:
            self.path.touch()
            os.truncate(self.path, min(keep_bytes, self.path.stat().st_size))
        if tensorboard:
            from torch.utils.tensorboard import SummaryWriter

            self._events = SummaryWriter(str(run / "tensorboard"), purge_step=step or None)

    @property
    def size(self) -> int:
        """Bytes of log.jsonl so far."""
        return self.path.stat().st_size if self.active else 0

    def write(self, entry: dict[str, Any]) -> None:
        """One line; numbers go to TensorBoard under their dotted names at entry["step"]."""
        if not self.active:
            return
        with self.path.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(plain(entry)) + "\n")
        if self._events is not None:
            for name, value in _scalars(entry):
                self._events.add_scalar(name, value, entry["step"])

    def close(self) -> None:
        """Flush the event file."""
        if self._events is not None:
            self._events.close()


def read_log(path: Path) -> list[dict[str, Any]]:
    """All lines of a log.jsonl."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]


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
        elif isinstance(value, (int, float)) and key not in ("step", "epoch") and math.isfinite(value):
            yield prefix + key, value
