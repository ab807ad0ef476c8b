"""Close vectors, against a comparison of all pairs in whole numbers or double precision."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest

from curation_features.groups.candidates import AnyPair
from curation_features.groups.near_vectors import near_vectors

UNIT = 2.0**-24
"""All numbers of half precision are multiples of it."""


def unit_vectors(number: int, spread: float) -> np.ndarray:
    """Vectors; the last ones are copies of the first with some noise. `spread`: length in 4 of 96 directions."""
    random = np.random.default_rng(2)
    vectors = random.normal(0, 1, (number, 96))
    vectors += spread * random.normal(0, 1, (number, 4)) @ random.normal(0, 1, (4, 96))
    noise = random.uniform(0, 0.6, (100, 1)) * random.normal(0, 1, (100, 96)) * vectors[:100].std()
    vectors[-100:] = vectors[:100] + noise
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    vectors[50:55] = 0
    return vectors


@pytest.mark.parametrize("kind", [np.float32, np.float16])
@pytest.mark.parametrize("spread", [0.0, 5.0], ids=["all directions", "few directions"])
@pytest.mark.parametrize("number", [700, 2600])
def test_close_vectors_are_found_exactly(kind, spread, number):
    vectors = unit_vectors(number, spread).astype(kind)
    cosine = vectors.astype(np.float64) @ vectors.astype(np.float64).T
    expected = np.argwhere(np.triu(cosine >= 0.95, 1)).tolist()
    assert len(expected) > 20
    assert near_vectors(vectors).tolist() == expected
    changed = [pair for pair in expected if {7, number - 50} & set(pair)]
    assert near_vectors(vectors, np.array([7, number - 50])).tolist() == changed
    most = np.arange(100, number)
    assert near_vectors(vectors, most).tolist() == [pair for pair in expected if pair[1] >= 100]


@pytest.mark.parametrize("others", [0, 2500])
def test_the_limit_holds_to_the_last_bit(others):
    """Products of half precision are whole multiples of 2**-48: the two next to 0.95 are distinguished."""
    random = np.random.default_rng(7)
    first, below, above = (np.zeros(64) for _ in range(3))
    first[0], below[0], below[1] = 1, 0.95, np.sqrt(1 - 0.95**2)
    below[:] = below.astype(np.float16)
    rest = Fraction(0.95) - Fraction(below[0])
    for at, scale in enumerate([2.0**-6, 2.0**-12, 2.0**-18, UNIT, UNIT], 2):  # smaller and smaller products
        first[at] = scale
        below[at] = (
            np.floor(float(rest / Fraction(scale)) / UNIT) * UNIT if at == 6 else np.float16(float(rest) / scale)
        )
        rest -= Fraction(first[at]) * Fraction(below[at])
    assert 0 < rest < Fraction(2) ** -48
    above[:] = below
    first[7], above[7] = UNIT, UNIT
    noise = random.normal(0, 1, (others, 64))
    noise[:, :8] = 0
    noise /= np.maximum(1e-9, np.linalg.norm(noise, axis=1, keepdims=True))
    vectors = np.concatenate([noise, [first, below, above]]).astype(np.float16)
    whole = [[int(value / UNIT) for value in row.tolist()] for row in vectors[-3:]]
    exact = [Fraction(sum(x * y for x, y in zip(whole[0], row, strict=True)), 2**48) for row in whole[1:]]
    assert exact[0] < Fraction(0.95) <= exact[1] == exact[0] + Fraction(2) ** -48
    assert near_vectors(vectors).tolist() == [[others, others + 2], [others + 1, others + 2]]


def test_a_rule_rules_pairs_out():
    class Even(AnyPair):
        def may_be_one(self, first, second):
            return (first + second) % 2 == 0

    vectors = np.ones((50, 4), np.float32) / 2
    found = near_vectors(vectors, None, Even())
    assert len(found)
    assert (found.sum(1) % 2 == 0).all()
    assert near_vectors(np.zeros((5, 8), np.float32)).shape == (0, 2)
