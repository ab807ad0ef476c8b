"""Commands that process one batch: `process`, `materialize`, `submit`."""

from __future__ import annotations

import argparse
import gc
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.panel import Panel
from rich.text import Text

from curation_features.atomic_files import store_bytes, sweep
from curation_features.cli.command import (
    SPEED_FIELDS,
    Outcome,
    UsageError,
    allow_degraded,
    check_output,
    declare,
    with_make_dev,
)
from curation_features.cli.manifests import MANIFEST_HELP, find_manifest
from curation_features.cli.shards import ENGINE_FIELDS, add_engine_options, process_shards, uses_engine
from curation_features.cli.terminal import Bar, console, doing, downloads, printable, progress, say
from curation_features.errors import CurationError, WeightsError
from curation_features.manifest import Batch, distinct_photos, read_manifest, to_json
from curation_features.schema import PhotoRecord
from curation_features.settings import Settings, expand_home

if TYPE_CHECKING:
    from curation_features.pipeline import EnrichedBatch, FeatureStages

RESULT_FIELDS = {
    "batch_id": "id of the batch",
    "artifacts": "number of artifacts",
    "photos": "number of distinct photos",
    "cached": "photos read from the cache",
    "partly_cached": "photos read from the cache in part",
    "statuses": "{ok, degraded, failed}: artifacts by status",
    "errors": "[{stage, reason, artifacts}]: why values are defaults, most frequent first",
    "groups": "{copy | burst | set: number of groups}",
    "flags": "[{name, kind, artifacts}]: flags and hints, flags first",
    "labels": "[{label, artifacts, share}]: first labels, most frequent first",
    "scores": "{metric: {p05, p50, p95}}: percentiles of measured scores",
    "files": "{features, table, embeddings, page}: the written files",
    **SPEED_FIELDS,
}
PROCESS_FIELDS = {**RESULT_FIELDS, **{name: f"with an engine: {meaning}" for name, meaning in ENGINE_FIELDS.items()}}
_GC_THRESHOLD = 200_000  # objects; by default some hundreds

RUN_FIELDS = {**RESULT_FIELDS, "run_id": "id of the run in Dagster"}
SUBMIT_FIELDS = {"batch_id": "id of the batch", "files": "{submitted}: the manifest for the sensor"}


def register(commands: Any) -> None:
    """Declare the commands of this module."""
    command = declare(commands, "process", process, "curation-features process trip", PROCESS_FIELDS)
    manifests = f"{MANIFEST_HELP}; several of them, or a folder of manifests, run through an engine"
    command.add_argument("manifest", type=expand_home, nargs="+", metavar="MANIFEST", help=manifests)
    _add_batch_options(command)
    command.add_argument(
        "--output", type=expand_home, metavar="FILE", help="write only the enriched JSON, here; - is standard output"
    )
    add_engine_options(command)

    command = declare(commands, "materialize", materialize, "curation-features materialize trip", RUN_FIELDS)
    command.add_argument("manifest", type=expand_home, metavar="MANIFEST", help=MANIFEST_HELP)
    _add_batch_options(command)

    command = declare(commands, "submit", submit, "curation-features submit trip", SUBMIT_FIELDS)
    command.add_argument("manifest", type=expand_home, metavar="MANIFEST", help=MANIFEST_HELP)


def _add_batch_options(command: argparse.ArgumentParser) -> None:
    vocabulary = "overrides the vocabulary of the manifest"
    command.add_argument("--vocabulary", type=expand_home, metavar="NAME_OR_FILE", help=vocabulary)
    command.add_argument(
        "--retry-failed",
        action="store_true",
        help="read and measure only the photos that failed for a temporary reason: missing, permission denied, I/O "
        "error, time-out, out of memory",
    )
    allow_degraded(command)


