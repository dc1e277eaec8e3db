"""The line that says which machine it was, cells that say whether a limit is met, and names that are not known."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from pathlib import Path

import torch

from kanseg.errors import InputError
from kanseg.registry import nearest


def machine_line(device: str = "cpu") -> str:
    """Processor, versions and threads."""
    threads = torch.get_num_threads()
    parts = [_processor(), f"torch {torch.__version__}", f"Python {platform.python_version()}", f"{threads} thread{'s' * (threads != 1)}"]
    if device == "cuda":
        parts.insert(0, torch.cuda.get_device_name())
    return ", ".join(parts)


def _processor() -> str:
    """Its name where the system tells, else the architecture."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return next(iter(names), None) or platform.processor() or platform.machine()


def limits(values: Sequence[float | None]) -> str:
    """What is to be reached, `1.4 / 1.4 / 4`; a dash where nothing is stated."""
    return " / ".join("-" if value is None else f"{value:.2g}" if value < 1 else f"{value:g}" for value in values)


def is_met(values: Sequence[tuple[float, float | None, int]]) -> bool | None:
    """Whether every figure, rounded to so many digits as it is printed, is within its limit; None where no limit is stated."""
    stated = [round(value, digits) <= limit for value, limit, digits in values if limit is not None]
    return all(stated) if stated else None


def answer(met: bool | None) -> str:
    """The same as a cell of a table."""
    return {True: "yes", False: "no", None: "-"}[met]


def check_names(kind: str, known: Sequence[str], given: Sequence[str]) -> None:
    """InputError for the first of the given names that is not known."""
    unknown = [name for name in given if name not in known]
    if unknown:
        raise InputError(f"unknown {kind} {unknown[0]!r}{nearest(unknown[0], known)} (known: {', '.join(dict.fromkeys(known))})")
