"""Deletes one photo from the batches that have it, and the files made of it; its original stays."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

from curation_features.atomic_files import FEATURES_AGAIN, reading, store_bytes
from curation_features.errors import InputError, StoreError
from curation_features.events.outbox import Outbox
from curation_features.finish import finish_batch
from curation_features.inventory.batch_files import (
    THUMBNAILS,
    BatchFile,
    archived_manifests,
    existing,
    incoming_files,
    named_batch,
    quarantined_manifests,
    with_reason,
)
from curation_features.inventory.footprint import (
    Footprint,
    References,
    artifacts_of,
    footprint_of,
    is_unicode,
    photo_files,
    table_rows,
)
from curation_features.inventory.staleness import without_features
from curation_features.library import forget_photo
from curation_features.manifest import EVENT_TYPE, Batch, batch_from, document_digest, is_batch_id, to_json
from curation_features.photos.locations import Locations
from curation_features.photos.reader import RANKING_FOLDER
from curation_features.pipeline import EnrichedBatch
from curation_features.pipeline.plan import groups_version, signals_version
from curation_features.removal.batches import locked_folders
from curation_features.removal.files import DataFolder
from curation_features.removal.groups import groups_of, regroup
from curation_features.schema import SIGNALS, Embedding, LabelPrediction, LabelScore, PhotoInfo, PhotoRecord
from curation_features.search import forget as forget_search
from curation_features.settings import Settings
from curation_features.storage import places
from curation_features.storage.artifacts import ArtifactStore
from curation_features.storage.deletions import deletions, record_deletion
from curation_features.storage.tables import STAGE_TABLES, read_metadata, record_of

Document = dict[str, Any]


@dataclass(frozen=True, slots=True)
class PhotoRemoval:
    """The deletion of a photo.

    Attributes:
        batches: the batches that lose it.
        others: the batches that keep it; the files made of it stay then.
        files: files to delete: thumbnails, cache entry, copies, and quarantined manifests that hold it.
        kept: manifests outside the data folder that hold it, and stay unchanged.
        begun: batches of an earlier, interrupted removal of this photo, which may not be announced yet.
    """

    photo_id: str
    batches: tuple[str, ...]
    others: tuple[str, ...]
    files: tuple[BatchFile, ...]
    kept: tuple[Path, ...]
    begun: tuple[str, ...]


class PhotoSearch:
    """A search for all references to a photo.

    Args:
        only: remove it from this batch alone; None: from all.

    Attributes:
        batch_ids: the batches whose documents `find` reads.

    Raises:
        InputError: no photo can have this id.
        StoreError: a manifest that waits for the sensor cannot be read.
    """

    def __init__(self, settings: Settings, photo_id: str, only: str | None = None) -> None:
        if not is_unicode(photo_id):
            raise InputError(f"no photo has the id {photo_id!a}: it is not Unicode text")
        self._settings = settings
        self._photo_id = photo_id
        self._only = only
        self._holders: set[str] = set()
        self._others = Footprint(apart=photo_id)
        self._references = References(settings, photo_id)
        self._log = [line for line in deletions(settings.data_path) if line.get("photo_id") == photo_id]
        for batch_id, footprint in self._references.waiting:
            self._add(batch_id, footprint)
        self.batch_ids = self._references.batch_ids

    def find(self, progress: Callable[[int], None] | None = None) -> PhotoRemoval:
        """Read the documents of all batches.

        Args:
            progress: called with 1 for each batch.

        Raises:
            StoreError: a document or table cannot be read, and might hold the photo.
            InputError: the batch does not have the photo, or nothing refers to it.
        """
        for batch_id, footprint in self._references.footprints(self.batch_ids, tables=True, progress=progress):
            self._add(batch_id, footprint)
        if self._only is not None and self._only not in self._holders:
            raise InputError(f"batch {self._only!r} has no photo {self._photo_id!r}")
        batches = {self._only} if self._only is not None else self._holders
        begun = {batch for line in self._log[-1:] for batch in line.get("batches", ())}
        others = self._holders - batches
        files = [*self._quarantined_files(), *([] if others else self._photo_files(batches))]
        if not batches and not files:
            raise InputError(f"nothing in {self._settings.data_path} refers to a photo {self._photo_id!r}")
        folder = DataFolder(self._settings.data_path)
        manifests = [path for batch_id in batches for path in incoming_files(self._settings, batch_id)]
        return PhotoRemoval(
            self._photo_id,
            tuple(sorted(batches)),
            tuple(sorted(others)),
            tuple(files),
            tuple(path for path in manifests if not folder.holds(path) and holds_photo(path, self._photo_id)),
            tuple(sorted(begun.intersection(self._references.listing[places.FEATURES]) - batches)),
        )

    def _add(self, batch_id: str, footprint: Footprint) -> None:
        self._others.update(footprint)
        if self._photo_id in footprint.photos and is_batch_id(batch_id):
            self._holders.add(batch_id)

    def _photo_files(self, batches: set[str]) -> list[BatchFile]:
        """The files made of this photo alone, including those that an interrupted removal has logged."""
        own = Footprint({self._photo_id})
        for batch_id in batches or {""}:
            documents = incoming_files(self._settings, batch_id)
            own.update(footprint_of(self._settings, batch_id, documents, {self._photo_id}))
        own.digests -= self._others.digests
        own.copies = {name for name in own.copies if PurePath(name).name not in self._others.names}
        files = photo_files(self._settings, own)
        return [*files, *(file for file in self._logged_files() if file not in files)]

    def _logged_files(self) -> Iterator[BatchFile]:
        kinds = {RANKING_FOLDER: "copy", str(THUMBNAILS): "thumbnail"}
        for path in (PurePath(name) for line in self._log for name in line.get("files", ())):
            kind = next((kind for folder, kind in kinds.items() if path.is_relative_to(folder)), None)
            in_use = path.name in self._others.names or path.name.partition("-")[0] in self._others.digests
            if kind and not in_use and ".." not in path.parts:
                yield from existing([(kind, self._settings.data_path / path)])

    def _quarantined_files(self) -> Iterator[BatchFile]:
        for path in quarantined_manifests(self._settings.data_path):
            if holds_photo(path, self._photo_id) and self._only in (None, named_batch(path)):
                yield from existing(with_reason(path))


def remove_photo(
    settings: Settings, store: ArtifactStore, removal: PhotoRemoval, accept: Callable[[Batch], None]
) -> None:
    """Delete a photo, and log it. The files made of it are deleted once no batch has it.

    Args:
        accept: takes the new manifest of each batch that was accepted.

    Raises:
        StoreError: a batch is being made now, or a file cannot be read, written or deleted; the same call again
            completes the removal.
    """
    data_path, photo_id = settings.data_path, removal.photo_id
    folder, batches = DataFolder(data_path), [*removal.batches, *removal.begun]
    folder.check(file.path for file in removal.files)
    made = [str(file.path.relative_to(data_path)) for file in removal.files if file.kind in ("copy", "thumbnail")]
    record_deletion(data_path, photo_id=photo_id, batches=batches, files=made)
    forget_photo(data_path, photo_id, frozenset(batches))
    forget_search(data_path, batches)
    for batch_id in batches:
        with store.exclusive(batch_id, wait=False):
            with locked_folders(settings):
                shorten_incoming(settings, batch_id, photo_id)
            remove_from_batch(settings, store, batch_id, photo_id, accept)
    for file in removal.files:
        folder.delete(file.path)
    forget_search(data_path, batches)


# One batch -----------------------------------------------------------------------------------------------------------


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
    for place in (places.ACCEPTED, places.INGESTED):
        path = place.path(settings.data_path, batch_id)
        try:
            document = places.read_object(path)
        except FileNotFoundError:
            continue
        shorter[path] = _without(document, photo_id)
        digests[document_digest(document)] = document_digest(shorter[path])
    _shorten_features(settings, store, batch_id, photo_id, list(shorter.values()))
    for stage in STAGE_TABLES:
        store.remove_from_stage(stage, batch_id, photo_id, digests)
    for path, document in shorter.items():
        if path == places.ACCEPTED.path(settings.data_path, batch_id):
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
        document = json.loads(places.read_regular(path).decode("utf-8-sig"))
        is_event = document.get("type") == EVENT_TYPE and isinstance(document.get("data"), dict)
        manifest = _without(document["data"] if is_event else document, photo_id)
        name = f"{batch_id}-{document_digest(manifest)[:12]}.json" if path in archived else path.name
        store_bytes(path.with_name(name), to_json({**document, "data": manifest} if is_event else manifest))
        if name != path.name:
            folder.delete(path)


def holds_photo(path: Path, photo_id: str) -> bool:
    """Whether a JSON file, valid or not, holds a photo's id as a string."""
    try:
        data = places.read_regular(path)
    except (StoreError, FileNotFoundError):
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
        features = places.read_object(json_path)
        shorter = _completed(_without(features, photo_id), settings)
    except FileNotFoundError:  # the other files are not valid without it
        for place in (places.PAGE, places.TABLE, places.EMBEDDINGS):
            DataFolder(settings.data_path).delete(place.path(settings.data_path, batch_id))
        return
    plain = without_features(shorter)
    batch = batch_from(next((manifest for manifest in manifests if without_features(manifest) == plain), plain))
    merged, path = _enriched(shorter, table_path, photo_id, settings), store.embeddings_path(batch_id)
    if touched := groups_of(features, photo_id):
        regroup(shorter, merged.records, touched, store, Locations(settings.root))
    with reading(path, FEATURES_AGAIN):
        source = read_metadata(path) if path.is_file() else {}
    with store.embeddings(batch_id, source.get("version"), source.get("model")) as embeddings:
        for record in _embedded_records(path) if source else merged.records:
            if record.photo_id != photo_id:
                embeddings.add(record)
        written = finish_batch(batch, merged, store, embeddings, settings, is_accepted=False)
    written.announce(Outbox.from_settings(settings), settings.root)


