"""Reports of progress, paced."""

from __future__ import annotations

import time
from collections.abc import Callable


class PacedCounter:
    """Counts photos, and reports them from time to time.

    Args:
        report: called with the photos since its last call, and all photos.
        every_s: shortest time between two calls, s; the first one is as long after the start.
        clock: seconds, monotonic.
    """

    def __init__(
        self, report: Callable[[int, int], None], every_s: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._report = report
        self._every_s = every_s
        self._clock = clock
        self._new = self._all = 0
        self._reported = clock()

    def add(self, photos: int) -> None:
        """Count photos; report them if it is time."""
        self._new += photos
        self._all += photos
        now = self._clock()
        if now - self._reported >= self._every_s:
            self._report(self._new, self._all)
            self._new, self._reported = 0, now
