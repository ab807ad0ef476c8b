"""Labels for records with embeddings: one matrix product per chunk of photos."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from curation_features.clip.classifier import CLIPClassifier
from curation_features.concurrency import batched
from curation_features.errors import WeightsError
from curation_features.pipeline.plan import Plan, tolerated
from curation_features.pipeline.stats import RunStats
from curation_features.schema import Embedding, FeatureError, LabelPrediction, PhotoRecord
from curation_features.storage.cache import CacheEntry, FeatureCache

_AT_ONCE = 256


def with_labels(
    records: Iterable[PhotoRecord], classifier: CLIPClassifier, cache: FeatureCache, plan: Plan, stats: RunStats
) -> Iterator[PhotoRecord]:
    """Yield the records in order, each with labels or an error.

    A record keeps labels that it already has. Other labels come from the cache or are computed from the embedding.
    """
    for chunk in batched(records, _AT_ONCE):
        with stats.timing("clip_labels"):
            todo = []
            for record in chunk:
                if _is_settled(record, plan):
                    continue
                entry = cache.load(record.photo_id, record.info.sha256) if record.info else None
                record.labels_cached = entry is not None and bool(entry.valid({"labels": plan.versions["labels"]}))
                if entry is not None and record.labels_cached:
                    record.prediction = entry.prediction
                else:
                    todo.append((record, entry))
            if todo:
                _label(todo, classifier, cache, plan)
        yield from chunk


def _is_settled(record: PhotoRecord, plan: Plan) -> bool:
    """Whether a record needs no labelling. If it cannot be labelled, set the error."""
    if record.prediction is not None:
        record.labels_cached = True
        return True
    embedding = record.embedding or Embedding(error=record.failure)
    if embedding.vector is None or "labels" in plan.missing:
        record.prediction = LabelPrediction(error=record.failure or embedding.error or plan.missing.get("labels"))
    return record.prediction is not None


def _label(
    todo: Sequence[tuple[PhotoRecord, CacheEntry | None]], classifier: CLIPClassifier, cache: FeatureCache, plan: Plan
) -> None:
    """Label records by their embeddings, and add the labels to their cache entries."""
    try:
        dimension = classifier.label_embeddings().vectors.shape[1]
    except WeightsError as error:
        summary = tolerated(error, classifier.settings).summary
        for record, _ in todo:
            record.prediction = LabelPrediction(error=FeatureError("clip_labels", error.reason, summary))
        return
    fitting = []
    for record, entry in todo:
        vector = record.embedding.vector if record.embedding else None
        if vector is not None and vector.shape == (dimension,):
            fitting.append((record, entry, vector))
        else:
            message = f"the stored embedding does not have {dimension} numbers: materialize image_embeddings again"
            record.prediction = LabelPrediction(error=FeatureError("clip_labels", "invalid_embedding", message))
    if not fitting:
        return
    predictions = classifier.label(np.stack([vector for *_, vector in fitting]))
    for (record, entry, _), prediction in zip(fitting, predictions, strict=True):
        record.prediction = prediction
        if entry is not None:
            entry.add("labels", plan.versions["labels"], prediction)
            cache.save(record.photo_id, entry)
