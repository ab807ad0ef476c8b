"""JPEG: decoding with the warnings of libjpeg-turbo, which Pillow hides.

`jpeg_damage` judges the warnings, `jpeg_metadata` reads profile and notes. Stills of multi-picture files, photos with
a gain map and motion photos are the first picture of their file.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import simplejpeg
from PIL import Image

from curation_features.photos.decoders.jpeg.damage import decode_in_doubt
from curation_features.photos.decoders.jpeg.metadata import read_notes, read_profile
from curation_features.photos.decoders.pillow import open_checked, read_orientation, to_stored
from curation_features.photos.jpeg_segments import HUFFMAN_FRAMES, START_OF_SCAN, find_frame, segments
from curation_features.photos.limits import MAX_SECONDS, DecodeLimits, TimedBytes
from curation_features.photos.stored import StoredImage

if TYPE_CHECKING:
    from numpy.typing import NDArray

_REDUCTIONS = (8, 4, 2)  # of libjpeg's DCT that are exact and fast
_COLOURS = {"L": "RGB", "RGB": "RGB", "CMYK": "CMYK"}  # Pillow's mode -> simplejpeg's colour space
_METADATA = frozenset({*range(0xE1, 0xEE), 0xEF, 0xFE})
_NEEDED = frozenset({*range(0xC0, 0xD0), 0xDB, 0xDD, 0xE0, 0xEE})  # frame, tables, restarts, colour space


def read_jpeg(data: bytes, limits: DecodeLimits, *, min_side: int = 0) -> StoredImage:
    """Decode a JPEG; Pillow decodes what libjpeg-turbo's API does not cover.

    Args:
        min_side: 0: full size. Otherwise the decoder reduces by 2, 4 or 8 (in its DCT) as long as the long side of the
            result is at least `min_side` px. An arithmetic-coded JPEG is never reduced. Of a photo of 200 megapixels
            at 1/8 the decoder needs 40 MB if it is baseline; 600 MB if it is progressive, whose coefficients it
            keeps (2 bytes each).

    Returns:
        `size` is the full size. CMYK pixels have 255 at full ink: JPEGs store them inverted, as Adobe's programs do,
        and browsers and Pillow read them so with or without Adobe's marker.

    Raises:
        PhotoError: see `photos.decode.decode`.
    """
    image = open_checked(data, limits)
    decoder = _Decoder(_COLOURS[image.mode], _find_reduction(data, image.size, min_side))
    pixels = _decode(data, decoder, limits.max_seconds)
    profile, is_broken = read_profile(data)
    notes = (*read_notes(data), *(["profile_ignored"] if is_broken else []))
    orientation = read_orientation(image)
    if pixels is None:
        pixels = _decode_with_pillow(image)
    return StoredImage(pixels, image.size, orientation, profile, notes=notes)


def jpeg_pixels(data: bytes, max_seconds: float = MAX_SECONDS) -> NDArray[np.uint8] | None:
    """Decode a gray or colour JPEG to RGB, bit-identical to Pillow.

    The header must have been checked (see `limits.open_image`).

    Returns:
        (height, width, 3), without the EXIF orientation. None if the decoder refuses the file or warns of something
        but pixels: Pillow supports more kinds, and explains why it cannot read one.

    Raises:
        PhotoError: `unreadable` or `truncated`: pixels are missing; `too_slow`.
    """
    return _decode(data, _Decoder("RGB"), max_seconds)


@dataclass(frozen=True, slots=True)
class _Decoder:
    """Decoder of `jpeg_damage`: colour space and reduction of its result."""

    colours: str
    reduction: int = 1

    def __call__(self, data: bytes, *, strict: bool = True) -> NDArray[np.uint8]:
        frame = find_frame(data) if self.reduction > 1 else None
        least: dict[str, int] = {}
        if frame:
            least = {"min_height": -(-frame.height // self.reduction), "min_width": -(-frame.width // self.reduction)}
        pixels: NDArray[np.uint8] = simplejpeg.decode_jpeg(data, self.colours, **least, strict=strict)
        return np.invert(pixels, out=pixels) if self.colours == "CMYK" else pixels


def _decode(data: bytes, decoder: _Decoder, max_seconds: float) -> NDArray[np.uint8] | None:
    clock = TimedBytes(b"", max_seconds)
    plain = _strip_metadata(data)
    try:
        return decoder(plain)
    except ValueError as error:
        warning = str(error)
    return decode_in_doubt(plain, warning, decoder, clock.check_time)


def _find_reduction(data: bytes, size: tuple[int, int], min_side: int) -> int:
    frame = find_frame(data) if min_side > 0 else None
    if frame is None or frame.kind not in HUFFMAN_FRAMES:
        return 1
    return next((divisor for divisor in _REDUCTIONS if -(-max(size) // divisor) >= min_side), 1)


def _decode_with_pillow(image: Image.Image) -> NDArray[np.uint8]:
    if image.mode == "CMYK":
        return np.array(image)
    return to_stored(image).pixels


def _strip_metadata(data: bytes) -> bytes:
    """Remove metadata and junk, since the decoder reports only its first warning.

    A file with an unusual marker is returned unchanged.
    """
    parts = [data[:2]]
    for kind, start, end in segments(data, 2):
        if kind == START_OF_SCAN:
            return b"".join([*parts, memoryview(data)[start:]])
        if kind in _NEEDED:
            parts.append(data[start:end])
        elif kind not in _METADATA:
            break
    return data
