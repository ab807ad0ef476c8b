"""Progress is paced."""

from __future__ import annotations

from curation_features.engines.progress import PacedCounter


def test_photos_are_reported_from_time_to_time() -> None:
    times = iter([0.0, 4, 9, 10, 11, 25, 26])
    found: list[tuple[int, int]] = []
    counter = PacedCounter(lambda new, total: found.append((new, total)), 10, clock=lambda: next(times))
    for photos in (1, 2, 3, 4, 5, 6):
        counter.add(photos)
    assert found == [(6, 6), (9, 15)]  # at 10 and 25 s
