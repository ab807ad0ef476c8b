"""Commands over one batch: `ingest`, `process`, `materialize`, `submit`."""

from __future__ import annotations

import argparse
import gc
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from curation_features.cli.command import declare
from curation_features.cli.results import say_cached, show_results
from curation_features.cli.terminal import complain, console, downloads, printable, progress
from curation_features.errors import WeightsError
from curation_features.settings import Settings

if TYPE_CHECKING:
    from curation_features.manifest import Batch
    from curation_features.stages import FeatureStages


def register(commands: Any) -> None:
    """Declare the commands of this module."""
    command = declare(commands, "ingest", ingest, "curation-features ingest ~/Pictures/trip --batch-id trip")
    where = command.add_mutually_exclusive_group(required=True)
    where.add_argument("photos", nargs="?", type=Path, metavar="PHOTOS_DIR", help="folder of photos, read recursively")
    where.add_argument("--samples", action="store_true", help="use the sample photos that scikit-image carries")
    command.add_argument("--batch-id", help="id of the batch (default: batch_ and the time)")

    command = declare(commands, "process", process, "curation-features process data/batches/trip.json")
    _batch_arguments(command)
    command.add_argument("--output", metavar="FILE", help="write the enriched JSON here only; - is standard output")

    command = declare(commands, "materialize", materialize, "curation-features materialize data/batches/trip.json")
    _batch_arguments(command)

    command = declare(commands, "submit", submit, "curation-features submit data/batches/trip.json")
    command.add_argument("manifest", type=Path, metavar="MANIFEST", help="a batch manifest, bare or as a CloudEvent")


def _batch_arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument("manifest", type=Path, metavar="MANIFEST", help="a batch manifest, bare or as a CloudEvent")
    command.add_argument(
        "--allow-degraded", action="store_true", help="go on without missing model weights; their values are defaults"
    )


def ingest(args: argparse.Namespace, settings: Settings) -> int:
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
    with progress("Ingesting", len(photos)) as advance:
        result = ingest_photos(photos, settings, batch_id=batch_id, progress=advance)
    terminal = console()
    for path, reason in result.rejected:
        message = printable(f"cannot be read, and will be marked as failed: {path}: {reason}")
        terminal.print(message, style="yellow", markup=False, soft_wrap=True)
    message = f"{len(result.manifest['artifacts'])} photos in batch {batch_id}: {result.path}"
    terminal.print(message, markup=False, soft_wrap=True)
    return 0


def process(args: argparse.Namespace, settings: Settings) -> int:
    """Process a manifest without Dagster."""
    from curation_features.events import Outbox
    from curation_features.manifest import read_manifest, to_json
    from curation_features.service import FeaturesService
    from curation_features.stages.completion import completed
    from curation_features.store import ArtifactStore

    batch = read_manifest(args.manifest)
    stages = stages_of_run(settings, to_stderr=args.output == "-")
    with progress("Measuring", _distinct(batch)) as advance:
        stages.progress = advance
        merged = FeaturesService(stages=stages).run(batch)
    if args.output:
        _write_output(args.output, to_json(merged.document))
        return 0
    store = ArtifactStore(settings.data_path)
    labels = stages.classifier.vocabulary.labels
    with store.exclusive(batch.batch_id):
        artifact = store.write_features(merged.document, merged.rows(), merged.version, labels)
        Outbox.from_settings(settings).publish(completed(batch, merged, artifact, settings.root))
    show_results(merged.document, [artifact.json_path, artifact.table_path])
    say_cached(sum(record.cached for record in merged.records), len(merged.records))
    return 0


def materialize(args: argparse.Namespace, settings: Settings) -> int:
    """Process a manifest through Dagster, now."""
    from curation_features.manifest import read_manifest
    from curation_features.settings import packaged_file
    from curation_features.store import ArtifactStore

    with _no_collections():
        from curation_features.orchestration import launch
        from curation_features.orchestration.project import build_definitions
    batch = read_manifest(args.manifest)
    stages, store = stages_of_run(settings), ArtifactStore(settings.data_path)
    definitions = build_definitions(settings, resources={"stages": stages, "store": store})
    with launch.project_instance(settings, packaged_file("dagster.yaml")) as instance:
        launch.accept(batch, store, instance)
        with progress("Measuring", _distinct(batch)) as advance:
            stages.progress = advance
            result = launch.materialize(batch, definitions, instance)
    for step, failure in result.failures.items():
        complain(f"{step} failed: {failure}")
    if result.failures:
        return 1
    json_path, table_path = store.feature_paths(batch.batch_id)
    show_results(json.loads(json_path.read_bytes()), [json_path, table_path])
    say_cached(result.cached, _distinct(batch))
    message = f"Dagster run {result.run_id}; `make dev` shows it in the browser"
    console().print(message, style="dim", markup=False, soft_wrap=True)
    return 0


def submit(args: argparse.Namespace, settings: Settings) -> int:
    """Hand a manifest to the sensor."""
    from curation_features.incoming import submit as submit_manifest
    from curation_features.manifest import read_manifest

    batch = read_manifest(args.manifest)
    path = submit_manifest(args.manifest.read_bytes(), settings.data_path / "incoming", batch.batch_id)
    message = f"batch {batch.batch_id} waits for Dagster's sensor in {path}; `make dev` runs it"
    console().print(message, markup=False, soft_wrap=True)
    return 0


@contextmanager
def _no_collections() -> Iterator[None]:
    """No garbage collection while a large library is imported, nor of what it left: none of that is ever garbage."""
    wanted = gc.isenabled()
    gc.disable()
    try:
        yield
        gc.freeze()
    finally:
        if wanted:
            gc.enable()


def stages_of_run(settings: Settings, *, to_stderr: bool = False) -> FeatureStages:
    """The stages of a run; says at once, and once, what will be missing from its results."""
    from curation_features.stages import FeatureStages, Models
    from curation_features.stages.plan import ALL_PARTS

    failures: list[WeightsError] = []
    with downloads() as progress:
        stages = FeatureStages(settings, models=Models.from_settings(settings, progress), announce=failures.append)
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


def _distinct(batch: Batch) -> int:
    from curation_features.manifest import distinct_photos

    return len(distinct_photos(batch))
