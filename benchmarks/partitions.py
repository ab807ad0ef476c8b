"""Measure Dagster with many partitions, on SQLite or PostgreSQL: its pages, a tick of the sensor, a backfill request.

One batch is made for real, with `curation-features materialize`, or with `process` and adopted as by the sensor. Its
rows (runs, tags, events, checks) are then copied in the database, under the names of the other batches: Dagster would
take some 2 s for each. On PostgreSQL every log line of a run is a row of `event_logs`; on SQLite a run has a separate
file, of which only the first is written.

Pages are the queries of Dagster's user interface, answered by a real webserver: "first" is the first time, when Dagster
fills its cache of the state of partitions; "again" is the median of further ones. "One more batch" is the first after
another partition was added. A backfill is requested and canceled; the daemon does not run.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from statistics import median
from typing import Any

import dagster as dg
import requests
import sqlalchemy as sa
from measure import Report, arguments, elapsed
from photos import write_photos
from sensor import Project

from curation_features.manifest import Batch, batch_from, to_json
from curation_features.orchestration.adoption import adopt_pending
from curation_features.orchestration.assets import SPECS
from curation_features.orchestration.launch import accept, project_instance
from curation_features.orchestration.partitions import DIMENSION
from curation_features.settings import Settings
from curation_features.storage.artifacts import ArtifactStore

FIRST = "batch-0000000"
AT_ONCE = 5_000  # partitions that Dagster adds in one statement, and copies in one transaction
ASSET = {"path": ["features"]}
OFFLINE = {"CURATION_FEATURES_ON_MISSING_WEIGHTS": "degrade", "HF_HUB_OFFLINE": "1"}

STATUS = """query PartitionHealthQuery($key: AssetKeyInput!) { assetNodeOrError(assetKey: $key) { ... on AssetNode { id
  partitionKeysByDimension { name type partitionKeys } assetPartitionStatuses { ... on DefaultPartitionStatuses {
  materializedPartitions materializingPartitions failedPartitions } } } } }"""
ASSET_PAGE = """query AssetOverviewMetadataEventsQuery($key: AssetKeyInput!) { assetOrError(assetKey: $key) {
  ... on Asset { id assetMaterializations(limit: 1) { timestamp runId partition metadataEntries { label } }
  assetObservations(limit: 1) { timestamp runId partition } definition { id opVersion groupName
  partitionStats { numMaterialized numPartitions numFailed } } } } }"""
EVENTS = """query RecentAssetEventsQuery($key: AssetKeyInput!) { assetOrError(assetKey: $key) { ... on Asset { id
  assetEventHistory(limit: 100, eventTypeSelectors: [MATERIALIZATION, OBSERVATION, FAILED_TO_MATERIALIZE]) { results {
  __typename } } } } }"""
PARTITION = """query AssetPartitionDetailQuery($key: AssetKeyInput!, $partition: String!) {
  assetOrError(assetKey: $key) { ... on Asset { id definition { id
  latestRunForPartition(partition: $partition) { id status } }
  assetEventHistory(partitions: [$partition], limit: 1000, eventTypeSelectors: [MATERIALIZATION, OBSERVATION]) {
  results { ... on MaterializationEvent { runId timestamp metadataEntries { label } } } } } } }"""
STALE = """query AssetPartitionStaleQuery($key: AssetKeyInput!, $partition: String!) {
  assetNodeOrError(assetKey: $key) { ... on AssetNode { id staleStatus(partition: $partition)
  staleCauses(partition: $partition) { reason } } } }"""
RUNS = """query RunsRootQuery { pipelineRunsOrError(limit: 25) { ... on Runs { results {
  runId status tags { key value } } } } }"""
LAUNCH = """mutation ($names: [String!], $assets: [AssetKeyInput!]) { launchPartitionBackfill(backfillParams: {
  partitionNames: $names, assetSelection: $assets }) { ... on LaunchBackfillSuccess { backfillId }
  ... on PythonError { message } } }"""
BACKFILL = """query ($id: String!) { partitionBackfillOrError(backfillId: $id) { ... on PartitionBackfill { status
  numPartitions assetBackfillData { assetBackfillStatuses { ... on AssetPartitionsStatusCounts {
  numPartitionsMaterialized } } } } } }"""
CANCEL = "mutation ($id: String!) { cancelPartitionBackfill(backfillId: $id) { __typename } }"


# Rows ----------------------------------------------------------------------------------------------------------------


def batch(number: int, uri: str) -> Batch:
    return batch_from({"batch_id": f"batch-{number:07}", "artifacts": [{"photo_id": f"{number}", "original_uri": uri}]})


def databases(instance: dg.DagsterInstance) -> Mapping[str, tuple[str, ...]]:
    """Tables whose rows belong to a run, by the address of their database."""
    events, runs = ("event_logs", "asset_event_tags", "asset_check_executions"), ("runs", "run_tags")
    storage: Any = instance.event_log_storage
    if hasattr(storage, "postgres_url"):
        return {storage.postgres_url: (*events, *runs)}
    history = Path(instance.root_directory) / "history"
    return {f"sqlite:///{history / 'runs' / 'index.db'}": events, f"sqlite:///{history / 'runs.db'}": runs}


def copy_rows(url: str, tables: tuple[str, ...], names: list[tuple[str, ...]]) -> None:
    """Copy all rows of the first batch for each of the others, by the same statements on every database."""
    engine = sa.create_engine(url)
    described = sa.inspect(engine)
    columns = {table: described.get_columns(table) for table in tables}
    with engine.begin() as connection:
        ids = {table: connection.scalar(sa.text(f"SELECT max(id) FROM {table}")) or 0 for table in tables}
    for start in range(1, len(names), AT_ONCE):
        with engine.begin() as connection:
            fields = ("batch", "digest", "short", "run")
            connection.execute(sa.text(f"CREATE TEMPORARY TABLE others (number INTEGER, {_list(fields, ' TEXT')})"))
            rows = [
                dict(zip(("number", *fields), (number, *names[number]), strict=True))
                for number in range(start, min(start + AT_ONCE, len(names)))
            ]
            values = ", ".join(f":{name}" for name in ("number", *fields))
            connection.execute(sa.text(f"INSERT INTO others VALUES ({values})"), rows)
            for table in tables:
                made = [_copied(column["name"], column["type"], table, ids) for column in columns[table]]
                quoted = _list([f'"{column["name"]}"' for column in columns[table]])
                source = f"SELECT {', '.join(made)} FROM {table} t, others o WHERE t.id <= :last"
                text = f"INSERT INTO {table} ({quoted}) {source}"
                parameters = {f"old_{field}": old for field, old in zip(fields, names[0], strict=True)}
                used = {name: value for name, value in parameters.items() if f":{name}" in text}
                connection.execute(sa.text(text), {"last": ids[table], **used})
            connection.execute(sa.text("DROP TABLE others"))
    with engine.begin() as connection:
        if engine.dialect.name == "postgresql":
            for table in tables:
                connection.execute(
                    sa.text(f"SELECT setval(pg_get_serial_sequence('{table}', 'id'), (SELECT max(id) FROM {table}))")
                )
    if engine.dialect.name == "postgresql":  # as autovacuum does later
        with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.execute(sa.text("ANALYZE"))
    engine.dispose()


def _list(names: Any, suffix: str = "") -> str:
    return ", ".join(f"{name}{suffix}" for name in names)


def _copied(name: str, kind: Any, table: str, ids: Mapping[str, int]) -> str:
    """SQL for a column of a copy: with other names in texts, and other ids in references."""
    if name == "id":
        return f"t.id + o.number * {ids[table]}"
    if name in ("event_id", "evaluation_event_storage_id", "materialization_event_storage_id"):
        return f't."{name}" + o.number * {ids["event_logs"]}'
    if not isinstance(kind, sa.String):
        return f't."{name}"'
    expression = f't."{name}"'
    for field in ("batch", "digest", "short", "run"):
        expression = f"replace({expression}, :old_{field}, o.{field})"
    return expression


def fill(settings: Settings, instance: dg.DagsterInstance, count: int, uri: str) -> None:
    """Make `count` batches known, all like the first."""
    batches = [batch(number, uri) for number in range(count)]
    store, accepted = ArtifactStore(settings.data_path), settings.data_path / "incoming" / "accepted"
    accepted.mkdir(parents=True, exist_ok=True)
    names = [
        (one.batch_id, one.digest, one.digest[:16], str(uuid.UUID(hashlib.md5(one.digest.encode()).hexdigest())))
        for one in batches
    ]
    runs = [run.run_id for run in instance.get_runs(limit=2)]  # none if the batch was adopted
    names[0] = (*names[0][:3], *(runs or ["no run"]))
    for start in range(1, count, AT_ONCE):
        instance.add_dynamic_partitions(DIMENSION, [name for name, *_ in names[start : start + AT_ONCE]])
    for url, tables in databases(instance).items():
        copy_rows(url, tables, names)
    for one in batches:
        data = to_json(one.document)
        store.manifest_path(one.batch_id).write_bytes(data)
        (accepted / f"{one.batch_id}-{one.digest[:12]}.json").write_bytes(data)
    check_filled(instance, batches[-1], names[-1][-1] if runs else "", count)


def check_filled(instance: dg.DagsterInstance, last: Batch, run_id: str, count: int) -> None:
    """Read the copied rows back through Dagster; without a run, the batches were adopted."""
    wanted = dg.AssetRecordsFilter(dg.AssetKey("features"), asset_partitions=[last.batch_id])
    [made] = instance.fetch_materializations(wanted, limit=2).records
    if not run_id:
        if made.partition_key != last.batch_id or len(instance.get_dynamic_partitions(DIMENSION)) != count:
            raise RuntimeError("Dagster does not find the last batch")
        return
    run = instance.get_run_by_id(run_id)
    if made.run_id != run_id or run is None or run.tags["dagster/partition"] != last.batch_id:
        raise RuntimeError("Dagster does not find the run of the last batch")
    if (found := instance.get_runs_count()) != count:
        raise RuntimeError(f"Dagster finds {found} runs, not {count}")


def bytes_of(instance: dg.DagsterInstance) -> dict[str, int]:
    """Bytes of the tables of events with their indexes, and of the whole database."""
    [url, *_] = databases(instance)
    if url.startswith("postgresql"):
        engine = sa.create_engine(url)
        with engine.connect() as connection:
            events = connection.scalar(sa.text("SELECT pg_total_relation_size('event_logs')"))
            everything = connection.scalar(sa.text("SELECT pg_database_size(current_database())"))
        engine.dispose()
        return {"event log": int(events or 0), "all": int(everything or 0)}
    home = Path(instance.root_directory)
    sizes = {path: path.stat().st_size for path in home.rglob("*") if path.is_file()}
    return {"event log": sizes[home / "history" / "runs" / "index.db"], "all": sum(sizes.values())}


# Webserver -----------------------------------------------------------------------------------------------------------


class Webserver:
    """A running webserver of the project, and the seconds of its answers."""

    def __init__(self, url: str) -> None:
        self.url = url

    def ask(self, query: str, **variables: Any) -> dict[str, Any]:
        """Return the data of an answer."""
        response = requests.post(f"{self.url}/graphql", json={"query": query, "variables": variables}, timeout=900)
        answer = response.json()
        if answer.get("errors"):
            raise RuntimeError(answer["errors"][0]["message"])
        return dict(answer["data"])

    def seconds(self, query: str, rounds: int, **variables: Any) -> dict[str, float]:
        """Seconds of the first answer, and the median of the others."""
        first, *others = [elapsed(lambda: self.ask(query, **variables)) for _ in range(rounds + 1)]
        return {"first": first, "again": median(others)}


@contextmanager
def webserver(root: Path, environ: Mapping[str, str]) -> Iterator[Webserver]:
    """Start Dagster's webserver on the project, with our definitions."""
    workspace = root / "workspace.yaml"
    workspace.write_text("load_from:\n- python_module: {module_name: curation_features.definitions, attribute: defs}\n")
    with closing(socket.socket()) as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    program = Path(sys.executable).with_name("dagster-webserver")
    command = [str(program), "-w", str(workspace), "-h", "127.0.0.1", "-p", str(port)]
    with (root / "webserver.log").open("wb") as log, subprocess.Popen(
        command, cwd=root, env={**os.environ, **environ}, stdout=log, stderr=log
    ) as process:  # fmt: skip
        try:
            server = Webserver(f"http://127.0.0.1:{port}")
            for _ in range(600):
                try:
                    requests.get(f"{server.url}/server_info", timeout=5)
                    break
                except requests.RequestException:
                    time.sleep(0.5)
            else:
                raise RuntimeError((root / "webserver.log").read_text())
            yield server
        finally:
            process.terminate()


