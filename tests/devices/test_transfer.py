"""Transfer of photos to a device; CUDA is a mock."""

from __future__ import annotations

import sys
from unittest.mock import MagicMock, call

import numpy as np
import pytest
import torch

from curation_features.devices.transfer import HostToDevice, stacked


def test_work_is_done_on_what_was_sent() -> None:
    pixels = np.arange(24, dtype=np.uint8).reshape(2, 4, 3)
    pixels.flags.writeable = False
    found = HostToDevice("cpu")(pixels, lambda tensor: tensor.permute(2, 0, 1).float() / 2)
    assert found.device.type == "cpu"
    assert np.array_equal(found.numpy(), pixels.transpose(2, 0, 1) / 2)


def test_on_cuda_the_result_is_complete_on_return(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda = MagicMock()
    monkeypatch.setattr(torch.cuda, "Stream", cuda.Stream)
    monkeypatch.setattr(torch.cuda, "stream", cuda.stream)
    monkeypatch.setattr(torch.Tensor, "pin_memory", cuda.tensor.pin_memory)
    transfer, pixels = HostToDevice("cuda"), np.zeros(3, np.uint8)
    sent = cuda.tensor.pin_memory.return_value.to.return_value
    for _ in range(2):
        assert transfer(pixels, cuda.work) is cuda.work.return_value
    one_call = [
        call.stream(cuda.Stream.return_value),
        call.stream().__enter__(),
        call.tensor.pin_memory(),
        call.tensor.pin_memory().to("cuda", non_blocking=True),
        call.work(sent),
        call.stream().__exit__(None, None, None),
        call.Stream().synchronize(),
    ]
    assert cuda.mock_calls == [call.Stream(), *one_call, *one_call]  # one stream per thread


def test_a_stack_is_on_the_device_of_its_parts() -> None:
    arrays = [np.full((3, 2, 2), n, np.float32) for n in range(4)]
    tensors = [torch.from_numpy(array) for array in arrays]
    together = stacked(tensors)
    assert isinstance(together, torch.Tensor)
    assert np.array_equal(together.numpy(), np.stack(arrays))
    for mixed in (arrays, [*arrays[:2], *tensors[2:]]):
        on_host = stacked(mixed)
        assert isinstance(on_host, np.ndarray)
        assert np.array_equal(on_host, np.stack(arrays))


def test_arrays_are_stacked_without_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)  # its import fails
    assert np.array_equal(stacked([np.zeros(3), np.ones(3)]), [[0, 0, 0], [1, 1, 1]])
