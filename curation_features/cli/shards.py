"""Many batches: `shard` splits a manifest, and `process` runs manifests through an engine."""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext, redirect_stdout
from dataclasses import asdict
from functools import partial
from typing import TYPE_CHECKING, Any

from curation_features.cli.command import Outcome, UsageError, declare, format_speed, parse_path, parse_positive, speed
from curation_features.cli.manifests import MANIFEST_HELP, find_manifest, find_manifests, is_folder_of_manifests
from curation_features.cli.terminal import LEFT, RIGHT, console, count_of, doing, make_table, progress, say
from curation_features.errors import CurationError
from curation_features.schema import STATUSES
from curation_features.settings import Settings, expand_home

if TYPE_CHECKING:
    from curation_features.engines import ShardResult
    from curation_features.pipeline import FeatureStages

SIZE = 2000
MOST_LISTED = 20
DEFAULT_ENGINE = "local"

SHARD_FIELDS = {
    "batch_id": "id of the batch",
    "photos": "number of its artifacts",
    "shards": "[{batch_id, photos, change}]: new, changed or unchanged, in the order of the manifest",
    "changes": "{new, changed, unchanged}: number of shards",
    "removed": "ids of former shards whose manifests were deleted from the folder",
    "former": "ids of former shards that still have results, to delete with `batches rm`",
    "files": "{folder}: the folder of the manifests",
}
ENGINE_FIELDS = {
    "engine": "its name",
    "placement": "its processes and their place",
    "batches": "[{batch_id, state, reason, seconds, photos, statuses}], as they ended",
    "states": "{done, already_done, failed}: number of batches",
}


def register(commands: Any) -> None:
    """Declare the command `shard`."""
    command = declare(commands, "shard", shard, "curation-features shard archive --size 2000", SHARD_FIELDS)
    command.add_argument("manifest", type=expand_home, metavar="MANIFEST", help=MANIFEST_HELP)
    size = "mean number of photos of a shard; it has a quarter to twice as many (default: %(default)s)"
    command.add_argument("--size", type=parse_positive, default=SIZE, metavar="N", help=size)
    output = "folder of their manifests (default: data/shards/BATCH)"
    command.add_argument("--output", type=parse_path, metavar="FOLDER", help=output)


def add_engine_options(command: argparse.ArgumentParser) -> None:
    """Add the options of runs through an engine."""
    from curation_features.engines.registry import ENGINES

    engines = "; ".join(f"{name}: {entry.summary}" for name, entry in ENGINES.items())
    engine = f"process batches through this engine; {engines} (default for several manifests: {DEFAULT_ENGINE})"
    command.add_argument("--engine", choices=list(ENGINES), metavar="NAME", help=engine)
    processes = "number of processes of the engine (default: by GPUs, or cores, and free memory)"
    part = "process only this part of the manifests, as in 3/20: for jobs of a scheduler that run at the same time"
    command.add_argument("--part", type=_parse_part, metavar="I/N", help=part)
    command.add_argument("--processes", type=parse_positive, metavar="N", help=processes)


def _parse_part(text: str) -> tuple[int, int]:
    """Return the number of a part, from 0, and of all parts."""
    number, _, count = text.partition("/")
    if not (number.isdecimal() and count.isdecimal() and int(number) < int(count)):
        raise argparse.ArgumentTypeError(f"{text!r} is not I/N, a number from 0 and the number of parts, as in 0/20")
    return int(number), int(count)


# shard ---------------------------------------------------------------------------------------------------------------


def shard(args: argparse.Namespace, settings: Settings) -> Outcome:
    """Split a batch into shards, stable when photos are added: batches to process one by one or in parallel."""
    from curation_features.engines.shard_files import former_batches, remove_former_shards, write_shards
    from curation_features.engines.sharding import split
    from curation_features.manifest import read_manifest

    with doing("splitting"):
        batch = read_manifest(find_manifest(args.manifest, settings))
        folder = args.output or settings.data_path / "shards" / batch.batch_id
        written = list(write_shards(split(batch, args.size), folder))
        current = [one.batch_id for one in written]
        removed = remove_former_shards(batch.batch_id, current, folder)
        former = former_batches(batch.batch_id, current, settings.data_path)
    changes = Counter(one.change for one in written)
    fields = {
        "batch_id": batch.batch_id,
        "photos": len(batch.artifacts),
        "shards": [asdict(one) for one in written],
        "changes": {change: changes[change] for change in ("new", "changed", "unchanged")},
        "removed": removed,
        "former": former,
        "files": {"folder": folder},
    }
    return Outcome(fields, partial(_show_shards, fields))


