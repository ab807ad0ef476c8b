"""Pairs of photos with close hashes in one of eight orientations.

One product of matrices gives the different bits of a block of pairs in all eight orientations: a double has 52 bits, of
which each orientation gets 6. Their sums are whole numbers, so that the result does not depend on rounding.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from curation_features.fingerprints.fingerprint import ORIENTATIONS
from curation_features.fingerprints.pdq import FREQUENCIES
from curation_features.fingerprints.products import product
from curation_features.groups.candidates import AnyPair, Rule, Scored, blocks, search

if TYPE_CHECKING:
    from numpy.typing import NDArray

FARTHEST = 92
"""Bits by which two hashes differ at most, of 256; 128 +- 8 by chance."""

FARTHEST_LOW = 18
"""Bits of the lowest 8 x 8 frequencies by which they differ at most, of 64; 32 +- 4 by chance.

A crop, a shift or a border changes high frequencies first: this limit and the one of all bits together give a fifth of
the chance pairs that the latter alone gives, and lose hardly a copy."""

ROWS, COLUMNS = 1024, 256
"""Photos that are compared at a time: the product of a block should fit a core's cache."""

MANY_COLUMNS, CHECKED = 16 * COLUMNS, 1 << 17
"""Photos of which close pairs are checked together, and pairs that are checked at a time at most."""

_LOW = 64
"""Low bits of a hash."""

_FIELD = 6
"""Bits of an orientation in a product."""

_CLOSE = 1 << (_FIELD - 1)
"""Bit of an orientation that is set if the low bits are close."""

_WEIGHTS = 2.0 ** (_FIELD * np.arange(ORIENTATIONS))

_ALL_CLOSE = np.uint64(sum(_CLOSE << (_FIELD * orientation) for orientation in range(ORIENTATIONS)))

_WHOLE = 1.5 * 2**52
"""A double in [2**52, 2**53) has its whole number in the lowest bits of its binary form."""


def near_hashes(
    hashes: NDArray[np.uint8],
    usable: NDArray[np.bool_],
    changed: NDArray[np.intp] | None = None,
    rule: Rule | None = None,
) -> NDArray[np.intp]:
    """Find pairs with close hashes.

    Args:
        hashes: (N, 8, 32) of uint8, in an order that belongs to the photos (by digest, say): of two photos, the first
            is the one that is turned.
        usable: (N,): whether a photo has a hash. One without any bit, as of a flat photo, is not compared.
        changed: ascending indices: only pairs with one of these are searched.
        rule: rules out pairs; by default none.

    Returns:
        (M, 3): first index, second index (the greater one), and the orientation of the first that is closest to the
        upright second; ascending.
    """
    compared = np.flatnonzero(usable & hashes[:, 0].any(1))
    comparison = _Comparison(hashes, rule or AnyPair())
    if changed is None:
        found = comparison.pairs(compared, compared)
    else:
        few = np.intersect1d(changed, compared)
        found = [*comparison.pairs(few, compared), *comparison.pairs(compared, few)]
    every = np.concatenate([np.zeros((0, 3), np.intp), *found])
    return np.unique(every, axis=0)  # sorted; two changed photos are found twice


