"""Photo features for curation: CLIP labels with confidences, and technical quality.

    from curation_features import FeaturesService
    result = FeaturesService().process(batch)
    photos = curation_features.load()        # all finished batches as a pandas DataFrame

Importing this package loads neither torch nor Dagster; names are imported when they are first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from curation_features.clip.classifier import CLIPClassifier
    from curation_features.errors import (
        CurationError,
        InvalidWeightsError,
        ManifestError,
        MissingWeightsError,
        PhotoError,
        ResourceError,
        SettingsError,
        StoreError,
        WeightsError,
    )
    from curation_features.service import FeaturesService
    from curation_features.settings import Settings, load_settings
    from curation_features.storage.frames import load, read_features
    from curation_features.technical.analyzer import TechnicalQualityAnalyzer

__version__ = "0.2.0"

__all__ = [
    "CLIPClassifier",
    "CurationError",
    "FeaturesService",
    "InvalidWeightsError",
    "ManifestError",
    "MissingWeightsError",
    "PhotoError",
    "ResourceError",
    "Settings",
    "SettingsError",
    "StoreError",
    "TechnicalQualityAnalyzer",
    "WeightsError",
    "__version__",
    "load",
    "load_settings",
    "read_features",
]

_HOME = {
    "CLIPClassifier": "clip.classifier",
    "CurationError": "errors",
    "FeaturesService": "service",
    "InvalidWeightsError": "errors",
    "ManifestError": "errors",
    "MissingWeightsError": "errors",
    "PhotoError": "errors",
    "ResourceError": "errors",
    "Settings": "settings",
    "SettingsError": "errors",
    "StoreError": "errors",
    "TechnicalQualityAnalyzer": "technical.analyzer",
    "WeightsError": "errors",
    "load": "storage.frames",
    "load_settings": "settings",
    "read_features": "storage.frames",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
