"""Load BRISQUE's regressor, and choose between one photo at a time and batches on a GPU."""

from __future__ import annotations

from typing import TYPE_CHECKING

from curation_features.devices.selection import select_device
from curation_features.errors import InvalidWeightsError
from curation_features.technical.brisque.batched import batched_brisque
from curation_features.technical.brisque.index import FEATURES, SUPPORT_VECTORS, Brisque
from curation_features.weights import LazyModel, Progress, Weights, brisque_file, locate_brisque, no_progress

if TYPE_CHECKING:
    from curation_features.settings import Settings

KNOWN_INDICES = ((-0.5, 39.941), (0.0, 69.481), (0.5, 90.126))
"""Indices that the authors' regressor (`allmodel` of their release) gives where all scaled features have one value.

Without any one of its support vectors one of the three would be off by 3 or more.
"""


def brisque_model(settings: Settings, progress: Progress = no_progress, *, fetch: bool = True) -> LazyModel[Brisque]:
    """The regressor that `settings` name: located when its identity is asked for, loaded on first use."""

    def load(weights: Weights) -> Brisque:
        model = load_brisque(weights)
        # MPS has no float64.
        if select_device(settings).name == "cuda":
            model.batched = batched_brisque(model, "cuda", settings.brisque_side)
        return model

    return LazyModel(lambda: locate_brisque(settings, fetch=fetch, progress=progress), load)


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
