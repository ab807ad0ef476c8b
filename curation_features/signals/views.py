"""Views of a photo that signals share: reduced copies, luma, plain borders, tiles."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

import cv2
import numpy as np

from curation_features.signals.preview import preview

if TYPE_CHECKING:
    from numpy.typing import NDArray

DETAIL_SIDE = 1024
"""Long side of the detail view, px."""

PREVIEW_SIDE = 512
"""Long side of the preview, px."""

CHROMA_STEP = 4
"""Reduction of the detail view for chroma noise."""

LEAST_SIDE = 96
"""Shortest long side of a photo with signals, px."""

MARGIN = 0.03
"""Share of each side that edges skip: resampling and thin frames."""

PLAIN_SPREAD = 2.0
"""Standard deviation under which a row or column is plain, gray levels."""

LEAST_INNER = 96
"""Shortest side of what remains without borders, px; a smaller rest means that the borders are the picture."""


class Views:
    """A photo and its views; each is made on first use and kept. For one thread.

    The preview comes from the RGB preview that tones need anyway. It differs from that of the scores, which is reduced
    after its conversion to luma, by rounding; so the signals do not depend on the setting of the scores' preview.

    Args:
        rgb: (H, W, 3) of uint8, upright.
    """

    def __init__(self, rgb: NDArray[np.uint8]) -> None:
        self.rgb = rgb
        self.height, self.width = rgb.shape[:2]

    @property
    def is_measurable(self) -> bool:
        """Whether the long side has at least 96 px."""
        return bool(max(self.height, self.width) >= LEAST_SIDE)

    @cached_property
    def preview(self) -> NDArray[np.uint8]:
        """Luma with a long side of at most 512 px, (h, w)."""
        return gray(self.preview_rgb)

    @cached_property
    def detail(self) -> NDArray[np.uint8]:
        """RGB with a long side of at most 1024 px, (h, w, 3)."""
        return preview(self.rgb, DETAIL_SIDE)

    @cached_property
    def detail_luma(self) -> NDArray[np.uint8]:
        """Luma of `detail`, (h, w)."""
        return gray(self.detail)

    @cached_property
    def luma(self) -> NDArray[np.uint8]:
        """Luma of `rgb`, (H, W)."""
        return self.detail_luma if self.detail is self.rgb else gray(self.rgb)

    @cached_property
    def chroma(self) -> NDArray[np.uint8]:
        """Y, Cr, Cb of `detail` reduced 4 times, (h // 4, w // 4, 3), at least 4 px a side."""
        height, width = (max(4, side // CHROMA_STEP) for side in self.detail.shape[:2])
        reduced = cv2.resize(self.detail, (width, height), interpolation=cv2.INTER_AREA)
        return np.asarray(cv2.cvtColor(reduced, cv2.COLOR_RGB2YCrCb), np.uint8)

    @cached_property
    def preview_rgb(self) -> NDArray[np.uint8]:
        """RGB with a long side of at most 512 px, (h, w, 3)."""
        return preview(self.detail, PREVIEW_SIDE)

    @cached_property
    def channels(self) -> tuple[NDArray[np.uint8], NDArray[np.uint8], NDArray[np.uint8]]:
        """Red, green and blue of `preview_rgb`, (h, w) each."""
        red, green, blue = (np.asarray(channel, np.uint8) for channel in cv2.split(self.preview_rgb))
        return red, green, blue

    @cached_property
    def brightest(self) -> NDArray[np.uint8]:
        """max(R, G, B) of `preview_rgb`, (h, w)."""
        red, green, blue = self.channels
        return np.asarray(cv2.max(cv2.max(red, green), blue), np.uint8)

    @cached_property
    def borders(self) -> tuple[int, int, int, int]:
        """Widths of the plain borders of `preview` at top, bottom, left and right, px."""
        return border_widths(self.preview)

    @cached_property
    def inner(self) -> NDArray[np.uint8]:
        """The preview without plain borders and without 3 % of each side, (h, w); contiguous."""
        return without_borders(self.preview, self.borders)


def gray(rgb: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Luma (ITU-R 601) as OpenCV rounds it: at most one level from `signals.preview.luma`, four times as fast."""
    return np.asarray(cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY), np.uint8)


def histogram(plane: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Pixels at each of the 256 values; six times as fast as `np.bincount`.

    Args:
        plane: (H, W), 0..255; under 2^24 pixels.
    """
    counts = cv2.calcHist([plane], [0], None, [256], [0, 256])
    return np.asarray(counts, np.float64).ravel()


def without_borders(image: NDArray[np.uint8], borders: tuple[int, int, int, int]) -> NDArray[np.uint8]:
    """Cut plain borders with 2 px beside them, and at least 3 % of each side; contiguous.

    Args:
        image: (H, W), 0..255.
        borders: their widths at top, bottom, left and right, px.

    Returns:
        The inner part, or the whole image if less than 96 px of a side would remain.
    """
    height, width = image.shape
    top, bottom, left, right = (
        max(1, round(MARGIN * side)) + (border + 2 if border else 0)
        for side, border in zip((height, height, width, width), borders, strict=True)
    )
    inner = image[top : height - bottom, left : width - right]
    return np.ascontiguousarray(inner if min(inner.shape) >= LEAST_INNER else image)


def border_widths(image: NDArray[np.uint8]) -> tuple[int, int, int, int]:
    """Widths of plain borders at top, bottom, left and right, px; at most a quarter of the side.

    A row or column is plain if its standard deviation is under 2 levels. A whole quarter of plain rows is a plain
    picture (a clear sky, say), not a border: 0.

    Args:
        image: (H, W), 0..255.
    """
    across = image.T
    return (_plain_rows(image), _plain_rows(image[::-1]), _plain_rows(across), _plain_rows(across[::-1]))


def _plain_rows(image: NDArray[np.uint8]) -> int:
    quarter = image[: len(image) // 4]
    if not len(quarter) or quarter[0].std() >= PLAIN_SPREAD:  # as in most photos
        return 0
    return int(np.argmax(quarter.std(1) >= PLAIN_SPREAD))  # 0 if all are plain


def tile_means(image: NDArray[np.float32], tile: int) -> NDArray[np.float32]:
    """Mean of each whole tile, (H // tile, W // tile).

    Args:
        image: (H, W), at least one tile high and wide.
        tile: side of a tile, px.
    """
    rows, columns = image.shape[0] // tile, image.shape[1] // tile
    sums = image[: rows * tile].reshape(rows, tile, -1).sum(1)  # along rows: twice as fast as by tiles
    return np.asarray(sums[:, : columns * tile].reshape(rows, columns, tile).sum(2) / np.float32(tile * tile))
