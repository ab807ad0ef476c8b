"""Parquet tables: one per stage, and the table of finished features.

A missing value is null in a table (a default in JSON). Tables hold the raw measurements with the scores, and the
metadata of each field describes the column. Rows are in batch order.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from curation_features.atomic_files import replacing, writing
from curation_features.schema import (
    EMBEDDING_NORM,
    FINGERPRINT,
    METRICS,
    SIGNAL_PARTS,
    SIGNALS,
    Embedding,
    FeatureError,
    LabelPrediction,
    LabelScore,
    Measurement,
    PhotoInfo,
    PhotoRecord,
    Signal,
    Signals,
    StoredFingerprint,
)
from curation_features.storage.arrow import arrow_array

if TYPE_CHECKING:
    import pyarrow as pa
    from numpy.typing import NDArray

Row = dict[str, Any]
ROWS_PER_GROUP = 1024
ROWS_READ = 128  # per batch: as Python objects, rows are large
METADATA_KEY = b"curation_features"


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a table. All but the type is also in the metadata of the field.

    Attributes:
        type: the Arrow type, as text.
        unit: unit of the numbers.
        range: minimum and maximum.
        best: the value of a good photo: a number of the range, `low` or `high`.
    """

    type: str
    description: str
    unit: str | None = None
    range: tuple[float, float] | None = None
    best: float | Literal["low", "high"] | None = None

    @property
    def facts(self) -> dict[str, str]:
        """Return `unit`, `range` ("[0, 1]") and `direction` ("1 is best"), if known."""
        best = self.best if self.best is None or isinstance(self.best, str) else f"{self.best:g}"
        facts = {
            "unit": self.unit,
            "range": self.range and "[{:g}, {:g}]".format(*self.range).replace("inf]", "inf)"),
            "direction": best and f"{best} is best",
        }
        return {name: text for name, text in facts.items() if text}

    @property
    def full_description(self) -> str:
        """Return the description and the facts as one text."""
        return "; ".join([self.description, *(f"{name} {text}" for name, text in self.facts.items())])


Columns = Mapping[str, Column]


@dataclass(frozen=True, slots=True)
class StageTable:
    """Conversion between records and the rows of a stage's table.

    Attributes:
        columns: the columns of the table.
        to_row: converts a record to a row.
        restore: sets the fields of a record from a row.
    """

    columns: Columns
    to_row: Callable[[PhotoRecord], Row]
    restore: Callable[[PhotoRecord, Row], None]


_ERROR = "list<struct<stage: string, reason: string, message: string>>"
_SHARE = (0.0, 1.0)
_PHOTO = {
    "photo_id": Column("string", "id of the photo"),
    "image_uri": Column("string", "the image that was analysed"),
    "sha256": Column("string", "digest of the bytes that were decoded; null if none could be decoded"),
    "format": Column("string", "real format of the file"),
    "width": Column("int32", "width of the upright image", "px"),
    "height": Column("int32", "height of the upright image", "px"),
    "errors": Column(_ERROR, "why a value is missing"),
}
_SCORES = {
    name: column
    for metric in METRICS
    for name, column in {
        metric.name: Column("double", metric.description, None, _SHARE, metric.best),
        **{raw.name: Column("double", raw.description, raw.unit, raw.range, raw.best) for raw in metric.raw},
    }.items()
}


def _signal_column(signal: Signal) -> Column:
    high = math.inf if signal.high is None else signal.high
    kind = "bool" if signal.name == "is_gray" else "double"
    return Column(kind, signal.description, signal.unit, (signal.low, high), signal.best)


_SIGNALS = {signal.name: _signal_column(signal) for signal in SIGNALS}
_FINGERPRINT = {FINGERPRINT: Column("binary", "what is compared of two photos (`fingerprints.encoding`)")}
_NORM = {EMBEDDING_NORM.name: _signal_column(EMBEDDING_NORM)}
_LABELS = {
    "clip_labels": Column(
        "list<struct<label: string, confidence: double, cosine_score: double>>",
        "the most probable labels, most probable first",
    ),
    "label_margin": Column("double", "confidence of the first label less that of the second", "probability", _SHARE),
    "label_cosines": Column(
        "list<double>", "cosine of every label of the vocabulary, in its order", "cosine", (-1.0, 1.0)
    ),
}


