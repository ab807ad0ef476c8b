"""Deletes batches, single photos, and unreferenced files.

Only files inside the data folder are deleted, never through a symbolic link, and never the original of a photo. Files
that another batch refers to stay. The same call again completes an interrupted deletion.
"""

from curation_features.removal.batches import BatchRemoval, SharedPhotos, plan_removal, remove_batch
from curation_features.removal.files import collect
from curation_features.removal.photos import PhotoRemoval, PhotoSearch, remove_photo

__all__ = [
    "BatchRemoval",
    "PhotoRemoval",
    "PhotoSearch",
    "SharedPhotos",
    "collect",
    "plan_removal",
    "remove_batch",
    "remove_photo",
]
