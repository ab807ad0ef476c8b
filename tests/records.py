"""Photo records and batches for tests of tables and artifacts."""

from __future__ import annotations

import numpy as np

from curation_features.manifest import Batch, batch_from
from curation_features.schema import (
    METRICS,
    Embedding,
    FeatureError,
    LabelPrediction,
    LabelScore,
    Measurement,
    PhotoInfo,
    PhotoRecord,
)

VERSION = {"technical": "t", "clip": "c"}


def batch(*ids: str, **more: object) -> Batch:
    artifacts = [{"photo_id": name, "original_uri": f"{name}.jpg", "exif": {"iso": 64}} for name in ids]
    return batch_from({"batch_id": "b", "artifacts": artifacts, **more})


def measured(name: str) -> PhotoRecord:
    vector = np.full(4, 0.5, np.float32)
    scores = {metric.name: Measurement(0.25, {raw.name: 1.5 for raw in metric.raw}) for metric in METRICS}
    labels = tuple(LabelScore(f"label {n}", 0.5 / (n + 1), 0.1) for n in range(5))
    prediction = LabelPrediction(labels, (0.1, 0.2, -0.3), 0.25)
    return PhotoRecord(
        name, f"{name}.jpg", PhotoInfo("a" * 64, "PNG", 8, 4), None, scores, Embedding(vector), prediction
    )


def failed(name: str) -> PhotoRecord:
    return PhotoRecord(name, f"{name}.jpg", failure=FeatureError("photo", "truncated", "ends early"))
