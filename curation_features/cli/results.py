"""The results of a batch: JSON, and a summary on the terminal. Slow to import: needs numpy and pyarrow."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from rich.cells import cell_len
from rich.columns import Columns
from rich.table import Table
from rich.text import Text

from curation_features.cli.command import Outcome, format_speed, speed, with_make_dev
from curation_features.cli.terminal import (
    FOLD,
    LEFT,
    RIGHT,
    console,
    count_of,
    flag_line,
    groups_line,
    make_table,
    printable,
    say,
)
from curation_features.manifest import Batch, distinct_photos
from curation_features.pipeline import EnrichedBatch
from curation_features.pipeline.summary import (
    error_counts,
    extremes,
    flag_counts,
    group_counts,
    label_distribution,
    score_percentiles,
)
from curation_features.report.text import display_paths
from curation_features.schema import METRIC_NAMES, PhotoRecord

FEW = 20
"""Batches with at most this many photos are listed completely."""

_FAULTY, _EXTREMES, _LABELS = 10, 3, 5  # rows of a large batch
_LABEL, _REASON, _FLAG, _BAR = 13, 26, 50, 12  # minimum widths in columns of the terminal


def files_of(batch_id: str, folder: Path) -> dict[str, Path]:
    """The existing files of a finished batch."""
    names = {"features": "{}.json", "table": "{}.parquet", "embeddings": "embeddings/{}.parquet", "page": "{}.html"}
    paths = {name: folder / path.format(batch_id) for name, path in names.items()}
    return {name: path for name, path in paths.items() if path.exists()}


def outcome_of(
    batch: Batch,
    merged: EnrichedBatch,
    files: Mapping[str, Path],
    *,
    cached: int,
    partly_cached: int,
    seconds: float,
    run_id: str = "",
) -> Outcome:
    """The outcome of a finished batch.

    Args:
        cached: photos read from the cache; `partly_cached`: in part.
        seconds: duration of the run.
        run_id: of the run in Dagster.
    """
    photos = len(distinct_photos(batch))
    fields = {
        "batch_id": batch.batch_id,
        "artifacts": len(merged.records),
        "photos": photos,
        "cached": cached,
        "partly_cached": partly_cached,
        "statuses": merged.statuses(),
        "errors": [{"stage": e.stage, "reason": e.reason, "artifacts": e.artifacts} for e in error_counts(merged)],
        "flags": [asdict(flag) for flag in flag_counts(merged)],
        "groups": group_counts(merged),
        "labels": [asdict(label) for label in label_distribution(merged)],
        "scores": score_percentiles(merged),
        "files": files,
        **speed(photos, seconds),
        **({"run_id": run_id} if run_id else {}),
    }
    return Outcome(fields, partial(_show, merged, fields))


def _show(merged: EnrichedBatch, fields: Mapping[str, Any]) -> None:
    terminal = console()
    for title, table in _photo_tables(merged, terminal.width):
        if title:
            say(title, style="bold")
        terminal.print(table)
    if len(merged.records) > FEW:
        say(f"All {len(merged.records)} photos are in the files below.", style="dim")
    say("")
    full = "#" if terminal.options.ascii_only else "\N{FULL BLOCK}"
    tables = [_label_table(fields["labels"], full), _percentile_table(fields["scores"])]
    terminal.print(Columns([table for table in tables if table.row_count], padding=(0, 4)))
    for error in fields["errors"]:
        say(f"{error['artifacts']} x {error['stage']}: {error['reason']}", style="yellow")
    if flags := flag_line(fields["flags"]):
        say(flags)
    if groups := groups_line(fields["groups"]):
        say(groups)
    statuses = ", ".join(f"{count} {status}" for status, count in fields["statuses"].items() if count)
    artifacts = f"{fields['artifacts']:,} artifacts of " if fields["artifacts"] != fields["photos"] else ""
    photos = count_of(fields["photos"], "photo")
    say(f"{artifacts}{photos} in batch {fields['batch_id']}: {statuses or 'none'}", style="bold")
    partly = f", and {fields['partly_cached']} more in part" if fields["partly_cached"] else ""
    say(f"{format_speed(fields)}; {fields['cached']} of {fields['photos']} photos came from the cache{partly}")
    for path in fields["files"].values():
        say(str(path))
    if "run_id" in fields:
        say(f"Dagster run {fields['run_id']}{with_make_dev('shows it in the browser')}", style="dim")


_Photo = tuple[str, Mapping[str, Any], PhotoRecord]
"""The displayed path of a photo, its features and its record."""


def _photo_tables(merged: EnrichedBatch, width: int) -> Iterator[tuple[str, Table]]:
    """Tables of photos; of a large batch failed, degraded and flagged ones and extremes, each with a title."""
    artifacts = merged.document["artifacts"]
    paths = display_paths(artifacts)
    by_status: dict[str, list[_Photo]] = {"failed": [], "degraded": [], "ok": []}
    for path, artifact, record in zip(paths, artifacts, merged.records, strict=True):
        by_status[artifact["features"]["status"]].append((path, artifact["features"], record))
    failed, degraded, ok = by_status.values()
    if len(merged.records) <= FEW:
        if failed:
            yield "", _failure_table(failed, width)
        if degraded or ok or not failed:
            yield "", _score_table([*degraded, *ok], width)
        return
    for status, photos, make in (("failed", failed, _failure_table), ("degraded", degraded, _score_table)):
        if photos:
            more = f", the first {_FAULTY}" if len(photos) > _FAULTY else ""
            yield f"{status}: {len(photos)}{more}", make(photos[:_FAULTY], width)
    flagged = [photo for photo in (*degraded, *ok) if _flags_of(photo)]
    if flagged:
        more = f", the first {_FAULTY}" if len(flagged) > _FAULTY else ""
        yield f"flagged: {len(flagged)}{more}", _flag_table(flagged[:_FAULTY], width)
    found = extremes(merged, _EXTREMES)
    if found:
        room = width - len("sharpness") - max(len(extreme.description) for extreme in found) - 2
        rows = [(one.metric, one.description, _shorten(paths[one.photo.position], room)) for one in found]
        title = "look at these first: the bad end of each score in this batch"
        yield title, make_table({"score": LEFT, "why": LEFT, "photo": LEFT}, rows)


def _score_table(photos: Sequence[_Photo], width: int) -> Table:
    """Photos with their scores and their best label."""
    others = sum(len(name) + 1 for name in ("degraded", *METRIC_NAMES))
    names = min(max(16, width - others - _LABEL - 1), 40)
    columns = {
        "photo": {"width": names, **FOLD},
        "status": {"min_width": len("degraded")},
        **{name: {"min_width": len(name), **RIGHT} for name in METRIC_NAMES},
        "best label": {"max_width": max(_LABEL, width - others - names - 1)},
    }
    rows = []
    for path, features, record in photos:
        scores = [record.measurements[name].score if name in record.measurements else None for name in METRIC_NAMES]
        label = record.prediction.labels[0] if record.prediction and record.prediction.labels else None
        rows.append(
            (
                _shorten(path, 2 * names),
                _status_of(features),
                *("-" if score is None else f"{score:.3f}" for score in scores),
                f"{label.confidence:.2f} {label.label}" if label else Text("-", "yellow"),
            )
        )
    return make_table(columns, rows)


def _status_of(features: Mapping[str, Any]) -> Text:
    """The status of a photo, and each of its flags in a line below."""
    text = Text(features["status"], "yellow" if features["status"] == "degraded" else "")
    for flag in features["flags"]:
        if flag["kind"] == "flag":
            text.append(f"\n{printable(flag['name'])}", "yellow")
    return text


def _flags_of(photo: _Photo) -> list[str]:
    """The flags of a photo with their reasons, without hints."""
    return [f"{flag['name']}: {flag['reason']}" for flag in photo[1]["flags"] if flag["kind"] == "flag"]


def _flag_table(photos: Sequence[_Photo], width: int) -> Table:
    """Photos with their flags and the reasons."""
    names = min(max(16, width - _FLAG - 1), 40)
    rows = [(_shorten(photo[0], names), "\n".join(map(printable, _flags_of(photo)))) for photo in photos]
    return make_table({"photo": {"max_width": names}, "flag": FOLD}, [(name, Text(flags)) for name, flags in rows])


def _failure_table(photos: Sequence[_Photo], width: int) -> Table:
    """Failed photos with the reason."""
    room, rows = width - _REASON - len("failed") - 2, []
    for path, features, _ in photos:
        reasons = ", ".join(dict.fromkeys(error["reason"] for error in features["errors"]))
        rows.append((_shorten(path, room), Text("failed", "red"), Text(printable(reasons), "yellow")))
    return make_table({"photo": LEFT, "status": LEFT, "reason": FOLD}, rows)


def _shorten(path: str, width: int) -> Text:
    """Cut the beginning of a path that is wider than `width` columns."""
    text = printable(path)
    if cell_len(text) > width:
        while cell_len(text) >= width:
            text = text[1:]
        text = f"\N{HORIZONTAL ELLIPSIS}{text}"
    return Text(text)


def _label_table(labels: Sequence[Mapping[str, Any]], full: str) -> Table:
    """The most frequent first labels, with bars."""
    rows: list[tuple[str | Text, ...]] = []
    for label in labels[:_LABELS]:
        bar = full * max(1, round(_BAR * label["artifacts"] / labels[0]["artifacts"]))
        rows.append((label["label"], Text(bar, style="cyan"), str(label["artifacts"])))
    if len(labels) > _LABELS:
        others = sum(label["artifacts"] for label in labels[_LABELS:])
        rows.append((Text(f"{len(labels) - _LABELS} others", style="dim"), "", Text(str(others), style="dim")))
    return make_table({"first label": {"max_width": 20}, "": {"width": _BAR}, "photos": RIGHT}, rows)


def _percentile_table(scores: Mapping[str, Mapping[str, float]]) -> Table:
    """The percentiles of each score."""
    rows = ((name, *(f"{value:.3f}" for value in values.values())) for name, values in scores.items())
    return make_table({"score": LEFT, "5 %": RIGHT, "median": RIGHT, "95 %": RIGHT}, rows)
