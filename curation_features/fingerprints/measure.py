"""The fingerprint of a photo's pixels."""

from __future__ import annotations

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

THUMBNAIL_SIDE = 16

TILES = 8
"""Tiles a side whose sharpness is measured."""

LEAST_CONTRAST = 4.0
"""Variance that is added to that of a tile, squared gray levels: the noise of a plain tile does not count."""


def measure(rgb: NDArray[np.uint8]) -> Fingerprint:
    """Measure the fingerprint of a photo. Equal pixels give equal bits on one machine, with any number of threads.

    The hash is that of the photo without plain borders: they hardly change a picture, and most of a hash.

    Args:
        rgb: (H, W, 3) of uint8, upright; of any size.
    """
    reduced = _resized(rgb)
    luma = np.asarray(cv2.cvtColor(reduced, cv2.COLOR_RGB2GRAY), np.uint8)
    hashes, quality = pdq(without_borders(luma))
    size = (THUMBNAIL_SIDE, THUMBNAIL_SIDE)
    thumbnail = np.asarray(cv2.resize(reduced, size, interpolation=cv2.INTER_AREA), np.uint8)
    return Fingerprint(hashes, quality, thumbnail, tile_sharpness(luma), keypoints(luma))


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
    sums, squares = (_tile_sums(np.asarray(table, np.float64), rows, columns) for table in cv2.integral2(luma))
    count = np.outer(np.diff(rows), np.diff(columns))
    variance = squares / count - np.square(sums / count)
    energy = np.zeros_like(variance)
    for gradient in (cv2.absdiff(luma[1:], luma[:-1]), cv2.absdiff(luma[:, 1:], luma[:, :-1])):
        table = np.asarray(cv2.integral2(gradient)[1], np.float64)
        energy += _tile_sums(table, np.minimum(rows, len(table) - 1), np.minimum(columns, table.shape[1] - 1))
    return np.asarray(energy / count / (variance + LEAST_CONTRAST), np.float32)


def _tile_sums(integral: NDArray[np.float64], rows: NDArray[np.intp], columns: NDArray[np.intp]) -> NDArray[np.float64]:
    return np.diff(np.diff(integral[np.ix_(rows, columns)], axis=0), axis=1)


def _resized(rgb: NDArray[np.uint8]) -> NDArray[np.uint8]:
    height, width = rgb.shape[:2]
    long = max(height, width)
    if long == PREVIEW_SIDE or long < LEAST_SIDE:
        return rgb
    size = (max(1, round(width * PREVIEW_SIDE / long)), max(1, round(height * PREVIEW_SIDE / long)))
    how = cv2.INTER_AREA if long > PREVIEW_SIDE else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(rgb, size, interpolation=how), np.uint8)
