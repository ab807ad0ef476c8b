"""Removes photos from all that searches have written, before and after their files are deleted."""

from collections.abc import Collection
from pathlib import Path

from curation_features.atomic_files import writing
from curation_features.search.indexing import forget_batches

PAGE = "search.html"
"""The page of the last search, in the data folder."""


def forget(data_path: Path, batch_ids: Collection[str]) -> None:
    """Erase batches from the index, and delete the page of the last search.

    The next update of the index adds the batches that still exist. An update while their files are being deleted may
    add them, too: call this before and afterwards.

    Raises:
        StoreError: a file cannot be written or deleted.
    """
    page = data_path / PAGE
    with writing(page):
        page.unlink(missing_ok=True)
    forget_batches(data_path, batch_ids)
