"""Measure runs over many batches: engines against a loop, processes against threads, stable shards.

The models are stand-ins, so this runs anywhere; rows of `ray` need Ray. With `--kills N` workers and drivers are also
killed N times (`tools/kills/shards.py`).
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from statistics import mean, median
from typing import Any

from measure import Report, arguments, elapsed, in_rounds, median_ratio
from PIL import Image
from stand_ins import pixels

from curation_features.engines import EngineOptions, Executor, Shard, Work, create_engine
from curation_features.engines.batch_work import batch_work
from curation_features.engines.local import LocalEngine
from curation_features.engines.placement import Placement, Slot
from curation_features.engines.sharding import split
from curation_features.manifest import batch_from
from curation_features.settings import Settings

REPOSITORY = Path(__file__).resolve().parent.parent
IMPORTS = "import curation_features.engines.worker, stand_ins"
SMALL, OF_SMALL = 30, 5  # shards and photos for the overhead
LARGE, OF_LARGE = 4, 25  # for processes against threads
ARCHIVE, FOLDER, SIZE = 100_000, 400, 2000  # photos of the archive, of a folder, and of a shard


def engine(processes: int, threads: int = 1) -> LocalEngine:
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
    slot = Slot(threads, {**dict.fromkeys(names, str(threads)), "OMP_WAIT_POLICY": "PASSIVE"})
    return LocalEngine(Placement((slot,) * processes, ""))


class Project:
    """Shards of small photos; each run has an empty data folder."""

    def __init__(self, root: Path, shards: int, photos: int, threads: int = 1) -> None:
        self.root, self._runs, self._threads = root, 0, threads
        (root / "photos").mkdir(parents=True)
        self.shards = []
        for number in range(shards):
            names = [f"{number * photos + n}.png" for n in range(photos)]
            for name in names:
                Image.fromarray(pixels(int(name[:-4]))).save(root / "photos" / name)
            artifacts = [{"photo_id": name, "original_uri": f"./photos/{name}"} for name in names]
            path = root / f"{number}.json"
            path.write_text(json.dumps({"batch_id": f"b{number}", "artifacts": artifacts}))
            self.shards.append(Shard(f"b{number}", path, photos))

    def work(self, function: str) -> Work:
        """Describe work in an empty data folder."""
        self._runs += 1
        settings = Settings(root=self.root, data_dir=f"data-{self._runs}", device="cpu")
        return batch_work(settings, function=function)


# Start and overhead --------------------------------------------------------------------------------------------------


def import_seconds() -> float:
    """Seconds of a fresh interpreter that imports what a worker imports."""
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", IMPORTS]
    return elapsed(lambda: subprocess.run(command, check=True, env=environ))


def start_seconds(project: Project) -> float:
    """Seconds until a process has done its first shard, which takes no time."""
    work = project.work("stand_ins:nothing")
    return elapsed(lambda: list(engine(1).run(project.shards[:1], work)))


def loop_seconds(project: Project) -> float:
    """Seconds per shard of a plain loop in a fresh process, after the first shard."""
    work = project.work("stand_ins:fakes")
    given = json.dumps([work.settings, [shard.to_json() for shard in project.shards]])
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    output = subprocess.run(
        [sys.executable, "-c", LOOP], input=given, env=environ, check=True, capture_output=True, text=True
    ).stdout
    return float(output) / (len(project.shards) - 1)


LOOP = """
import json, sys, time
from curation_features.engines import Shard
from stand_ins import fakes
settings, shards = json.load(sys.stdin)
function, ended = fakes(settings), []
for fields in shards:
    function(Shard.from_json(fields), lambda photos: None, wait=True)
    ended.append(time.perf_counter())