# PostgreSQL ----------------------------------------------------------------------------------------------------------


@contextmanager
def postgres(folder: Path) -> Iterator[dict[str, str]]:
    """Start a PostgreSQL server with its default settings; yields the variables of `dagster-postgres.yaml`."""
    debian = [str(path) for path in sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)]
    found = shutil.which("initdb", path=os.pathsep.join([os.environ.get("PATH", os.defpath), *debian]))
    if found is None:
        raise SystemExit("PostgreSQL's server is not installed")
    programs, account = Path(found).resolve().parent, "postgres" if os.geteuid() == 0 else None
    identity: dict[str, Any] = {"user": account, "group": account, "extra_groups": []} if account else {}
    if account:
        shutil.chown(folder, account, account)
    with closing(socket.socket()) as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])

    def call(program: str, *values: str) -> None:
        subprocess.run(
            [str(programs / program), *values], check=True, cwd=folder, env={"PATH": os.defpath, "LC_ALL": "C"},
            stdout=subprocess.DEVNULL, stdin=subprocess.DEVNULL, **identity,
        )  # fmt: skip

    data = str(folder / "data")
    call("initdb", "--auth=trust", "-U", "curation", "-E", "UTF8", "-D", data)
    options = f"-p {port} -c listen_addresses=127.0.0.1 -c unix_socket_directories=''"
    call("pg_ctl", "start", "-w", "-D", data, "-l", str(folder / "log"), "-o", options)
    try:
        call("createdb", "-h", "127.0.0.1", "-p", port, "-U", "curation", "dagster")
        values = {"HOST": "127.0.0.1", "PORT": port, "DB": "dagster", "USER": "curation", "PASSWORD": "none"}
        yield {f"DAGSTER_POSTGRES_{name}": value for name, value in values.items()}
    finally:
        call("pg_ctl", "stop", "-m", "immediate", "-D", data)


