"""Plain borders that were added to a photo: frames, and the bars of another aspect ratio."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

PLAIN_SPREAD = 2.0
"""Standard deviation under which a row is plain, gray levels."""

SAME_LEVEL = 3.0
"""Gray levels by which the rows of a border differ from the outermost one."""

LEAST_WIDTH = 2
"""Rows of a border at least: one may be an accident of a crop."""

LEAST_INNER = 0.5
"""Share of the side that remains at least; less means that the border is the picture."""


def without_borders(luma: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Cut borders of one gray level that are on two opposite sides; on one side it may be a sky.

    Args:
        luma: (H, W), 0..255.
    """
    top, bottom = _widths(luma)
    left, right = _widths(luma.T)
    return luma[top : luma.shape[0] - bottom, left : luma.shape[1] - right]


def _widths(image: NDArray[np.uint8]) -> tuple[int, int]:
    first, last = _plain_rows(image), _plain_rows(image[::-1])
    if min(first, last) < LEAST_WIDTH or first + last > (1 - LEAST_INNER) * len(image):
        return 0, 0
    return first, last


def _plain_rows(image: NDArray[np.uint8]) -> int:
    if image[0].std() >= PLAIN_SPREAD:  # as in most photos
        return 0
    is_border = (image.std(1) < PLAIN_SPREAD) & (np.abs(image.mean(1) - image[0].mean()) <= SAME_LEVEL)
    return len(image) if is_border.all() else int(np.argmin(is_border))
