"""Noise of luma and chroma: the floor of a high-pass over the tiles, lowered if the floor is uneven.

J. Immerkaer, "Fast noise variance estimation", Computer Vision and Image Understanding 64 (1996): a mask that
suppresses edges. X. Liu, M. Tanaka and M. Okutomi, "Single-image noise level estimation for blind denoising", IEEE
Transactions on Image Processing 22 (2013): noise is measured in the least textured parts. Texture (foliage, bark) has
tiles of very different energy, noise has equal ones; the ratio of the 1st to the 25th percentile tells them apart.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import cv2
import numpy as np

from curation_features.signals.views import tile_means

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from curation_features.signals.views import Views

SECOND_DIFFERENCE = np.array([1, -2, 1], np.float32)
"""Immerkaer's mask is its outer product with itself, over 6: zero for straight edges along the axes; white noise keeps
its sigma."""

LUMA_TILE = 12
"""px of the detail view."""

CHROMA_TILE = 4
"""px of the chroma view."""

CLIPPED_LOW, CLIPPED_HIGH = 4, 251
"""Luma under or over which a pixel may be clipped; clipping hides noise."""

CLIPPED_SHARE = 0.02
"""Share of clipped pixels from which a tile is not used."""

CHROMA_LOW, CHROMA_HIGH = 8, 245
"""Luma limits of a tile of chroma, exclusive."""

LEAST_TILES = 24
"""Fewest usable tiles of a percentile."""

WHITE_LUMA, WHITE_CHROMA = 0.775, 0.57
"""p1^2 / p25 of white noise of sigma 1 in tiles of luma and of chroma."""


def high_pass_energy(plane: NDArray[np.uint8], tile: int) -> NDArray[np.float32]:
    """Mean square of Immerkaer's mask in each tile; white noise gives its variance.

    Args:
        plane: (H, W), 0..255.
        tile: px.

    Returns:
        (H // tile, W // tile), gray levels squared.
    """
    filtered = cv2.sepFilter2D(plane, cv2.CV_16S, SECOND_DIFFERENCE, SECOND_DIFFERENCE)  # whole numbers, exact
    return tile_means(np.square(filtered, dtype=np.float32), tile) / np.float32(36)


def unclipped(plane: NDArray[np.uint8], tile: int) -> NDArray[np.bool_]:
    """Mask of tiles with less than 2 % of pixels at the ends of the scale, (H // tile, W // tile)."""
    is_clipped = cv2.inRange(plane, CLIPPED_LOW, CLIPPED_HIGH) == 0
    return np.asarray(tile_means(is_clipped.astype(np.float32), tile) < CLIPPED_SHARE)


def floor(
    energy: NDArray[np.float32], is_usable: NDArray[np.bool_], percents: Sequence[float]
) -> NDArray[np.float64] | None:
    """Percentiles of the RMS over usable tiles, gray levels; None for fewer than 24 tiles."""
    usable = energy[is_usable]
    return np.percentile(np.sqrt(usable), percents) if usable.size >= LEAST_TILES else None


def noise_luma(detail_luma: NDArray[np.uint8]) -> float | None:
    """Estimate the luma noise of the detail view: p1^2 / p25 / 0.775 over tiles of 12 px.

    Args:
        detail_luma: (H, W), 0..255, long side at most 1024 px.

    Returns:
        Standard deviation in gray levels, at least 0, 0 is clean; white noise reads 0.82 of its sigma. None if fewer
        than 24 tiles are free of clipping. JPEG and reduction erase noise: 0 may mean "compressed".
    """
    if min(detail_luma.shape) < LUMA_TILE:
        return None
    percentiles = floor(high_pass_energy(detail_luma, LUMA_TILE), unclipped(detail_luma, LUMA_TILE), (1, 25))
    return _evenness(percentiles, WHITE_LUMA)


def noise_chroma(chroma: NDArray[np.uint8]) -> float | None:
    """Estimate blotches of colour, in the chroma view: p1^2 / p25 / 0.57 over tiles of 4 px.

    The energies of Cb and Cr are summed.

    Args:
        chroma: (H, W, 3), Y, Cr, Cb of the detail view reduced 4 times.

    Returns:
        Gray levels of the chroma view, at least 0, 0 is clean. None if fewer than 24 tiles are neither black nor white.
    """
    if min(chroma.shape[:2]) < CHROMA_TILE:
        return None
    luma, red, blue = cv2.split(chroma)
    energy = high_pass_energy(np.asarray(red), CHROMA_TILE) + high_pass_energy(np.asarray(blue), CHROMA_TILE)
    brightness = np.rint(tile_means(np.asarray(luma, np.float32), CHROMA_TILE))
    is_usable = np.logical_and(brightness > CHROMA_LOW, brightness < CHROMA_HIGH)
    return _evenness(floor(energy, is_usable, (1, 25)), WHITE_CHROMA)


def _evenness(percentiles: NDArray[np.float64] | None, white: float) -> float | None:
    if percentiles is None:
        return None
    low, quarter = percentiles.tolist()
    return float(low**2 / max(quarter, 1e-3)) / white


def grain(views: Views) -> dict[str, float | None]:
    """Measure `noise_luma` and `noise_chroma`; None for a photo under 96 px."""
    if not views.is_measurable:
        return {"noise_luma": None, "noise_chroma": None}
    return {"noise_luma": noise_luma(views.detail_luma), "noise_chroma": noise_chroma(views.chroma)}
