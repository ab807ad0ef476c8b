"""Pairs of photos that may show one picture: close hashes in one of eight orientations, or close vectors.

All pairs are compared, in blocks, with fixed limits, so that the result is exact and does not depend on the order of
photos. Chance pairs grow with the square of the number of photos, and each costs a test of geometry (1 ms): among
random hashes there are 2 per 1,000 photos, 160 per 1,000 of a million. A photo keeps its `MOST` closest candidates, so
that thousands of frames of one view (a time-lapse, scans of one form) do not cost a test for each pair of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from curation_features.fingerprints.fingerprint import ORIENTATIONS
from curation_features.fingerprints.pdq import FREQUENCIES

if TYPE_CHECKING:
    from numpy.typing import NDArray

FARTHEST = 92
"""Bits by which two hashes differ at most, of 256; 128 +- 8 by chance."""

FARTHEST_LOW = 18
"""Bits of the lowest 8 x 8 frequencies by which they differ at most, of 64; 32 +- 4 by chance.

A crop, a shift or a border changes high frequencies first: this limit and the one of all bits together give a fifth of
the chance pairs that the latter alone gives, and lose hardly a copy."""

LEAST_COSINE = 0.95
"""Cosine of two vectors at least."""

KEPT_VARIANCE = 0.75
"""Share of the vectors' squared length in the directions that are compared first."""

MOST = 32
"""Candidates that a photo keeps among those with a greater index, the closest ones."""

ROWS, COLUMNS = 64, 4096
"""Hashes that are compared at a time."""

VECTOR_ROWS, VECTOR_COLUMNS = 512, 4096
"""Vectors that are compared at a time."""

_ROUNDING = 1e-4
"""Error of a product in single precision at most."""

Allowed: TypeAlias = "Callable[[NDArray[np.intp], NDArray[np.intp]], NDArray[np.bool_]]"
"""Whether the photos of each pair, by index, may be candidates."""

_Scored: TypeAlias = "tuple[NDArray[np.intp], NDArray[np.float64]]"
"""Rows that begin with the indices of a pair, (M, 2) or (M, 3), and how far apart its photos are, (M,)."""


def near_hashes(
    hashes: NDArray[np.uint8],
    usable: NDArray[np.bool_],
    changed: NDArray[np.intp] | None = None,
    allowed: Allowed | None = None,
) -> NDArray[np.intp]:
    """Find pairs with close hashes.

    Args:
        hashes: (N, 8, 32) of uint8, in an order that belongs to the photos (by digest, say): of two photos, the first
            is the one that is turned.
        usable: (N,): whether a photo has a hash. One without any bit, as of a flat photo, is not compared.
        changed: ascending indices: only pairs with one of these are searched.
        allowed: pairs that may be candidates; by default all.

    Returns:
        (M, 3): first index, second index (the greater one), and the orientation of the first that is closest to the
        upright second; ascending.
    """
    compared = np.flatnonzero(usable & hashes[:, 0].any(1))
    words = np.ascontiguousarray(hashes).view(np.uint64).reshape(len(hashes), ORIENTATIONS, 4)
    low = _low_words(hashes)
    if changed is None:
        found = list(_close(low, words, compared, compared, allowed))
    else:
        few = np.intersect1d(changed, compared)
        found = [*_close(low, words, few, compared, allowed), *_close(low, words, compared, few, allowed)]
    every = np.concatenate([np.zeros((0, 3), np.intp), *found])
    return np.unique(every, axis=0)  # sorted; two changed photos are found twice


def _closest(blocks: Iterable[_Scored], width: int) -> NDArray[np.intp]:
    """Return the `MOST` closest pairs of each first photo, (M, width); equally close ones by index."""
    pairs, apart = np.zeros((0, width), np.intp), np.zeros(0)
    for found, distances in blocks:
        if not len(found):
            continue
        pairs, apart = np.concatenate([pairs, found]), np.concatenate([apart, distances])
        order = np.lexsort((pairs[:, 1], apart, pairs[:, 0]))
        starts = np.flatnonzero(np.diff(pairs[order, 0], prepend=-1))
        rank = np.arange(len(order)) - np.repeat(starts, np.diff(starts, append=len(order)))
        kept = order[rank < MOST]
        pairs, apart = pairs[kept], apart[kept]
    return pairs


