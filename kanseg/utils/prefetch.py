"""Work that is done in a thread while its consumer is busy with the item before."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import repeat
from typing import TypeVar

A = TypeVar("A")
B = TypeVar("B")


def ahead(work: Callable[[A], B], items: Iterable[A], *, count: int = 1) -> Iterator[B]:
    """work(item) of every item, in order; up to `count` results are made ahead in a thread. An
    exception of `work` comes where its result would.
    """
    pending: deque[Future[B]] = deque()
    with ThreadPoolExecutor(max_workers=1) as pool:
        try:
            for item in items:
                pending.append(pool.submit(work, item))
                if len(pending) > count:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:  # the consumer stopped early
            for future in pending:
                future.cancel()


def drawn_ahead(items: Iterator[A], *, count: int = 1) -> Iterator[A]:
    """The same items, in order, which a thread draws from the iterator before they are
    asked for.
    """
    end = object()
    for item in ahead(lambda _: next(items, end), repeat(None), count=count):
        if item is end:
            return
        yield item
