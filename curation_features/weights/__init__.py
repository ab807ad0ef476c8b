"""Model weights: find, fetch and identify them, and load each model once.

No module here imports torch before a model loads, so that a run whose results are all cached never imports it.
"""

from curation_features.weights.assembly import Copies
from curation_features.weights.catalog import BundledFile, KnownFile, brisque_file, clip_iqa_file
from curation_features.weights.download import Progress, no_progress
from curation_features.weights.locate import ModelStatus, locate, model_status, pull
from curation_features.weights.weights import ClipWeights, LazyModel, Loading, Weights

__all__ = [
    "BundledFile",
    "ClipWeights",
    "Copies",
    "KnownFile",
    "LazyModel",
    "Loading",
    "ModelStatus",
    "Progress",
    "Weights",
    "brisque_file",
    "clip_iqa_file",
    "locate",
    "model_status",
    "no_progress",
    "pull",
]
