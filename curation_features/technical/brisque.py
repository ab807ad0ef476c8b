"""BRISQUE: how unnatural the statistics of an image's local contrast are.

A. Mittal, A. K. Moorthy and A. C. Bovik, "No-Reference Image Quality Assessment in the Spatial Domain",
IEEE TIP 21 (2012). The numbers are those of piq 0.8 on float64 images (it is float32 by habit, which moves the index
by up to a few tenths); the same sums are done here in less time. piq checks its input by `assert`; here the same
conditions raise, so that `python -O` changes nothing.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import cv2
import numpy as np

from curation_features.errors import InvalidWeightsError, UndefinedMetricError
from curation_features.models import LazyModel, Weights, locate_brisque
from curation_features.models.known_files import brisque_file
from curation_features.schema import Measurement
from curation_features.technical.preview import preview

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from curation_features.settings import Settings

GAMMA, RHO = 0.05, -153.591
"""Kernel width and offset of the regressor, from the authors' release."""

SUPPORT_VECTORS, FEATURES = 774, 36

KNOWN_INDICES = ((-0.5, 39.941), (0.0, 69.481), (0.5, 90.126))
"""What the authors' regressor (`allmodel` of their release) gives where all scaled features have one value.

Without any one of its support vectors one of the three would be off by 3 or more.
"""

WINDOW = 7
"""px; side of the neighbourhood that local contrast is taken over."""

STRIP = 16
"""Rows that are convolved at a time."""

SMALLEST_SIDE = 12
"""px; below it the statistics of the half-size image are not defined."""

ROUNDING = 1e-9
"""Gray levels; a local contrast this small is rounding error."""

ZERO_SIGMA = 1e-8
"""A deviation up to this counts as none (`torch.isclose` to zero)."""

NEIGHBOURS = ((0, 1), (1, 0), (1, 1), (-1, 1))
"""(rows, columns) by which local contrast is shifted and multiplied with itself."""


class _Shapes(NamedTuple):
    """Shape parameters of generalised Gaussians, and what is looked up by them. All of shape (9801,).

    Attributes:
        shape: 0.2, 0.201, ... 10.
        ratio: `sigma^2 / E|x|^2` of a symmetric one of that shape.
        inverse_ratio: the same turned over, for asymmetric ones.
        mean: mean of an asymmetric one per difference of its two sigmas.
    """

    shape: NDArray[np.float64]
    ratio: NDArray[np.float64]
    inverse_ratio: NDArray[np.float64]
    mean: NDArray[np.float64]