def _completed(document: Document, settings: Settings) -> Document:
    """Add the fields that the features of an earlier release lack; their values are unknown."""
    unknown = dict.fromkeys(signal.name for signal in SIGNALS)
    later: dict[str, Any] = {"signals": unknown, "flags": [], "embedding_norm": None, "group": None}

    def complete(features: Mapping[str, Any]) -> Document:
        version = _with_later(features["version"], settings)
        return {**features, "version": version, **{name: features.get(name, later[name]) for name in later}}

    artifacts = [{**artifact, "features": complete(artifact["features"])} for artifact in document["artifacts"]]
    return {**document, "artifacts": artifacts}


def _with_later(version: Mapping[str, str], settings: Settings) -> dict[str, str]:
    """Add the versions that the features of an earlier release lack; those of results without any part."""
    return {"signals": signals_version({}, settings), "groups": groups_version({}, settings), **version}


def _enriched(document: Document, table: Path, photo_id: str, settings: Settings) -> EnrichedBatch:
    """Restore the records of finished features from their table, without a photo."""
    technical = STAGE_TABLES["technical_metrics"]
    columns = (*technical.columns, "clip_labels", "label_margin", "label_cosines")
    records = []
    with reading(table, FEATURES_AGAIN):
        metadata = read_metadata(table)
        version, vocabulary = _with_later(metadata["version"], settings), list(metadata["labels"])
        for row in table_rows(table, columns):
            if row["photo_id"] != photo_id:
                record = record_of(row)
                technical.restore(record, row)
                labels = tuple(LabelScore(**label) for label in row["clip_labels"] or ())
                record.prediction = LabelPrediction(labels, tuple(row["label_cosines"] or ()), row["label_margin"])
                records.append(record)
    if [record.photo_id for record in records] != [artifact["photo_id"] for artifact in document["artifacts"]]:
        raise StoreError(f"{table}: has other photos than the JSON file: {FEATURES_AGAIN}")
    return EnrichedBatch(document, records, version, vocabulary)


def _embedded_records(path: Path) -> Iterator[PhotoRecord]:
    """Read records that have only embeddings; the file of an earlier release has no norms."""
    for row in table_rows(path, ("photo_id", "sha256", "embedding", "embedding_norm")):
        info = PhotoInfo(row["sha256"], "", 0, 0) if row["sha256"] else None
        embedding = Embedding(row["embedding"], norm=row.get("embedding_norm"))
        yield PhotoRecord(row["photo_id"], "", info, embedding=embedding)
