"""The radius of the edges in tiles at full size, all tiles at once; see `focus` for the formula."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import cv2
import numpy as np

from curation_features.signals.grain import CLIPPED_HIGH, CLIPPED_LOW, CLIPPED_SHARE, LEAST_TILES, SECOND_DIFFERENCE
from curation_features.signals.views import tile_means

if TYPE_CHECKING:
    from numpy.typing import NDArray

MASK_GAIN = 6.0
"""Standard deviation of Immerkaer's mask times 6 for white noise of sigma 1."""

SIZES = (1, 2, 4, 8)
"""Reductions at which a tile is measured."""

LEAST_TILE = 14
"""Shortest side of a reduced tile, px."""

NOISE_TILE = 16
"""px; smaller for small tiles."""

ROUNDING = 1 / 12
"""Variance of rounding to whole levels, gray levels squared."""

GRADIENT_GAIN, HESSIAN_GAIN = 0.5, 6.25
"""Energy of white noise of variance 1 in each diagonal element of J and K."""

LEAST_OVER_NOISE = 4.0
"""K of edges over K of noise from which edges are above the noise."""

LEAST_EDGES = 1.0
"""Variance of the gradient within a tile from which it has edges, gray levels squared; see `edges.LEAST_EDGES`."""

UNSEEN = 1e-3
"""Added to K in all directions, as a share of its larger eigenvalue: no edge along a direction is not a wide edge."""

AT_ONCE = 2**17
"""Pixels that are measured at once: fewer are slower by the calls, more by the memory."""


class _Energies(NamedTuple):
    """Energies of N tiles.

    Attributes:
        gradient: J, (N, 2, 2).
        hessian: K, (N, 2, 2).
        edges: variance of the gradient, (N,).
        noise: variances of the noise in parts of the tiles, one array for all.
    """

    gradient: NDArray[np.float64]
    hessian: NDArray[np.float64]
    edges: NDArray[np.float64]
    noise: NDArray[np.float32]


def tile_radii(tiles: NDArray[np.float32]) -> NDArray[np.float64]:
    """Radius of the edges of each tile, px; NaN without edges.

    A tile is reduced as long as its edges are not above the noise.

    Args:
        tiles: (N, side + 2, side + 2), 0..255: tiles with 1 px around each.
    """
    radii = np.full(len(tiles), np.nan)
    left = np.arange(len(tiles))
    for size in SIZES:
        if not left.size or min(tiles.shape[1:]) < LEAST_TILE:
            break
        energies = _energies(tiles)
        radii[left] = size * _radii(energies, _noise(energies.noise, ROUNDING / size**2))
        is_missing = np.isnan(radii[left])
        left, tiles = left[is_missing], _half(tiles[is_missing])
    return radii


