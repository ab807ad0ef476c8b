"""Deletes batches, single photos, and what nothing refers to.

Only files inside the data folder are deleted, never through a symbolic link, and never the original of a photo. What
another batch refers to stays. A deletion that was interrupted is completed by the same call again.
"""

from curation_features.removal.batches import BatchRemoval, SharedPhotos, plan_removal, remove_batch
from curation_features.removal.collection import collect
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
