"""Which process does something, and whether it still runs."""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

# Seconds by which two readings of a start time may differ.
TOLERANCE = 2.0


@dataclass(frozen=True)
class ProcessId:
    """A process on any machine. The start time tells it from later ones with its number.

    Args:
        host: as of `this_host`.
        pid: number of the process.
        started: seconds since 1970.
    """

    host: str
    pid: int
    started: float

    def __str__(self) -> str:
        return f"{self.host.partition('/')[0]}:{self.pid}"

    def has_ended(self) -> bool | None:
        """True if the process is gone; None if it is on another host."""
        import psutil

        if self.host != this_host():
            return None
        try:
            process = psutil.Process(self.pid)
            if abs(process.create_time() - self.started) > TOLERANCE:
                return True
            return process.status() == psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return True
        except psutil.AccessDenied:  # somebody else's, so it runs
            return False


def this_process() -> ProcessId:
    """The process that calls."""
    import psutil

    return ProcessId(this_host(), os.getpid(), psutil.Process().create_time())


@lru_cache(maxsize=1)
def this_host() -> str:
    """Name of this machine; containers, whose processes are counted apart, differ after a slash."""
    name = socket.gethostname()
    try:
        return f"{name}/{Path('/proc/self/ns/pid').stat().st_ino}"
    except OSError:  # not Linux
        return name
