"""Photo records and batches for tests of tables and artifacts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from curation_features.manifest import Batch, batch_from
from curation_features.pipeline.merge import merge
from curation_features.schema import (
    METRICS,
    SIGNAL_PARTS,
    SIGNALS,
    Embedding,
    FeatureError,
    LabelPrediction,
    LabelScore,
    Measurement,
    PhotoInfo,
    PhotoRecord,
    Signals,
    StoredFingerprint,
)
from curation_features.settings import Settings
from curation_features.storage.artifacts import ArtifactStore, FeatureArtifact

SETTINGS = Settings(root=Path())
NORM = 12.5  # of every embedding, before it was normalised
LABELS = [f"label {n}" for n in range(9)]


def batch(*ids: str, batch_id: str = "b", **more: object) -> Batch:
    artifacts = [{"photo_id": name, "original_uri": f"{name}.jpg", "exif": {"iso": 64}} for name in ids]
    return batch_from({"batch_id": batch_id, "artifacts": artifacts, **more})


def signals(**values: float | bool | None) -> dict[str, Signals]:
    """Every signal, by part: those given, and 0.5 (not gray) for the others."""
    found = {one.name: values.get(one.name, one.name != "is_gray" and 0.5) for one in SIGNALS}
    return {part: Signals({one.name: found[one.name] for one in SIGNALS if one.part == part}) for part in SIGNAL_PARTS}


def measured(name: str, vector: Sequence[float] = (0.5,) * 4) -> PhotoRecord:
    scores = {metric.name: Measurement(0.25, {raw.name: 1.5 for raw in metric.raw}) for metric in METRICS}
    labels = tuple(LabelScore(f"label {n}", 0.5 / (n + 1), 0.1) for n in range(5))
    prediction = LabelPrediction(labels, (0.1, 0.2, -0.3), 0.25)
    embedding = Embedding(np.array(vector, np.float32), norm=NORM)
    return PhotoRecord(
        name,
        f"{name}.jpg",
        PhotoInfo("a" * 64, "PNG", 8, 4),
        measurements=scores,
        signals=signals(),
        fingerprint=StoredFingerprint(b"compared"),
        embedding=embedding,
        prediction=prediction,
    )


def degraded(name: str) -> PhotoRecord:
    """A photo without noise."""
    record = measured(name, [0.25, 0.25, 0.25, 0.25])
    record.measurements["noise"] = Measurement(error=FeatureError("noise", "flat_image", "no variation"))
    return record


def failed(name: str) -> PhotoRecord:
    return PhotoRecord(name, f"{name}.jpg", failure=FeatureError("photo", "truncated", "ends early"))


def write_features(
    store: ArtifactStore,
    records: Sequence[PhotoRecord],
    manifest: Batch | None = None,
    *,
    vectors: Sequence[PhotoRecord] | None = None,
    clip: str = "c",
    labels: Sequence[str] = LABELS,
) -> FeatureArtifact:
    """Write finished features of `records`, and the embeddings of `vectors`, by default of the same records."""
    manifest = manifest or batch(*(record.photo_id for record in records))
    merged = merge(manifest, records, {"technical": "t", "clip": clip, "signals": "s", "groups": "g"}, labels, SETTINGS)
    with store.embeddings(manifest.batch_id, "1-abc", "a/model") as file:
        for item in records if vectors is None else vectors:
            file.add(item)
        return store.write_features(merged.document, merged.rows(), merged.version, labels, file)