class _Comparison:
    def __init__(self, hashes: NDArray[np.uint8], rule: Rule) -> None:
        self._words = np.ascontiguousarray(hashes).view(np.uint64).reshape(len(hashes), ORIENTATIONS, 4)
        self._low = _low_words(hashes)
        self._rule = rule

    def pairs(self, rows: NDArray[np.intp], columns: NDArray[np.intp]) -> list[NDArray[np.intp]]:
        """Find pairs of a row and a later column, with the orientation of the former, (M, 3) each."""
        return search(self._found, 3, rows, columns, self._rule, ROWS)

    def _found(self, row: NDArray[np.intp], columns: NDArray[np.intp]) -> Iterator[Scored]:
        turned, out = _turned(self._low[row]), np.empty(len(row) * COLUMNS)
        for some in blocks(columns, MANY_COLUMNS):
            near = [self._near(row, turned, column, out) for column in blocks(some, COLUMNS)]
            first, second, fields = (np.concatenate(parts) for parts in zip(*near, strict=True))
            for part in blocks(np.arange(len(first)), CHECKED):
                yield self._close(first[part], second[part], fields[part])

    def _near(
        self, row: NDArray[np.intp], turned: NDArray[np.float64], column: NDArray[np.intp], out: NDArray[np.float64]
    ) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.uint64]]:
        """The pairs with close low bits, (M,) each, and their fields; and a few more."""
        upright = _upright(self._low[column, 0])
        fields = product(turned, upright, out[: len(row) * len(column)].reshape(len(row), -1)).view(np.uint64)
        np.bitwise_and(fields, _ALL_CLOSE, out=fields)
        places = np.flatnonzero(fields != 0)  # of bool: ten times as fast as of whole numbers
        return row[places // len(column)], column[places % len(column)], fields.ravel()[places]

    def _close(self, first: NDArray[np.intp], second: NDArray[np.intp], fields: NDArray[np.uint64]) -> Scored:
        """The pairs within both limits, each with its closest orientation, (M, 3), and their bits."""
        found = []
        while len(fields):  # again for pairs that are close in two orientations, which are few
            highest = (np.frexp(fields.astype(np.float64))[1] - 1).astype(np.uint64)
            found.append(self._within(first, second, (highest // _FIELD).astype(np.intp)))
            fields = fields ^ (np.uint64(1) << highest)
            rest = np.flatnonzero(fields != 0)
            first, second, fields = first[rest], second[rest], fields[rest]
        every = np.concatenate([np.zeros((0, 4), np.intp), *found])
        every = every[self._rule.may_be_one(every[:, 0], every[:, 1])]
        every = every[np.lexsort((every[:, 2], every[:, 3], every[:, 1], every[:, 0]))]
        best = every[np.diff(every[:, :2], axis=0, prepend=-1).any(1)]
        return Scored(best[:, :3], best[:, 3].astype(np.float64))

    def _within(self, first: NDArray[np.intp], second: NDArray[np.intp], turn: NDArray[np.intp]) -> NDArray[np.intp]:
        """The pairs within both limits in the given orientation of the first, with it and their bits, (M, 4)."""
        low = np.bitwise_count(self._low[first, turn] ^ self._low[second, 0])
        near = np.flatnonzero((low <= FARTHEST_LOW) & (first < second))
        first, second, turn = first[near], second[near], turn[near]
        bits = np.bitwise_count(self._words[first, turn] ^ self._words[second, 0]).sum(1, dtype=np.intp)
        return np.asarray(np.stack([first, second, turn, bits], axis=1)[bits <= FARTHEST], np.intp)


def _low_words(hashes: NDArray[np.uint8]) -> NDArray[np.uint64]:
    """Bits of the lowest 8 x 8 frequencies, (N, 8). A hash begins with the highest ones: its bits are in reverse."""
    rows = hashes.reshape(len(hashes), ORIENTATIONS, FREQUENCIES, 2)  # 16 vertical frequencies, each of 16 bits
    return np.ascontiguousarray(rows[:, :, 8:, 1]).view(np.uint64)[..., 0]


def _turned(low: NDArray[np.uint64]) -> NDArray[np.float64]:
    """The factor of the first photos in a product, (N, 65).

    The field of an orientation in a product is 32 plus the bits that may still differ, so that its highest bit is set
    if two photos are close. Far ones give -14 at least, which borrows 1 from the next field: all but the lowest field
    have 1 more. What a field says too much is checked with the words.

    Args:
        low: (N, 8).
    """
    bits = _bits(low)
    spare = FARTHEST_LOW + (np.arange(ORIENTATIONS) > 0)
    factor = np.empty((len(low), _LOW + 1))
    factor[:, :_LOW] = np.tensordot(_WEIGHTS, 2.0 * bits - 1, (0, 1))
    factor[:, _LOW] = (_CLOSE + spare - bits.sum(2, dtype=np.intp)) @ _WEIGHTS + _WHOLE
    return factor


def _upright(low: NDArray[np.uint64]) -> NDArray[np.float64]:
    """The factor of the second photos in a product, (N, 65), of their words, (N,)."""
    factor = np.ones((len(low), _LOW + 1))
    factor[:, :_LOW] = _bits(low)
    return factor


def _bits(words: NDArray[np.uint64]) -> NDArray[np.uint8]:
    return np.unpackbits(np.ascontiguousarray(words)[..., None].view(np.uint8), axis=-1)
