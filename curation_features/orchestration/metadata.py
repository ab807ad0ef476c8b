"""What Dagster shows of a materialisation: plain, finite numbers, short tables, and photos to look at.

Dagster shows entries in the order in which they are given, and plots every number over time. Tables stand in the page;
Markdown and JSON of 1000 characters or more are behind a link. Ids, names, labels and messages come from outside: none
of them has a meaning in Markdown or HTML here. Nothing of a photo's EXIF is shown.
"""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

import dagster as dg

from curation_features.pipeline import EnrichedBatch, Plan, RunStats
from curation_features.pipeline.summary import (
    Extreme,
    Percentiles,
    Photo,
    error_counts,
    extremes,
    failed_photos,
    label_distribution,
    score_percentiles,
)
from curation_features.report.text import display_paths, one_line
from curation_features.schema import METRIC, METRICS, Measurement, PhotoRecord
from curation_features.storage.artifacts import FeatureArtifact, StageArtifact
from curation_features.storage.tables import FEATURE_COLUMNS, Column, Columns
from curation_features.text import escape_markdown

Thumbnail = Callable[[PhotoRecord], bytes | None]
"""Gives a small JPEG of a record's photo, or None."""

_ROWS_SHOWN = 10
_EXTREMES = 3
_LABELS_SIZE = 9_000  # characters of JSON
_NAME_LENGTH, _LABEL_LENGTH = 40, 40  # characters
_BAR_LENGTH = 20


def column_schema(columns: Columns) -> dg.TableSchema:
    """The columns of a table, with meaning and units. Of a structure only its kind is said: pages have little room."""
    return dg.TableSchema(
        [
            dg.TableColumn(
                name,
                "list<struct>" if column.type.startswith("list<struct") else column.type,
                description=column.told,
            )
            for name, column in columns.items()
        ]
    )


FEATURE_SCHEMA = column_schema(FEATURE_COLUMNS)


# Stages --------------------------------------------------------------------------------------------------------------


def stage_metadata(artifact: StageArtifact, stats: RunStats, plan: Plan) -> dict[str, Any]:
    """Counts, timings and versions of one stage, and where its table is."""
    numbers = stats.summary()
    share = {"cached_share": round(stats.cached / stats.photos, 4)} if stats.photos else {}
    return {
        **_plain({"photos": numbers.pop("photos"), "cached": numbers.pop("cached"), **share, **numbers}),
        "dagster/partition_row_count": stats.photos,
        "manifest": artifact.metadata["manifest"],
        "versions": dg.MetadataValue.json(artifact.metadata["versions"]),
        **missing_metadata(plan),
        "path": dg.MetadataValue.path(str(artifact.path)),
        "dagster/uri": _uri(artifact.path),
    }


def missing_metadata(plan: Plan) -> dict[str, dg.JsonMetadataValue]:
    """Why parts of a degraded run are defaults, as `missing`; empty where nothing is missing."""
    told = {part: one_line(error.message, 400) for part, error in plan.missing.items()}
    return {"missing": dg.MetadataValue.json(told)} if told else {}


def artifact_links(artifact: FeatureArtifact, sheet: Path | None = None) -> dict[str, Any]:
    """Where the finished features are, and their contact sheet if there is one.

    Paths to copy: Dagster opens URLs, and browsers follow none from a server's page to a file (`file://`).
    """
    files = {
        "json": artifact.json_path,
        "parquet": artifact.table_path,
        "embeddings": artifact.embeddings_path,
        **({"contact_sheet": sheet} if sheet else {}),
    }
    return {
        **{name: dg.MetadataValue.path(str(path)) for name, path in files.items()},
        "dagster/uri": _uri(artifact.json_path),
    }


# Features ------------------------------------------------------------------------------------------------------------


