"""On which machine, and in which of several processes, something runs."""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from pathlib import Path

import torch

# Names under which launchers (torchrun, several kinds of MPI) tell how many processes they started
# for a command, and which one this is.
WORLD_SIZES = ("WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE")
RANKS = ("RANK", "PMI_RANK", "OMPI_COMM_WORLD_RANK", "MV2_COMM_WORLD_RANK")


def launched_processes() -> int:
    """How many processes a launcher has started for this command; 1 without one."""
    return _largest(WORLD_SIZES, 1)


def process_rank() -> int:
    """Which of the launched processes this one is; 0 without a launcher."""
    return _largest(RANKS, 0)


def _largest(names: Sequence[str], default: int) -> int:
    values = [os.environ.get(name, "") for name in names]
    return max([int(value) for value in values if value.isdigit()], default=default)


def environment_line(device: str = "cpu") -> str:
    """Processor, versions and threads."""
    threads = torch.get_num_threads()
    parts = [
        _processor(),
        f"torch {torch.__version__}",
        f"Python {platform.python_version()}",
        f"{threads} thread{'s' * (threads != 1)}",
    ]
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
