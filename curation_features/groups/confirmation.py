"""Whether two photos show one picture: by the geometry of their keypoints, or by pixels if they have hardly any.

Two frames that a camera took one after the other are not one picture, however close: capture time and exposure decide
if both are known.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from curation_features.fingerprints.pdq import oriented
from curation_features.groups.geometry import composed, match
from curation_features.groups.photos import Moment
from curation_features.groups.shots import ZONE, is_another_moment, may_be_one_moment

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from curation_features.fingerprints import Fingerprint
    from curation_features.groups.photos import Exposure, Photo

LEAST_INLIERS = 14
"""Places that a transform brings together; different scenes reach 8 in 4,000 candidates."""

LEAST_SUPPORT = 0.1
"""Share of the keypoints of the common part with a partner."""

LEAST_COVERAGE = 0.65
"""Share of the keypoints of the common part with an inlier near them: less is a logo or a caption that they share."""

LEAST_AGREEMENT = 0.6
"""Share of the close matches that the transform brings together; the two views of a stereo camera have 0.5."""

FEW_KEYPOINTS = 60
"""Keypoints of a photo with little detail, for which pixels decide."""

PLAIN_BITS, PLAIN_LEVELS, PLAIN_CONTRAST = 40, 4, 6.0
"""Most different bits and gray levels of two thumbnails with little detail, and the least standard deviation of one."""

EXPOSURE_RATIO = 1.1
"""Ratio of two settings of one exposure at most; they are rounded."""


def confirmed(
    one: Fingerprint, other: Fingerprint, corner: NDArray[np.float64], ways: Iterable[bool] = (False, True)
) -> NDArray[np.float64] | None:
    """The transform that brings a position of one photo to the other, (2, 3); None if they are not one picture.

    Args:
        one: of a photo.
        other: of another one.
        corner: the lower right corner of the first photo, in shares of its longer side.
        ways: whether the other is mirrored; the better one counts.
    """
    transform = _by_geometry(one, other, ways)
    return _by_pixels(one, other, corner) if transform is None else transform


def different_bits(hashes: NDArray[np.uint8], others: NDArray[np.uint8]) -> NDArray[np.intp]:
    """Return the different bits of a photo's hash in each orientation and of another's as it is, (8,).

    Args:
        hashes: (8, 32) of a photo, by orientation.
        others: likewise.
    """
    return np.asarray(np.bitwise_count(hashes ^ others[0]).sum(1), np.intp)


def may_be_one_exposure(one: Photo, other: Photo) -> bool:
    """Whether capture time and exposure, as far as both are known, allow that two photos show one exposure."""
    return may_be_one_moment(one, other) and all(
        ours is None or theirs is None or max(ours, theirs) <= EXPOSURE_RATIO * min(ours, theirs)
        for ours, theirs in zip(_settings(one.exposure), _settings(other.exposure), strict=True)
    )


class Exposures:
    """Moments and exposures of many photos, to rule out most pairs at once."""

    def __init__(self, photos: Sequence[Photo]) -> None:
        unknown = Moment(math.nan, math.nan)
        moments = [photo.moment or unknown for photo in photos]
        self._seconds = np.array([moment.seconds for moment in moments])
        self._resolution = np.array([moment.resolution for moment in moments])
        self._phase = self._seconds % ZONE
        settings = [[math.nan if value is None else value for value in _settings(p.exposure)] for p in photos]
        self._settings = np.array(settings).reshape(len(photos), 3)

    def order(self, photos: NDArray[np.intp]) -> NDArray[np.intp]:
        """Return photos of unknown moments, and then the others by time, but for time zones.

        Args:
            photos: indices.
        """
        known = ~np.isnan(self._phase[photos])
        order = np.lexsort((self._phase[photos], self._resolution[photos], known))
        return np.asarray(photos[order], np.intp)

    def within_reach(self, photos: NDArray[np.intp], others: NDArray[np.intp]) -> NDArray[np.intp]:
        """Return those of the others that may show one exposure with any of the photos, and perhaps more.

        Args:
            photos: indices, at least one.
            others: indices.
        """
        phases, phase = self._phase[photos], self._phase[others]
        first, last = phases.min(), phases.max()
        apart = np.where(
            (phase >= first) & (phase <= last), 0, np.minimum((first - phase) % ZONE, (phase - last) % ZONE)
        )
        is_far = apart > np.maximum(self._resolution[others], self._resolution[photos].max())  # never for NaN
        return np.asarray(others[~is_far], np.intp)

    def may_be_one(self, first: NDArray[np.intp], second: NDArray[np.intp]) -> NDArray[np.bool_]:
        """Whether times and settings allow that the photos of each pair show one exposure, (M,).

        True for every pair of which `may_be_one_exposure` is; that one looks at the names of files, too.

        Args:
            first: (M,) indices of photos.
            second: likewise.
        """
        resolution = np.maximum(self._resolution[first], self._resolution[second])
        impossible = is_another_moment(np.abs(self._seconds[first] - self._seconds[second]), resolution)
        for setting in self._settings.T:
            ours, theirs = setting[first], setting[second]
            impossible |= np.maximum(ours, theirs) > EXPOSURE_RATIO * np.minimum(ours, theirs)  # never for NaN
        return ~impossible


def _settings(exposure: Exposure) -> tuple[float | None, ...]:
    return exposure.seconds, exposure.aperture, exposure.iso


def common_part(one: NDArray[np.float64], other: NDArray[np.float64]) -> float:
    """Area that two frames share over the area that either covers, in [0, 1].

    OpenCV's `intersectConvexConvex` gives wrong areas for frames that nearly coincide.

    Args:
        one: (4, 2): corners in order, in either direction.
        other: likewise.
    """
    areas = _area(one), _area(other)
    if 0 in areas:
        return 0.0
    clip, shape = (frame if area > 0 else frame[::-1] for frame, area in zip((one, other), areas, strict=True))
    for start, end in zip(clip, np.roll(clip, -1, axis=0), strict=True):
        shape = _left_of(shape, start, end)
    shared = abs(_area(shape)) if len(shape) else 0.0
    return min(1.0, shared / (abs(areas[0]) + abs(areas[1]) - shared))


def _left_of(shape: NDArray[np.float64], start: NDArray[np.float64], end: NDArray[np.float64]) -> NDArray[np.float64]:
    """The part of a convex shape on the inner side of a line (I. Sutherland and G. Hodgman, CACM 17, 1974)."""
    x, y = end - start
    side = x * (shape[:, 1] - start[1]) - y * (shape[:, 0] - start[0])
    corners = []
    for at, then in zip(range(len(shape)), np.roll(np.arange(len(shape)), -1), strict=True):
        if side[at] >= 0:
            corners.append(shape[at])
        if side[at] * side[then] < 0:
            corners.append(shape[at] + (shape[then] - shape[at]) * side[at] / (side[at] - side[then]))
    return np.array(corners).reshape(-1, 2)


def _area(shape: NDArray[np.float64]) -> float:
    """Area of a polygon, negative if its corners are in the other direction."""
    x, y = shape.T
    return float(x @ np.roll(y, -1) - y @ np.roll(x, -1)) / 2


def corners(photo: Photo) -> NDArray[np.float64]:
    """Corners of a photo in shares of its longer side, from the upper left one clockwise, (4, 2)."""
    x, y = photo.width / max(photo.width, photo.height), photo.height / max(photo.width, photo.height)
    return np.array([[0, 0], [x, 0], [x, y], [0, y]])


def _by_geometry(one: Fingerprint, other: Fingerprint, ways: Iterable[bool]) -> NDArray[np.float64] | None:
    found = (match(one.keypoints, other.keypoints, mirrored) for mirrored in ways)
    sure = (
        match
        for match in found
        if match is not None
        and match.inliers >= LEAST_INLIERS
        and match.support >= LEAST_SUPPORT
        and match.coverage >= LEAST_COVERAGE
        and match.agreement >= LEAST_AGREEMENT
    )
    best = max(sure, key=lambda match: match.inliers, default=None)
    return None if best is None else best.transform


def _by_pixels(one: Fingerprint, other: Fingerprint, corner: NDArray[np.float64]) -> NDArray[np.float64] | None:
    """The transform between photos with hardly any keypoints, if their hashes and thumbnails agree in some orientation.

    A thumbnail without contrast, like that of a black frame, agrees with all others: it says nothing.

    Args:
        one: of a photo.
        other: of another one.
        corner: the lower right corner of the first photo.
    """
    if min(len(one.keypoints.positions), len(other.keypoints.positions)) >= FEW_KEYPOINTS:
        return None
    bits = different_bits(one.hashes, other.hashes)
    orientation = int(bits.argmin())
    if bits[orientation] > PLAIN_BITS:
        return None
    turned = oriented(one.thumbnail, orientation).astype(int)
    apart = int(np.abs(turned - other.thumbnail).max())
    return _turn(orientation, corner) if apart <= PLAIN_LEVELS and turned.mean(2).std() >= PLAIN_CONTRAST else None


def _turn(orientation: int, corner: NDArray[np.float64]) -> NDArray[np.float64]:
    """The transform of `fingerprints.pdq.oriented`."""
    width, height = corner
    transform = np.array([[-1.0, 0, width], [0, 1, 0]]) if orientation >= 4 else np.eye(2, 3)
    for _ in range(orientation % 4):
        transform = composed(transform, np.array([[0, 1.0, 0], [-1, 0, width]]))
        width, height = height, width
    return transform
