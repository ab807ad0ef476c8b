"""Compare the JSON, the table and the embeddings of a finished batch with its manifest and with each other."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from curation_features.atomic_files import open_regular
from curation_features.manifest import Artifact, Batch, parse_json
from curation_features.schema import EMBEDDING_NORM, METRIC_NAMES, UNIT_NORM_TOLERANCE
from curation_features.storage.tables import (
    EMBEDDING_COLUMNS,
    FEATURE_COLUMNS,
    LATER_COLUMNS,
    ROWS_PER_GROUP,
    Columns,
    Row,
    arrow_schema,
    flag_columns,
    group_columns,
    read_rows,
    taken_columns,
    to_list,
)
from curation_features.text import inert
from curation_features.verification.record import defaults_of, feature_problems
from curation_features.verification.report import COMPLETE, FINITE, IN_RANGE, UNCHANGED, Check, Report
from curation_features.verification.values import find_difference, find_non_finite, format_value

if TYPE_CHECKING:
    import pyarrow as pa
    from numpy.typing import NDArray

Key = tuple[str, int]
"""A photo_id, and the number of artifacts with the same photo_id so far."""


def verify_document(batch: Batch, path: Path, report: Report) -> dict[Key, Mapping[str, Any]]:
    """Check the JSON, and return its valid feature records.

    Raises:
        OSError, ValueError, RecursionError: a consumer could not read it.
    """
    with open_regular(path) as file:
        document = parse_json(file.read().decode())
    if not isinstance(document, dict) or not isinstance(document.get("artifacts"), list):
        raise ValueError("is not a JSON object with a list of artifacts")
    top = {**document, "artifacts": None}
    if problem := find_difference({**batch.document, "artifacts": None}, top):
        report.add(UNCHANGED, "top level", problem)
    for problem in find_non_finite(top):
        report.add(FINITE, "top level", problem)
    keys = _keys_of(artifact.photo_id for artifact in batch.artifacts)
    accepted = dict(zip(keys, batch.document["artifacts"], strict=True))
    valid: dict[Key, Mapping[str, Any]] = {}
    photos = _PhotosOfFile("artifacts[{}]", report)
    for artifact in document["artifacts"]:
        key = photos.add(artifact.get("photo_id") if isinstance(artifact, dict) else None)
        photos.report(FINITE, *find_non_finite(artifact))
        if key in accepted:
            photos.report(UNCHANGED, find_difference(_metadata_of(accepted[key]), _metadata_of(artifact)))
            problems = feature_problems(artifact.get("features"))
            photos.report(IN_RANGE, *problems)
            if not problems:
                valid[key] = artifact["features"]
    photos.check_order(keys)
    return valid


def verify_table(batch: Batch, valid: Mapping[Key, Mapping[str, Any]], path: Path, report: Report) -> None:
    """Check the table; `valid` are the valid feature records of the JSON.

    Raises:
        OSError, ValueError, RuntimeError: it cannot be read to its end.
    """
    usable = _usable_columns(path, FEATURE_COLUMNS, ["photo_id"], "table", report)
    if not usable:
        return
    keys = _keys_of(artifact.photo_id for artifact in batch.artifacts)
    artifacts = dict(zip(keys, batch.artifacts, strict=True))
    photos = _PhotosOfFile("row {}", report)
    for row, non_finite in _read_table(path, usable - {"label_cosines"}):  # large, and not compared
        key = photos.add(row["photo_id"])
        photos.report(FINITE, *non_finite)
        if key in artifacts:
            for check, problem in _row_problems(row, batch, artifacts[key], valid.get(key)):
                photos.report(check, problem)
    photos.check_order(keys)


def verify_embeddings(batch: Batch, path: Path, report: Report) -> None:
    """Check the embeddings file: one row per `photo_id`, those with an embedding first.

    Raises:
        OSError, ValueError, RuntimeError: it cannot be read to its end.
    """
    needed = ["batch_id", "photo_id", "embedding"]
    usable = _usable_columns(path, EMBEDDING_COLUMNS, needed, "embeddings", report)
    if not usable:
        return
    photos = _PhotosOfFile("embeddings, row {}", report)
    measured: set[Key] = set()
    dimension = 0
    for row in read_rows(path, [*needed, *usable.intersection([EMBEDDING_NORM.name])]):
        key = photos.add(row["photo_id"])
        if row["batch_id"] != batch.batch_id:
            photos.report(COMPLETE, "batch_id: differs from the manifest")
        vector = row["embedding"]
        for check, problem in _norm_problems(row.get(EMBEDDING_NORM.name), vector is not None):
            photos.report(check, problem)
        if vector is None:
            continue
        measured.add(key)
        dimension = dimension or len(vector)
        norm = float(np.linalg.norm(vector))
        if len(vector) != dimension:
            photos.report(IN_RANGE, f"embedding: has {len(vector)} numbers instead of {dimension}")
        if not np.isfinite(vector).all():
            photos.report(FINITE, "embedding: is not finite")
        elif abs(norm - 1) > UNIT_NORM_TOLERANCE:
            photos.report(IN_RANGE, f"embedding: has norm {norm:.6g} instead of 1")
    keys = _keys_of(dict.fromkeys(artifact.photo_id for artifact in batch.artifacts))
    photos.check_order(sorted(keys, key=lambda key: key not in measured))


def _norm_problems(norm: float | None, has_vector: bool) -> Iterator[tuple[Check, str]]:
    """Yield the problems of the norm of an embedding before it was normalised; None: unknown."""
    if norm is None:
        return
    if not math.isfinite(norm):
        yield FINITE, "embedding_norm: is not finite"
    elif norm < EMBEDDING_NORM.low:
        yield IN_RANGE, f"embedding_norm: is {norm:.6g}, which is negative"
    elif not has_vector:
        yield IN_RANGE, "embedding_norm: belongs to no vector"


def _metadata_of(artifact: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in artifact.items() if name != "features"}


# --- Photos ---


class _Numbering(Counter[str]):
    """Numbers the artifacts of each photo."""

    def key(self, photo_id: str) -> Key:
        """Return the key of the next artifact with this `photo_id`."""
        self[photo_id] += 1
        return photo_id, self[photo_id]


class _PhotosOfFile:
    """The photos of one file in order, to compare with the manifest.

    Args:
        place: location of a photo in reports, such as `row {}`, with `{}` for its index.
    """

    def __init__(self, place: str, report: Report) -> None:
        self._place = place
        self._report = report
        self._keys: list[Key] = []
        self._numbering = _Numbering()

    def add(self, photo_id: Any) -> Key:
        """Add the next photo; anything but text gets an unknown key."""
        self._keys.append(self._numbering.key(photo_id if isinstance(photo_id, str) else ""))
        return self._keys[-1]

    def report(self, check: Check, *problems: str) -> None:
        """Report problems of the last photo; empty texts are none."""
        for problem in filter(None, problems):
            self._report_at(len(self._keys) - 1, self._keys[-1], check, problem)

    def check_order(self, expected: Sequence[Key]) -> None:
        """Report photos that are missing, too many or out of order."""
        known, present = set(expected), set(self._keys)
        for index, key in enumerate(expected):
            if key not in present:
                self._report_at(index, key, COMPLETE, "is missing")
        order = (key for key in expected if key in present)
        for index, key in enumerate(self._keys):
            if key not in known:
                self._report_at(index, key, COMPLETE, "is not in the manifest, or occurs more often than in it")
            elif key != next(order):
                self._report_at(index, key, COMPLETE, "is out of order")

    def _report_at(self, index: int, key: Key, check: Check, problem: str) -> None:
        photo = f"photo {inert(key[0], 15)}" if key[0] else "no photo_id"
        self._report.add(check, f"{self._place.format(index)} ({photo})", problem)


def _keys_of(photo_ids: Iterable[str]) -> list[Key]:
    return list(map(_Numbering().key, photo_ids))


# --- Tables ---


def _usable_columns(path: Path, columns: Columns, needed: Collection[str], name: str, report: Report) -> frozenset[str]:
    """Compare a file's columns with the expected ones; return the correct ones, or none if a needed one is wrong.

    Args:
        name: the file's name in the report.
    """
    import pyarrow.parquet as pq

    open_regular(path).close()  # pyarrow would block on a FIFO
    found = pq.read_schema(path)
    later = LATER_COLUMNS.difference(found.names)  # a table of an earlier release
    columns = {name: column for name, column in columns.items() if name not in later}
    expected = arrow_schema(columns)
    problems = {}
    for column in dict.fromkeys([*expected.names, *found.names]):
        count = found.names.count(column)
        if column not in columns:
            problems[column] = "column is not expected"
        elif count != 1:
            problems[column] = "column occurs more than once" if count else "column is missing"
        elif (kind := found.field(column).type) != expected.field(column).type:
            problems[column] = f"column is of type {inert(kind)}, not {expected.field(column).type}"
    for column, problem in problems.items():
        report.add(IN_RANGE, f"{name}.{inert(column)}", problem)
    if not problems and found.names != expected.names:
        report.add(IN_RANGE, name, "its columns are in another order")
    if problems.keys() & needed:
        report.add(COMPLETE, name, f"its rows cannot be checked without the columns {', '.join(needed)}")
        return frozenset()
    return frozenset(columns) - problems.keys()


def _read_table(path: Path, names: Collection[str]) -> Iterator[tuple[Row, list[str]]]:
    """Yield each row: the columns `names`, and the problems of non-finite numbers in all columns."""
    import pyarrow.parquet as pq

    with pq.ParquetFile(path) as file:
        for batch in file.iter_batches(ROWS_PER_GROUP):
            columns = dict(zip(batch.schema.names, batch.columns, strict=True))
            named = {name: to_list(columns[name]) for name in names}
            suspect = {name: column.to_pylist() for name, column in columns.items() if not _is_finite(column)}
            for row in range(len(batch)):
                non_finite = find_non_finite({name: values[row] for name, values in suspect.items()})
                yield {name: values[row] for name, values in named.items()}, non_finite


def _is_finite(column: pa.Array) -> bool:
    """Return whether a column has only finite numbers, and no null ones."""
    import pyarrow as pa

    if pa.types.is_floating(column.type):
        numbers: NDArray[Any] | None = None if column.null_count else np.from_dlpack(column)
        return numbers is not None and bool(np.isfinite(numbers).all())
    if pa.types.is_list(column.type):
        return _is_finite(column.values)
    return not pa.types.is_struct(column.type) or all(map(_is_finite, column.flatten()))


def _row_problems(
    row: Row, batch: Batch, artifact: Artifact, features: Mapping[str, Any] | None
) -> Iterator[tuple[Check, str]]:
    """Yield the problems of one row; columns that are missing in `row` are skipped.

    Args:
        features: those of the JSON, if valid.
    """
    accepted = batch.document["artifacts"][artifact.position]
    identity = {"batch_id": batch.batch_id, "position": artifact.position, "image_uri": _as_stored(artifact.image_uri)}
    for check, columns in ((COMPLETE, identity), (UNCHANGED, taken_columns(_as_stored(accepted)))):
        for name, value in columns.items():
            if row.get(name, value) != value:
                yield check, f"{name}: differs from the manifest"
    for name, value in _feature_columns(_as_stored(features)).items() if features else ():
        if row.get(name, value) != value:
            yield IN_RANGE, f"{name}: is {format_value(row[name])}, should be {format_value(value)} by the JSON"
    if "artifact" in row:
        try:
            problem = find_difference(_metadata_of(accepted), parse_json(row["artifact"] or ""))
        except (ValueError, RecursionError):
            problem = "is not valid JSON"
        if problem:
            yield UNCHANGED, f"artifact: {problem}"


def _feature_columns(features: Mapping[str, Any]) -> dict[str, Any]:
    """Return the columns of one photo's features; null for defaults."""
    defaults = defaults_of(features["errors"])
    labels = None if "clip_labels" in defaults else features["clip_labels"]
    return {
        "status": features["status"],
        "errors": features["errors"],
        **{name: None if name in defaults else features["tech"][name] for name in METRIC_NAMES},
        "label": labels and labels[0]["label"],
        "confidence": labels and labels[0]["confidence"],
        "clip_labels": labels,
        "version_technical": features["version"]["technical"],
        "version_clip": features["version"]["clip"],
        "version_signals": features["version"]["signals"],
        **features["signals"],
        "embedding_norm": features.get("embedding_norm"),
        "version_groups": features["version"].get("groups"),
        **flag_columns(features["flags"]),
        **group_columns(features.get("group")),
    }


def _as_stored(value: Any) -> Any:
    """Return a JSON value as Arrow stores it: without lone surrogates."""
    text = json.dumps(value, ensure_ascii=False)
    try:
        text.encode()
    except UnicodeEncodeError:
        return json.loads(text.encode("utf-8", "replace"))
    return value
