from __future__ import annotations

import platform
import warnings

import numpy as np
import pytest
import pywt
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.stats import norm
from skimage.restoration import estimate_sigma

from curation_features.errors import UndefinedMetricError
from curation_features.signals.preview import luma
from curation_features.technical.noise import DB2_HIGH_PASS, NORMAL_UPPER_QUARTILE, diagonal_detail, noise, noise_sigma

GOLDEN = {
    "astronaut": 0.006657,
    "camera": 0.004938,
    "coffee": 0.007676,
    "chelsea": 0.003997,
    "rocket": 0.001720,
    "moon": 0.001454,
    "clock": 0.003874,
}
images = arrays(np.uint8, st.tuples(st.integers(1, 24), st.integers(1, 24)))
patchy = arrays(np.uint8, st.tuples(st.integers(2, 24), st.integers(2, 24)), elements=st.sampled_from((0, 3, 200, 255)))


def sigma_of_skimage(gray: np.ndarray) -> float:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it takes four columns for channels, and the mean of nothing for NaN
        return float(estimate_sigma(gray / 255))


@pytest.mark.parametrize(("name", "sigma"), GOLDEN.items())
def test_golden_values(bundled, name, sigma):
    gray = luma(bundled(name))
    assert noise_sigma(gray) == pytest.approx(sigma, abs=6e-7)
    assert noise_sigma(gray) == pytest.approx(sigma_of_skimage(gray), rel=1e-12)


def test_constants_are_those_of_pywavelets_and_scipy():
    assert pywt.Wavelet("db2").dec_hi == list(DB2_HIGH_PASS)
    assert norm.ppf(0.75) == NORMAL_UPPER_QUARTILE


@pytest.mark.long
@given(images)
def test_detail_is_that_of_pywavelets(gray):
    assert np.allclose(diagonal_detail(gray / 255), pywt.dwtn(gray / 255, "db2")["dd"], rtol=0, atol=1e-15)


@pytest.mark.skipif(platform.machine().lower() not in ("x86_64", "amd64"), reason="others fuse products into sums")
@pytest.mark.parametrize("shape", [(63, 40), (40, 63), (31, 31), (64, 64), (1, 9), (3, 3)])
def test_detail_is_that_of_pywavelets_to_the_last_bit(shape):
    gray = np.random.default_rng(0).choice(np.array([3, 200, 255], np.uint8), shape)
    gray[: shape[0] // 2] = 200
    assert np.array_equal(diagonal_detail(gray / 255), pywt.dwtn(gray / 255, "db2")["dd"])


@pytest.mark.long
@given(images | patchy)
def test_sigma_is_that_of_skimage_where_there_is_detail(gray):
    try:
        sigma = noise_sigma(gray)
    except UndefinedMetricError:
        assert not sigma_of_skimage(gray) > 1e-12
    else:
        assert sigma == pytest.approx(sigma_of_skimage(gray), rel=1e-9, abs=1e-15)
        assert 0 <= noise(gray, sigma_max=0.08).score <= 1


@pytest.mark.parametrize(
    "gray",
    [
        *(np.full((3, 7), level, np.uint8) for level in (0, 1, 128, 255)),
        np.full((64, 64), 200, np.uint8),
        np.repeat(np.array([[77, 200]], np.uint8), 16, axis=1).repeat(32, axis=0),
    ],
)
def test_a_flat_image_or_straight_edge_has_no_noise_estimate(gray):
    with pytest.raises(UndefinedMetricError) as caught:
        noise_sigma(gray)
    assert caught.value.reason == "flat_image"


def test_score_is_sigma_over_the_largest(bundled):
    measured = noise(luma(bundled("coffee")), sigma_max=0.08)
    assert measured.score == pytest.approx(0.007676 / 0.08, abs=1e-5)
    assert noise(luma(bundled("coffee")), sigma_max=0.005).score == 1


def test_added_noise_raises_the_estimate(bundled):
    gray = luma(bundled("moon")).astype(np.float64)
    field = np.random.default_rng(0).standard_normal(gray.shape)
    noisy = [np.clip(gray + level * field, 0, 255).astype(np.uint8) for level in (0, 4, 8, 16)]
    sigmas = [noise_sigma(image) for image in noisy]
    assert sigmas == sorted(sigmas)
    assert sigmas[-1] == pytest.approx(16 / 255, rel=0.1)
