"""BRISQUE: quality from the statistics of MSCN coefficients.

A. Mittal, A. K. Moorthy and A. C. Bovik, "No-Reference Image Quality Assessment in the Spatial Domain",
IEEE TIP 21 (2012). Results equal those of piq 0.8 on float64 images, in less time. piq computes in float32 by default,
which changes the index by up to a few tenths. piq checks its input with `assert`; here the same conditions raise, so
`python -O` does not matter.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from curation_features.errors import UndefinedMetricError
from curation_features.schema import Measurement
from curation_features.technical.brisque.luma import half_size, piq_luma
from curation_features.technical.brisque.mscn import SIGMA, WINDOW, MscnSums, ProductSums, mscn_sums

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray

    from curation_features.devices.transfer import ModelInput
    from curation_features.technical.brisque.mscn import Gray

GAMMA, RHO = 0.05, -153.591
"""Kernel width and offset of the regressor in the authors' release."""

SUPPORT_VECTORS, FEATURES = 774, 36

SMALLEST_SIDE = 12
"""px; a smaller image has no statistics at half size."""

ZERO_SIGMA = 1e-8
"""A standard deviation up to this is zero (`torch.isclose`)."""


class BatchedQuality(Protocol):
    """Measures photos in batches on a device."""

    def preprocess(self, rgb: NDArray[np.uint8]) -> ModelInput:
        """Copy the model's input for a photo (H, W, 3) to the device."""

    def score(self, inputs: Sequence[ModelInput]) -> list[float | UndefinedMetricError]:
        """Return the index of each photo, or the error."""


