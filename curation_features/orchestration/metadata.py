"""Metadata of materializations: plain finite numbers, short tables and thumbnails.

Dagster shows entries in the given order, and plots every number over time. It shows tables in the page, but Markdown
and JSON of 1000 characters or more behind a link. Ids, names, labels and messages are user-supplied: they are escaped,
so that they have no meaning in Markdown or HTML. No EXIF is shown.
"""

from __future__ import annotations

import base64
import json
import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any, get_args

import dagster as dg

from curation_features.build import AssetResult
from curation_features.groups.photos import Kind
from curation_features.photos.thumbnails import Thumbnails
from curation_features.pipeline import EnrichedBatch, FeatureStages, Plan, RunStats
from curation_features.pipeline.summary import (
    Extreme,
    Percentiles,
    Photo,
    error_counts,
    extremes,
    failed_photos,
    flag_counts,
    flagged_count,
    group_counts,
    label_distribution,
    score_percentiles,
    signal_percentiles,
    signal_values,
)
from curation_features.report.text import display_paths, one_line
from curation_features.schema import METRIC, SIGNAL, Measurement, PhotoRecord
from curation_features.signals.flags import FLAGS, HINTS
from curation_features.storage.artifacts import FeatureArtifact, StageArtifact
from curation_features.storage.tables import FEATURE_COLUMNS, Column, Columns
from curation_features.text import escape_markdown

Thumbnail = Callable[[PhotoRecord], bytes | None]

_ROWS_SHOWN = 10
_EXTREMES = 3
_LABELS_SIZE = 9_000  # characters of JSON
_NAME_LENGTH = 40  # characters
_BAR_LENGTH = 20

_TABLES: Mapping[str, Columns] = {
    "extremes": {
        "score": Column("string", "score at whose bad end the photo is, in this batch"),
        "why": Column("string", "the cause, and the measurement"),
        "photo": Column("string", "path of the photo's file, relative to the common folder"),
        "photo_id": Column("string", "beginning of the photo's id"),
    },
    "errors": {
        "stage": Column("string", "value that could not be computed"),
        "reason": Column("string", "code of the reason"),
        "artifacts": Column("int", "number of artifacts with the error"),
        "message": Column("string", "message of the first of them"),
    },
    "failed_photos": {
        "photo": Column("string", "path of the photo's file, relative to the common folder"),
        "reason": Column("string", "why nothing was measured"),
        "photo_id": Column("string", "beginning of the photo's id"),
    },
    "scores": {
        "score": Column("string", "name of the score"),
        "best": Column("int", "value of a good photo"),
        "p05": Column("string", "5th percentile over the artifacts that have the score"),
        "p50": Column("string", "median"),
        "p95": Column("string", "95th percentile"),
        "measured": Column("int", "number of artifacts that have the score"),
    },
    "signals": {
        "signal": Column("string", "name of the signal"),
        "unit": Column("string", "its unit"),
        "p05": Column("string", "5th percentile over the artifacts that have the signal"),
        "p50": Column("string", "median"),
        "p95": Column("string", "95th percentile"),
        "measured": Column("int", "number of artifacts that have the signal"),
    },
    "label_distribution": {
        "label": Column("string", "most probable label of an artifact"),
        "artifacts": Column("int", "number of artifacts"),
        "share": Column("string", "fraction of all artifacts with labels"),
        "": Column("string", "bar, longest for the most frequent label"),
    },
}
"""The columns of each table."""


def column_schema(columns: Columns) -> dg.TableSchema:
    """The columns of a table with description and units; structures are shortened to their kind."""
    types = {name: "list<struct>" if "<struct" in column.type else column.type for name, column in columns.items()}
    return dg.TableSchema([dg.TableColumn(name, types[name], columns[name].full_description) for name in columns])


FEATURE_SCHEMA = column_schema(FEATURE_COLUMNS)


def asset_metadata(result: AssetResult, stages: FeatureStages) -> Mapping[str, Any]:
    """Metadata of the materialization of an asset; `stages` computed the result."""
    if result.finished is not None:
        links = artifact_links(result.finished.artifact, result.finished.sheet)
        return {**links, **feature_metadata(result.finished.merged, Thumbnails(stages.settings))}
    if result.stage is not None and result.stats is not None:
        passed = {"pass": result.pass_version} if result.pass_version else {}
        return {**stage_metadata(result.stage, result.stats, result.plan), **passed}
    vocabulary = stages.classifier.vocabulary
    return {
        "labels": len(vocabulary.labels),
        "templates": len(vocabulary.templates),
        **missing_metadata(result.plan),
        "path": dg.MetadataValue.path(str(stages.classifier.label_file)),
    }


