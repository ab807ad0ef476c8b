"""What is in the data folder: batches, the files of each, what is stale and why, and what nothing refers to.

Nothing here writes or deletes. Folders are listed once, however many batches there are.
"""

from curation_features.inventory.batch_files import BatchFile, batch_files, photo_files, total_bytes
from curation_features.inventory.entries import BatchEntry, known_batch_ids, list_batches, show_batch
from curation_features.inventory.footprint import Footprint, footprint_of
from curation_features.inventory.places import list_places
from curation_features.inventory.staleness import REASONS, Stale
from curation_features.inventory.unreferenced import UnreferencedFiles

__all__ = [
    "REASONS",
    "BatchEntry",
    "BatchFile",
    "Footprint",
    "Stale",
    "UnreferencedFiles",
    "batch_files",
    "footprint_of",
    "known_batch_ids",
    "list_batches",
    "list_places",
    "photo_files",
    "show_batch",
    "total_bytes",
]
