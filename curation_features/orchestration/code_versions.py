"""The code version of each asset: what Dagster compares to tell which partitions a change has made stale."""

from curation_features.settings import Settings
from curation_features.stages import FeatureStages
from curation_features.stages.plan import TECHNICAL_PARTS
from curation_features.versions import combined, digest, part_version


def code_versions(settings: Settings, stages: FeatureStages) -> dict[str, str]:
    """The code version of each asset: its algorithms and the settings that change its numbers.

    Weights are not part of it (they may not be here yet); they are part of the data versions.
    """
    vocabulary = stages.classifier.vocabulary.fingerprint
    parts = {part: part_version(part, settings) for part in (*TECHNICAL_PARTS, "embedding", "labels")}
    return {
        "technical_metrics": combined({part: parts[part] for part in TECHNICAL_PARTS}),
        "image_embeddings": parts["embedding"],
        "label_embeddings": combined({"embedding": parts["embedding"], "vocabulary": vocabulary}),
        "clip_labels": parts["labels"],
        "features": digest({"algorithm": 1, "fallback_labels": settings.fallback_labels})[:16],
    }