def _show_shards(fields: Mapping[str, Any]) -> None:
    changes = ", ".join(f"{count:,} {change}" for change, count in fields["changes"].items() if count)
    sizes = [one["photos"] for one in fields["shards"]] or [0]
    shards = f"{count_of(len(fields['shards']), 'shard')} of {min(sizes):,} to {max(sizes):,} photos"
    say(f"{count_of(fields['photos'], 'photo')} of batch {fields['batch_id']} in {shards}: {changes or 'none'}", "bold")
    if fields["removed"]:
        say(f"deleted the manifests of {count_of(len(fields['removed']), 'former shard')}", "yellow")
    if former := fields["former"]:
        say(
            f"{count_of(len(former), 'former shard')} still have results, whose photos are in other shards now:",
            "yellow",
        )
        say(f"curation-features batches rm {' '.join(former)}")
    say(f"to process them: curation-features process {fields['files']['folder']}")


# process through an engine -------------------------------------------------------------------------------------------


def uses_engine(args: argparse.Namespace, settings: Settings) -> bool:
    """Whether `process` runs through an engine."""
    is_one = len(args.manifest) == 1 and not is_folder_of_manifests(args.manifest[0], settings)
    return bool(args.engine or args.processes or args.part or not is_one)


def process_shards(
    args: argparse.Namespace, settings: Settings, begin: Callable[[], tuple[FeatureStages, object]]
) -> Outcome:
    """Process batches through an engine.

    Args:
        begin: creates the stages, to fetch weights and report missing ones once and not in each process.
    """
    from curation_features.engines import EngineOptions, Shard, ShardResult, create_engine
    from curation_features.engines.batch_work import batch_work
    from curation_features.engines.shard_files import read_shards
    from curation_features.search.indexing import refresh_index

    if args.output:
        raise UsageError("--output is for one manifest without an engine; an engine writes into the data folder")
    with doing("reading manifests"):
        number, parts = args.part or (0, 1)
        found = list(read_shards(find_manifests(args.manifest, settings)[number::parts]))
    shards = [one for one in found if isinstance(one, Shard)]
    results = [one for one in found if isinstance(one, ShardResult)]
    stages, _ = begin()
    name = args.engine or DEFAULT_ENGINE
    work = batch_work(settings, vocabulary=args.vocabulary or "", retry_failed=args.retry_failed)
    start = time.monotonic()
    with progress("measuring", sum(one.photos for one in shards)) as bar:
        options = EngineOptions(
            settings, args.processes, _weights_bytes(stages), lambda photos, worked: bar.advance(photos, worked=worked)
        )
        # Ray prints deaths of its processes on the standard output, which is JSON with --json.
        with redirect_stdout(sys.stderr) if args.json else nullcontext():
            engine = create_engine(name, options)
            results += engine.run(shards, work)
    refresh_index(settings)
    return _outcome(name, engine.description, results, time.monotonic() - start)


def _weights_bytes(stages: FeatureStages) -> int:
    """Sum the sizes of the weights on this machine; missing ones count nothing in a degraded run."""
    from curation_features.errors import WeightsError

    total = 0
    for model in (stages.models.clip, stages.models.clip_iqa, stages.models.brisque):
        try:
            total += model.weights.path.stat().st_size
        except (WeightsError, OSError):
            continue
    return total


def _outcome(engine: str, placement: str, results: Sequence[ShardResult], seconds: float) -> Outcome:
    from curation_features.engines.executor import STATES

    states = Counter(result.state for result in results)
    statuses: Counter[str] = Counter()
    for result in results:
        statuses.update(result.statuses)
    photos = sum(result.photos for result in results if result.state != "failed")
    fields = {
        "engine": engine,
        "placement": placement,
        "batches": [result.to_json() for result in results],
        "states": {state: states[state] for state in STATES},
        "photos": photos,
        "statuses": {status: statuses[status] for status in STATUSES},
        **speed(photos, seconds),
    }
    failure = None
    if states["failed"]:
        failure = CurationError(
            f"{states['failed']} of {len(results)} batches failed; the others are finished: "
            "run the same command again to try these only"
        )
    return Outcome(fields, partial(_show_results, fields), failure)


def _show_results(fields: Mapping[str, Any]) -> None:
    failed = [one for one in fields["batches"] if one["state"] == "failed"]
    if failed:
        rows = [(one["batch_id"], f"{one['photos']:,}", one["reason"]) for one in failed[:MOST_LISTED]]
        console().print(make_table({"failed": LEFT, "photos": RIGHT, "reason": {"overflow": "fold"}}, rows))
    if len(failed) > MOST_LISTED:
        say(f"... and {len(failed) - MOST_LISTED:,} more", style="dim")
    states = ", ".join(f"{count:,} {state.replace('_', ' ')}" for state, count in fields["states"].items() if count)
    statuses = ", ".join(f"{count:,} {status}" for status, count in fields["statuses"].items() if count)
    batches = "1 batch" if len(fields["batches"]) == 1 else f"{len(fields['batches']):,} batches"
    say(f"{batches}: {states}; {count_of(fields['photos'], 'photo')}: {statuses or 'none'}", style="bold")
    say(f"{format_speed(fields)}; {fields['engine']}: {fields['placement']}")
