"""Linking: complete linkage as SciPy has it, and groups about leaders."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.cluster.hierarchy import fcluster, linkage
from scipy.spatial.distance import squareform

from curation_features.groups.linking import Linked, link, link_to_leaders


class Line:
    """Relations of photos along a line: a photo is related to others at most a step away, and fits a given length."""

    def __init__(self, places: list[float], reach: float, length: float) -> None:
        self.places, self.reach, self.length = places, reach, length

    def own(self, index: int) -> float:
        return 0.0

    def between(self, one: int, other: int) -> float | None:
        step = self.places[other] - self.places[one]
        return step if abs(step) <= self.reach else None

    def joined(self, first: float, then: float) -> float:
        return first + then

    def fits(self, members: Iterable[float], relation: float) -> bool:
        return all(abs(relation - member) <= self.length for member in members)

    def pairs(self) -> list[tuple[int, int]]:
        every = combinations(range(len(self.places)), 2)
        return [pair for pair in every if self.between(*pair) is not None]


@pytest.mark.parametrize("seed", range(5))
def test_complete_linkage_agrees_with_scipy(seed):
    random = np.random.default_rng(seed)
    similarity = random.permutation(np.linspace(0, 1, 30 * 29 // 2))  # no ties
    matrix = squareform(1 - similarity)
    limit = 0.55
    labels = fcluster(linkage(squareform(matrix), "complete"), 1 - limit, "distance")
    expected = {frozenset(np.flatnonzero(labels == label).tolist()) for label in set(labels)}
    pairs = {(i, j): 1 - matrix[i, j] for i, j in combinations(range(30), 2) if 1 - matrix[i, j] >= limit}
    found = link(pairs, [f"{index:02}" for index in range(30)])
    assert {frozenset(group.members) for group in found} == {group for group in expected if len(group) > 1}
    for group in found:
        assert group.similarity == min(pairs[pair] for pair in combinations(sorted(group.members), 2))


def test_a_chain_is_never_one_group():
    pairs = {(index, index + 1): 0.9 for index in range(49)}
    found = link(pairs, [f"{index:02}" for index in range(50)])
    assert max(len(group.members) for group in found) == 2
    line = Line([float(index) for index in range(50)], reach=1, length=3)
    groups = link_to_leaders(line.pairs(), [f"{index:02}" for index in range(50)], line)
    assert max(len(group) for group in groups) <= 5
    assert max(abs(max(group) - min(group)) for group in groups) <= 3


def test_a_member_may_be_related_over_one_other():
    line = Line([0, 1, 2, 3], reach=1, length=3)
    (group,) = link_to_leaders(line.pairs(), list("abcd"), line)
    assert group == {1: 0.0, 0: -1.0, 2: 1.0, 3: 2.0}  # b leads: it has most pairs, and the smaller key


def test_the_least_similarity_is_the_groups():
    assert link({(0, 1): 0.9, (0, 2): 0.8, (1, 2): 0.7}, ["a", "b", "c"]) == [Linked((0, 1, 2), 0.7)]


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(0, 30), min_size=2, max_size=16), st.randoms(use_true_random=False))
def test_order_of_photos_does_not_matter(places, random):
    keys = [f"{index:02}" for index in range(len(places))]
    order = list(range(len(places)))
    random.shuffle(order)

    def names(line: Line, keys: list[str]) -> tuple[object, object]:
        pairs = line.pairs()
        random.shuffle(pairs)
        similar = {pair: 1 - abs(line.places[pair[0]] - line.places[pair[1]]) / 10 for pair in pairs}
        linked = [([keys[index] for index in group.members], group.similarity) for group in link(similar, keys)]
        led = [{keys[index]: place for index, place in group.items()} for group in link_to_leaders(pairs, keys, line)]
        return linked, led

    plain = Line([float(place) for place in places], reach=3, length=5)
    shuffled = Line([float(places[index]) for index in order], reach=3, length=5)
    assert names(plain, keys) == names(shuffled, [keys[index] for index in order])
