from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from curation_features.technical.exposure import exposure, percentiles

images = arrays(np.uint8, st.tuples(st.integers(1, 40), st.integers(1, 40)))
LIMITS = {"clip_low": 2, "clip_high": 253}


@pytest.mark.long
@given(images, st.lists(st.floats(0, 100), min_size=1, max_size=5))
def test_percentiles_are_numpys_to_the_last_bit(gray, percents):
    assert percentiles(np.bincount(gray.ravel(), minlength=256), percents) == np.percentile(gray, percents).tolist()


@pytest.mark.parametrize("pixels", [2, 3, 5, 10])
def test_percentiles_between_distant_levels_are_numpys(pixels):
    gray, percents = np.random.default_rng(pixels).integers(0, 256, pixels, np.uint8), range(101)
    assert percentiles(np.bincount(gray, minlength=256), percents) == np.percentile(gray, percents).tolist()


@pytest.mark.long
@given(images)
def test_score_is_the_formula_of_numpys_percentiles(gray):
    p1, p50, p99 = np.percentile(gray / 255, (1, 50, 99))
    clipped = np.mean((gray <= 2) | (gray >= 253))
    score = np.clip(0.5 * (1 - 2 * abs(p50 - 0.5)) + 0.5 * (p99 - p1) - clipped, 0, 1)
    measured = exposure(gray, **LIMITS)
    assert measured.score == pytest.approx(score, abs=1e-12)
    assert 0 <= measured.score <= 1
    assert [measured.raw[name] for name in ("p1", "p50", "p99")] == pytest.approx([p1, p50, p99], abs=1e-12)


def test_levels_at_the_limits_are_clipped():
    gray = np.array([[0, 2, 3, 252], [253, 255, 255, 128]], np.uint8)
    assert exposure(gray, **LIMITS).raw["clipped_low"] == 2 / 8
    assert exposure(gray, **LIMITS).raw["clipped_high"] == 3 / 8


@pytest.mark.parametrize(("level", "score"), [(0, 0), (255, 0), (128, 0.5)])
def test_a_flat_image_scores_by_its_midtone_unless_clipped(level, score):
    assert exposure(np.full((8, 8), level, np.uint8), **LIMITS).score == pytest.approx(score, abs=0.005)
