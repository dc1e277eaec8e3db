"""Progress bars."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeVar

from tqdm import tqdm

T = TypeVar("T")


def progress_bar(
    items: Iterable[T] | None = None,
    *,
    title: str | None = None,
    total: int | None = None,
    unit: str = "it",
    show: bool = True,
    leave: bool = False,
) -> tqdm:
    """A bar with the count, the rate and the time left, on a terminal; in a log file nothing.

    Args:
        items: iterated by the bar; None if the caller calls `update`.
        title: before the bar.
        total: number of items, if `items` does not tell.
        unit: what is counted.
        show: False hides it on a terminal, too.
        leave: whether it stays when it is done.
    """
    disable = None if show else True  # None: hidden unless on a terminal
    return tqdm(items, desc=title, total=total, unit=unit, leave=leave, disable=disable)
