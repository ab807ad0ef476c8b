"""Noise: robust wavelet estimate of its standard deviation, without scikit-image and PyWavelets.

The library takes 5.5 ms per photo, this module 3.1 ms; tests compare the two.
D. L. Donoho and I. M. Johnstone, "Ideal spatial adaptation by wavelet shrinkage", Biometrika 81 (1994).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import cv2
import numpy as np

from curation_features.errors import UndefinedMetricError
from curation_features.schema import Measurement

if TYPE_CHECKING:
    from numpy.typing import NDArray

DB2_HIGH_PASS = (-0.48296291314453416, 0.8365163037378079, -0.2241438680420134, -0.12940952255126037)
"""Decomposition high-pass filter of the Daubechies wavelet with two vanishing moments."""

NORMAL_UPPER_QUARTILE = 0.6744897501960817
"""Median of `|x|` of a standard normal `x`."""

ROUNDING = 1e-12
"""Largest wavelet coefficient that is rounding error, for an image in [0, 1]."""


def noise_sigma(gray: NDArray[np.uint8]) -> float:
    """Estimate the noise sigma, equal to `skimage.restoration.estimate_sigma(gray / 255)`.

    Sigma is the scaled median of the nonzero diagonal detail coefficients. In flat areas, rounding decides which
    coefficients are zero, so the sums follow the order of PyWavelets.

    Args:
        gray: (H, W), 0..255.

    Returns:
        Sigma as a fraction of full scale, at least 0; lower is cleaner.

    Raises:
        UndefinedMetricError: `flat_image`: all coefficients are rounding error.
    """
    coefficients = np.abs(diagonal_detail(gray / 255.0)).ravel()
    if not coefficients.max(initial=0.0) > ROUNDING:
        raise UndefinedMetricError("flat_image", "the image has no fine detail that noise could be estimated from")
    return float(np.median(coefficients[coefficients != 0])) / NORMAL_UPPER_QUARTILE


def diagonal_detail(image: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the `dd` band of `pywt.dwtn(image, "db2")`, ((H + 3) // 2, (W + 3) // 2)."""
    vertical = _high_pass(image)
    return _high_pass(vertical.T).T


def _high_pass(image: NDArray[np.float64]) -> NDArray[np.float64]:
    """Filter along the first axis and keep every second row; the border mirrors the image and repeats its edge."""
    padded = np.asarray(cv2.copyMakeBorder(np.ascontiguousarray(image), 3, 3, 0, 0, cv2.BORDER_REFLECT), np.float64)
    size = (image.shape[0] + 3) // 2
    rows = [padded[4 - tap : 4 - tap + 2 * size - 1 : 2] for tap in range(4)]
    h0, h1, h2, h3 = DB2_HIGH_PASS
    filtered: NDArray[np.float64] = h0 * rows[0]
    for weight, shifted in zip((h1, h2, h3), rows[1:], strict=True):
        filtered += weight * shifted
    if image.shape[0] % 2:
        # PyWavelets sums the taps beyond the last row from the outside in.
        filtered[-1] = h2 * rows[2][-1] + h1 * rows[1][-1] + h0 * rows[0][-1] + h3 * rows[3][-1]
    return filtered


def noise(preview: NDArray[np.uint8], *, sigma_max: float) -> Measurement:
    """Score noise as `min(sigma / sigma_max, 1)`: 0 is clean.

    Args:
        preview: (H, W), 0..255.
        sigma_max: sigma that scores 1, as a fraction of full scale.

    Raises:
        UndefinedMetricError: `flat_image`.
    """
    sigma = noise_sigma(preview)
    return Measurement(score=min(sigma / sigma_max, 1.0), raw={"noise_sigma": sigma})
