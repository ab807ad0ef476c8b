"""The cache of thumbnails, small enough to embed in a page as base64. A photo without a thumbnail is not an error.

data/cache/thumbnails/{sha256 of the photo's file}-{side}.{format}    may be deleted at any time
"""

from __future__ import annotations

import logging
from contextlib import suppress
from pathlib import Path

from curation_features.atomic_files import open_regular, write_bytes
from curation_features.photos.processes.isolation import Decoder
from curation_features.photos.reader import PhotoReader, is_remote
from curation_features.photos.thumbnail import ICON, ThumbnailKind
from curation_features.schema import PhotoRecord
from curation_features.settings import Settings

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
        self._decoder = Decoder(settings)
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
        data = self._decoder.make_thumbnail(file, self._kind)
        if data is not None:
            with suppress(OSError):  # the next run opens the photo again
                write_bytes(path, data, durable=False)
        return data


def _read_cached(path: Path, kind: ThumbnailKind) -> bytes | None:
    """Return the thumbnail in a file. None if it is missing, damaged or of another kind."""
    from curation_features.photos.decoders.pillow import quiet_pillow
    from curation_features.photos.limits import DecodeLimits, check_before_pixels, open_image

    try:
        with open_regular(path) as file:
            data = file.read(kind.max_bytes + 1)
        if len(data) > kind.max_bytes:
            return None
        with quiet_pillow(), open_image(data, formats=(kind.format,)) as image:
            if max(image.size) > kind.side:
                return None
            check_before_pixels(image, data, DecodeLimits(kind.side * kind.side))
            image.load()
    except Exception:  # hostile bytes can raise any exception
        return None
    return data
