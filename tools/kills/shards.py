"""Kill workers and drivers of an engine at random, and compare the files with an undisturbed run.

    python tools/kills/shards.py --kills 100 --shards 200 --seed 1 --engine ray

A driver processes the shards with two workers. `kill -9` ends one of its workers, or the driver, which is then started
again; after the last kill it may finish. Kills are paced by finished shards, so the load of the machine does not
matter: each comes a random number of shards after the one before, such that all happen within one project. A number of
zero means during the start of a driver or a worker.

In the end every photo must be in the features of its shard once, all files must have the bytes of an undisturbed run,
and no process may be left. If all shards are finished before the last kill, another round begins with an empty data
folder. The exit code is 1 if anything differs.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from curation_features.engines import ENGINES, EngineOptions, Shard, ShardFunction, ShardResult, create_engine
from curation_features.engines.batch_work import ProcessBatches, batch_work
from curation_features.engines.shard_files import read_shards
from curation_features.errors import MissingWeightsError
from curation_features.pipeline import Models
from curation_features.settings import Settings
from curation_features.testing import FakeBrisque, FakeQualityModel
from curation_features.weights import LazyModel

WORKERS = 2
_ENDS_WITHIN_S = 120.0  # at a high load; agents of Ray look for their raylet from time to time
REPOSITORY = Path(__file__).resolve().parents[2]
DRIVER = "import sys; from shards import drive; drive(*sys.argv[1:])"


def make_project(root: Path, shards: int, photos: int) -> None:
    """Write photos and the manifests of shards; neighbours share a photo, and some photos are missing or damaged."""
    (root / "shards").mkdir(parents=True)
    (root / "photos").mkdir()
    for number in range(shards * (photos - 1) + 1):
        path = root / "photos" / f"{number}.png"
        pixels = np.random.default_rng(number).integers(90, 160, (48, 64, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(path)
        if number % 31 == 7:
            path.write_bytes(path.read_bytes()[:700])
        if number % 37 == 11:
            path.unlink()
    for number in range(shards):
        first = number * (photos - 1)
        artifacts = [
            {"photo_id": f"p{n}", "original_uri": f"./photos/{n}.png", "n": n} for n in range(first, first + photos)
        ]
        document = {"batch_id": f"shard-{number:03}", "artifacts": artifacts}
        (root / "shards" / f"{number:03}.json").write_text(json.dumps(document))


def fakes(settings: Mapping[str, Any]) -> ShardFunction:
    """Return work with fake models. CLIP is missing: labels need torch, whose import takes seconds in each process."""

    def missing() -> Any:
        raise MissingWeightsError("no CLIP here")

    class FakeBatches(ProcessBatches):
        def models(self, _: object) -> Models:
            quality = LazyModel.ready(FakeQualityModel(), "fake quality")
            return Models(LazyModel(missing, missing), quality, LazyModel.ready(FakeBrisque(), "fake brisque"))

    return FakeBatches(settings)


def drive(root: str, engine: str) -> None:
    """Run the driver; prints the result of each shard."""
    folder = Path(root)
    found = list(read_shards(sorted((folder / "shards").glob("*.json"))))
    shards = [one for one in found if isinstance(one, Shard)]
    settings = Settings(root=folder, device="cpu", workers=1, on_missing_weights="degrade")
    work = batch_work(settings, function="shards:fakes")
    output, sys.stdout = sys.stdout, sys.stderr  # Ray prints deaths of its processes
    for result in create_engine(engine, EngineOptions(settings, WORKERS)).run(shards, work):
        print(json.dumps(result.to_json()), file=output, flush=True)


def outputs(root: Path) -> dict[str, bytes]:
    """Read all files but locks, adoptions, which hold timings, and the index, whose files have random names."""
    data, left_out = root / "data", ("locks", "index")
    paths = (path for path in data.rglob("*") if path.is_file() and path.relative_to(data).parts[0] not in left_out)
    return {str(path.relative_to(data)): b"" if "adoptions" in path.parts else path.read_bytes() for path in paths}


_Process = tuple[int, int]
"""Id and start of a process: ids are used again."""


class Driver:
    """A driver of an engine, whose results are read while it runs.

    Attributes:
        results: those that it has printed.
        family: processes that it or its workers have started, as far as they were seen.
        workers: its workers, and processes that they have started.
        start_s: seconds until its first result; None before.
    """

    def __init__(self, root: Path, engine: str) -> None:
        command = [sys.executable, "-c", DRIVER, str(root), engine]
        environ = {**os.environ, "PYTHONPATH": os.pathsep.join([str(REPOSITORY), str(Path(__file__).parent)])}
        with (root / "log").open("ab") as log:
            self._engine, self._started = engine, time.monotonic()
            self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, env=environ)
        self.results: list[ShardResult] = []
        self.start_s: float | None = None
        self.family: set[_Process] = set()
        self.workers: set[_Process] = set()
        self._news = threading.Condition()
        self._has_ended = False
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def made(self) -> int:
        """Count the shards that this driver has not found finished."""
        return sum(result.state != "already_done" for result in self.results)

    def wait(self, made: int) -> bool:
        """Wait until so many shards are made; False if the driver has ended."""
        with self._news:
            self._news.wait_for(lambda: self._has_ended or self.made() >= made)
        return not self._has_ended

    def wait_in_start(self, seconds: float) -> None:
        """Wait for some time, or until there is a result."""
        with self._news:
            self._news.wait_for(lambda: self._has_ended or self.results, seconds)

    def look(self) -> set[int]:
        """Note the processes of its family; returns its workers."""
        workers = _workers_of(self.process.pid, self._engine)
        self.family |= _identify(_descendants(self.process.pid))
        self.workers |= _identify(workers.union(*map(_descendants, workers)))
        return workers

    def end(self) -> int:
        """Wait for its end; returns the exit code."""
        self._reader.join()
        return self.process.wait()

    def _read(self) -> None:
        assert self.process.stdout is not None
        with self.process.stdout as output:
            for line in output:
                if line.endswith(b"\n"):  # a killed driver may leave half a line
                    with self._news:
                        self.results.append(ShardResult(**json.loads(line)))
                        self.start_s = self.start_s or time.monotonic() - self._started
                        self._news.notify_all()
        with self._news:
            self._has_ended = True
            self._news.notify_all()


@dataclass(frozen=True)
class Pace:
    """Seconds of an undisturbed driver: until its first shard is done, and for each further one."""

    start_s: float
    shard_s: float


class Run:
    """A project whose workers and drivers are killed."""

    def __init__(self, root: Path, chance: random.Random, engine: str) -> None:
        self.root = root
        self._engine = engine
        self._chance = chance
        self._finished: set[str] = set()
        self._families: set[_Process] = set()
        self._start_s: float | None = None  # of the last driver: the load of the machine changes
        self.counts: Counter[str] = Counter()
        self.problems: list[str] = []

    def undisturbed(self) -> Pace:
        """Let a driver finish, and measure it."""
        start, driver = time.monotonic(), self._start()
        driver.wait(1)
        first = time.monotonic()
        self._end(driver)
        return Pace(first - start, (time.monotonic() - first) / max(1, driver.made() - 1))

    def kill(self, kills: int, shards: int, pace: Pace, deadline: float) -> None:
        """Start drivers, and kill them or their workers, until there were so many kills or all shards are finished."""
        while self.counts["kills"] < kills and time.monotonic() < deadline:
            driver = self._start()
            while self.counts["kills"] < kills and time.monotonic() < deadline:
                left = shards - len(self._finished | _finished(driver))
                if not self._wait(driver, left / (kills - self.counts["kills"]), pace):
                    break
                self._kill_one(driver)
            if self._end(driver) == 0:
                return

    def _wait(self, driver: Driver, shards: float, pace: Pace) -> bool:
        """Wait for a random number of further shards, about as many on average; False if the driver has ended."""
        # One less, since about one more is finished in the pause after them.
        further = self._chance.randint(0, max(0, round(2 * (shards - 1))))
        made = driver.made() + further
        if not driver.wait(made):
            return False
        if driver.results:
            time.sleep(self._chance.uniform(0, 2 * pace.shard_s))  # so that the next shard is somewhere in the middle
        else:
            driver.wait_in_start(self._chance.uniform(0, self._start_s or pace.start_s))
        return driver.process.poll() is None

    def _kill_one(self, driver: Driver) -> None:
        workers = driver.look()
        is_worker = bool(workers) and self._chance.random() < 0.6
        try:
            os.kill(self._chance.choice(sorted(workers)) if is_worker else driver.process.pid, signal.SIGKILL)
        except ProcessLookupError:
            return
        self.counts.update(["kills", "workers" if is_worker else "drivers"])
        self.counts["before the first shard of a driver"] += not driver.made()
        if not is_worker:
            driver.process.wait()

    def finish(self) -> None:
        """Let a driver finish."""
        for _ in range(3):  # a shard whose process died twice has failed, until the next run
            driver = self._start()
            if self._end(driver) == 0 and not any(result.state == "failed" for result in driver.results):
                break
        else:
            self.problems.append(f"{self.root.name}: shards still fail")
        self._wait_for_end("processes", self._families)

    def compare(self, expected: dict[str, bytes], photos: Counter[str]) -> None:
        """Compare with the files of an undisturbed run."""
        found = outputs(self.root)
        self.problems += [
            f"{self.root.name}: {name} differs"
            for name in sorted(found.keys() | expected.keys())
            if found.get(name) != expected.get(name)
        ]
        if photos_of(self.root) != photos:
            self.problems.append(f"{self.root.name}: photos are missing, or there twice")
        self.counts["files compared"] += len(found)

    def _start(self) -> Driver:
        self.counts["starts"] += 1
        return Driver(self.root, self._engine)

    def _end(self, driver: Driver) -> int:
        """Wait for the end of a driver and its family, and count its results; returns the exit code."""
        code = driver.end()
        for result in driver.results:
            if result.state == "failed" and "its process died" not in result.reason:
                self.problems.append(f"{result.batch_id}: {result.reason}")
        self.counts.update(result.state for result in driver.results)
        self._finished |= _finished(driver)
        self._start_s = driver.start_s or self._start_s
        if code == 1 and "no process can be started" in (self.root / "log").read_text()[-2000:]:
            self.counts["gave up: killed three times during the start of workers"] += 1
        elif code not in (0, -signal.SIGKILL):
            self.problems.append(f"a driver ended with exit code {code}: {(self.root / 'log').read_text()[-2000:]}")
        self._wait_for_end("workers", driver.workers)
        self._families |= driver.family
        return code

    def _wait_for_end(self, kind: str, processes: set[_Process]) -> None:
        start = time.monotonic()
        while left := [pid for pid, started in processes if _started(pid) == started]:
            if time.monotonic() - start > _ENDS_WITHIN_S:
                self.problems.append(f"{kind} outlived their driver: {[*map(_command, left)]}")
                return
            time.sleep(0.05)
        name = f"{kind}: longest end, ms"
        self.counts[name] = max(self.counts[name], round(1000 * (time.monotonic() - start)))


def _finished(driver: Driver) -> set[str]:
    return {result.batch_id for result in driver.results if result.state != "failed"}


def photos_of(root: Path) -> Counter[str]:
    """Count the photos of all features by shard and id."""
    documents = [json.loads(path.read_bytes()) for path in (root / "data" / "features").glob("*.json")]
    return Counter(f"{one['batch_id']} {artifact['photo_id']}" for one in documents for artifact in one["artifacts"])


def _workers_of(driver: int, engine: str) -> set[int]:
    """The processes of a driver that work on shards; those of Ray are children of its children."""
    if engine != "ray":
        return _children(driver)
    grandchildren = set[int]().union(*map(_children, _children(driver)))
    return {process for process in grandchildren if _command(process).startswith("ray::ShardActor")}


def _descendants(process: int) -> set[int]:
    children = _children(process)
    return children.union(*map(_descendants, children))


def _command(process: int) -> str:
    try:
        return Path(f"/proc/{process}/cmdline").read_text()
    except OSError:
        return ""


def _children(process: int) -> set[int]:
    try:
        return {int(word) for word in Path(f"/proc/{process}/task/{process}/children").read_text().split()}
    except OSError:
        return set()


def _started(process: int) -> int | None:
    """Return the time at which a process was started, in clock ticks; None if it has ended."""
    try:
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] == "Z" else int(fields[19])


def _identify(processes: set[int]) -> set[_Process]:
    return {(process, started) for process in processes if (started := _started(process)) is not None}


def run(
    kills: int, shards: int, photos: int, seed: int, minutes: float, engine: str
) -> tuple[Counter[str], Sequence[str]]:
    """Kill until there were so many kills, or for so many minutes; returns the totals and the problems."""
    chance, counts, problems = random.Random(seed), Counter[str](), list[str]()
    deadline = time.monotonic() + 60 * minutes
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_project(folder / "new", shards, photos)
        undisturbed = Run(shutil.copytree(folder / "new", folder / "undisturbed"), chance, engine)
        pace = undisturbed.undisturbed()
        print(json.dumps(asdict(pace)), file=sys.stderr, flush=True)
        expected, expected_photos = outputs(undisturbed.root), photos_of(undisturbed.root)
        if expected_photos.total() != shards * photos or undisturbed.problems:
            raise SystemExit(f"the undisturbed run failed: {(undisturbed.root / 'log').read_text()[-2000:]}")
        while counts["kills"] < kills and time.monotonic() < deadline:
            one = Run(shutil.copytree(folder / "new", folder / f"round-{counts['rounds']}"), chance, engine)
            one.kill(kills - counts["kills"], shards, pace, deadline)
            one.finish()
            one.compare(expected, expected_photos)
            longest = {name: max(count, counts[name]) for name, count in one.counts.items() if name.endswith("ms")}
            counts.update(one.counts)
            counts.update({name: value - counts[name] for name, value in longest.items()})
            counts["rounds"] += 1
            problems += one.problems
            for problem in one.problems:
                print(problem, file=sys.stderr, flush=True)
            print(json.dumps({**counts, "problems": len(problems)}), file=sys.stderr, flush=True)
            shutil.rmtree(one.root)
    return counts, problems


def main() -> int:
    """Read the arguments and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=100, help="default: %(default)s")
    parser.add_argument("--shards", type=int, default=200, help="default: %(default)s")
    parser.add_argument("--photos", type=int, default=4, help="of each shard (default: %(default)s)")
    parser.add_argument("--engine", choices=list(ENGINES), default="local", help="default: %(default)s")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument(
        "--minutes", type=float, default=600, help="stop killing after this time (default: %(default)s)"
    )
    args = parser.parse_args()
    counts, problems = run(args.kills, args.shards, args.photos, args.seed, args.minutes, args.engine)
    print(json.dumps({**counts, "problems": len(problems)}))
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