class Brisque:
    """The BRISQUE index with its regressor held in memory. Safe to share between threads.

    Args:
        sv_coef: (774, 1), dual coefficients.
        sv: (774, 36), support vectors, in features scaled to [-1, 1].
    """

    def __init__(self, sv_coef: NDArray[np.float32], sv: NDArray[np.float32]) -> None:
        import torch

        # The package has a function of the module's name, which hides the module.
        self._piq: Any = importlib.import_module("piq.brisque")
        self._torch = torch
        self._coefficients = torch.from_numpy(sv_coef).double()
        self._support_vectors = torch.from_numpy(sv).double().T
        self._window = self._piq.gaussian_filter(WINDOW, 7 / 6, dtype=torch.float64)[None]
        self._even_means = self._weigh(np.repeat(np.arange(256.0)[:, None], WINDOW**2, axis=1))
        self._shapes = _tabulate_shapes()

    def score(self, rgb: NDArray[np.uint8]) -> float:
        """The BRISQUE index: mostly 0..100, not bounded; lower is better.

        Equal to `piq.brisque(x, data_range=255, reduction="none")` of the image in float64.

        Args:
            rgb: (H, W, 3).

        Raises:
            UndefinedMetricError: `flat_image`: its luma is one value; `too_small`: a side under 12 px;
                `undefined_statistics`: it has no local contrast of both signs (a line on black, say).
        """
        if min(rgb.shape[:2]) < SMALLEST_SIDE:
            raise UndefinedMetricError(
                "too_small", f"BRISQUE needs {SMALLEST_SIDE} px a side; the image has {rgb.shape[1]}x{rgb.shape[0]}"
            )
        luma = _luma(rgb)
        if luma.min() == luma.max():
            raise UndefinedMetricError("flat_image", "the image has one brightness all over")
        half = half_size(luma)
        index = self._index(
            [*self._statistics(luma, self._mean_as_in_piq(luma)), *self._statistics(half, self._mean(half))]
        )
        if not math.isfinite(index):
            raise UndefinedMetricError("undefined_statistics", f"BRISQUE has no value for the image ({index})")
        return index

    def _index(self, features: list[float]) -> float:
        with self._torch.inference_mode():
            scaled = self._piq._scale_features(self._torch.tensor([features], dtype=self._torch.float64))
            return self.regress(scaled[0].tolist())

    def regress(self, scaled: Sequence[float]) -> float:
        """The index of 36 features that are scaled to [-1, 1]."""
        with self._torch.inference_mode():
            features = self._torch.tensor([scaled], dtype=self._torch.float64)
            kernel = self._piq._rbf_kernel(features, self._support_vectors, GAMMA)
            return float(kernel @ self._coefficients) - RHO

    def _mean(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Mean of each pixel's neighbourhood, weighted by a Gaussian; outside the image is 0.

        torch convolves doubles through a copy that is 49 times the image; in strips that copy stays in the cache.
        """
        convolve = self._torch.nn.functional.conv2d
        reach = WINDOW // 2
        means = np.empty_like(values)
        with self._torch.inference_mode():
            padded = self._torch.from_numpy(np.pad(values, reach))[None, None]
            for top in range(0, values.shape[0], STRIP):
                means[top : top + STRIP] = convolve(padded[:, :, top : top + STRIP + 2 * reach], self._window)[0, 0]
        return means

    def _mean_as_in_piq(self, luma: NDArray[np.float64]) -> NDArray[np.float64]:
        """`_mean` of the full-size luma, with piq's own rounding where nothing but rounding is left of the contrast.

        The fits count signs, so in an even sky the last bit of the mean moves the index by up to 1. piq's full-size
        luma is a slice of a channels-last tensor, which torch convolves by a matrix-vector product: the same product
        is taken here for the pixels that it matters to.
        """
        mean = self._mean(luma)
        even = _even(luma)
        mean[even] = self._even_means[luma[even].astype(np.intp)]
        doubtful = (np.abs(luma - mean) < ROUNDING) & ~even
        reach = WINDOW // 2
        around = np.lib.stride_tricks.sliding_window_view(np.pad(luma, reach), (WINDOW, WINDOW))[doubtful]
        mean[doubtful] = self._weigh(around.reshape(-1, WINDOW**2))
        return mean

    def _weigh(self, neighbourhoods: NDArray[np.float64]) -> NDArray[np.float64]:
        """Weighted means of (N, 49) neighbourhoods."""
        # The last rows of a matrix are summed in another order: give it rows to spare.
        spared = np.pad(neighbourhoods, ((0, 64 - len(neighbourhoods) % 32), (0, 0)))
        means = self._torch.mv(self._torch.from_numpy(spared), self._window.flatten()).numpy()
        return np.asarray(means[: len(neighbourhoods)])

    def _statistics(self, luma: NDArray[np.float64], mean: NDArray[np.float64]) -> list[float]:
        """The 18 features of one scale: fits to the local contrast and to its products with its neighbours."""
        deviation = np.sqrt(np.abs(self._mean(luma * luma) - mean * mean))
        contrast = (luma - mean) / (deviation + 1)
        features = self._fit_symmetric(contrast)
        for shift in NEIGHBOURS:
            features += self._fit_asymmetric(contrast * np.roll(contrast, shift, (0, 1)))
        return features

    def _fit_symmetric(self, values: NDArray[np.float64]) -> list[float]:
        """Shape and variance of the generalised Gaussian with the moments of `values`."""
        flat = values.ravel()
        variance = float(flat @ flat) / flat.size
        if not math.sqrt(variance) > ZERO_SIGMA:
            raise UndefinedMetricError("flat_image", "the image has no local contrast")
        ratio = variance / (float(np.abs(flat).sum()) / flat.size) ** 2
        return [float(self._shapes.shape[np.abs(ratio - self._shapes.ratio).argmin()]), variance]

    def _fit_asymmetric(self, products: NDArray[np.float64]) -> list[float]:
        """Shape, mean and left and right variance of the asymmetric generalised Gaussian with these moments."""
        flat = products.ravel()
        left, right = np.minimum(flat, 0), np.maximum(flat, 0)
        left_count, right_count = np.count_nonzero(left), np.count_nonzero(right)
        left_energy, right_energy = float(left @ left), float(right @ right)
        if not (left_energy > 0 and right_energy > 0):
            raise UndefinedMetricError("undefined_statistics", "the image's local contrast does not have both signs")
        left_sigma, right_sigma = math.sqrt(left_energy / left_count), math.sqrt(right_energy / right_count)
        skew = left_sigma / right_sigma
        magnitude = float(right.sum() - left.sum()) / flat.size
        ratio = magnitude**2 / ((left_energy + right_energy) / flat.size)
        ratio *= (skew**3 + 1) * (skew + 1) / (skew**2 + 1) ** 2
        place = np.abs(ratio - self._shapes.inverse_ratio).argmin()
        mean = (right_sigma - left_sigma) * float(self._shapes.mean[place])
        return [float(self._shapes.shape[place]), mean, left_sigma**2, right_sigma**2]


def half_size(luma: NDArray[np.float64]) -> NDArray[np.float64]:
    """The image at half size in single precision, by the antialiased bicubic of piq and MATLAB."""
    rows = _half_rows(luma.astype(np.float32))
    return np.ascontiguousarray(_half_rows(np.ascontiguousarray(rows.T)).T).astype(np.float64)


def _half_rows(image: NDArray[np.float32]) -> NDArray[np.float32]:
    import torch
    from piq.functional.resize import get_padding, get_weight

    rows = image.shape[0]
    halves = rows // 2
    taps = math.ceil(4 * rows / halves) + 2
    centres = (torch.linspace(0, halves - 1, steps=halves) + 0.5) / (halves / rows) - 0.5
    first = centres.floor() - taps // 2 + 1
    weights = get_weight(centres - first, taps, antialiasing_factor=halves / rows).numpy()
    before, after, first = get_padding(first, taps, rows)
    padded = np.pad(image, ((before, after), (0, 0)), "symmetric")
    reduced = np.zeros((halves, image.shape[1]), np.float32)
    for tap, weight in enumerate(weights):
        reduced += padded[first.numpy() + tap] * weight[:, None]
    return reduced


def _even(luma: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Where a whole neighbourhood has one value."""
    levels = luma.astype(np.uint8)
    window = np.ones((WINDOW, WINDOW), np.uint8)
    even = np.zeros(luma.shape, np.bool_)
    inner = (slice(WINDOW // 2, -(WINDOW // 2)),) * 2
    even[inner] = (cv2.erode(levels, window) == cv2.dilate(levels, window))[inner]
    return even


def _luma(rgb: NDArray[np.uint8]) -> NDArray[np.float64]:
    """(H, W) luma in whole numbers 0..255, halves to even: piq's, which is not always Pillow's."""
    levels = np.arange(256.0)
    red, green, blue = ((weight * levels)[rgb[..., channel]] for channel, weight in enumerate((0.299, 0.587, 0.114)))
    return np.asarray(np.rint(red + green + blue))


def _tabulate_shapes() -> _Shapes:
    import torch

    shape = torch.arange(0.2, 10.001, 0.001, dtype=torch.float64)
    one, two, three = (torch.lgamma(number / shape) for number in (1.0, 2.0, 3.0))
    return _Shapes(
        shape.numpy(),
        (one + three - 2 * two).exp().numpy(),
        (2 * two - one - three).exp().numpy(),
        (two - (one + three) / 2).exp().numpy(),
    )


def brisque_model(settings: Settings) -> LazyModel[Brisque]:
    """The regressor that `settings` name: located when its identity is asked for, loaded on first use."""
    return LazyModel(lambda: locate_brisque(settings), load_brisque)


def load_brisque(weights: Weights) -> Brisque:
    """Read the regressor: the pair `(sv_coef, sv)` that piq 0.8 publishes. Never runs code from the file.

    A file in the known place must give the indices that the authors' regressor gives; one that settings name need not.

    Raises:
        InvalidWeightsError: names the file, what is wrong with it, and what to do.
    """
    import torch

    try:
        content = torch.load(weights.path, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever the reader makes of a damaged file
        # The first sentence: torch's next one advises to read the file without protection.
        cause = str(error).split(". ")[0].strip() or type(error).__name__
        raise _invalid(weights, f"cannot be read as tensors: {cause}") from error
    expected = (("sv_coef", (SUPPORT_VECTORS, 1)), ("sv", (SUPPORT_VECTORS, FEATURES)))
    if not isinstance(content, (tuple, list)) or len(content) != len(expected):
        raise _invalid(weights, f"holds a {type(content).__name__} instead of the pair (sv_coef, sv)")
    for tensor, (name, shape) in zip(content, expected, strict=True):
        if not isinstance(tensor, torch.Tensor) or tensor.dtype != torch.float32 or tuple(tensor.shape) != shape:
            raise _invalid(weights, f"{name} is not a float32 tensor of shape {shape}")
        if not bool(torch.isfinite(tensor).all()):
            raise _invalid(weights, f"{name} holds values that are not finite")
    model = Brisque(*(tensor.numpy() for tensor in content))
    if weights.source == brisque_file().url:
        for value, index in KNOWN_INDICES:
            found = model.regress([value] * FEATURES)
            if abs(found - index) > 0.05:
                raise _invalid(weights, f"is not the authors': it gives {found:.3f} where theirs gives {index}")
    return model


def _invalid(weights: Weights, cause: str) -> InvalidWeightsError:
    return InvalidWeightsError(
        f"{weights.path}: BRISQUE's regressor {cause}",
        "delete the file and run `curation-features models pull`, or name another in CURATION_FEATURES_BRISQUE_WEIGHTS",
    )


def brisque_measurement(rgb: NDArray[np.uint8], model: Brisque, *, side: int) -> Measurement:
    """Score `1 - clamp(b / 100)` of the BRISQUE index `b`: 1 is natural, 0 is distorted.

    On real photos it follows people's judgement weakly (SRCC 0.2 to 0.3): do not decide on it alone.

    Args:
        rgb: (H, W, 3); it is reduced by area first.
        model: the regressor.
        side: px; the greatest long side that is looked at.

    Raises:
        UndefinedMetricError: see `Brisque.score`.
    """
    index = model.score(preview(rgb, side))
    return Measurement(score=1 - min(max(index / 100, 0.0), 1.0), raw={"brisque_raw": index})
