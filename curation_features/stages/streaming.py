"""Streams: work in threads with bounded look-ahead, and batches that survive a bad member."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

S = TypeVar("S")
T = TypeVar("T")


def bounded_map(function: Callable[[S], T], items: Iterable[S], *, workers: int, ahead: int) -> Generator[T]:
    """`map` in threads: results in order, at most `ahead` of them started before they are asked for."""
    source = iter(items)
    pool = ThreadPoolExecutor(workers, thread_name_prefix="photos")
    pending: deque[Future[T]] = deque()
    try:
        pending.extend(pool.submit(function, item) for item in islice(source, ahead))
        while pending:
            result = pending.popleft().result()
            pending.extend(pool.submit(function, item) for item in islice(source, 1))
            yield result
    finally:
        pool.shutdown(cancel_futures=True)


def batched(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """Lists of `size` items, the last one shorter. (`itertools.batched` needs Python 3.12.)"""
    source = iter(items)
    while batch := list(islice(source, size)):
        yield batch


def each_or_error(function: Callable[[Sequence[S]], Sequence[T]], items: Sequence[S]) -> list[T | Exception]:
    """Apply a function over a batch, and halve the batch where it fails, down to the items that fail alone.

    A GPU that is out of memory, or one photo that a model cannot take, costs that photo and not its neighbours.
    """
    if not items:
        return []
    try:
        return list(function(items))
    except Exception as error:
        if len(items) == 1:
            return [error]
    half = len(items) // 2
    return [*each_or_error(function, items[:half]), *each_or_error(function, items[half:])]
