"""Bursts: close in time by one clock, and alike; here with vectors instead of pixels."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pytest
from sequences import described

from curation_features.groups import Moment, Photo, PhotoSet
from curation_features.groups.bursts import ALIKE, SPAN
from curation_features.groups.grouping import group_photos

NOON = datetime(2024, 12, 25, 12, 0, 7, tzinfo=UTC).timestamp()
MIDNIGHT = datetime(2024, 12, 31, 0, 0, 0, tzinfo=UTC).timestamp()


def shot(seconds: float | None, angle: float = 0.0, resolution: float = 0.01, **changes: Any) -> tuple[Photo, float]:
    """A photo, and the angle of its vector in degrees: 10 degrees are a cosine of 0.98, 30 of 0.87, 40 of 0.77."""
    moment = None if seconds is None else Moment(seconds if resolution < 1 else float(int(seconds)), resolution)
    fields = {"path": "", "camera": "A", "format": "JPEG", "width": 6000, "height": 4000, "moment": moment}
    return Photo("", "", **{**fields, **changes}), angle  # type: ignore[arg-type]


def set_of(shots: Sequence[tuple[Photo, float]], vectors: np.ndarray | None = None) -> PhotoSet:
    photos = []
    for number, (photo, _) in enumerate(shots):
        key = f"{number:03}"
        path = photo.path or f"card/IMG_{number:04}.JPG"
        fields = {name: getattr(photo, name) for name in photo.__slots__}
        photos.append(Photo(**{**fields, "key": key, "sha256": key, "path": path}))
    angles = np.radians([angle for _, angle in shots])
    if vectors is None:
        vectors = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
    count = len(photos)
    return PhotoSet(photos, np.zeros((count, 8, 32), np.uint8), np.zeros(count, bool), vectors, lambda index: None)


def bursts(*shots: tuple[Photo, float], vectors: np.ndarray | None = None) -> list[list[int]]:
    """The bursts found, each as numbers of shots."""
    photos = set_of(shots, vectors)
    found = described(group_photos(photos), photos)
    assert set(found.values()) <= {"burst"}
    return sorted([int(key) for key in keys] for keys in found)


FEW = [0, 0.2, 0.4]
TWO = [[0, 1, 2], [3, 4, 5]]


@pytest.mark.parametrize(
    ("shots", "expected"),
    [
        ([shot(NOON + place / 5) for place in range(50)], [list(range(50))]),
        ([shot(NOON + t) for t in (0, 1.9, 3.8, 6.5)], [[0, 1, 2]]),
        ([shot(NOON + t, 90 * t) for t in FEW], [[0, 1]]),  # complete linkage: the third is too far from the first
        ([shot(NOON + t, 50 * t) for t in FEW], [[0, 1, 2]]),
        ([shot(MIDNIGHT + t - 0.2) for t in FEW], [[0, 1, 2]]),
        ([shot(None) for _ in FEW], []),
        ([shot(NOON - 7 + 60 * t, resolution=1) for t in range(3)], []),
        ([shot(NOON - 7, resolution=1) for _ in range(3)], []),  # 12:00:00 three times: the seconds are unknown
        ([shot(NOON, resolution=1) for _ in FEW] + [shot(NOON + 1, resolution=1)], [[0, 1, 2, 3]]),
        ([shot(NOON, resolution=1, path=f"card/IMG_{n}.JPG") for n in (100, 101, 205, 206)], [[0, 1], [2, 3]]),
        ([shot(NOON + t, resolution=1, path=f"card/{'abcd'[t]}.jpg") for t in (0, 1, 3)], [[0, 1]]),
        ([shot(NOON + t, camera="AB"[n % 2]) for n, t in enumerate(FEW * 2)], [[0, 2, 4], [1, 3, 5]]),
        ([shot(NOON + t, camera="AB"[n // 3]) for n, t in enumerate([*FEW, 500, 500.1, 500.2])], TWO),
        ([shot(NOON + t, camera=None, path=f"{'ab'[n // 3]}/{n}.jpg") for n, t in enumerate(FEW * 2)], TWO),
        ([shot(NOON + t, 90 * n) for n, t in enumerate(FEW)], []),
        ([shot(NOON + t, 70 * n, burst="uuid") for n, t in enumerate(FEW)], [[0, 1, 2]]),  # the camera says so
        ([shot(NOON, resolution=1, burst="uuid", path=f"card/IMG_{n}.JPG") for n in (100, 205)], [[0, 1]]),
    ],
)  # fmt: skip
def test_bursts_are_near_in_time_and_alike(shots: list[tuple[Photo, float]], expected: list[list[int]]) -> None:
    assert bursts(*shots) == expected


def test_a_chain_of_likeness_is_never_one_burst() -> None:
    """Fifty frames in five seconds, each just alike enough to the next; their cosines are 6/7, 5/7, 4/7, ..."""
    walk = np.stack([np.eye(57)[place : place + 7].sum(0) for place in range(50)]) / np.sqrt(7)
    found = bursts(*(shot(NOON + place / 10) for place in range(50)), vectors=walk.astype(np.float32))
    assert 6 / 7 > ALIKE > 5 / 7
    assert {len(group) for group in found} == {2}


def test_a_burst_does_not_chain_over_minutes() -> None:
    seconds = [NOON + 1.1 * place for place in range(200)]
    found = bursts(*map(shot, seconds))
    assert sum(map(len, found)) > 150
    assert all(seconds[group[-1]] - seconds[group[0]] <= SPAN for group in found)


def test_likeness_is_relative_to_the_photos_around() -> None:
    """Two frames with another expression, and five photos of the same minute."""
    pair = [shot(NOON, 0), shot(NOON + 0.3, 35)]  # cosine 0.82
    others = [shot(NOON + 5 + 17 * place, 60 * (place % 2) + 60) for place in range(5)]
    alike = [shot(NOON + 5 + 17 * place, 20) for place in range(5)]
    assert bursts(*pair, *others) == [[0, 1]]
    assert bursts(*pair, *alike) == []
    assert bursts(*pair) == []
