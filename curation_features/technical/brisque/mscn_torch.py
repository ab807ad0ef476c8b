"""`mscn.mscn_sums` and `luma.half_size` for batches of images of one shape, with torch on any device.

Whole images are processed at once, which is fast on a GPU. Means are summed in another order than in `mscn`, which
changes the results by about 1e-13 (relative). If the order decides a sign, the mean comes from `weigh`, like in `mscn`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from curation_features.technical.brisque.luma import half_taps
from curation_features.technical.brisque.mscn import (
    GAUSSIAN,
    REACH,
    ROUNDING,
    WINDOW,
    MscnSums,
    ProductSums,
)

if TYPE_CHECKING:
    from curation_features.technical.brisque.mscn import Weigh

_NEIGHBOURS = ((0, 1), (1, 0), (1, 1), (1, -1))
"""Shifts that roll a neighbour onto each pixel: left, above, above left, above right."""


def half_sizes(images: torch.Tensor) -> torch.Tensor:
    """Downscale (N, H, W) to (N, H // 2, W // 2), bit for bit like `luma.half_size`."""
    return _halve(_halve(images.float(), dim=1), dim=2)


def _halve(images: torch.Tensor, dim: int) -> torch.Tensor:
    side = images.shape[dim]
    first, weights = half_taps(side)
    shape = [*images.shape[:dim], len(first), *images.shape[dim + 1 :]]
    reduced = torch.zeros(shape, dtype=images.dtype, device=images.device)
    for tap in torch.nonzero(weights.any(dim=1)).flatten().tolist():
        index = first + tap
        mirrored = np.where(index < 0, -1 - index, np.where(index >= side, 2 * side - 1 - index, index))
        shifted = images.index_select(dim, torch.from_numpy(mirrored).to(images.device))
        weight = weights[tap].to(images.device)
        # Rounded products, summed tap by tap: the order of the sum decides the last bit.
        shifted *= weight[:, None] if dim == 1 else weight
        reduced += shifted
    return reduced


def batched_mscn_sums(images: torch.Tensor, weigh: Weigh) -> list[MscnSums]:
    """Compute `mscn.mscn_sums` of images (N, H, W) in float64.

    Args:
        images: uint8 or float32.
        weigh: see `mscn.mscn_sums`; gets host arrays.
    """
    coefficients = _coefficients(images, weigh)
    columns = [coefficients.abs().sum((1, 2)), coefficients.square().sum((1, 2))]
    for shift in _NEIGHBOURS:
        product = coefficients.roll(shift, (1, 2)).mul_(coefficients)
        counts = [(product < 0).sum((1, 2)), (product > 0).sum((1, 2))]
        magnitude = product.abs().sum((1, 2))
        left = product.clamp(max=0).square_().sum((1, 2))
        columns += [magnitude, left, product.clamp_(min=0).square_().sum((1, 2)), *counts]
    size = images.shape[1] * images.shape[2]
    return [_sums(size, row) for row in torch.stack([column.double() for column in columns], 1).tolist()]


def _sums(size: int, row: list[float]) -> MscnSums:
    magnitude, energy, *rest = row
    products = [
        ProductSums(*rest[at : at + 3], *map(int, rest[at + 3 : at + 5]))  # type: ignore[arg-type]
        for at in range(0, len(rest), 5)
    ]
    return MscnSums(size, magnitude, energy, products)


def _coefficients(images: torch.Tensor, weigh: Weigh) -> torch.Tensor:
    """Compute the MSCN coefficients (N, H, W)."""
    values = images.double()
    mean = _blur(values)
    difference = values - mean
    uncertain = difference.abs() < ROUNDING
    if bool(uncertain.any()):
        indices = uncertain.nonzero()
        difference[uncertain] = values[uncertain] - _exact_means(images, indices, weigh)
    deviation = _blur(values.square_()).sub_(mean.square_()).abs_().sqrt_().add_(1)
    return difference.div_(deviation)


def _blur(values: torch.Tensor) -> torch.Tensor:
    """Return the weighted mean of each neighbourhood; pixels outside the image are 0."""
    for dim in (1, 2):
        size = values.shape[dim]
        blurred = values * GAUSSIAN[REACH]
        for reach in range(1, min(REACH, size - 1) + 1):
            weight = float(GAUSSIAN[REACH + reach])
            blurred.narrow(dim, reach, size - reach).add_(values.narrow(dim, 0, size - reach), alpha=weight)
            blurred.narrow(dim, 0, size - reach).add_(values.narrow(dim, reach, size - reach), alpha=weight)
        values = blurred
    return values


def _exact_means(images: torch.Tensor, indices: torch.Tensor, weigh: Weigh) -> torch.Tensor:
    """Return the means of the neighbourhoods at indices (K, 3) by `weigh`; constant ones once per level."""
    padded = torch.nn.functional.pad(images, (REACH,) * 4)
    rows = torch.nn.functional.max_pool2d
    floats = padded.float()[:, None]
    constant = (rows(floats, WINDOW, 1) + rows(-floats, WINDOW, 1) == 0)[:, 0][tuple(indices.T)]
    means = torch.empty(len(indices), dtype=torch.float64, device=images.device)
    levels, level = images[tuple(indices[constant].T)].unique(return_inverse=True)  # type: ignore[no-untyped-call]
    means[constant] = _weigh_on_host(levels[:, None].expand(-1, WINDOW**2), weigh)[level]
    image, top, left = indices[~constant].T
    reach = torch.arange(WINDOW, device=images.device)
    around = padded[image[:, None, None], (top[:, None] + reach)[:, :, None], (left[:, None] + reach)[:, None, :]]
    means[~constant] = _weigh_on_host(around.flatten(1), weigh)
    return means


def _weigh_on_host(neighbourhoods: torch.Tensor, weigh: Weigh) -> torch.Tensor:
    if not len(neighbourhoods):
        return torch.empty(0, dtype=torch.float64, device=neighbourhoods.device)
    return torch.from_numpy(weigh(neighbourhoods.cpu().numpy())).to(neighbourhoods.device)
