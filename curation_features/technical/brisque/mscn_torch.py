"""`local_contrast` and `brisque_gray.half_size` for many images of one shape at once, with torch on any device.

On a GPU whole images at a time are fast, where a CPU wants strips that stay in its cache. Means of neighbourhoods are
added in another order than there, which moves the sums by some 1e-13 of themselves; where the order decides a sign,
the same sums are taken as there.
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
    ContrastSums,
    ProductSums,
)

if TYPE_CHECKING:
    from curation_features.technical.brisque.mscn import Weigh

_NEIGHBOURS = ((0, 1), (1, 0), (1, 1), (1, -1))
"""How an image that goes round is rolled to bring a neighbour to a pixel's place: left, above, and those beside it."""


def half_sizes(images: torch.Tensor) -> torch.Tensor:
    """(N, H // 2, W // 2) of (N, H, W): see `brisque_gray.half_size`, with the same bits."""
    rows = _halved(images.float(), dim=1)
    return _halved(rows, dim=2)


def _halved(images: torch.Tensor, dim: int) -> torch.Tensor:
    side = images.shape[dim]
    first, weights = half_taps(side)
    shape = [*images.shape[:dim], len(first), *images.shape[dim + 1 :]]
    reduced = torch.zeros(shape, dtype=images.dtype, device=images.device)
    for tap in torch.nonzero(weights.any(dim=1)).flatten().tolist():
        place = first + tap
        mirrored = np.where(place < 0, -1 - place, np.where(place >= side, 2 * side - 1 - place, place))
        shifted = images.index_select(dim, torch.from_numpy(mirrored).to(images.device))
        weight = weights[tap].to(images.device)
        # Added from one tap after the other on, each product rounded: their order decides the last bit.
        shifted *= weight[:, None] if dim == 1 else weight
        reduced += shifted
    return reduced


def batched_contrast_sums(images: torch.Tensor, weigh: Weigh) -> list[ContrastSums]:
    """The sums of `local_contrast.contrast_sums` of (N, H, W) images, in float64.

    Args:
        images: uint8 or float32.
        weigh: as there; it is given arrays of the CPU.
    """
    contrast = _contrast(images, weigh)
    columns = [contrast.abs().sum((1, 2)), contrast.square().sum((1, 2))]
    for shift in _NEIGHBOURS:
        product = contrast.roll(shift, (1, 2)).mul_(contrast)
        counts = [(product < 0).sum((1, 2)), (product > 0).sum((1, 2))]
        magnitude = product.abs().sum((1, 2))
        left = product.clamp(max=0).square_().sum((1, 2))
        columns += [magnitude, left, product.clamp_(min=0).square_().sum((1, 2)), *counts]
    size = images.shape[1] * images.shape[2]
    return [_sums(size, row) for row in torch.stack([column.double() for column in columns], 1).tolist()]


def _sums(size: int, row: list[float]) -> ContrastSums:
    magnitude, energy, *rest = row
    products = [
        ProductSums(*rest[at : at + 3], *map(int, rest[at + 3 : at + 5]))  # type: ignore[arg-type]
        for at in range(0, len(rest), 5)
    ]
    return ContrastSums(size, magnitude, energy, products)


def _contrast(images: torch.Tensor, weigh: Weigh) -> torch.Tensor:
    """Local contrast (N, H, W)."""
    values = images.double()
    mean = _blurred(values)
    difference = values - mean
    doubtful = difference.abs() < ROUNDING
    if bool(doubtful.any()):
        places = doubtful.nonzero()
        difference[doubtful] = values[doubtful] - _exact_means(images, places, weigh)
    deviation = _blurred(values.square_()).sub_(mean.square_()).abs_().sqrt_().add_(1)
    return difference.div_(deviation)


def _blurred(values: torch.Tensor) -> torch.Tensor:
    """The weighted mean of each neighbourhood; outside of the image is 0."""
    for dim in (1, 2):
        size = values.shape[dim]
        blurred = values * GAUSSIAN[REACH]
        for reach in range(1, min(REACH, size - 1) + 1):
            weight = float(GAUSSIAN[REACH + reach])
            blurred.narrow(dim, reach, size - reach).add_(values.narrow(dim, 0, size - reach), alpha=weight)
            blurred.narrow(dim, 0, size - reach).add_(values.narrow(dim, reach, size - reach), alpha=weight)
        values = blurred
    return values


def _exact_means(images: torch.Tensor, places: torch.Tensor, weigh: Weigh) -> torch.Tensor:
    """The means of the neighbourhoods of (K, 3) places by the very sums of `weigh`; of even ones one for each level."""
    padded = torch.nn.functional.pad(images, (REACH,) * 4)
    rows = torch.nn.functional.max_pool2d
    floats = padded.float()[:, None]
    even = (rows(floats, WINDOW, 1) + rows(-floats, WINDOW, 1) == 0)[:, 0][tuple(places.T)]
    means = torch.empty(len(places), dtype=torch.float64, device=images.device)
    levels, level = images[tuple(places[even].T)].unique(return_inverse=True)  # type: ignore[no-untyped-call]
    means[even] = _weighed(levels[:, None].expand(-1, WINDOW**2), weigh)[level]
    image, top, left = places[~even].T
    reach = torch.arange(WINDOW, device=images.device)
    around = padded[image[:, None, None], (top[:, None] + reach)[:, :, None], (left[:, None] + reach)[:, None, :]]
    means[~even] = _weighed(around.flatten(1), weigh)
    return means


def _weighed(neighbourhoods: torch.Tensor, weigh: Weigh) -> torch.Tensor:
    if not len(neighbourhoods):
        return torch.empty(0, dtype=torch.float64, device=neighbourhoods.device)
    return torch.from_numpy(weigh(neighbourhoods.cpu().numpy())).to(neighbourhoods.device)
