"""The photos of all batches together: their groups, made incrementally."""

from curation_features.library.forget import forget_batch, forget_photo
from curation_features.library.listing import ListedGroup, ListedPhoto, list_groups
from curation_features.library.update import GroupsUpdate, LibraryGroups, is_due, update_groups

__all__ = [
    "GroupsUpdate",
    "LibraryGroups",
    "ListedGroup",
    "ListedPhoto",
    "forget_batch",
    "forget_photo",
    "is_due",
    "list_groups",
    "update_groups",
]
