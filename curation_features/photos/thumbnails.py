"""The cache of thumbnails, small enough to embed in a page as base64. A photo without a thumbnail is not an error.

data/cache/thumbnails/{sha256 of the photo's file}-{side}.jpeg    may be deleted at any time
"""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING

from curation_features.atomic_files import open_regular, write_bytes
from curation_features.photos.processes.isolation import Decoder
from curation_features.photos.reader import PhotoReader, is_remote
from curation_features.photos.thumbnail import ICON, ThumbnailKind, encode_thumbnail, thumbnail_size
from curation_features.schema import PhotoRecord
from curation_features.settings import Settings

if TYPE_CHECKING:
    from curation_features.photos.decode import Photo

log = logging.getLogger(__name__)


class Thumbnails:
    """Creates and caches thumbnails; safe for use by several threads.

    Thumbnails are cached by the digest of the photo's file. A pass over photos makes them from the pixels that it
    decodes (`make_missing`, `keep`). For other photos they are made from the file: `PhotoReader` reads it, from the
    allowed roots only; remote photos are not fetched.

    Args:
        kind: size and format.
    """

    def __init__(self, settings: Settings, kind: ThumbnailKind = ICON) -> None:
        self._reader = PhotoReader(settings)
        self._decoder = Decoder(settings)
        self._kind = kind
        self._folder = settings.data_path / "cache" / "thumbnails"

    def __call__(self, record: PhotoRecord) -> bytes | None:
        """Return the thumbnail of a record's photo. None if not cached and the photo is unreadable."""
        if record.info is None:
            return None
        try:
            return self._read(record.info.sha256) or self._create(record.image_uri, record.info.sha256)
        except Exception as error:
            log.debug("No thumbnail: %s", error)
            return None

    def make_missing(self, photo: Photo) -> bytes | None:
        """Return the thumbnail of a decoded photo. None if a file is cached, or the photo has none; never raises."""
        try:
            if os.path.lexists(self._path(photo.info.sha256)):  # a damaged one is replaced when it is read
                return None
            return encode_thumbnail(photo, self._kind)
        except Exception as error:
            log.debug("No thumbnail: %s", error)
            return None

    def keep(self, sha256: str, data: bytes) -> None:
        """Cache a thumbnail. If it cannot be written, the next call for its photo makes it again; never raises."""
        try:
            write_bytes(self._path(sha256), data, durable=False)
        except OSError as error:
            log.debug("A thumbnail is not cached: %s", error)

    def _path(self, sha256: str) -> Path:
        return self._folder / f"{sha256}-{self._kind.side}.jpeg"

    def _read(self, sha256: str) -> bytes | None:
        """Return a cached thumbnail. None if it is missing, cut or of another kind."""
        try:
            with open_regular(self._path(sha256)) as file:
                data = file.read(self._kind.max_bytes + 1)
        except OSError:
            return None
        return data if thumbnail_size(data, self._kind) else None

    def _create(self, uri: str, sha256: str) -> bytes | None:
        """Create and cache a thumbnail. None if the photo is remote or has another digest."""
        if is_remote(uri):
            return None
        file = self._reader.read(uri)
        if file.sha256 != sha256:
            return None
        data = self._decoder.make_thumbnail(file, self._kind)
        if data is not None:
            self.keep(sha256, data)
        return data
