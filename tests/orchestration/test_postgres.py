"""The pipeline with PostgreSQL as Dagster's storage, on a real server that the tests start."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import yaml
from devserver import free_port

from curation_features.orchestration import launch
from curation_features.orchestration.partitions import DIMENSION
from curation_features.settings import packaged_file

pytestmark = pytest.mark.long

INSTANCE = packaged_file("dagster-postgres.yaml")
USER, PASSWORD = "curation", "p@ss: w/%rd#?"
SOURCE = dg.AssetKey("preprocess_batches")

KEEPER = 'cat; "$0/pg_ctl" stop -m immediate -D "$1/data"; rm -rf "$1"'
"""Stops the server once its standard input is closed, which is at any end of the tests."""

WRITERS = """
import json, multiprocessing, os, sys
from pathlib import Path
import dagster_postgres
from curation_features.manifest import batch_from
from curation_features.orchestration import launch
from curation_features.settings import Settings
from curation_features.storage.artifacts import ArtifactStore

given = json.loads(sys.argv[2])
everyone = multiprocessing.get_context("fork").Barrier(len(given))
number = next((number for number in range(1, len(given)) if not os.fork()), 0)
os.environ["DAGSTER_HOME"] += f"_{number}"
settings = Settings(root=Path(sys.argv[1]))
store = ArtifactStore(settings.data_path)
with launch.project_instance(settings, "dagster-postgres.yaml") as instance:
    everyone.wait(200)
    for batch_id in given[number]:
        batch = batch_from({"batch_id": batch_id, "artifacts": [{"photo_id": "1", "original_uri": "1.jpg"}]})
        launch.accept(batch, store, instance)
        os.write(1, f"{number} {batch_id}\\n".encode())  # whole lines: all write to one pipe
if number == 0:
    sys.exit(any(os.wait()[1] for _ in given[1:]))
"""


@dataclass(frozen=True)
class Server:
    """A separate PostgreSQL server, over TCP on the loopback device and with a password, like a remote one."""

    programs: Path
    folder: Path
    port: int
    account: str | None
    """The operating system's user: the server refuses to run as root."""

    @property
    def as_account(self) -> dict[str, Any]:
        return {"user": self.account, "group": self.account, "extra_groups": []} if self.account else {}

    def call(self, program: str, *arguments: str) -> None:
        command = [str(self.programs / program), *arguments]
        called = subprocess.run(
            command, **self.as_account, cwd=self.folder, stdin=subprocess.DEVNULL, capture_output=True, text=True,
            env={"PGPASSWORD": PASSWORD, "PATH": os.defpath, "LC_ALL": "C"}, timeout=240,
        )  # fmt: skip
        assert called.returncode == 0, called.stdout + called.stderr

    def create(self) -> None:
        password = self.folder / "password"
        password.write_text(PASSWORD)
        password.chmod(0o644)
        data = str(self.folder / "data")
        self.call("initdb", "--auth=scram-sha-256", "-U", USER, f"--pwfile={password}", "-E", "UTF8", "-D", data)
        with (self.folder / "data" / "postgresql.conf").open("a") as file:
            file.write(f"\nport = {self.port}\nlisten_addresses = '127.0.0.1'\nunix_socket_directories = ''\n")

    def control(self, action: str, *arguments: str) -> None:
        """Start, stop or restart it, and wait until that is done."""
        log = str(self.folder / "log")  # not the output of this process, which would stay open
        self.call("pg_ctl", action, "-w", "-D", str(self.folder / "data"), "-l", log, *arguments)

    def crash(self) -> None:
        """End all server processes at once, without a checkpoint; restart and recover."""
        self.control("restart", "-m", "immediate")

    def create_database(self, name: str) -> dict[str, str]:
        """Create an empty database; return the environment variables for it."""
        self.call("createdb", "-h", "127.0.0.1", "-p", str(self.port), "-U", USER, name)
        values = {"HOST": "127.0.0.1", "PORT": str(self.port), "DB": name, "USER": USER, "PASSWORD": PASSWORD}
        return {f"DAGSTER_POSTGRES_{key}": value for key, value in values.items()}


def installed_programs() -> Path | None:
    """The folder of PostgreSQL's server programs. Debian keeps it out of PATH."""
    debian = [str(path) for path in sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)]
    initdb = shutil.which("initdb", path=os.pathsep.join([os.environ.get("PATH", os.defpath), *debian]))
    return Path(initdb).resolve().parent if initdb else None


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    pytest.importorskip("dagster_postgres", reason="the extra `postgres` is not installed")
    programs = installed_programs()
    if programs is None:
        pytest.skip("no initdb in PATH or in Debian's folders: install PostgreSQL's server")
    account = "postgres" if os.geteuid() == 0 else None
    folder = Path(tempfile.mkdtemp(prefix="postgres-"))  # pytest's folder is private
    found = Server(programs, folder, free_port(), account)
    try:
        shutil.chown(found.folder, account or os.geteuid())
    except LookupError:
        found.folder.rmdir()
        pytest.skip("the server refuses to run as root, and there is no user `postgres`")
    with subprocess.Popen(
        ["sh", "-c", KEEPER, str(programs), str(found.folder)], **found.as_account, cwd="/", start_new_session=True,
        stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    ):  # fmt: skip
        found.create()
        found.control("start")
        yield found


