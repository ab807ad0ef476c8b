"""Streams: work in threads with bounded look-ahead, and batches that survive a bad member."""

from __future__ import annotations

import math
import os
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from itertools import islice
from typing import Generic, ParamSpec, TypeVar

S = TypeVar("S")
T = TypeVar("T")
P = ParamSpec("P")

MOST_WORKERS = 16
"""Threads, at most: beyond them Python's lock is what they wait for."""


def worker_count(wanted: int = 0) -> int:
    """Threads for work on photos: as many as are wanted, or one for each core that this process may use."""
    if wanted:
        return wanted
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(cores, MOST_WORKERS)


QUICK = 0.001
"""Seconds; calls that take less are not worth a thread."""

_FEWEST_QUICK, _MOST_QUICK = 8, 1024  # calls in a row that were quick, before one is made in the caller's thread


def bounded_map(
    function: Callable[[S], T],
    items: Iterable[S],
    *,
    workers: int,
    ahead: int,
    in_bursts: Callable[[], bool] = lambda: False,
) -> Generator[T]:
    """`map` in threads: results in order, at most `ahead` of them started before they are asked for.

    Calls that turn out to be quick are made in the caller's thread (see `_Pace`).

    Args:
        in_bursts: while it holds, the next `ahead` are started together once all results are taken, and the first is
            given when the last is done: the threads rest while the caller works.
    """
    pool = ThreadPoolExecutor(workers, thread_name_prefix="photos")
    pace = _Pace(function)

    def started(item: S) -> Future[T]:
        if pace.is_quick and not in_bursts():
            return at_once(pace.in_caller, item)
        return pool.submit(pace.in_thread, item)

    try:
        yield from in_order(map(started, items), lambda: ahead, in_bursts)
    finally:
        pool.shutdown(cancel_futures=True)


class _Pace(Generic[S, T]):
    """Calls a function, and finds out whether it is so quick that threads cost more than they gain.

    A photo out of the cache takes a fifth of a millisecond. Handing it over takes as long, and threads that read small
    files spend their time waiting for Python's lock: two of them take twice as long as none.

    What a call in a thread takes is told by that thread's own clock, as it waits for others; what one in the caller's
    thread takes by the clock on the wall, once nothing is left in threads. If files are slow to come, so that waiting
    side by side pays, that is found out by some calls in the caller's thread, and tried again ever more rarely.
    """

    def __init__(self, function: Callable[[S], T]) -> None:
        self._function = function
        self._lock = threading.Lock()
        self._in_threads = 0  # calls at this moment
        self._quick = 0  # calls in a row
        self._needed = _FEWEST_QUICK

    @property
    def is_quick(self) -> bool:
        return self._quick >= self._needed

    def in_thread(self, item: S) -> T:
        with self._lock:
            self._in_threads += 1
        seconds = math.inf
        try:
            result, seconds = self._timed(item, time.thread_time)
            return result
        finally:
            with self._lock:
                self._in_threads -= 1
                self._quick = self._quick + 1 if seconds < QUICK else 0

    def in_caller(self, item: S) -> T:
        disturbed = self._in_threads
        result, seconds = self._timed(item, time.perf_counter)
        if seconds < QUICK:
            self._needed = _FEWEST_QUICK
        elif not disturbed:
            self._quick, self._needed = 0, min(2 * self._needed, _MOST_QUICK)
        return result

    def _timed(self, item: S, clock: Callable[[], float]) -> tuple[T, float]:
        start = clock()
        result = self._function(item)
        return result, clock() - start


def in_order(
    futures: Iterable[Future[T]], ahead: Callable[[], int], in_bursts: Callable[[], bool] = lambda: False
) -> Generator[T]:
    """Results of futures in order; at most `ahead()` are drawn from `futures` before their result is asked for."""
    source = iter(futures)
    pending: deque[Future[T]] = deque()

    def draw() -> None:
        pending.extend(islice(source, max(ahead() - len(pending), 0)))

    while True:
        if not (pending and in_bursts()):
            draw()
        if not pending:
            return
        if in_bursts():
            wait(pending)
        result = pending.popleft().result()
        if not in_bursts():
            draw()
        yield result


def at_once(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> Future[T]:
    """The future of a call that has been made already, in this thread."""
    future: Future[T] = Future()
    try:
        future.set_result(function(*args, **kwargs))
    except Exception as error:
        future.set_exception(error)
    return future


def batched(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """Lists of `size` items, the last one shorter. (`itertools.batched` needs Python 3.12.)"""
    source = iter(items)
    while batch := list(islice(source, size)):
        yield batch


def is_out_of_memory(error: Exception) -> bool:
    """Whether memory was lacking, the machine's or a GPU's; without an import of torch."""
    # torch has an error of its own for CUDA, and for MPS a plain RuntimeError that says so.
    return isinstance(error, MemoryError) or "OutOfMemory" in type(error).__name__ or "out of memory" in str(error)


class BatchRunner:
    """Runs functions over batches, and halves a batch where one fails, down to the items that fail alone.

    One item that a model cannot take costs that item and not its neighbours. Where memory was lacking, batches to come
    are no larger than the largest that it sufficed for.
    """

    def __init__(self) -> None:
        self._limit = sys.maxsize

    def __call__(self, function: Callable[[Sequence[S]], Sequence[T]], items: Sequence[S]) -> list[T | Exception]:
        """Apply a function to a batch; in the place of an item that fails alone stands its error."""
        results: list[T | Exception] = []
        while len(results) < len(items):
            results += self._run(function, items[len(results) : len(results) + self._limit])
        return results

    def _run(self, function: Callable[[Sequence[S]], Sequence[T]], items: Sequence[S]) -> list[T | Exception]:
        try:
            results = list(function(items))
        except Exception as error:
            if len(items) == 1:
                return [error]
            if is_out_of_memory(error):
                self._limit = len(items) // 2
        else:
            if self._limit < len(items):
                self._limit = len(items)
            return [*results]
        # Outside of the handler, whose traceback would keep the failed batch's memory alive.
        half = len(items) // 2
        return [*self._run(function, items[:half]), *self._run(function, items[half:])]
