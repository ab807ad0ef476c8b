from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import ndimage

from curation_features.signals.preview import luma
from curation_features.technical.sharpness import sharpness, tenengrad

GOLDEN = {
    "astronaut": 14671.146,
    "camera": 9999.451,
    "coffee": 9706.170,
    "chelsea": 4419.005,
    "rocket": 4770.921,
    "moon": 677.966,
    "clock": 284.186,
}
images = arrays(np.uint8, st.tuples(st.integers(1, 24), st.integers(1, 24)))


def energy_in_doubles(gray: np.ndarray) -> float:
    gradients = [ndimage.sobel(gray.astype(np.float64), axis, mode="mirror") for axis in (0, 1)]
    return float(np.mean(gradients[0] ** 2 + gradients[1] ** 2))


@pytest.mark.parametrize(("name", "energy"), GOLDEN.items())
def test_golden_values(bundled, name, energy):
    assert tenengrad(luma(bundled(name))) == pytest.approx(energy, abs=5e-4)


@pytest.mark.long
@given(images)
def test_energy_is_that_of_scipys_sobel_in_doubles(gray):
    assert tenengrad(gray) == pytest.approx(energy_in_doubles(gray), rel=1e-12)


def test_the_steepest_image_does_not_overflow():
    stripes = np.zeros((1024, 1024), np.uint8)
    stripes[:, 2::4] = stripes[:, 3::4] = 255
    assert tenengrad(stripes) == pytest.approx(energy_in_doubles(stripes), rel=1e-12)
    assert tenengrad(stripes) > 1_000_000


def test_score_is_the_tanh_of_energy_over_scale(bundled):
    gray = luma(bundled("moon"))
    measured = sharpness(gray, scale=500)
    assert measured.raw["tenengrad"] == pytest.approx(677.966, abs=5e-4)
    assert measured.score == pytest.approx(math.tanh(677.966 / 500), abs=1e-6)
    assert sharpness(np.full((9, 9), 128, np.uint8), scale=2000).score == 0