def stage_metadata(artifact: StageArtifact, stats: RunStats, plan: Plan) -> dict[str, Any]:
    """Counts, timings and versions of one stage, and the path of its table."""
    numbers = stats.summary()
    fraction = {"cached_share": round(stats.cached / stats.photos, 4)} if stats.photos else {}
    return {
        **_plain({"photos": numbers.pop("photos"), "cached": numbers.pop("cached"), **fraction, **numbers}),
        "dagster/partition_row_count": stats.photos,
        "manifest": artifact.metadata["manifest"],
        "versions": dg.MetadataValue.json(artifact.metadata["versions"]),
        **missing_metadata(plan),
        "path": dg.MetadataValue.path(str(artifact.path)),
        "dagster/uri": artifact.path.absolute().as_uri(),
    }


def missing_metadata(plan: Plan) -> dict[str, dg.JsonMetadataValue]:
    """The reason for each default of a degraded run, as `missing`; empty if there is none."""
    reasons = {part: one_line(error.message, 400) for part, error in plan.missing.items()}
    return {"missing": dg.MetadataValue.json(reasons)} if reasons else {}


def artifact_links(artifact: FeatureArtifact, sheet: Path | None = None) -> dict[str, Any]:
    """Paths of the finished features and of the contact sheet, if any.

    Paths are for copying: Dagster opens URLs, and browsers open no file from a server's page (`file://`).
    """
    files = {
        "json": artifact.json_path,
        "parquet": artifact.table_path,
        "embeddings": artifact.embeddings_path,
        **({"contact_sheet": sheet} if sheet else {}),
    }
    return {
        **{name: dg.MetadataValue.path(str(path)) for name, path in files.items()},
        "dagster/uri": artifact.json_path.absolute().as_uri(),
    }


def feature_metadata(merged: EnrichedBatch, thumbnail: Thumbnail = lambda _: None) -> dict[str, Any]:
    """Counts by status, flag and kind of group, extreme photos, labels, scores, signals and errors; less than 65 kB.

    Args:
        thumbnail: makes a small JPEG of an extreme photo, or returns None, as it does by default.
    """
    extreme_photos = extremes(merged, _EXTREMES)
    percentiles, signals = score_percentiles(merged), signal_percentiles(merged)
    names = display_paths(merged.document["artifacts"], _NAME_LENGTH)
    measured = Counter(name for record in merged.records for name in METRIC if _score(record, name) is not None)
    tables: dict[str, Sequence[tuple[str | int, ...]]] = {
        "extremes": [
            (extreme.metric, extreme.description, names[extreme.photo.position], _short_id(extreme.photo))
            for extreme in extreme_photos
        ],
        "errors": [
            (_name(error.stage), _name(error.reason), error.artifacts, one_line(error.message))
            for error in error_counts(merged)[:_ROWS_SHOWN]
        ],
        "failed_photos": [*_failed_rows(failed_photos(merged), names)],
        "scores": [
            (metric, METRIC[metric].best, *(f"{value:.3f}" for value in values.values()), measured[metric])
            for metric, values in percentiles.items()
        ],
        "signals": [*_signal_rows(merged, signals)],
        "label_distribution": [*_label_rows(merged)],
    }
    measures = {**percentiles, **signals}
    numbers = {f"{measure}_{name}": round(value, 4) for measure, by in measures.items() for name, value in by.items()}
    return {
        "artifacts": len(merged.records),
        **{f"artifacts_{status}": count for status, count in merged.statuses().items()},
        **_flag_numbers(merged),
        **{f"groups_{kind}": group_counts(merged).get(kind, 0) for kind in get_args(Kind)},
        **{name: _table(name, rows) for name, rows in tables.items() if rows},
        **({"extremes_in_pictures": _gallery(extreme_photos, names, thumbnail)} if extreme_photos else {}),
        **{f"{part}_version": version for part, version in merged.version.items()},
        **_plain(numbers),
        "labels": dg.MetadataValue.json(_limit_size(merged.label_counts())),
        "dagster/partition_row_count": len(merged.records),
    }


