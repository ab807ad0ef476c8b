"""Photos on their way to a device; CUDA's part with stand-ins that note what is asked of them."""

from __future__ import annotations

import contextlib

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
    told: list[object] = []

    class Stream:
        def synchronize(self) -> None:
            told.append("complete")

    @contextlib.contextmanager
    def on(stream: Stream):
        told.append(stream)
        yield
        told.append("left")

    def to(tensor: torch.Tensor, device: str, non_blocking: bool = False) -> torch.Tensor:
        told.append((device, non_blocking))
        return tensor

    monkeypatch.setattr(torch.cuda, "Stream", Stream)
    monkeypatch.setattr(torch.cuda, "stream", on)
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor: told.append("pinned") or tensor)
    monkeypatch.setattr(torch.Tensor, "to", to)
    uploads = HostToDevice("cuda")
    uploads(np.zeros(3, np.uint8), lambda tensor: told.append("work") or tensor)
    assert told[1:] == ["pinned", ("cuda", True), "work", "left", "complete"]
    uploads(np.zeros(3, np.uint8), lambda tensor: tensor)
    assert told[6] is told[0]  # one stream a thread


def test_a_stack_is_on_the_device_of_its_parts() -> None:
    arrays = [np.full((3, 2, 2), n, np.float32) for n in range(4)]
    assert isinstance(stacked(arrays), np.ndarray)
    together = stacked([torch.from_numpy(array) for array in arrays])
    assert isinstance(together, torch.Tensor)
    assert np.array_equal(together.numpy(), np.stack(arrays))


def test_arrays_and_tensors_can_be_stacked() -> None:
    mixed = stacked([np.zeros((3, 2, 2), np.float32), torch.ones(3, 2, 2)])
    assert np.array_equal(np.asarray(mixed)[:, 0, 0, 0], [0, 1])
