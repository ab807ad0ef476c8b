"""open_clip's preprocessing on a GPU, where a photo lies as a tensor."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

_FOR_TENSORS = ("Resize", "CenterCrop", "MaybeConvertMode", "MaybeToTensor", "Normalize")
"""The steps that are known to do here what they do to Pillow's images."""


def on_tensor(transform: Any) -> Callable[[torch.Tensor], torch.Tensor] | None:
    """open_clip's preprocessing for an image (3, H, W) of uint8 that lies on a device as a tensor already.

    The same as Pillow's to a level, seldom two: it is rounded to 8 bits after each axis, as there.

    Args:
        transform: `ClipModel.transform`.

    Returns:
        None where a step takes nothing but Pillow's images, as those that fit the long side do.
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
                pixels = _resized(pixels, step) if name == "Resize" else step(pixels)
        return pixels

    return apply


def _resized(pixels: torch.Tensor, step: Any) -> torch.Tensor:
    """(3, h, w) of uint8, as torchvision's `Resize` makes it of a Pillow image: first the rows, then the columns."""
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
