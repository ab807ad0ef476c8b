"""Fallback when a device cannot run a model, or cannot preprocess a photo."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray

    from curation_features.devices.transfer import HostToDevice

logger = logging.getLogger(__name__)

C = TypeVar("C")
T = TypeVar("T")


def first_that_runs(
    model: str, candidates: Sequence[C], attempt: Callable[[C], T], *, if_out_of_memory: bool = False
) -> T:
    """Return the first successful `attempt`; log a warning at each fallback.

    Args:
        model: name for the log.
        candidates: devices, best first.
        attempt: loads the model on a candidate and tries it. A `RuntimeError` (a missing operator), a `TypeError`
            (float64 on MPS) or an `ArithmeticError` (unusable numbers) leads to the next candidate.
        if_out_of_memory: whether a lack of device memory does so, too; otherwise the error is raised.

    Raises:
        RuntimeError, TypeError, ArithmeticError: the error of the last candidate.
    """
    import torch

    for candidate, following in pairwise(candidates):
        try:
            return attempt(candidate)
        except (RuntimeError, TypeError, ArithmeticError) as error:
            if isinstance(error, torch.OutOfMemoryError) and not if_out_of_memory:
                raise
            logger.warning("%s falls back to %s: %s", model, following, first_sentence(error))
    return attempt(candidates[-1])


def run_on_device(
    transfer: HostToDevice | None, array: NDArray[np.uint8], work: Callable[[torch.Tensor], torch.Tensor]
) -> torch.Tensor | None:
    """Run `work` on the device; None without a device, or if the device cannot (out of memory, missing operator)."""
    if transfer is None:
        return None
    try:
        return transfer(array, work)
    except RuntimeError as error:
        logger.debug("A photo is preprocessed on the CPU, as the device cannot: %s", error)
        return None


def first_sentence(error: Exception) -> str:
    """First sentence of an error message, in one line, or the error's type.

    torch's second sentence may advise the user to unpickle a file without protection.
    """
    return " ".join(str(error).split()).split(". ")[0][:500] or type(error).__name__
