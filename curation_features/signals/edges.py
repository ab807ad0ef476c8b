"""Blur: the radius of the edges in the worst of four directions, and how far directions differ.

For a step blurred by a Gaussian of radius r, sum(I''^2) / sum(I'^2) = 1 / (2 r^2), independent of its contrast: the
ratio of spectral moments of S. O. Rice, "Mathematical analysis of random noise", Bell System Technical Journal 23
(1944) and 24 (1945), known as mobility since B. Hjorth, "EEG analysis based on time domain properties",
Electroencephalography and Clinical Neurophysiology 29 (1970). White noise is taken out of both sums; its sigma is the
5th percentile of Immerkaer's mask over tiles (see `grain`). The tiles with most fine detail decide, so that a blurred
background does not count.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import cv2
import numpy as np

from curation_features.signals.grain import floor, high_pass_energy, unclipped
from curation_features.signals.views import tile_means

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from curation_features.signals.views import Views

TILE = 32
"""px of the preview."""

SHARE = 0.2
"""Share of the tiles that decide: those with most fine detail."""

NOISE_TILE = 16
"""px of the preview."""

DIRECTIONS = ((0, 1), (1, 0), (1, 1), (1, -1))
"""Steps (down, right) of the differences: across, down and the two diagonals."""

STEP = np.array([8.0, 8.0, 4.0, 4.0])
"""M1 / (STEP * M2) = r^2: M1 spans 2 px and M2 1 px; on the diagonals both are longer by the root of 2."""

NOISE_GAIN = np.array([[2.0], [6.0]])
"""Energy of white noise of sigma 1 in the first and in the second differences."""

LEAST_ENERGY = np.array([[2e-3], [5e-5]])
"""Added to M1 and M2, so that their ratio exists, gray levels squared."""


LEAST_HEIGHT = 16
"""Shortest side that has a tile to find the noise in, px."""

LEAST_EDGES = 1.0
LEAST_EDGES_OVER_NOISE = 2.0
"""Edges exist from a variance of first differences of 1 + 2 sigma^2, gray levels squared.

Gradients have at most 0.7 (rounding, JPEG), noise has at most 1.5 sigma^2. 32 photos blurred by 9 px at 1024 px have at
least 13; blurred by 5 px, at a fifth of their contrast, at least 1.3.
"""


class Moments(NamedTuple):
    """Energies of differences, noise taken out, in the tiles that decide.

    Attributes:
        energy: (2, 4), M1 and M2 by direction, gray levels squared.
        edges: largest variance of the first differences within tiles, over the directions. A ramp has a mean but no
            variance.
        noise: sigma, gray levels.
    """

    energy: NDArray[np.float64]
    edges: float
    noise: float


def moments(inner: NDArray[np.uint8]) -> Moments:
    """Mean squares of first and second differences in the fifth of the tiles with most Laplacian energy.

    Args:
        inner: (H, W), 0..255, without borders.
    """
    noise = _noise(inner)
    image = inner.astype(np.float32)
    tiles = _detailed_tiles(image)
    energies, variances = [], []
    for first, second in _differences(tiles):
        energies.append((_mean_square(first), _mean_square(second)))
        variances.append(energies[-1][0] - float(np.square(first.mean((1, 2))).mean()))
    gain = NOISE_GAIN * noise**2
    return Moments(np.maximum(np.array(energies).T - gain, 0), max(variances) - float(gain[0, 0]), noise)


def _noise(inner: NDArray[np.uint8]) -> float:
    """Sigma of white noise: 5th percentile over tiles of 16 px; all tiles if too few are free of clipping."""
    energy = high_pass_energy(inner, NOISE_TILE)
    percentiles = floor(energy, unclipped(inner, NOISE_TILE), (5,))
    return float(np.percentile(np.sqrt(energy), 5) if percentiles is None else percentiles[0])


def _detailed_tiles(image: NDArray[np.float32]) -> NDArray[np.float32]:
    """Tiles with most Laplacian energy, with 1 px around each, (N, tile + 2, tile + 2)."""
    height, width = image.shape
    tile = min(TILE, height - 2, width - 2)
    rows, columns = (height - 2) // tile, (width - 2) // tile
    laplacian = np.asarray(cv2.Laplacian(image, cv2.CV_32F)[1 : 1 + rows * tile, 1 : 1 + columns * tile], np.float32)
    energy = tile_means(laplacian * laplacian, tile).ravel()
    most = np.argsort(energy)[-max(3, round(energy.size * SHARE)) :]
    corners = ((index // columns * tile, index % columns * tile) for index in most.tolist())
    return np.stack([image[top : top + tile + 2, left : left + tile + 2] for top, left in corners])


def _differences(tiles: NDArray[np.float32]) -> Iterator[tuple[NDArray[np.float32], NDArray[np.float32]]]:
    """First and second differences in each direction, (N, tile, tile)."""
    height, width = tiles.shape[1:]

    def shifted(down: int, right: int) -> NDArray[np.float32]:
        return tiles[:, 1 + down : height - 1 + down, 1 + right : width - 1 + right]

    twice = shifted(0, 0) * 2
    for down, right in DIRECTIONS:
        ahead, behind = shifted(down, right), shifted(-down, -right)
        yield ahead - behind, ahead + behind - twice


def _mean_square(values: NDArray[np.float32]) -> float:
    return float(np.vdot(values, values)) / values.size


def radii(energy: NDArray[np.float64]) -> NDArray[np.float64]:
    """Edge radius by direction, (4,), px: the root of M1 / (STEP M2)."""
    first, second = energy + LEAST_ENERGY
    return np.asarray(1 / np.sqrt(np.maximum(second / first, 1e-4) * STEP))


def blur(inner: NDArray[np.uint8]) -> tuple[float, float] | None:
    """Edge radius and streak of a preview without borders.

    Args:
        inner: (H, W), 0..255, long side at most 512 px.

    Returns:
        The equivalent Gaussian radius of the edges in the worst direction, px, 0.35 for a step as sharp as pixels can
        be and more for softer ones; and the larger ratio of the radii of two perpendicular directions, at least 1.
        None without edges: a flat picture, a gradient, a clear sky, nothing but noise.
    """
    if min(inner.shape) < LEAST_HEIGHT:
        return None
    found = moments(inner)
    if found.edges < LEAST_EDGES + LEAST_EDGES_OVER_NOISE * found.noise**2:
        return None
    by_direction = radii(found.energy)
    across, down, falling, rising = by_direction.tolist()
    return float(by_direction.max()), max(across / down, down / across, falling / rising, rising / falling)


def edges(views: Views) -> dict[str, float | None]:
    """Measure `blur_px` and `streak`; None for a photo under 96 px or without edges."""
    found = blur(views.inner) if views.is_measurable else None
    return dict(zip(("blur_px", "streak"), found or (None, None), strict=True))
