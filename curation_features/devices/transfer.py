"""Host-to-device transfer: photos are copied as bytes and resized on the GPU, while models run on other photos.

Used for CUDA only. MPS shares the CPU's memory, so a copy gains nothing, and torch 2.14 is not thread-safe on MPS.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray

    ModelInput: TypeAlias = NDArray[np.float32] | torch.Tensor
    """Output of a model's `preprocess`, or a batch of these: an array, or a tensor on the model's device."""


class HostToDevice:
    """Copies arrays to a device and processes them there. Thread-safe.

    On CUDA the copy uses page-locked memory and one stream per calling thread, so that transfers and models do not
    wait for each other.

    Args:
        device: `cuda`; any other device is used without a stream.
    """

    def __init__(self, device: str) -> None:
        self.device = device
        self._streams = threading.local()

    def __call__(self, array: NDArray[np.uint8], work: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
        """Return `work(tensor)` for the array on the device; the result is complete on return."""
        import torch

        # A copy: torch warns about arrays that cannot be written to.
        tensor = torch.from_numpy(np.array(array))
        with torch.inference_mode():
            if self.device != "cuda":
                return work(tensor.to(self.device))
            if not hasattr(self._streams, "own"):
                self._streams.own = torch.cuda.Stream()  # type: ignore[no-untyped-call]
            stream: torch.cuda.Stream = self._streams.own
            with torch.cuda.stream(stream):
                result = work(tensor.pin_memory().to(self.device, non_blocking=True))
            # Now any stream may read the result, and this stream may reuse the memory of its inputs.
            stream.synchronize()
            return result


def stacked(inputs: Sequence[ModelInput]) -> ModelInput:
    """Stack model inputs into one batch: on the device if all are there, otherwise on the host."""
    arrays = [value for value in inputs if isinstance(value, np.ndarray)]
    if len(arrays) == len(inputs):
        return np.stack(arrays)
    import torch  # only now: models without torch need not wait for its import

    if not all(isinstance(value, torch.Tensor) for value in inputs):
        return np.stack([value.cpu().numpy() if isinstance(value, torch.Tensor) else value for value in inputs])
    tensors = [value for value in inputs if isinstance(value, torch.Tensor)]
    for tensor in tensors:
        if tensor.is_cuda:  # the memory must not be reused before this stream has read it
            tensor.record_stream(torch.cuda.current_stream())
    with torch.inference_mode():
        return torch.stack(tensors)
