"""Iterate in a background thread."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

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
