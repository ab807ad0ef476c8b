"""The references of all batches, to find out which files are still in use."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator
from pathlib import Path

from curation_features.errors import StoreError
from curation_features.inventory.batch_files import archived_manifests, named_batch, waiting_manifests
from curation_features.inventory.footprint import Footprint, artifacts_in, artifacts_of, feature_artifacts
from curation_features.inventory.places import (
    ACCEPTED,
    BATCHES,
    FEATURES,
    INGESTED,
    LATEST_EVENT,
    TABLES,
    files_of,
    is_announced,
    list_places,
    parse_object,
    read_object,
    read_regular,
)
from curation_features.manifest import document_digest
from curation_features.settings import Settings


class References:
    """The places of a project, listed once, and the footprints of its batches.

    Args:
        apart: a photo of which only the id is recorded.

    Attributes:
        waiting: footprints of the manifests that wait for the sensor, by batch id, or else path.
        listing: the files of each place.
        documented: the batches that have a manifest or features.
        batch_ids: these, and those that have any other file, sorted.

    Raises:
        StoreError: a folder cannot be listed, or a waiting manifest cannot be read.
    """

    def __init__(self, settings: Settings, apart: str | None = None) -> None:
        self._data_path = settings.data_path
        self._apart = apart
        # Waiting manifests come first: the sensor may accept one meanwhile, and it is seen either here or below.
        self.waiting = [self._waiting_footprint(path) for path in waiting_manifests(settings)]
        self._archived = archived_manifests(settings)
        self.listing = list_places(settings.data_path)
        self.documented = {*self._archived, *(name for place in BATCHES for name in self.listing[place])}
        self.batch_ids = sorted(self.documented.union(*self.listing.values()))

    def _waiting_footprint(self, path: Path) -> tuple[str, Footprint]:
        footprint = Footprint(apart=self._apart)
        try:
            footprint.add(artifacts_in(path))
        except StoreError as error:
            raise StoreError(f"{error}; if it is still being written, wait until the sensor has accepted it") from error
        return named_batch(path) or str(path), footprint

    def footprints(
        self, batch_ids: Iterable[str], *, tables: bool = False, progress: Callable[[int], None] | None = None
    ) -> Iterator[tuple[str, Footprint]]:
        """Yield the `photos` and `names` of each batch.

        Args:
            tables: also the `digests`, which only tables have.
            progress: called with 1 for each batch.

        Raises:
            StoreError: a document or a table cannot be read; names it.
        """
        for batch_id in batch_ids:
            footprint = Footprint(apart=self._apart)
            digests = self._add_manifests(footprint, batch_id)
            for path, digest in self._archived.get(batch_id, ()):
                if not any(known.startswith(digest) for known in digests):
                    footprint.add(artifacts_in(path))
            if batch_id in self.listing[FEATURES] and not self._are_made_from(digests, batch_id):
                footprint.add(feature_artifacts(self._data_path, batch_id))
            if tables or not digests:
                for place in TABLES:
                    if batch_id in self.listing[place]:
                        footprint.add_rows(place.path(self._data_path, batch_id))
            yield batch_id, footprint
            if progress:
                progress(1)

    def _add_manifests(self, footprint: Footprint, batch_id: str) -> set[str]:
        """Add the manifests of a batch, which are often identical, and return their digests."""
        digests, seen = set(), b""
        for place in (ACCEPTED, INGESTED):
            path = place.path(self._data_path, batch_id)
            try:
                data = read_regular(path)
            except FileNotFoundError:
                continue
            except OSError:
                read_object(path)  # raises a StoreError with the remedy
                continue
            if data != seen:
                document = parse_object(path, data)
                footprint.add(artifacts_of(document))
                digests.add(document_digest(document))
                seen = data
        return digests

    def _are_made_from(self, digests: Collection[str], batch_id: str) -> bool:
        """Whether the features of a batch were made from one of these manifests, with the same references."""
        if not is_announced(files_of(self.listing, batch_id)):
            return False
        try:
            data = read_object(LATEST_EVENT.path(self._data_path, batch_id)).get("data")
        except (StoreError, OSError):
            return False
        return isinstance(data, dict) and data.get("manifest") in digests
