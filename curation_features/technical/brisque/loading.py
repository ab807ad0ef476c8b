"""Load the BRISQUE regressor; use batches on CUDA."""

from __future__ import annotations

from contextlib import nullcontext
from typing import TYPE_CHECKING

from curation_features.devices.fallback import first_sentence
from curation_features.devices.selection import select_device
from curation_features.errors import InvalidWeightsError
from curation_features.technical.brisque.index import FEATURES, SUPPORT_VECTORS, Brisque
from curation_features.weights import LazyModel, Loading, Progress, Weights, brisque_file, locate, no_progress

if TYPE_CHECKING:
    from curation_features.settings import Settings

KNOWN_INDICES = ((-0.5, 39.941), (0.0, 69.481), (0.5, 90.126))
"""Value of all scaled features, and the index of the authors' regressor (`allmodel` of their release) for it.

If any support vector were missing, at least one of the indices would be off by 3 or more.
"""


def brisque_model(
    settings: Settings, progress: Progress = no_progress, *, fetch: bool = True, loading: Loading = nullcontext
) -> LazyModel[Brisque]:
    """Create the regressor that `settings` name; weights are located and loaded on first use."""

    def load(weights: Weights) -> Brisque:
        model = load_brisque(weights)
        if select_device(settings).name == "cuda":  # MPS has no float64
            from curation_features.technical.brisque.batched import batched_brisque

            model.batched = batched_brisque(model, "cuda", settings.brisque_side)
        return model

    return LazyModel(lambda: locate("brisque", settings, fetch=fetch, progress=progress), load, loading)


def load_brisque(weights: Weights) -> Brisque:
    """Read the regressor: the pair `(sv_coef, sv)` of piq 0.8. Executes no code from the file.

    The downloaded file must give the indices of the authors' regressor; a user-supplied file need not.

    Raises:
        InvalidWeightsError: names the file, the problem and the remedy.
    """
    import torch

    try:
        content = torch.load(weights.path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file can raise anything
        raise _invalid(weights, f"cannot be read as tensors: {first_sentence(error)}") from error
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
            actual = model.regress([value] * FEATURES)
            if abs(actual - index) > 0.05:
                raise _invalid(weights, f"is not the authors': it gives {actual:.3f} instead of {index}")
    return model


def _invalid(weights: Weights, cause: str) -> InvalidWeightsError:
    return InvalidWeightsError(
        f"{weights.path}: BRISQUE's regressor {cause}",
        "delete the file and run `curation-features models pull`, or name another in CURATION_FEATURES_BRISQUE_WEIGHTS",
    )
