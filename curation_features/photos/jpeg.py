"""Pixels of a JPEG together with what libjpeg-turbo says of them: Pillow uses the same decoder and hides its warnings.

A JPEG has no checksum. Where bits within its pixels were flipped, the decoder often loses its step and notices; then
the photo is damaged, though there are pixels. A flip that leaves the code well formed is seen by nobody.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import simplejpeg

from curation_features.errors import PhotoError
from curation_features.photos.jpeg_markers import START_OF_SCAN, segments

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_ALIGNMENT = 16  # bytes that an encoder may leave before the end of the image, whatever is in them; zeros at will
_LOST_PIXELS = re.compile(
    r"premature end of data segment|bad Huffman code|bad arithmetic code|instead of RST|"
    r"(?P<left>\d+) extraneous bytes before marker 0x(?P<marker>..)"
)
_METADATA = frozenset({*range(0xE1, 0xEE), 0xEF, 0xFE})
_NEEDED = frozenset({*range(0xC0, 0xD0), 0xDB, 0xDD, 0xE0, 0xEE})  # frame, tables, restarts, and what tells colours


def jpeg_pixels(data: bytes) -> NDArray[np.uint8] | None:
    """Pixels of a gray or colour JPEG, (height, width, 3), as it stores them: those of Pillow, bit for bit.

    The frame must be of a type that is read (see `jpeg_markers`), which this does not check.

    Returns:
        None where this decoder refuses it or complains of what costs no pixels: Pillow knows more kinds, and says why
        it cannot read one.

    Raises:
        PhotoError: `unreadable`: pixels were lost.
    """
    try:
        pixels: NDArray[np.uint8] = simplejpeg.decode_jpeg(_without_metadata(data), "RGB")
    except ValueError as error:
        complaint = str(error)
        if _tells_of_damage(complaint, data):
            raise PhotoError("unreadable", f"the image is damaged ({complaint}); copy it again") from None
        return None
    return pixels


def _tells_of_damage(complaint: str, data: bytes) -> bool:
    found = _LOST_PIXELS.search(complaint)
    if found is None or found["marker"] != "d9":
        return found is not None
    left = int(found["left"])
    return left > _ALIGNMENT and bytes(left) + b"\xff\xd9" not in data


def _without_metadata(data: bytes) -> bytes:
    """The JPEG without metadata and junk before its pixels: the decoder tells its first complaint only.

    All of the file where a marker is there that no usual photo has.
    """
    kept = [data[:2]]
    for kind, start, end in segments(data, 2):
        if kind == START_OF_SCAN:
            return b"".join([*kept, data[start:]])
        if kind in _NEEDED:
            kept.append(data[start:end])
        elif kind not in _METADATA:
            break
    return data
