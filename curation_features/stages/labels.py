"""Records with embeddings become records with labels: one matrix product over a chunk of photos."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from curation_features.cache import FeatureCache
from curation_features.clip.classifier import CLIPClassifier
from curation_features.schema import Embedding, Labelling, PhotoRecord
from curation_features.stages.plan import Plan
from curation_features.stages.stats import RunStats
from curation_features.stages.streaming import batched

_AT_ONCE = 256


def with_labels(
    records: Iterable[PhotoRecord], classifier: CLIPClassifier, cache: FeatureCache, plan: Plan, stats: RunStats
) -> Iterator[PhotoRecord]:
    """The records in their order, each with its labels, or with the error that stands in their place."""
    for chunk in batched(records, _AT_ONCE):
        with stats.timing("clip_labels"):
            todo = [record for record in chunk if not _settled(record, cache, plan)]
            if todo:
                _label(todo, classifier, cache, plan)
        yield from chunk


def _settled(record: PhotoRecord, cache: FeatureCache, plan: Plan) -> bool:
    """Give a record the labels that the cache holds, or the error that leaves it without; False if neither is known."""
    embedding = record.embedding or Embedding(error=record.failure)
    if embedding.vector is None or "labels" in plan.missing:
        record.labelling = Labelling(error=record.failure or embedding.error or plan.missing.get("labels"))
        return True
    entry = cache.load(record.photo_id, record.info.sha256) if record.info else None
    if entry is None or not entry.valid({"labels": plan.versions["labels"]}):
        return False
    record.labelling = entry.labelling
    return True


def _label(records: Sequence[PhotoRecord], classifier: CLIPClassifier, cache: FeatureCache, plan: Plan) -> None:
    vectors = [
        record.embedding.vector for record in records if record.embedding and record.embedding.vector is not None
    ]
    for record, labelling in zip(records, classifier.label(np.stack(vectors)), strict=True):
        record.labelling = labelling
        record.cached = False
        entry = cache.load(record.photo_id, record.info.sha256) if record.info else None
        if entry is not None:
            entry.add("labels", plan.versions["labels"], labelling)
            cache.save(record.photo_id, entry)
