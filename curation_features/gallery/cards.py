"""Photos as the page shows them: a card in the gallery, and all details of one photo."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from curation_features.report import signals
from curation_features.report.sheet import facts
from curation_features.report.text import file_name, one_line
from curation_features.schema import METRICS, PhotoInfo, PhotoRecord
from curation_features.storage.tables import GROUP_COLUMNS, Row, group_of

_MESSAGE_LENGTH, _PATH_LENGTH, _CARD_LABELS = 400, 400, 3

CARD_COLUMNS = (
    *("batch_id", "position", "photo_id", "original_uri", "image_uri", "sha256", "format", "width", "height"),
    *("taken", "status", "errors", *(metric.name for metric in METRICS), "flags", "hints", "flag_reasons"),
    *("clip_labels", *GROUP_COLUMNS),
)
"""Columns of a card."""

DETAIL_COLUMNS = (
    *CARD_COLUMNS,
    *(raw.name for metric in METRICS for raw in metric.raw),
    *signals.SHOWN,
    *signals.PLACE,
    *("label_margin", "artifact"),
)
"""Columns of the details of a photo."""


def card(row: Row) -> dict[str, Any]:
    """Return a photo of the gallery; texts are untrusted."""
    labels = row["clip_labels"] or ()
    return {
        "batch": row["batch_id"],
        "position": row["position"],
        "id": row["photo_id"],
        "name": _name(row),
        "path": one_line(_uri(row), _PATH_LENGTH),
        "status": row["status"],
        "taken": row["taken"] and row["taken"].isoformat(" "),
        "scores": [row[metric.name] for metric in METRICS],
        "flags": signals.flags_of(row, "flags"),
        "hints": signals.flags_of(row, "hints"),
        "group": _group(row),
        "labels": [[one["label"], one["confidence"], one["cosine_score"]] for one in labels[:_CARD_LABELS]],
        "errors": [[one["stage"], one["reason"], one_line(one["message"], _MESSAGE_LENGTH)] for one in row["errors"]],
        "sha256": row["sha256"],
        "width": row["width"],
        "height": row["height"],
    }


def detail(row: Row) -> dict[str, Any]:
    """Return all that the page shows of one photo. Of EXIF: the fields of the contact sheet."""
    labels = row["clip_labels"] or ()
    raw = {one.name: row[one.name] for metric in METRICS for one in metric.raw if row[one.name] is not None}
    return {
        **card(row),
        "labels": [[one["label"], one["confidence"], one["cosine_score"]] for one in labels],
        "margin": row["label_margin"],
        "raw": raw,
        "signals": signals.signals_of(row),
        "focus": signals.place_of(row),
        "format": row["format"],
        "facts": facts(json.loads(row["artifact"])),
        "has_original": bool(row["original_uri"]),
    }


def record(row: Mapping[str, Any]) -> PhotoRecord:
    """Return the record of a row, as `Thumbnails` needs it."""
    info = PhotoInfo(row["sha256"], row["format"], row["width"], row["height"]) if row["sha256"] else None
    return PhotoRecord(row["photo_id"], row["image_uri"], info)


def _group(row: Row) -> dict[str, Any] | None:
    group = group_of(row)
    if not group:
        return None
    texts = {name: group[name] and one_line(group[name], _PATH_LENGTH) for name in ("reason", "copy_of_path")}
    return {**group, **texts, "similarity": round(group["similarity"], 3)}


def _uri(row: Row) -> str:
    return str(row["original_uri"] or row["image_uri"])


def _name(row: Row) -> str:
    return file_name({"original_uri": row["original_uri"]}, record(row))
