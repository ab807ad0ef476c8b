"""Records with embeddings become records with labels: one matrix product over a chunk of photos."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from curation_features.cache import FeatureCache
from curation_features.clip.classifier import CLIPClassifier
from curation_features.errors import WeightsError
from curation_features.schema import Embedding, FeatureError, Labelling, PhotoRecord
from curation_features.stages.plan import Plan, tolerated
from curation_features.stages.stats import RunStats
from curation_features.stages.streaming import batched

_AT_ONCE = 256


def with_labels(
    records: Iterable[PhotoRecord], classifier: CLIPClassifier, cache: FeatureCache, plan: Plan, stats: RunStats
) -> Iterator[PhotoRecord]:
    """The records in their order, each with its labels, or with the error that stands in their place.

    A record that comes with labels keeps them; others take them from the cache, or get them made from their embedding.
    """
    for chunk in batched(records, _AT_ONCE):
        with stats.timing("clip_labels"):
            todo = [record for record in chunk if not _settled(record, cache, plan)]
            if todo:
                _label(todo, classifier, cache, plan)
        yield from chunk


def _settled(record: PhotoRecord, cache: FeatureCache, plan: Plan) -> bool:
    """Give a record the labels that the cache holds, or the error that leaves it without; False if neither is known."""
    if record.labelling is not None:
        return True
    embedding = record.embedding or Embedding(error=record.failure)
    if embedding.vector is None or "labels" in plan.missing:
        record.labelling = Labelling(error=record.failure or embedding.error or plan.missing.get("labels"))
        return True
    entry = cache.load(record.photo_id, record.info.sha256) if record.info else None
    if entry is None or not entry.valid({"labels": plan.versions["labels"]}):
        record.cached = False
        return False
    record.labelling, record.cached = entry.labelling, True
    return True


def _label(records: Sequence[PhotoRecord], classifier: CLIPClassifier, cache: FeatureCache, plan: Plan) -> None:
    try:
        dimension = classifier.label_embeddings().vectors.shape[1]
    except WeightsError as error:
        summary = tolerated(error, classifier.settings).summary
        for record in records:
            record.labelling = Labelling(error=FeatureError("clip_labels", error.reason, summary))
        return
    vectors = []
    fitting = []
    for record in records:
        vector = record.embedding.vector if record.embedding else None
        if vector is not None and vector.shape == (dimension,):
            vectors.append(vector)
            fitting.append(record)
        else:
            message = f"the stored vector is not one of {dimension} numbers: materialize image_embeddings again"
            record.labelling = Labelling(error=FeatureError("clip_labels", "invalid_embedding", message))
    if not fitting:
        return
    for record, labelling in zip(fitting, classifier.label(np.stack(vectors)), strict=True):
        record.labelling = labelling
        _keep(record, labelling, cache, plan)


def _keep(record: PhotoRecord, labelling: Labelling, cache: FeatureCache, plan: Plan) -> None:
    entry = cache.load(record.photo_id, record.info.sha256) if record.info else None
    if entry is not None:
        entry.add("labels", plan.versions["labels"], labelling)
        cache.save(record.photo_id, entry)
