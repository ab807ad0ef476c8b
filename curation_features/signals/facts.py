"""Facts without a judgement: entropy, colourfulness, gray or not, shape and plain borders."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import cv2
import numpy as np

from curation_features.signals.views import border_widths, histogram

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


def colourfulness(rgb: NDArray[np.uint8]) -> float:
    """Return the colourfulness M3, at least 0: 0 gray, 15 slightly, 45 averagely, 82 highly, 109 extremely colourful.

    With rg = R - G and yb = (R + G) / 2 - B, the root of the sum of their variances plus 0.3 times that of their
    squared means. D. Hasler and S. Suesstrunk, "Measuring colourfulness in natural images", SPIE 5007 (2003).

    Args:
        rgb: (H, W, 3), the preview.
    """
    red, green, blue = (channel.astype(np.float32) for channel in cv2.split(rgb))
    statistics = [cv2.meanStdDev(plane) for plane in (red - green, (red + green) * 0.5 - blue)]
    means, deviations = ([found[index].item() for found in statistics] for index in (0, 1))
    return math.hypot(*deviations) + 0.3 * math.hypot(*means)


def is_gray(rgb: NDArray[np.uint8], brightest: NDArray[np.uint8]) -> bool:
    """Tell whether 99.5 % of the pixels have channels within 6 levels; a toned (sepia) photo is not gray.

    Args:
        rgb: (H, W, 3), the preview.
        brightest: (H, W), its max(R, G, B).
    """
    red, green, blue = cv2.split(rgb)
    spread = cv2.subtract(brightest, cv2.min(cv2.min(red, green), blue))
    return bool(np.count_nonzero(np.asarray(spread) <= GRAY_SPREAD) >= GRAY_SHARE * spread.size)


def borders(preview: NDArray[np.uint8]) -> dict[str, float]:
    """Return the widths of plain borders, as shares of height or width, in [0, 0.25].

    A row or column is plain if its standard deviation is under 2 gray levels. A clear sky of less than a quarter of the
    height is a border too: it cannot be told apart.
    """
    height, width = preview.shape
    widths = zip(border_widths(preview), (height, height, width, width), strict=True)
    return dict(zip(BORDERS, (border / side for border, side in widths), strict=True))


def facts(views: Views) -> dict[str, float | None]:
    """Measure the facts of a photo; `aspect` and `megapixels` are those of `views.rgb`, for any size."""
    return {
        "entropy": entropy(views.preview),
        "colourfulness": colourfulness(views.preview_rgb),
        "is_gray": is_gray(views.preview_rgb, views.brightest),
        "aspect": views.width / views.height,
        "megapixels": views.width * views.height / 1e6,
        **borders(views.preview),
    }
