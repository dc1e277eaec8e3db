"""Measure size and speed of a network in every exported form."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from kanseg.export.check import Agreement
from kanseg.inference.exported import open_exported
from kanseg.utils.tables import markdown_table


@dataclass(frozen=True)
class Row:
    """A row of the table: the network itself, or an exported file.

    Args:
        form: its name.
        bytes: size of the file, or of the weights of the network.
        one_thread, all_threads: median milliseconds per call, with one thread and with `threads`.
        threads: number of threads that torch uses.
        agreement: of the file with the network; None for the network itself.
        mean_iou: on the requested splits; None without splits.
    """

    form: str
    bytes: int
    one_thread: float
    all_threads: float
    threads: int
    agreement: Agreement | None = None
    mean_iou: float | None = None

    def cells(self) -> list[str]:
        """The cells in the order of the columns of `export_table`."""
        probability, differing, mean_iou = "", "", ""
        if self.agreement is not None:
            differing = f"{self.agreement.differing:.3%}"
            if self.agreement.probability is not None:
                probability = f"{self.agreement.probability:.1e}"
        if self.mean_iou is not None:
            mean_iou = f"{self.mean_iou:.4f}"
        return [
            self.form,
            f"{self.bytes / 2**20:.2f}",
            f"{self.one_thread:.1f}",
            f"{self.all_threads:.1f}",
            probability,
            differing,
            mean_iou,
        ]


def export_table(rows: list[Row]) -> str:
    """Format the rows, of which there is at least one, as a Markdown table."""
    header = (
        "form",
        "MiB",
        "ms, 1 thread",
        f"ms, all threads ({rows[0].threads})",
        "probability",
        "labels differ",
        "mean IoU",
    )
    return markdown_table(header, [row.cells() for row in rows])


def milliseconds(
    eager: Callable[[Tensor], Tensor],
    files: Mapping[str, Path],
    images: Tensor,
    *,
    runs: int,
    threads: int,
) -> dict[str, float]:
    """Median milliseconds of a call, over `runs` calls, of the network ("torch") and of each file.

    They are measured in turns, so that other load affects all alike. One thread is measured in CPU
    time, several in wall-clock time.
    """
    clock = time.process_time if threads == 1 else time.perf_counter
    steps: dict[str, Callable[[Tensor], Tensor]] = {"torch": eager}
    for form, path in files.items():
        steps[form], _ = open_exported(path, trust=True, threads=threads)
    times: dict[str, list[float]] = {form: [] for form in steps}
    threads_before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with torch.no_grad():
            for step in steps.values():
                step(images)
            for _ in range(runs):
                for form, step in steps.items():
                    start = clock()
                    step(images)
                    times[form].append((clock() - start) * 1e3)
    finally:
        torch.set_num_threads(threads_before)
    return {form: statistics.median(values) for form, values in times.items()}
