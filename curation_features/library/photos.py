"""Reads from the tables of a finished batch the data that photos are compared by."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from curation_features.atomic_files import FEATURES_AGAIN, open_regular, reading
from curation_features.fingerprints.encoding import hashes_of
from curation_features.groups.photos import Exposure, Moment, Photo
from curation_features.inventory.footprint import table_rows
from curation_features.photos.locations import Locations
from curation_features.pipeline.grouped import photo_of
from curation_features.schema import FINGERPRINT, METRICS, SIGNALS
from curation_features.storage import places
from curation_features.storage.tables import STAGE_TABLES, Row, read_metadata, read_rows, record_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

log = logging.getLogger(__name__)

_TECHNICAL = "technical_metrics"
_COLUMNS = (
    *("photo_id", "image_uri", "sha256", "format", "width", "height", "errors"),
    *(metric.name for metric in METRICS),
    *(raw.name for metric in METRICS for raw in metric.raw),
    *(signal.name for signal in SIGNALS),
    "artifact",
)
_FILES = (places.FEATURES, places.TABLE, places.EMBEDDINGS, *(p for p in places.STAGES if p.kind == _TECHNICAL))

PhotoId = tuple[str, str]
"""A `photo_id` and the digest of its bytes: what files of equal data share."""


@dataclass(frozen=True, slots=True)
class Source:
    """The files of a batch that are compared.

    Attributes:
        files: size and time of each; another list means that the batch was made again.
        fingerprints: version of its fingerprints; None: it has none.
        vectors: version of its image embeddings; None: it has none.
    """

    files: tuple[tuple[int, int] | None, ...]
    fingerprints: str | None = None
    vectors: str | None = None

    def as_json(self) -> list[Any]:
        """Return the fields as JSON."""
        return [self.files, self.fingerprints, self.vectors]

    @classmethod
    def from_json(cls, value: Sequence[Any]) -> Source:
        """Return a source of `as_json`."""
        return cls(tuple(None if file is None else (file[0], file[1]) for file in value[0]), value[1], value[2])


def list_sources(data_path: Path) -> dict[str, Source]:
    """Return the finished batches by id, sorted; their versions are not read."""
    listing = places.list_places(data_path)
    finished = sorted(listing[places.FEATURES].keys() & listing[places.TABLE].keys())
    found = {}
    for batch_id in finished:
        files = (listing[place].get(batch_id) for place in _FILES)
        found[batch_id] = Source(tuple(file and (file.bytes, file.written) for file in files))
    return found


def listing_digest(sources: Mapping[str, Source]) -> str:
    """Return a digest that changes if a batch is finished, made again or deleted."""
    lines = (json.dumps([batch_id, source.files]) for batch_id, source in sources.items())
    return hashlib.sha256("\n".join(lines).encode("utf-8", "surrogatepass")).hexdigest()


def read_versions(data_path: Path, batch_id: str, source: Source) -> Source:
    """Return a source with the versions of its fingerprints and vectors. Raises `StoreError`."""
    stage, embeddings = _stage(data_path, batch_id), places.EMBEDDINGS.path(data_path, batch_id)
    fingerprints = _metadata(stage).get("versions", {}).get(FINGERPRINT)
    return Source(source.files, fingerprints, _metadata(embeddings).get("version"))


def _metadata(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    with reading(path, FEATURES_AGAIN):
        open_regular(path).close()
        return read_metadata(path)


def _stage(data_path: Path, batch_id: str) -> Path:
    return data_path / "stages" / _TECHNICAL / f"{batch_id}.parquet"


def read_photos(data_path: Path, batch_id: str, locations: Locations) -> Iterator[Row]:
    """Yield a row of the state for each photo of a batch that could be read; `identity` is empty.

    Args:
        data_path: the data folder.
        batch_id: of a finished batch.
        locations: of files.

    Raises:
        StoreError: a table cannot be read.
    """
    stored = dict(_read_column(_stage(data_path, batch_id), FINGERPRINT))
    vectors = dict(_read_column(places.EMBEDDINGS.path(data_path, batch_id), "embedding"))
    path = places.TABLE.path(data_path, batch_id)
    seen: set[str] = set()
    problems: list[str] = []
    with reading(path, FEATURES_AGAIN):
        for row in read_rows(path, _COLUMNS):
            record = record_of(row)
            STAGE_TABLES[_TECHNICAL].restore(record, row)
            signals = {signal.name: row.get(signal.name) for signal in SIGNALS}
            photo = photo_of(record, json.loads(row["artifact"]), signals, locations)
            if photo is None or photo.key in seen:
                continue
            seen.add(photo.key)
            hashes = _hashes(stored.get((row["photo_id"], row["sha256"])), problems)
            vector = vectors.get((row["photo_id"], row["sha256"]))
            text = encode(photo)
            compared = hashlib.sha256(text.encode("utf-8", "surrogatepass"))
            compared.update(hashes or b"")
            compared.update(b"" if vector is None else vector.astype(np.float16).tobytes())
            yield {
                "batch_id": batch_id,
                "photo_id": row["photo_id"],
                "sha256": row["sha256"],
                "path": photo.path,
                "key": photo.key,
                "compared": compared.hexdigest()[:32],
                "identity": "",
                "photo": text,
                "hashes": hashes,
            }
    if problems:
        log.warning("Fingerprints of batch %s are not used, of %d photos: %s", batch_id, len(problems), problems[0])


def _hashes(data: bytes | None, problems: list[str]) -> bytes | None:
    """Return the hashes of a fingerprint; None, and the reason in `problems`, if it cannot be decoded."""
    try:
        return None if data is None else hashes_of(data).tobytes()
    except ValueError as error:
        problems.append(str(error))
        return None


def _read_column(path: Path, column: str) -> Iterator[tuple[PhotoId, Any]]:
    for row in table_rows(path, ("photo_id", "sha256", column)):
        if row["sha256"] and row.get(column) is not None:
            yield (row["photo_id"], row["sha256"]), row[column]


def read_fingerprints(data_path: Path, batch_id: str, wanted: Collection[str]) -> Iterator[tuple[str, bytes]]:
    """Yield the fingerprints of a batch's photos whose bytes have one of some digests. Raises `StoreError`."""
    for (_, sha256), data in _read_column(_stage(data_path, batch_id), FINGERPRINT):
        if sha256 in wanted:
            yield sha256, data


def read_vectors(
    data_path: Path, batch_id: str, wanted: Collection[PhotoId]
) -> Iterator[tuple[PhotoId, NDArray[np.float16]]]:
    """Yield the vectors of some photos of a batch. Raises `StoreError`."""
    for photo, vector in _read_column(places.EMBEDDINGS.path(data_path, batch_id), "embedding"):
        if photo in wanted:
            yield photo, vector.astype(np.float16)


def encode(photo: Photo) -> str:
    """Return a photo, without its key and digest, as JSON."""
    values = {field.name: getattr(photo, field.name) for field in fields(Photo) if field.name not in ("key", "sha256")}
    values["moment"] = photo.moment and [photo.moment.seconds, photo.moment.resolution]
    values["exposure"] = [getattr(photo.exposure, field.name) for field in fields(Exposure)]
    values["measures"] = dict(photo.measures)
    return json.dumps(values)


def decode(row: Mapping[str, Any]) -> Photo:
    """Return the photo of a row of the state."""
    values = json.loads(row["photo"])
    values["moment"] = values["moment"] and Moment(*values["moment"])
    values["exposure"] = Exposure(*values["exposure"])
    return Photo(key=row["key"], sha256=row["sha256"], **values)