def feature_metadata(merged: EnrichedBatch, thumbnail: Thumbnail | None = None) -> dict[str, Any]:
    """Counts by status, the photos to look at first, labels, scores and errors; less than 60 kB.

    Args:
        thumbnail: makes the small images beside the photos to look at; by default there are none.
    """
    chosen, names, percentiles = extremes(merged, _EXTREMES), _names(merged), score_percentiles(merged)
    counts = {"artifacts": len(merged.records)}
    counts.update({f"artifacts_{status}": count for status, count in merged.statuses().items()})
    tables = {
        "extremes": _extreme_table(chosen, names),
        "errors": _error_table(merged),
        "failed_photos": _failed_table(failed_photos(merged), names),
        "scores": _score_table(merged, percentiles),
        "label_distribution": _label_table(merged),
    }
    return {
        **counts,
        **{name: table for name, table in tables.items() if table.records},
        **({"extremes_in_pictures": _gallery(chosen, names, thumbnail)} if chosen else {}),
        **{f"{part}_version": version for part, version in merged.version.items()},
        **_flat(percentiles),
        "labels": dg.MetadataValue.json(_bounded(merged.label_counts())),
        "dagster/partition_row_count": len(merged.records),
    }


def _flat(percentiles: Percentiles) -> dict[str, int | float]:
    return _plain(
        {
            f"{metric}_{name}": round(value, 4)
            for metric, values in percentiles.items()
            for name, value in values.items()
        }
    )


def _bounded(counts: Mapping[str, int]) -> dict[str, int]:
    """The most frequent of the labels, all of them unless there are very many."""
    ends = accumulate(len(json.dumps(label)) + len(f": {count}, ") for label, count in counts.items())
    return {label: counts[label] for label, end in zip(counts, ends, strict=True) if end <= _LABELS_SIZE}


_SHARE_COLUMNS = {
    "label": ("string", "the most probable label of an artifact"),
    "artifacts": ("int", "artifacts that have it"),
    "share": ("string", "of all artifacts with labels"),
    "": ("string", "as a bar, the longest for the most frequent"),
}


def _label_table(merged: EnrichedBatch) -> dg.TableMetadataValue:
    shares = label_distribution(merged)
    rows = [
        {
            "label": one_line(share.label, _LABEL_LENGTH),
            "artifacts": share.artifacts,
            "share": f"{share.share:.1%}",
            "": "█" * max(1, round(_BAR_LENGTH * share.artifacts / shares[0].artifacts)),
        }
        for share in shares[:_ROWS_SHOWN]
    ]
    rest = shares[_ROWS_SHOWN:]
    if rest:
        more = {"label": f"{len(rest)} more", "artifacts": sum(share.artifacts for share in rest)}
        rows.append({**more, "share": f"{sum(share.share for share in rest):.1%}", "": ""})
    return _table(_SHARE_COLUMNS, rows)


_SCORE_COLUMNS = {
    "score": ("string", "name of the score"),
    "best": ("int", "the value that a good photo reaches"),
    "p05": ("string", "5th percentile over the artifacts that have the score"),
    "p50": ("string", "median"),
    "p95": ("string", "95th percentile"),
    "measured": ("int", "artifacts that have the score"),
}


def _score_table(merged: EnrichedBatch, percentiles: Percentiles) -> dg.TableMetadataValue:
    return _table(
        _SCORE_COLUMNS,
        [
            {
                "score": metric,
                "best": METRIC[metric].best,
                **{name: f"{value:.3f}" for name, value in values.items()},
                "measured": sum(_score(record, metric) is not None for record in merged.records),
            }
            for metric, values in percentiles.items()
        ],
    )


_ERROR_COLUMNS = {
    "stage": ("string", "what could not be computed"),
    "reason": ("string", "why, in short"),
    "artifacts": ("int", "artifacts that this concerns"),
    "message": ("string", "what the first of them says"),
}


def _error_table(merged: EnrichedBatch) -> dg.TableMetadataValue:
    return _table(
        _ERROR_COLUMNS,
        [
            {
                "stage": one_line(error.stage, _LABEL_LENGTH),
                "reason": one_line(error.reason, _LABEL_LENGTH),
                "artifacts": error.artifacts,
                "message": one_line(error.message),
            }
            for error in error_counts(merged)[:_ROWS_SHOWN]
        ],
    )