_INFO = ("sha256", "format", "width", "height")  # of `PhotoInfo`; cheaper than `asdict`


def _photo_row(record: PhotoRecord, errors: Iterable[FeatureError | None]) -> Row:
    problems = [record.failure] if record.failure else [error for error in errors if error]
    return {
        "photo_id": record.photo_id,
        "image_uri": record.image_uri,
        **{name: getattr(record.info, name, None) for name in _INFO},
        "errors": [asdict(error) for error in problems],
    }


def _parse_errors(row: Row) -> dict[str, FeatureError]:
    return {error["stage"]: FeatureError(**error) for error in row["errors"]}


def _score_columns(record: PhotoRecord) -> Row:
    row: Row = {}
    for metric in METRICS:
        measurement = record.measurements.get(metric.name, Measurement())
        row[metric.name] = measurement.score
        row.update({raw.name: measurement.raw.get(raw.name) for raw in metric.raw})
    return row


def _signal_columns(record: PhotoRecord) -> Row:
    """The signals as they were measured on the photo's pixels."""
    parts = {part: signals.values for part, signals in record.signals.items()}
    return {signal.name: parts.get(signal.part, {}).get(signal.name) for signal in SIGNALS}


def _technical_row(record: PhotoRecord) -> Row:
    fingerprint = record.fingerprint or StoredFingerprint()
    errors = [
        *(record.measurements[metric.name].error for metric in METRICS if metric.name in record.measurements),
        *(record.signals[part].error for part in SIGNAL_PARTS if part in record.signals),
        fingerprint.error,
    ]
    columns = {**_score_columns(record), **_signal_columns(record), FINGERPRINT: fingerprint.data}
    return {**_photo_row(record, errors), **columns}


def _restore_technical(record: PhotoRecord, row: Row) -> None:
    errors = _parse_errors(row)
    for metric in METRICS:
        raw = {item.name: row[item.name] for item in metric.raw if row[item.name] is not None}
        record.measurements[metric.name] = Measurement(row[metric.name], raw, errors.get(metric.name))
    for part in SIGNAL_PARTS:
        names = [signal.name for signal in SIGNALS if signal.part == part]
        if all(name in row for name in names):  # a table of an earlier release has none
            error = errors.get(part)
            record.signals[part] = Signals(error=error) if error else Signals({name: row[name] for name in names})
    data, error = row.get(FINGERPRINT), errors.get(FINGERPRINT)
    if data is not None or error is not None:
        record.fingerprint = StoredFingerprint(data, error)


def _embedding_row(record: PhotoRecord) -> Row:
    embedding = record.embedding or Embedding()
    columns = {
        "embedding": embedding.vector,
        "has_embedding": embedding.vector is not None,
        "embedding_norm": embedding.norm,
    }
    return {**_photo_row(record, [embedding.error]), **columns}


def _restore_embedding(record: PhotoRecord, row: Row) -> None:
    """Restore an embedding; the table of an earlier release has no norms."""
    error = _parse_errors(row).get("image_embedding")
    record.embedding = Embedding(row["embedding"], error, row.get("embedding_norm"))


def _label_columns(record: PhotoRecord) -> Row:
    prediction = record.prediction or LabelPrediction()
    measured = prediction.error is None and bool(prediction.cosines)
    return {
        "clip_labels": [label._asdict() for label in prediction.labels] if measured else None,
        "label_margin": prediction.margin if measured else None,
        "label_cosines": list(prediction.cosines) if measured else None,
    }


def _labels_row(record: PhotoRecord) -> Row:
    error = record.prediction.error if record.prediction else None
    return {**_photo_row(record, [error]), **_label_columns(record)}


def _restore_labels(record: PhotoRecord, row: Row) -> None:
    labels = tuple(LabelScore(**label) for label in row["clip_labels"] or ())
    error = next(iter(_parse_errors(row).values()), None)
    record.prediction = LabelPrediction(labels, tuple(row["label_cosines"] or ()), row["label_margin"], error)