class Brisque:
    """BRISQUE with its regressor in memory. Thread-safe.

    Args:
        sv_coef: (774, 1), dual coefficients.
        sv: (774, 36), support vectors of features scaled to [-1, 1].

    Attributes:
        batched: measures batches on a GPU; None: photos are measured one by one.
    """

    batched: BatchedQuality | None = None

    def __init__(self, sv_coef: NDArray[np.float32], sv: NDArray[np.float32]) -> None:
        import torch

        # In the package, a function of the same name hides this module.
        self._piq: Any = importlib.import_module("piq.brisque")
        self._torch = torch
        self._coefficients = torch.from_numpy(sv_coef).double()
        self._support_vectors = torch.from_numpy(sv).double().T
        self._window = self._piq.gaussian_filter(WINDOW, SIGMA, dtype=torch.float64).flatten()
        # Lookup table of generalised Gaussians (GGD) and asymmetric ones (AGGD), all (9801,): the shape,
        # `sigma^2 / E|x|^2` of a GGD, its inverse for an AGGD, and the AGGD's mean per difference of its two sigmas.
        shape = torch.arange(0.2, 10.001, 0.001, dtype=torch.float64)
        one, two, three = (torch.lgamma(number / shape) for number in (1.0, 2.0, 3.0))
        logarithms = (one + three - 2 * two, 2 * two - one - three, two - (one + three) / 2)
        self._shape = shape.numpy()
        self._ratio, self._inverse_ratio, self._mean = (logarithm.exp().numpy() for logarithm in logarithms)

    def score(self, rgb: NDArray[np.uint8]) -> float:
        """Compute the BRISQUE index: mostly 0..100, unbounded; lower is better.

        Equal to `piq.brisque(x, data_range=255, reduction="none")` of the image in float64.

        Args:
            rgb: (H, W, 3).

        Raises:
            UndefinedMetricError: `flat_image`: constant luma; `too_small`: a side under 12 px;
                `undefined_statistics`: products of MSCN coefficients have only one sign (a line on black, say).
        """
        check_size(rgb.shape[0], rgb.shape[1])
        luma = piq_luma(rgb)
        if luma.min() == luma.max():
            raise flat_image()
        return self.index((mscn_sums(luma, self.weigh_luma), mscn_sums(half_size(luma), self.weigh_half)))

    def index(self, scales: Sequence[MscnSums]) -> float:
        """Compute the index from the sums at full and half size. Raises `UndefinedMetricError` like `score`."""
        features = [feature for sums in scales for feature in self._features(sums)]
        scaled = self._piq._scale_features(self._torch.tensor([features], dtype=self._torch.float64))
        index = self.regress(scaled[0].tolist())
        if not math.isfinite(index):
            raise UndefinedMetricError("undefined_statistics", f"BRISQUE has no value for the image ({index})")
        return index

    def regress(self, scaled: Sequence[float]) -> float:
        """Compute the index from 36 features scaled to [-1, 1]."""
        features = self._torch.tensor([scaled], dtype=self._torch.float64)
        kernel = self._piq._rbf_kernel(features, self._support_vectors, GAMMA)
        return float(kernel @ self._coefficients) - RHO

    def weigh_luma(self, neighbourhoods: Gray) -> NDArray[np.float64]:
        """Return the weighted means of full-size neighbourhoods (N, 49), rounded like piq.

        The fits count signs, so in a flat sky the last bit of the mean changes the index by up to 1. piq's full-size
        luma is a slice of a channels-last tensor, which torch convolves as a matrix-vector product.
        """
        means: NDArray[np.float64] = self._torch.mv(_pad(neighbourhoods), self._window).numpy()
        return means[: len(neighbourhoods)]

    def weigh_half(self, neighbourhoods: Gray) -> NDArray[np.float64]:
        """Like `weigh_luma`, for half size, which torch convolves as a matrix-matrix product."""
        columns = _pad(neighbourhoods).T.contiguous()
        means: NDArray[np.float64] = self._torch.mm(self._window[None], columns)[0].numpy()
        return means[: len(neighbourhoods)]

    def _features(self, sums: MscnSums) -> list[float]:
        """Compute the 18 features of one scale: a GGD fit, and an AGGD fit per neighbour."""
        features = self._fit_ggd(sums)
        for products in sums.products:
            features += self._fit_aggd(products, sums.size)
        return features

    def _fit_ggd(self, sums: MscnSums) -> list[float]:
        """Fit a GGD by moments: shape and variance."""
        variance = sums.energy / sums.size
        if not math.sqrt(variance) > ZERO_SIGMA:
            raise UndefinedMetricError("flat_image", "the image has no local contrast")
        ratio = variance / (sums.magnitude / sums.size) ** 2
        return [float(self._shape[np.abs(ratio - self._ratio).argmin()]), variance]

    def _fit_aggd(self, sums: ProductSums, size: int) -> list[float]:
        """Fit an AGGD by moments: shape, mean, left and right variance."""
        if not (sums.left_energy > 0 and sums.right_energy > 0):
            raise UndefinedMetricError("undefined_statistics", "the image's local contrast does not have both signs")
        left_sigma = math.sqrt(sums.left_energy / sums.left_count)
        right_sigma = math.sqrt(sums.right_energy / sums.right_count)
        skew = left_sigma / right_sigma
        ratio = (sums.magnitude / size) ** 2 / ((sums.left_energy + sums.right_energy) / size)
        ratio *= (skew**3 + 1) * (skew + 1) / (skew**2 + 1) ** 2
        row = np.abs(ratio - self._inverse_ratio).argmin()
        mean = (right_sigma - left_sigma) * float(self._mean[row])
        return [float(self._shape[row]), mean, left_sigma**2, right_sigma**2]


def _pad(neighbourhoods: Gray) -> torch.Tensor:
    """Add rows of zeros to a matrix (N, 49): torch sums the last rows of a matrix in another order."""
    import torch

    padded = np.zeros((len(neighbourhoods) + 64 - len(neighbourhoods) % 32, WINDOW**2))
    padded[: len(neighbourhoods)] = neighbourhoods
    return torch.from_numpy(padded)


def check_size(height: int, width: int) -> None:
    """Raise `UndefinedMetricError` for an image that is too small."""
    if min(height, width) < SMALLEST_SIDE:
        raise UndefinedMetricError(
            "too_small", f"BRISQUE needs {SMALLEST_SIDE} px a side; the image has {width}x{height}"
        )


def flat_image() -> UndefinedMetricError:
    """Return the error for an image of constant luma."""
    return UndefinedMetricError("flat_image", "the image has one brightness all over")


def brisque_measurement(index: float | UndefinedMetricError) -> Measurement:
    """Score `1 - clamp(b / 100)` of the BRISQUE index `b`: 1 is natural, 0 is distorted.

    On real photos it correlates weakly with human judgement (SRCC 0.2 to 0.3): do not decide on it alone.

    Args:
        index: see `Brisque.score`; an error is raised.
    """
    if isinstance(index, UndefinedMetricError):
        raise index
    return Measurement(score=1 - min(max(index / 100, 0.0), 1.0), raw={"brisque_raw": index})
