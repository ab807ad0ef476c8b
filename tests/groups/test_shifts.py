"""The strip that two neighbours of a panorama share."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from sequences import noisy, picture

from curation_features.fingerprints.measure import measure
from curation_features.groups.shifts import find_shift, is_shift, shift_of

SIDES = (1.0, 0.75)


def photo(name: str) -> np.ndarray:
    return np.asarray(cv2.resize(picture(name), (1200, 640), interpolation=cv2.INTER_CUBIC))


def frame(rgb: np.ndarray, left: int, top: int, seed: int = 0) -> np.ndarray:
    return noisy(rgb[top : top + 480, left : left + 640], seed)


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        ((0, 0), (416, 30), 416 / 640 + 30j / 480),  # a third in common
        ((480, 40), (0, 0), -480 / 640 - 40j / 480),  # a quarter, to the left
        ((100, 0), (100, 160), 160j / 480),  # downwards
    ],
)
def test_the_shift_of_a_third_is_found(first: tuple[int, int], second: tuple[int, int], expected: complex) -> None:
    rgb = photo("astronaut")
    one, other = (measure(frame(rgb, *at, seed)).keypoints for seed, at in enumerate((first, second)))
    found = find_shift(one, other, SIDES)
    assert found is not None
    assert is_shift(found, SIDES)
    assert abs(shift_of(found, SIDES) - expected) < 0.01


def test_there_is_no_shift_of_other_scenes_turns_or_one_frame() -> None:
    one = frame(photo("astronaut"), 0, 0)
    others = [
        frame(photo("chelsea"), 0, 0),
        frame(photo("coffee"), 0, 0),
        np.asarray(np.rot90(frame(photo("astronaut"), 416, 0), 2)),
        frame(photo("astronaut"), 30, 0),  # a shake
        np.zeros_like(one),
    ]
    for other in others:
        assert find_shift(measure(one).keypoints, measure(other).keypoints, SIDES) is None
