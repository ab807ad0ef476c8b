"""Where model weights come from: found, fetched, identified, and loaded once.

No module here imports torch before a model is really loaded, so that a run in which everything is cached never does.
"""

from curation_features.weights.copies import Copies
from curation_features.weights.download import Progress, no_progress
from curation_features.weights.locate import locate_brisque, locate_clip, locate_clip_iqa
from curation_features.weights.pull import pull
from curation_features.weights.status import ModelStatus, model_status
from curation_features.weights.weights import ClipWeights, LazyModel, Loading, Weights

__all__ = [
    "ClipWeights",
    "Copies",
    "LazyModel",
    "Loading",
    "ModelStatus",
    "Progress",
    "Weights",
    "locate_brisque",
    "locate_clip",
    "locate_clip_iqa",
    "model_status",
    "no_progress",
    "pull",
]
