"""Thumbnails: a photo as a JPEG of at most two thousand bytes, small enough to stand inside a text.

A thumbnail holds pixels only: no EXIF, no position, no colour profile. It is never worth an error.

    data/cache/thumbnails/{sha256 of the photo's file}.jpg    those that were made; may be deleted at any time
"""

from __future__ import annotations

import hashlib
import logging
from contextlib import suppress
from io import BytesIO
from pathlib import Path

from PIL import ExifTags, Image
from PIL.JpegImagePlugin import JpegImageFile

from curation_features.confinement import check_before_pixels, open_image
from curation_features.files import write_bytes
from curation_features.photos import PhotoFile, PhotoReader, decode, orientation, quiet_pillow
from curation_features.schema import PhotoRecord
from curation_features.settings import Settings

SIDE = 72
"""Long side of a thumbnail, px."""

MAX_BYTES = 2000
_QUALITIES = (80, 60, 40, 25, 10, 1)  # JPEG qualities; the first that fits is taken

log = logging.getLogger(__name__)


class Thumbnails:
    """Thumbnails of the photos that records tell of. Safe to use from several threads.

    Each photo is opened once: its thumbnail is kept, by the digest of its file, and used as long as it is whole. Files
    are read as `PhotoReader` reads them, from the allowed roots only; nothing remote is fetched for a thumbnail.

    Args:
        side: long side, px.
    """

    def __init__(self, settings: Settings, side: int = SIDE) -> None:
        self._reader = PhotoReader(settings)
        self._max_pixels = settings.max_pixels
        self._side = side
        self._folder = settings.data_path / "cache" / "thumbnails"

    def __call__(self, record: PhotoRecord) -> bytes | None:
        """The thumbnail of the photo that a record measured; None if none is kept and that photo cannot be read."""
        if record.info is None:
            return None
        kept = self._path(record.info.sha256)
        try:
            return _kept(kept, self._side) or self._made(record.image_uri, record.info.sha256, kept)
        except Exception as error:
            log.debug("No thumbnail: %s", error)
            return None

    def _path(self, sha256: str) -> Path:
        return self._folder / (f"{sha256}.jpg" if self._side == SIDE else f"{sha256}-{self._side}.jpg")

    def _made(self, uri: str, sha256: str, path: Path) -> bytes | None:
        """Make the thumbnail of the photo at `uri` and keep it; None if it is remote, or not of that digest."""
        if _is_remote(uri):
            return None
        file = self._reader.read(uri)
        if file.sha256 != sha256:
            return None
        data = thumbnail(file, side=self._side, max_pixels=self._max_pixels)
        if data is not None:
            with suppress(OSError):  # it costs the next run the opening of the photo
                write_bytes(path, data, durable=False)
        return data


def _is_remote(uri: str) -> bool:
    scheme, separator, _ = uri.partition("://")
    return bool(separator) and scheme.lower() not in ("file", "local")


def _kept(path: Path, side: int) -> bytes | None:
    """The thumbnail in a file; None if there is none, or what is there is damaged or something else."""
    try:
        if not path.is_file():  # opening a FIFO would wait for ever
            return None
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
        if len(data) > MAX_BYTES:
            return None
        with quiet_pillow(), open_image(data, formats=("JPEG",)) as image:
            if max(image.size) > side:
                return None
            check_before_pixels(image, data, side * side)
            image.load()
    except Exception:  # hostile bytes raise whatever the decoder did not think of
        return None
    return data


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
        image = open_image(file.data)
        if not isinstance(image, JpegImageFile):
            return file
        check_before_pixels(image, file.data, max_pixels)
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
