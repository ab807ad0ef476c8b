"""The results of a batch: at a glance for a person at a terminal, and as numbers for machines."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from curation_features.cli.command import Outcome
from curation_features.cli.terminal import console, printable, say

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table
    from rich.text import Text

    from curation_features.pipeline import EnrichedBatch
    from curation_features.schema import PhotoRecord

FEW = 20
"""Batches of so many photos are listed whole; of others some of each kind."""

_FAULTY = 10
_EXTREMES = 3
_LABELS = 5
_BAR = 12
_LABEL, _REASON = 13, 26
"""Columns of the terminal, at least, for a label and a reason."""

SPEED_FIELDS = {"seconds": "how long it took", "photos_per_second": "photos by seconds"}
RESULT_FIELDS = {
    "batch_id": "id of the batch",
    "artifacts": "how many artifacts it has",
    "photos": "how many distinct photos they are",
    "cached": "how many of the photos came out of the cache",
    "partly_cached": "how many others came out of the cache in part",
    "statuses": "{ok, degraded, failed}: artifacts by status",
    "errors": "[{stage, reason, artifacts}]: why values are defaults, most frequent first",
    "labels": "[{label, artifacts, share}]: first labels, most frequent first",
    "scores": "{metric: {p05, p50, p95}}: percentiles of what was measured",
    "files": "{features, table, embeddings, page}: those that were written",
    **SPEED_FIELDS,
}


@dataclass(frozen=True, slots=True)
class Finished:
    """A batch that is finished.

    Attributes:
        document: the enriched manifest.
        photos: how many distinct photos it has.
        cached: how many of these came out of the cache.
        partly_cached: how many others came out of the cache in part.
        seconds: how long they took.
        run_id: of the run in Dagster; empty where there was none.
        records: of its artifacts, with raw measurements; by default those of the table that was written.
    """

    document: Mapping[str, Any]
    photos: int
    cached: int
    seconds: float
    partly_cached: int = 0
    run_id: str = ""
    records: Sequence[PhotoRecord] = ()


def files_of(batch_id: str, folder: Path) -> dict[str, Path]:
    """The files of a finished batch that are there."""
    names = {"features": "{}.json", "table": "{}.parquet", "embeddings": "embeddings/{}.parquet", "page": "{}.html"}
    paths = {name: folder / path.format(batch_id) for name, path in names.items()}
    return {name: path for name, path in paths.items() if path.exists()}


def outcome_of(finished: Finished, files: Mapping[str, Path], *, silent: bool = False) -> Outcome:
    """A finished batch, for people and machines; `silent`: people are told nothing."""
    from curation_features.pipeline.summary import error_counts, label_distribution, score_percentiles

    merged = _merged(finished.document)
    fields = {
        "batch_id": finished.document["batch_id"],
        "artifacts": len(merged.records),
        "photos": finished.photos,
        "cached": finished.cached,
        "partly_cached": finished.partly_cached,
        "statuses": merged.statuses(),
        "errors": [{"stage": e.stage, "reason": e.reason, "artifacts": e.artifacts} for e in error_counts(merged)],
        "labels": [asdict(label) for label in label_distribution(merged)],
        "scores": score_percentiles(merged),
        "files": files,
        **speed(finished.photos, finished.seconds),
        **({"run_id": finished.run_id} if finished.run_id else {}),
    }
    measured = partial(_measured, finished, files.get("table"))
    return Outcome(fields, _nothing if silent else partial(_show, merged, fields, measured))


def speed(photos: int, seconds: float) -> dict[str, float]:
    """How long photos took, and how many that is in a second."""
    return {"seconds": round(seconds, 3), "photos_per_second": round(photos / seconds, 3) if seconds else 0.0}


def told_speed(fields: Mapping[str, Any]) -> str:
    """The same in words."""
    return f"{fields['seconds']:.1f} s, {fields['photos_per_second']:.1f} photos/s"


def _merged(document: Mapping[str, Any]) -> EnrichedBatch:
    """What a finished document tells of the records that it was made of: scores and labels that are no defaults."""
    from curation_features.pipeline import EnrichedBatch

    return EnrichedBatch(dict(document), [_record(artifact) for artifact in document["artifacts"]], {})


def _measured(finished: Finished, table: Path | None) -> EnrichedBatch:
    """The artifacts of a batch with their raw measurements."""
    from curation_features.pipeline import EnrichedBatch
    from curation_features.schema import METRICS
    from curation_features.storage.tables import STAGE_TABLES, read_rows, record_of

    if finished.records or table is None:
        return EnrichedBatch(dict(finished.document), finished.records, {})
    photo = ("photo_id", "image_uri", "sha256", "format", "width", "height", "errors", "original_uri")
    scores = [name for metric in METRICS for name in (metric.name, *(raw.name for raw in metric.raw))]
    artifacts, records = [], []
    for row in read_rows(table, [*photo, *scores]):
        record = record_of(row)
        STAGE_TABLES["technical_metrics"].restore(record, row)
        artifacts.append({"photo_id": row["photo_id"], "original_uri": row["original_uri"]})
        records.append(record)
    return EnrichedBatch({"artifacts": artifacts}, records, {})


def _record(artifact: Mapping[str, Any]) -> PhotoRecord:
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


def _nothing() -> None:
    pass


def _show(merged: EnrichedBatch, fields: Mapping[str, Any], measured: Callable[[], EnrichedBatch]) -> None:
    from rich.columns import Columns
    from rich.text import Text

    terminal = console()
    for title, table in _tables(merged, terminal.width, measured):
        if title:
            terminal.print(Text(title, style="bold"))
        terminal.print(table)
    if len(merged.records) > FEW:
        terminal.print(Text(f"All {len(merged.records)} photos are in the files below.", style="dim"))
    terminal.print()
    full = "#" if terminal.options.ascii_only else "\N{FULL BLOCK}"
    shares = [_labels(fields["labels"], full), _percentiles(fields["scores"])]
    terminal.print(Columns([table for table in shares if table], padding=(0, 4)))
    for error in fields["errors"]:
        say(f"{error['artifacts']} x {error['stage']}: {error['reason']}", style="yellow")
    statuses = ", ".join(f"{count} {status}" for status, count in fields["statuses"].items() if count)
    photos = f"{fields['artifacts']} artifacts of {fields['photos']} photos"
    told = photos if fields["artifacts"] != fields["photos"] else f"{fields['photos']} photos"
    say(f"{told} in batch {fields['batch_id']}: {statuses or 'none'}", style="bold")
    partly = f", and {fields['partly_cached']} more in part" if fields["partly_cached"] else ""
    say(f"{told_speed(fields)}; {fields['cached']} of {fields['photos']} photos came out of the cache{partly}")
    for path in fields["files"].values():
        say(str(path))
    if "run_id" in fields:
        say(f"Dagster run {fields['run_id']}; `make dev` shows it in the browser", style="dim")


_Photo = tuple[str, Mapping[str, Any]]
"""The path that a photo is told by, and its artifact."""


def _tables(
    merged: EnrichedBatch, width: int, measured: Callable[[], EnrichedBatch]
) -> Iterator[tuple[str, RenderableType]]:
    """What is listed of a batch, with titles where that is not all: what failed or lacks a value, and the extremes."""
    by_status: dict[str, list[_Photo]] = {"failed": [], "degraded": [], "ok": []}
    for name, artifact in _named(merged.document["artifacts"]):
        by_status[artifact["features"]["status"]].append((name, artifact))
    failed, degraded, ok = by_status.values()
    if len(merged.records) <= FEW:
        if failed:
            yield "", _failures(failed, width)
        if degraded or ok or not failed:
            yield "", _scores([*degraded, *ok], width)
        return
    if failed:
        yield _counted("failed", failed), _failures(failed[:_FAULTY], width)
    if degraded:
        yield _counted("degraded", degraded), _scores(degraded[:_FAULTY], width)
    if extremes := _extremes(measured(), width):
        yield "look at these first: the bad end of each score in this batch", extremes


def _counted(status: str, photos: Sequence[_Photo]) -> str:
    more = f", of which these are the first {_FAULTY}" if len(photos) > _FAULTY else ""
    return f"{status}: {len(photos)}{more}"


def _named(artifacts: Sequence[Mapping[str, Any]]) -> list[_Photo]:
    from curation_features.report.text import display_paths

    return list(zip(display_paths(artifacts), artifacts, strict=True))


def _scores(photos: Sequence[_Photo], width: int) -> RenderableType:
    """Photos with their scores and their best label."""
    from rich.text import Text

    from curation_features.schema import METRIC_NAMES

    others = sum(len(name) + 1 for name in ("degraded", *METRIC_NAMES))
    names = min(max(16, width - others - _LABEL - 1), 40)
    table = _table()
    table.add_column("photo", width=names, overflow="fold")
    table.add_column("status", no_wrap=True, min_width=len("degraded"))
    for name in METRIC_NAMES:
        table.add_column(name, justify="right", no_wrap=True, min_width=len(name))
    table.add_column("best label", no_wrap=True, max_width=max(_LABEL, width - others - names - 1))
    for name, artifact in photos:
        table.add_row(_path(name, 2 * names), *(Text(printable(text), style) for text, style in _cells(artifact)))
    return table


def _cells(artifact: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """The cells of a measured photo's row, after its name, each with its style."""
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


