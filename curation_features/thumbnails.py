"""Thumbnails: a photo as a JPEG of at most two thousand bytes, small enough to stand inside a text.

A thumbnail holds pixels only: no EXIF, no position, no colour profile. It is never worth an error.
"""

from __future__ import annotations

import hashlib
import logging
from io import BytesIO

from PIL import ExifTags, Image
from PIL.JpegImagePlugin import JpegImageFile

from curation_features.photos import FORMATS, PhotoFile, PhotoReader, decode, orientation, quiet_pillow
from curation_features.schema import PhotoRecord
from curation_features.settings import Settings

SIDE = 72
"""Long side of a thumbnail, px."""

MAX_BYTES = 2000
_QUALITIES = (80, 60, 40, 25, 10, 1)  # JPEG qualities; the first that fits is taken

log = logging.getLogger(__name__)


class Thumbnails:
    """Thumbnails of the photos that records tell of. Safe to use from several threads.

    Files are read as `PhotoReader` reads them: from the allowed roots only.

    Args:
        side: long side, px.
    """

    def __init__(self, settings: Settings, side: int = SIDE) -> None:
        self._reader = PhotoReader(settings)
        self._max_pixels = settings.max_pixels
        self._side = side

    def __call__(self, record: PhotoRecord) -> bytes | None:
        """The thumbnail of a record's photo; None if it cannot be read, or is not the photo that was measured."""
        if record.info is None:
            return None
        try:
            file = self._reader.read(record.image_uri)
            if file.sha256 != record.info.sha256:
                return None
            return thumbnail(file, side=self._side, max_pixels=self._max_pixels)
        except Exception as error:
            log.debug("No thumbnail: %s", error)
            return None


def thumbnail(file: PhotoFile, *, side: int = SIDE, max_pixels: int) -> bytes | None:
    """A photo as a JPEG: upright, RGB, transparency on white, never enlarged.

    Args:
        side: long side, px.
        max_pixels: width times height above which there is none.

    Returns:
        At most `MAX_BYTES` bytes; None if the photo cannot be decoded (see `photos.decode`), or does not fit.
    """
    try:
        small = Image.fromarray(decode(_reduced(file, side, max_pixels), max_pixels=max_pixels).rgb)
        small.thumbnail((side, side))
    except Exception as error:
        log.debug("No thumbnail: %s", error)
        return None
    return next((data for quality in _QUALITIES if len(data := _jpeg(small, quality)) <= MAX_BYTES), None)


def _reduced(file: PhotoFile, side: int, max_pixels: int) -> PhotoFile:
    """A JPEG with an eighth, a quarter or a half of its sides, which its decoder gives for little; others as they are.

    The result is a TIFF of at least twice the thumbnail's sides, so that `decode` treats colours and orientation as
    those of any photo.
    """
    with quiet_pillow():
        image = Image.open(BytesIO(file.data), formats=FORMATS)
        if not isinstance(image, JpegImageFile) or image.width * image.height > max_pixels:
            return file
        image.draft("RGB", (2 * side, 2 * side))
        image.load()
        buffer, exif = BytesIO(), Image.Exif()
        exif[ExifTags.Base.Orientation] = orientation(image)
        image.save(buffer, "TIFF", exif=exif)
    data = buffer.getvalue()
    return PhotoFile(data, hashlib.sha256(data).hexdigest())


def _jpeg(image: Image.Image, quality: int) -> bytes:
    buffer = BytesIO()
    image.save(buffer, "JPEG", quality=quality, optimize=True)
    return buffer.getvalue()
