"""Facts without a judgement: entropy, colourfulness, gray or not, shape and plain borders."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import cv2
import numpy as np

from curation_features.signals.views import histogram

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from curation_features.signals.views import Views

GRAY_SPREAD = 6
"""Largest max(R, G, B) - min(R, G, B) of a gray pixel; JPEG moves it by a few levels."""

GRAY_SHARE = 0.995
"""Share of gray pixels of a gray photo."""

BORDERS = ("border_top", "border_bottom", "border_left", "border_right")


def entropy(preview: NDArray[np.uint8]) -> float:
    """Return the Shannon entropy of the luma's histogram, in [0, 8] bits; 0 for one gray level.

    C. E. Shannon, "A mathematical theory of communication", Bell System Technical Journal 27 (1948).
    """
    counts = histogram(preview)
    shares = counts[counts > 0] / preview.size
    return max(0.0, -float(np.sum(shares * np.log2(shares))))


def colourfulness(red: NDArray[np.uint8], green: NDArray[np.uint8], blue: NDArray[np.uint8]) -> float:
    """Return the colourfulness M3, at least 0: 0 gray, 15 slightly, 45 averagely, 82 highly, 109 extremely colourful.

    With rg = R - G and yb = (R + G) / 2 - B, the root of the sum of their variances plus 0.3 times that of their
    squared means. D. Hasler and S. Suesstrunk, "Measuring colourfulness in natural images", SPIE 5007 (2003).

    Args:
        red: (H, W), of the preview, as the others.
    """
    rg = cv2.subtract(red, green, dtype=cv2.CV_16S)
    twice_yb = cv2.subtract(cv2.add(red, green, dtype=cv2.CV_16S), cv2.add(blue, blue, dtype=cv2.CV_16S))
    means, deviations = (
        (of_rg.item(), of_yb.item() / 2)
        for of_rg, of_yb in zip(cv2.meanStdDev(rg), cv2.meanStdDev(twice_yb), strict=True)
    )
    return math.hypot(*deviations) + 0.3 * math.hypot(*means)


def is_gray(darkest: NDArray[np.uint8], brightest: NDArray[np.uint8]) -> bool:
    """Tell whether 99.5 % of the pixels have channels within 6 levels; a toned (sepia) photo is not gray.

    Args:
        darkest: (H, W), min(R, G, B) of the preview.
        brightest: (H, W), its max(R, G, B).
    """
    spread = cv2.subtract(brightest, darkest)
    return bool(np.count_nonzero(np.asarray(spread) <= GRAY_SPREAD) >= GRAY_SHARE * spread.size)


def borders(views: Views) -> dict[str, float]:
    """Return the widths of plain borders, as shares of height or width, in [0, 0.25].

    A row or column is plain if its standard deviation is under 2 gray levels. A clear sky of less than a quarter of the
    height is a border too: it cannot be told apart.
    """
    height, width = views.preview.shape
    widths = zip(views.borders, (height, height, width, width), strict=True)
    return dict(zip(BORDERS, (border / side for border, side in widths), strict=True))


def facts(views: Views) -> dict[str, float | None]:
    """Measure the facts of a photo; `aspect` and `megapixels` are those of `views.rgb`, for any size."""
    red, green, blue = views.channels
    return {
        "entropy": entropy(views.preview),
        "colourfulness": colourfulness(red, green, blue),
        "is_gray": is_gray(np.asarray(cv2.min(cv2.min(red, green), blue), np.uint8), views.brightest),
        "aspect": views.width / views.height,
        "megapixels": views.width * views.height / 1e6,
        **borders(views),
    }