print(ended[-1] - ended[0])
"""


def engine_seconds(project: Project) -> float:
    """Seconds per shard of the engine with one process, after the first shard."""
    ended = _ends(project, engine(1))
    return (ended[-1] - ended[0]) / (len(ended) - 1)


def _ends(project: Project, used: Executor) -> list[float]:
    """The times when shards were done."""
    ended = []
    for result in used.run(project.shards, project.work("stand_ins:fakes")):
        if result.state != "done":
            raise SystemExit(f"{result.batch_id}: {result.reason}")
        ended.append(time.perf_counter())
    return ended


def skip_seconds(project: Project) -> float:
    """Seconds per shard of a run over finished shards."""
    work = project.work("stand_ins:fakes")
    list(engine(1).run(project.shards, work))
    ended = []
    for result in engine(1).run(project.shards, work):
        if result.state != "already_done":
            raise SystemExit(f"{result.batch_id}: {result.state}")
        ended.append(time.perf_counter())
    return (ended[-1] - ended[0]) / (len(ended) - 1)


def report_start(report: Report, folder: Path, rounds: int) -> None:
    project = Project(folder / "small", SMALL, OF_SMALL)
    actions = {
        "imports": import_seconds,
        "start": lambda: start_seconds(project),
        "loop": lambda: loop_seconds(project),
        "engine": lambda: engine_seconds(project),
        "skip": lambda: skip_seconds(project),
    }
    found = in_rounds(actions, rounds)
    beyond = median(start - imports for start, imports in zip(found["start"], found["imports"], strict=True))
    overhead = median(ours - loop for ours, loop in zip(found["engine"], found["loop"], strict=True))
    report.add("imports of a process", seconds=median(found["imports"]))
    report.add("start of local, beyond its imports", seconds=beyond)
    report.add(f"a shard of {OF_SMALL} photos, plain loop", seconds=median(found["loop"]))
    report.add("overhead of local per shard", seconds=overhead)
    report.add("a finished shard is skipped", seconds=median(found["skip"]))


# Ray -----------------------------------------------------------------------------------------------------------------


def report_ray(report: Report, folder: Path, rounds: int) -> None:
    """Report the start of the engine `ray`, with a Ray that starts here, and its overhead per shard."""
    project = Project(folder / "ray", SMALL, OF_SMALL)
    starts = []

    def ray_seconds() -> float:
        options = EngineOptions(Settings(root=project.root, device="cpu"), processes=1)
        began = time.perf_counter()
        ended = _ends(project, create_engine("ray", options))
        starts.append(ended[0] - began)
        return (ended[-1] - ended[0]) / (len(ended) - 1)

    # Its processes get their imports from the environment.
    os.environ["PYTHONPATH"] = os.pathsep.join(sys.path)
    found = in_rounds({"loop": lambda: loop_seconds(project), "ray": ray_seconds}, rounds)
    report.add("first shard of ray, with the start of Ray", seconds=median(starts))
    overhead = median(ours - loop for ours, loop in zip(found["ray"], found["loop"], strict=True))
    report.add("overhead of ray per shard, after its start", seconds=overhead)


# Processes against threads -------------------------------------------------------------------------------------------


def report_processes(report: Report, folder: Path, rounds: int) -> None:
    project = Project(folder / "large", LARGE, OF_LARGE)

    def run(processes: int, threads: int) -> float:
        """Seconds without the start: from the first result of each process on, all have started."""
        work, ended = project.work("stand_ins:busy"), []
        for result in engine(processes, threads).run(project.shards, work):
            if result.state != "done":
                raise SystemExit(f"{result.batch_id}: {result.reason}")
            ended.append(result.seconds)
        return sum(ended) / processes

    ways = {"one process, two threads": lambda: run(1, 2), "two processes, one thread each": lambda: run(2, 1)}
    found = in_rounds(ways, rounds)
    one, two = found.values()
    photos = LARGE * OF_LARGE
    for name, seconds in found.items():
        report.add(name, seconds=median(seconds), **{"photos/s": photos / median(seconds)})
    report.add("two processes : one with two threads", **{"ratio": median_ratio(two, one)})


# Stable shards -------------------------------------------------------------------------------------------------------


Photos = list[dict[str, Any]]


def archive(folders: int, prefix: str = "") -> list[Photos]:
    """Folders of photos, as a manifest lists them."""
    return [
        [{"photo_id": f"{prefix}{folder}-{n}", "original_uri": "x"} for n in range(FOLDER)] for folder in range(folders)
    ]


def by_content(photos: Photos) -> dict[str, tuple[str, ...]]:
    """The photos of each shard."""
    batch = batch_from({"batch_id": "archive", "artifacts": photos})
    return {shard["batch_id"]: tuple(one["photo_id"] for one in shard["artifacts"]) for shard in split(batch, SIZE)}


def by_prefix(photos: Photos) -> dict[str, tuple[str, ...]]:
    """The same with shards by a hash of the id alone: as many shards, without order."""
    import zlib

    shards: dict[str, list[str]] = {}
    for photo in photos:
        shards.setdefault(str(zlib.crc32(photo["photo_id"].encode()) % (ARCHIVE // SIZE)), []).append(photo["photo_id"])
    return {name: tuple(ids) for name, ids in shards.items()}


def by_position(photos: Photos) -> dict[str, tuple[str, ...]]:
    """The same with shards of exactly so many photos, by position."""
    ids = [photo["photo_id"] for photo in photos]
    return {str(at): tuple(ids[at : at + SIZE]) for at in range(0, len(ids), SIZE)}


Change = Callable[[list[Photos], random.Random], list[Photos]]


def append_folders(folders: list[Photos], chance: random.Random) -> list[Photos]:
    return [*folders, *archive(len(folders) // 20, "new")]


def insert_folder(folders: list[Photos], chance: random.Random) -> list[Photos]:
    at = chance.randrange(len(folders))
    return [*folders[:at], *archive(1, "new"), *folders[at:]]


def scatter(folders: list[Photos], chance: random.Random) -> list[Photos]:
    new: Photos = [{"photo_id": f"new{n}", "original_uri": "x"} for n in range(ARCHIVE // 100)]
    changed = [[*photos] for photos in folders]
    for photo in new:
        photos = chance.choice(changed)
        photos.insert(chance.randrange(len(photos) + 1), photo)
    return changed


def delete_some(folders: list[Photos], chance: random.Random) -> list[Photos]:
    gone = {(chance.randrange(len(folders)), chance.randrange(FOLDER)) for _ in range(10)}
    return [[photo for m, photo in enumerate(photos) if (n, m) not in gone] for n, photos in enumerate(folders)]


def delete_folder(folders: list[Photos], chance: random.Random) -> list[Photos]:
    at = chance.randrange(len(folders))
    return [*folders[:at], *folders[at + 1 :]]


CHANGES: dict[str, Change] = {
    "5 % appended": append_folders,
    "a folder of 400 inserted": insert_folder,
    "1 % scattered": scatter,
    "10 photos deleted": delete_some,
    "a folder deleted": delete_folder,
}


def report_shards(report: Report, rounds: int) -> None:
    """Report the percentage of the old shards that changed, and of the old photos that moved to another shard.

    Means over archives of other photos.
    """
    ways = {"content": by_content, "hash of the id": by_prefix, "position": by_position}
    for name, change in CHANGES.items():
        found: dict[str, list[float]] = {}
        for number in range(rounds):
            folders, chance = archive(ARCHIVE // FOLDER, f"{number}-"), random.Random(number)
            before, after = _flat(folders), _flat(change(folders, chance))
            for way, function in ways.items():
                changed, moved = _compare(function(before), function(after))
                found.setdefault(f"{way}: shards changed, %", []).append(changed)
                if way == "content":
                    found.setdefault("photos moved, %", []).append(moved)
        report.add(name, **{column: mean(values) for column, values in found.items()})


def _compare(before: dict[str, tuple[str, ...]], after: dict[str, tuple[str, ...]]) -> tuple[float, float]:
    """Return the percentage of shards that are not the same any more, and of photos that are in another one."""
    same = sum(after.get(shard) == photos for shard, photos in before.items())
    home = {photo: shard for shard, photos in after.items() for photo in photos}
    old = [(photo, shard) for shard, photos in before.items() for photo in photos if photo in home]
    return 100 * (1 - same / len(before)), 100 * sum(home[photo] != shard for photo, shard in old) / len(old)


def _flat(folders: list[Photos]) -> Photos:
    return [photo for photos in folders for photo in photos]


# Kills ---------------------------------------------------------------------------------------------------------------


def report_kills(report: Report, kills: int) -> None:
    command = [sys.executable, str(REPOSITORY / "tools" / "kills" / "shards.py"), "--kills", str(kills)]
    output = subprocess.run(command, capture_output=True, text=True).stdout.splitlines()
    counts = json.loads(output[-1])
    names = ("kills", "workers", "drivers", "files compared", "problems")
    report.add("200 shards, killed at random", **{name: counts.get(name, 0) for name in names})


def main() -> None:
    parser = arguments(__doc__, rounds=3)
    parser.add_argument("--kills", type=int, default=0, help="kill workers and drivers so often (default: never)")
    parts = ("start", "ray", "processes", "shards", "kills")
    parser.add_argument("--only", choices=parts, nargs="+", default=parts)
    options = parser.parse_args()
    report = Report(f"Many batches ({options.rounds} rounds, stand-in models)")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if "start" in options.only:
            report_start(report, folder, options.rounds)
        if "ray" in options.only and find_spec("ray"):
            report_ray(report, folder, options.rounds)
        if "processes" in options.only:
            report_processes(report, folder, options.rounds)
    if "shards" in options.only:
        report_shards(report, options.rounds)
    if "kills" in options.only and options.kills:
        report_kills(report, options.kills)
    report.show(options.json)


if __name__ == "__main__":
    main()
