"""Code versions of the assets; Dagster compares them to find stale partitions."""

from curation_features.clip.vocabulary import named_vocabulary, vocabulary_names
from curation_features.errors import CurationError, SettingsError
from curation_features.pipeline import FeatureStages
from curation_features.pipeline.plan import TECHNICAL_PARTS
from curation_features.settings import Settings
from curation_features.versions import combined, digest, grouping_rules, part_version, text_version
from curation_features.weights import locate

_MODELS = {"embedding": "clip", "clip_iqa": "clip_iqa", "brisque": "brisque"}


def code_versions(settings: Settings, stages: FeatureStages) -> dict[str, str]:
    """Return the code version of each asset: algorithms, settings that change its numbers, and weights.

    Weights are those on this machine now; nothing is downloaded.
    """
    vocabularies = {"vocabulary": stages.classifier.vocabulary.fingerprint, **_fingerprints(settings)}
    weights = {part: _identify_weights(settings, part) for part in (*TECHNICAL_PARTS, "embedding", "labels")}
    parts = {part: part_version(part, settings, identity) for part, identity in weights.items()}
    return {
        "technical_metrics": combined({part: parts[part] for part in TECHNICAL_PARTS}),
        "image_embeddings": parts["embedding"],
        "label_embeddings": combined({"embedding": text_version(settings, weights["embedding"]), **vocabularies}),
        "clip_labels": parts["labels"],
        "groups": combined({"groups": digest(grouping_rules(settings))}),
        "features": digest(
            {
                "algorithm": 2,
                "groups": grouping_rules(settings),
                "fallback_labels": settings.fallback_labels,
                "flags": settings.constants("flags"),
            }
        )[:16],
    }


def _fingerprints(settings: Settings) -> dict[str, str]:
    """Return the fingerprints of the named vocabularies; empty for an unusable one, which fails only its batches."""
    fingerprints = {}
    for name in vocabulary_names(settings):
        try:
            fingerprints[f"vocabulary:{name}"] = named_vocabulary(settings, name).fingerprint
        except SettingsError:
            fingerprints[f"vocabulary:{name}"] = ""
    return fingerprints


def _identify_weights(settings: Settings, part: str) -> str:
    """Return the identity of a part's weights; empty if it needs none, or they are missing or unusable."""
    if part not in _MODELS:
        return ""
    try:
        return locate(_MODELS[part], settings, fetch=False).identity
    except (CurationError, OSError):
        return ""  # a run reports the problem
