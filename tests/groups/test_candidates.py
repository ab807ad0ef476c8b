"""Candidates, against a comparison of all pairs that is written in another way."""

from __future__ import annotations

import numpy as np
import pytest

from curation_features.groups.candidates import MOST, near_hashes, near_vectors

LOW = [16 * row + column for row in range(8) for column in range(8)]
"""Numbers of PDQ's bits (0 is the lowest one of its text form) of the lowest 8 x 8 frequencies."""


def close_pairs(hashes: np.ndarray) -> list[list[int]]:
    """All pairs within 92 of 256 bits and 18 of the low 64, and the orientation, by Python's whole numbers."""
    numbers = [[int.from_bytes(one.tobytes(), "big") for one in photo] for photo in hashes]
    mask = sum(1 << bit for bit in LOW)
    found = []
    for i, first in enumerate(numbers):
        for j in range(i + 1, len(numbers)):
            apart = [one ^ numbers[j][0] for one in first]
            near = [
                (bits.bit_count(), orientation)
                for orientation, bits in enumerate(apart)
                if bits.bit_count() <= 92 and (bits & mask).bit_count() <= 18
            ]
            if near:
                found.append([i, j, min(near)[1]])
    return found


@pytest.fixture(scope="module")
def hashes():
    """Random hashes of 120 photos; the last 60 are copies of others with some wrong bits, in some orientation."""
    random = np.random.default_rng(1)
    bits = random.random((120, 8, 256)) < 0.5
    for copy in range(60, 120):
        share = random.uniform(0.1, 0.45)
        bits[copy, 0] = bits[random.integers(60), random.integers(8)] ^ (random.random(256) < share)
    return np.packbits(bits, axis=2)


def test_close_hashes_are_found_exactly(hashes):
    expected = close_pairs(hashes)
    assert len(expected) > 30
    assert len({orientation for *_, orientation in expected}) == 8
    assert near_hashes(hashes, np.ones(120, bool)).tolist() == expected


def test_changed_photos_find_their_pairs_only(hashes):
    changed = np.array([3, 70, 119])
    every = near_hashes(hashes, np.ones(120, bool)).tolist()
    found = near_hashes(hashes, np.ones(120, bool), changed).tolist()
    assert found == [pair for pair in every if {pair[0], pair[1]} & {3, 70, 119}]


def test_photos_without_a_hash_are_not_compared(hashes):
    usable = np.arange(120) < 90
    flat = hashes.copy()
    flat[90:] = 0
    expected = close_pairs(hashes[:90])
    assert near_hashes(hashes, usable).tolist() == expected
    assert near_hashes(flat, np.ones(120, bool)).tolist() == expected


@pytest.mark.parametrize("kind", [np.float32, np.float16])
@pytest.mark.parametrize("spread", [0.0, 1.0], ids=["all directions", "few directions"])
def test_close_vectors_are_found_exactly(kind, spread):
    random = np.random.default_rng(2)
    vectors = random.normal(0, 1, (700, 96)) + spread * 5 * random.normal(0, 1, (700, 4)) @ random.normal(0, 1, (4, 96))
    noise = random.uniform(0, 0.6, (100, 1)) * random.normal(0, 1, (100, 96)) * vectors[:100].std()
    vectors[600:] = vectors[:100] + noise
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    vectors[50:55] = 0
    vectors = vectors.astype(kind)
    cosine = vectors.astype(np.float64) @ vectors.astype(np.float64).T
    expected = np.argwhere(np.triu(cosine >= 0.95, 1)).tolist()
    assert len(expected) > 20
    assert near_vectors(vectors).tolist() == expected
    changed = [pair for pair in expected if {7, 650} & set(pair)]
    assert near_vectors(vectors, np.array([7, 650])).tolist() == changed


def test_nothing_gives_nothing():
    assert near_hashes(np.zeros((0, 8, 32), np.uint8), np.zeros(0, bool)).shape == (0, 3)
    assert near_vectors(np.zeros((5, 8), np.float32)).shape == (0, 2)


@pytest.mark.parametrize("changed", [None, np.array([5, 299])])
def test_many_frames_of_one_view_are_few_candidates(changed):
    random = np.random.default_rng(4)
    bits = np.repeat(random.random((1, 8, 256)) < 0.5, 300, axis=0) ^ (random.random((300, 8, 256)) < 0.02)
    vectors = (1 + 0.02 * random.normal(0, 1, (300, 16))).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    apart = bits[:, None, 0].astype(int) ^ bits[None, :, 0]
    closest = {tuple(sorted((0, int(other)))) for other in np.argsort(apart[0].sum(1), kind="stable")[1 : MOST + 1]}
    for pairs in (near_hashes(np.packbits(bits, axis=2), np.ones(300, bool), changed), near_vectors(vectors, changed)):
        assert 0 < np.bincount(pairs[:, 0]).max() <= MOST + (0 if changed is None else len(changed))
        if changed is None:
            assert len(pairs) == 300 * MOST - MOST * (MOST + 1) // 2
    if changed is None:
        found = near_hashes(np.packbits(bits, axis=2), np.ones(300, bool))
        assert {(0, int(other)) for other in found[found[:, 0] == 0, 1]} == closest


def test_only_allowed_pairs_are_candidates(hashes):
    every = near_hashes(hashes, np.ones(120, bool)).tolist()
    vectors = np.ones((50, 4), np.float32) / 2

    def even(first, second):
        return (first + second) % 2 == 0

    assert near_hashes(hashes, np.ones(120, bool), None, even).tolist() == [
        pair for pair in every if not (pair[0] + pair[1]) % 2
    ]
    assert (near_vectors(vectors, None, even).sum(1) % 2 == 0).all()
