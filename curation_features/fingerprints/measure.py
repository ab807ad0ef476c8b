"""The fingerprint of a photo's pixels."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

import cv2
import numpy as np

from curation_features.fingerprints.borders import without_borders
from curation_features.fingerprints.fingerprint import Fingerprint
from curation_features.fingerprints.keypoints import keypoints
from curation_features.fingerprints.pdq import pdq

if TYPE_CHECKING:
    from numpy.typing import NDArray

PREVIEW_SIDE = 512
"""Long side of the preview, px. A smaller photo is enlarged: its keypoints then have the size of a larger copy's."""

LEAST_SIDE = 96
"""Long side from which a photo is enlarged, px: less has no detail to be found again."""

THUMBNAIL_SIDE, MINIATURE_SIDE = 16, 64
"""Sides of the photo in colour and of its luma, stretched to a square, px."""

DETAIL_SIDE = 1024
"""Long side at which sharpness is measured, px, if the photo has as many: two frames of a landscape at f/11, focused on
the foreground and on the mountains, look the same at 512 px."""

TILES = 8
"""Tiles a side whose sharpness is measured."""

LEAST_CONTRAST = 25.0
"""Variance that is added to that of a tile, squared gray levels: a plain tile has no sharpness to compare."""

PLAINEST, MOST_NOISE = 0.05, 16.0
"""Share of the tiles whose energy counts as noise, and the most that does: of noise of 2 gray levels."""


def measure(rgb: NDArray[np.uint8], detail: NDArray[np.uint8] | None = None) -> Fingerprint:
    """Measure the fingerprint of a photo. Equal pixels give equal bits on one machine, with any number of threads.

    The hash is that of the photo without plain borders: they hardly change a picture, and most of a hash.

    Args:
        rgb: (H, W, 3) of uint8, upright; of any size.
        detail: luma of the photo with a long side of at most `DETAIL_SIDE`; None: made of `rgb`.
    """
    if detail is None:
        detail = np.asarray(cv2.cvtColor(_at_most(rgb, DETAIL_SIDE), cv2.COLOR_RGB2GRAY), np.uint8)
    reduced = _resized(rgb)
    luma = np.asarray(cv2.cvtColor(reduced, cv2.COLOR_RGB2GRAY), np.uint8)
    hashes, quality = pdq(without_borders(luma))
    thumbnail, miniature = _square(reduced, THUMBNAIL_SIDE), _square(luma, MINIATURE_SIDE)
    return Fingerprint(hashes, quality, thumbnail, miniature, tile_sharpness(detail), keypoints(luma))


def tile_sharpness(luma: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Energy of the gradient over the variance in each of 8 x 8 tiles, (8, 8); 0 for a plain tile, higher is sharper.

    The same subject out of focus keeps most of its variance and loses its gradients. Tiles of a side under 16 px are 0.

    Args:
        luma: (H, W), 0..255.
    """
    height, width = luma.shape
    if min(height, width) < 2 * TILES:
        return np.zeros((TILES, TILES), np.float32)
    rows, columns = (np.arange(TILES + 1) * side // TILES for side in (height, width))
    parts = [
        [_energy_and_variance(luma[top:bottom, left:right]) for left, right in pairwise(columns)]
        for top, bottom in pairwise(rows)
    ]
    energy, variance = np.moveaxis(np.array(parts), 2, 0)
    noise = min(float(np.quantile(energy, PLAINEST)), MOST_NOISE)
    return np.asarray(np.maximum(energy - noise, 0) / (variance + LEAST_CONTRAST), np.float32)


def _energy_and_variance(tile: NDArray[np.uint8]) -> tuple[float, float]:
    pairs = (tile[1:], tile[:-1]), (tile[:, 1:], tile[:, :-1])
    energy = sum(cv2.norm(one, other, cv2.NORM_L2SQR) / one.size for one, other in pairs)
    return energy, float(cv2.meanStdDev(tile)[1][0, 0]) ** 2


def _square(image: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    return np.asarray(cv2.resize(image, (side, side), interpolation=cv2.INTER_AREA), np.uint8)


def _at_most(rgb: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    """A photo whose long side is reduced to `side`, if it is longer."""
    height, width = rgb.shape[:2]
    scale = side / max(height, width)
    if scale >= 1:
        return rgb
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    return np.asarray(cv2.resize(rgb, size, interpolation=cv2.INTER_AREA), np.uint8)


def _resized(rgb: NDArray[np.uint8]) -> NDArray[np.uint8]:
    height, width = rgb.shape[:2]
    long = max(height, width)
    if long == PREVIEW_SIDE or long < LEAST_SIDE:
        return rgb
    size = (max(1, round(width * PREVIEW_SIDE / long)), max(1, round(height * PREVIEW_SIDE / long)))
    how = cv2.INTER_AREA if long > PREVIEW_SIDE else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(rgb, size, interpolation=how), np.uint8)
