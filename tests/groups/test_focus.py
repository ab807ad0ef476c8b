"""Sharp places of frames, and whether one shows the view of another."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from curation_features.groups.focus import change, is_softer, travel

ROWS, COLUMNS = np.mgrid[0:1:8j, 0:1:8j]  # type: ignore[misc]
DEPTHS = {
    "slope": ROWS,
    "tilted": (ROWS + COLUMNS) / 2,
    "dome": np.hypot(ROWS - 0.5, COLUMNS - 0.5) / np.hypot(0.5, 0.5),
    "step": np.where(COLUMNS < 0.5, 0.1, 0.9),
}


def tiles(depth: np.ndarray, places: Sequence[float], width: float = 0.5) -> np.ndarray:
    """Sharpness of tiles at these depths, in frames that are focused at places."""
    return np.stack([0.2 / (1 + np.square((depth - place) / width)) for place in places]).astype(np.float32)


@pytest.mark.parametrize("name", DEPTHS)
@pytest.mark.parametrize("count", [3, 5, 12])
def test_the_focus_travels_through_any_depths(name: str, count: int) -> None:
    frames = tiles(DEPTHS[name], np.linspace(0, 1, count))
    way = travel(frames)
    assert way.distance > 0.1
    assert way.order > 0.95
    assert 1 / (count - 1) <= way.largest_step < 0.7
    assert way.agreement > 0.6
    assert travel(frames[::-1]).distance == pytest.approx(way.distance, abs=0.02)  # depth counts from the first frame
    assert travel(frames.transpose(0, 2, 1)) == pytest.approx(way, abs=1e-5)


@pytest.mark.parametrize(
    "frames",
    [
        tiles(ROWS, (0.2, 0.5, 0.8, 0.5, 0.2)),  # there and back
        tiles(ROWS, (0.2, 0.2, 0.2, 0.2)),
        tiles(ROWS, (0.5,) * 4) * np.array([1, 0.5, 0.25, 0.1], np.float32)[:, None, None],  # softer everywhere
        np.random.default_rng(0).permuted(tiles(ROWS, np.linspace(0, 1, 5)).reshape(5, 64), axis=1).reshape(5, 8, 8),
        np.zeros((3, 8, 8), np.float32),
    ],
)
def test_other_frames_do_not_travel(frames: np.ndarray) -> None:
    way = travel(frames)
    assert way.distance < 0.1 or way.agreement < 0.5


def test_a_change_agrees_as_moran_says() -> None:
    """Of 112 pairs of neighbours, 8 are across the middle of the frame; in a chessboard all differ."""
    halves = np.where(COLUMNS < 0.5, 2.0, 0.5).astype(np.float32)
    chessboard = np.where(np.indices((8, 8)).sum(0) % 2, 2.0, 0.5).astype(np.float32)
    even = np.ones((8, 8), np.float32)
    assert change(even, halves) == pytest.approx((2.0, 2.0, (104 - 8) / 112))
    assert change(even, chessboard).agreement == pytest.approx(-1)
    assert change(even, even * 2) == pytest.approx((2.0, 0.5, 0.0))


def test_plain_tiles_do_not_change() -> None:
    """Of a row of textured tiles, the left half is sharper in the second frame; the rest of the frame is a sky."""
    first, second = np.zeros((2, 8, 8), np.float32)
    first[3:5], second[3:5] = 0.1, 0.2
    second[3:5, 4:] = 0.05
    assert change(first, second) == pytest.approx((2.0, 2.0, (22 - 4) / 22))  # 22 pairs of neighbours, 2 across
    assert change(np.zeros((8, 8)), np.zeros((8, 8))) == (1.0, 1.0, 0.0)


def test_a_frame_is_softer_if_few_places_are_sharper() -> None:
    first = np.full((8, 8), 0.1, np.float32)
    second = first / 2
    second[0, :6] = 0.12  # 6 of 64
    assert is_softer(first, second)
    second[0, :8] = 0.12  # 8 of 64, together
    assert not is_softer(first, second)
    assert not is_softer(first, np.where(np.indices((8, 8)).sum(0) % 2, first * 1.2, first * 0.9))  # half of all
    scattered = first / 2
    scattered[::3, ::3] *= 2.4  # 9 of 64, by chance
    assert is_softer(first, scattered)
    assert is_softer(np.zeros((8, 8), np.float32), np.zeros((8, 8), np.float32))
