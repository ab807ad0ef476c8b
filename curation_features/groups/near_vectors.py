"""Pairs of photos with close vectors.

The vectors of an archive are far from even: a few directions hold most of what distinguishes photos. Those are compared
first. What the rest can add to a cosine is at most the product of the lengths of the two rests (Cauchy-Schwarz), so
that no pair is lost. The few pairs that remain are compared in more directions, and at last exactly.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from curation_features.fingerprints.products import TERMS, product
from curation_features.groups.candidates import AnyPair, Rule, Scored, blocks, search

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Vectors: TypeAlias = NDArray[np.float32] | NDArray[np.float16]

LEAST_COSINE = 0.95
"""Cosine of two vectors at least."""

ROWS, COLUMNS = 512, 1024
"""Vectors that are compared at a time."""

FEW = 2048
"""Vectors up to which all directions are compared at once: finding the best ones would take longer."""

DIRECTIONS = 16, 24, 32, 48, 64, 96
"""Numbers of directions that may be compared first, and"""

MORE_DIRECTIONS = 128
"""of those that are compared then."""

CHECK = 20_000
"""Time of a comparison of one pair in more directions, in times of one direction of a pair of a block."""

_SAMPLE = 8192, 1024
"""Vectors whose directions are computed, and those whose pairs are counted: neither affects the result."""


def near_vectors(
    vectors: Vectors, changed: NDArray[np.intp] | None = None, rule: Rule | None = None
) -> NDArray[np.intp]:
    """Find pairs of vectors with a cosine of at least 0.95.

    The result does not depend on the machine: products of half precision are multiples of 2**-48, so that double
    precision adds them without rounding; those of single precision are added in a fixed order.

    Args:
        vectors: (N, D) with unit norm; zero for a photo without one.
        changed: ascending indices: only pairs with one of these are searched.
        rule: rules out pairs; by default none.

    Returns:
        (M, 2): first index and second index (the greater one), ascending.
    """
    present = np.flatnonzero(vectors.any(1))
    few = present if changed is None else np.intersect1d(changed, present)
    comparison = _Comparison(vectors, rule or AnyPair(), None if len(few) <= FEW else present)
    found = comparison.pairs(few, present)
    if changed is not None:
        found += comparison.pairs(present, few)
    return np.unique(np.concatenate([np.zeros((0, 2), np.intp), *found]), axis=0)


class _Comparison:
    """A comparison of vectors.

    Args:
        vectors: to be compared.
        rule: rules out pairs.
        reduced: indices of vectors whose best directions are compared first; None: compare all directions at once.
    """

    def __init__(self, vectors: Vectors, rule: Rule, reduced: NDArray[np.intp] | None) -> None:
        self._vectors = vectors
        self._rule = rule
        self._limit = np.float32(LEAST_COSINE - _rounding(vectors.shape[1]))
        self._coarse: NDArray[np.float32] | None = None
        self._fine: NDArray[np.float32] | None = None
        if reduced is not None:
            self._coarse, self._fine = _reduce(vectors, reduced, self._limit)

    def pairs(self, rows: NDArray[np.intp], columns: NDArray[np.intp]) -> list[NDArray[np.intp]]:
        """Find pairs of a row and a later column, (M, 2) each."""
        return search(self._found, 2, rows, columns, self._rule, ROWS)

    def _found(self, row: NDArray[np.intp], columns: NDArray[np.intp]) -> Iterator[Scored]:
        ours, buffer = self._compared(row), np.empty(len(row) * COLUMNS, np.float32)
        for column in blocks(columns, COLUMNS):
            out = buffer[: len(row) * len(column)].reshape(len(row), len(column))
            places = np.flatnonzero(product(ours, self._compared(column), out) >= self._limit)
            first, second = row[places // len(column)], column[places % len(column)]
            for some in blocks(np.flatnonzero(first < second), COLUMNS):
                yield self._close(first[some], second[some])

    def _compared(self, photos: NDArray[np.intp]) -> NDArray[np.float32]:
        return self._vectors[photos].astype(np.float32) if self._coarse is None else self._coarse[photos]

    def _close(self, first: NDArray[np.intp], second: NDArray[np.intp]) -> Scored:
        """The pairs within the limit, and their cosines, negative."""
        if self._fine is not None:
            kept = np.einsum("ij,ij->i", self._fine[first], self._fine[second]) >= self._limit
            first, second = first[kept], second[kept]
        kept = self._rule.may_be_one(first, second)
        first, second = first[kept], second[kept]
        cosine = _cosines(self._vectors[first], self._vectors[second])
        kept = cosine >= LEAST_COSINE
        return Scored(np.stack([first, second], axis=1)[kept], -cosine[kept])


def _rounding(size: int) -> float:
    """Error at most of a product of two unit vectors in single precision, with that of their coordinates."""
    return (size + 8) * 2.0**-23


def _cosines(one: Vectors, other: Vectors) -> NDArray[np.float64]:
    """Products of the rows, added in an order that is the same on all machines."""
    terms = one.astype(np.float64) * other.astype(np.float64)
    while terms.shape[1] > 1:
        half = terms.shape[1] // 2
        terms[:, :half] += terms[:, -half:]
        terms = terms[:, : terms.shape[1] - half]
    return terms[:, 0]


def _reduce(
    vectors: Vectors, present: NDArray[np.intp], limit: np.float32
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Coordinates in some directions, and the length of the rest, (N, K + 1): in few directions, and in more.

    As many are compared first as take least time, judged by a sample of pairs.
    """
    basis = _directions(vectors, present[:: -(-len(present) // _SAMPLE[0])])
    sample = vectors[present[:: -(-len(present) // _SAMPLE[1])]]
    costs = {}
    for number in {min(number, basis.shape[1]) for number in DIRECTIONS}:
        some = _coordinates(sample, basis[:, :number])
        costs[number] = number + CHECK * float((product(some, some) >= limit).mean())
    number = min(costs, key=lambda number: (costs[number], number))
    coarse = np.zeros((len(vectors), number + 1), np.float32)
    fine = np.zeros((len(vectors), basis.shape[1] + 1), np.float32)
    for block in blocks(present, COLUMNS):
        rows = vectors[block]
        coarse[block], fine[block] = _coordinates(rows, basis[:, :number]), _coordinates(rows, basis)
    return coarse, fine


def _directions(vectors: Vectors, sample: NDArray[np.intp]) -> NDArray[np.float64]:
    """Directions that hold most of the squared length, (D, K), orthonormal; the best ones first."""
    moments = np.zeros((vectors.shape[1], vectors.shape[1]))
    for block in blocks(sample, TERMS):
        columns = vectors[block].astype(np.float32).T
        moments += product(columns, columns)
    return np.asarray(np.linalg.eigh(moments)[1][:, ::-1][:, :MORE_DIRECTIONS], np.float64)


def _coordinates(vectors: Vectors, basis: NDArray[np.float64]) -> NDArray[np.float32]:
    """Coordinates in an orthonormal basis, and the length of the rest, (N, K + 1)."""
    rows = vectors.astype(np.float64)
    inside = product(rows, basis.T)
    rest = np.square(rows).sum(1) - np.square(inside).sum(1)
    return np.column_stack([inside, np.sqrt(np.maximum(rest, 0))]).astype(np.float32)
