"""Batched BRISQUE on a GPU."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from curation_features.concurrency import batched
from curation_features.devices.fallback import first_that_runs
from curation_features.devices.transfer import HostToDevice, stacked
from curation_features.errors import UndefinedMetricError
from curation_features.technical.brisque.luma import piq_luma
from curation_features.technical.preview import preview

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray

    from curation_features.devices.transfer import ModelInput
    from curation_features.technical.brisque.index import Brisque

_ONE_BY_ONE = "the CPU, photo by photo"

PIXELS_AT_ONCE = 1 << 23
"""Pixels per pass: about 0.6 GB of intermediate float64."""


class BatchedBrisque:
    """The BRISQUE index of photos in batches, equal to `Brisque.score` to 1e-6. Thread-safe.

    Photos of one shape form a batch.

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

    def score(self, lumas: Sequence[ModelInput]) -> list[float | UndefinedMetricError]:
        """Return the index of each image, or the error."""
        indices: dict[int, float | UndefinedMetricError] = {}
        by_shape: defaultdict[tuple[int, ...], list[int]] = defaultdict(list)
        for position, luma in enumerate(lumas):
            by_shape[tuple(luma.shape)].append(position)
        for (height, width), positions in by_shape.items():
            for group in batched(positions, max(1, PIXELS_AT_ONCE // (height * width))):
                scores = self._brisque.scores_of(stacked([lumas[position] for position in group]))
                indices.update(zip(group, scores, strict=True))
        return [indices[position] for position in range(len(lumas))]


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
