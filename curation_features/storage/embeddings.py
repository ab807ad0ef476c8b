"""The image vectors of a batch, in a file of their own that is written as they come.

It has one row for each `photo_id` of the batch, so that a join on `batch_id` and `photo_id` gives each row of the
features table a vector and doubles none: artifacts of one photo have rows of their own there. Photos with a vector come
first, in the order of the batch, then those without.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from curation_features.atomic_files import cannot_write, flush, replacing
from curation_features.schema import PhotoRecord
from curation_features.storage.tables import EMBEDDING_COLUMNS, Row, rows_writer

_PLAIN = {"use_dictionary": ["batch_id"], "compression": "none"}  # vectors become no smaller, only later


class EmbeddingsWriter:
    """The vectors of one batch on their way to `path`; memory does not grow by them.

    Every method raises `StoreError` where the disk does not take them.

    Args:
        path: the file's final name.
        place: holds its temporary name until it is published.
        batch_id: the batch.
        source: the file's metadata, but for the vectors' `dimension`: `model` and `version`.
    """

    def __init__(self, path: Path, place: ExitStack, batch_id: str, source: Mapping[str, str | None]) -> None:
        self.published = False
        self._path = path
        self._place = place
        self._batch_id = batch_id
        self._source = source
        self._rows = ExitStack()
        self._put: Callable[[Row], None] | None = None
        self._written: set[str] = set()
        self._without: dict[str, str | None] = {}
        with _writing(path):
            self._temporary = place.enter_context(replacing(path))

    def add(self, record: PhotoRecord) -> None:
        """Take a photo's vector. Of several records of one `photo_id` the first one that has a vector counts."""
        sha256 = record.info.sha256 if record.info else None
        vector = record.embedding.vector if record.embedding else None
        if vector is None:
            self._without.setdefault(record.photo_id, sha256)
        elif record.photo_id not in self._written:
            self._written.add(record.photo_id)
            self._write(record.photo_id, sha256, vector)

    def finish(self) -> None:
        """Write what is left, down to the disk; nothing but the final name is missing then."""
        for photo_id, sha256 in self._without.items():
            if photo_id not in self._written:
                self._write(photo_id, sha256, None)
        with _writing(self._path):
            self._opened(None)
            self._rows.close()
            flush(self._temporary)

    def publish(self) -> None:
        """Give the finished file its final name."""
        with _writing(self._path):
            self._place.close()
        self.published = True

    def close(self) -> None:
        """Let go of what is open; what was not finished is lost."""
        with suppress(OSError):
            self._rows.close()

    def _write(self, photo_id: str, sha256: str | None, vector: Any) -> None:
        row = {"batch_id": self._batch_id, "photo_id": photo_id, "sha256": sha256, "embedding": vector}
        with _writing(self._path):
            self._opened(None if vector is None else len(vector))(row)

    def _opened(self, dimension: int | None) -> Callable[[Row], None]:
        """Opened with the first row: a vector, if there is any, tells their dimension."""
        if self._put is None:
            metadata = {**self._source, "dimension": dimension}
            self._put = self._rows.enter_context(rows_writer(self._temporary, EMBEDDING_COLUMNS, metadata, **_PLAIN))
        return self._put


@contextmanager
def embeddings_writer(path: Path, batch_id: str, source: Mapping[str, str | None]) -> Iterator[EmbeddingsWriter]:
    """A file for the vectors of a batch, which leaves no trace unless it is published within the block.

    Raises:
        StoreError: it cannot be made.
    """
    with suppress(_UnpublishedError), ExitStack() as place:
        file = EmbeddingsWriter(path, place, batch_id, source)
        try:
            yield file
        finally:
            file.close()
        if not file.published:
            raise _UnpublishedError


class _UnpublishedError(Exception):
    """Makes a temporary file go away."""


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise cannot_write(path, error) from error