def _failures(photos: Sequence[_Photo], width: int) -> RenderableType:
    """Photos of which nothing was measured, with the reason."""
    from rich.text import Text

    table = _table()
    table.add_column("photo", no_wrap=True)
    table.add_column("status", no_wrap=True)
    table.add_column("reason", overflow="fold")
    for name, artifact in photos:
        reasons = dict.fromkeys(error["reason"] for error in artifact["features"]["errors"])
        told = Text(printable(", ".join(reasons)), "yellow")
        table.add_row(_path(name, width - _REASON - len("failed") - 2), Text("failed", "red"), told)
    return table


def _extremes(measured: EnrichedBatch, width: int) -> RenderableType | None:
    """The photos at the bad end of each score, with the cause."""
    from rich.text import Text

    from curation_features.pipeline.summary import extremes

    found = extremes(measured, _EXTREMES)
    if not found:
        return None
    photos = _named(measured.document["artifacts"])
    room = width - len("sharpness") - max(len(extreme.told) for extreme in found) - 2
    table = _table()
    for column in ("score", "why", "photo"):
        table.add_column(column, no_wrap=True)
    for extreme in found:
        table.add_row(extreme.metric, Text(extreme.told), _path(photos[extreme.photo.position][0], room))
    return table


def _table() -> Table:
    from rich.table import Table

    return Table(box=None, pad_edge=False, padding=(0, 1, 0, 0), header_style="dim")