# Measures ------------------------------------------------------------------------------------------------------------


def first_batch(settings: Settings, instance: dg.DagsterInstance, command: str, environ: Mapping[str, str]) -> str:
    """Make the first batch in a process, like a user; returns the URI of its photo.

    Args:
        command: `materialize`, or `process`, whose batch is then adopted as by the sensor.
    """
    root = settings.root
    write_photos(root / "input", 1, 256)
    photo = min((root / "input").iterdir())
    uri = str(photo)
    manifest = root / "first.json"
    manifest.write_bytes(to_json(batch(0, uri).document))
    called = [sys.executable, "-m", "curation_features", command, str(manifest), "--allow-degraded"]
    done = subprocess.run(called, cwd=root, env={**os.environ, **environ}, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(done.stdout + done.stderr)
    adopt_pending(ArtifactStore(settings.data_path), instance, SPECS)
    return uri


def measure(report: Report, storage: str, command: str, count: int, rounds: int, folder: Path) -> None:
    """Add the rows of one storage and one number of partitions."""
    root, config = folder / "project", "dagster.yaml" if storage == "sqlite" else "dagster-postgres.yaml"
    root.mkdir()
    with ExitStack() as stack:
        environ = {**OFFLINE, "DAGSTER_HOME": str(root / "data" / "dagster")}
        environ["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
        if storage == "postgres":
            server = folder / "server"
            server.mkdir()
            folder.chmod(0o755)
            environ.update(stack.enter_context(postgres(server)))
        os.environ.update(environ)
        settings = Settings(root=root, on_missing_weights="degrade")
        instance = stack.enter_context(project_instance(settings, config))
        uri = first_batch(settings, instance, command, environ)
        before = bytes_of(instance)
        seconds = elapsed(lambda: fill(settings, instance, count, uri))
        after = bytes_of(instance)
        per_batch = {name: (after[name] - before[name]) / (count - 1) / 1000 for name in after}
        name = f"{storage}, {count:,} by {command}"

        def add(what: str, **numbers: float) -> None:
            report.add(f"{name}: {what}", **numbers)
            print(f"{name}: {what}", json.dumps({key: round(value, 4) for key, value in numbers.items()}), flush=True)

        for run in instance.get_runs(limit=1, ascending=True):
            add("events of a run", first=len(instance.all_logs(run.run_id)))
            run_file = Path(instance.root_directory) / "history" / "runs" / f"{run.run_id}.db"
            if run_file.exists():
                add("kB of the file of a run", first=run_file.stat().st_size / 1000)
        add("kB a batch, event log", first=per_batch["event log"])
        add("kB a batch, database", first=per_batch["all"])
        add("rows copied, s", first=seconds)
        with webserver(root, environ) as server:
            server.ask(RUNS)  # the code server has started then
            last = f"batch-{count - 1:07}"
            add("state of all partitions, s", **server.seconds(STATUS, rounds, key=ASSET))
            add("asset page, s", **server.seconds(ASSET_PAGE, rounds, key=ASSET))
            add("its last 100 events, s", **server.seconds(EVENTS, rounds, key=ASSET))
            add("page of a partition, s", **server.seconds(PARTITION, rounds, key=ASSET, partition=last))
            add("its staleness, s", **server.seconds(STALE, rounds, key=ASSET, partition=last))
            add("list of runs, s", **server.seconds(RUNS, rounds))
            accept(batch(count, uri), ArtifactStore(settings.data_path), instance)
            add("state of all partitions, one more batch, s", first=elapsed(lambda: server.ask(STATUS, key=ASSET)))
            backfill(add, server, count)
        ticks(add, settings, instance, rounds)


def backfill(add: Any, server: Webserver, count: int) -> None:
    """Request a backfill of all partitions and of two assets, look at it, cancel it."""
    names = [f"batch-{number:07}" for number in range(count)]
    assets = [{"path": ["clip_labels"]}, {"path": ["features"]}]
    launched: list[dict[str, Any]] = []
    seconds = elapsed(lambda: launched.append(server.ask(LAUNCH, names=names, assets=assets)))
    found = launched[0]["launchPartitionBackfill"]
    if "backfillId" not in found:
        raise RuntimeError(found)
    add("backfill of all: request, s", first=seconds)
    add("backfill of all: its page, s", **server.seconds(BACKFILL, 3, id=found["backfillId"]))
    add("backfill of all: cancel, s", first=elapsed(lambda: server.ask(CANCEL, id=found["backfillId"])))


def ticks(add: Any, settings: Settings, instance: dg.DagsterInstance, rounds: int) -> None:
    """Tick the sensor with nothing new and with 100 new manifests."""
    project = Project(settings, instance, 0)
    project.empty_tick()
    add("tick, nothing new, s", again=median(elapsed(project.empty_tick) for _ in range(rounds)))
    taken = [project.take(100) for _ in range(2)][-1]
    add("tick, 100 new: sensor, s", again=taken["the sensor"])
    add("tick, 100 new: daemon before its launches, s", again=taken["the daemon"])


def main() -> None:
    parser: argparse.ArgumentParser = arguments(__doc__, rounds=3)
    parser.add_argument("--partitions", type=int, nargs="+", default=[25_000])
    parser.add_argument("--storage", choices=("sqlite", "postgres"), nargs="+", default=["sqlite", "postgres"])
    parser.add_argument("--command", choices=("materialize", "process"), default="materialize", help="that made them")
    parser.add_argument("--folder", type=Path, help="parent of the temporary folders")
    options = parser.parse_args()
    report = Report(f"Dagster with many partitions ({options.rounds} rounds)")
    for count in options.partitions:
        for storage in options.storage:
            with tempfile.TemporaryDirectory(dir=options.folder) as name:
                measure(report, storage, options.command, count, options.rounds, Path(name))
    report.show(options.json)


if __name__ == "__main__":
    main()
