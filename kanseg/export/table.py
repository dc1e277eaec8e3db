"""Size and speed of a network in every exported form."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor

from kanseg.export.check import Agreement
from kanseg.inference.exported import open_exported
from kanseg.utils.tables import markdown_table

HEADER = (
    "form",
    "MiB",
    "ms, 1 thread",
    "ms, all threads",
    "probability",
    "labels differ",
    "mean IoU",
)


@dataclass(frozen=True)
class Row:
    """A form of the network.

    Args:
        form: its name.
        bytes: of the file.
        one_thread, all_threads: milliseconds an image, median.
        agreement: of the file with the network; None for the network itself.
        mean_iou: on the requested splits; None without any.
    """

    form: str
    bytes: int
    one_thread: float
    all_threads: float
    agreement: Agreement | None = None
    mean_iou: float | None = None

    def cells(self) -> list[str]:
        """As text, in the order of HEADER."""
        probability, differing = None, None
        if self.agreement is not None:
            probability, differing = self.agreement.probability, self.agreement.differing
        return [
            self.form,
            f"{self.bytes / 2**20:.2f}",
            f"{self.one_thread:.1f}",
            f"{self.all_threads:.1f}",
            "" if probability is None else f"{probability:.1e}",
            "" if differing is None else f"{differing:.3%}",
            "" if self.mean_iou is None else f"{self.mean_iou:.4f}",
        ]

    def to_dict(self) -> dict[str, object]:
        """Plain JSON."""
        return asdict(self)


def show(rows: list[Row]) -> str:
    """The rows as Markdown."""
    return markdown_table(HEADER, [row.cells() for row in rows])


def milliseconds(
    eager: Callable[[Tensor], Tensor],
    files: Mapping[str, Path],
    images: Tensor,
    *,
    runs: int,
    threads: int,
) -> dict[str, float]:
    """Milliseconds of a call of the network (under the name "torch") and of each file, median of
    `runs`. They are measured in turns, so that other load on the machine affects all.

    One thread is measured in CPU time, without other programs; more threads by the wall clock.
    """
    clock = time.process_time if threads == 1 else time.perf_counter
    steps: dict[str, Callable[[Tensor], Tensor]] = {"torch": eager}
    for form, path in files.items():
        steps[form], _ = open_exported(path, trust=True, threads=threads)
    times: dict[str, list[float]] = {form: [] for form in steps}
    with _threads(threads), torch.no_grad():
        for step in steps.values():
            step(images)
        for _ in range(runs):
            for form, step in steps.items():
                start = clock()
                step(images)
                times[form].append((clock() - start) * 1e3)
    return {form: statistics.median(values) for form, values in times.items()}


@contextmanager
def _threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
