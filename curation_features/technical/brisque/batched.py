"""BRISQUE in batches on a GPU.

Photos of one shape form a batch of whole images, which is fast on a GPU. Means are summed in another order than in
`mscn`, which changes the results by about 1e-13 (relative). If the order decides a sign, the mean comes from `weigh`,
like in `mscn`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import torch

from curation_features.concurrency import batched
from curation_features.devices.fallback import first_that_runs
from curation_features.devices.transfer import HostToDevice, stacked
from curation_features.errors import UndefinedMetricError
from curation_features.signals.preview import preview
from curation_features.technical.brisque.index import Brisque, check_size, flat_image
from curation_features.technical.brisque.luma import half_size, piq_luma
from curation_features.technical.brisque.mscn import GAUSSIAN, REACH, ROUNDING, WINDOW, MscnSums, ProductSums

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from curation_features.devices.transfer import ModelInput
    from curation_features.technical.brisque.mscn import Weigh

_ONE_BY_ONE = "the CPU, photo by photo"

PIXELS_AT_ONCE = 1 << 23
"""Pixels per pass: about 0.6 GB of intermediate float64."""

_NEIGHBOURS = ((0, 1), (1, 0), (1, 1), (1, -1))
"""Shifts that roll a neighbour onto each pixel: left, above, above left, above right."""


class BatchedBrisque:
    """The BRISQUE index of photos in batches, equal to `Brisque.score` to 1e-6. Thread-safe.

    Args:
        brisque: the regressor.
        transfer: to a device that supports float64 (not MPS).
        side: largest long side, px; larger photos are downscaled.
    """

    def __init__(self, brisque: Brisque, transfer: HostToDevice, side: int) -> None:
        self._brisque = brisque
        self._transfer = transfer
        self._side = side

    def preprocess(self, rgb: NDArray[np.uint8]) -> torch.Tensor:
        """Copy the luma (H, W) of the downscaled photo to the device."""
        return self._transfer(piq_luma(preview(rgb, self._side)), lambda luma: luma)

    def score(self, inputs: Sequence[ModelInput]) -> list[float | UndefinedMetricError]:
        """Return the index of each image, or the error."""
        indices: dict[int, float | UndefinedMetricError] = {}
        by_shape: defaultdict[tuple[int, ...], list[int]] = defaultdict(list)
        for position, luma in enumerate(inputs):
            by_shape[tuple(luma.shape)].append(position)
        for (height, width), positions in by_shape.items():
            for group in batched(positions, max(1, PIXELS_AT_ONCE // (height * width))):
                scores = self._score_batch(torch.as_tensor(stacked([inputs[position] for position in group])))
                indices.update(zip(group, scores, strict=True))
        return [indices[position] for position in range(len(inputs))]

    def _score_batch(self, lumas: torch.Tensor) -> list[float | UndefinedMetricError]:
        """Compute the index of luma images of one shape (N, H, W); each an index or the error."""
        try:
            check_size(*lumas.shape[1:])
        except UndefinedMetricError as error:
            return [error] * len(lumas)
        with torch.inference_mode():
            flat = (lumas.amax((1, 2)) == lumas.amin((1, 2))).tolist()
            halves = half_size(lumas, partial(torch.as_tensor, device=lumas.device)).contiguous()
            scales = (
                batched_mscn_sums(lumas, self._brisque.weigh_luma),
                batched_mscn_sums(halves, self._brisque.weigh_half),
            )
        return [self._index(is_flat, sums) for is_flat, *sums in zip(flat, *scales, strict=True)]

    def _index(self, is_flat: bool, scales: list[MscnSums]) -> float | UndefinedMetricError:
        try:
            return flat_image() if is_flat else self._brisque.index(scales)
        except UndefinedMetricError as error:
            return error


def batched_brisque(brisque: Brisque, device: str, side: int) -> BatchedBrisque | None:
    """Try BRISQUE on a device; return None if the photos must be measured one by one on the CPU."""

    def attempt(name: str) -> BatchedBrisque | None:
        if name == _ONE_BY_ONE:
            return None
        model = BatchedBrisque(brisque, HostToDevice(name), side)
        pattern = np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)
        index = model.score([model.preprocess(pattern)])[0]
        if isinstance(index, UndefinedMetricError) or abs(index - brisque.score(pattern)) > 1e-3:
            raise ArithmeticError(f"it gives {index} for a pattern instead of {brisque.score(pattern)}")
        return model

    return first_that_runs("BRISQUE", (device, _ONE_BY_ONE), attempt, if_out_of_memory=True)


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
    return [
        MscnSums(size, magnitude, energy, [ProductSums(*of_neighbour) for of_neighbour in batched(rest, 5)])
        for magnitude, energy, *rest in torch.stack([column.double() for column in columns], 1).tolist()
    ]


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
    """Return the means of K neighbourhoods, computed by `weigh`.

    A neighbourhood of equal pixels is computed once for all with the same gray level.

    Args:
        indices: (K, 3): image, row and column of each neighbourhood's centre.
    """
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