def _half(tiles: NDArray[np.float32]) -> NDArray[np.float32]:
    height, width = (side // 2 for side in tiles.shape[1:])
    halves = np.empty((len(tiles), height, width), np.float32)
    for tile, half in zip(tiles, halves, strict=True):
        cv2.resize(tile, (width, height), half, interpolation=cv2.INTER_AREA)
    return halves


def _energies(tiles: NDArray[np.float32]) -> _Energies:
    step = max(1, AT_ONCE // tiles[0].size)
    found = [_energies_at_once(tiles[first : first + step]) for first in range(0, len(tiles), step)]
    return _Energies(*(np.concatenate(one) for one in zip(*found, strict=True)))


def _energies_at_once(tiles: NDArray[np.float32]) -> _Energies:
    twice, up, down = tiles[:, 1:-1, 1:-1] * 2, tiles[:, :-2, 1:-1], tiles[:, 2:, 1:-1]
    left, right = tiles[:, 1:-1, :-2], tiles[:, 1:-1, 2:]
    gx, gy = right - left, down - up  # times 2
    hxx, hyy = left + right - twice, up + down - twice
    hxy = tiles[:, 2:, 2:] + tiles[:, :-2, :-2] - tiles[:, 2:, :-2] - tiles[:, :-2, 2:]  # times 4
    gradient = _symmetric(*(_mean_products(*pair) / 4 for pair in ((gx, gx), (gx, gy), (gy, gy))))
    mixed, cross = _mean_products(hxy, hxy) / 16, (_mean_products(hxy, hxx) + _mean_products(hxy, hyy)) / 4
    hessian = _symmetric(_mean_products(hxx, hxx) + mixed, cross, _mean_products(hyy, hyy) + mixed)
    slopes = np.array([one.reshape(len(one), -1).mean(1) for one in (gx, gy)], np.float64) / 2
    edges = gradient[:, 0, 0] + gradient[:, 1, 1] - np.square(slopes).sum(0)
    return _Energies(gradient, hessian, edges, _noise_parts(tiles))


def _mean_products(one: NDArray[np.float32], other: NDArray[np.float32]) -> NDArray[np.float64]:
    """Mean of the product of two planes for each tile, (N,)."""
    products = np.array([np.vdot(*pair) for pair in zip(one, other, strict=True)], np.float64)
    return np.asarray(products / one[0].size)


def _symmetric(
    first: NDArray[np.float64], cross: NDArray[np.float64], second: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Symmetric matrices of two rows, (N, 2, 2)."""
    return np.stack([first, cross, cross, second], 1).reshape(-1, 2, 2)


def _noise_parts(tiles: NDArray[np.float32]) -> NDArray[np.float32]:
    """Variance of white noise by Immerkaer's mask, in each part of the tiles that is free of clipping."""
    count, height, width = tiles.shape
    column = tiles.reshape(-1, width)  # the filter reaches across tiles only in rows that are cut off
    filtered = np.asarray(cv2.sepFilter2D(column, cv2.CV_32F, SECOND_DIFFERENCE, SECOND_DIFFERENCE))
    side = min(NOISE_TILE, max(4, (height - 2) // 2))
    down, across = ((size - 2) // side * side for size in (height, width))
    inner = np.s_[:, 1 : 1 + down, 1 : 1 + across]
    is_clipped = np.logical_or(tiles[inner] < CLIPPED_LOW, tiles[inner] > CLIPPED_HIGH)
    energy, clipped = (
        tile_means(plane.reshape(count * down, across), side)
        for plane in (np.square(filtered.reshape(tiles.shape)[inner]), is_clipped.astype(np.float32))
    )
    return energy[clipped < CLIPPED_SHARE] / MASK_GAIN**2


def _noise(variances: NDArray[np.float32], least: float) -> float:
    """Variance of the noise: the 5th percentile over all parts, at least that of rounding."""
    return max(least, float(np.percentile(variances, 5))) if variances.size >= LEAST_TILES else least


def _radii(energies: _Energies, noise: float) -> NDArray[np.float64]:
    """Radius of each tile's edges in the worst direction, px of the tile; NaN if edges are not above the noise."""
    gradient = energies.gradient - GRADIENT_GAIN * noise * np.eye(2)
    hessian = energies.hessian - HESSIAN_GAIN * noise * np.eye(2)
    has_edges = 2 * energies.edges >= LEAST_EDGES + 6 * noise
    is_above_noise = np.trace(hessian, axis1=1, axis2=2) >= LEAST_OVER_NOISE * 2 * HESSIAN_GAIN * noise
    is_clear = np.logical_and(has_edges, is_above_noise)
    values, vectors = np.linalg.eigh(hessian[is_clear])
    whitening = vectors / np.sqrt(2 * (np.maximum(values, 0) + UNSEEN * values[:, -1:]))[:, None]
    ratios = np.linalg.eigvalsh(whitening.transpose(0, 2, 1) @ gradient[is_clear] @ whitening)[:, -1]
    radii = np.full(len(hessian), np.nan)
    radii[is_clear] = np.sqrt(np.maximum(ratios, 0))
    return radii
