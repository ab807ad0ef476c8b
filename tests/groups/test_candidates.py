"""The number of candidates of a photo."""

from __future__ import annotations

import threading

import numpy as np
import pytest

from curation_features.concurrency import worker_count
from curation_features.groups.candidates import MOST, AnyPair, Scored, closest, search
from curation_features.groups.near_hashes import near_hashes
from curation_features.groups.near_vectors import near_vectors


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


def test_the_closest_are_chosen_from_all_parts():
    """Many pairs of few photos in parts, against a sort of each photo's pairs."""
    random = np.random.default_rng(8)
    pairs = np.unique(random.integers([0, 9], [9, 60_000], (200_000, 2)), axis=0)
    apart = random.integers(0, 50, len(pairs)).astype(np.float64)
    order = random.permutation(len(pairs))
    parts = (Scored(pairs[some], apart[some]) for some in np.array_split(order, 70))
    found = {tuple(pair) for pair in closest(parts, 2).tolist()}
    expected = set()
    for one in range(9):
        own = np.flatnonzero(pairs[:, 0] == one)  # by their other photo: a stable sort keeps that order
        expected |= {(one, int(other)) for other in pairs[own[np.argsort(apart[own], kind="stable")[:MOST]], 1]}
    assert found == expected


def test_many_rows_are_searched_in_threads():
    """All pairs of rows and later columns, in blocks of rows; the names of the threads say who searched."""
    names = set()

    def find(rows, columns):
        names.add(threading.current_thread().name)
        pairs = np.array([(row, column) for row in rows for column in columns if row < column]).reshape(-1, 2)
        return [Scored(pairs, np.zeros(len(pairs)))]

    rows, columns = np.arange(2, 40, 2), np.arange(0, 40, 3)
    expected = [[row, column] for row in rows.tolist() for column in columns.tolist() if row < column]
    for size, in_threads in ((19, False), (1, True)):
        names.clear()
        found = search(find, 2, rows, columns, AnyPair(), size)
        assert np.concatenate(found).tolist() == expected
        assert len(found) == -(-len(rows) // size)
        others = names - {threading.main_thread().name}
        assert bool(others) == (in_threads and worker_count() > 1)
