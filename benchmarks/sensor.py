"""Measure a tick of the sensor with 100, 2,000 and 20,000 known batches, with and without new manifests.

Each project is a folder with a Dagster instance on SQLite, like that of `dagster dev`. A known batch has a partition,
an observation, a finished run with its run key, an accepted manifest and its delivered file. Dagster adds the
partitions, one observation and one run; the rows of the other batches are copied, since Dagster takes some 10 ms for
each; then Dagster reads them back.

"The sensor" is the work of the code server, which opens the instance in every tick. "The daemon" is the work of the
daemon before it launches runs: observations, partitions, and the search for runs with the same run keys, without
launches and its records of ticks. "The tick after it" moves the files of these manifests. The new manifests stay, so
"known before" counts the batches before the first round.
"""

from __future__ import annotations

import os
import sqlite3
import tempfile
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import dagster as dg
from dagster._core.storage.tags import PARTITION_NAME_TAG, RUN_KEY_TAG, SENSOR_NAME_TAG
from measure import Report, arguments, elapsed, medians

from curation_features.inbox.folders import submit
from curation_features.manifest import Batch, batch_from, to_json
from curation_features.orchestration.launch import accept, manifest_tags, project_instance
from curation_features.orchestration.partitions import DIMENSION
from curation_features.orchestration.project import build_definitions
from curation_features.settings import ENV_PREFIX, Settings
from curation_features.storage.artifacts import ArtifactStore

KNOWN = (100, 2_000, 20_000)
NEW = (1, 100)
PHOTOS = 100  # of a new manifest
PARTITIONS_AT_ONCE = 10_000

SENSOR = "preprocess_outputs"
RESOURCES = ("settings", "artifacts", "incoming", "store", "events", "sink")
"""What the sensor needs. As in the code server, they are made anew for each tick."""


class Project:
    """A project that gets `known` batches, and its sensor, ticked like Dagster's daemon does."""

    def __init__(self, settings: Settings, instance: dg.DagsterInstance, known: int) -> None:
        self.known = known
        self.instance = instance
        self.incoming = settings.data_path / "incoming"
        self.cursor: str | None = None
        definitions = build_definitions(settings)
        self.sensor = definitions.resolve_sensor_def(SENSOR)
        self.repository = definitions.get_repository_def()
        self.resources = {name: (definitions.resources or {})[name] for name in RESOURCES}
        self.dropped = 0

    def evaluate(self, instance: dg.DagsterInstance | None = None) -> Any:
        """Evaluate the sensor like the code server, which opens the instance unless one is given."""
        context = dg.build_sensor_context(
            instance,
            instance_ref=self.instance.get_ref(),
            cursor=self.cursor,
            repository_def=self.repository,
            resources=self.resources,
        )
        with context:
            return self.sensor.evaluate_tick(context)

    def hand_over(self, tick: Any) -> None:
        """Process the result like the daemon, without launching runs."""
        for event in tick.asset_events:
            self.instance.report_runless_asset_event(event)
        for request in tick.dynamic_partitions_requests or []:
            keys = [key for key in request.partition_keys if not self.instance.has_dynamic_partition(DIMENSION, key)]
            self.instance.add_dynamic_partitions(DIMENSION, keys)
        for request in tick.run_requests:
            self.instance.get_runs(dg.RunsFilter(tags={RUN_KEY_TAG: request.run_key}))
        self.cursor = tick.cursor

    def empty_tick(self, instance: dg.DagsterInstance | None = None) -> None:
        """Run a tick that finds nothing new."""
        tick = self.evaluate(instance)
        if tick.run_requests or not tick.skip_message.startswith("no new"):
            raise RuntimeError(f"a tick with nothing new asked for runs, or said {tick.skip_message!r}")
        self.hand_over(tick)

    def take(self, count: int) -> dict[str, float]:
        """Take `count` new manifests; returns the seconds of each step."""
        for number in range(self.dropped, self.dropped + count):
            submit(to_json(batch(f"new-{number:05}", PHOTOS).document), self.incoming, str(number))
        self.dropped += count
        ticks: list[Any] = []
        seconds = {
            "the sensor": elapsed(lambda: ticks.append(self.evaluate())),
            "the daemon": elapsed(lambda: self.hand_over(ticks[0])),
            "the tick after it": elapsed(self.empty_tick),
        }
        if len(ticks[0].run_requests) != count:
            raise RuntimeError(f"{len(ticks[0].run_requests)} runs were asked for, not {count}")
        return seconds


def fill(settings: Settings, instance: dg.DagsterInstance, known: int) -> None:
    """Register `known` batches."""
    store, accepted = ArtifactStore(settings.data_path), settings.data_path / "incoming" / "accepted"
    batches = [batch(f"known-{number:05}", 1) for number in range(known)]
    runs = [str(uuid.uuid4()) for _ in batches]
    first, last = batches[0], batches[-1]
    accept(first, store, instance)
    instance.add_run(
        dg.DagsterRun("extract_features", run_id=runs[0], status=dg.DagsterRunStatus.SUCCESS, tags=run_tags(first))
    )
    for start in range(1, known, PARTITIONS_AT_ONCE):
        keys = [one.batch_id for one in batches[start : start + PARTITIONS_AT_ONCE]]
        instance.add_dynamic_partitions(DIMENSION, keys)
    names = [
        {first.batch_id: one.batch_id, first.digest: one.digest, first.digest[:16]: one.digest[:16], runs[0]: run}
        for one, run in zip(batches, runs, strict=True)
    ]
    history = Path(instance.root_directory) / "history"
    copy_rows(history / "runs" / "index.db", ("event_logs", "asset_event_tags"), names)
    copy_rows(history / "runs.db", ("runs", "run_tags"), names)
    accepted.mkdir(parents=True)
    for one in batches:
        data = to_json(one.document)
        store.manifest_path(one.batch_id).write_bytes(data)
        (accepted / f"{one.batch_id}-{one.digest[:12]}.json").write_bytes(data)
    check_known(instance, last, known)


