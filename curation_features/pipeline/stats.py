"""Counts and timings of one run over one batch."""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from curation_features.schema import PhotoRecord

T = TypeVar("T")


class RunStats:
    """Counts of photos, and seconds by stage. Thread-safe.

    Stages overlap, so their seconds add up to more than `elapsed`. `wait_for_photos`: seconds the models were idle.
    `wait_for_models`: seconds the consumer of the records was idle.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._started = time.perf_counter()
        self.seconds: defaultdict[str, float] = defaultdict(float)
        self.photos = 0
        self.cached = 0
        self.partly_cached = 0
        self.unreadable = 0

    @contextmanager
    def timing(self, stage: str) -> Iterator[None]:
        """Add the duration of the block to `stage`."""
        start = time.perf_counter()
        try:
            yield
        finally:
            with self._lock:
                self.seconds[stage] += time.perf_counter() - start

    def waited(self, source: str, items: Iterable[T]) -> Iterator[T]:
        """Yield items; add the time spent waiting for them to `wait_for_{source}`."""
        stream = iter(items)
        while True:
            with self.timing(f"wait_for_{source}"):
                try:
                    item = next(stream)
                except StopIteration:
                    return
            yield item

    def counted(self, records: Iterable[PhotoRecord]) -> Iterator[PhotoRecord]:
        """Yield finished photos and count them."""
        for record in records:
            self._count(record, record.is_cached)
            self.partly_cached += record.partly_cached
            yield record

    def counted_labels(self, records: Iterable[PhotoRecord]) -> Iterator[PhotoRecord]:
        """Yield labelled photos and count them; `cached` counts labels from the cache."""
        for record in records:
            self._count(record, bool(record.labels_cached))
            yield record

    def _count(self, record: PhotoRecord, is_cached: bool) -> None:
        self.photos += 1
        self.cached += is_cached
        self.unreadable += record.failure is not None

    @property
    def elapsed(self) -> float:
        """Seconds since this run began."""
        return time.perf_counter() - self._started

    def summary(self) -> dict[str, Any]:
        """Return plain numbers for logs and metadata."""
        elapsed = self.elapsed
        return {
            "photos": self.photos,
            "cached": self.cached,
            "partly_cached": self.partly_cached,
            "unreadable": self.unreadable,
            "seconds": round(elapsed, 3),
            "photos_per_second": round(self.photos / elapsed, 2) if elapsed else 0.0,
            **{f"seconds_{stage}": round(seconds, 3) for stage, seconds in sorted(self.seconds.items())},
        }
