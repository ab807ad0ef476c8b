"""The command line: `curation-features COMMAND`."""

from __future__ import annotations

import argparse
import gc
import json
import logging
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from curation_features.errors import (
    CurationError,
    InputError,
    ManifestError,
    MissingWeightsError,
    SettingsError,
    WeightsError,
)
from curation_features.settings import Settings, load_settings

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import TaskID

    from curation_features.manifest import Batch
    from curation_features.models import ModelStatus
    from curation_features.stages import FeatureStages

EXIT_CODES = {
    0: "done (photos that could not be read are named in the result, and do not change the exit code)",
    1: "the run failed",
    2: "wrong usage, settings or manifest",
    3: "model weights are missing and a degraded run is not permitted, or they could not be got",
    130: "interrupted",
}

ASSETS = ("label_embeddings", "technical_metrics", "image_embeddings", "clip_labels", "features")
LABEL_ASSETS = ("label_embeddings", "clip_labels", "features")

ERROR_CODES = {MissingWeightsError: 3, ManifestError: 2, SettingsError: 2, InputError: 2}

Command = Callable[[argparse.Namespace, Settings], int]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code (see `EXIT_CODES`)."""
    args = _parser().parse_args(arguments)
    logging.basicConfig(format="%(levelname)s:%(name)s:%(message)s", stream=sys.stderr)
    for handler in logging.getLogger().handlers:  # on the handler: Dagster sets the level of the package's logger
        handler.setLevel(logging.INFO if args.verbose else logging.WARNING)
    if args.verbose:
        logging.getLogger("curation_features").setLevel(logging.INFO)
    command: Command = args.command
    try:
        settings = load_settings(args.root)
        if getattr(args, "allow_degraded", False):
            settings = settings.replace(on_missing_weights="degrade")
        return command(args, settings)
    except KeyboardInterrupt:
        return 130
    except CurationError as error:
        if args.verbose:
            logging.getLogger("curation_features").exception("The command failed")
        _complain(str(error))
        return next((code for kind, code in ERROR_CODES.items() if isinstance(error, kind)), 1)


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
    with _progress("Ingesting", len(photos)) as advance:
        result = ingest_photos(photos, settings, batch_id=batch_id, progress=advance)
    console = _console()
    for path, reason in result.rejected:
        message = _printable(f"cannot be read, and will be marked as failed: {path}: {reason}")
        console.print(message, style="yellow", markup=False, soft_wrap=True)
    message = f"{len(result.manifest['artifacts'])} photos in batch {batch_id}: {result.path}"
    console.print(message, markup=False, soft_wrap=True)
    return 0


def process(args: argparse.Namespace, settings: Settings) -> int:
    """Process a manifest without Dagster."""
    from curation_features.events import Outbox
    from curation_features.manifest import read_manifest, to_json
    from curation_features.service import FeaturesService
    from curation_features.stages.completion import completed
    from curation_features.store import ArtifactStore

    batch = read_manifest(args.manifest)
    stages = _stages(settings, to_stderr=args.output == "-")
    with _progress("Measuring", _distinct(batch)) as advance:
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
    _show(merged.document, [artifact.json_path, artifact.table_path])
    _say_cached(sum(record.cached for record in merged.records), len(merged.records))
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
    stages, store = _stages(settings), ArtifactStore(settings.data_path)
    definitions = build_definitions(settings, resources={"stages": stages, "store": store})
    with launch.project_instance(settings, packaged_file("dagster.yaml")) as instance:
        launch.accept(batch, store, instance)
        with _progress("Measuring", _distinct(batch)) as advance:
            stages.progress = advance
            result = launch.materialize(batch, definitions, instance)
    for step, failure in result.failures.items():
        _complain(f"{step} failed: {failure}")
    if result.failures:
        return 1
    json_path, table_path = store.feature_paths(batch.batch_id)
    _show(json.loads(json_path.read_bytes()), [json_path, table_path])
    _say_cached(result.cached, _distinct(batch))
    message = f"Dagster run {result.run_id}; `make dev` shows it in the browser"
    _console().print(message, style="dim", markup=False, soft_wrap=True)
    return 0


def submit(args: argparse.Namespace, settings: Settings) -> int:
    """Hand a manifest to the sensor."""
    from curation_features.incoming import submit as submit_manifest
    from curation_features.manifest import read_manifest

    batch = read_manifest(args.manifest)
    path = submit_manifest(args.manifest.read_bytes(), settings.data_path / "incoming", batch.batch_id)
    message = f"batch {batch.batch_id} waits for Dagster's sensor in {path}; `make dev` runs it"
    _console().print(message, markup=False, soft_wrap=True)
    return 0


def backfill(args: argparse.Namespace, settings: Settings) -> int:
    """Make batches anew in a running Dagster, with the labels and settings as they are now."""
    from curation_features.orchestration.backfill import DagsterServer

    server = DagsterServer(args.url)
    server.reload()
    server.check_daemon()
    batch_ids = list(dict.fromkeys(args.batches)) or server.batch_ids()
    backfill_id = server.launch(batch_ids, args.assets)
    console = _console()
    console.print(f"{len(batch_ids)} batches: {server.page(backfill_id)}", markup=False, soft_wrap=True)
    try:
        with _progress("Making", len(batch_ids) * len(args.assets)) as advance:
            status = server.wait(backfill_id, advance)
    except KeyboardInterrupt:
        console.print(f"the backfill goes on in Dagster: {server.page(backfill_id)}", markup=False, soft_wrap=True)
        return 130
    message = f"{status.made} made, {status.failed} failed, of {len(batch_ids)} batches x {len(args.assets)} assets"
    console.print(message, markup=False, soft_wrap=True)
    if status.made == len(batch_ids) * len(args.assets):
        return 0
    missing = server.not_made(batch_ids, args.assets, status.launched)
    more = f" and {len(missing) - 10} more" if len(missing) > 10 else ""
    console.print(_printable(f"not made: {', '.join(missing[:10])}{more}"), markup=False, soft_wrap=True)
    return 1


def models_pull(args: argparse.Namespace, settings: Settings) -> int:
    """Fetch the model weights that a run needs where they are missing or damaged, verify all, load each model once."""
    from curation_features.models import pull

    with _downloads() as progress:
        statuses = pull(settings, progress=progress, folder=args.from_folder)
    statuses = [_loaded(status, settings) for status in statuses]
    _show_models(statuses)
    reasons = {status.reason for status in statuses if status.problem}
    if not reasons:
        return 0
    return ERROR_CODES[MissingWeightsError] if reasons == {"missing_weights"} else 1


def models_status(args: argparse.Namespace, settings: Settings) -> int:
    """Show which model weights are here, where they came from, and what a run does without the others."""
    from curation_features.models import model_status

    statuses = model_status(settings)
    if args.json:
        print(json.dumps([asdict(status) for status in statuses], default=str))
    else:
        _show_models(statuses)
    return 0


def models_list(args: argparse.Namespace, settings: Settings) -> int:
    """Show the CLIP models that are recommended; `model` in the settings takes these and any other of open_clip."""
    from curation_features.models.catalog import LABELLERS

    for clip in LABELLERS:
        print(f"hf-hub:{clip.repo}")
        print(f"  {clip.use}")
        size, top1 = f"{clip.megabytes / 1000:.2f} GB", f"{clip.zero_shot:.1%} of ImageNet right, zero-shot"
        print(f"  {size}, {clip.gflop:.1f} GFLOP per photo, {top1}, {clip.licence}")
    return 0


def cache_stats(args: argparse.Namespace, settings: Settings) -> int:
    """Show what the cache holds."""
    from curation_features.cache import FeatureCache

    stats = FeatureCache(settings.cache_path).stats()
    if args.json:
        print(json.dumps(asdict(stats)))
    else:
        kept = "with" if stats.label_embeddings else "without"
        print(f"{settings.cache_path}: {stats.photos} photos, {stats.bytes / 1e6:.1f} MB, {kept} label embeddings")
    return 0


def cache_clear(args: argparse.Namespace, settings: Settings) -> int:
    """Delete what the cache holds; artifacts stay."""
    from curation_features.cache import FeatureCache

    count = FeatureCache(settings.cache_path).clear(label_embeddings=args.all)
    print(f"{settings.cache_path}: {count} files deleted")
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


def _stages(settings: Settings, *, to_stderr: bool = False) -> FeatureStages:
    """The stages of a run; says at once, and once, what will be missing from its results."""
    from curation_features.stages import FeatureStages, Models
    from curation_features.stages.plan import ALL_PARTS

    failures: list[WeightsError] = []
    with _downloads() as progress:
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
            Text("\n".join(map(_printable, lines))),
            title="Degraded run: model weights are missing",
            border_style="yellow",
        )
        _console(to_stderr).print(panel)
    return stages


def _show(document: dict[str, Any], paths: Sequence[Path]) -> None:
    """A table of the results, and where they are."""
    from rich.table import Table
    from rich.text import Text

    from curation_features.schema import METRIC_NAMES

    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0), header_style="bold")
    table.add_column("photo", max_width=16, no_wrap=True)
    table.add_column("status", no_wrap=True, min_width=len("degraded"))
    for name in METRIC_NAMES:
        table.add_column(name, justify="right", no_wrap=True, min_width=len(name))
    table.add_column("best label", no_wrap=True, min_width=10)
    for artifact in document["artifacts"][:50]:
        features = artifact["features"]
        defaults = {error["stage"] for error in features["errors"]}
        unread = "photo" in defaults
        scores = ["-" if unread or name in defaults else f"{features['tech'][name]:.3f}" for name in METRIC_NAMES]
        best = features["clip_labels"][0]
        label = f"{best['confidence']:.2f} {best['label']}" if best["confidence"] else "-"
        name = Path(str(artifact.get("original_uri") or artifact["photo_id"])).name
        table.add_row(*(Text(_printable(cell)) for cell in (name, features["status"], *scores, label)))
    console = _console()
    console.print(table)
    if len(document["artifacts"]) > 50:
        console.print(f"... and {len(document['artifacts']) - 50} more")
    for error, count in _error_counts(document).items():
        console.print(Text(f"{count} x {_printable(error)}", style="yellow"))
    for path in paths:
        console.print(Text(str(path)), soft_wrap=True)


def _loaded(status: ModelStatus, settings: Settings) -> ModelStatus:
    """The status of a model after it was loaded once, where its weights are here."""
    from curation_features.stages.plan import Models

    if status.problem:
        return status
    try:
        Models.from_settings(settings).try_out(status.name)
    except WeightsError as error:
        return replace(status, problem=str(error), reason=error.reason)
    return status


def _show_models(statuses: Sequence[ModelStatus]) -> None:
    for status in statuses:
        print(f"{status.name}: {_printable(status.source)}")
        if status.problem:
            print(f"  not usable: {_printable(status.problem)}")
            print(f"  without it: {status.without_it}")
            continue
        print(f"  here: {_printable(str(status.path))} ({_size(status.bytes)}, sha256 {(status.sha256 or '')[:16]})")
        print(f"  from: {status.origin}")
        if status.licence:
            print(f"  licence: {status.licence}")


def _say_cached(cached: int, photos: int) -> None:
    _console().print(f"{cached} of {photos} photos came out of the cache", style="dim", soft_wrap=True)


def _error_counts(document: dict[str, Any]) -> dict[str, int]:
    counts: dict[str, int] = {}
    for artifact in document["artifacts"]:
        for error in artifact["features"]["errors"]:
            key = f"{error['stage']}: {error['reason']}"
            counts[key] = counts.get(key, 0) + 1
    return counts


def _printable(text: str) -> str:
    """Text that cannot drive a terminal."""
    return "".join(character if character.isprintable() else "?" for character in text)


def _complain(text: str) -> None:
    """Say on standard error what is wrong; it may have several lines."""
    print("\n".join(map(_printable, f"curation-features: {text}".split("\n"))), file=sys.stderr)


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


def _console(to_stderr: bool = False) -> Console:
    from rich.console import Console

    return Console(highlight=False, stderr=to_stderr)


@contextmanager
def _progress(label: str, total: int) -> Iterator[Callable[[int], None]]:
    """A progress bar on the terminal's standard error; nothing where there is no terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        task = progress.add_task(label, total=total)
        yield lambda count: progress.advance(task, count)


