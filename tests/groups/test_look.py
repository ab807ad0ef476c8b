"""How alike photos look: when geometry is asked, and what a digest of photos covers."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from curation_features.groups import Photo, PhotoSet
from curation_features.groups.digests import digest_of
from curation_features.groups.look import Look

PHOTOS = [Photo(name, name, f"{name}.jpg", 6, 4, "JPEG", measures={"blur_px": 1.0}) for name in "ab"]
SET = PhotoSet(
    PHOTOS, np.zeros((2, 8, 32), np.uint8), np.ones(2, bool), np.eye(2, dtype=np.float16), lambda index: None
)


@pytest.mark.parametrize(
    ("alike", "common", "expected"),
    [(0.9, None, 0.9), (0.97, None, 0.97), (None, None, None), (0.89, 0.95, 0.95), (0.89, 0.0, 0.89), (0.1, 0.7, 0.7)],
)
def test_geometry_decides_where_thumbnails_differ(
    monkeypatch: pytest.MonkeyPatch, alike: float | None, common: float | None, expected: float | None
) -> None:
    """Two frames that moved by a fraction of a thumbnail's pixel have a correlation under 0.9, and a common part."""
    asked: list[tuple[int, int]] = []

    def geometry(self: Look, one: int, other: int) -> float | None:
        asked.append((one, other))
        return common

    monkeypatch.setattr(Look, "correlation", lambda self, one, other: alike)
    monkeypatch.setattr(Look, "common", geometry)
    assert Look(SET).likeness_of_thumbnails(0, 1) == expected
    assert asked == ([] if common is None else [(0, 1)])


def test_a_digest_covers_all_that_is_compared() -> None:
    moved = np.eye(2, dtype=np.float16) * np.float16(0.5)
    hashes = SET.hashes.copy()
    hashes[1, 7, 31] = 1
    others = [
        replace(SET, photos=PHOTOS[::-1]),
        replace(SET, photos=[PHOTOS[0], replace(PHOTOS[1], path="c.jpg")]),
        replace(SET, photos=[PHOTOS[0], replace(PHOTOS[1], measures={"blur_px": 2.0})]),
        replace(SET, hashes=hashes),
        replace(SET, has_hash=np.array([True, False])),
        replace(SET, vectors=moved),
        replace(SET, vectors=None),
    ]
    found = [*(digest_of(photos, "rules") for photos in (SET, *others)), digest_of(SET, "other rules")]
    assert len({*found}) == len(others) + 2
    assert digest_of(replace(SET, vectors=SET.vectors), "rules") == found[0]
