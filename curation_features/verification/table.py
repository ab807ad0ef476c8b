"""Compare the table of a finished batch with its manifest and JSON."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from curation_features.manifest import Artifact, Batch, parse_json
from curation_features.schema import METRIC_NAMES
from curation_features.storage.tables import FEATURE_COLUMNS, taken_columns
from curation_features.verification.document import metadata_of
from curation_features.verification.matching import (
    Key,
    PhotosOfFile,
    find_difference,
    format_path,
    format_value,
    keys_of,
)
from curation_features.verification.parquet import read_rows, usable_columns
from curation_features.verification.record import defaults_of
from curation_features.verification.report import COMPLETE, FINITE, IN_RANGE, UNCHANGED, Check, Report


def verify_table(batch: Batch, valid: Mapping[Key, Mapping[str, Any]], path: Path, report: Report) -> None:
    """Check the table; `valid` are the valid feature records of the JSON.

    Raises:
        StoreError: it cannot be read to its end.
    """
    usable = usable_columns(path, FEATURE_COLUMNS, "table", report)
    if "photo_id" not in usable:
        report.add(COMPLETE, "table", "its rows cannot be checked without the column photo_id")
        return
    keys = keys_of(artifact.photo_id for artifact in batch.artifacts)
    artifacts = dict(zip(keys, batch.artifacts, strict=True))
    photos = PhotosOfFile("row {}", report)
    for row, non_finite in read_rows(path, usable - {"label_cosines"}):  # large, and not compared
        key = photos.add(row["photo_id"])
        for steps in non_finite:
            photos.report(FINITE, f"{format_path(steps)}is not finite")
        if key in artifacts:
            for check, problem in _row_problems(row, batch, artifacts[key], valid.get(key)):
                photos.report(check, problem)
    photos.check_order(keys)


def _row_problems(
    row: Mapping[str, Any], batch: Batch, artifact: Artifact, features: Mapping[str, Any] | None
) -> Iterator[tuple[Check, str]]:
    """The problems of one row; columns that are missing in `row` are skipped.

    Args:
        features: those of the JSON, if valid.
    """
    accepted = batch.document["artifacts"][artifact.position]
    identity = {"batch_id": batch.batch_id, "position": artifact.position, "image_uri": artifact.image_uri}
    for check, columns in ((COMPLETE, identity), (UNCHANGED, taken_columns(accepted))):
        for name, value in columns.items():
            if row.get(name, _storable(value)) != _storable(value):
                yield check, f"{name}: differs from the manifest"
    for name, value in _feature_columns(features).items() if features else ():
        if row.get(name, value) != value:
            yield IN_RANGE, f"{name}: is {format_value(row[name])}, should be {format_value(value)} by the JSON"
    if "artifact" in row:
        try:
            problem = find_difference(metadata_of(accepted), parse_json(row["artifact"] or ""))
        except (ValueError, RecursionError):
            problem = "is not valid JSON"
        if problem:
            yield UNCHANGED, f"artifact: {problem}"


def _feature_columns(features: Mapping[str, Any]) -> dict[str, Any]:
    """The columns of one photo's features; null for defaults."""
    defaults = defaults_of(features["errors"])
    labels = None if "clip_labels" in defaults else _storable(features["clip_labels"])
    return {
        "status": features["status"],
        "errors": _storable(features["errors"]),
        **{name: None if name in defaults else features["tech"][name] for name in METRIC_NAMES},
        "label": labels and labels[0]["label"],
        "confidence": labels and labels[0]["confidence"],
        "clip_labels": labels,
        "version_technical": features["version"]["technical"],
        "version_clip": features["version"]["clip"],
    }


def _storable(value: Any) -> Any:
    """A value as Arrow stores it: without lone surrogates."""
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode()
    if isinstance(value, list):
        return [_storable(item) for item in value]
    return {name: _storable(item) for name, item in value.items()} if isinstance(value, dict) else value