@contextmanager
def _downloads() -> Iterator[Callable[[str, int, int | None], None]]:
    """A progress bar for every file on the terminal's standard error; where there is none, a line when one is here."""
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    console = Console(stderr=True)
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    tasks: dict[str, TaskID] = {}
    with Progress(*columns, TimeRemainingColumn(), console=console, disable=not console.is_terminal) as bars:

        def show(name: str, done: int, total: int | None) -> None:
            if name not in tasks or bars.tasks[tasks[name]].finished:
                tasks[name] = bars.add_task(_printable(name), total=None)
            bars.update(tasks[name], completed=done, total=total)
            if done == total and not console.is_terminal:
                print(f"{_printable(name)}: {_size(done)}", file=sys.stderr)

        yield show


def _size(count: int) -> str:
    """A number of bytes for people."""
    unit, factor = next(((unit, factor) for unit, factor in (("GB", 1e9), ("MB", 1e6)) if count >= factor), ("kB", 1e3))
    return f"{count / factor:.1f} {unit}"


def _parser() -> argparse.ArgumentParser:
    codes = "\n".join(f"  {code:3}  {meaning}" for code, meaning in EXIT_CODES.items())
    parser = argparse.ArgumentParser(
        prog="curation-features",
        description="Turn batches of photos into CLIP labels and technical quality scores.",
        epilog=f"exit codes:\n{codes}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--root", type=Path, help="the project's root (default: the current folder)")
    parser.add_argument("-v", "--verbose", action="store_true", help="log what happens, and show tracebacks")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")

    command = _command(commands, "ingest", ingest, "curation-features ingest ~/Pictures/trip --batch-id trip")
    where = command.add_mutually_exclusive_group(required=True)
    where.add_argument("photos", nargs="?", type=Path, metavar="PHOTOS_DIR", help="folder of photos, read recursively")
    where.add_argument("--samples", action="store_true", help="use the sample photos that scikit-image carries")
    command.add_argument("--batch-id", help="id of the batch (default: batch_ and the time)")

    command = _command(commands, "process", process, "curation-features process data/batches/trip.json")
    _batch_arguments(command)
    command.add_argument("--output", metavar="FILE", help="write the enriched JSON here only; - is standard output")

    command = _command(commands, "materialize", materialize, "curation-features materialize data/batches/trip.json")
    _batch_arguments(command)

    command = _command(commands, "submit", submit, "curation-features submit data/batches/trip.json")
    command.add_argument("manifest", type=Path, metavar="MANIFEST", help="a batch manifest, bare or as a CloudEvent")

    command = _command(commands, "backfill", backfill, "curation-features backfill --assets labels")
    command.add_argument("batches", nargs="*", metavar="BATCH", help="ids of batches (default: all)")
    command.add_argument(
        "--assets",
        type=_assets,
        default=ASSETS,
        metavar="NAMES",
        help=f"separated by commas, of {', '.join(ASSETS)}; or 'labels' for those that labels change (default: all)",
    )
    command.add_argument("--url", default="http://127.0.0.1:3000", help="of Dagster's webserver (default: %(default)s)")

    models = commands.add_parser("models", help="the model weights").add_subparsers(required=True, metavar="COMMAND")
    command = _command(models, "pull", models_pull, "curation-features models pull --from /media/stick")
    command.add_argument(
        "--from",
        dest="from_folder",
        type=Path,
        metavar="DIR",
        help="take the files from here and nothing from the network: a copy of HF_HOME, repositories, or single files",
    )
    _command(models, "list", models_list, "curation-features models list")
    command = _command(models, "status", models_status, "curation-features models status --json")
    command.add_argument("--json", action="store_true", help="for machines")

    cache = commands.add_parser("cache", help="the per-photo cache").add_subparsers(required=True, metavar="COMMAND")
    command = _command(cache, "stats", cache_stats, "curation-features cache stats --json")
    command.add_argument("--json", action="store_true", help="for machines")
    command = _command(cache, "clear", cache_clear, "curation-features cache clear --all")
    command.add_argument("--all", action="store_true", help="the label embeddings too")
    return parser


def _assets(text: str) -> tuple[str, ...]:
    names = LABEL_ASSETS if text == "labels" else tuple(dict.fromkeys(text.split(",")))
    if unknown := [name for name in names if name not in ASSETS]:
        raise argparse.ArgumentTypeError(f"no such asset: {', '.join(unknown)}")
    return names


def _command(commands: Any, name: str, run: Command, example: str) -> argparse.ArgumentParser:
    summary = (run.__doc__ or "").strip()
    command: argparse.ArgumentParser = commands.add_parser(
        name,
        help=summary,
        description=summary,
        epilog=f"example:\n  {example}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.set_defaults(command=run)
    return command


def _batch_arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument("manifest", type=Path, metavar="MANIFEST", help="a batch manifest, bare or as a CloudEvent")
    command.add_argument(
        "--allow-degraded", action="store_true", help="go on without missing model weights; their values are defaults"
    )