def copy_rows(database: Path, tables: Sequence[str], names: Sequence[Mapping[str, str]]) -> None:
    """Copy the rows of the first batch for each of the others, with their names."""
    with closing(sqlite3.connect(database)) as connection, connection:
        for table in tables:
            rows = connection.execute(f"SELECT * FROM {table} ORDER BY id").fetchall()
            columns = [column for _, column, *_ in connection.execute(f"PRAGMA table_info({table})")]
            connection.executemany(
                f"INSERT INTO {table} VALUES ({', '.join('?' * len(columns))})",
                copies([dict(zip(columns, row, strict=True)) for row in rows], names),
            )


def copies(rows: Sequence[Mapping[str, Any]], names: Sequence[Mapping[str, str]]) -> Iterator[list[Any]]:
    for number, replaced in enumerate(names[1:], start=1):
        for row in rows:
            changed = {name: with_names(value, replaced) for name, value in row.items()}
            event_id = {"event_id": row["event_id"] + number} if "event_id" in row else {}
            yield list({**changed, "id": row["id"] + number * len(rows), **event_id}.values())


def with_names(value: Any, names: Mapping[str, str]) -> Any:
    if isinstance(value, str):
        for old, new in names.items():
            value = value.replace(old, new)
    return value


def check_known(instance: dg.DagsterInstance, last: Batch, known: int) -> None:
    """Read the copied rows back through Dagster."""
    wanted = dg.AssetRecordsFilter(dg.AssetKey("preprocess_batches"), asset_partitions=[last.batch_id])
    [observed] = instance.fetch_observations(wanted, limit=2).records
    [run] = instance.get_runs(dg.RunsFilter(tags=run_tags(last)))
    seen = observed.asset_observation.tags["dagster/data_version"], run.tags, instance.get_runs_count()
    if seen != (last.digest, run_tags(last), known):
        raise RuntimeError(f"Dagster sees other batches than those that were to be known: {seen}")


def batch(batch_id: str, photos: int) -> Batch:
    artifact = {
        "original_uri": "./data/input/a.jpg",
        "ranking_uri": "./data/rankingInput/a.jpg",
        "std_uri": "./data/rankingInput/a_1024.jpg",
        "exif": {"camera": "camera", "lens": "Unknown", "iso": 64, "aperture": "f/1.8", "gps": None},
        "format": ".jpg",
        "processing_metadata": {"original_size": [3840, 2160], "standardized_size": [1024, 576]},
    }
    artifacts = [{"photo_id": f"{batch_id}-{number}", **artifact} for number in range(photos)]
    return batch_from({"batch_id": batch_id, "artifacts": artifacts})


def run_tags(one: Batch) -> dict[str, str]:
    """Return the tags of a run that the sensor requested."""
    return {
        **manifest_tags(one),
        PARTITION_NAME_TAG: one.batch_id,
        RUN_KEY_TAG: f"{one.batch_id}:{one.digest[:16]}",
        SENSOR_NAME_TAG: SENSOR,
    }


def idle(projects: Sequence[Project], rounds: int, opened: bool = False) -> dict[int, float]:
    """Median seconds of a tick with nothing new, by known batches."""
    actions = {str(one.known): partial(one.empty_tick, one.instance if opened else None) for one in projects}
    return {int(known): seconds for known, seconds in medians(actions, rounds).items()}


def busy(projects: Sequence[Project], count: int, rounds: int) -> dict[int, dict[str, float]]:
    """Median seconds of each step of taking `count` manifests, by known batches, after a warm-up round."""
    found: dict[int, list[dict[str, float]]] = {project.known: [] for project in projects}
    for number in range(rounds + 1):
        for project in projects[:: -1 if number % 2 else 1]:
            found[project.known].append(project.take(count))
    return {
        known: {step: median(taken[step] for taken in times[1:]) for step in times[0]} for known, times in found.items()
    }


def add(report: Report, name: str, seconds: Mapping[int, float]) -> None:
    """Add a row of milliseconds, and the ratio of the most known batches to the fewest."""
    columns = {f"{known:,}": 1000 * taken for known, taken in seconds.items()}
    report.add(name, **columns, ratio=seconds[max(seconds)] / seconds[min(seconds)])


def main() -> None:
    parser = arguments(__doc__, rounds=5)
    parser.add_argument("--known", type=int, nargs="+", default=KNOWN, metavar="N", help="known batches")
    options = parser.parse_args()
    for name in list(os.environ):  # ignore settings and Dagster instance of another project
        if name.startswith(ENV_PREFIX) or name == "DAGSTER_HOME":
            del os.environ[name]
    with ExitStack() as stack:
        projects = []
        for known in options.known:
            root = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            settings = Settings(root=root)
            instance = stack.enter_context(project_instance(settings))
            projects.append(Project(settings, instance, known))
            fill(settings, instance, known)
        report = Report(f"A tick of the sensor, ms, by batches known before ({options.rounds} rounds)")
        add(report, "nothing new", idle(projects, 5 * options.rounds))
        add(report, "nothing new: instance open", idle(projects, 5 * options.rounds, opened=True))
        for count in NEW:
            taken = busy(projects, count, options.rounds)
            for step in next(iter(taken.values())):
                add(report, f"{count} new: {step}", {known: taken[known][step] for known in options.known})
        report.show(options.json)


if __name__ == "__main__":
    main()
