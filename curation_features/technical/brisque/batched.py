"""BRISQUE of many photos at once, on a GPU."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from curation_features.devices.transfer import HostToDevice, stacked
from curation_features.errors import UndefinedMetricError
from curation_features.technical.brisque.luma import piq_luma
from curation_features.technical.preview import preview

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray

    from curation_features.devices.transfer import ModelInput
    from curation_features.technical.brisque.index import Brisque

logger = logging.getLogger(__name__)

PIXELS_AT_ONCE = 1 << 23
"""Pixels whose statistics are taken at a time: some 0.6 GB of float64 on the way."""


class BatchedBrisque:
    """The BRISQUE index of photos whose luma lies on a device; equal to `Brisque.score` to 1e-6. Thread-safe.

    Photos of one shape go through together.

    Args:
        brisque: the regressor.
        uploads: to the device; it must know float64, which MPS does not.
        side: px; the greatest long side that is looked at.
    """

    def __init__(self, brisque: Brisque, uploads: HostToDevice, side: int) -> None:
        self._brisque = brisque
        self._uploads = uploads
        self._side = side

    def preprocess(self, rgb: NDArray[np.uint8]) -> torch.Tensor:
        """(H, W) luma of the reduced photo (H, W, 3), on the device."""
        return self._uploads(piq_luma(preview(rgb, self._side)), lambda luma: luma)

    def score(self, lumas: Sequence[ModelInput]) -> list[float | UndefinedMetricError]:
        """The index of each image, or why it has none."""
        found: list[float | UndefinedMetricError | None] = [None] * len(lumas)
        by_shape: defaultdict[tuple[int, ...], list[int]] = defaultdict(list)
        for place, luma in enumerate(lumas):
            by_shape[tuple(luma.shape)].append(place)
        for (height, width), places in by_shape.items():
            at_once = max(1, PIXELS_AT_ONCE // (height * width))
            for start in range(0, len(places), at_once):
                some = places[start : start + at_once]
                for place, index in zip(some, self._brisque.scores_of(stacked([lumas[n] for n in some])), strict=True):
                    found[place] = index
        return [index for index in found if index is not None]


def batched_brisque(brisque: Brisque, device: str, side: int) -> BatchedBrisque | None:
    """BRISQUE on a device, tried there once; None, and a line in the log, where it does not run."""
    model = BatchedBrisque(brisque, HostToDevice(device), side)
    try:
        pattern = np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)
        index = model.score([model.preprocess(pattern)])[0]
        if isinstance(index, UndefinedMetricError) or abs(index - brisque.score(pattern)) > 1e-3:
            raise ArithmeticError(f"it gives {index} for a pattern instead of {brisque.score(pattern)}")
    except (RuntimeError, TypeError, ArithmeticError) as error:
        logger.warning("BRISQUE falls back from %s to the CPU: %s", device, error)
        return None
    return model
