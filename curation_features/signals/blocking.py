"""Blocks of JPEG: the step at the edges of 8 x 8 blocks over the step elsewhere.

Simplified from Z. Wang, H. R. Sheikh and A. C. Bovik, "No-reference perceptual quality assessment of JPEG compressed
images", ICIP 2002.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import cv2
import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from curation_features.signals.views import Views

BLOCK = 8
"""Side of a block, px."""

LEAST_STEP = 0.1
"""Added to both steps, so that a flat picture has no blocks, gray levels."""


def blocks(luma: NDArray[np.uint8]) -> float | None:
    """Compare the mean step across every eighth row and column with that across the others.

    It holds for the pixels that a JPEG file contains: any reduction, crop or turn afterwards moves or removes the
    blocks. The caller gives such pixels, and records no value for other photos.

    Args:
        luma: (H, W), 0..255, the file's pixels.

    Returns:
        The smaller ratio of both axes, above 0; 1 is without blocks, higher is stronger. None under 17 px a side.
    """
    if min(luma.shape) <= 2 * BLOCK:
        return None
    down, across = cv2.absdiff(luma[1:], luma[:-1]), cv2.absdiff(luma[:, 1:], luma[:, :-1])
    steps = (
        cv2.reduce(down, 1, cv2.REDUCE_AVG, dtype=cv2.CV_32F),
        cv2.reduce(across, 0, cv2.REDUCE_AVG, dtype=cv2.CV_32F),
    )
    return min(_ratio(np.asarray(step, np.float32).ravel()) for step in steps)


def _ratio(steps: NDArray[np.float32]) -> float:
    """Mean of every eighth step over the mean of the others."""
    by_phase = steps[: steps.size // BLOCK * BLOCK].reshape(-1, BLOCK).mean(0)
    return float((by_phase[-1] + LEAST_STEP) / (by_phase[:-1].mean() + LEAST_STEP))


def blocking(views: Views) -> dict[str, float | None]:
    """Measure `blocks` of `views.rgb`, which must be a JPEG file's own pixels; None for a photo under 96 px."""
    return {"blocks": blocks(views.luma) if views.is_measurable else None}
