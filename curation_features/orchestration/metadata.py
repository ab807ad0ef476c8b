"""What Dagster shows of a materialisation: plain, finite numbers and short tables."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import dagster as dg

from curation_features.schema import METRICS, Measurement
from curation_features.stages import Merged, Plan, RunStats
from curation_features.store import StageArtifact
from curation_features.tables import FEATURE_COLUMNS

_ROWS_SHOWN = 20


def column_schema(columns: Mapping[str, tuple[str, str]]) -> dg.TableSchema:
    """The columns of a table, with what they mean."""
    return dg.TableSchema([dg.TableColumn(name, kind, description=text) for name, (kind, text) in columns.items()])


def stage_metadata(artifact: StageArtifact, stats: RunStats, plan: Plan) -> dict[str, Any]:
    """Counts, timings and versions of one stage, and where its table is."""
    return {
        **stats.summary(),
        "dagster/partition_row_count": stats.photos,
        "manifest": artifact.metadata["manifest"],
        "versions": dg.MetadataValue.json(artifact.metadata["versions"]),
        "missing": missing_metadata(plan),
        "path": dg.MetadataValue.path(str(artifact.path)),
    }


def missing_metadata(plan: Plan) -> dg.JsonMetadataValue:
    """Why parts of a degraded run are defaults."""
    return dg.MetadataValue.json({part: error.message for part, error in plan.missing.items()})


def feature_metadata(merged: Merged) -> dict[str, Any]:
    """Statuses, the label distribution, and the first photos as a table."""
    return {
        "dagster/partition_row_count": len(merged.records),
        **{f"photos_{status}": count for status, count in merged.statuses().items()},
        "labels": dg.MetadataValue.json(merged.label_counts()),
        "photos": dg.MetadataValue.md(_table(merged)),
    }


def _table(merged: Merged) -> str:
    """The first photos with their scores and labels, as Markdown."""
    names = [metric.name for metric in METRICS]
    lines = [f"| photo | status | {' | '.join(names)} | labels |", "|" + " --- |" * (len(names) + 3)]
    for artifact, record in zip(merged.document["artifacts"][:_ROWS_SHOWN], merged.records, strict=False):
        features = artifact["features"]
        measured = [record.measurements.get(name, Measurement()).score for name in names]
        scores = ["-" if score is None else f"{score:.3f}" for score in measured]
        labels = ", ".join(label["label"] for label in features["clip_labels"][:3] if label["confidence"])
        cells = [artifact["photo_id"][:12], features["status"], *scores, labels]
        lines.append("| " + " | ".join(_inert(cell) for cell in cells) + " |")
    left = len(merged.records) - _ROWS_SHOWN
    return "\n".join([*lines, *([f"\n... and {left} more"] if left > 0 else [])])


def _inert(text: str) -> str:
    """Text without a meaning in Markdown or HTML: ids and labels come from outside."""
    kept = "".join(character for character in text if character.isprintable())
    return "".join(f"&#{ord(character)};" if character in "<>&|`*_[]()!\\#~" else character for character in kept)


FEATURE_SCHEMA = column_schema(FEATURE_COLUMNS)
