"""Thumbnails of photos, small enough to embed in a page as base64.

A thumbnail has pixels only: no EXIF, no position, no colour profile. A photo without a thumbnail is not an error.

    data/cache/thumbnails/{sha256 of the photo's file}-{side}.{format}    may be deleted at any time
"""

from __future__ import annotations

import logging
from contextlib import suppress
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

from PIL import Image
from PIL.JpegImagePlugin import JpegImageFile

from curation_features.atomic_files import open_regular, write_bytes
from curation_features.photos.colour import to_srgb
from curation_features.photos.decode import decode, upright
from curation_features.photos.limits import check_before_pixels, open_image
from curation_features.photos.pillow import quiet_pillow, to_stored
from curation_features.photos.reader import PhotoFile, PhotoReader, is_remote
from curation_features.schema import PhotoRecord
from curation_features.settings import Settings


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

_OPTIONS: dict[str, dict[str, Any]] = {"JPEG": {"optimize": True}, "WEBP": {"method": 2}}

log = logging.getLogger(__name__)


class Thumbnails:
    """Creates and caches thumbnails of records; safe for use by several threads.

    A photo is opened once; its thumbnail is cached by the digest of its file. `PhotoReader` reads the files, from the
    allowed roots only; remote photos are not fetched.

    Args:
        kind: size and format.
    """

    def __init__(self, settings: Settings, kind: ThumbnailKind = ICON) -> None:
        self._reader = PhotoReader(settings)
        self._max_pixels = settings.max_pixels
        self._kind = kind
        self._folder = settings.data_path / "cache" / "thumbnails"

    def __call__(self, record: PhotoRecord) -> bytes | None:
        """Return the thumbnail of a record's photo. None if not cached and the photo is unreadable."""
        if record.info is None:
            return None
        path = self._folder / f"{record.info.sha256}-{self._kind.side}.{self._kind.format.lower()}"
        try:
            return _read_cached(path, self._kind) or self._create(record.image_uri, record.info.sha256, path)
        except Exception as error:
            log.debug("No thumbnail: %s", error)
            return None

    def _create(self, uri: str, sha256: str, path: Path) -> bytes | None:
        """Create and cache a thumbnail. None if the photo is remote or has another digest."""
        if is_remote(uri):
            return None
        file = self._reader.read(uri)
        if file.sha256 != sha256:
            return None
        data = thumbnail(file, self._kind, max_pixels=self._max_pixels)
        if data is not None:
            with suppress(OSError):  # the next run opens the photo again
                write_bytes(path, data, durable=False)
        return data


def _read_cached(path: Path, kind: ThumbnailKind) -> bytes | None:
    """Return the thumbnail in a file. None if it is missing, damaged or of another kind."""
    try:
        with open_regular(path) as file:
            data = file.read(kind.max_bytes + 1)
        if len(data) > kind.max_bytes:
            return None
        with quiet_pillow(), open_image(data, formats=(kind.format,)) as image:
            if max(image.size) > kind.side:
                return None
            check_before_pixels(image, data, kind.side * kind.side)
            image.load()
    except Exception:  # hostile bytes can raise any exception
        return None
    return data


def thumbnail(file: PhotoFile, kind: ThumbnailKind = ICON, *, max_pixels: int) -> bytes | None:
    """Return the thumbnail of a photo: upright RGB, never enlarged.

    Args:
        max_pixels: maximum width times height of the photo.

    Returns:
        None if the photo cannot be decoded (see `photos.decode`), or the thumbnail exceeds `kind.max_bytes`.
    """
    try:
        small = _decode_reduced(file, kind.side, max_pixels)
        small.thumbnail((kind.side, kind.side))
    except Exception as error:
        log.debug("No thumbnail: %s", error)
        return None
    encoded = (_encode(small, kind.format, quality) for quality in kind.qualities)
    return next((data for data in encoded if len(data) <= kind.max_bytes), None)


def _decode_reduced(file: PhotoFile, side: int, max_pixels: int) -> Image.Image:
    """Decode a photo, a JPEG at 1/8 to 1/2 of its size, at least twice `side`."""
    with quiet_pillow():
        image = open_image(file.data)
        if isinstance(image, JpegImageFile):
            check_before_pixels(image, file.data, max_pixels)
            scale = 2 * side / max(image.size)
            image.draft("RGB", (int(image.width * scale) or 1, int(image.height * scale) or 1))
            stored = to_stored(image)
            return Image.fromarray(upright(to_srgb(stored.pixels, stored.profile)[0], stored.orientation))
    return Image.fromarray(decode(file, max_pixels=max_pixels).rgb)


def _encode(image: Image.Image, format: str, quality: int) -> bytes:
    buffer = BytesIO()
    image.save(buffer, format, quality=quality, **_OPTIONS[format])
    return buffer.getvalue()
