"""Hardware, versions, and the process of a distributed run."""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from pathlib import Path

import torch

# Environment variables of launchers (torchrun and several kinds of MPI).
WORLD_SIZES = ("WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE")
RANKS = ("RANK", "PMI_RANK", "OMPI_COMM_WORLD_RANK", "MV2_COMM_WORLD_RANK")


def launched_processes() -> int:
    """Number of processes that a launcher has started for this command; 1 without a launcher."""
    return _largest(WORLD_SIZES, 1)


def process_rank() -> int:
    """Rank of this process among the launched ones; 0 without a launcher."""
    return _largest(RANKS, 0)


def _largest(names: Sequence[str], default: int) -> int:
    values = [os.environ.get(name, "") for name in names]
    return max([int(value) for value in values if value.isdigit()], default=default)


def environment_line(device: str = "cpu") -> str:
    """Processor, versions of torch and Python, and number of threads, on one line."""
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
    """Name of the processor, or the architecture if the name is unknown."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return next(iter(names), None) or platform.processor() or platform.machine()
