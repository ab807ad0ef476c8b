"""Thumbnails: a photo in so few bytes that it can stand inside a text.

A thumbnail holds pixels only: no EXIF, no position, no colour profile. It is never worth an error.

    data/cache/thumbnails/{sha256 of the photo's file}-{side}.{format}    those made; may be deleted at any time
"""

from __future__ import annotations

import logging
from contextlib import suppress
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from PIL.JpegImagePlugin import JpegImageFile

from curation_features.atomic_files import write_bytes
from curation_features.photos.limits import check_before_pixels, open_image
from curation_features.photos.reader import PhotoFile, PhotoReader, decode, is_remote, quiet_pillow, upright
from curation_features.schema import PhotoRecord
from curation_features.settings import Settings


@dataclass(frozen=True, slots=True)
class ThumbnailKind:
    """What a thumbnail is to be.

    Attributes:
        side: its long side, px; that of a smaller photo stays as it is.
        max_bytes: there is none that is larger.
        format: JPEG or WEBP.
        qualities: 0 to 100, falling; the first that makes it small enough is taken.
    """

    side: int
    max_bytes: int
    format: str
    qualities: tuple[int, ...]

    @property
    def mime(self) -> str:
        """As in `data:{mime};base64,`."""
        return f"image/{self.format.lower()}"


ICON = ThumbnailKind(72, 2000, "JPEG", (80, 60, 40, 25, 10, 1))
"""For tables and pages of text."""

PREVIEW = ThumbnailKind(256, 6500, "WEBP", (65, 50, 40, 30, 20, 10, 0))
"""To judge a photo by. WebP, as a JPEG that looks as good takes one and a half times as many bytes; a page with two
thousand of the largest in base64 still has less than 20 MB."""

_OPTIONS: dict[str, dict[str, Any]] = {"JPEG": {"optimize": True}, "WEBP": {"method": 2}}

log = logging.getLogger(__name__)


class Thumbnails:
    """Thumbnails of the photos that records tell of. Safe to use from several threads.

    Each photo is opened once: its thumbnail is kept, by the digest of its file, and used as long as it is whole. Files
    are read as `PhotoReader` reads them, from the allowed roots only; nothing remote is fetched for a thumbnail.

    Args:
        kind: what they are to be.
    """

    def __init__(self, settings: Settings, kind: ThumbnailKind = ICON) -> None:
        self._reader = PhotoReader(settings)
        self._max_pixels = settings.max_pixels
        self._kind = kind
        self._folder = settings.data_path / "cache" / "thumbnails"

    def __call__(self, record: PhotoRecord) -> bytes | None:
        """The thumbnail of the photo that a record measured; None if none is kept and that photo cannot be read."""
        if record.info is None:
            return None
        kept = self._folder / f"{record.info.sha256}-{self._kind.side}.{self._kind.format.lower()}"
        try:
            return _kept(kept, self._kind) or self._made(record.image_uri, record.info.sha256, kept)
        except Exception as error:
            log.debug("No thumbnail: %s", error)
            return None

    def _made(self, uri: str, sha256: str, path: Path) -> bytes | None:
        """Make the thumbnail of the photo at `uri` and keep it; None if it is remote, or not of that digest."""
        if is_remote(uri):
            return None
        file = self._reader.read(uri)
        if file.sha256 != sha256:
            return None
        data = thumbnail(file, self._kind, max_pixels=self._max_pixels)
        if data is not None:
            with suppress(OSError):  # it costs the next run the opening of the photo
                write_bytes(path, data, durable=False)
        return data


def _kept(path: Path, kind: ThumbnailKind) -> bytes | None:
    """The thumbnail in a file; None if there is none, or what is there is damaged or something else."""
    try:
        if not path.is_file():  # opening a FIFO would wait for ever
            return None
        with path.open("rb") as file:
            data = file.read(kind.max_bytes + 1)
        if len(data) > kind.max_bytes:
            return None
        with quiet_pillow(), open_image(data, formats=(kind.format,)) as image:
            if max(image.size) > kind.side:
                return None
            check_before_pixels(image, data, kind.side * kind.side)
            image.load()
    except Exception:  # hostile bytes raise whatever the decoder did not think of
        return None
    return data


def thumbnail(file: PhotoFile, kind: ThumbnailKind = ICON, *, max_pixels: int) -> bytes | None:
    """A photo made small: upright, RGB, transparency on white, never enlarged.

    Args:
        max_pixels: width times height above which there is none.

    Returns:
        None if the photo cannot be decoded (see `photos.decode`), or does not fit into `kind.max_bytes`.
    """
    try:
        small = _reduced(file, kind.side, max_pixels)
        small.thumbnail((kind.side, kind.side))
    except Exception as error:
        log.debug("No thumbnail: %s", error)
        return None
    encoded = (_encoded(small, kind.format, quality) for quality in kind.qualities)
    return next((data for data in encoded if len(data) <= kind.max_bytes), None)


def _reduced(file: PhotoFile, side: int, max_pixels: int) -> Image.Image:
    """A photo; of a JPEG, an eighth, a quarter or a half of its sides, which its decoder gives for little.

    That is at least twice the thumbnail's sides.
    """
    with quiet_pillow():
        image = open_image(file.data)
        if isinstance(image, JpegImageFile):
            check_before_pixels(image, file.data, max_pixels)
            scale = 2 * side / max(image.size)
            image.draft("RGB", (int(image.width * scale) or 1, int(image.height * scale) or 1))
            image.load()
            return Image.fromarray(np.asarray(upright(image)))  # pixels alone: a comment would be written again
    return Image.fromarray(decode(file, max_pixels=max_pixels).rgb)


def _encoded(image: Image.Image, format: str, quality: int) -> bytes:
    buffer = BytesIO()
    image.save(buffer, format, quality=quality, **_OPTIONS[format])
    return buffer.getvalue()
