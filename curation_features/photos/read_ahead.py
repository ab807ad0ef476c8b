"""Reads the remote photos of a batch before their turn."""

from __future__ import annotations

import threading
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor

from curation_features.photos.reader import PhotoFile, is_remote


class ReadAhead:
    """Downloads the next remote photos in separate threads, so that cores do not wait for the network.

    At most `at_once` photos are being downloaded, or are in memory and wait for their turn. A local photo is read when
    it is asked for.

    Args:
        read: reads one photo; raises the error of the photo, which is raised again when it is asked for.
        uris: the photos in the order in which they will be asked for, roughly.
    """

    def __init__(self, read: Callable[[str], PhotoFile], uris: Iterable[str], at_once: int) -> None:
        self._read = read
        self._at_once = at_once
        self._pool = ThreadPoolExecutor(at_once, thread_name_prefix="downloads")
        self._lock = threading.Lock()
        self._waiting = deque(uri for uri in uris if is_remote(uri))
        self._started: defaultdict[str, deque[Future[PhotoFile]]] = defaultdict(deque)
        self._count = 0  # of started ones
        self._taken: Counter[str] = Counter()  # asked for before they were started

    def start(self) -> None:
        """Start the first downloads."""
        with self._lock:
            self._start_more()

    def close(self) -> None:
        """Start no more downloads. Running ones end within their time limit."""
        with self._lock:
            self._waiting.clear()
        self._pool.shutdown(wait=False, cancel_futures=True)

    def __call__(self, uri: str) -> PhotoFile:
        """Return a photo. Raises the errors of `read`."""
        if not is_remote(uri):
            return self._read(uri)
        with self._lock:
            future = self._started[uri].popleft() if self._started[uri] else None
            if not self._started[uri]:
                del self._started[uri]
            if future is None:
                self._taken[uri] += 1
        if future is None:
            return self._read(uri)
        try:
            return future.result()
        finally:
            with self._lock:
                self._count -= 1
                self._start_more()

    def _start_more(self) -> None:
        while self._waiting and self._count < self._at_once:
            uri = self._waiting.popleft()
            if self._taken[uri]:
                self._taken[uri] -= 1
                continue
            self._count += 1
            self._started[uri].append(self._pool.submit(self._read, uri))
