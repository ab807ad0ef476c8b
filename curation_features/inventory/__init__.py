"""Lists the data folder: batches, their files, stale batches and why, and unreferenced files.

Nothing here writes or deletes. Each folder is listed once, for any number of batches.
"""

from curation_features.inventory.batch_files import BatchFile, batch_files, total_bytes
from curation_features.inventory.entries import BatchEntry, flag_counts, known_batch_ids, list_batches, show_batch
from curation_features.inventory.footprint import footprint_of, photo_files
from curation_features.inventory.unreferenced import UnreferencedFiles

__all__ = [
    "BatchEntry",
    "BatchFile",
    "UnreferencedFiles",
    "batch_files",
    "flag_counts",
    "footprint_of",
    "known_batch_ids",
    "list_batches",
    "photo_files",
    "show_batch",
    "total_bytes",
]
