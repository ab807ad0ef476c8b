"""Kill workers and drivers of an engine at random, and compare the files with an undisturbed run.

    python tools/kills/shards.py --kills 100 --shards 200 --seed 1 --engine ray

A driver processes the shards with two workers. At random moments `kill -9` ends one of its workers, or the driver
itself, which is then started again; after the last kill it may finish. In the end every photo must be in the features
of its shard once, all files must have the bytes of an undisturbed run, and no process may be left. If all shards are
finished before the last kill, the next round begins with an empty data folder. The exit code is 1 if anything differs.
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
import time
from collections import Counter
from collections.abc import Mapping, Sequence
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
_STARTS = 2.0  # longest time between kills : time until the first shard of a driver is done
_ENDS_WITHIN_S = 30.0

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
    """Read all files but locks, and adoptions, which hold timings."""
    data = root / "data"
    paths = (path for path in data.rglob("*") if path.is_file() and path.relative_to(data).parts[0] != "locks")
    return {str(path.relative_to(data)): b"" if "adoptions" in path.parts else path.read_bytes() for path in paths}


class Run:
    """A project whose workers and drivers are killed.

    Args:
        start_s: seconds until the first shard of a driver is done.
    """

    def __init__(self, root: Path, chance: random.Random, engine: str, start_s: float = 1.0) -> None:
        self.root = root
        self._engine = engine
        self._chance = chance
        self._start_s = start_s
        self.counts: Counter[str] = Counter()
        self.problems: list[str] = []

    def kill(self, kills: int, deadline: float) -> None:
        """Start drivers, and kill them or their workers, until there were so many kills or all shards are finished."""
        while self.counts["kills"] < kills and time.monotonic() < deadline:
            driver = self._start()
            every: set[int] = set()
            while self.counts["kills"] < kills and driver.poll() is None and time.monotonic() < deadline:
                time.sleep(self._chance.uniform(0, _STARTS * self._start_s))
                workers = _workers_of(driver.pid, self._engine)
                every |= workers
                if driver.poll() is not None:
                    break
                if workers and self._chance.random() < 0.6:
                    self._send(self._chance.choice(sorted(workers)), "workers")
                else:
                    self._send(driver.pid, "drivers")
            is_finished = driver.poll() == 0
            if driver.poll() is None:
                driver.kill()
            self._read(driver)
            self._wait_for_end(every)
            if is_finished:
                return

    def first_seconds(self) -> float:
        """Return the seconds until the first shard of a driver is done; let the driver finish."""
        start, driver = time.monotonic(), self._start()
        assert driver.stdout is not None
        driver.stdout.readline()
        seconds = time.monotonic() - start
        driver.communicate()
        return seconds

    def finish(self) -> None:
        """Let a driver finish."""
        for _ in range(3):  # a shard whose process died twice has failed, until the next run
            driver = self._start()
            if not self._read(driver)["failed"]:
                return
        self.problems.append(f"{self.root.name}: shards still fail")

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

    def _start(self) -> subprocess.Popen[bytes]:
        self.counts["starts"] += 1
        command = [sys.executable, "-c", DRIVER, str(self.root), self._engine]
        environ = {**os.environ, "PYTHONPATH": os.pathsep.join([str(REPOSITORY), str(Path(__file__).parent)])}
        with (self.root / "log").open("ab") as log:
            return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, env=environ)

    def _send(self, process: int, what: str) -> None:
        try:
            os.kill(process, signal.SIGKILL)
        except ProcessLookupError:
            return
        self.counts.update({"kills": 1, what: 1})

    def _read(self, driver: subprocess.Popen[bytes]) -> Counter[str]:
        """Count the results of a driver, after its end."""
        output, _ = driver.communicate()
        lines = [line for line in output.splitlines(keepends=True) if line.endswith(b"\n")]
        results = [ShardResult(**json.loads(line)) for line in lines]
        for result in results:
            if result.state == "failed" and "its process died" not in result.reason:
                self.problems.append(f"{result.batch_id}: {result.reason}")
        states = Counter[str](result.state for result in results)
        self.counts.update(states)
        return states

    def _wait_for_end(self, processes: set[int]) -> None:
        deadline = time.monotonic() + _ENDS_WITHIN_S
        while any(map(_is_running, processes)):
            if time.monotonic() > deadline:
                self.problems.append("a worker outlived its driver")
                return
            time.sleep(0.05)


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


def _is_running(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


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
        start_s = undisturbed.first_seconds()
        expected, expected_photos = outputs(undisturbed.root), photos_of(undisturbed.root)
        if expected_photos.total() != shards * photos or undisturbed.problems:
            raise SystemExit(f"the undisturbed run failed: {(undisturbed.root / 'log').read_text()[-2000:]}")
        while counts["kills"] < kills and time.monotonic() < deadline:
            one = Run(shutil.copytree(folder / "new", folder / f"round-{counts['rounds']}"), chance, engine, start_s)
            one.kill(kills - counts["kills"], deadline)
            one.finish()
            one.compare(expected, expected_photos)
            counts.update(one.counts)
            counts["rounds"] += 1
            problems += one.problems
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
    for problem in problems:
        print(problem)
    print(json.dumps({**counts, "problems": len(problems)}))
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
