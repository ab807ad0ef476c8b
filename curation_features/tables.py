"""Records as Parquet: one table for each stage, and the table of finished features.

A table holds null where nothing was measured (JSON holds a default there), the raw measurements beside the scores, and
says in its metadata what a column means. Rows stand in the order of the batch.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from curation_features.arrow_arrays import arrow_array
from curation_features.files import cannot_write, replacing
from curation_features.schema import (
    METRICS,
    Embedding,
    FeatureError,
    Labelling,
    LabelScore,
    Measurement,
    PhotoInfo,
    PhotoRecord,
)

if TYPE_CHECKING:
    import pyarrow as pa

Row = dict[str, Any]
ROWS_PER_GROUP = 1024
ROWS_READ = 128  # at a time: as Python's objects they are large
METADATA_KEY = b"curation_features"


@dataclass(frozen=True, slots=True)
class StageTable:
    """How the records of one stage become rows and come back.

    Attributes:
        columns: name -> (Arrow type as text, description).
        to_row: the row of a record.
        restore: puts what a row holds back into a record.
        digested: the columns that make up the table's data version.
    """

    columns: Mapping[str, tuple[str, str]]
    to_row: Callable[[PhotoRecord], Row]
    restore: Callable[[PhotoRecord, Row], None]
    digested: tuple[str, ...]


_ERROR = "list<struct<stage: string, reason: string, message: string>>"
_PHOTO = {
    "photo_id": ("string", "id of the photo"),
    "image_uri": ("string", "the image that was analysed"),
    "sha256": ("string", "digest of the bytes that were decoded; null where none could be"),
    "format": ("string", "real format of the file"),
    "width": ("int32", "width of the upright image, px"),
    "height": ("int32", "height of the upright image, px"),
    "errors": (_ERROR, "why a value is missing"),
}
_SCORES = {
    name: column
    for metric in METRICS
    for name, column in {
        metric.name: ("double", f"{metric.description}; range [0, 1], {metric.best} is best"),
        **{raw.name: ("double", f"{raw.description} [{raw.unit}]") for raw in metric.raw},
    }.items()
}
_LABELS = {
    "clip_labels": (
        "list<struct<label: string, confidence: double, cosine_score: double>>",
        "the most probable labels, most probable first; confidence is a softmax probability",
    ),
    "label_margin": ("double", "confidence of the first label less that of the second"),
    "label_cosines": ("list<double>", "cosine of every label of the vocabulary, in its order"),
}


def _photo_row(record: PhotoRecord, errors: Iterable[FeatureError | None]) -> Row:
    info = record.info
    found = [record.failure] if record.failure else [error for error in errors if error]
    return {
        "photo_id": record.photo_id,
        "image_uri": record.image_uri,
        "sha256": info.sha256 if info else None,
        "format": info.format if info else None,
        "width": info.width if info else None,
        "height": info.height if info else None,
        "errors": [asdict(error) for error in found],
    }


def _errors(row: Row) -> dict[str, FeatureError]:
    return {error["stage"]: FeatureError(**error) for error in row["errors"]}


def _score_columns(record: PhotoRecord) -> Row:
    row: Row = {}
    for metric in METRICS:
        measurement = record.measurements.get(metric.name, Measurement())
        row[metric.name] = measurement.score
        row.update({raw.name: measurement.raw.get(raw.name) for raw in metric.raw})
    return row


def _technical_row(record: PhotoRecord) -> Row:
    errors = (record.measurements[metric.name].error for metric in METRICS if metric.name in record.measurements)
    return {**_photo_row(record, errors), **_score_columns(record)}


def _restore_technical(record: PhotoRecord, row: Row) -> None:
    errors = _errors(row)
    for metric in METRICS:
        raw = {item.name: row[item.name] for item in metric.raw if row[item.name] is not None}
        record.measurements[metric.name] = Measurement(row[metric.name], raw, errors.get(metric.name))


def _embedding_row(record: PhotoRecord) -> Row:
    embedding = record.embedding or Embedding()
    vector = None if embedding.vector is None else np.asarray(embedding.vector, dtype=np.float32)
    return {**_photo_row(record, [embedding.error]), "embedding": vector, "has_embedding": vector is not None}


def _restore_embedding(record: PhotoRecord, row: Row) -> None:
    vector = None if row["embedding"] is None else np.asarray(row["embedding"], dtype=np.float32)
    record.embedding = Embedding(vector, _errors(row).get("image_embedding"))


def _label_columns(record: PhotoRecord) -> Row:
    labelling = record.labelling or Labelling()
    measured = labelling.error is None and bool(labelling.cosines)
    return {
        "clip_labels": [label._asdict() for label in labelling.labels] if measured else None,
        "label_margin": labelling.margin if measured else None,
        "label_cosines": list(labelling.cosines) if measured else None,
    }


def _labels_row(record: PhotoRecord) -> Row:
    error = record.labelling.error if record.labelling else None
    return {**_photo_row(record, [error]), **_label_columns(record)}


def _restore_labels(record: PhotoRecord, row: Row) -> None:
    labels = tuple(LabelScore(**label) for label in row["clip_labels"] or ())
    error = next(iter(_errors(row).values()), None)
    record.labelling = Labelling(labels, tuple(row["label_cosines"] or ()), row["label_margin"], error)


def _all_but(columns: Mapping[str, object], *names: str) -> tuple[str, ...]:
    return tuple(name for name in columns if name not in names)


_TECHNICAL_COLUMNS = {**_PHOTO, **_SCORES}
_EMBEDDING_COLUMNS = {
    **_PHOTO,
    "embedding": ("list<float>", "CLIP image vector, unit norm"),
    "has_embedding": ("bool", "whether there is a vector"),
}
_LABEL_COLUMNS = {**_PHOTO, **_LABELS}

STAGE_TABLES: Mapping[str, StageTable] = {
    "technical_metrics": StageTable(
        _TECHNICAL_COLUMNS, _technical_row, _restore_technical, _all_but(_TECHNICAL_COLUMNS, "image_uri")
    ),
    # A vector may differ in its last bits from one device to the next: the bytes of the photo and the model decide.
    "image_embeddings": StageTable(
        _EMBEDDING_COLUMNS, _embedding_row, _restore_embedding, _all_but(_EMBEDDING_COLUMNS, "image_uri", "embedding")
    ),
    "clip_labels": StageTable(_LABEL_COLUMNS, _labels_row, _restore_labels, _all_but(_LABEL_COLUMNS, "image_uri")),
}

FEATURE_COLUMNS: Mapping[str, tuple[str, str]] = {
    "batch_id": ("string", "id of the batch"),
    "position": ("int32", "place in the manifest, from 0"),
    **{name: column for name, column in _PHOTO.items() if name != "errors"},
    "status": ("string", "ok, degraded (some value is missing) or failed (no value was measured)"),
    "errors": _PHOTO["errors"],
    **_SCORES,
    "label": ("string", "the most probable label"),
    "confidence": ("double", "softmax probability of that label"),
    **_LABELS,
    "version_technical": ("string", "version of the technical scores"),
    "version_clip": ("string", "version of the labels"),
    "artifact": ("string", "the artifact as it came in, as JSON: every field of ingest and preprocess"),
}


def feature_row(batch_id: str, position: int, artifact: Mapping[str, Any], record: PhotoRecord) -> Row:
    """The row of one enriched artifact (`artifact` with its `features`)."""
    features = artifact["features"]
    labels = _label_columns(record)
    best = labels["clip_labels"][0] if labels["clip_labels"] else {"label": None, "confidence": None}
    plain = {name: value for name, value in artifact.items() if name != "features"}
    return {
        **_photo_row(record, ()),
        "batch_id": batch_id,
        "position": position,
        "status": features["status"],
        "errors": features["errors"],
        **_score_columns(record),
        "label": best["label"],
        "confidence": best["confidence"],
        **labels,
        "version_technical": features["version"]["technical"],
        "version_clip": features["version"]["clip"],
        "artifact": json.dumps(plain, allow_nan=False),
    }


@contextmanager
def table_writer(
    path: Path, columns: Mapping[str, tuple[str, str]], metadata: Mapping[str, Any]
) -> Iterator[Callable[[Row], None]]:
    """Give a function that adds a row to the Parquet file at `path`, which appears when the block succeeds.

    Rows are written in groups, so that memory does not grow with the table.

    Raises:
        StoreError: the file cannot be written; what was at `path` before is intact.
    """
    import pyarrow.parquet as pq

    schema = arrow_schema(columns, metadata)
    waiting: list[Row] = []

    def add(row: Row) -> None:
        waiting.append(row)
        if len(waiting) == ROWS_PER_GROUP:
            flush()

    def flush() -> None:
        if waiting:
            writer.write_table(_arrow_table(waiting, schema))
            waiting.clear()

    try:
        with replacing(path) as temporary, pq.ParquetWriter(temporary, schema, compression="zstd") as writer:
            yield add
            flush()
    except OSError as error:
        raise cannot_write(path, error) from error


def read_metadata(path: Path) -> dict[str, Any]:
    """The metadata that was given to `write_table`."""
    import pyarrow.parquet as pq

    stored = pq.read_schema(path).metadata or {}
    metadata: dict[str, Any] = json.loads(stored[METADATA_KEY])
    return metadata


def read_rows(path: Path, columns: Sequence[str] | None = None) -> Iterator[Row]:
    """The rows of a table in order, some at a time; of all columns, or of those that are named."""
    import pyarrow.parquet as pq

    with pq.ParquetFile(path) as file:
        for group in file.iter_batches(ROWS_READ, columns=columns):
            yield from group.to_pylist()


def row_count(path: Path) -> int:
    """How many rows a table has."""
    import pyarrow.parquet as pq

    count: int = pq.read_metadata(path).num_rows
    return count


def record_of(row: Row) -> PhotoRecord:
    """A record with the photo part of a stage's row."""
    info = PhotoInfo(row["sha256"], row["format"], row["width"], row["height"]) if row["sha256"] else None
    return PhotoRecord(row["photo_id"], row["image_uri"], info, _errors(row).get("photo"))


