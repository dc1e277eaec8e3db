"""Hardware, versions, and the rank of this process in a distributed run."""

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
    """Number of processes that a launcher such as torchrun has started; 1 without a launcher."""
    return _largest(WORLD_SIZES, 1)


def process_rank() -> int:
    """Rank of this process; 0 without a launcher."""
    return _largest(RANKS, 0)


def local_device() -> str | None:
    """The GPU of this process under a launcher, such as "cuda:1"; None without a launcher or GPU,
    where the default is right.
    """
    rank = os.environ.get("LOCAL_RANK", "")
    if not rank.isdigit() or not torch.cuda.is_available():
        return None
    return f"cuda:{int(rank) % torch.cuda.device_count()}"


def _largest(names: Sequence[str], default: int) -> int:
    values = [os.environ.get(name, "") for name in names]
    return max([int(value) for value in values if value.isdigit()], default=default)


def environment_line(device: str = "cpu") -> str:
    """Describe the processor, the versions of torch and Python and the threads on one line."""
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
    for line in lines:
        name = line.partition(":")[2].strip()
        if line.startswith("model name") and name:
            return name
    return platform.processor() or platform.machine()
