"""PDQ: a perceptual hash of 256 bits, in eight orientations.

Source: "The TMK+PDQF video-hashing algorithm and the PDQ image-hashing algorithm", Facebook, 2019. The luma is smoothed
by two box filters a side and sampled at 64 x 64 places; the hash has a bit for each of the 16 x 16 lowest frequencies
without a constant part, set if the coefficient of the cosine transform is above the median of all.

Filter and sampling are linear: one matrix a side does both, so that only the sampled places are computed. Sampling is
not symmetric: each orientation is sampled separately, so that its hash is that of the turned photo to the bit. The
cosine transform of the upright one with other signs, as the paper has it, is off by up to 22 bits.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from curation_features.fingerprints.fingerprint import ORIENTATIONS
from curation_features.fingerprints.products import product

if TYPE_CHECKING:
    from numpy.typing import NDArray

SAMPLES = 64
"""Sampled places a side."""

FREQUENCIES = 16
"""Frequencies a side."""

QUALITY_STEP = 90
"""Sum of the gradients, in percent of the range of gray levels, per unit of quality."""


LEAST_RANGE = 1.0
"""Gray levels between the darkest and the brightest sample of a photo with a hash: the bits of less are rounding."""

_TURNS = ((0, 0, 0), (0, 1, 1), (1, 1, 0), (1, 0, 1), (0, 1, 0), (0, 0, 1), (1, 0, 0), (1, 1, 1))
"""Of each orientation: whether it is upside down, mirrored, and then transposed."""


def pdq(luma: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], int]:
    """Hash a photo.

    Args:
        luma: (H, W), 0..255.

    Returns:
        (8, 32) of uint8, and the quality in 0..100. A row is the hash of `oriented(luma, row)`; its bytes in
        hexadecimal are PDQ's text form. A flat photo has no bit set; the reference gives it bits of its rounding.
    """
    rows, columns = (np.stack([matrix, matrix[:, ::-1]]) for matrix in map(_sampling, luma.shape))
    across = product(columns.reshape(2 * SAMPLES, -1), luma.astype(np.float32))
    sampled = product(rows.reshape(2 * SAMPLES, -1), across).reshape(2, SAMPLES, 2, SAMPLES)
    turned = [  # axes: upside down?, y, mirrored?, x
        sampled[flip_y, :, flip_x].T if transposed else sampled[flip_y, :, flip_x]
        for flip_y, flip_x, transposed in _TURNS
    ]
    cosines = _cosines()
    values = (cosines @ np.stack(turned) @ cosines.T).reshape(ORIENTATIONS, -1)
    median = np.sort(values, axis=1)[:, values.shape[1] // 2 - 1, None]  # the lower one of the two
    bits = (values[:, ::-1] > median) & (np.ptp(turned[0]) >= LEAST_RANGE)
    return np.packbits(bits, axis=1), _quality(turned[0])


def oriented(image: NDArray[np.uint8], orientation: int) -> NDArray[np.uint8]:
    """Turn an image: `orientation % 4` quarter turns counterclockwise; from 4 on, mirrored left to right before.

    Args:
        image: (H, W) or (H, W, 3).
        orientation: 0..7.
    """
    return np.ascontiguousarray(np.rot90(image[:, ::-1] if orientation >= 4 else image, orientation % 4))


def _quality(sampled: NDArray[np.float32]) -> int:
    down, across = (np.trunc(np.diff(sampled, axis=axis) * np.float32(100 / 255)) for axis in (0, 1))
    return int(min(100, (np.abs(down).sum() + np.abs(across).sum()) // QUALITY_STEP))


@lru_cache(maxsize=64)
def _sampling(side: int) -> NDArray[np.float32]:
    """Two box filters and the sampling of one side, (64, side). A box at the end of the side has what is inside."""
    box = -(-side // (2 * SAMPLES))
    at = np.arange(side)
    first, last = np.maximum(at - (box - 1) // 2, 0), np.minimum(at + box // 2, side - 1)
    filtered = ((at >= first[:, None]) & (at <= last[:, None])) / (last - first + 1)[:, None]
    places = ((np.arange(SAMPLES) + 0.5) * side / SAMPLES).astype(int)
    return np.asarray(filtered[places] @ filtered, np.float32)


@lru_cache(maxsize=1)
def _cosines() -> NDArray[np.float32]:
    """Rows of the cosine transform of type II without the constant one, (16, 64)."""
    frequency, place = np.arange(1, FREQUENCIES + 1)[:, None], np.arange(SAMPLES)
    waves = np.cos(np.pi / (2 * SAMPLES) * frequency * (2 * place + 1))
    return np.asarray(np.sqrt(2 / SAMPLES) * waves, np.float32)
