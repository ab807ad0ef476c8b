"""The event that tells others that a batch is finished."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from curation_features.events import features_completed
from curation_features.manifest import Batch
from curation_features.stages.merge import Merged
from curation_features.store import FeatureArtifact


def completed(batch: Batch, merged: Merged, artifact: FeatureArtifact, root: Path) -> dict[str, Any]:
    """`features.completed` for a batch whose artifacts are durable; `root` is the project's."""
    return features_completed(
        batch_id=batch.batch_id,
        manifest=batch.digest,
        digest=artifact.digest,
        features=artifact.json_path,
        table=artifact.table_path,
        embeddings=artifact.embeddings_path,
        root=root,
        statuses=merged.statuses(),
        version=merged.version,
    )