STAGE_TABLES: Mapping[str, StageTable] = {
    "technical_metrics": StageTable(
        {**_PHOTO, **_SCORES, **_SIGNALS, **_FINGERPRINT}, _technical_row, _restore_technical
    ),
    "image_embeddings": StageTable(
        {
            **_PHOTO,
            "embedding": Column("list<float>", "CLIP image vector, of norm 1"),
            "has_embedding": Column("bool", "whether there is a vector"),
            **_NORM,
        },
        _embedding_row,
        _restore_embedding,
    ),
    "clip_labels": StageTable({**_PHOTO, **_LABELS}, _labels_row, _restore_labels),
}

GROUP_COLUMNS: Columns = {
    "group_id": Column("string", "id of the photo's group; null if it is in none"),
    "group_kind": Column("string", "copy (one picture), burst (one moment) or set (all are kept)"),
    "group_what": Column("string", "kind of a set or copy in words; often empty"),
    "group_rank": Column("int32", "place in the group; equal ranks cannot be told apart", None, (1, math.inf), 1),
    "group_size": Column("int32", "number of photos of the group", "photos", (2, math.inf)),
    "group_similarity": Column("double", "least similarity of two photos of the group", None, _SHARE),
    "group_copy_of": Column("string", "`photo_id` of a better copy of the same picture in the group"),
    "group_copy_of_path": Column("string", "path of that copy: its `original_uri`, or else its `image_uri`"),
    "group_reason": Column("string", "why the photo has its rank, in words"),
}
"""The group of a photo: `features.group` of its artifact."""

FEATURE_COLUMNS: Columns = {
    "batch_id": Column("string", "id of the batch"),
    "position": Column("int32", "place in the manifest, from 0"),
    "photo_id": _PHOTO["photo_id"],
    "original_uri": Column("string", "the photo as it was found"),
    **{name: _PHOTO[name] for name in ("image_uri", "sha256", "format", "width", "height")},
    "taken": Column("timestamp[ms]", "when the camera says it was taken (`exif.datetime`): its clock, without a zone"),
    "camera": Column("string", "`exif.camera`"),
    "lens": Column("string", "`exif.lens`"),
    "iso": Column("int32", "`exif.iso`", "ISO speed"),
    "status": Column("string", "ok, degraded (some value is missing) or failed (no value was measured)"),
    "errors": _PHOTO["errors"],
    **_SCORES,
    **_SIGNALS,
    **_NORM,
    "flags": Column("list<string>", "blurred, noisy, dark: what the signals say clearly"),
    "hints": Column("list<string>", "shaken, soft, bright, blocky: worth a look, and often no fault"),
    "flag_reasons": Column("list<string>", "each flag and hint with its measurement and limit, in words"),
    **GROUP_COLUMNS,
    "label": Column("string", "the most probable label"),
    "confidence": Column("double", "softmax over all labels, of the most probable one", "probability", _SHARE),
    **_LABELS,
    "version_technical": Column("string", "version of the technical scores"),
    "version_clip": Column("string", "version of the labels"),
    "version_signals": Column("string", "version of the signals"),
    "version_groups": Column("string", "version of the groups"),
    "artifact": Column("string", "the artifact as it came in, as JSON: every field of ingest and preprocess"),
}

EMBEDDING_COLUMNS: Columns = {
    "batch_id": FEATURE_COLUMNS["batch_id"],
    "photo_id": _PHOTO["photo_id"],
    "sha256": _PHOTO["sha256"],
    "embedding": Column("list<float>", "CLIP image vector, of norm 1; null if there is none"),
    **_NORM,
}

LATER_COLUMNS = frozenset({*_NORM, *GROUP_COLUMNS, "version_groups"})
"""Columns that tables of an earlier release lack; such a table stays valid."""

# Shared by all rows: `json.dumps` creates an encoder for each call with options.
_PLAIN = json.JSONEncoder(allow_nan=False)
_SORTED = json.JSONEncoder(allow_nan=False, sort_keys=True)

_DATETIME = re.compile(r"(\d{4}):(\d\d):(\d\d) (\d\d):(\d\d):(\d\d)", re.ASCII)
_INT32 = range(1, 2**31)


