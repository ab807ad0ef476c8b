"""The table of a finished batch, held against its manifest and the JSON file."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from curation_features.manifest import Artifact, Batch
from curation_features.schema import METRIC_NAMES
from curation_features.storage.tables import FEATURE_COLUMNS, taken_columns
from curation_features.verification.document import metadata_of
from curation_features.verification.matching import Key, differences, keys_of, sequence_problems
from curation_features.verification.parquet import chunks, usable_columns
from curation_features.verification.reading import parsed
from curation_features.verification.record import defaults_of
from curation_features.verification.report import COMPLETE, FINITE, IN_RANGE, UNCHANGED, Check, Report
from curation_features.verification.text import path_text, photo_text, shown, stored

_ORIGIN = ("original_uri", "taken", "camera", "lens", "iso")
_COMPARED = (
    "batch_id", "position", "photo_id", "image_uri", *_ORIGIN, "status", "errors", *METRIC_NAMES, "label", "confidence",
    "clip_labels", "version_technical", "version_clip", "artifact",
)  # fmt: skip


def verify_table(batch: Batch, sound: Mapping[Key, Mapping[str, Any]], path: Path, report: Report) -> None:
    """Check the table; `sound` are the features in the JSON that are as they should be.

    Raises:
        StoreError: it cannot be read, or not to its end.
    """
    usable = usable_columns(path, FEATURE_COLUMNS, "table", report).intersection(_COMPARED)
    if "photo_id" not in usable:
        report.add(COMPLETE, "table", "without its column photo_id no row can be checked")
        return
    keys = keys_of(artifact.photo_id for artifact in batch.artifacts)
    artifacts = dict(zip(keys, batch.artifacts, strict=True))
    found: list[Key] = []
    seen: Counter[str] = Counter()
    for columns, non_finite in chunks(path, usable):
        start = len(found)
        found += keys_of(columns["photo_id"], seen)
        for row, steps in non_finite:
            report.add(
                FINITE, f"row {start + row} ({photo_text(found[start + row])})", f"{path_text(steps)}is not finite"
            )
        for row, key in enumerate(found[start:]):
            if key in artifacts:
                values = {name: column[row] for name, column in columns.items()}
                for check, problem in _row_problems(values, batch, artifacts[key], sound.get(key)):
                    report.add(check, f"row {start + row} ({photo_text(key)})", problem)
    for key, row, problem in sequence_problems(keys, found):
        report.add(COMPLETE, f"row {row} ({photo_text(key)})", problem)


def _row_problems(
    row: Mapping[str, Any], batch: Batch, artifact: Artifact, features: Mapping[str, Any] | None
) -> Iterator[tuple[Check, str]]:
    """What is wrong with one row; a column that is not in `row` is passed over.

    Args:
        features: those in the JSON, if they are as they should be.
    """
    identity = {"batch_id": batch.batch_id, "position": artifact.position, "image_uri": stored(artifact.image_uri)}
    for name, value in identity.items():
        if row.get(name, value) != value:
            yield COMPLETE, f"{name}: is not that of the manifest"
    for name, value in _feature_columns(features).items() if features else ():
        if row.get(name, value) != value:
            yield IN_RANGE, f"{name}: is {shown(row[name])}, and should be {shown(value)} by the JSON"
    accepted = batch.document["artifacts"][artifact.position]
    for name, value in taken_columns(accepted).items():
        value = stored(value) if isinstance(value, str) else value
        if row.get(name, value) != value:
            yield UNCHANGED, f"{name}: is not that of the manifest"
    if "artifact" in row:
        try:
            found = parsed(row["artifact"] or "")
        except (ValueError, RecursionError):
            yield UNCHANGED, "artifact: is not valid JSON"
            return
        for field, problem in differences(metadata_of(accepted), found):
            yield UNCHANGED, f"artifact: {field}{problem}"


def _feature_columns(features: Mapping[str, Any]) -> dict[str, Any]:
    """What the table must hold of one photo's features: null where they are defaults."""
    defaults = defaults_of(features["errors"])
    labels = None if "clip_labels" in defaults else features["clip_labels"]
    return {
        "status": features["status"],
        "errors": [{name: stored(text) for name, text in error.items()} for error in features["errors"]],
        **{name: None if name in defaults else features["tech"][name] for name in METRIC_NAMES},
        "label": labels and stored(labels[0]["label"]),
        "confidence": labels and labels[0]["confidence"],
        "clip_labels": labels and [{**label, "label": stored(label["label"])} for label in labels],
        "version_technical": features["version"]["technical"],
        "version_clip": features["version"]["clip"],
    }
