"""The Dagster definitions of a project: assets, checks, job, sensors and resources."""

from __future__ import annotations

from collections.abc import Mapping

import dagster as dg

from curation_features.orchestration.assets import photo_features, preprocess_batches
from curation_features.orchestration.automation import reconcile
from curation_features.orchestration.checks import nothing_quarantined
from curation_features.orchestration.jobs import extract_features
from curation_features.orchestration.library import group_photos, photo_groups, photo_groups_asset
from curation_features.orchestration.resources import build_resources
from curation_features.orchestration.search_index import search_index_asset
from curation_features.orchestration.sensors import dead_runs, event_delivery, preprocess_outputs
from curation_features.orchestration.watching import ingest_watched, watched_folders
from curation_features.pipeline import FeatureStages
from curation_features.pipeline.code_versions import code_versions
from curation_features.settings import Settings, load_settings


def build_definitions(
    settings: Settings | None = None,
    *,
    resources: Mapping[str, object] | None = None,
) -> dg.Definitions:
    """Build the definitions of a project.

    Args:
        settings: default: those of the current project. They determine the code versions.
        resources: replaces resources by name; see `orchestration.resources`.
    """
    settings = settings or load_settings()
    versions = code_versions(settings, FeatureStages(settings))
    assets = dg.map_asset_specs(
        lambda spec: spec.replace_attributes(code_version=versions[spec.key.to_user_string()]),
        [photo_features, photo_groups_asset],
    )
    return dg.Definitions(
        assets=[preprocess_batches, *assets, search_index_asset],
        asset_checks=[nothing_quarantined],
        jobs=[extract_features, group_photos, ingest_watched],
        sensors=[
            preprocess_outputs,
            event_delivery(running=bool(settings.event_webhook)),
            dead_runs,
            reconcile,
            photo_groups,
            watched_folders(settings),
        ],
        resources={**build_resources(settings), **(resources or {})},
        # One process, so that the steps of a run share the models and the cached results.
        executor=dg.in_process_executor,
    )
