"""The line that says on which machine something ran."""

from __future__ import annotations

import platform
from pathlib import Path

import torch


def machine_line(device: str = "cpu") -> str:
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