@pytest.fixture
def home(server: Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A DAGSTER_HOME that uses an empty database."""
    for name, value in server.create_database(tmp_path.name).items():
        monkeypatch.setenv(name, value)
    (tmp_path / "home").mkdir()
    shutil.copy(INSTANCE, tmp_path / "home" / "dagster.yaml")
    return tmp_path / "home"


@pytest.fixture
def pipeline(pipeline: Any) -> Any:
    """The pipeline of the other tests, in a DAGSTER_HOME for PostgreSQL."""
    assert type(pipeline.instance.event_log_storage).__name__ == "PostgresEventLogStorage"
    return pipeline


@pytest.fixture
def on_sqlite(pipeline: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The same photos and batches in a project that uses SQLite."""
    root = tmp_path / "sqlite"
    root.mkdir()
    monkeypatch.setenv("DAGSTER_HOME", str(root / "home"))
    world = type(pipeline.world)(root)
    with launch.project_instance(world.settings) as instance:
        found = type(pipeline)(world, instance, world.settings)
        found.accept(world.batch([world.photo(f"{n}.png", n) for n in range(3)]))
        yield found


@pytest.fixture
def start_writers(pipeline: Any) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts processes over an initialised database, each with its own DAGSTER_HOME, like on other machines.

    Each opens the instance, waits for the others, then accepts its batches, and prints its number and the name of each
    when that is done. The first process has imported everything, and the others are its forks.
    """
    with ExitStack() as stack:

        def start(*batch_ids: list[str]) -> subprocess.Popen[str]:
            writers = stack.enter_context(subprocess.Popen(
                [sys.executable, "-c", WRITERS, str(pipeline.world.root), json.dumps(batch_ids)],
                env={**os.environ, "DAGSTER_HOME": str(pipeline.world.root / "home")},
                stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            ))  # fmt: skip
            stack.callback(writers.kill)
            return writers

        yield start


def observed(instance: dg.DagsterInstance) -> list[str]:
    """The batches of all observations, sorted."""
    records = instance.fetch_observations(SOURCE, limit=10_000).records
    return sorted(record.asset_observation.partition for record in records)


def test_the_settings_differ_from_sqlites_in_storage_only() -> None:
    here, there = (yaml.safe_load(packaged_file(name).read_text()) for name in (INSTANCE.name, "dagster.yaml"))
    assert list(here.pop("storage")) == ["postgres"]
    assert here == there


def outcome(pipeline: Any) -> dict[str, Any]:
    """Process batches separately and in one run; return Dagster's records and the files of each."""
    odd = {**pipeline.world.photo("odd.png", 7), "photo_id": "\x00 'é% \\ \U0001f4f7"}
    pipeline.accept(pipeline.world.batch([odd, {"photo_id": "gone\x00", "original_uri": "gone\x01.jpg"}], "odd"))
    batch_ids = ["batch_1", "odd", *pipeline.accept_many(3)]
    for batch_id in ("batch_1", "odd"):
        batch = pipeline.store.manifest(batch_id)
        assert launch.materialize(batch, pipeline.definitions(), pipeline.instance).failures == {}
    assert pipeline.run_range("b00", "b02").success
    return {
        "partitions": sorted(pipeline.instance.get_dynamic_partitions(DIMENSION)),
        "versions": {batch_id: pipeline.data_versions(batch_id) for batch_id in batch_ids},
        "checks": {batch_id: pipeline.checks(batch_id) for batch_id in batch_ids},
        "files": {batch_id: pipeline.store.feature_paths(batch_id)[0].read_bytes() for batch_id in batch_ids},
        "events": pipeline.events(),
    }


def test_runs_leave_the_same_records_as_on_sqlite(pipeline, on_sqlite) -> None:
    here = outcome(pipeline)
    assert {batch_id: all(checks.values()) for batch_id, checks in here["checks"].items()} == {
        "batch_1": True, "odd": False, "b00": True, "b01": True, "b02": True,
    }  # fmt: skip
    assert here == outcome(on_sqlite)


def test_a_sensor_tick_launches_once_and_reports_bad_files(daemon, pipeline, world) -> None:
    daemon.drop([world.photo("new.png", 9)])
    (daemon.folder / "bad.json").write_text('{"batch_id": "\\u0000"}')
    assert daemon.tick() == ["batch_9"]
    assert daemon.finished() == ["./photos/new.png"]
    assert pipeline.checks(None) == {"nothing_quarantined": False}
    daemon.drop([world.photo("new.png", 9)])
    assert daemon.tick() == []


def test_four_processes_write_at_once(pipeline, start_writers) -> None:
    shared = [f"shared_{number}" for number in range(5)]
    given = [[*shared, *(f"own_{writer}_{number}" for number in range(5))] for writer in range(4)]
    writers = start_writers(*given)
    output, errors = writers.communicate(timeout=240)
    assert writers.returncode == 0, errors
    done = [line.split() for line in output.splitlines()]
    assert [[batch_id for number, batch_id in done if number == str(writer)] for writer in range(4)] == given
    everything = sorted(itertools.chain(["batch_1"], *given))
    assert sorted(pipeline.instance.get_dynamic_partitions(DIMENSION)) == sorted(set(everything))
    found = Counter(observed(pipeline.instance))
    assert found.keys() == set(everything)  # at most one observation per writer
    assert all(1 <= found[batch_id] <= everything.count(batch_id) for batch_id in everything)


def test_nothing_that_was_done_is_lost_when_the_server_crashes(pipeline, server, start_writers) -> None:
    assert pipeline.run().success
    versions, checks = pipeline.data_versions(), pipeline.checks()
    writer = start_writers([f"b{number}" for number in range(2000)])
    done = [writer.stdout.readline() for _ in range(20)]
    server.crash()
    writer.kill()
    done = "".join([*done, writer.communicate()[0]]).split()[1::2]
    assert 20 <= len(done) < 2000
    assert set(done) <= set(pipeline.instance.get_dynamic_partitions(DIMENSION))
    assert set(done) <= set(observed(pipeline.instance))
    assert (pipeline.data_versions(), pipeline.checks()) == (versions, checks)
    assert pipeline.run().success
