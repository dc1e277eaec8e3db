"""Estimate how long a training takes, from its first steps."""

from __future__ import annotations

import time
from collections.abc import Callable

from kanseg.utils.language import translate

SKIPPED_STEPS = 2  # the first ones compile kernels, start workers and tune convolutions
MIN_STEPS = 3
MIN_SECONDS = 5.0
SLOW_SECONDS = 3600.0


class TimeEstimate:
    """Measures the first steps of a session, and reports once what all of them will take.

    Args:
        steps_per_epoch: optimizer steps of an epoch.
        steps_left: optimizer steps until the end of the run.
        on_cpu: whether to name what makes a slow run faster.
        log: called with the line.
        clock: seconds of some clock.
    """

    def __init__(
        self,
        steps_per_epoch: int,
        steps_left: int,
        *,
        on_cpu: bool,
        log: Callable[[str], None],
        clock: Callable[[], float] = time.perf_counter,
    ):
        self.steps_per_epoch, self.steps_left = steps_per_epoch, steps_left
        self.on_cpu, self.log, self.clock = on_cpu, log, clock
        self.steps = -SKIPPED_STEPS
        self.started = 0.0
        self.reported = False

    def step(self) -> None:
        """Count a finished step; log the estimate when enough of them are measured."""
        self.steps += 1
        if self.steps == 0:
            self.started = self.clock()
        if self.reported or self.steps < MIN_STEPS:
            return
        elapsed = self.clock() - self.started
        if elapsed < MIN_SECONDS:
            return
        self.reported = True
        seconds = elapsed / self.steps
        left = seconds * (self.steps_left - self.steps - SKIPPED_STEPS)
        if left < elapsed:
            return  # nearly done
        line = translate(
            "time: about {epoch} per epoch, {left} until the end, without validation",
            epoch=duration(seconds * self.steps_per_epoch),
            left=duration(left),
        )
        if self.on_cpu and left > SLOW_SECONDS:
            line += translate(
                "; smaller images (data.resize, data.crop), a smaller network (model.options"
                " {width: ...}) or fewer training.epochs make it shorter, and a GPU many times"
            )
        self.log(line)


def duration(seconds: float) -> str:
    """Format seconds for people: 45 s, 12 min, 3.5 h."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    if seconds < 100 * 60:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"
