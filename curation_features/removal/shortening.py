"""Removes a photo from the manifests, stage tables and features of a batch; other photos keep their exact values."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from curation_features.atomic_files import store_bytes
from curation_features.errors import StoreError
from curation_features.events.outbox import Outbox
from curation_features.finish import write_batch
from curation_features.inventory.batch_files import archived_manifests, incoming_files
from curation_features.inventory.footprint import artifacts_of, table_rows
from curation_features.inventory.places import (
    ACCEPTED,
    EMBEDDINGS,
    INGESTED,
    PAGE,
    TABLE,
    read_object,
    read_regular,
)
from curation_features.inventory.staleness import without_features
from curation_features.manifest import EVENT_TYPE, Batch, batch_from, document_digest, to_json
from curation_features.pipeline import EnrichedBatch
from curation_features.removal.files import DataFolder
from curation_features.schema import Embedding, LabelPrediction, LabelScore, PhotoInfo, PhotoRecord
from curation_features.settings import Settings
from curation_features.storage.artifacts import ArtifactStore
from curation_features.storage.tables import STAGE_TABLES, read_metadata, record_of

Document = dict[str, Any]


def remove_from_batch(
    settings: Settings, store: ArtifactStore, batch_id: str, photo_id: str, accept: Callable[[Batch], None]
) -> None:
    """Remove a photo from a batch, which the caller has locked.

    Manifests are written last, so that an interrupted removal still finds the photo.

    Args:
        accept: takes the new accepted manifest, if there was one.

    Raises:
        StoreError: a file cannot be read or written; the same call completes the removal.
    """
    digests: dict[str, str] = {}
    shorter: dict[Path, Document] = {}
    for place in (ACCEPTED, INGESTED):
        path = place.path(settings.data_path, batch_id)
        try:
            document = read_object(path)
        except FileNotFoundError:
            continue
        shorter[path] = _without(document, photo_id)
        digests[document_digest(document)] = document_digest(shorter[path])
    _shorten_features(settings, store, batch_id, photo_id, list(shorter.values()))
    for stage in STAGE_TABLES:
        store.remove_from_stage(stage, batch_id, photo_id, digests)
    for path, document in shorter.items():
        if path == ACCEPTED.path(settings.data_path, batch_id):
            accept(batch_from(document))
        else:
            store_bytes(path, to_json(document))


def shorten_incoming(settings: Settings, batch_id: str, photo_id: str) -> None:
    """Remove a photo from the manifests of a batch in the drop folders, which the caller has locked."""
    folder = DataFolder(settings.data_path)
    archived = {path for path, _ in archived_manifests(settings).get(batch_id, ())}
    for path in filter(folder.holds, incoming_files(settings, batch_id)):
        if not holds_photo(path, photo_id):
            continue
        folder.check([path])
        document = json.loads(read_regular(path).decode("utf-8-sig"))
        is_event = document.get("type") == EVENT_TYPE and isinstance(document.get("data"), dict)
        manifest = _without(document["data"] if is_event else document, photo_id)
        name = f"{batch_id}-{document_digest(manifest)[:12]}.json" if path in archived else path.name
        store_bytes(path.with_name(name), to_json({**document, "data": manifest} if is_event else manifest))
        if name != path.name:
            folder.delete(path)


def holds_photo(path: Path, photo_id: str) -> bool:
    """Whether a JSON file, valid or not, holds a photo's id as a string."""
    try:
        data = read_regular(path)
    except OSError:
        return False
    return any(json.dumps(photo_id, ensure_ascii=escaped).encode() in data for escaped in (True, False))


def _without(document: Mapping[str, Any], photo_id: str) -> Document:
    kept = [item for item in artifacts_of(document) if not isinstance(item, dict) or item.get("photo_id") != photo_id]
    return {**document, "artifacts": kept}


def _shorten_features(
    settings: Settings, store: ArtifactStore, batch_id: str, photo_id: str, manifests: Sequence[Document]
) -> None:
    """Write and announce the finished features of a batch without a photo, if there are any.

    Args:
        manifests: of the batch, without the photo. The origin of the features is the one with the same artifacts.
    """
    json_path, table_path = store.feature_paths(batch_id)
    try:
        shorter = _without(read_object(json_path), photo_id)
    except FileNotFoundError:  # the other files are not valid without it
        for place in (PAGE, TABLE, EMBEDDINGS):
            DataFolder(settings.data_path).delete(place.path(settings.data_path, batch_id))
        return
    plain = without_features(shorter)
    batch = batch_from(next((manifest for manifest in manifests if without_features(manifest) == plain), plain))
    merged, path = _enriched(shorter, table_path, photo_id), store.embeddings_path(batch_id)
    try:
        source = read_metadata(path) if path.is_file() else {}
    except (OSError, ValueError, KeyError) as error:
        raise _unreadable(path, error) from error
    with store.embeddings(batch_id, source.get("version"), source.get("model")) as embeddings:
        for record in _embedded_records(path) if source else merged.records:
            if record.photo_id != photo_id:
                embeddings.add(record)
        written = write_batch(batch, merged, store, embeddings, settings)
    written.announce(Outbox.from_settings(settings), settings.root)


def _enriched(document: Document, table: Path, photo_id: str) -> EnrichedBatch:
    """Restore the records of finished features from their table, without a photo."""
    technical = STAGE_TABLES["technical_metrics"]
    columns = (*technical.columns, "clip_labels", "label_margin", "label_cosines")
    records = []
    try:
        metadata = read_metadata(table)
        version, vocabulary = dict(metadata["version"]), list(metadata["labels"])
        for row in table_rows(table, columns):
            if row["photo_id"] != photo_id:
                record = record_of(row)
                technical.restore(record, row)
                labels = tuple(LabelScore(**label) for label in row["clip_labels"] or ())
                record.prediction = LabelPrediction(labels, tuple(row["label_cosines"] or ()), row["label_margin"])
                records.append(record)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise _unreadable(table, error) from error
    if [record.photo_id for record in records] != [artifact["photo_id"] for artifact in document["artifacts"]]:
        raise StoreError(f"{table}: has other photos than the JSON file: make the features of this batch again")
    return EnrichedBatch(document, records, version, vocabulary)


def _embedded_records(path: Path) -> Iterator[PhotoRecord]:
    """Read records that have only embeddings."""
    for row in table_rows(path, ("photo_id", "sha256", "embedding")):
        info = PhotoInfo(row["sha256"], "", 0, 0) if row["sha256"] else None
        yield PhotoRecord(row["photo_id"], "", info, embedding=Embedding(row["embedding"]))


def _unreadable(path: Path, error: Exception) -> StoreError:
    return StoreError(f"{path}: cannot be read ({error}): make the features of this batch again")
