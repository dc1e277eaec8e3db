"""Iterate in a background thread, with a progress bar, or over evenly spaced items."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from tqdm import tqdm

T = TypeVar("T")


def prefetch(items: Iterable[T], *, count: int = 1) -> Iterator[T]:
    """Yield the items in order while a thread prepares up to `count` more.

    An exception of `items` is raised in place of its item.

    Example:
        >>> for image in prefetch(map(read_image, paths)):  # reads the next image meanwhile
        ...     predict(image)
    """
    iterator, end = iter(items), object()
    pending: deque[Future[T]] = deque()
    with ThreadPoolExecutor(max_workers=1) as pool:
        try:
            for _ in range(count):
                pending.append(pool.submit(next, iterator, end))
            while True:
                pending.append(pool.submit(next, iterator, end))
                item = pending.popleft().result()
                if item is end:
                    return
                yield item
        finally:  # also when the consumer stops early
            for future in pending:
                future.cancel()


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
        total: number of items, if `items` has no length.
        unit: what is counted.
        show: False hides it on a terminal, too.
        leave: whether it stays when it is done.
    """
    disable = None if show else True  # None: hidden unless on a terminal
    return tqdm(items, desc=title, total=total, unit=unit, leave=leave, disable=disable)


def evenly(items: Sequence[T], count: int) -> list[T]:
    """At most `count` of the items, evenly spaced, with the first and the last."""
    if len(items) <= count:
        return list(items)
    last = len(items) - 1
    return [items[round(number * last / max(count - 1, 1))] for number in range(count)]
