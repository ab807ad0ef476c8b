"""The fingerprint of a photo."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

ORIENTATIONS = 8
"""Four quarter turns, each also mirrored."""


@dataclass(frozen=True, slots=True)
class Keypoints:
    """ORB keypoints of a preview, strongest first.

    Attributes:
        positions: (N, 2) of float32: x and y in shares of the longer side of the upright photo.
        descriptors: (N, 32) of uint8.
    """

    positions: NDArray[np.float32]
    descriptors: NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """Data of a photo that is compared; some kilobytes.

    Attributes:
        hashes: (`ORIENTATIONS`, 32) of uint8: PDQ, 256 bits, of the photo in each orientation; the first is upright.
        quality: PDQ's quality in 0..100; a photo without detail has a low one, and its hash says little.
        thumbnail: (16, 16, 3) of uint8: the photo stretched to a square, RGB.
        miniature: (64, 64) of uint8: its luma, stretched to a square.
        sharpness: (8, 8) of float32: energy of the gradient in each tile, relative to its contrast.
        keypoints: for the geometry of two photos.
    """

    hashes: NDArray[np.uint8]
    quality: int
    thumbnail: NDArray[np.uint8]
    miniature: NDArray[np.uint8]
    sharpness: NDArray[np.float32]
    keypoints: Keypoints
