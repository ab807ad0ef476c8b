"""Load the BRISQUE regressor; use batches on CUDA."""

from __future__ import annotations

from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import numpy as np

from curation_features.devices.fallback import first_sentence
from curation_features.devices.selection import select_device
from curation_features.errors import InvalidWeightsError
from curation_features.technical.brisque.index import FEATURES, SUPPORT_VECTORS, Brisque
from curation_features.weights import LazyModel, Loading, Weights, brisque_file, locate

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from curation_features.settings import Settings

SHAPES = {"sv_coef": (SUPPORT_VECTORS, 1), "sv": (SUPPORT_VECTORS, FEATURES)}
"""The arrays of a regressor; see `Brisque`."""


def brisque_model(settings: Settings, loading: Loading = nullcontext) -> LazyModel[Brisque]:
    """Create the regressor that `settings` name, or the one in this package; it is loaded on first use."""

    def load(weights: Weights) -> Brisque:
        model = load_brisque(weights)
        if select_device(settings).name == "cuda":  # MPS has no float64
            from curation_features.technical.brisque.batched import batched_brisque

            model.batched = batched_brisque(model, "cuda", settings.brisque_side)
        return model

    return LazyModel(lambda: locate("brisque", settings, fetch=False), load, loading)


def load_brisque(weights: Weights) -> Brisque:
    """Load the regressor; see `read_regressor`."""
    return Brisque(*read_regressor(weights))


def read_regressor(weights: Weights) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Read `sv_coef` and `sv` (see `Brisque`). Executes no code from the file, and imports torch only for its format.

    Args:
        weights: the file in this package, or a pair of tensors in a file like that of piq 0.8.

    Raises:
        InvalidWeightsError: names the file, the problem and the remedy.
    """
    read = _read_npz if weights.path == brisque_file().path else _read_pair
    try:
        content = read(weights.path)
    except Exception as error:  # a damaged file can raise anything
        raise _invalid(weights, f"cannot be read as tensors: {first_sentence(error)}") from error
    if len(content) != len(SHAPES):
        raise _invalid(weights, "is not the pair (sv_coef, sv)")
    for array, (name, shape) in zip(content, SHAPES.items(), strict=True):
        if not isinstance(array, np.ndarray) or array.dtype != np.float32 or array.shape != shape:
            raise _invalid(weights, f"{name} is not a float32 tensor of shape {shape}")
        if not np.isfinite(array).all():
            raise _invalid(weights, f"{name} holds values that are not finite")
    sv_coef, sv = content
    return sv_coef, sv


def _read_npz(path: Path) -> tuple[Any, ...]:
    with np.load(path, allow_pickle=False) as arrays:
        return tuple(arrays[name] for name in SHAPES)


def _read_pair(path: Path) -> tuple[Any, ...]:
    import torch

    content = torch.load(path, map_location="cpu", weights_only=True)
    items = content if isinstance(content, (tuple, list)) else ()
    return tuple(item.numpy() if isinstance(item, torch.Tensor) else item for item in items)


def _invalid(weights: Weights, cause: str) -> InvalidWeightsError:
    return InvalidWeightsError(
        f"{weights.path}: BRISQUE's regressor {cause}",
        "name another in CURATION_FEATURES_BRISQUE_WEIGHTS, or unset it to use the one in this package",
    )
