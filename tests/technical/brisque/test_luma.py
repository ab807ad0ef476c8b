from __future__ import annotations

import numpy as np
import pytest
import torch
from piq.functional import imresize, rgb2yiq

from curation_features.technical.brisque.luma import half_size, piq_luma

RNG = np.random.default_rng(0)


def luma_of_piq(rgb: np.ndarray) -> np.ndarray:
    """As `piq.brisque` makes it."""
    image = torch.tensor(rgb).permute(2, 0, 1)[None].double() / 255.0 * 255
    return torch.round(rgb2yiq(image)[0, 0]).numpy()


@pytest.mark.long
def test_luma_is_that_of_piq_for_all_ties():
    """Of each luma half-way between two levels, all the colours that have it."""
    red, green, blue = np.indices((256, 256, 256), np.uint8).reshape(3, -1)
    thousandths = 299 * red.astype(np.int32) + 587 * green.astype(np.int32) + 114 * blue.astype(np.int32)
    near = np.abs(thousandths % 1000 - 500) <= 1
    rgb = np.stack([red[near], green[near], blue[near]], axis=1).reshape(1, -1, 3)
    assert np.array_equal(piq_luma(rgb), luma_of_piq(rgb))


@pytest.mark.parametrize("shape", [(1, 1), (65, 40), (200, 31)])
def test_luma_is_that_of_piq(shape):
    rgb = RNG.integers(0, 256, (*shape, 3), dtype=np.uint8)
    assert np.array_equal(piq_luma(rgb), luma_of_piq(rgb))
    assert np.array_equal(piq_luma(rgb[::-1, ::2]), luma_of_piq(rgb[::-1, ::2].copy()))


@pytest.mark.parametrize("shape", [(12, 12), (13, 12), (12, 13), (127, 301), (201, 1024), (700, 65), (14, 40000)])
@pytest.mark.parametrize("levels", [(0, 256), (240, 256)])
def test_half_size_is_that_of_piq(shape, levels):
    """To the last bit but for the last columns, fewer than a vector holds, which torch sums in another order."""
    luma = RNG.integers(*levels, shape, dtype=np.uint8)
    luma[: shape[0] // 2] = 251
    expected = imresize(torch.tensor(luma)[None, None].double(), sizes=(shape[0] // 2, shape[1] // 2))[0, 0]
    half = half_size(luma)
    assert np.allclose(half, expected.numpy(), rtol=0, atol=1e-4)
    assert np.array_equal(half[:, :-32], expected.numpy()[:, :-32])