def process(args: argparse.Namespace, settings: Settings) -> Outcome:
    """Process manifests without Dagster: one in this process, several through an engine."""
    if uses_engine(args, settings):
        return process_shards(args, settings, partial(begin, args, settings))
    args.manifest = args.manifest[0]
    from curation_features.cli.results import files_of, outcome_of
    from curation_features.events.outbox import Outbox
    from curation_features.processing import accept_without_dagster, process_batch
    from curation_features.search.indexing import refresh_index
    from curation_features.storage.artifacts import ArtifactStore

    to_stdout = args.output == "-"
    if to_stdout and args.json:
        raise UsageError("--json and --output -: only one of them can use standard output")
    if args.output and args.retry_failed:
        raise UsageError("--output and --retry-failed cannot be combined: a retry needs the data folder")
    check_output(Path(args.output or "-"))
    batch, stages, observer = _begin(args, settings, to_stderr=to_stdout)
    if args.output:
        return _process_to_file(batch, stages, observer, args.output)
    store, outbox = ArtifactStore(settings.data_path), Outbox.from_settings(settings)
    accept_without_dagster(batch, store)
    start = time.monotonic()
    with observer.showing(batch) as bar, ExitStack() as locked:
        with bar.waiting("another run of this batch"):
            locked.enter_context(store.exclusive(batch.batch_id))
        made = process_batch(batch, stages, store, outbox, retry_failed=args.retry_failed)
    refresh_index(settings)
    return outcome_of(
        batch,
        made.merged,
        files_of(batch.batch_id, settings.data_path / "features"),
        cached=made.cached,
        partly_cached=made.partly_cached,
        seconds=time.monotonic() - start,
    )


def _process_to_file(batch: Batch, stages: FeatureStages, observer: RunObserver, output: str) -> Outcome:
    """Write only the enriched batch, to a file or standard output. Raises `StorageAwayError`."""
    from curation_features.build import check_storage
    from curation_features.cli.results import outcome_of
    from curation_features.service import FeaturesService

    with observer.showing(batch):
        start = time.monotonic()
        merged = FeaturesService(stages=stages).run(batch)
        distinct = list(check_storage({id(record): record for record in merged.records}.values(), batch.batch_id))
        seconds = time.monotonic() - start
    if output == "-":
        sys.stdout.buffer.write(to_json(merged.document))
        return Outcome({}, lambda: None)
    sweep(Path(output).parent)
    store_bytes(Path(output), to_json(merged.document))
    return outcome_of(
        batch,
        merged,
        {"features": Path(output)},
        cached=sum(record.is_cached for record in distinct),
        partly_cached=sum(record.partly_cached for record in distinct),
        seconds=seconds,
    )


def materialize(args: argparse.Namespace, settings: Settings) -> Outcome:
    """Process a manifest through Dagster, now."""
    from curation_features.cli.results import files_of, outcome_of
    from curation_features.storage.artifacts import ArtifactStore

    with ExitStack() as opened:
        with _disable_gc():
            with doing("starting Dagster"):
                from curation_features.orchestration import launch
                from curation_features.orchestration.project import build_definitions
            batch, stages, observer = _begin(args, settings)
            store = ArtifactStore(settings.data_path)
            definitions = build_definitions(settings, resources={"stages": stages, "store": store})
            instance = opened.enter_context(launch.project_instance(settings))
        opened.enter_context(_rare_gc())
        launch.accept(batch, store, instance)
        start = time.monotonic()
        with observer.showing(batch):
            result = launch.materialize(batch, definitions, instance, retry_failed=args.retry_failed)
    if result.failures:
        raise CurationError("\n".join(f"{step} failed: {failure}" for step, failure in result.failures.items()))
    assert observer.merged is not None  # noqa: S101 (a run without failures has features)
    return outcome_of(
        batch,
        observer.merged,
        files_of(batch.batch_id, settings.data_path / "features"),
        cached=result.cached,
        partly_cached=result.partly_cached,
        seconds=time.monotonic() - start,
        run_id=result.run_id,
    )


def submit(args: argparse.Namespace, settings: Settings) -> Outcome:
    """Submit a manifest to the sensor."""
    from curation_features.inbox.folders import submit as submit_manifest

    manifest = find_manifest(args.manifest, settings)
    batch = read_manifest(manifest)
    path = submit_manifest(manifest.read_bytes(), settings.data_path / "incoming", batch.batch_id)
    fields = {"batch_id": batch.batch_id, "files": {"submitted": path}}
    text = f"batch {batch.batch_id} waits for Dagster's sensor in {path}{with_make_dev('runs it')}"
    return Outcome(fields, partial(say, text))


