"""Ranks of photos by the radius of their edges."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from curation_features.signals.ranking import sharpest

RADII = st.lists(st.none() | st.floats(0, 50), max_size=12)


@pytest.mark.parametrize(
    ("radii", "ranks"),
    [
        ([], []),
        ([0.4], [1]),
        ([0.9, 0.4, 0.6], [3, 1, 2]),
        ([0.42, 0.4, 0.6], [1, 1, 3]),  # 5 % more is a tie
        ([0.421, 0.4, 0.6], [2, 1, 3]),
        ([1.00, 1.04, 1.08], [1, 1, 3]),  # no chain: the last is compared with the first
        ([None, 0.4, math.nan, 0.8], [3, 1, 3, 2]),
        ([None, None], [1, 1]),
        ([0.0, 0.0, 0.001], [1, 1, 3]),
    ],
)
def test_radii_are_ranked_with_ties(radii, ranks) -> None:
    assert sharpest(radii) == ranks


@given(RADII)
def test_without_ties_ranks_are_those_of_scipy(radii) -> None:
    filled = [math.inf if radius is None else radius for radius in radii]
    assert sharpest(radii, tie=0) == scipy.stats.rankdata(filled, "min").tolist()


@given(RADII, st.randoms(use_true_random=False))
def test_ranks_do_not_depend_on_the_order(radii, random) -> None:
    order = list(range(len(radii)))
    random.shuffle(order)
    ranks = sharpest(radii)
    assert sharpest([radii[index] for index in order]) == [ranks[index] for index in order]


@given(RADII)
def test_photos_of_a_rank_are_within_the_tie(radii) -> None:
    ranks = np.array(sharpest(radii))
    known = np.array([radius is not None for radius in radii], bool)
    for rank in set(ranks[known].tolist()):
        equal = [radius for radius, other in zip(radii, ranks, strict=True) if other == rank and radius is not None]
        assert max(equal) <= 1.05 * min(equal)
        assert all(radius > max(equal) for radius, other in zip(radii, ranks, strict=True) if radius and other > rank)


@pytest.mark.parametrize(("radii", "tie"), [([-0.1], 0.05), ([math.inf], 0.05), ([0.5], -0.01), ([0.5], math.nan)])
def test_impossible_radii_are_refused(radii, tie) -> None:
    with pytest.raises(ValueError, match="at least 0"):
        sharpest(radii, tie)
