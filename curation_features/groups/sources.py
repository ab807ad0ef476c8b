"""Which of several exposures a copy without capture time comes from.

A small copy without EXIF matches all frames of the burst that its original is from. It must not link them: it belongs
to the nearest one.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Protocol

from curation_features.groups.confirmation import different_bits, may_be_one_exposure

if TYPE_CHECKING:
    from curation_features.groups.photos import Photo, PhotoSet


class Pair(Protocol):
    """Two photos that show one picture."""

    @property
    def first(self) -> int:
        """Index of a photo."""

    @property
    def second(self) -> int:
        """Index of another photo."""

    @property
    def similarity(self) -> float:
        """Common part of the two."""


def doubtful_pairs(photos: PhotoSet, pairs: Iterable[Pair]) -> set[tuple[int, int]]:
    """Return the pairs of a photo with other exposures than the one that it is nearest to.

    Nearest is the frame with the largest common part (to a hundredth), then the fewest different bits of the hashes.
    """
    near: defaultdict[int, list[tuple[float, int, str, int]]] = defaultdict(list)
    for pair in pairs:
        bits = int(different_bits(photos.hashes[pair.first], photos.hashes[pair.second]).min())
        for one, other in ((pair.first, pair.second), (pair.second, pair.first)):
            near[one].append((-round(pair.similarity, 2), bits, photos.photos[other].sha256, other))
    doubtful: set[tuple[int, int]] = set()
    for one, others in near.items():
        own: list[Photo] = []
        for *_, other in sorted(others):
            if _fits(photos.photos[other], own):
                own.append(photos.photos[other])
            else:
                doubtful |= {(one, other), (other, one)}
    return doubtful


def _fits(photo: Photo, others: Sequence[Photo]) -> bool:
    return all(may_be_one_exposure(photo, other) for other in others)
