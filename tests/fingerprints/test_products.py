"""Products of matrices, against whole numbers."""

from __future__ import annotations

import numpy as np
import pytest

from curation_features.fingerprints.products import product


@pytest.mark.parametrize("kind", [np.float32, np.float64])
@pytest.mark.parametrize(
    ("rows", "columns", "terms"), [(0, 3, 5), (130, 7, 1), (64, 300, 65), (70, 129, 300), (5, 5, 128)]
)
def test_products_are_those_of_whole_numbers(kind, rows, columns, terms):
    random = np.random.default_rng(1)
    first, second = random.integers(-9, 9, (rows, terms)), random.integers(-9, 9, (columns, terms))
    expected = np.einsum("ik,jk->ij", first, second)
    assert product(first.astype(kind), second.astype(kind)).tolist() == expected.tolist()
    out = np.full((rows, columns), np.nan, kind)
    assert product(np.asfortranarray(first.astype(kind)), second.astype(kind), out) is out
    assert out.tolist() == expected.tolist()