class RowDigest:
    """A digest over rows: the data version of a table.

    Args:
        names: the columns that count.
        inputs: what else counts.
    """

    def __init__(self, names: Sequence[str], *inputs: str) -> None:
        self._names = names
        self._hash = hashlib.sha256("\n".join(inputs).encode())

    def add(self, row: Row) -> None:
        """Take in one row."""
        content = {name: row[name] for name in self._names}
        self._hash.update(json.dumps(content, sort_keys=True, allow_nan=False).encode() + b"\n")

    def hexdigest(self) -> str:
        """The digest of the rows so far."""
        return self._hash.hexdigest()


def arrow_schema(columns: Mapping[str, tuple[str, str]], metadata: Mapping[str, Any] | None = None) -> pa.Schema:
    """The Arrow schema of `columns`, each with its description."""
    import pyarrow as pa

    fields = [
        pa.field(name, _arrow_type(kind), metadata={"description": text}) for name, (kind, text) in columns.items()
    ]
    extra = {METADATA_KEY: json.dumps(metadata or {}, sort_keys=True).encode()}
    return pa.schema(fields, metadata=extra)


def _arrow_type(kind: str) -> pa.DataType:
    import pyarrow as pa

    if kind.startswith("list<"):
        return pa.list_(_arrow_type(kind[5:-1]))
    if kind.startswith("struct<"):
        parts = (part.split(": ") for part in kind[7:-1].split(", "))
        return pa.struct([(name, _arrow_type(inner)) for name, inner in parts])
    simple = {
        "string": pa.string(),
        "double": pa.float64(),
        "float": pa.float32(),
        "int32": pa.int32(),
        "bool": pa.bool_(),
    }
    return simple[kind]


def _arrow_table(rows: Sequence[Row], schema: pa.Schema) -> pa.Table:
    import pyarrow as pa

    columns = [arrow_array([row[field.name] for row in rows], field.type) for field in schema]
    return pa.Table.from_arrays(columns, schema=schema)
