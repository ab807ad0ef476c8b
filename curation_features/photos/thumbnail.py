"""One thumbnail of a photo: upright sRGB pixels only, without EXIF, position or colour profile."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from io import BytesIO
from typing import TYPE_CHECKING, Any

from curation_features.photos.reader import PhotoFile

if TYPE_CHECKING:
    from PIL import Image

    from curation_features.photos.limits import DecodeLimits


@dataclass(frozen=True, slots=True)
class ThumbnailKind:
    """Size and format of thumbnails.

    Attributes:
        side: long side, px; a smaller photo is not enlarged.
        max_bytes: maximum size of the file.
        format: JPEG or WEBP.
        qualities: encoder qualities, 0 to 100, in descending order; the first within `max_bytes` is used.
    """

    side: int
    max_bytes: int
    format: str
    qualities: tuple[int, ...]

    @property
    def mime(self) -> str:
        """Return the MIME type, as in `data:{mime};base64,`."""
        return f"image/{self.format.lower()}"


ICON = ThumbnailKind(72, 2000, "JPEG", (80, 60, 40, 25, 10, 1))
"""For tables and text pages."""

PREVIEW = ThumbnailKind(256, 6500, "WEBP", (65, 50, 40, 30, 20, 10, 0))
"""To assess a photo. WebP, since a JPEG of equal quality is 1.5 times as large; 2,000 of maximum size in base64 take
less than 20 MB."""

_OPTIONS: Mapping[str, Mapping[str, Any]] = {"JPEG": {"optimize": True}, "WEBP": {"method": 2}}

log = logging.getLogger(__name__)


def make_thumbnail(file: PhotoFile, kind: ThumbnailKind, limits: DecodeLimits) -> bytes | None:
    """Return the thumbnail of a photo: upright sRGB, never enlarged.

    Returns:
        None if the photo cannot be decoded (see `photos.decode`), or the thumbnail exceeds `kind.max_bytes`.
    """
    from PIL import Image  # not at the top: to show a thumbnail of the cache needs no decoder

    from curation_features.photos.decode import decode
    from curation_features.photos.reduction import reduced_size

    try:
        photo = decode(file, limits, side=2 * kind.side, scaled=True)
        size = reduced_size(photo.info.width, photo.info.height, kind.side)
        small = Image.fromarray(photo.rgb).resize(size, Image.Resampling.BICUBIC)
    except Exception as error:
        log.debug("No thumbnail: %s", error)
        return None
    encoded = (_encode(small, kind.format, quality) for quality in kind.qualities)
    return next((data for data in encoded if len(data) <= kind.max_bytes), None)


def _encode(image: Image.Image, format: str, quality: int) -> bytes:
    buffer = BytesIO()
    image.save(buffer, format, quality=quality, **_OPTIONS[format])
    return buffer.getvalue()