def _later(
    row: NDArray[np.intp], column: NDArray[np.intp], places: NDArray[np.intp], allowed: Allowed | None
) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Return the pairs at places of a block whose second photo has the greater index, and that are allowed."""
    first, second = row[places // len(column)], column[places % len(column)]
    kept = first < second
    if allowed is not None:
        kept &= allowed(first, second)
    return first[kept], second[kept]


def _low_words(hashes: NDArray[np.uint8]) -> NDArray[np.uint64]:
    """Bits of the lowest 8 x 8 frequencies, (N, 8). A hash begins with the highest ones: its bits are in reverse."""
    rows = hashes.reshape(len(hashes), ORIENTATIONS, FREQUENCIES, 2)  # 16 vertical frequencies, each of 16 bits
    return np.ascontiguousarray(rows[:, :, 8:, 1]).view(np.uint64)[..., 0]


def _close(
    low: NDArray[np.uint64],
    words: NDArray[np.uint64],
    rows: NDArray[np.intp],
    columns: NDArray[np.intp],
    allowed: Allowed | None,
) -> Iterator[NDArray[np.intp]]:
    """Pairs of a row and a later column, with the orientation of the former, (M, 3); for some rows at a time."""
    shape = (ROWS, COLUMNS)
    different, bits, least = np.empty(shape, np.uint64), np.empty(shape, np.uint8), np.empty(shape, np.uint8)

    def found(row: NDArray[np.intp]) -> Iterator[_Scored]:
        for column in _blocks(columns[np.searchsorted(columns, row[0]) :], COLUMNS):
            block = np.s_[: len(row), : len(column)]
            least[block] = FARTHEST_LOW + 1
            upright = low[column, 0]
            for orientation in range(ORIENTATIONS):
                np.bitwise_xor(low[row, orientation][:, None], upright, out=different[block])
                np.bitwise_count(different[block], out=bits[block])
                np.minimum(least[block], bits[block], out=least[block])
            places = np.flatnonzero(least[block] <= FARTHEST_LOW)  # three times as fast as `nonzero` of two axes
            yield _within(low, words, *_later(row, column, places, allowed))

    return (_closest(found(row), 3) for row in _blocks(rows, ROWS))


def _within(
    low: NDArray[np.uint64], words: NDArray[np.uint64], first: NDArray[np.intp], second: NDArray[np.intp]
) -> _Scored:
    """The pairs within both limits, each with its closest orientation, (M, 3), and their bits."""
    low_bits = np.bitwise_count(low[first] ^ low[second, :1])
    bits = np.bitwise_count(words[first] ^ words[second, :1]).sum(2, dtype=np.intp)
    bits[low_bits > FARTHEST_LOW] = FARTHEST + 1
    orientation = bits.argmin(1)
    least = bits[np.arange(len(bits)), orientation]
    is_close = least <= FARTHEST
    pairs = np.asarray(np.stack([first, second, orientation], axis=1)[is_close], np.intp)
    return pairs, least[is_close].astype(np.float64)


def near_vectors(
    vectors: NDArray[np.float32] | NDArray[np.float16],
    changed: NDArray[np.intp] | None = None,
    allowed: Allowed | None = None,
) -> NDArray[np.intp]:
    """Find pairs of vectors with a cosine of at least 0.95.

    A few directions that hold most of the vectors' length are compared first. What the rest can add is at most the
    product of the lengths of the two rests (Cauchy-Schwarz), so that no pair is lost.

    Args:
        vectors: (N, D) with unit norm; zero for a photo without one.
        changed: ascending indices: only pairs with one of these are searched.
        allowed: pairs that may be candidates; by default all.

    Returns:
        (M, 2): first index and second index (the greater one), ascending.
    """
    present = np.flatnonzero(vectors.any(1))
    if len(present) < 2:
        return np.zeros((0, 2), np.intp)
    reduced = _reduced(vectors, present)
    if changed is None:
        found = list(_similar(vectors, reduced, present, present, allowed))
    else:
        few = np.intersect1d(changed, present)
        found = [
            *_similar(vectors, reduced, few, present, allowed),
            *_similar(vectors, reduced, present, few, allowed),
        ]
    return np.unique(np.concatenate([np.zeros((0, 2), np.intp), *found]), axis=0)


def _reduced(vectors: NDArray[np.float32] | NDArray[np.float16], present: NDArray[np.intp]) -> NDArray[np.float32]:
    """Coordinates in the directions with most length, and the length of the rest, (N, K + 1)."""
    size = vectors.shape[1]
    moments = np.zeros((size, size))
    for block in _blocks(present, VECTOR_COLUMNS):
        rows = vectors[block].astype(np.float32)
        moments += rows.T @ rows
    values, directions = np.linalg.eigh(moments)
    shares = np.cumsum(values[::-1]) / values.sum()
    kept = min(size, 32 * -(-int(np.searchsorted(shares, KEPT_VARIANCE) + 1) // 32))
    basis = directions[:, ::-1][:, :kept].astype(np.float32)
    reduced = np.zeros((len(vectors), kept + 1), np.float32)
    for block in _blocks(present, VECTOR_COLUMNS):
        rows = vectors[block].astype(np.float32)
        reduced[block, :kept] = rows @ basis
        reduced[block, kept] = np.sqrt(np.maximum(0, np.square(rows).sum(1) - np.square(reduced[block, :kept]).sum(1)))
    return reduced


def _similar(
    vectors: NDArray[np.float32] | NDArray[np.float16],
    reduced: NDArray[np.float32],
    rows: NDArray[np.intp],
    columns: NDArray[np.intp],
    allowed: Allowed | None,
) -> Iterator[NDArray[np.intp]]:
    """Pairs of a row and a later column, (M, 2); for some rows at a time."""

    def found(row: NDArray[np.intp]) -> Iterator[_Scored]:
        for column in _blocks(columns[np.searchsorted(columns, row[0]) :], VECTOR_COLUMNS):
            bound = reduced[row] @ reduced[column].T
            first, second = _later(row, column, np.flatnonzero(bound >= LEAST_COSINE - _ROUNDING), allowed)
            for start in range(0, len(first), VECTOR_COLUMNS):
                one, other = first[start : start + VECTOR_COLUMNS], second[start : start + VECTOR_COLUMNS]
                cosine = np.einsum("ij,ij->i", vectors[one].astype(np.float64), vectors[other].astype(np.float64))
                is_close = cosine >= LEAST_COSINE
                yield np.stack([one, other], axis=1)[is_close], -cosine[is_close]

    return (_closest(found(row), 2) for row in _blocks(rows, VECTOR_ROWS))


def _blocks(indices: NDArray[np.intp], size: int) -> Iterator[NDArray[np.intp]]:
    return (indices[start : start + size] for start in range(0, len(indices), size))
