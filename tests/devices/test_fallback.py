"""Fallback between devices, and from preprocessing on a device to the CPU."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from curation_features.devices.fallback import first_sentence, first_that_runs, run_on_device
from curation_features.devices.transfer import HostToDevice


def failing(**errors: Exception) -> Callable[[str], str]:
    def attempt(name: str) -> str:
        if name in errors:
            raise errors[name]
        return name

    return attempt


def test_the_first_device_that_runs_is_used(caplog) -> None:
    attempt = failing(mps=RuntimeError("No operator\n'x'. Unpickle it"), cuda=ArithmeticError("NaN"))
    assert first_that_runs("CLIP", ("mps", "cuda", "cpu"), attempt) == "cpu"
    assert caplog.messages == ["CLIP falls back to cuda: No operator 'x'", "CLIP falls back to cpu: NaN"]
    assert first_that_runs("CLIP", ("cpu", "mps"), attempt) == "cpu"


def test_the_error_of_the_last_device_is_raised() -> None:
    with pytest.raises(ArithmeticError, match="NaN"):
        first_that_runs("CLIP", ("mps", "cpu"), failing(mps=RuntimeError(), cpu=ArithmeticError("NaN")))


def test_out_of_memory_is_raised_by_default() -> None:
    attempt = failing(cuda=torch.OutOfMemoryError())
    with pytest.raises(torch.OutOfMemoryError):
        first_that_runs("CLIP", ("cuda", "cpu"), attempt)
    assert first_that_runs("BRISQUE", ("cuda", "cpu"), attempt, if_out_of_memory=True) == "cpu"


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("CUDA out of memory"), RuntimeError("parameters too large")])
def test_a_photo_the_device_cannot_process_is_left_to_the_cpu(error) -> None:
    """CUDA's resize operator needs more shared memory than there is if the scale is very small."""

    def work(_: torch.Tensor) -> torch.Tensor:
        raise error

    assert run_on_device(HostToDevice("cpu"), np.zeros((2, 2, 3), np.uint8), work) is None
    assert run_on_device(None, np.zeros((2, 2, 3), np.uint8), work) is None


def test_an_error_without_a_message_has_its_type() -> None:
    assert first_sentence(KeyError()) == "KeyError"