def taken_columns(artifact: Mapping[str, Any]) -> Row:
    """Return the columns on a photo's origin. Implausible values are None.

    `ingest` writes "Unknown" for a camera or a lens that the photo does not name: it counts as missing.
    """
    exif = artifact.get("exif")
    exif = exif if isinstance(exif, dict) else {}
    iso = exif.get("iso")
    return {
        "original_uri": artifact.get("original_uri"),
        "taken": taken_at(artifact),
        "camera": _known_name(exif.get("camera")),
        "lens": _known_name(exif.get("lens")),
        "iso": iso if type(iso) is int and iso in _INT32 else None,
    }


def taken_at(artifact: Mapping[str, Any]) -> datetime | None:
    """Return when a photo was taken, by the camera's clock; None if unknown."""
    exif = artifact.get("exif")
    value = exif.get("datetime") if isinstance(exif, dict) else None
    match = _DATETIME.fullmatch(value) if isinstance(value, str) else None
    try:
        return datetime(*map(int, match.groups())) if match else None  # type: ignore[arg-type]
    except ValueError:  # a camera without a clock: 0000:00:00 00:00:00
        return None


def _known_name(value: Any) -> str | None:
    return value if isinstance(value, str) and value not in ("", "Unknown") else None


def feature_row(batch_id: str, position: int, artifact: Mapping[str, Any], record: PhotoRecord) -> Row:
    """Return the row of one enriched artifact (`artifact` with its `features`)."""
    features = artifact["features"]
    labels = _label_columns(record)
    best = labels["clip_labels"][0] if labels["clip_labels"] else {"label": None, "confidence": None}
    plain = {name: value for name, value in artifact.items() if name != "features"}
    return {
        **_photo_row(record, ()),
        **taken_columns(artifact),
        "batch_id": batch_id,
        "position": position,
        "status": features["status"],
        "errors": features["errors"],
        **_score_columns(record),
        **features["signals"],
        "embedding_norm": features.get("embedding_norm"),  # features of an earlier release have none
        **flag_columns(features["flags"]),
        **group_columns(features.get("group")),
        "label": best["label"],
        "confidence": best["confidence"],
        **labels,
        "version_technical": features["version"]["technical"],
        "version_clip": features["version"]["clip"],
        "version_signals": features["version"]["signals"],
        "version_groups": features["version"].get("groups"),
        "artifact": _PLAIN.encode(plain),
    }


def flag_columns(flags: Sequence[Mapping[str, str]]) -> Row:
    """Return the columns of the flags of a feature record."""
    return {
        "flags": [flag["name"] for flag in flags if flag["kind"] == "flag"],
        "hints": [flag["name"] for flag in flags if flag["kind"] == "hint"],
        "flag_reasons": [f"{flag['name']}: {flag['reason']}" for flag in flags],
    }


def group_columns(group: Mapping[str, Any] | None) -> Row:
    """Return the columns of `group` of a feature record."""
    return {name: group and group[name.removeprefix("group_")] for name in GROUP_COLUMNS}


