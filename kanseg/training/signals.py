"""Stop a run on SIGTERM, SIGUSR1 or SIGINT (Ctrl-C) after its current step, with a checkpoint."""

from __future__ import annotations

import os
import signal
from types import TracebackType

import torch
from accelerate import Accelerator

STOP_SIGNALS = [signal.SIGTERM, signal.SIGINT]
if hasattr(signal, "SIGUSR1"):  # not on Windows; what SLURM sends before a job's time is over
    STOP_SIGNALS.append(signal.SIGUSR1)


class StopSignals:
    """Context that records the signals instead of ending the process; a second SIGINT raises
    KeyboardInterrupt at once.
    """

    def __init__(self) -> None:
        self.received: int | None = None
        self._previous: dict[int, object] = {}

    def __enter__(self) -> StopSignals:
        for number in STOP_SIGNALS:
            self._previous[number] = signal.signal(number, self._handle)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _handle(self, number: int, _: object) -> None:
        if number == signal.SIGINT:
            if self.received is not None:
                raise KeyboardInterrupt
            # not print: the signal may have interrupted print itself
            os.write(2, b"\nsaving after this step; Ctrl-C again stops at once\n")
        self.received = self.received or number

    def in_any_process(self, accelerator: Accelerator) -> int | None:
        """Return the signal that any process of the run has received, or None, so that all
        processes stop after the same step.
        """
        if accelerator.num_processes == 1:
            return self.received
        flags = [int(self.received == number) for number in STOP_SIGNALS]
        counts = accelerator.reduce(torch.tensor(flags, device=accelerator.device), "sum")
        for number, count in zip(STOP_SIGNALS, counts, strict=True):
            if count:
                return number
        return None
