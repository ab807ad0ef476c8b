"""JPEG: decoding with the warnings of libjpeg-turbo, which Pillow hides.

A JPEG has no checksum. If bits of its entropy-coded data are flipped, the decoder often meets an invalid code and
warns; the photo is damaged although it has pixels. A flip that gives a valid code goes unnoticed.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import simplejpeg

from curation_features.errors import PhotoError
from curation_features.photos.jpeg_segments import START_OF_SCAN, segments
from curation_features.photos.pillow import open_checked, read_orientation, to_stored
from curation_features.photos.stored import DecodeLimits, StoredImage

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_MAX_PADDING = 16  # bytes an encoder may pad before the end of the image; any number of zeros is padding, too
_LOST_PIXELS = re.compile(
    r"premature end of data segment|bad Huffman code|bad arithmetic code|instead of RST|"
    r"(?P<extra>\d+) extraneous bytes before marker 0x(?P<marker>..)"
)
_METADATA = frozenset({*range(0xE1, 0xEE), 0xEF, 0xFE})
_NEEDED = frozenset({*range(0xC0, 0xD0), 0xDB, 0xDD, 0xE0, 0xEE})  # frame, tables, restarts, colour space


def read_jpeg(data: bytes, limits: DecodeLimits) -> StoredImage:
    """Decode a JPEG; Pillow decodes what libjpeg-turbo's RGB output does not cover, such as CMYK."""
    image = open_checked(data, limits)
    pixels = jpeg_pixels(data) if image.mode in ("L", "RGB") else None
    if pixels is None:
        return to_stored(image)
    return StoredImage(pixels, image.size, read_orientation(image), image.info.get("icc_profile") or None)


def jpeg_pixels(data: bytes) -> NDArray[np.uint8] | None:
    """Decode a gray or colour JPEG to RGB, bit-identical to Pillow.

    The frame type must be supported (see `FRAMES_NOT_READ`); this function does not check it.

    Returns:
        (height, width, 3), without the EXIF orientation. None if the decoder refuses the file or warns of harmless
        data: Pillow supports more kinds, and explains why it cannot read one.

    Raises:
        PhotoError: `unreadable`: pixels were lost.
    """
    try:
        pixels: NDArray[np.uint8] = simplejpeg.decode_jpeg(_strip_metadata(data), "RGB")
    except ValueError as error:
        warning = str(error)
        if _has_lost_pixels(warning, data):
            raise PhotoError("unreadable", f"the image is damaged ({warning}); copy it again") from None
        return None
    return pixels


def _has_lost_pixels(warning: str, data: bytes) -> bool:
    match = _LOST_PIXELS.search(warning)
    if match is None or match["marker"] != "d9":
        return match is not None
    extra = int(match["extra"])
    return extra > _MAX_PADDING and bytes(extra) + b"\xff\xd9" not in data


def _strip_metadata(data: bytes) -> bytes:
    """Remove metadata and junk, since the decoder reports only its first warning.

    A file with an unusual marker is returned unchanged.
    """
    parts = [data[:2]]
    for kind, start, end in segments(data, 2):
        if kind == START_OF_SCAN:
            return b"".join([*parts, data[start:]])
        if kind in _NEEDED:
            parts.append(data[start:end])
        elif kind not in _METADATA:
            break
    return data
