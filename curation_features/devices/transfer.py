"""Photos on their way to a GPU: sent as bytes, and reduced there, while the models work on other photos.

For CUDA alone: on MPS, which shares the CPU's memory, there is nothing to send, and torch 2.14 does not survive two
threads there.
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
    """What a model's `preprocess` makes of a photo, and a stack of such: an array, or a tensor on its device."""


class HostToDevice:
    """Sends arrays to a device and works on them there. Safe to call from several threads.

    On CUDA the bytes go through page-locked memory on a stream of the calling thread's own, so that they neither wait
    for the models nor keep them waiting.

    Args:
        device: `cuda`; any other device is used without a stream.
    """

    def __init__(self, device: str) -> None:
        self.device = device
        self._streams = threading.local()

    def __call__(self, array: NDArray[np.uint8], work: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
        """What `work` makes of the array's tensor on the device; it is complete on return."""
        import torch

        # A copy: torch warns about arrays that cannot be written to.
        tensor = torch.from_numpy(np.array(array))
        with torch.inference_mode():
            if self.device != "cuda":
                return work(tensor.to(self.device))
            stream = self._stream()
            with torch.cuda.stream(stream):
                result = work(tensor.pin_memory().to(self.device, non_blocking=True))
            # From here on any stream may read the result, and this one may use the memory of what it was made from.
            stream.synchronize()
            return result

    def _stream(self) -> torch.cuda.Stream:
        import torch

        if not hasattr(self._streams, "own"):
            self._streams.own = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        stream: torch.cuda.Stream = self._streams.own
        return stream


def stacked(inputs: Sequence[ModelInput]) -> ModelInput:
    """Inputs of one model as one batch, where they lie."""
    import torch

    if not all(isinstance(value, torch.Tensor) for value in inputs):
        return np.stack([value.cpu().numpy() if isinstance(value, torch.Tensor) else value for value in inputs])
    tensors = [value for value in inputs if isinstance(value, torch.Tensor)]
    for tensor in tensors:
        if tensor.is_cuda:  # its memory must not be used anew before this stream has read it
            tensor.record_stream(torch.cuda.current_stream())
    with torch.inference_mode():
        return torch.stack(tensors)
