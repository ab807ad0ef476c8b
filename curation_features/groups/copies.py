"""Copies: files that show one picture, re-encoded, resized, cropped, turned, mirrored, gray or brighter.

Equal bytes are copies. Others are found by close hashes or vectors, and confirmed (see `confirmation`).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations
from typing import TYPE_CHECKING

import numpy as np

from curation_features.groups.changes import changes
from curation_features.groups.confirmation import Exposures, common_part, confirmed, corners, may_be_one_exposure
from curation_features.groups.geometry import apply, composed, inverse
from curation_features.groups.linking import link_to_leaders
from curation_features.groups.near_hashes import near_hashes
from curation_features.groups.near_vectors import near_vectors
from curation_features.groups.sources import doubtful_pairs

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from curation_features.groups.photos import Photo, PhotoSet

LEAST_COMMON = 0.5
"""Common part of two frames over the part that either covers."""


@dataclass(frozen=True, slots=True)
class Edge:
    """Two photos that show one picture, confirmed.

    Attributes:
        first: index of a photo; its digest is the smaller one. The edge holds for all files with the bytes of the two.
        second: index of another photo.
        transform: (2, 3) of float64: brings a position of the first photo to the second, both in shares of the longer
            side.
        similarity: common part of the two frames over the part that either covers, in (0, 1].
    """

    first: int
    second: int
    transform: NDArray[np.float64]
    similarity: float


@dataclass(frozen=True, slots=True)
class Copies:
    """Copies of one picture.

    Attributes:
        members: indices, by key.
        similarity: least similarity of two members.
        changes: what distinguishes each member from the first, in words: `same bytes`, `resized`, `cropped`, ...
    """

    members: Sequence[int]
    similarity: float
    changes: Sequence[str]


def find_copies(photos: PhotoSet) -> list[Copies]:
    """Find the copies among photos; by the key of their first member."""
    return link_copies(photos, find_edges(photos))


def find_edges(photos: PhotoSet, changed: Collection[int] | None = None) -> list[Edge]:
    """Find all pairs that show one picture; equal bytes make no pair.

    Args:
        photos: to be compared.
        changed: compare only these with all photos: indices of photos that are new or have another fingerprint. Edges
            of the others, found before, still hold: an edge depends on its two photos only.
    """
    distinct = list(_by_bytes(photos).values())  # in the order of their digests
    index = np.array([representative(same, photos.has_hash) for same in distinct], np.intp)
    of = {photo: place for place, same in enumerate(distinct) for photo in same}
    few = None if changed is None else np.unique(np.array([of[photo] for photo in changed], np.intp))
    exposures = Exposures([photos.photos[place] for place in index])
    hinted = near_hashes(photos.hashes[index], photos.has_hash[index], few, exposures)
    pairs = {(one, other): orientation >= 4 for one, other, orientation in hinted.tolist()}
    if photos.vectors is not None:
        for one, other in near_vectors(photos.vectors[index], few, exposures).tolist():
            pairs.setdefault((one, other), False)
    comparison = _Comparison(photos)
    found = (comparison.edge(int(index[one]), int(index[other]), hint) for (one, other), hint in sorted(pairs.items()))
    return [edge for edge in found if edge is not None]


def link_copies(photos: PhotoSet, edges: Iterable[Edge]) -> list[Copies]:
    """Link edges to groups of copies; edges of one connected component give the same groups without the others.

    Args:
        photos: that the edges belong to; fingerprints of linked ones are read.
        edges: of `find_edges`.
    """
    same = _by_bytes(photos)
    found = {(edge.first, edge.second): edge for edge in edges}
    doubtful = doubtful_pairs(photos, found.values())
    known = {pair: None if pair in doubtful else edge for pair, edge in found.items()}
    keys = [photo.sha256 for photo in photos.photos]
    comparison = _Comparison(photos, known)
    groups = link_to_leaders([pair for pair, edge in known.items() if edge is not None], keys, comparison)
    linked = {index for group in groups for index in group}
    alone = (twins for twins in same.values() if len(twins) > 1 and linked.isdisjoint(twins))
    whole = [{twins[0]: comparison.own(twins[0])} for twins in alone]
    return sorted(
        (comparison.copies(group, same) for group in (*groups, *whole)),
        key=lambda copies: photos.photos[copies.members[0]].key,
    )


def _by_bytes(photos: PhotoSet) -> Mapping[str, list[int]]:
    """Digest -> the photos with it by key; in the order of the digests."""
    found: dict[str, list[int]] = defaultdict(list)
    for index in sorted(range(len(photos.photos)), key=lambda index: photos.photos[index].key):
        found[photos.photos[index].sha256].append(index)
    return dict(sorted(found.items()))


@dataclass(frozen=True)
class _Place:
    """A photo, and the transform that brings a position of the leader to it."""

    photo: Photo
    transform: NDArray[np.float64]

    @cached_property
    def frame(self) -> NDArray[np.float64]:
        """Corners of the photo in the leader, (4, 2)."""
        return apply(inverse(self.transform), corners(self.photo))


class _Comparison:
    """Comparisons of photos by index, each done once."""

    def __init__(self, photos: PhotoSet, known: Mapping[tuple[int, int], Edge | None] | None = None) -> None:
        self._photos = photos
        self._edges: dict[tuple[int, int], Edge | None] = dict(known or {})

    def own(self, index: int) -> _Place:
        return _Place(self._photos.photos[index], np.eye(2, 3))

    def between(self, one: int, other: int) -> _Place | None:
        digests = [self._photos.photos[index].sha256 for index in (one, other)]
        pair = (one, other) if digests[0] < digests[1] else (other, one)
        if pair not in self._edges:
            self._edges[pair] = self.edge(*pair, None)
        edge = self._edges[pair]
        if edge is None:
            return None
        return _Place(self._photos.photos[other], edge.transform if pair[0] == one else inverse(edge.transform))

    def joined(self, first: _Place, then: _Place) -> _Place:
        return _Place(then.photo, composed(first.transform, then.transform))

    def fits(self, members: Iterable[_Place], relation: _Place) -> bool:
        return all(
            common_part(relation.frame, member.frame) >= LEAST_COMMON
            and may_be_one_exposure(relation.photo, member.photo)
            for member in members
        )

    def edge(self, first: int, second: int, mirrored: bool | None) -> Edge | None:
        """Compare two photos; None if they do not show one picture.

        Args:
            first: the one with the smaller digest.
            second: the other one.
            mirrored: whether the second is mirrored; None if that is unknown.
        """
        one, other = self._photos.photos[first], self._photos.photos[second]
        if not may_be_one_exposure(one, other):
            return None
        ours, theirs = self._photos.fingerprint(first), self._photos.fingerprint(second)
        if ours is None or theirs is None:
            return None
        ways = (False, True) if mirrored is None else (mirrored,)
        transform = confirmed(ours, theirs, corners(one)[2], ways)
        if transform is None:
            return None
        similarity = common_part(_Place(other, transform).frame, corners(one))
        return Edge(first, second, transform, similarity) if similarity >= LEAST_COMMON else None

    def copies(self, group: Mapping[int, _Place], same: Mapping[str, Sequence[int]]) -> Copies:
        """The group with all files of the same bytes."""
        places = {twin: place for place in group.values() for twin in same[place.photo.sha256]}
        members = sorted(places, key=lambda index: self._photos.photos[index].key)
        shared = (common_part(one.frame, other.frame) for one, other in combinations(group.values(), 2))
        first = places[members[0]]
        changes = [self._changes(first, places[index], members[0], index) for index in members]
        return Copies(members, min(shared, default=1.0), changes)

    def _changes(self, first: _Place, place: _Place, leader: int, index: int) -> str:
        if index == leader:
            return ""
        if first.photo.sha256 == place.photo.sha256:
            return "same bytes"
        transform = composed(inverse(first.transform), place.transform)
        ours, theirs = self._photos.fingerprint(leader), self._photos.fingerprint(index)
        return changes(first.photo, place.photo, transform, ours, theirs)


def representative(same: Sequence[int], has_hash: Sequence[bool] | NDArray[np.bool_]) -> int:
    """The photo that represents others with its bytes: the first with a fingerprint, if any.

    Args:
        same: photos with equal bytes, by key.
        has_hash: whether each photo has a fingerprint.
    """
    return next((index for index in same if has_hash[index]), same[0])