def _flag_numbers(merged: EnrichedBatch) -> dict[str, int]:
    """Number of artifacts with any flag, and with each flag and hint; also zeros, so that a plot has no gaps."""
    counts = {flag.name: flag.artifacts for flag in flag_counts(merged)}
    return {
        "flagged": flagged_count(merged),
        **{f"flag_{name}": counts.get(name, 0) for name in FLAGS},
        **{f"hint_{name}": counts.get(name, 0) for name in HINTS},
    }


def _signal_rows(merged: EnrichedBatch, percentiles: Percentiles) -> Iterator[tuple[str | int, ...]]:
    for name, values in percentiles.items():
        measured = sum(value is not None for value in signal_values(merged, name))
        yield name, SIGNAL[name].unit, *(f"{value:.3f}" for value in values.values()), measured


def _table(name: str, rows: Sequence[tuple[str | int, ...]]) -> dg.TableMetadataValue:
    columns = _TABLES[name]
    return dg.MetadataValue.table(
        [dg.TableRecord(dict(zip(columns, row, strict=True))) for row in rows],
        column_schema(columns),
    )


def _failed_rows(failed: Sequence[Photo], names: Sequence[str]) -> Iterator[tuple[str, str, str]]:
    for photo in failed[:_ROWS_SHOWN]:
        reason = photo.artifact["features"]["errors"][0]["reason"]
        yield names[photo.position], _name(reason), _short_id(photo)
    if len(failed) > _ROWS_SHOWN:
        yield f"{len(failed) - _ROWS_SHOWN} more", "", ""


def _label_rows(merged: EnrichedBatch) -> Iterator[tuple[str, int, str, str]]:
    labels = label_distribution(merged)
    for label in labels[:_ROWS_SHOWN]:
        bar = "█" * max(1, round(_BAR_LENGTH * label.artifacts / labels[0].artifacts))
        yield _name(label.label), label.artifacts, f"{label.share:.1%}", bar
    if rest := labels[_ROWS_SHOWN:]:
        fraction = sum(label.share for label in rest)
        yield f"{len(rest)} more", sum(label.artifacts for label in rest), f"{fraction:.1%}", ""


def _limit_size(counts: Mapping[str, int]) -> dict[str, int]:
    """Counts of the most frequent labels, up to `_LABELS_SIZE` characters of JSON."""
    ends = accumulate(len(json.dumps(label)) + len(f": {count}, ") for label, count in counts.items())
    return {label: counts[label] for label, end in zip(counts, ends, strict=True) if end <= _LABELS_SIZE}


def _gallery(chosen: Sequence[Extreme], names: Sequence[str], thumbnail: Thumbnail) -> dg.MarkdownMetadataValue:
    """Render the extreme photos as a Markdown table, one row per photo."""
    lines = [f"| | photo | why | {' | '.join(METRIC)} | labels |", "|" + " --- |" * (len(METRIC) + 4)]
    for photo in {extreme.photo.position: extreme.photo for extreme in chosen}.values():
        scores = [_score(photo.record, name) for name in METRIC]
        data = base64.b64encode(thumbnail(photo.record) or b"").decode()
        cells = [
            f"![](data:image/jpeg;base64,{data})" if data else "",
            escape_markdown(names[photo.position]),
            escape_markdown(", ".join(extreme.description for extreme in chosen if extreme.photo is photo)),
            *("-" if score is None else f"{score:.3f}" for score in scores),
            _labels(photo.record),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return dg.MetadataValue.md("\n".join(lines))


def _labels(record: PhotoRecord) -> str:
    labels = record.prediction.labels[:3] if record.prediction else ()
    return ", ".join(f"{escape_markdown(_name(label))}&nbsp;{confidence:.2f}" for label, confidence, _ in labels) or "-"


def _name(text: str) -> str:
    """A label, or the name of a stage or reason, on one short line."""
    return one_line(text, _NAME_LENGTH)


def _short_id(photo: Photo) -> str:
    return one_line(photo.record.photo_id, 12)


def _score(record: PhotoRecord, metric: str) -> float | None:
    return record.measurements.get(metric, Measurement()).score


def _plain(numbers: Mapping[str, Any]) -> dict[str, int | float]:
    """Keep the finite numbers, as types that Dagster can store and plot."""
    own = {name: value.item() if hasattr(value, "item") else value for name, value in numbers.items()}
    return {name: value for name, value in own.items() if math.isfinite(value)}
