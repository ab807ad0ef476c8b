"""Transforms between two photos, against transforms that made the second one."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from skimage import data

from curation_features.fingerprints.measure import measure
from curation_features.groups.geometry import Match, apply, composed, inverse, match


def points(rgb: np.ndarray):
    return measure(np.ascontiguousarray(rgb)).keypoints


@pytest.fixture(scope="module")
def coffee():
    return points(data.coffee())


@pytest.fixture(scope="module")
def rocket():
    return points(data.rocket())


def found(one, other, mirrored: bool = False) -> Match:
    result = match(one, other, mirrored)
    assert result is not None
    return result


def corner_error(result: Match, expected: np.ndarray, size: tuple[int, int]) -> float:
    """Largest error of a place within the photo, px of its longer side of 512."""
    width, height = size
    corners = np.array([[0, 0], [width, 0], [0, height], [width, height]]) / max(size) * 0.8 + 0.05
    return float(np.abs(apply(result.transform, corners) - apply(expected, corners)).max() * 512)


@pytest.mark.parametrize("degrees", [-160, -30, 2, 90])
@pytest.mark.parametrize("scale", [0.7, 1.0])
def test_turn_and_scale_are_recovered(coffee, degrees, scale):
    matrix = cv2.getRotationMatrix2D((300, 200), degrees, scale)
    matrix[:, 2] += (100, 200)
    turned = cv2.warpAffine(data.coffee(), matrix, (800, 800), flags=cv2.INTER_AREA)
    expected = np.column_stack([matrix[:, :2] * 600 / 800, matrix[:, 2] / 800])
    result = found(coffee, points(turned))
    assert result.inliers >= 25
    assert corner_error(result, expected, (600, 400)) < 3


def test_mirrored_photos_match_only_as_mirrored(rocket):
    other = points(data.rocket()[:, ::-1])
    result = found(rocket, other, mirrored=True)
    assert corner_error(result, np.array([[-1, 0, 1], [0, 1.0, 0]]), (640, 427)) < 0.5
    plain = match(rocket, other, mirrored=False)
    assert plain is None or plain.inliers < result.inliers / 4


def test_crops_show_who_contains_whom(coffee):
    result = found(coffee, points(data.coffee()[60:340, 90:510]))
    assert result.overlaps[1] > 0.95
    assert 0.3 < result.overlaps[0] < 0.8


def test_neighbours_of_a_panorama_overlap_in_part(rocket):
    wide = data.rocket()
    left, right = wide[:, :420], wide[:, 220:]  # 200 of 420 px are common
    result = found(points(left), points(right))
    expected = np.array([[1, 0, -220 / 427], [0, 1.0, 0]])
    assert corner_error(result, expected, (420, 427)) < 2
    assert all(0.25 < share < 0.75 for share in result.overlaps)


@pytest.mark.parametrize("mirrored", [False, True])
def test_order_of_photos_does_not_matter(coffee, mirrored):
    rgb = data.coffee()[30:, 50:]
    other = points(rgb[:, ::-1] if mirrored else rgb)
    ahead, back = found(coffee, other, mirrored), found(other, coffee, mirrored)
    assert (ahead.inliers, ahead.support, ahead.agreement) == (back.inliers, back.support, back.agreement)
    assert ahead.overlaps == back.overlaps[::-1]
    np.testing.assert_allclose(composed(ahead.transform, back.transform), np.eye(2, 3), atol=1e-9)
    np.testing.assert_allclose(inverse(ahead.transform), back.transform, atol=1e-9)


def test_different_scenes_hardly_agree(coffee, rocket):
    others = [points(getattr(data, name)()) for name in ("astronaut", "chelsea")]
    scenes = [coffee, rocket, *others]
    for at, one in enumerate(scenes):
        for other in scenes[:at]:
            for mirrored in (False, True):
                result = match(one, other, mirrored)
                assert result is None or result.inliers < 10


def test_two_views_of_a_stereo_camera_agree_less():
    left, right, _ = data.stereo_motorcycle()
    views, copies = found(points(left), points(right)), found(points(left), points(left[20:, 40:]))
    assert views.agreement < 0.6 < 0.9 < copies.agreement


def test_photos_without_keypoints_do_not_match(coffee):
    flat = points(np.full((200, 300, 3), 90, np.uint8))
    assert match(flat, flat, False) is None
    assert match(coffee, flat, True) is None
