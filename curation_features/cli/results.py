"""The results of a batch: a summary on the terminal, and JSON."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from curation_features.cli.command import Outcome
from curation_features.cli.terminal import FOLD, LEFT, RIGHT, console, make_table, printable, say

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.text import Text

    from curation_features.manifest import Batch
    from curation_features.pipeline import EnrichedBatch
    from curation_features.schema import PhotoRecord

FEW = 20
"""Batches with at most this many photos are listed completely."""

_FAULTY, _EXTREMES, _LABELS = 10, 3, 5  # rows of a large batch
_LABEL, _REASON, _BAR = 13, 26, 12  # minimum widths in columns of the terminal

SPEED_FIELDS = {"seconds": "duration", "photos_per_second": "photos per second"}
RESULT_FIELDS = {
    "batch_id": "id of the batch",
    "artifacts": "number of artifacts",
    "photos": "number of distinct photos",
    "cached": "photos read from the cache",
    "partly_cached": "photos read from the cache in part",
    "statuses": "{ok, degraded, failed}: artifacts by status",
    "errors": "[{stage, reason, artifacts}]: why values are defaults, most frequent first",
    "labels": "[{label, artifacts, share}]: first labels, most frequent first",
    "scores": "{metric: {p05, p50, p95}}: percentiles of measured scores",
    "files": "{features, table, embeddings, page}: the written files",
    **SPEED_FIELDS,
}
RUN_FIELDS = {**RESULT_FIELDS, "run_id": "id of the run in Dagster"}


def files_of(batch_id: str, folder: Path) -> dict[str, Path]:
    """The existing files of a finished batch."""
    names = {"features": "{}.json", "table": "{}.parquet", "embeddings": "embeddings/{}.parquet", "page": "{}.html"}
    paths = {name: folder / path.format(batch_id) for name, path in names.items()}
    return {name: path for name, path in paths.items() if path.exists()}


def outcome_of(
    batch: Batch,
    document: Mapping[str, Any],
    files: Mapping[str, Path],
    *,
    cached: int,
    partly_cached: int,
    seconds: float,
    records: Sequence[PhotoRecord] = (),
    run_id: str = "",
    silent: bool = False,
) -> Outcome:
    """The outcome of a finished batch.

    Args:
        document: the enriched manifest.
        cached: photos read from the cache; `partly_cached`: in part.
        seconds: duration of the run.
        records: of the artifacts, with raw measurements; by default read from the table.
        run_id: of the run in Dagster.
        silent: without text output.
    """
    from curation_features.manifest import distinct_photos
    from curation_features.pipeline import EnrichedBatch
    from curation_features.pipeline.summary import error_counts, label_distribution, score_percentiles

    photos = len(distinct_photos(batch))
    merged = EnrichedBatch(dict(document), [_record(artifact) for artifact in document["artifacts"]], {})
    fields = {
        "batch_id": batch.batch_id,
        "artifacts": len(merged.records),
        "photos": photos,
        "cached": cached,
        "partly_cached": partly_cached,
        "statuses": merged.statuses(),
        "errors": [{"stage": e.stage, "reason": e.reason, "artifacts": e.artifacts} for e in error_counts(merged)],
        "labels": [asdict(label) for label in label_distribution(merged)],
        "scores": score_percentiles(merged),
        "files": files,
        **speed(photos, seconds),
        **({"run_id": run_id} if run_id else {}),
    }
    measured = partial(_read_measured, document, records, files.get("table"))
    return Outcome(fields, partial(_show, merged, fields, measured) if not silent else lambda: None)


def speed(photos: int, seconds: float) -> dict[str, float]:
    """The values of `SPEED_FIELDS`."""
    return {"seconds": round(seconds, 3), "photos_per_second": round(photos / seconds, 3) if seconds else 0.0}


def format_speed(fields: Mapping[str, Any]) -> str:
    """Format the values of `SPEED_FIELDS`."""
    return f"{fields['seconds']:.1f} s, {fields['photos_per_second']:.1f} photos/s"


def _read_measured(document: Mapping[str, Any], records: Sequence[PhotoRecord], table: Path | None) -> EnrichedBatch:
    """The artifacts of a batch with their raw measurements: from the records, or else from the table."""
    from curation_features.pipeline import EnrichedBatch
    from curation_features.schema import METRICS
    from curation_features.storage.tables import STAGE_TABLES, read_rows, record_of

    if records or table is None:
        return EnrichedBatch(dict(document), records, {})
    photo = ("photo_id", "image_uri", "sha256", "format", "width", "height", "errors", "original_uri")
    scores = [name for metric in METRICS for name in (metric.name, *(raw.name for raw in metric.raw))]
    artifacts, measured = [], []
    for row in read_rows(table, [*photo, *scores]):
        record = record_of(row)
        STAGE_TABLES["technical_metrics"].restore(record, row)
        artifacts.append({"photo_id": row["photo_id"], "original_uri": row["original_uri"]})
        measured.append(record)
    return EnrichedBatch({"artifacts": artifacts}, measured, {})


def _record(artifact: Mapping[str, Any]) -> PhotoRecord:
    """Restore the record of a finished artifact: scores and labels without defaults."""
    from curation_features.schema import LabelPrediction, LabelScore, Measurement, PhotoRecord

    features = artifact["features"]
    lacking = {error["stage"] for error in features["errors"]}
    uri = next((artifact[name] for name in ("std_uri", "ranking_uri", "original_uri") if artifact.get(name)), "")
    record = PhotoRecord(artifact["photo_id"], uri)
    if "photo" in lacking:
        return record
    scores = features["tech"].items()
    record.measurements = {name: Measurement(score) for name, score in scores if name not in lacking}
    if not lacking & {"image_embedding", "clip_labels"}:
        record.prediction = LabelPrediction(tuple(LabelScore(**label) for label in features["clip_labels"]))
    return record


def _show(merged: EnrichedBatch, fields: Mapping[str, Any], measured: Callable[[], EnrichedBatch]) -> None:
    from rich.columns import Columns
    from rich.text import Text

    terminal = console()
    for title, table in _photo_tables(merged, terminal.width, measured):
        if title:
            terminal.print(Text(title, style="bold"))
        terminal.print(table)
    if len(merged.records) > FEW:
        terminal.print(Text(f"All {len(merged.records)} photos are in the files below.", style="dim"))
    terminal.print()
    full = "#" if terminal.options.ascii_only else "\N{FULL BLOCK}"
    tables = [_label_table(fields["labels"], full), _percentile_table(fields["scores"])]
    terminal.print(Columns([table for table in tables if table], padding=(0, 4)))
    for error in fields["errors"]:
        say(f"{error['artifacts']} x {error['stage']}: {error['reason']}", style="yellow")
    statuses = ", ".join(f"{count} {status}" for status, count in fields["statuses"].items() if count)
    artifacts = f"{fields['artifacts']} artifacts of " if fields["artifacts"] != fields["photos"] else ""
    say(f"{artifacts}{fields['photos']} photos in batch {fields['batch_id']}: {statuses or 'none'}", style="bold")
    partly = f", and {fields['partly_cached']} more in part" if fields["partly_cached"] else ""
    say(f"{format_speed(fields)}; {fields['cached']} of {fields['photos']} photos came from the cache{partly}")
    for path in fields["files"].values():
        say(str(path))
    if "run_id" in fields:
        say(f"Dagster run {fields['run_id']}; `make dev` shows it in the browser", style="dim")


_Photo = tuple[str, Mapping[str, Any]]
"""The displayed path of a photo, and its artifact."""


def _photo_tables(
    merged: EnrichedBatch, width: int, measured: Callable[[], EnrichedBatch]
) -> Iterator[tuple[str, RenderableType]]:
    """Tables of photos; of a large batch failed and degraded ones and extremes, each with a title."""
    by_status: dict[str, list[_Photo]] = {"failed": [], "degraded": [], "ok": []}
    for name, artifact in _with_paths(merged.document["artifacts"]):
        by_status[artifact["features"]["status"]].append((name, artifact))
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
    if extremes := _extreme_table(measured(), width):
        yield "look at these first: the bad end of each score in this batch", extremes


def _with_paths(artifacts: Sequence[Mapping[str, Any]]) -> list[_Photo]:
    from curation_features.report.text import display_paths

    return list(zip(display_paths(artifacts), artifacts, strict=True))


def _score_table(photos: Sequence[_Photo], width: int) -> RenderableType:
    """Photos with their scores and their best label."""
    from rich.text import Text

    from curation_features.schema import METRIC_NAMES

    others = sum(len(name) + 1 for name in ("degraded", *METRIC_NAMES))
    names = min(max(16, width - others - _LABEL - 1), 40)
    columns = {
        "photo": {"width": names, **FOLD},
        "status": {"min_width": len("degraded")},
        **{name: {"min_width": len(name), **RIGHT} for name in METRIC_NAMES},
        "best label": {"max_width": max(_LABEL, width - others - names - 1)},
    }
    rows = (
        (_shorten(name, 2 * names), *(Text(printable(text), style) for text, style in _cells(artifact)))
        for name, artifact in photos
    )
    return make_table(columns, rows)


def _cells(artifact: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """The status, scores and best label of a measured photo, each with a style."""
    from curation_features.schema import METRIC_NAMES

    status, record = artifact["features"]["status"], _record(artifact)
    yield status, "yellow" if status == "degraded" else ""
    for name in METRIC_NAMES:
        measurement = record.measurements.get(name)
        yield "-" if measurement is None else f"{measurement.score:.3f}", ""
    if record.prediction:
        yield f"{record.prediction.labels[0].confidence:.2f} {record.prediction.labels[0].label}", ""
    else:
        yield "-", "yellow"


def _failure_table(photos: Sequence[_Photo], width: int) -> RenderableType:
    """Failed photos with the reason."""
    from rich.text import Text

    room, rows = width - _REASON - len("failed") - 2, []
    for name, artifact in photos:
        reasons = ", ".join(dict.fromkeys(error["reason"] for error in artifact["features"]["errors"]))
        rows.append((_shorten(name, room), Text("failed", "red"), Text(printable(reasons), "yellow")))
    return make_table({"photo": LEFT, "status": LEFT, "reason": FOLD}, rows)


def _extreme_table(measured: EnrichedBatch, width: int) -> RenderableType | None:
    """The photos at the bad end of each score, with the cause."""
    from curation_features.pipeline.summary import extremes

    found = extremes(measured, _EXTREMES)
    if not found:
        return None
    photos = _with_paths(measured.document["artifacts"])
    room = width - len("sharpness") - max(len(extreme.description) for extreme in found) - 2
    rows = (
        (extreme.metric, extreme.description, _shorten(photos[extreme.photo.position][0], room)) for extreme in found
    )
    return make_table({"score": LEFT, "why": LEFT, "photo": LEFT}, rows)


def _shorten(path: str, width: int) -> Text:
    """Cut the beginning of a path that is wider than `width` columns."""
    from rich.cells import cell_len
    from rich.text import Text

    text = printable(path)
    if cell_len(text) > width:
        while cell_len(text) >= width:
            text = text[1:]
        text = f"\N{HORIZONTAL ELLIPSIS}{text}"
    return Text(text)


def _label_table(labels: Sequence[Mapping[str, Any]], full: str) -> RenderableType | None:
    """The most frequent first labels, with bars."""
    if not labels:
        return None
    from rich.text import Text

    rows: list[tuple[str | Text, ...]] = []
    for label in labels[:_LABELS]:
        bar = full * max(1, round(_BAR * label["artifacts"] / labels[0]["artifacts"]))
        rows.append((label["label"], Text(bar, style="cyan"), str(label["artifacts"])))
    if len(labels) > _LABELS:
        others = sum(label["artifacts"] for label in labels[_LABELS:])
        rows.append((Text(f"{len(labels) - _LABELS} others", style="dim"), "", Text(str(others), style="dim")))
    return make_table({"first label": {"max_width": 20}, "": {"width": _BAR}, "photos": RIGHT}, rows)


def _percentile_table(scores: Mapping[str, Mapping[str, float]]) -> RenderableType | None:
    """The percentiles of each score."""
    if not scores:
        return None
    rows = ((name, *(f"{value:.3f}" for value in values.values())) for name, values in scores.items())
    return make_table({"score": LEFT, "5 %": RIGHT, "median": RIGHT, "95 %": RIGHT}, rows)
