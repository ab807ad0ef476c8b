"""The images that `ingest` writes for each photo, and the record by which an unchanged photo is not decoded again.

    data/rankingInput/{sha256}.jpg           at most 2048 px
    data/rankingInput/{sha256}_1024.jpg      at most 1024 px; a link to the other if that is small enough
    data/cache/ingest/{sha256}.json          may be deleted at any time

`sha256` is that of the original file. A record is valid only while both images have the bytes that it names, so a
damaged image is made again.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from curation_features.atomic_files import link_bytes, open_regular, store_bytes, uri, write_bytes
from curation_features.errors import PhotoError
from curation_features.photos.copies import Copies
from curation_features.photos.decoding_version import FIRST, decoding_version
from curation_features.photos.formats import SUFFIXES
from curation_features.photos.processes.isolation import Decoder
from curation_features.photos.reader import INGEST_RECORDS, RANKING_FOLDER, PhotoFile
from curation_features.schema import FOCUS_VERSION
from curation_features.settings import Settings

_RECORD_VERSION = 2  # increment it when a change alters the images or the fields of an artifact


class Images:
    """Makes the images of photos, and the fields of their artifacts. Safe for use by several threads."""

    def __init__(self, settings: Settings) -> None:
        self._decoder = Decoder(settings)
        self._root = settings.root
        self._folder = settings.data_path / RANKING_FOLDER
        self._records = settings.data_path / INGEST_RECORDS

    def fields(self, file: PhotoFile) -> dict[str, Any]:
        """Return the fields of a photo's artifact, and write its images if they are missing or damaged.

        Raises:
            PhotoError: the photo cannot be decoded.
            ResourceError: see `Decoder`.
            StoreError: an image cannot be written.
        """
        return self.known_fields(file) or self._make(file)

    def known_fields(self, file: PhotoFile) -> dict[str, Any] | None:
        """Return the fields of a photo that has been ingested before, if its record and images are whole.

        Raises:
            ResourceError: see `Decoder`.
        """
        sha256 = file.sha256
        try:
            with open_regular(self._record(sha256)) as stream:
                record = json.loads(stream.read())
            if record["version"] != _RECORD_VERSION:
                return None
            for path, digest in zip(self._paths(sha256), record["images"], strict=True):
                with open_regular(path) as stream:
                    if hashlib.sha256(stream.read()).hexdigest() != digest:
                        return None
            exif = self._decoder.read_exif(file)
        except (OSError, ValueError, KeyError, TypeError, PhotoError):
            return None
        self._mark_in_use(sha256)
        return self._artifact(sha256, exif, record["fields"])

    def _make(self, file: PhotoFile) -> dict[str, Any]:
        copies = self._decoder.make_copies(file)
        images = self._digests_of_older(file, copies) or self._write(file.sha256, copies)
        fields = _fields(copies)
        record = {"version": _RECORD_VERSION, "images": images, "fields": fields}
        with suppress(OSError):  # the next ingest decodes the photo again
            write_bytes(self._record(file.sha256), json.dumps(record).encode(), durable=False)
        return self._artifact(file.sha256, copies.exif, fields)

    def _write(self, sha256: str, copies: Copies) -> list[str]:
        """Write the images of a photo; return their digests."""
        ranking, standard = self._paths(sha256)
        store_bytes(ranking, copies.ranking, durable=False)
        if copies.standard:
            store_bytes(standard, copies.standard, durable=False)
        else:
            link_bytes(ranking, standard)
        return [hashlib.sha256(data).hexdigest() for data in (copies.ranking, copies.standard or copies.ranking)]

    def _digests_of_older(self, file: PhotoFile, copies: Copies) -> list[str] | None:
        """Return the digests of images that an earlier release has written without a record; None if they do not serve.

        They serve if they are whole and their colours are right, so that the features of an archive stay valid.
        """
        if decoding_version(file.data) != FIRST or copies.source != "image" or self._record(file.sha256).exists():
            return None
        found = []
        for path, size in zip(self._paths(file.sha256), (copies.ranking_size, copies.standard_size), strict=True):
            try:
                with open_regular(path) as stream:
                    image = PhotoFile(data := stream.read(), hashlib.sha256(data).hexdigest())
                if self._decoder.decode(image).rgb.shape[1::-1] != size:
                    return None
            except (OSError, PhotoError):
                return None
            found.append(image.sha256)
        self._mark_in_use(file.sha256)
        return found

    def _mark_in_use(self, sha256: str) -> None:
        """Make the images young, so that `gc` keeps them until the manifest is written."""
        for path in self._paths(sha256):
            with suppress(OSError):  # owned by another user
                os.utime(path)

    def _record(self, sha256: str) -> Path:
        return self._records / f"{sha256}.json"

    def _artifact(self, sha256: str, exif: Mapping[str, Any], fields: Mapping[str, Any]) -> dict[str, Any]:
        ranking, standard = self._paths(sha256)
        uris = {"ranking_uri": uri(ranking, self._root), "std_uri": uri(standard, self._root)}
        return {**uris, "exif": dict(exif), **fields}

    def _paths(self, sha256: str) -> tuple[Path, Path]:
        return self._folder / f"{sha256}.jpg", self._folder / f"{sha256}_1024.jpg"


def _fields(copies: Copies) -> dict[str, Any]:
    """Return the fields of an artifact that a record may keep. (EXIF has private data, such as positions.)"""
    processing: dict[str, Any] = {
        "original_size": [copies.info.width, copies.info.height],
        "standardized_size": list(copies.standard_size),
        "processing_method": "quality_preserved",
        "color_space": "sRGB",
    }
    if copies.source != "image":
        processing["decoded_from"] = copies.source
    if copies.focus is not None:
        processing["focus"] = {"version": FOCUS_VERSION, **copies.focus}
    if copies.notes:
        processing["notes"] = list(copies.notes)
    return {"format": SUFFIXES[copies.info.format][0], "processing_metadata": processing}