def group_of(row: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the `group` of `group_columns`; None if the photo is in no group."""
    return None if row["group_id"] is None else {name.removeprefix("group_"): row[name] for name in GROUP_COLUMNS}


@contextmanager
def table_writer(path: Path, columns: Columns, metadata: Mapping[str, Any]) -> Iterator[Callable[[Row], None]]:
    """Yield a function that adds a row; replace `path` on success.

    Raises:
        StoreError: the file cannot be written; the old file at `path` stays.
    """
    with writing(path), replacing(path) as temporary, rows_writer(temporary, columns, metadata) as add:
        yield add


@contextmanager
def rows_writer(
    path: Path, columns: Columns, metadata: Mapping[str, Any], **options: Any
) -> Iterator[Callable[[Row], None]]:
    """Yield a function that adds a row to a Parquet file. Raises `OSError`.

    Rows are written in groups, so that memory does not grow with the table.

    Args:
        options: passed to `pyarrow.parquet.ParquetWriter`.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = arrow_schema(columns, metadata)
    group: list[Row] = []

    def add(row: Row) -> None:
        group.append(row)
        if len(group) == ROWS_PER_GROUP:
            write_group()

    def write_group() -> None:
        if group:
            writer.write_table(_arrow_table(group, schema))
            group.clear()

    # If `ParquetWriter` opened the file, a failed last write would leave it open.
    with (
        pa.OSFile(str(path), "wb") as file,
        pq.ParquetWriter(file, schema, **{"compression": "zstd", **options}) as writer,
    ):
        yield add
        write_group()


def read_metadata(path: Path) -> dict[str, Any]:
    """Return the metadata passed to `table_writer`."""
    import pyarrow.parquet as pq

    stored = pq.read_schema(path).metadata or {}
    metadata: dict[str, Any] = json.loads(stored[METADATA_KEY])
    return metadata


def read_rows(path: Path, columns: Sequence[str] | None = None) -> Iterator[Row]:
    """Yield the rows of a table, with all columns or `columns`."""
    import pyarrow.parquet as pq

    with pq.ParquetFile(path) as file:
        for group in file.iter_batches(ROWS_READ, columns=columns):
            values = map(to_list, group.columns)
            yield from (dict(zip(group.schema.names, row, strict=True)) for row in zip(*values, strict=True))


def to_list(column: pa.Array) -> list[Any]:
    """Return the values of a column as Python objects; a `list<float>` as vectors (see `vectors`)."""
    import pyarrow as pa

    if pa.types.is_floating(column.type) and not column.null_count:
        return list(np.from_dlpack(column).tolist())  # a tenth of the time of `to_pylist`
    if pa.types.is_list(column.type) and pa.types.is_float32(column.type.value_type):
        return vectors(column)
    return list(column.to_pylist())


def vectors(column: pa.Array) -> list[NDArray[np.float32] | None]:
    """Return the vectors of a `list<float>` column as views of one array.

    Raises:
        ValueError: a number in a vector is null.
    """
    if column.values.null_count:
        raise ValueError("a vector has a number that is null")
    numbers: NDArray[Any] = np.from_dlpack(column.values)  # `to_numpy` would import pandas
    ends: NDArray[Any] = np.from_dlpack(column.offsets)
    valid = column.is_valid().to_pylist() if column.null_count else [True] * len(column)  # imports pyarrow.compute
    parts = zip(ends[:-1], ends[1:], valid, strict=True)
    return [numbers[begin:end] if is_valid else None for begin, end, is_valid in parts]


def column_names(path: Path) -> list[str]:
    """Return the names of a table's columns, in order."""
    import pyarrow.parquet as pq

    return list(pq.read_schema(path).names)


def row_count(path: Path) -> int:
    """Return the number of rows of a table."""
    import pyarrow.parquet as pq

    count: int = pq.read_metadata(path).num_rows
    return count


def record_of(row: Row) -> PhotoRecord:
    """Return a record with the photo columns of a stage's row."""
    info = PhotoInfo(row["sha256"], row["format"], row["width"], row["height"]) if row["sha256"] else None
    return PhotoRecord(row["photo_id"], row["image_uri"], info, _parse_errors(row).get("photo"))


_UNDIGESTED = frozenset({"image_uri", "embedding", "embedding_norm", FINGERPRINT})


def digested(row: Row) -> bytes:
    """Return the content of a stage's row for the digest that is the table's data version.

    The last bits of an embedding and its norm depend on the device, so the digest covers the photo and the model
    instead. Of a fingerprint it covers the photo and the version, too.
    """
    content = {name: value for name, value in row.items() if name not in _UNDIGESTED}
    return _SORTED.encode(content).encode() + b"\n"


def arrow_schema(columns: Columns, metadata: Mapping[str, Any] | None = None) -> pa.Schema:
    """Return the Arrow schema of `columns`, with their facts as field metadata."""
    import pyarrow as pa

    fields = [
        pa.field(name, _arrow_type(column.type), metadata={"description": column.description, **column.facts})
        for name, column in columns.items()
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
    return pa.type_for_alias(kind)


def _arrow_table(rows: Sequence[Row], schema: pa.Schema) -> pa.Table:
    import pyarrow as pa

    columns = [arrow_array([row[field.name] for row in rows], field.type) for field in schema]
    return pa.Table.from_arrays(columns, schema=schema)
