"""What the assets are given: settings, device, models, cache and artifact store, each replaceable on its own.

A field that is left empty takes the value of the project's settings. Tests and other deployments may also put the
library's own object in a resource's place: `{"stages": FeatureStages(...), "store": ArtifactStore(...)}`.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import dagster as dg
from pydantic import Field

from curation_features.cache import FeatureCache
from curation_features.settings import ENV_PREFIX, Settings, load_settings
from curation_features.stages import FeatureStages, Models
from curation_features.store import ArtifactStore


class SettingsResource(dg.ConfigurableResource["SettingsResource"]):
    """The project's settings: defaults, `config/settings.toml`, the environment, then `overrides`."""

    root: str = Field(
        default="", description="The project's root. Empty: CURATION_FEATURES_ROOT or the current folder."
    )
    overrides: dict[str, str] = Field(
        default_factory=dict, description="Settings by name, on top of all others: {'on_missing_weights': 'degrade'}."
    )

    def settings(self) -> Settings:
        """The settings, read now."""
        given = {f"{ENV_PREFIX}{name.upper()}": value for name, value in self.overrides.items()}
        return load_settings(self.root or None, {**os.environ, **given})


class DeviceResource(dg.ConfigurableResource["DeviceResource"]):
    """Where models run, and in which precision."""

    device: str = Field(default="", description="auto (MPS > CUDA > CPU), mps, cuda or cpu. Empty: as in the settings.")
    precision: str = Field(
        default="", description="auto (fp16 on MPS and CUDA), fp16 or fp32. Empty: as in the settings."
    )

    def apply(self, settings: Settings) -> Settings:
        """The settings with this device."""
        return _with(settings, {"device": self.device, "precision": self.precision})


class ModelsResource(dg.ConfigurableResource["ModelsResource"]):
    """The CLIP checkpoint and the weights of CLIP-IQA and BRISQUE. They load on first need, once per run."""

    clip: str = Field(default="", description="hf-hub:ORG/REPO or local-dir:FOLDER. Empty: as in the settings.")
    clip_iqa_weights: str = Field(default="", description="File with CLIP-IQA's RN50. Empty: as in the settings.")
    brisque_weights: str = Field(default="", description="File with BRISQUE's regressor. Empty: as in the settings.")

    def apply(self, settings: Settings) -> Settings:
        """The settings with these models."""
        fields = {
            "clip_iqa_weights": self.clip_iqa_weights,
            "brisque_weights": self.brisque_weights,
            "model": self.clip,
        }
        return _with(settings, fields)

    def models(self, settings: Settings) -> Models:
        """The models, none of them loaded yet. Override this to replace them."""
        return Models.from_settings(settings)


class FeatureCacheResource(dg.ConfigurableResource["FeatureCacheResource"]):
    """The per-photo cache."""

    folder: str = Field(default="", description="Folder of the cache. Empty: cache/features in the data folder.")

    def cache(self, settings: Settings) -> FeatureCache:
        """The cache."""
        return FeatureCache(settings.root / self.folder if self.folder else settings.cache_path)


@dg.resource(required_resource_keys={"settings", "device", "models", "cache"})
def feature_stages(context: dg.InitResourceContext) -> FeatureStages:
    """The steps over one batch, with everything they share: one object for all steps of a run."""
    project: Any = context.resources
    settings = project.models.apply(project.device.apply(project.settings.settings()))
    return FeatureStages(settings, models=project.models.models(settings), cache=project.cache.cache(settings))


@dg.resource(required_resource_keys={"settings"})
def artifact_store(context: dg.InitResourceContext) -> ArtifactStore:
    """Manifests, stage tables and finished features in the settings' data folder."""
    project: Any = context.resources
    return ArtifactStore(project.settings.settings().data_path)


def build_resources(settings: Settings) -> dict[str, object]:
    """The resources of a project, by name. Each field can also be set for one run, in Dagster's launchpad."""
    return {
        "settings": SettingsResource.configure_at_launch(root=str(settings.root)),
        "device": DeviceResource.configure_at_launch(),
        "models": ModelsResource.configure_at_launch(),
        "cache": FeatureCacheResource.configure_at_launch(),
        "stages": feature_stages,
        "store": artifact_store,
    }


def _with(settings: Settings, fields: Mapping[str, str]) -> Settings:
    return settings.replace(**{name: value for name, value in fields.items() if value})


def dagster_home(settings: Settings) -> Path:
    """Where Dagster keeps its runs: `DAGSTER_HOME`, or `dagster` in the data folder."""
    return Path(os.environ.get("DAGSTER_HOME") or settings.data_path / "dagster")
