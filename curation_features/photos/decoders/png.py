"""PNG, with 16-bit colours rounded: Pillow keeps their upper eight bits only."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from curation_features.errors import PhotoError
from curation_features.photos.decoders.pillow import open_checked, to_stored
from curation_features.photos.limits import DecodeLimits, open_image
from curation_features.photos.stored import StoredImage

if TYPE_CHECKING:
    from numpy.typing import NDArray

_DEPTH, _COLOUR_TYPE = 24, 25  # positions in the file, in its first chunk
_COLOUR_OR_ALPHA = (2, 4, 6)  # colour types whose 16 bits Pillow truncates


def read_png(data: bytes, limits: DecodeLimits) -> StoredImage:
    """Decode the first frame of a PNG, and verify its checksums."""
    open_checked(data, limits).verify()  # `load()` does not check them; a verified image cannot be loaded
    image = open_image(data, formats=("PNG",), seconds=limits.max_seconds)
    stored = to_stored(image)
    if data[_DEPTH] != 16 or data[_COLOUR_TYPE] not in _COLOUR_OR_ALPHA or getattr(image, "is_animated", False):
        return stored
    return replace(stored, pixels=_read_sixteen_bits(data, image.info.get("transparency")))


def _read_sixteen_bits(data: bytes, transparent: Any) -> NDArray[np.uint8]:
    """Decode 16-bit colours, scaled by 1/257, with transparency on white.

    Args:
        transparent: the colour that is transparent, three numbers; None if there is none.
    """
    import cv2

    values: Any = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if values is None or values.dtype != np.uint16 or values.ndim != 3:
        raise PhotoError("unreadable", "the 16-bit PNG cannot be decoded; export it as 8 bits")
    table = np.rint(np.arange(65536) / 257).astype(np.uint8)
    rgb = np.ascontiguousarray(table[values[..., 2::-1]])
    if data[_COLOUR_TYPE] == 2:
        if isinstance(transparent, tuple):
            rgb[(values[..., 2::-1] == transparent).all(axis=2)] = 255
        return rgb
    canvas = Image.new("RGB", (rgb.shape[1], rgb.shape[0]), "white")
    canvas.paste(Image.fromarray(rgb), mask=Image.fromarray(table[values[..., 3]]))
    return np.array(canvas)
