"""Commands over one batch: `ingest`, `process`, `materialize`, `submit`."""

from __future__ import annotations

import argparse
import gc
import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from curation_features.cli.command import Outcome, UsageError, check_output, declare
from curation_features.cli.manifests import MANIFEST_HELP, find_manifest
from curation_features.cli.results import RESULT_FIELDS, SPEED_FIELDS, Finished, files_of, outcome_of, speed, told_speed
from curation_features.cli.terminal import console, doing, downloads, printable, progress, say
from curation_features.errors import CurationError, WeightsError
from curation_features.settings import Settings

if TYPE_CHECKING:
    from curation_features.manifest import Batch
    from curation_features.schema import PhotoRecord
    from curation_features.stages import FeatureStages, Merged


MOST_REJECTED = 20

INGEST_FIELDS = {
    "batch_id": "id of the batch",
    "photos": "how many files it has",
    "rejected": "[{path, reason}]: files that cannot be read; they are in the batch, and will fail",
    "files": "{manifest}: what was written",
    **SPEED_FIELDS,
}
SUBMIT_FIELDS = {"batch_id": "id of the batch", "files": "{submitted}: what the sensor will find"}


def register(commands: Any) -> None:
    """Declare the commands of this module."""
    command = declare(
        commands, "ingest", ingest, "curation-features ingest ~/Pictures/trip --batch-id trip", INGEST_FIELDS
    )
    where = command.add_mutually_exclusive_group(required=True)
    where.add_argument("photos", nargs="?", type=Path, metavar="PHOTOS_DIR", help="folder of photos, read recursively")
    where.add_argument("--samples", action="store_true", help="use the sample photos that scikit-image carries")
    command.add_argument("--batch-id", help="id of the batch (default: batch_ and the time)")
    command.add_argument("--vocabulary", metavar="NAME", help="the named vocabulary that the batch asks for")

    command = declare(commands, "process", process, "curation-features process trip", RESULT_FIELDS)
    _batch_arguments(command)
    command.add_argument("--output", metavar="FILE", help="write the enriched JSON here only; - is standard output")

    fields = {**RESULT_FIELDS, "run_id": "id of the run in Dagster"}
    command = declare(commands, "materialize", materialize, "curation-features materialize trip", fields)
    _batch_arguments(command)

    command = declare(commands, "submit", submit, "curation-features submit trip", SUBMIT_FIELDS)
    command.add_argument("manifest", metavar="MANIFEST", help=MANIFEST_HELP)


def _batch_arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument("manifest", metavar="MANIFEST", help=MANIFEST_HELP)
    command.add_argument(
        "--vocabulary", metavar="NAME_OR_FILE", help="label with this one, whatever the manifest asks for"
    )
    command.add_argument(
        "--allow-degraded", action="store_true", help="go on without missing model weights; their values are defaults"
    )


def ingest(args: argparse.Namespace, settings: Settings) -> Outcome:
    """Make a batch out of a folder of photos."""
    from curation_features.ingest import find_photos, new_batch_id
    from curation_features.ingest import ingest as ingest_photos

    folder = args.photos
    if args.samples:
        from curation_features.samples import write_samples

        folder = settings.data_path / "input" / "samples"
        write_samples(folder)
    photos = find_photos(folder)
    batch_id = args.batch_id or new_batch_id(datetime.now())
    start = time.monotonic()
    with progress("ingesting", len(photos)) as bar:
        result = ingest_photos(photos, settings, batch_id=batch_id, vocabulary=args.vocabulary, progress=bar.advance)
    fields = {
        "batch_id": batch_id,
        "photos": len(photos),
        "rejected": [{"path": path, "reason": reason} for path, reason in result.rejected],
        "files": {"manifest": result.path},
        **speed(len(photos), time.monotonic() - start),
    }
    return Outcome(fields, partial(_show_ingested, fields))


def _show_ingested(fields: Mapping[str, Any]) -> None:
    rejected = fields["rejected"]
    for photo in rejected[:MOST_REJECTED]:
        say(f"cannot be read, and will be marked as failed: {photo['path']}: {photo['reason']}", style="yellow")
    if len(rejected) > MOST_REJECTED:
        say(f"... and {len(rejected) - MOST_REJECTED} more, {len(rejected)} in all", style="yellow")
    say(f"{fields['photos']} photos in batch {fields['batch_id']}: {fields['files']['manifest']}")
    say(told_speed(fields), style="dim")


def process(args: argparse.Namespace, settings: Settings) -> Outcome:
    """Process a manifest without Dagster."""
    from curation_features.events import Outbox
    from curation_features.manifest import read_manifest, to_json
    from curation_features.report.sheet import refresh
    from curation_features.stages.completion import completed
    from curation_features.stages.plan import EMBEDDING_PARTS
    from curation_features.store import ArtifactStore

    to_stdout = args.output == "-"
    if to_stdout and args.json:
        raise UsageError("--json and --output -: only one of them can be on standard output")
    check_output(Path(args.output or "-"))
    batch = read_manifest(find_manifest(args.manifest, settings))
    stages = stages_of_run(settings, args.vocabulary, to_stderr=to_stdout)
    stages.for_batch(batch)  # says at once what is wrong with its vocabulary
    if args.output:
        with watched(stages, batch):
            merged, finished = _measured(batch, stages)
        _write_output(args.output, to_json(merged.document))
        return outcome_of(finished, {} if to_stdout else {"features": Path(args.output)}, silent=to_stdout)
    store = ArtifactStore(settings.data_path)
    version = stages.plan(EMBEDDING_PARTS).versions.get("embedding")
    with watched(stages, batch), store.embeddings(batch.batch_id, version, settings.model) as embeddings:
        merged, finished = _measured(batch, stages, embeddings.add)
        with store.exclusive(batch.batch_id):
            artifact = store.write_features(merged.document, merged.rows(), merged.version, merged.labels, embeddings)
            refresh(artifact, settings, stages.shown)
            Outbox.from_settings(settings).publish(completed(batch, merged, artifact, settings.root))
    return outcome_of(finished, files_of(batch.batch_id, settings.data_path / "features"))


