from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from curation_features.signals.preview import luma, preview


def area_weights(size: int, reduced: int) -> np.ndarray:
    """Share of each pixel in each reduced pixel, by the overlap of their intervals."""
    edges = np.arange(reduced + 1) * size / reduced
    pixels = np.arange(size)
    overlap = np.minimum(edges[1:, None], pixels + 1) - np.maximum(edges[:-1, None], pixels)
    return np.clip(overlap, 0, None) * reduced / size


def test_luma_is_pillows_of_views_too():
    rgb = np.random.default_rng(0).integers(0, 256, (97, 61, 3), dtype=np.uint8)
    assert np.array_equal(luma(rgb), np.asarray(Image.fromarray(rgb, "RGB").convert("L")))
    assert np.array_equal(luma(rgb[::-1, ::2]), luma(rgb)[::-1, ::2])


@pytest.mark.parametrize("size", [(1024, 683), (683, 1024), (513, 513), (1024, 512), (2048, 1365)])
def test_preview_is_the_mean_over_areas(size):
    image = np.random.default_rng(0).integers(0, 256, size, dtype=np.uint8)
    reduced = preview(image, 512)
    assert max(reduced.shape) == 512
    exact = area_weights(size[0], reduced.shape[0]) @ image @ area_weights(size[1], reduced.shape[1]).T
    assert np.abs(reduced - exact).max() <= 0.51


def test_preview_reduces_each_channel_of_a_photo():
    rgb = np.random.default_rng(0).integers(0, 256, (90, 60, 3), dtype=np.uint8)
    reduced = preview(rgb, 30)
    assert reduced.shape == (30, 20, 3)
    assert all(np.array_equal(reduced[..., c], preview(rgb[..., c].copy(), 30)) for c in range(3))


@pytest.mark.long
@given(height=st.integers(1, 3000), width=st.integers(1, 3000), side=st.integers(1, 600))
def test_preview_keeps_the_aspect_and_never_enlarges(height, width, side):
    reduced = preview(np.zeros((height, width), np.uint8), side)
    if max(height, width) <= side:
        assert reduced.shape == (height, width)
    else:
        assert max(reduced.shape) == side
        assert min(reduced.shape) == max(1, round(min(height, width) * side / max(height, width)))
