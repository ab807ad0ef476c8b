from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from curation_features.technical.brisque.mscn import STRIP, mscn_sums

RNG = np.random.default_rng(0)
GAUSSIAN = np.exp(-(np.arange(-3, 4) ** 2) / (2 * (7 / 6) ** 2))
KERNEL = np.outer(GAUSSIAN, GAUSSIAN) / GAUSSIAN.sum() ** 2


def weigh(neighbourhoods: np.ndarray) -> np.ndarray:
    return neighbourhoods.astype(np.float64) @ KERNEL.ravel()


def mscn_of(gray: np.ndarray) -> np.ndarray:
    """Compute the coefficients of the whole image with scipy."""
    values = gray.astype(np.float64)
    mean, square = (ndimage.correlate(image, KERNEL, mode="constant") for image in (values, values**2))
    difference = values - mean
    difference[np.abs(difference) < 1e-9] = 0
    return difference / (np.sqrt(np.abs(square - mean**2)) + 1)


def few_levels(height: int, width: int) -> np.ndarray:
    gray = np.zeros((height, width), np.uint8)
    gray[height // 3 :, width // 2 :] = RNG.choice(
        np.array([0, 9, 255], np.uint8), (height - height // 3, (width + 1) // 2)
    )
    return gray


@pytest.mark.parametrize(
    "gray",
    [
        RNG.integers(0, 256, (STRIP, 7), dtype=np.uint8),
        RNG.integers(0, 256, (STRIP + 1, 50), dtype=np.uint8),
        RNG.integers(0, 256, (3 * STRIP - 1, 41), dtype=np.uint8),
        RNG.random((2 * STRIP + 5, 33), dtype=np.float32) * 255,
        few_levels(2 * STRIP + 3, 90),
        few_levels(6, 6),
    ],
)
def test_sums_are_those_of_the_whole_image_rolled(gray):
    coefficients = mscn_of(gray)
    sums = mscn_sums(gray, weigh)
    assert sums[:3] == pytest.approx((gray.size, np.abs(coefficients).sum(), (coefficients**2).sum()), rel=1e-11)
    for shift, found in zip(((0, 1), (1, 0), (1, 1), (-1, 1)), sums.products, strict=True):
        products = coefficients * np.roll(coefficients, shift, (0, 1))
        left, right = products[products < 0], products[products > 0]
        assert found == pytest.approx(
            (np.abs(products).sum(), (left**2).sum(), (right**2).sum(), left.size, right.size), rel=1e-10
        )


def test_small_products_of_one_sign_keep_their_digits():
    gray = np.zeros((STRIP, 64), np.float32)
    gray[: STRIP // 2 : 2] = 255
    gray[STRIP // 2 :] = np.resize([1e-6, -1e-6], 64)
    coefficients = mscn_of(gray)
    products = coefficients * np.roll(coefficients, 1, axis=1)
    expected = (products[products < 0] ** 2).sum()
    assert 0 < expected < 1e-20
    assert mscn_sums(gray, weigh).products[0].left_energy == pytest.approx(expected, rel=1e-9, abs=0)


def test_only_what_rounding_decides_is_weighed_again():
    asked = []

    def exact(neighbourhoods: np.ndarray) -> np.ndarray:
        asked.append(neighbourhoods)
        return weigh(neighbourhoods) - 1e-12  # a coefficients over 0

    gray = np.full((2 * STRIP, 40), 200, np.uint8)
    gray[:20, :20] = RNG.integers(0, 100, (20, 20))
    sums = mscn_sums(gray, exact)
    assert sum(map(len, asked)) < gray.size
    assert all((neighbourhoods == 200).all() for neighbourhoods in asked)
    for shift, found in zip(((0, 1), (1, 0), (1, 1), (-1, 1)), sums.products, strict=True):
        coefficients = mscn_of(gray)
        coefficients[coefficients == 0] = 1e-12
        products = coefficients * np.roll(coefficients, shift, (0, 1))
        assert (found.left_count, found.right_count) == ((products < 0).sum(), (products > 0).sum())
