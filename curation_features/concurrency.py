"""Ordered work in threads with bounded look-ahead, and fault-tolerant batches."""

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
"""Maximum number of threads; more would only wait for Python's global lock."""


def worker_count(requested: int = 0) -> int:
    """Return the number of threads: `requested`, or one per available core."""
    if requested:
        return requested
    return min(available_cores(), MOST_WORKERS)


def available_cores() -> int:
    """Return the number of processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


QUICK = 0.003
"""Calls that take fewer CPU seconds are not worth a thread."""

_LONG_WAIT = 0.001
"""Calls that wait for more seconds are worth one, if several in a row do."""

_FEWEST_QUICK, _MOST_QUICK = 8, 1024  # consecutive quick calls before calls move to the caller's thread
_MOST_WAITS = 4  # consecutive calls in the caller's thread that wait before calls move to threads


def bounded_map(
    function: Callable[[S], T],
    items: Iterable[S],
    *,
    workers: int,
    ahead: int,
    in_bursts: Callable[[], bool] = lambda: False,
) -> Generator[T]:
    """Map in threads, in order, with at most `ahead` calls started early.

    Quick calls run in the caller's thread (see `_Pace`).

    Args:
        in_bursts: while true, the next `ahead` calls start together after all results are consumed, and the first
            result is yielded when the last call is done: the threads are idle while the caller works.
    """
    pool = ThreadPoolExecutor(workers, thread_name_prefix="photos")
    pace = _Pace(function)

    def start(item: S) -> Future[T]:
        if pace.is_quick and not in_bursts():
            return at_once(pace.run_in_caller, item)
        return pool.submit(pace.run_in_thread, item)

    try:
        yield from in_order(map(start, items), lambda: ahead, in_bursts)
    finally:
        pool.shutdown(cancel_futures=True)


class _Pace(Generic[S, T]):
    """Measures a function's calls to decide between threads and the caller's thread.

    Reading a cached photo takes 0.2 ms, on a busy machine 1 ms, and passing it to a thread takes as long. Threads that
    read small files wait for Python's global lock: two threads take twice as long as none (benchmarks/README.md).

    A call is measured by its thread's CPU time. What a call in a thread waits for may be other threads; in the caller's
    thread, once no other is busy, it is storage, or the processor of a busy machine. So slow storage, for which threads
    help, is detected by a few calls in a row that wait in the caller's thread; each detection doubles the number of
    quick calls before the next attempt.
    """

    def __init__(self, function: Callable[[S], T]) -> None:
        self._function = function
        self._lock = threading.Lock()
        self._running = 0  # calls in threads now
        self._quick = 0  # consecutive quick calls
        self._needed = _FEWEST_QUICK
        self._waits = 0  # consecutive calls in the caller's thread that waited

    @property
    def is_quick(self) -> bool:
        return self._quick >= self._needed

    def run_in_thread(self, item: S) -> T:
        with self._lock:
            self._running += 1
        seconds = math.inf
        start = time.thread_time()
        try:
            result = self._function(item)
            seconds = time.thread_time() - start
            return result
        finally:
            with self._lock:
                self._running -= 1
                self._quick = self._quick + 1 if seconds < QUICK else 0

    def run_in_caller(self, item: S) -> T:
        is_disturbed = self._running > 0
        start, start_of_work = time.perf_counter(), time.thread_time()
        result = self._function(item)
        worked = time.thread_time() - start_of_work
        waited = time.perf_counter() - start - worked
        if worked < QUICK and waited < _LONG_WAIT:
            self._needed, self._waits = _FEWEST_QUICK, 0
        elif not is_disturbed:
            self._waits += 1
            if worked >= QUICK or self._waits == _MOST_WAITS:
                self._quick, self._waits, self._needed = 0, 0, min(2 * self._needed, _MOST_QUICK)
        return result


def in_order(
    futures: Iterable[Future[T]], ahead: Callable[[], int], in_bursts: Callable[[], bool] = lambda: False
) -> Generator[T]:
    """Yield the results of futures in order, with `ahead()` futures started early."""
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
    """Call a function in this thread and return its future."""
    future: Future[T] = Future()
    try:
        future.set_result(function(*args, **kwargs))
    except Exception as error:
        future.set_exception(error)
    return future


def batched(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """Yield lists of `size` items, the last one shorter. (`itertools.batched` needs Python 3.12.)"""
    source = iter(items)
    while batch := list(islice(source, size)):
        yield batch


def is_out_of_memory(error: Exception) -> bool:
    """Return whether the machine or a GPU ran out of memory."""
    # torch raises `OutOfMemoryError` for CUDA and a plain `RuntimeError` for MPS.
    return isinstance(error, MemoryError) or "OutOfMemory" in type(error).__name__ or "out of memory" in str(error)


class BatchRunner:
    """Runs functions on batches and halves a batch that fails.

    A bad item therefore fails without its neighbours. After running out of memory, later batches are at most as large
    as the largest that succeeded.
    """

    def __init__(self) -> None:
        self._limit = sys.maxsize

    def __call__(self, function: Callable[[Sequence[S]], Sequence[T]], items: Sequence[S]) -> list[T | Exception]:
        """Apply a function to a batch. The result of an item that fails alone is its exception."""
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
        # After the handler, whose traceback would keep the failed batch in memory.
        half = len(items) // 2
        return [*self._run(function, items[:half]), *self._run(function, items[half:])]
