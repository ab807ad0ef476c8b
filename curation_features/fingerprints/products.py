"""Products of matrices in the calling thread.

OpenBLAS, which NumPy uses, starts its threads for larger products. They wait in a loop: while other processes need the
cores, a product takes several times its CPU time. A stack of small products takes hardly more than one large product.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    T = TypeVar("T", np.float32, np.float64)

ROWS, TERMS = 64, 128
"""Rows of a small product, and terms of its sums."""

_LARGEST = 2**19 - 1
"""Multiplications up to which OpenBLAS computes a product in the calling thread (`interface/gemm.c`)."""


def product(first: NDArray[T], second: NDArray[T], out: NDArray[T] | None = None) -> NDArray[T]:
    """Multiply the rows of two matrices.

    Args:
        first: (M, K).
        second: (N, K).
        out: (M, N), for the result.

    Returns:
        (M, N): `first @ second.T`.
    """
    found = np.empty((len(first), len(second)), first.dtype) if out is None else out
    _multiply(first[:, :TERMS], second[:, :TERMS], found)
    if first.shape[1] > TERMS:
        more = np.empty_like(found)
        for start in range(TERMS, first.shape[1], TERMS):
            _multiply(first[:, start : start + TERMS], second[:, start : start + TERMS], more)
            found += more
    return found


def _multiply(first: NDArray[T], second: NDArray[T], out: NDArray[T]) -> None:
    size = first.shape[1]
    columns = 1 << (_LARGEST // (ROWS * max(1, size))).bit_length() - 1  # a power of 2
    m, n = len(first) // ROWS, len(second) // columns
    whole, wide = m * ROWS, n * columns
    ours = first[:whole].reshape(m, 1, ROWS, size)  # views, like all of these
    theirs = second[:wide].reshape(1, n, columns, size).swapaxes(2, 3)
    np.matmul(ours, theirs, out=out[:whole, :wide].reshape(m, ROWS, n, columns).swapaxes(1, 2))
    np.matmul(ours[:, 0], second[wide:].T, out=out[:whole, wide:].reshape(m, ROWS, len(second) - wide))
    np.matmul(first[whole:], theirs[0], out=out[whole:, :wide].reshape(len(first) - whole, n, columns).swapaxes(0, 1))
    np.matmul(first[whole:], second[wide:].T, out=out[whole:, wide:])
