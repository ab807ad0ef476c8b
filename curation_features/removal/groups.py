"""Groups of a batch that a photo leaves: only those that it was in are found again."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from curation_features.inventory.footprint import table_rows
from curation_features.photos.locations import Locations
from curation_features.pipeline.grouped import Compared, group_batch
from curation_features.schema import FINGERPRINT, Embedding, PhotoRecord, StoredFingerprint
from curation_features.storage.artifacts import ArtifactStore

_Photo = tuple[str, str]
"""A `photo_id` and the digest of its bytes."""


def groups_of(document: Mapping[str, Any], photo_id: str) -> frozenset[str]:
    """Return the ids of the groups of a photo in an enriched document."""
    features = (item["features"] for item in document["artifacts"] if item["photo_id"] == photo_id)
    return frozenset(found["group"]["id"] for found in features if found.get("group"))


def regroup(
    document: Mapping[str, Any],
    records: Sequence[PhotoRecord],
    ids: frozenset[str],
    store: ArtifactStore,
    locations: Locations,
) -> None:
    """Find the groups of the photos of some groups again, and set `group` of their features.

    Args:
        document: the enriched batch, without the photo that left.
        records: one per artifact, in order.
        ids: of the groups.
        store: has the fingerprints and the image embeddings.
        locations: of files.

    Raises:
        StoreError: a table cannot be read.
    """
    artifacts = document["artifacts"]
    places = [
        place for place, artifact in enumerate(artifacts) if (artifact["features"]["group"] or {}).get("id") in ids
    ]
    for place in places:
        artifacts[place]["features"]["group"] = None
    chosen, of_place = [records[place] for place in places], [artifacts[place] for place in places]
    signals = [artifact["features"]["signals"] for artifact in of_place]
    with Compared() as compared:
        for record in _completed(chosen, document["batch_id"], store):
            compared.add(record)
        found = group_batch(chosen, of_place, signals, range(len(chosen)), compared, locations)
    for number, group in found.by_place.items():
        of_place[number]["features"]["group"] = group


def _completed(records: Sequence[PhotoRecord], batch_id: str, store: ArtifactStore) -> Iterator[PhotoRecord]:
    """Yield records with what is compared of them."""
    stage, wanted = store.stage_path("technical_metrics", batch_id), {_key(record) for record in records}
    fingerprints = _read(stage, FINGERPRINT, wanted)
    vectors = _read(store.embeddings_path(batch_id), "embedding", wanted)
    for record in records:
        stored = StoredFingerprint(fingerprints.get(_key(record)))
        embedding = Embedding(vectors.get(_key(record)))
        yield PhotoRecord(record.photo_id, record.image_uri, record.info, fingerprint=stored, embedding=embedding)


def _key(record: PhotoRecord) -> _Photo:
    return record.photo_id, record.info.sha256 if record.info else ""


def _read(path: Path, column: str, wanted: set[_Photo]) -> dict[_Photo, Any]:
    rows = table_rows(path, ("photo_id", "sha256", column))
    found = {(row["photo_id"], row["sha256"] or ""): row.get(column) for row in rows}
    return {photo: value for photo, value in found.items() if photo in wanted}
