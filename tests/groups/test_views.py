"""Two frames of one view, and the displacement of two that share a strip."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from sequences import crossing, dome, exposed, focused, handheld, noisy, picture

from curation_features.fingerprints.measure import measure
from curation_features.groups.look import ONE_VIEW
from curation_features.groups.views import details, displacement, unexplained


def miniature(rgb: np.ndarray) -> np.ndarray:
    return measure(rgb).miniature


def explained_badly(one: np.ndarray, other: np.ndarray) -> float:
    return unexplained(miniature(one), miniature(other))


@pytest.mark.parametrize("name", ["coffee", "brick", "grass", "rocket"])
def test_shake_focus_and_light_leave_one_view(name: str) -> None:
    rgb = picture(name)
    for one, other in (
        (handheld(rgb, 0), handheld(rgb, 1)),
        (noisy(rgb, 0), noisy(exposed(rgb, -1), 1)),
        (focused(rgb, 0, depth=dome(rgb)), focused(rgb, 1, depth=dome(rgb))),
    ):
        assert explained_badly(one, other) < ONE_VIEW
    height, width = rgb.shape[:2]
    breathed = cv2.resize(rgb, None, fx=1.04, fy=1.04)[2 : 2 + height, 20 : 20 + width]  # and moved to the side
    assert explained_badly(noisy(rgb, 0), noisy(breathed, 1)) < 0.2  # over 0.3 without registration


@pytest.mark.parametrize("name", ["coffee", "brick", "grass"])
def test_a_subject_that_moves_or_grows_is_another_view(name: str) -> None:
    rgb, subject = picture(name), picture("chelsea")
    assert explained_badly(crossing(rgb, subject, 0.3), crossing(rgb, subject, 0.6)) > ONE_VIEW
    assert explained_badly(rgb, subject) > ONE_VIEW
    assert explained_badly(rgb, cv2.resize(rgb, None, fx=1.2, fy=1.2)[36:-36, 50:-50]) > ONE_VIEW


def correlation_at(first: np.ndarray, second: np.ndarray, right: int, down: int) -> float:
    """NumPy's correlation of the common part, without the damping of plain strips."""
    ours = first[max(down, 0) : 64 + min(down, 0), max(right, 0) : 64 + min(right, 0)]
    theirs = second[max(-down, 0) : 64 + min(-down, 0), max(-right, 0) : 64 + min(-right, 0)]
    return float(np.corrcoef(ours.ravel(), theirs.ravel())[0, 1])


@pytest.mark.parametrize(("left", "top"), [(180, 0), (-200, 20), (0, 130), (150, -100)])
def test_a_displacement_is_that_of_the_best_correlation(left: int, top: int) -> None:
    """Frames of 300 x 240 px of one picture, the second one to the right and down of the first."""
    rgb = picture("coffee")
    y, x = max(0, -top), max(0, -left)
    one, other = rgb[y : y + 240, x : x + 300], rgb[y + top : y + top + 240, x + left : x + left + 300]
    first, second = (details(miniature(noisy(frame, seed))) for seed, frame in enumerate((one, other)))
    found = displacement(first, second)
    assert found.is_moved_on
    assert found.shift == pytest.approx(complex(left / 300, top / 240), abs=0.02)
    right, down = round(found.shift.real * 64), round(found.shift.imag * 64)
    assert found.correlation == pytest.approx(correlation_at(first, second, right, down), abs=0.05)
    assert found.overlap == pytest.approx((1 - abs(right) / 64) * (1 - abs(down) / 64))
    assert displacement(second, first).shift == pytest.approx(-found.shift, abs=0.02)


def test_other_scenes_and_shakes_are_not_moved_on() -> None:
    rgb = picture("coffee")
    first = details(miniature(handheld(rgb, 0)))
    shaken = displacement(first, details(miniature(handheld(rgb, 1))))
    assert abs(shaken.shift) < 0.05
    assert shaken.unmoved == shaken.correlation > 0.9
    for other in (picture("chelsea"), picture("astronaut"), np.zeros_like(rgb), np.rot90(rgb, 2)):
        found = displacement(first, details(miniature(noisy(other, 0))))
        assert not found.is_moved_on
        assert found.unmoved < 0.4
