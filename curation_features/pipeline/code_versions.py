"""The code version of each asset: what Dagster compares to tell which partitions a change has made stale."""

from curation_features.clip.vocabulary import named_vocabulary, vocabulary_names
from curation_features.errors import CurationError, SettingsError
from curation_features.pipeline import FeatureStages
from curation_features.pipeline.plan import TECHNICAL_PARTS
from curation_features.settings import Settings
from curation_features.versions import combined, digest, part_version, text_version
from curation_features.weights import locate_brisque, locate_clip, locate_clip_iqa

_MODELS = {"embedding": locate_clip, "clip_iqa": locate_clip_iqa, "brisque": locate_brisque}


def code_versions(settings: Settings, stages: FeatureStages) -> dict[str, str]:
    """The code version of each asset: its algorithms, the settings that change its numbers, and the weights as they
    are on this machine now. Nothing is downloaded.
    """
    vocabularies = {"vocabulary": stages.classifier.vocabulary.fingerprint, **_named(settings)}
    weights = {part: _weights(settings, part) for part in (*TECHNICAL_PARTS, "embedding", "labels")}
    parts = {part: part_version(part, settings, found) for part, found in weights.items()}
    return {
        "technical_metrics": combined({part: parts[part] for part in TECHNICAL_PARTS}),
        "image_embeddings": parts["embedding"],
        "label_embeddings": combined({"embedding": text_version(settings, weights["embedding"]), **vocabularies}),
        "clip_labels": parts["labels"],
        "features": digest({"algorithm": 1, "fallback_labels": settings.fallback_labels})[:16],
    }


def _named(settings: Settings) -> dict[str, str]:
    """Fingerprints of the named vocabularies; empty of one that cannot be used, which concerns its batches only."""
    found = {}
    for name in vocabulary_names(settings):
        try:
            found[f"vocabulary:{name}"] = named_vocabulary(settings, name).fingerprint
        except SettingsError:
            found[f"vocabulary:{name}"] = ""
    return found


def _weights(settings: Settings, part: str) -> str:
    """Identity of the weights behind a part; empty where it has none, and where they are not here or not usable."""
    if part not in _MODELS:
        return ""
    try:
        return _MODELS[part](settings, fetch=False).identity
    except (CurationError, OSError):
        return ""  # a run says what is wrong
