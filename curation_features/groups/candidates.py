"""Pairs of photos that may show one picture, the closest ones of each photo.

All pairs that a rule allows (other capture times are other pictures) are compared, in blocks, with fixed limits, so
that the result is exact and does not depend on the order of photos. Chance pairs grow with the square of the number of
photos, and each takes a test of geometry (1.5 ms): among 1,000 random hashes there are 2, among 100,000 16,000, among a
million 1.6 million. A photo keeps its `MOST` closest candidates, so that thousands of frames of one view (a time-lapse,
scans of one form) do not need a test for each pair of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, NamedTuple, Protocol, TypeAlias

import numpy as np

from curation_features.concurrency import bounded_map, worker_count

if TYPE_CHECKING:
    from numpy.typing import NDArray

MOST = 32
"""Candidates that a photo keeps among those with a greater index, the closest ones."""

MANY = 8
"""Blocks of rows from which on all cores are used: fewer take less than a second."""

_AT_ONCE = 1 << 16
"""Pairs at least that are found before the closest of them are chosen."""


class Rule(Protocol):
    """Knowledge of photos, by index, that rules out most pairs before they are compared."""

    def order(self, photos: NDArray[np.intp]) -> NDArray[np.intp]:
        """Return the photos in an order in which neighbours may be pairs with nearly the same others."""

    def within_reach(self, photos: NDArray[np.intp], others: NDArray[np.intp]) -> NDArray[np.intp]:
        """Return those of the others that may be a pair with one of the photos, and perhaps more, in their order."""

    def may_be_one(self, first: NDArray[np.intp], second: NDArray[np.intp]) -> NDArray[np.bool_]:
        """Return whether the photos of each pair may be candidates."""


class AnyPair:
    """The rule that rules out no pair."""

    def order(self, photos: NDArray[np.intp]) -> NDArray[np.intp]:
        """Return the photos as they are."""
        return photos

    def within_reach(self, photos: NDArray[np.intp], others: NDArray[np.intp]) -> NDArray[np.intp]:
        """Return all others."""
        return others

    def may_be_one(self, first: NDArray[np.intp], second: NDArray[np.intp]) -> NDArray[np.bool_]:
        """Return true for each pair."""
        return np.ones(len(first), np.bool_)


class Scored(NamedTuple):
    """Some pairs.

    Attributes:
        pairs: (M, 2) or (M, 3): rows that begin with the indices of a pair, the smaller one first.
        apart: (M,): how far apart its photos are.
    """

    pairs: NDArray[np.intp]
    apart: NDArray[np.float64]


Find: TypeAlias = "Callable[[NDArray[np.intp], NDArray[np.intp]], Iterable[Scored]]"


def blocks(indices: NDArray[np.intp], size: int) -> Iterator[NDArray[np.intp]]:
    """Split indices into blocks; the last one may be smaller."""
    return (indices[start : start + size] for start in range(0, len(indices), size))


def search(
    find: Find, width: int, rows: NDArray[np.intp], columns: NDArray[np.intp], rule: Rule, size: int
) -> list[NDArray[np.intp]]:
    """Find the closest pairs of each row, on all cores if there are many rows.

    Args:
        find: finds the pairs of some rows and some columns.
        width: of its pairs.
        rows: indices of photos that are compared, ascending.
        columns: indices of photos that they are compared with, ascending.
        rule: rules out pairs.
        size: rows that are compared at a time.
    """

    def choose(row: NDArray[np.intp]) -> NDArray[np.intp]:
        later = columns[np.searchsorted(columns, row.min()) :]
        return closest(find(row, rule.within_reach(row, later)), width)

    parts = blocks(rule.order(rows), size)
    cores = worker_count() if len(rows) > MANY * size else 1
    return list(map(choose, parts) if cores == 1 else bounded_map(choose, parts, workers=cores, ahead=2 * cores))


def closest(found: Iterable[Scored], width: int) -> NDArray[np.intp]:
    """Return the `MOST` closest pairs of each first photo, (M, width); equally close ones by index."""
    kept, waiting, number = Scored(np.zeros((0, width), np.intp), np.zeros(0)), list[Scored](), 0
    for some in found:
        if len(some.pairs):
            waiting.append(some)
            number += len(some.pairs)
        if number > max(_AT_ONCE, len(kept.pairs)):
            kept, waiting, number = _chosen([kept, *waiting]), [], 0
    return _chosen([kept, *waiting]).pairs


def _chosen(found: list[Scored]) -> Scored:
    pairs, apart = (np.concatenate(parts) for parts in zip(*found, strict=True))
    order = np.lexsort((pairs[:, 1], apart, pairs[:, 0]))
    starts = np.flatnonzero(np.diff(pairs[order, 0], prepend=-1))
    rank = np.arange(len(order)) - np.repeat(starts, np.diff(starts, append=len(order)))
    kept = order[rank < MOST]
    return Scored(pairs[kept], apart[kept])
