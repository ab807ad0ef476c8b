"""The pictures of photos in tables: thumbnails, and photos at full size in a format that browsers show.

Only the tables say which files these are; `PhotoReader` reads them, from the allowed folders only.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from dataclasses import dataclass

from curation_features.errors import PhotoError
from curation_features.gallery.cards import record
from curation_features.gallery.current import CurrentTables
from curation_features.photos.formats import identify
from curation_features.photos.processes.isolation import Decoder
from curation_features.photos.reader import PhotoFile, PhotoReader
from curation_features.photos.thumbnail import PREVIEW
from curation_features.photos.thumbnails import Thumbnails
from curation_features.settings import Settings
from curation_features.storage.tables import Row

Photo = tuple[str, str, int]
"""Id of the batch, id of the photo in it, and its place: files of equal bytes share an id."""

SHOWN_BY_BROWSERS = {
    "JPEG": "image/jpeg",
    "PNG": "image/png",
    "WEBP": "image/webp",
    "GIF": "image/gif",
    "AVIF": "image/avif",
}
"""Formats that are sent as they are, by their first bytes, and their media types."""

JPEG = "image/jpeg"
_QUALITY = 92
_COLUMNS = ("batch_id", "photo_id", "position", "original_uri", "image_uri", "sha256", "format", "width", "height")
_REMEMBERED = 20_000  # rows of photos whose thumbnails the page will ask for
_THUMBNAILS_AT_ONCE, _LARGE_AT_ONCE = 4, 2


@dataclass(frozen=True, slots=True)
class Picture:
    """A picture for the browser.

    Attributes:
        digest: SHA-256 of the photo's file.
        media_type: of `data`; empty without data.
        data: None if the browser has it.
    """

    digest: str
    media_type: str
    data: bytes | None


class Pictures:
    """Gives the pictures of photos.

    Args:
        tables: answers which files they are.
    """

    def __init__(self, settings: Settings, tables: CurrentTables) -> None:
        self._tables = tables
        self._thumbnails = Thumbnails(settings, PREVIEW)
        self._reader = PhotoReader(settings)
        self._decoder = Decoder(settings)
        self._rows: OrderedDict[Photo, Row] = OrderedDict()
        self._small, self._large = asyncio.Semaphore(_THUMBNAILS_AT_ONCE), asyncio.Semaphore(_LARGE_AT_ONCE)

    async def thumbnail(self, photo: Photo) -> Picture | None:
        """Return the thumbnail of a photo; None if there is none. Raises `StoreError`."""
        row = await self.row(photo)
        if row is None or row["sha256"] is None:
            return None
        async with self._small:
            data = await asyncio.to_thread(self._thumbnails, record(row))
        return Picture(row["sha256"], JPEG, data) if data else None

    async def full(self, photo: Photo, which: str, known: str) -> Picture | None:
        """Return a photo at full size: as it is, or as an upright JPEG in sRGB; None if it is in no batch.

        Args:
            which: `original`, or `analysed`: the image that was analysed, which may be a reduced copy.
            known: digest of the file whose picture the browser has; empty if none.

        Raises:
            PhotoError: the file is not allowed, or cannot be read or decoded.
            StoreError: a table cannot be read.
        """
        row = await self.row(photo)
        if row is None:
            return None
        uri = row["original_uri"] if which == "original" else row["image_uri"]
        if not uri:
            raise PhotoError("missing", "the tables name no original; show the analysed image")
        async with self._large:
            return await asyncio.to_thread(self._read, uri, known)

    def _read(self, uri: str, known: str) -> Picture:
        file = self._reader.read(uri)
        if file.sha256 == known:
            return Picture(file.sha256, "", None)
        media_type = SHOWN_BY_BROWSERS.get(identify(file.data))
        if media_type:
            return Picture(file.sha256, media_type, file.data)
        return Picture(file.sha256, JPEG, self._convert(file))

    def _convert(self, file: PhotoFile) -> bytes:
        """Return a photo as an upright JPEG in sRGB, without metadata. Raises `PhotoError`."""
        import simplejpeg

        photo = self._decoder.decode(file)
        height, width, _ = photo.rgb.shape
        if max(height, width) > 65_500:
            raise PhotoError("too_large", f"{width} x {height} px is more than a JPEG can have")
        data: bytes = simplejpeg.encode_jpeg(photo.rgb, _QUALITY, colorspace="RGB", colorsubsampling="444")
        return data

    async def row(self, photo: Photo) -> Row | None:
        """Return what the tables say of a photo's files; None if it is in no finished batch. Raises `StoreError`."""
        known = self._rows.get(photo)
        if known is None:
            rows = await self._tables.ask(lambda opened: opened.tables.rows_of(_COLUMNS, [photo[:2]]))
            known = next((row for row in rows if row["position"] == photo[2]), rows[0] if rows else None)
            if known is not None:
                self._remember(photo, known)
        return known

    def note(self, rows: list[Row]) -> None:
        """Remember the files of photos, so that their thumbnails need no query."""
        for row in rows:
            self._remember((row["batch_id"], row["photo_id"], row["position"]), row)

    def _remember(self, photo: Photo, row: Row) -> None:
        self._rows[photo] = {name: row[name] for name in _COLUMNS}
        while len(self._rows) > _REMEMBERED:
            self._rows.popitem(last=False)
