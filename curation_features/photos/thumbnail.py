"""One thumbnail of a photo: upright sRGB pixels only, without EXIF, position or colour profile."""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from curation_features.photos.jpeg_segments import find_frame
from curation_features.photos.reader import PhotoFile

if TYPE_CHECKING:
    from curation_features.photos.decode import Photo
    from curation_features.photos.limits import DecodeLimits

MIME = "image/jpeg"
"""As in `data:{MIME};base64,`."""

_QUALITIES = (80, 70, 60, 50, 41, 33, 27, 22, 18, 14, 11, 8, 5, 1)
_STEP = math.log(0.87)  # of the size of a photo from one quality to the next
_START, _END = b"\xff\xd8\xff", b"\xff\xd9"

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ThumbnailKind:
    """Size of thumbnails, which are JPEGs with 4:2:0 subsampling.

    Attributes:
        side: long side, px; a smaller photo is not enlarged.
        max_bytes: maximum size of the file.
        is_exact: made of all pixels of the photo. If not, the decoder may give a smaller image, which is faster for
            large photos.
    """

    side: int
    max_bytes: int
    is_exact: bool


ICON = ThumbnailKind(72, 2000, is_exact=False)
"""For tables and text pages."""

PREVIEW = ThumbnailKind(256, 7300, is_exact=True)
"""To assess a photo. 2,000 of maximum size in base64 take less than 20 MB."""


def make_thumbnail(file: PhotoFile, kind: ThumbnailKind, limits: DecodeLimits) -> bytes | None:
    """Return the thumbnail of a photo: upright sRGB, never enlarged.

    Returns:
        None if the photo cannot be decoded (see `photos.decode`), or the thumbnail exceeds `kind.max_bytes`.
    """
    from curation_features.photos.decode import decode  # not at the top: a thumbnail of the cache needs no decoder

    try:
        photo = decode(file, limits) if kind.is_exact else decode(file, limits, side=2 * kind.side, scaled=True)
        return encode_thumbnail(photo, kind)
    except Exception as error:
        log.debug("No thumbnail: %s", error)
        return None


def encode_thumbnail(photo: Photo, kind: ThumbnailKind) -> bytes | None:
    """Return the thumbnail of a decoded photo; the bytes are those of `make_thumbnail` if `kind.is_exact`.

    The quality is 80 if that is small enough; otherwise lower qualities are tried. The size at one quality tells how
    many of them need no try.

    Returns:
        None if the thumbnail exceeds `kind.max_bytes` at each quality.
    """
    import simplejpeg

    from curation_features.photos.reduction import reduce_by_halves, reduced_size

    small = reduce_by_halves(photo.rgb, reduced_size(photo.info.width, photo.info.height, kind.side))
    at = 0
    while at < len(_QUALITIES):
        data: bytes = simplejpeg.encode_jpeg(small, _QUALITIES[at], colorspace="RGB", colorsubsampling="420")
        if len(data) <= kind.max_bytes:
            return data
        at += max(1, round(math.log(kind.max_bytes / len(data)) / _STEP))
    return None


def thumbnail_size(data: bytes, kind: ThumbnailKind) -> tuple[int, int] | None:
    """Return the width and height of a thumbnail. None if the data is cut, or no thumbnail of this kind."""
    if len(data) > kind.max_bytes or not (data.startswith(_START) and data.endswith(_END)):
        return None
    frame = find_frame(data)
    return (frame.width, frame.height) if frame and 0 < max(frame.width, frame.height) <= kind.side else None
