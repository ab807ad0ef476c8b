"""Writes a planned dataset: rows of one batch after the other, then the record."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from curation_features import __version__
from curation_features.dataset.card import dataset_card
from curation_features.dataset.digests import Digests, DigestSet, parse_digests
from curation_features.dataset.parts import Limits, PartsWriter, Versions
from curation_features.dataset.plan import UNKNOWN, Plan
from curation_features.dataset.record import CARD, KIND, RECORD, SUFFIX, card_digest, edited_card, is_file, read_record
from curation_features.dataset.schemas import conform
from curation_features.dataset.sources import Source, check_batch_id, checked_rows
from curation_features.dataset.targets import Target, replacing_file, replacing_folder
from curation_features.dataset.vectors import prepare_vectors, vectors_schema
from curation_features.errors import StoreError
from curation_features.storage.arrow import arrow_array

if TYPE_CHECKING:
    import pyarrow as pa
    from numpy.typing import NDArray

_PARTS = ("technical", "clip", "signals", "groups")  # with versions in the table
_FEATURES = {"compression": "zstd"}
_VECTORS = {"compression": "none", "use_dictionary": ["batch_id", "version_embedding"]}  # vectors do not compress


def write_dataset(plan: Plan, output: Path, advance: Callable[[int], object] = lambda rows: None) -> dict[str, Any]:
    """Write a dataset, and return its record. The old one at `output` is replaced on success.

    Args:
        plan: read; see `Plan.read`.
        output: a folder, or a file that ends with `.parquet`.
        advance: is called with the number of rows of each batch.

    Raises:
        StoreError: the output cannot be written, or no batch can be read.
    """
    card = edited_card(output, read_record(output))
    with (replacing_file if is_file(output) else replacing_folder)(output) as target:
        writer = _DatasetWriter(plan, target, card, single=is_file(output))
        try:
            for source in plan.sources:
                writer.add(source)
                advance(source.rows)
            return writer.finish()
        except BaseException:
            writer.abandon()
            raise


class _DatasetWriter:
    """Writes both tables of a dataset, batch by batch.

    Args:
        card: a `README.md` to keep.
        single: one file, which has the record in its metadata.
    """

    def __init__(self, plan: Plan, target: Target, card: bytes | None, *, single: bool) -> None:
        self._plan, self._target, self._kept_card, self._single = plan, target, card, single
        self._failed = dict(plan.failed)
        self._batches: dict[str, int] = {}
        self._copies = 0
        self._digests = DigestSet() if plan.options.distinct else None
        self._labels = {source.versions.get("clip", UNKNOWN): source.labels for source in plan.sources}
        self._schemas = {"features": plan.schema}
        if plan.options.embeddings:
            self._schemas["embeddings"] = vectors_schema(plan.dimension, float16=plan.options.float16)
        self._writers = {name: self._writer(name, schema) for name, schema in self._schemas.items()}

    def add(self, source: Source) -> None:
        """Write the rows of a batch. If a table of it is damaged, skip the batch, and name it in the record."""
        with ExitStack() as files:
            try:
                features, vectors = self._read(source, files)
            except StoreError as error:
                self._failed[source.batch_id] = str(error)
                return
            kept: list[pa.Array] = []
            self._batches[source.batch_id] = 0
            for rows in map(self._without_copies, features):
                self._batches[source.batch_id] += rows.num_rows
                kept.append(rows.column("photo_id"))
                self._writers["features"].add(rows, _versions_of(source))
            for rows in vectors:
                self._writers["embeddings"].add(self._of_photos(rows, kept), _vector_version_of(source))

    def finish(self) -> dict[str, Any]:
        """Write the last rows and the record, and return it. Raises `StoreError` if no batch could be read."""
        if not self._batches:
            raise StoreError("no table can be read:\n" + "\n".join(self._failed.values()))
        for writer in self._writers.values():
            writer.finish()
        record = self._record()
        card = dataset_card(record, self._schemas) if self._plan.options.layout == "huggingface" else None
        record["card"] = card and card_digest(card)
        if shown := self._kept_card or card:
            self._target.write(CARD, shown)
        self._target.write(RECORD, json.dumps(record, indent=1).encode())  # last: it marks a complete dataset
        return record

    def abandon(self) -> None:
        """Close the files of an interrupted run."""
        for writer in self._writers.values():
            writer.abandon()

    # Reading

    def _read(self, source: Source, files: ExitStack) -> tuple[Iterator[pa.RecordBatch], Iterator[pa.RecordBatch]]:
        """Return the rows of both tables, after all of them could be read. Raises `StoreError`."""
        features = checked_rows(source.path, source.found, source.batch_id, partial(self._prepare, source), files)
        if source.vectors is None:
            return features, iter(())
        prepare = partial(self._prepare_vectors, source)
        return features, checked_rows(source.vectors.path, source.vectors.found, source.batch_id, prepare, files)

    def _prepare(self, source: Source, rows: pa.RecordBatch) -> pa.RecordBatch:
        check_batch_id(rows, source.batch_id)
        if self._digests is not None:
            _digests_of(rows)  # raises for a damaged one
        return conform(rows, self._plan.schema)

    def _prepare_vectors(self, source: Source, rows: pa.RecordBatch) -> pa.RecordBatch:
        check_batch_id(rows, source.batch_id)
        version = source.vectors.version if source.vectors else None
        return prepare_vectors(rows, version, self._schemas["embeddings"])

    def _without_copies(self, rows: pa.RecordBatch) -> pa.RecordBatch:
        """Leave out photos with a digest that an earlier row has. A photo without a digest stays."""
        if self._digests is None:
            return rows
        places, digests = _digests_of(rows)
        is_first = np.ones(rows.num_rows, bool)
        is_first[places] = self._digests.add(digests)
        self._copies += int((~is_first).sum())
        return rows if is_first.all() else _take(rows, is_first)

    def _of_photos(self, rows: pa.RecordBatch, photo_ids: list[pa.Array]) -> pa.RecordBatch:
        """Leave out vectors of photos that were left out."""
        import pyarrow as pa
        import pyarrow.compute as pc

        if self._digests is None:
            return rows
        return rows.filter(pc.is_in(rows.column("photo_id"), value_set=pa.chunked_array(photo_ids, pa.string())))

    # Writing

    def _writer(self, name: str, schema: pa.Schema) -> PartsWriter:
        parquet = _FEATURES if name == "features" else _VECTORS
        options = self._plan.options
        limits = Limits() if self._single else Limits(options.rows_per_file, options.bytes_per_file)
        return PartsWriter(self._target, partial(_part_name, name), schema, limits, self._describe_file, parquet)

    def _describe_file(self, versions: Mapping[Versions, int]) -> dict[str, Any]:
        """The metadata of a file: of a single one the whole record, of others the versions of its rows."""
        return self._record(versions) if self._single else self._facts(versions)

    def _facts(self, versions: Mapping[Versions, int]) -> dict[str, Any]:
        by_part = _by_part(versions)
        labels = {version: list(self._labels[version]) for version in by_part.get("clip", ())}
        return {"versions": by_part, "vocabularies": labels}

    def _record(self, versions: Mapping[Versions, int] | None = None) -> dict[str, Any]:
        writers, plan = self._writers, self._plan
        if versions is None:
            versions = sum((writer.versions for writer in writers.values()), Counter())
        vectors = writers.get("embeddings")
        return {
            "kind": KIND,
            "release": __version__,
            "fingerprint": plan.fingerprint,
            "options": asdict(plan.options),
            "rows": sum(self._batches.values()),
            "embeddings": vectors and {"rows": vectors.rows, "dimension": plan.dimension},
            **self._facts(versions),
            "models": self._models(),
            "other_versions": plan.other_versions,
            "copies": self._copies,
            "files": {part.name: part.bytes for writer in writers.values() for part in writer.parts},
            "batches": self._batches,
            "unfinished": plan.unfinished,
            "failed": self._failed,
        }

    def _models(self) -> dict[str, str | None]:
        """The CLIP model of each version of embeddings."""
        found = [source.vectors for source in self._plan.sources if source.vectors]
        return {vectors.version or UNKNOWN: vectors.model for vectors in found}


def _part_name(table: str, number: int) -> str:
    return f"{table}/part-{number:05}{SUFFIX}"


def _versions_of(source: Source) -> Versions:
    return tuple((part, source.versions.get(part, UNKNOWN)) for part in _PARTS)


def _vector_version_of(source: Source) -> Versions:
    return (("embedding", (source.vectors and source.vectors.version) or UNKNOWN),)


def _by_part(versions: Mapping[Versions, int]) -> dict[str, dict[str, int]]:
    """Return the number of rows by part and version, most frequent first."""
    counts: dict[str, Counter[str]] = {}
    for combination, rows in versions.items():
        for part, version in combination:
            counts.setdefault(part, Counter())[version] += rows
    return {part: dict(counter.most_common()) for part, counter in counts.items()}


def _digests_of(rows: pa.RecordBatch) -> tuple[NDArray[np.intp], Digests]:
    """Return the places of the rows with a digest, and the digests. Raises `ValueError` for a damaged one."""
    place = rows.schema.get_field_index("sha256")
    texts = rows.column(place).to_pylist() if place >= 0 else []
    places = np.array([number for number, text in enumerate(texts) if text is not None], np.intp)
    return places, parse_digests([text for text in texts if text is not None])


def _take(rows: pa.RecordBatch, is_kept: NDArray[np.bool_]) -> pa.RecordBatch:
    import pyarrow as pa

    places: Any = np.flatnonzero(is_kept)
    return rows.take(arrow_array(places, pa.int64()))