def _measured(
    batch: Batch, stages: FeatureStages, each: Callable[[PhotoRecord], None] | None = None
) -> tuple[Merged, Finished]:
    """The features of a batch, and what is told of the run; `each` gets every record while it has its vector."""
    from curation_features.manifest import distinct_photos
    from curation_features.service import FeaturesService

    photos, start = len(distinct_photos(batch)), time.monotonic()
    merged = FeaturesService(stages=stages).run(batch, each)
    cached = sum({id(record): record.cached for record in merged.records}.values())
    seconds = time.monotonic() - start
    return merged, Finished(merged.document, photos, cached=cached, seconds=seconds, records=merged.records)


def materialize(args: argparse.Namespace, settings: Settings) -> Outcome:
    """Process a manifest through Dagster, now."""
    from curation_features.manifest import distinct_photos, read_manifest
    from curation_features.settings import packaged_file
    from curation_features.store import ArtifactStore

    with ExitStack() as opened:
        with _no_collections():
            with doing("starting Dagster"):
                from curation_features.orchestration import launch
                from curation_features.orchestration.project import build_definitions
            batch = read_manifest(find_manifest(args.manifest, settings))
            stages, store = stages_of_run(settings, args.vocabulary), ArtifactStore(settings.data_path)
            stages.for_batch(batch)  # says at once what is wrong with its vocabulary
            definitions = build_definitions(settings, resources={"stages": stages, "store": store})
            instance = opened.enter_context(launch.project_instance(settings, packaged_file("dagster.yaml")))
        launch.accept(batch, store, instance)
        start = time.monotonic()
        with watched(stages, batch):
            result = launch.materialize(batch, definitions, instance)
    if result.failures:
        raise CurationError("\n".join(f"{step} failed: {failure}" for step, failure in result.failures.items()))
    finished = Finished(
        json.loads(store.feature_paths(batch.batch_id)[0].read_bytes()),
        photos=len(distinct_photos(batch)),
        cached=result.cached,
        seconds=time.monotonic() - start,
        run_id=result.run_id,
    )
    return outcome_of(finished, files_of(batch.batch_id, settings.data_path / "features"))


def submit(args: argparse.Namespace, settings: Settings) -> Outcome:
    """Hand a manifest to the sensor."""
    from curation_features.incoming import submit as submit_manifest
    from curation_features.manifest import read_manifest

    manifest = find_manifest(args.manifest, settings)
    batch = read_manifest(manifest)
    path = submit_manifest(manifest.read_bytes(), settings.data_path / "incoming", batch.batch_id)
    fields = {"batch_id": batch.batch_id, "files": {"submitted": path}}
    return Outcome(
        fields, partial(say, f"batch {batch.batch_id} waits for Dagster's sensor in {path}; `make dev` runs it")
    )


@contextmanager
def watched(stages: FeatureStages, batch: Batch) -> Iterator[None]:
    """Progress of what is done in the block: what becomes of the photos, and what they wait for."""
    from curation_features.manifest import distinct_photos

    with progress("measuring", len(distinct_photos(batch))) as bar:
        stages.progress = bar.photo
        stages.shown = bar.later("contact sheet", len(batch.artifacts))
        models = stages.models
        for name, model in (("CLIP", models.clip), ("CLIP-IQA", models.clip_iqa), ("BRISQUE", models.brisque)):
            model.loading = partial(bar.waiting, f"loading {name}")
        stages.for_batch(batch).classifier.building = partial(bar.waiting, "embedding labels")
        yield


@contextmanager
def _no_collections() -> Iterator[None]:
    """No garbage collection while large libraries are imported, nor of what they left: none of that is ever garbage.

    Dagster imports SQLAlchemy only when an instance is opened. Without this, collections take a tenth of a cached run.
    """
    wanted = gc.isenabled()
    gc.disable()
    try:
        yield
        gc.freeze()
    finally:
        if wanted:
            gc.enable()


def stages_of_run(settings: Settings, vocabulary: str | None = None, *, to_stderr: bool = False) -> FeatureStages:
    """The stages of a run; says at once, and once, what will be missing from its results."""
    from curation_features.clip.vocabulary import chosen_vocabulary
    from curation_features.stages import FeatureStages, Models
    from curation_features.stages.plan import ALL_PARTS

    chosen = chosen_vocabulary(settings, vocabulary) if vocabulary else None
    failures: list[WeightsError] = []
    with downloads() as progress:
        models = Models.from_settings(settings, progress)
        stages = FeatureStages(settings, vocabulary=chosen, models=models, announce=failures.append)
        missing = stages.plan(ALL_PARTS).missing
    if missing:
        from rich.panel import Panel
        from rich.text import Text

        defaults = ", ".join(sorted({error.stage for error in missing.values()}))
        lines = [
            *(f"- {failure.summary}" for failure in failures),
            f"These will be defaults, and marked as such: {defaults}.",
            "How to get the weights: curation-features models pull",
        ]
        panel = Panel(
            Text("\n".join(map(printable, lines))),
            title="Degraded run: model weights are missing",
            border_style="yellow",
        )
        console(to_stderr).print(panel)
    return stages


def _write_output(target: str, data: bytes) -> None:
    from curation_features.files import store_bytes, sweep

    if target == "-":
        sys.stdout.buffer.write(data)
        return
    sweep(Path(target).parent)
    store_bytes(Path(target), data)
