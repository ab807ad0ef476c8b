"""How alike two photos look, beyond their time; each value is in [0, 1], or None if it cannot be known."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

import numpy as np

from curation_features.groups.geometry import Match, match
from curation_features.groups.photos import PhotoSet
from curation_features.groups.views import UNLIKE, Displacement, details, displacement, unexplained

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from curation_features.fingerprints import Fingerprint

_DARKEST, _BRIGHTEST = 4, 247
"""Gray levels between which a tone is neither crushed nor clipped, in a thumbnail."""

CERTAIN = 20
"""Inliers from which two photos certainly share a part; photos of different scenes reach about a dozen."""

_CLEAR = 0.9
"""Correlation of thumbnails from which geometry is not asked."""

_UNMOVED = 0.6
"""Correlation of details from which two frames certainly show one view; two neighbours of a panorama have less."""

_VISIBLE = 0.1
"""Share of a thumbnail that must be neither, in both photos, to compare their framing."""


ONE_VIEW = 0.6
"""Largest share of details that one of two frames of one view does not explain of the other, where most: 0.35 in a
focus stack, 1.5 if a subject moves."""

GRAY = 3.0
"""Mean difference between the channels of a thumbnail, in gray levels, under which a photo has no colour."""


class Look:
    """Compares photos of a set; each fingerprint is read once."""

    def __init__(self, photos: PhotoSet) -> None:
        self.fingerprint = cache(photos.fingerprint)
        self._photos = photos.photos
        self._vectors = photos.vectors
        self._gray = cache(self._read_gray)
        self._details = cache(self._read_details)
        self.displacement = cache(self._displacement)
        self.match = cache(self._match)
        self.unexplained = cache(self._unexplained)

    @property
    def has_vectors(self) -> bool:
        """Whether any photo has an embedding."""
        return self._vectors is not None

    def likeness(self, one: int, other: int) -> float | None:
        """Return the cosine of the embeddings; without them the correlation of the thumbnails."""
        if self._vectors is not None:
            first, second = (self._vectors[index].astype(np.float32) for index in (one, other))
            if first.any() and second.any():
                return _share(float(first @ second))
        return self.likeness_of_thumbnails(one, other)

    def likeness_of_thumbnails(self, one: int, other: int) -> float | None:
        """Return the correlation of the thumbnails, or the share that both photos show if geometry knows it.

        A shake of the hand moves fine structure between the pixels of a thumbnail; keypoints follow it.
        """
        alike = self.correlation(one, other)
        if alike is None or alike >= _CLEAR:
            return alike
        return max(alike, self.common(one, other))

    def common(self, one: int, other: int) -> float:
        """Return the least share of a photo that the other one shows too, by geometry; 0 if that is not certain."""
        found = self.match(*sorted((one, other)))
        return min(found.overlaps) if found and found.inliers >= CERTAIN else 0.0

    def sides(self, index: int) -> tuple[float, float]:
        """Return width and height of a photo in shares of its longer side, as positions of keypoints are."""
        photo = self._photos[index]
        longer = max(photo.width, photo.height, 1)
        return photo.width / longer, photo.height / longer

    def _match(self, one: int, other: int) -> Match | None:
        first, second = self.fingerprint(one), self.fingerprint(other)
        if first is None or second is None:
            return None
        return match(first.keypoints, second.keypoints, mirrored=False)

    def shows_another_view(self, one: int, other: int) -> bool:
        """Return whether two frames of one moment show two views: they share a strip only, or no details at all."""
        first, second = self._details(one), self._details(other)
        if first is None or second is None or (correlate(first, second) or 0.0) >= _UNMOVED:
            return False
        found = self.displacement(one, other)
        return found is not None and (found.is_moved_on or found.unmoved < UNLIKE)

    def _read_details(self, index: int) -> NDArray[np.float32] | None:
        fingerprint = self.fingerprint(index)
        return None if fingerprint is None else details(fingerprint.miniature)

    def _displacement(self, one: int, other: int) -> Displacement | None:
        """Return where a photo is relative to an earlier one, by the details of both; see `views.displacement`."""
        first, second = self._details(one), self._details(other)
        return None if first is None or second is None else displacement(first, second)

    def is_one_view(self, one: int, other: int, most: float = ONE_VIEW) -> bool:
        """Return whether two photos show one view: only a shake, the focus and the light are different."""
        return self.unexplained(*sorted((one, other))) <= most

    def _unexplained(self, one: int, other: int) -> float:
        first, second = self.fingerprint(one), self.fingerprint(other)
        return float("inf") if first is None or second is None else unexplained(first.miniature, second.miniature)

    def correlation(self, one: int, other: int) -> float | None:
        """Return the correlation of the gray levels of two thumbnails."""
        first, second = self._gray(one), self._gray(other)
        return None if first is None or second is None else correlate(first, second)

    def framing(self, one: int, other: int) -> float | None:
        """Return the rank correlation of tones that both photos show; exposure and tone curve do not change ranks."""
        first, second = self._gray(one), self._gray(other)
        if first is None or second is None:
            return None
        visible = np.ones(first.shape, bool)
        for gray in (first, second):
            visible &= (gray >= _DARKEST) & (gray <= _BRIGHTEST)
        if visible.mean() < _VISIBLE:
            return None
        return correlate(_ranks(first[visible]), _ranks(second[visible]))

    def _read_gray(self, index: int) -> NDArray[np.float32] | None:
        fingerprint = self.fingerprint(index)
        return None if fingerprint is None else to_gray(fingerprint)


def to_gray(fingerprint: Fingerprint) -> NDArray[np.float32]:
    """Return the luma (ITU-R BT.601) of a thumbnail, in gray levels."""
    weights = np.array([0.299, 0.587, 0.114], np.float32)
    return np.asarray(fingerprint.thumbnail @ weights, np.float32)


def colour_of(thumbnail: NDArray[np.uint8]) -> float:
    """Return the mean difference between the largest and the smallest channel of a thumbnail, in gray levels."""
    return float(np.ptp(thumbnail.astype(np.int16), axis=2).mean())


def _ranks(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the mean rank of each value, as in Spearman's correlation."""
    _, places, counts = np.unique(values, return_inverse=True, return_counts=True)
    ranks = np.cumsum(counts) - (counts - 1) / 2
    return np.asarray(ranks[places], np.float32)


def correlate(first: NDArray[np.float32], second: NDArray[np.float32]) -> float | None:
    """Return Pearson's correlation, 0 if it is negative. None if a photo has no tones to compare."""
    deviations = [values.ravel() - values.mean() for values in (first, second)]
    norms = [float(np.linalg.norm(values)) for values in deviations]
    if min(norms) < 1e-3:
        return None
    return _share(float(deviations[0] @ deviations[1]) / (norms[0] * norms[1]))


def _share(value: float) -> float:
    return min(1.0, max(0.0, value))
