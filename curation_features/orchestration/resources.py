"""Resources of assets and sensors: settings, device, models, stores and event sink, each replaceable.

An empty field takes the value of the project's settings. Tests and other deployments may also replace a resource with
an object of the library: `{"stages": FeatureStages(...), "store": ArtifactStore(...)}`.
"""

import os
from pathlib import Path
from typing import Any

import dagster as dg
from pydantic import Field

from curation_features.events.outbox import EventSink, Outbox
from curation_features.inbox.folders import Inbox
from curation_features.pipeline import FeatureStages, Models
from curation_features.settings import ENV_PREFIX, Settings, expand_home, load_settings
from curation_features.storage.artifacts import ArtifactStore
from curation_features.storage.cache import FeatureCache


class SettingsResource(dg.ConfigurableResource["SettingsResource"]):
    """The project's settings: defaults, `config/settings.toml`, the environment, then `overrides`."""

    root: str = Field(
        default="", description="The project's root. Empty: CURATION_FEATURES_ROOT or the current folder."
    )
    overrides: dict[str, str] = Field(
        default_factory=dict,
        description="Settings by name, which override all others: {'on_missing_weights': 'degrade'}.",
    )

    def settings(self) -> Settings:
        """Load the settings."""
        overrides = {f"{ENV_PREFIX}{name.upper()}": value for name, value in self.overrides.items()}
        return load_settings(self.root or None, {**os.environ, **overrides})


class DeviceResource(dg.ConfigurableResource["DeviceResource"]):
    """Device and precision of the models."""

    device: str = Field(default="", description="auto (MPS > CUDA > CPU), mps, cuda or cpu. Empty: as in the settings.")
    precision: str = Field(
        default="", description="auto (fp16 on MPS and CUDA), fp16 or fp32. Empty: as in the settings."
    )


class ModelsResource(dg.ConfigurableResource["ModelsResource"]):
    """The CLIP checkpoint and the weights of CLIP-IQA and BRISQUE; loaded on first use, once per run."""

    clip: str = Field(default="", description="hf-hub:ORG/REPO or local-dir:FOLDER. Empty: as in the settings.")
    clip_iqa_weights: str = Field(default="", description="File with CLIP-IQA's RN50. Empty: as in the settings.")
    brisque_weights: str = Field(default="", description="File with BRISQUE's regressor. Empty: as in the settings.")

    def models(self, settings: Settings) -> Models:
        """The models, not loaded yet. Override this method to replace them."""
        return Models.from_settings(settings)


class FeatureCacheResource(dg.ConfigurableResource["FeatureCacheResource"]):
    """The per-photo cache."""

    folder: str = Field(default="", description="Folder of the cache. Empty: cache/features in the data folder.")

    def cache(self, settings: Settings) -> FeatureCache:
        """Open the cache."""
        return FeatureCache(settings.root / self.folder if self.folder else settings.cache_path)


class ArtifactsResource(dg.ConfigurableResource["ArtifactsResource"]):
    """The data folder: manifests, stage tables, finished features, events and the quarantine."""

    folder: str = Field(default="", description="The data folder. Empty: as in the settings.")

    def path(self, settings: Settings) -> Path:
        """Path of the data folder."""
        return settings.root / self.folder if self.folder else settings.data_path


class EventSinkResource(dg.ConfigurableResource["EventSinkResource"]):
    """Webhook for `features.completed` events, in addition to their files."""

    webhook: str = Field(default="", description="URL of the webhook. Empty: as in the settings.")
    token: str = Field(default="", description="Bearer token for it, best as {env: NAME}. Empty: as in the settings.")

    def sink(self, settings: Settings) -> EventSink | None:
        """The remote sink, or None. Override this method to replace it."""
        url = self.webhook or settings.event_webhook
        if not url:
            return None
        from curation_features.events.webhook import WebhookSink  # imported here, since requests takes a while

        return WebhookSink(url, self.token or settings.event_webhook_token)


@dg.resource(required_resource_keys={"settings", "device", "models", "cache"})
def feature_stages(context: dg.InitResourceContext) -> FeatureStages:
    """The pipeline stages with models and cache: one object for all steps of a run."""
    project: Any = context.resources
    fields = {
        "device": project.device.device,
        "precision": project.device.precision,
        "model": project.models.clip,
        "clip_iqa_weights": project.models.clip_iqa_weights,
        "brisque_weights": project.models.brisque_weights,
    }
    settings = project.settings.settings().replace(**{name: value for name, value in fields.items() if value})
    return FeatureStages(settings, models=project.models.models(settings), cache=project.cache.cache(settings))


@dg.resource(required_resource_keys={"settings", "artifacts"})
def artifact_store(context: dg.InitResourceContext) -> ArtifactStore:
    """Manifests, stage tables and finished features in the data folder."""
    project: Any = context.resources
    return ArtifactStore(project.artifacts.path(project.settings.settings()))


@dg.resource(required_resource_keys={"settings", "artifacts", "sink"})
def event_outbox(context: dg.InitResourceContext) -> Outbox:
    """Event journal in the data folder, and delivery to the remote sink."""
    project: Any = context.resources
    settings = project.settings.settings()
    return Outbox(project.artifacts.path(settings), project.sink.sink(settings))


@dg.resource(required_resource_keys={"settings", "artifacts"})
def incoming_folders(context: dg.InitResourceContext) -> Inbox:
    """The watched folders and the quarantine."""
    project: Any = context.resources
    settings = project.settings.settings()
    data_path = project.artifacts.path(settings)
    folders = [data_path / "incoming", *(settings.root / folder for folder in settings.incoming_dirs)]
    return Inbox(folders, data_path / "quarantine")


def build_resources(settings: Settings) -> dict[str, object]:
    """The resources of a project, by name; the launchpad can configure all but the sink for one run."""
    return {
        "settings": SettingsResource.configure_at_launch(root=str(settings.root)),
        "device": DeviceResource.configure_at_launch(),
        "models": ModelsResource.configure_at_launch(),
        "cache": FeatureCacheResource.configure_at_launch(),
        "artifacts": ArtifactsResource.configure_at_launch(),
        "sink": dg.ResourceDefinition.hardcoded_resource(EventSinkResource()),  # no token in the launchpad
        "stages": feature_stages,
        "store": artifact_store,
        "events": event_outbox,
        "incoming": incoming_folders,
    }


def dagster_home(settings: Settings) -> Path:
    """Folder of Dagster's storage: `DAGSTER_HOME`, or `dagster` in the data folder."""
    given = os.environ.get("DAGSTER_HOME")
    return Path(expand_home(given)) if given else settings.data_path / "dagster"
