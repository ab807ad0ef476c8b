"""Metadata of the materialization of each asset."""

from collections.abc import Mapping
from typing import Any

import dagster as dg

from curation_features.build import AssetResult
from curation_features.orchestration.metadata import artifact_links, feature_metadata, missing_metadata, stage_metadata
from curation_features.photos.thumbnails import Thumbnails
from curation_features.pipeline import FeatureStages


def asset_metadata(result: AssetResult, stages: FeatureStages) -> Mapping[str, Any]:
    """Metadata of the materialization of an asset; `stages` computed the result."""
    if result.finished is not None:
        links = artifact_links(result.finished.artifact, result.finished.sheet)
        return {**links, **feature_metadata(result.finished.merged, Thumbnails(stages.settings))}
    if result.stage is not None and result.stats is not None:
        passed = {"pass": result.pass_version} if result.pass_version else {}
        return {**stage_metadata(result.stage, result.stats, result.plan), **passed}
    vocabulary = stages.classifier.vocabulary
    return {
        "labels": len(vocabulary.labels),
        "templates": len(vocabulary.templates),
        **missing_metadata(result.plan),
        "path": dg.MetadataValue.path(str(stages.classifier.label_file)),
    }
