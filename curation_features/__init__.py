"""Photo features for curation: CLIP labels with confidences, and technical quality.

    from curation_features import FeaturesService, read_features
    result = FeaturesService().process(batch)
    photos = read_features()    # all finished batches as a pandas DataFrame

`__all__` is the public API; fakes for tests are in `curation_features.testing`. Importing the package loads neither
torch nor Dagster: names are imported on first use.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from curation_features.clip.classifier import CLIPClassifier
    from curation_features.dataset.gather import Gathered, gather_features
    from curation_features.errors import (
        BusyError,
        CurationError,
        EventError,
        InputError,
        InvalidWeightsError,
        ManifestError,
        MissingExtraError,
        MissingWeightsError,
        PhotoError,
        QueryError,
        ReasonedError,
        ResourceError,
        SettingsError,
        StorageAwayError,
        StoreError,
        SupersededError,
        UndefinedMetricError,
        WeightsError,
    )
    from curation_features.ingest.discovery import scan as scan_photos
    from curation_features.ingest.folder import find_photos, new_batch_id
    from curation_features.ingest.folder import ingest as ingest_photos
    from curation_features.library import LibraryGroups, update_groups
    from curation_features.photos.inputs import read_pixels
    from curation_features.pipeline import FeatureStages, Models
    from curation_features.schema import METRIC_NAMES
    from curation_features.search.library import Library
    from curation_features.service import FeaturesService
    from curation_features.settings import Settings, load_settings, packaged_file
    from curation_features.storage.frames import read_features
    from curation_features.storage.frames import read_features as load
    from curation_features.technical.analyzer import TechnicalQualityAnalyzer
    from curation_features.technical.image_signals import PhotoSignals, measure_signals
    from curation_features.weights import LazyModel

__version__ = "0.2.0"

__all__ = [
    "METRIC_NAMES",
    "BusyError",
    "CLIPClassifier",
    "CurationError",
    "EventError",
    "FeatureStages",
    "FeaturesService",
    "Gathered",
    "InputError",
    "InvalidWeightsError",
    "LazyModel",
    "Library",
    "LibraryGroups",
    "ManifestError",
    "MissingExtraError",
    "MissingWeightsError",
    "Models",
    "PhotoError",
    "PhotoSignals",
    "QueryError",
    "ReasonedError",
    "ResourceError",
    "Settings",
    "SettingsError",
    "StorageAwayError",
    "StoreError",
    "SupersededError",
    "TechnicalQualityAnalyzer",
    "UndefinedMetricError",
    "WeightsError",
    "__version__",
    "find_photos",
    "gather_features",
    "ingest_photos",
    "load",
    "load_settings",
    "measure_signals",
    "new_batch_id",
    "packaged_file",
    "read_features",
    "read_pixels",
    "scan_photos",
    "update_groups",
]

_HOME = {
    "CLIPClassifier": "clip.classifier",
    "FeatureStages": "pipeline",
    "FeaturesService": "service",
    "Gathered": "dataset.gather",
    "LazyModel": "weights",
    "Library": "search.library",
    "LibraryGroups": "library",
    "METRIC_NAMES": "schema",
    "Models": "pipeline",
    "PhotoSignals": "technical.image_signals",
    "Settings": "settings",
    "TechnicalQualityAnalyzer": "technical.analyzer",
    "find_photos": "ingest.folder",
    "gather_features": "dataset.gather",
    "ingest_photos": "ingest.folder:ingest",  # `curation_features.ingest` is the package
    "load": "storage.frames:read_features",  # earlier name
    "load_settings": "settings",
    "measure_signals": "technical.image_signals",
    "new_batch_id": "ingest.folder",
    "packaged_file": "settings",
    "read_features": "storage.frames",
    "read_pixels": "photos.inputs",
    "scan_photos": "ingest.discovery:scan",
    "update_groups": "library",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, _, attribute = _HOME.get(name, "errors").partition(":")
    return getattr(import_module(f"{__name__}.{module}"), attribute or name)


def __dir__() -> list[str]:
    return sorted(__all__)