def _path(path: str, width: int) -> Text:
    """A path in so many columns; one that is longer loses its beginning, as its end tells more."""
    from rich.cells import cell_len
    from rich.text import Text

    text = printable(path)
    if cell_len(text) > width:
        while cell_len(text) >= width:
            text = text[1:]
        text = f"\N{HORIZONTAL ELLIPSIS}{text}"
    return Text(text)


def _labels(labels: Sequence[Mapping[str, Any]], full: str) -> RenderableType | None:
    """The most frequent first labels, with a bar for the share that each has."""
    if not labels:
        return None
    from rich.text import Text

    table = _table()
    table.add_column("first label", max_width=20, no_wrap=True)
    table.add_column("", width=_BAR, no_wrap=True)
    table.add_column("photos", justify="right", no_wrap=True)
    for label in labels[:_LABELS]:
        bar = full * max(1, round(_BAR * label["artifacts"] / labels[0]["artifacts"]))
        table.add_row(Text(printable(label["label"])), Text(bar, style="cyan"), str(label["artifacts"]))
    if len(labels) > _LABELS:
        others = sum(label["artifacts"] for label in labels[_LABELS:])
        table.add_row(Text(f"{len(labels) - _LABELS} others", style="dim"), "", Text(str(others), style="dim"))
    return table


def _percentiles(scores: Mapping[str, Mapping[str, float]]) -> RenderableType | None:
    """Where most of the scores lie."""
    if not scores:
        return None
    table = _table()
    table.add_column("score", no_wrap=True)
    for heading in ("5 %", "median", "95 %"):
        table.add_column(heading, justify="right", no_wrap=True)
    for name, values in scores.items():
        table.add_row(name, *(f"{value:.3f}" for value in values.values()))
    return table