_EXTREME_COLUMNS = {
    "score": ("string", "name of the score at whose bad end the photo is, in this batch"),
    "why": ("string", "the cause, and what was measured"),
    "photo": ("string", "path of the photo's file, in the folder of all"),
    "photo_id": ("string", "beginning of the photo's id"),
}


def _extreme_table(chosen: Sequence[Extreme], names: Sequence[str]) -> dg.TableMetadataValue:
    rows = ({"score": found.metric, "why": found.told, **_told(found.photo, names)} for found in chosen)
    return _table(_EXTREME_COLUMNS, rows)


_FAILED_COLUMNS = {
    "photo": ("string", "path of the photo's file, in the folder of all"),
    "reason": ("string", "why nothing was measured"),
    "photo_id": ("string", "beginning of the photo's id"),
}


def _failed_table(failed: Sequence[Photo], names: Sequence[str]) -> dg.TableMetadataValue:
    rows = [
        {
            **_told(photo, names),
            "reason": one_line(photo.artifact["features"]["errors"][0]["reason"], _LABEL_LENGTH),
        }
        for photo in failed[:_ROWS_SHOWN]
    ]
    if len(failed) > _ROWS_SHOWN:
        rows.append({"photo": f"{len(failed) - _ROWS_SHOWN} more", "reason": "", "photo_id": ""})
    return _table(_FAILED_COLUMNS, rows)


def _told(photo: Photo, names: Sequence[str]) -> dict[str, str]:
    return {"photo": names[photo.position], "photo_id": one_line(photo.record.photo_id, 12)}


def _table(columns: Mapping[str, tuple[str, str]], rows: Iterable[Mapping[str, Any]]) -> dg.TableMetadataValue:
    return dg.MetadataValue.table(
        [dg.TableRecord(dict(row)) for row in rows],
        column_schema({name: Column(*told) for name, told in columns.items()}),
    )


# The gallery ---------------------------------------------------------------------------------------------------------


def _gallery(chosen: Sequence[Extreme], names: Sequence[str], thumbnail: Thumbnail | None) -> dg.MarkdownMetadataValue:
    """The extremes as a Markdown table of pictures, each photo once, with all that makes it one."""
    metrics = [metric.name for metric in METRICS]
    lines = [f"| | photo | why | {' | '.join(metrics)} | labels |", "|" + " --- |" * (len(metrics) + 4)]
    for photo in {found.photo.position: found.photo for found in chosen}.values():
        why = [found.told for found in chosen if found.photo is photo]
        scores = [_score(photo.record, name) for name in metrics]
        cells = [
            _image(photo.record, thumbnail),
            escape_markdown(names[photo.position]),
            escape_markdown(", ".join(why)),
            *("-" if score is None else f"{score:.3f}" for score in scores),
            _labels(photo.record),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return dg.MetadataValue.md("\n".join(lines))


def _image(record: PhotoRecord, thumbnail: Thumbnail | None) -> str:
    data = thumbnail(record) if thumbnail else None
    return f"![](data:image/jpeg;base64,{base64.b64encode(data).decode()})" if data else ""


def _labels(record: PhotoRecord) -> str:
    prediction = record.prediction
    if prediction is None or prediction.error is not None or not prediction.labels:
        return "-"
    return ", ".join(
        f"{escape_markdown(one_line(found.label, _LABEL_LENGTH))}&nbsp;{found.confidence:.2f}"
        for found in prediction.labels[:3]
    )


# Text and numbers -----------------------------------------------------------------------------------------------------


def _names(merged: EnrichedBatch) -> list[str]:
    """What each photo of a batch is called: its path in the folder of all, or its id."""
    return display_paths(merged.document["artifacts"], _NAME_LENGTH)


def _uri(path: Path) -> str:
    return path.absolute().as_uri()


def _score(record: PhotoRecord, metric: str) -> float | None:
    return record.measurements.get(metric, Measurement()).score


def _plain(numbers: Mapping[str, Any]) -> dict[str, int | float]:
    """Numbers that Dagster can store and plot: Python's own, and finite."""
    own = {name: value.item() if hasattr(value, "item") else value for name, value in numbers.items()}
    return {name: value for name, value in own.items() if math.isfinite(value)}
