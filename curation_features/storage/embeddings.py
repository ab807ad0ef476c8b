"""Image embeddings of a batch as a Parquet file, written row-wise.

The file has one row per `photo_id` of the batch. A join with the features table on `batch_id` and `photo_id` therefore
gives each row of that table at most one embedding and duplicates none, even if several artifacts share a photo. Photos
with an embedding come first, in batch order, then those without.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress
from pathlib import Path

from curation_features.atomic_files import writing
from curation_features.schema import Embedding, PhotoRecord
from curation_features.storage.tables import EMBEDDING_COLUMNS, Row, rows_writer

_OPTIONS = {"use_dictionary": ["batch_id"], "compression": "none"}  # compression saves no space here, only costs time


class EmbeddingsWriter:
    """Writes the embeddings of a batch row by row, in constant memory.

    `ArtifactStore.write_features` gives the file its final name. Every method raises `StoreError` if the disk is full.

    Attributes:
        path: the final path.
        temporary: the path written to.
    """

    def __init__(self, path: Path, temporary: Path, batch_id: str, source: Mapping[str, str | None]) -> None:
        self.path = path
        self.temporary = temporary
        self._batch_id = batch_id
        self._source = source
        self._file = ExitStack()
        self._add_row: Callable[[Row], None] | None = None
        self._written: set[str] = set()
        self._missing: dict[str, str | None] = {}

    def add(self, record: PhotoRecord) -> None:
        """Write a photo's embedding. The first embedding of a `photo_id` counts."""
        sha256 = record.info.sha256 if record.info else None
        if record.embedding is None or record.embedding.vector is None:
            self._missing.setdefault(record.photo_id, sha256)
        elif record.photo_id not in self._written:
            self._written.add(record.photo_id)
            self._write(record.photo_id, sha256, record.embedding)

    def finish(self) -> None:
        """Write the photos without an embedding, and close the file."""
        for photo_id, sha256 in self._missing.items():
            if photo_id not in self._written:
                self._write(photo_id, sha256, Embedding())
        with writing(self.path):
            self._open(None)
            self._file.close()

    def close(self) -> None:
        """Close the file of an interrupted run."""
        with suppress(OSError):
            self._file.close()

    def _write(self, photo_id: str, sha256: str | None, embedding: Embedding) -> None:
        row = {
            "batch_id": self._batch_id,
            "photo_id": photo_id,
            "sha256": sha256,
            "embedding": embedding.vector,
            "embedding_norm": embedding.norm,
        }
        with writing(self.path):
            self._open(None if embedding.vector is None else len(embedding.vector))(row)

    def _open(self, dimension: int | None) -> Callable[[Row], None]:
        """Open the file with the first row, which gives the `dimension`."""
        if self._add_row is None:
            metadata = {**self._source, "dimension": dimension}
            rows = rows_writer(self.temporary, EMBEDDING_COLUMNS, metadata, **_OPTIONS)
            self._add_row = self._file.enter_context(rows)
        return self._add_row
