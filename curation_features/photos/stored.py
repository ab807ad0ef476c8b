"""`StoredImage`: the pixels of a photo file as its decoder gives them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class StoredImage:
    """Pixels as stored in a file: neither turned upright nor converted to sRGB.

    Attributes:
        pixels: uint8, C-contiguous, (height, width, 3): RGB, with transparency on white; or (height, width, 4): CMYK,
            255 is full ink.
        size: width and height of the stored image, px. `pixels` may be smaller if the decoder reduced them.
        orientation: EXIF orientation of `pixels`, 1 to 8.
        profile: ICC profile of `pixels`; None: sRGB.
        source: what was decoded: `image`; or, of a camera raw file, its `preview` or a `demosaic`.
        notes: facts about the file that a user should know, such as `motion_photo`; identifiers, not sentences.
    """

    pixels: NDArray[np.uint8]
    size: tuple[int, int]
    orientation: int = 1
    profile: bytes | None = None
    source: str = "image"
    notes: tuple[str, ...] = ()
