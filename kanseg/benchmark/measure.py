"""Measure the time of functions. `kanseg.models.operations.saved_bytes` measures their memory."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import nn

from kanseg.utils.errors import InputError

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
WARMUP = 2
Step = Callable[[], object]


@dataclass(frozen=True)
class Setting:
    """Options of a measurement.

    Args:
        device: "cpu" (CPU time of the process, so that other programs do not count) or "cuda"
            (CUDA events).
        dtype: "float32", or "bfloat16" or "float16" for autocast.
        rounds: how often every candidate is measured.
        shortest: milliseconds. Shorter steps are repeated for at least this long, because of the
            resolution of the clock and the cost of context switches.

    Raises:
        InputError: an unknown name, no rounds, or a device that is not available.
    """

    device: str = "cpu"
    dtype: str = "float32"
    rounds: int = 10
    shortest: float = 20.0

    def __post_init__(self) -> None:
        if self.device not in ("cpu", "cuda"):
            raise InputError(f"device must be cpu or cuda, got {self.device!r}")
        if self.device == "cuda" and not torch.cuda.is_available():
            raise InputError(
                "device cuda: this PyTorch sees no CUDA device; use --device cpu, or install a CUDA"
                " build and its driver"
            )
        if self.dtype not in DTYPES:
            raise InputError(f"dtype must be one of {', '.join(DTYPES)}, got {self.dtype!r}")
        if self.rounds < 1:
            raise InputError(f"rounds must be at least 1, got {self.rounds}")

    def autocast(self) -> AbstractContextManager:
        """A new context for one step; as in training, the autocast cache lives no longer."""
        if self.dtype == "float32":
            return nullcontext()
        return torch.autocast(self.device, DTYPES[self.dtype])

    def milliseconds(self, step: Step, count: int) -> float:
        """Milliseconds per step, over `count` steps in a row."""
        if self.device == "cpu":
            start = time.process_time()
            for _ in range(count):
                step()
            return (time.process_time() - start) * 1e3 / count
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        for _ in range(count):
            step()
        end.record()
        end.synchronize()
        return start.elapsed_time(end) / count


def interleaved(
    steps: Mapping[str, Step], setting: Setting, clean_up: Step = lambda: None
) -> dict[str, list[float]]:
    """Measure steps in turns, so that other load affects all alike.

    Args:
        steps: name -> step.
        setting: device and rounds.
        clean_up: called after each measurement, not timed.

    Returns:
        name -> milliseconds in each round.
    """
    counts = {}
    for name, step in steps.items():
        for _ in range(WARMUP):
            once = setting.milliseconds(step, 1)
            clean_up()
        counts[name] = max(1, math.ceil(setting.shortest / max(once, 0.01)))
    times: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(setting.rounds):
        for name, step in steps.items():
            times[name].append(setting.milliseconds(step, counts[name]))
            clean_up()
    return times


class Ratio(NamedTuple):
    """Median over the rounds, and half the interquartile range."""

    median: float
    spread: float

    def __str__(self) -> str:
        return f"{self.median:.2f} ± {self.spread:.2f}"


def ratio(times: Sequence[float], others: Sequence[float]) -> Ratio:
    """Ratio of the times of two candidates that were measured in turns. A round that is too short
    for the clock counts as NaN.
    """
    each = []
    for time_, other in zip(times, others, strict=True):
        each.append(time_ / other if other > 0 else math.nan)
    if len(each) == 1:
        return Ratio(each[0], 0.0)
    low, middle, high = statistics.quantiles(each, n=4, method="inclusive")
    return Ratio(middle, (high - low) / 2)


def trained(module: nn.Module) -> list[nn.Parameter]:
    """The parameters that require gradients."""
    return [parameter for parameter in module.parameters() if parameter.requires_grad]
