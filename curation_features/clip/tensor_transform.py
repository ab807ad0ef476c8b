"""open_clip's preprocessing for photos that are tensors on a GPU."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

_FOR_TENSORS = ("Resize", "CenterCrop", "MaybeConvertMode", "MaybeToTensor", "Normalize")
"""Steps that give the same result for tensors and PIL images."""


def on_tensor(transform: Any) -> Callable[[torch.Tensor], torch.Tensor] | None:
    """Adapt open_clip's preprocessing to a uint8 tensor (3, H, W).

    Like in Pillow, resizing rounds to 8 bits after each axis; pixels differ by one level, rarely two.

    Args:
        transform: `ClipModel.transform`.

    Returns:
        None if a step needs a PIL image, such as resizing by the long side.
    """
    steps = list(transform.transforms)
    if not all(type(step).__name__ in _FOR_TENSORS for step in steps):
        return None

    def apply(pixels: torch.Tensor) -> torch.Tensor:
        for step in steps:
            name = type(step).__name__
            if name == "MaybeToTensor":
                pixels = pixels.float() / 255
            else:
                pixels = _resize(pixels, step) if name == "Resize" else step(pixels)
        return pixels

    return apply


def _resize(pixels: torch.Tensor, step: Any) -> torch.Tensor:
    """Resize to uint8 (3, h, w) like torchvision's `Resize` of a PIL image: first the width, then the height."""
    from torch import uint8
    from torch.nn.functional import interpolate

    height, width = pixels.shape[1:]
    if isinstance(step.size, int):
        short = min(height, width)
        size = [int(step.size * side / short) for side in (height, width)]
    else:
        size = list(step.size)
    for shape in ([height, size[1]], size):
        resized = interpolate(pixels[None].float(), shape, mode=step.interpolation.value, antialias=True)
        pixels = resized[0].round_().clamp_(0, 255).to(uint8)
    return pixels
