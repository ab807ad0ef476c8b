"""The changes of a copy, in words."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from curation_features.groups.confirmation import common_part, corners
from curation_features.groups.geometry import apply
from curation_features.groups.look import GRAY, colour_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from curation_features.fingerprints import Fingerprint
    from curation_features.groups.photos import Photo

SAME_FRAME = 0.97
"""Common part from which two frames are one."""

SAME_SIZE = 1.03
"""Ratio of two sizes at most."""

SAME_BRIGHTNESS = 12.0
"""Gray levels by which the means of two copies differ at most."""

COLOURFUL = 2 * GRAY
"""Least mean difference of the channels of a photo in colour, gray levels."""


def changes(
    first: Photo, copy: Photo, transform: NDArray[np.float64], ours: Fingerprint | None, theirs: Fingerprint | None
) -> str:
    """Say what distinguishes a copy from the first one: `mirrored, cropped`; `re-encoded` if nothing does.

    Args:
        first: a photo.
        copy: another one of the same picture.
        transform: (2, 3): brings a position of the first to the copy, in shares of the longer side.
        ours: fingerprint of the first.
        theirs: fingerprint of the copy.
    """
    tones = _tones(ours.thumbnail, theirs.thumbnail) if ours and theirs else []
    return ", ".join([*_turns(transform), *_sizes(first, copy, transform), *tones]) or "re-encoded"


def _turns(transform: NDArray[np.float64]) -> list[str]:
    is_mirrored = bool(np.linalg.det(transform[:, :2]) < 0)
    along_x = -transform[:, 0] if is_mirrored else transform[:, 0]
    degrees = round(float(np.degrees(np.arctan2(along_x[1], along_x[0])))) % 360
    return (["mirrored"] if is_mirrored else []) + ([f"turned by {degrees} degrees"] if degrees else [])


def _sizes(first: Photo, copy: Photo, transform: NDArray[np.float64]) -> list[str]:
    frame, cut = apply(transform, corners(first)), corners(copy)
    scale = float(np.sqrt(abs(np.linalg.det(transform[:, :2]))))
    area = float(np.prod(cut[2])) / (scale**2 * float(np.prod(corners(first)[2])))
    words = []
    if common_part(frame, cut) < SAME_FRAME:
        words.append("cropped" if area < SAME_FRAME else "with a border" if area > 1 / SAME_FRAME else "shifted")
    pixels = scale * max(copy.width, copy.height) / max(first.width, first.height)
    if not 1 / SAME_SIZE < pixels < SAME_SIZE:
        words.append("reduced" if pixels < 1 else "enlarged")
    return words


def _tones(ours: NDArray[np.uint8], theirs: NDArray[np.uint8]) -> list[str]:
    words = ["gray"] if colour_of(theirs) < GRAY and colour_of(ours) > COLOURFUL else []
    brighter = float(theirs.mean() - ours.mean())
    if abs(brighter) > SAME_BRIGHTNESS:
        words.append("brighter" if brighter > 0 else "darker")
    return words
