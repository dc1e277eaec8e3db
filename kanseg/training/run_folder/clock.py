"""The time that a run takes, over all of its sessions."""

from __future__ import annotations

import json
import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from kanseg.utils.errors import InputError
from kanseg.utils.io import atomic_write_text
from kanseg.utils.reading import read_json, typed

TIMES = "times.json"  # not in a checkpoint: its files are the same however often a run was resumed


@dataclass(frozen=True)
class Times:
    """Seconds of a run: in all, of the CPU, and of the CPU in the training loop."""

    seconds: float = 0.0
    cpu_seconds: float = 0.0
    training_cpu_seconds: float = 0.0


class RunClock:
    """Measures the time of a run. A resumed run adds the time of its earlier sessions, up to the
    last checkpoint of each.
    """

    def __init__(self) -> None:
        self.earlier = Times()
        self._started, self._started_cpu = time.perf_counter(), time.process_time()
        # CPU time at the start and at the end of the training loop
        self.loop_started: float | None = None
        self.loop_ended: float | None = None

    def resume(self, run: Path) -> None:
        """Add the time of the earlier sessions; older runs have stored none."""
        path = run / TIMES
        with suppress(OSError, InputError):
            self.earlier = typed(read_json(path), Times, path)

    def times(self) -> Times:
        """Return the time of all sessions so far."""
        cpu = time.process_time()
        loop = 0.0
        if self.loop_started is not None:
            loop = (self.loop_ended or cpu) - self.loop_started
        return Times(
            round(self.earlier.seconds + time.perf_counter() - self._started, 1),
            round(self.earlier.cpu_seconds + cpu - self._started_cpu, 1),
            round(self.earlier.training_cpu_seconds + loop, 1),
        )

    def save(self, run: Path) -> None:
        """Store the time so far, with a checkpoint."""
        atomic_write_text(run / TIMES, json.dumps(asdict(self.times())) + "\n")