class RunObserver:
    """Shows the progress of a run on the terminal: a `pipeline.observer.Observer`.

    Args:
        download: shows the progress of a download.
    """

    def __init__(self, download: Callable[[str, int, int | None], None]) -> None:
        self.downloading = download
        self.failures: list[WeightsError] = []
        self.merged: EnrichedBatch | None = None
        self._bar: Bar | None = None
        self._sheet: Bar | None = None
        self._artifacts = 0

    @contextmanager
    def showing(self, batch: Batch) -> Iterator[Bar]:
        """Show the progress of a batch in the block."""
        with progress("measuring", len(distinct_photos(batch))) as bar:
            self._bar, self._sheet, self._artifacts = bar, None, len(batch.artifacts)
            yield bar

    def model_loading(self, name: str) -> AbstractContextManager[object]:
        """Show that a model loads."""
        return self._bar.waiting(f"loading {name}") if self._bar else nullcontext()

    def labels_embedding(self) -> AbstractContextManager[object]:
        """Show that label embeddings are computed."""
        return self._bar.waiting("embedding labels") if self._bar else nullcontext()

    def photo_done(self, record: PhotoRecord) -> None:
        """Count a photo."""
        if self._bar:
            self._bar.advance(worked=not record.cached)

    def photos_rendered(self, count: int) -> None:
        """Count photos of the contact sheet, on a bar that appears with the first."""
        if self._bar:
            self._sheet = self._sheet or self._bar.second("contact sheet", self._artifacts)
            self._sheet.advance(count)

    def features_merged(self, merged: EnrichedBatch) -> None:
        """Keep the features for the summary."""
        self.merged = merged

    def degraded(self, error: WeightsError) -> None:
        """Keep the error for `_begin`."""
        self.failures.append(error)


@contextmanager
def _disable_gc() -> Iterator[None]:
    """Disable garbage collection during large imports, and exempt their objects from later collections.

    Dagster imports SQLAlchemy when an instance is opened. Otherwise, collections take 10% of a cached run.
    """
    gc.disable()
    try:
        yield
        gc.freeze()
    finally:
        gc.enable()


@contextmanager
def _rare_gc() -> Iterator[None]:
    """Collect garbage less often in a run: reference counts free almost all of it."""
    before = gc.get_threshold()
    gc.set_threshold(_GC_THRESHOLD, *before[1:])
    try:
        yield
    finally:
        gc.set_threshold(*before)


def _begin(
    args: argparse.Namespace, settings: Settings, *, to_stderr: bool = False
) -> tuple[Batch, FeatureStages, RunObserver]:
    """Read the manifest, create the stages of its run and their observer; report missing models."""
    batch = read_manifest(find_manifest(args.manifest, settings))
    stages, observer = begin(args, settings, to_stderr=to_stderr)
    stages.for_batch(batch)  # fails early if the vocabulary is invalid
    return batch, stages, observer


def begin(
    args: argparse.Namespace, settings: Settings, *, to_stderr: bool = False, is_reported: bool = False
) -> tuple[FeatureStages, RunObserver]:
    """Create the stages of a run and their observer; fetch weights, and report missing models.

    Args:
        is_reported: do not report missing models again.
    """
    from curation_features.clip.vocabulary import chosen_vocabulary
    from curation_features.pipeline import FeatureStages
    from curation_features.pipeline.plan import ALL_PARTS

    chosen = chosen_vocabulary(settings, args.vocabulary) if args.vocabulary else None
    with downloads() as download:
        observer = RunObserver(download)
        stages = FeatureStages(settings, vocabulary=chosen, observer=observer)
        missing = stages.plan(ALL_PARTS).missing
    if missing and not is_reported:
        defaults = ", ".join(sorted({error.stage for error in missing.values()}))
        lines = [
            *(f"- {failure.summary}" for failure in observer.failures),
            f"These values will be defaults: {defaults}.",
            "To fetch the weights: curation-features models pull",
        ]
        panel = Panel(
            Text("\n".join(map(printable, lines))),
            title="Degraded run: model weights are missing",
            border_style="yellow",
        )
        console(to_stderr).print(panel)
    return stages, observer
