"""Measure archives of 2,000 to 200,000 photos through the engine `local`, and compare with `capacity.py`.

The models are stand-ins that take no time, with embeddings of the real size, so this measures what does not depend on
the models: reading, decoding, metrics, files and their bytes, the overhead of a shard. Photos are a few JPEGs, each
under many ids. Three passes: nothing cached; everything cached, without results; everything finished.

With `--among N`, the same passes over the last photos of an archive with N others before: theirs are hard links to the
files of the first ones, under other names. So it shows what grows with the archive in minutes, not in hours.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import resource
import tempfile
from collections import Counter
from dataclasses import replace
from pathlib import Path

from capacity import STAND_INS, Photos, Prediction, predict, value
from measure import Report, arguments, cpu_of_children, elapsed
from photos import write_photos

from curation_features.engines import Shard, ShardResult, Work
from curation_features.engines.batch_work import batch_work
from curation_features.engines.local import LocalEngine
from curation_features.engines.placement import Placement, Slot
from curation_features.engines.shard_files import read_shards, write_shards
from curation_features.engines.sharding import split
from curation_features.manifest import batch_from
from curation_features.settings import Settings

DISTINCT = 200
SIDE = 128
"""Long side of the photos, px: small ones, so that 200,000 of them are possible. Predictions are for this size."""

KIND = Photos(thumbnail=4_000, distinct=DISTINCT)
RESULTS = ("features", "stages", "events", "adoptions")


def engine(processes: int) -> LocalEngine:
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "OPENCV_FOR_THREADS_NUM")
    slot = Slot(1, {**dict.fromkeys(names, "1"), "OMP_WAIT_POLICY": "PASSIVE"})
    return LocalEngine(Placement((slot,) * processes, ""))


def shards_of(root: Path, batch_id: str, photos: int, size: int, side: int) -> list[Shard]:
    """Write the manifests of an archive of so many photos."""
    start = int(hashlib.sha256(batch_id.encode()).hexdigest()[:7], 16)
    paths = write_photos(root / "photos", DISTINCT, side)
    artifacts = [
        {
            "photo_id": f"{start + number:08x}",
            "original_uri": str(paths[number % DISTINCT]),
            "std_uri": str(paths[number % DISTINCT]),
            "exif": {"camera": "camera", "lens": "lens", "iso": 64, "aperture": "f/1.8", "gps": None},
            "format": ".jpg",
            "processing_metadata": {"original_size": [3840, 2160], "standardized_size": [1024, 576]},
        }
        for number in range(photos)
    ]
    folder = root / "shards" / batch_id
    list(write_shards(split(batch_from({"batch_id": batch_id, "artifacts": artifacts}), size), folder))
    return [shard for shard in read_shards(sorted(folder.glob("*.json"))) if isinstance(shard, Shard)]


def files_and_bytes(folder: Path) -> dict[str, tuple[int, int]]:
    """Number of files and their bytes, by folder in the data folder."""
    files: Counter[str] = Counter()
    sizes: Counter[str] = Counter()
    for place, _, names in os.walk(folder):
        top = Path(place).relative_to(folder)
        name = "/".join(top.parts[:2]) if top.parts[:1] == ("cache",) else (top.parts or (".",))[0]
        for file in names:
            files[name] += 1
            sizes[name] += (Path(place) / file).stat().st_size
    return {name: (files[name], sizes[name]) for name in sorted(files)}


def run(shards: list[Shard], work: Work, processes: int, state: str) -> dict[str, float]:
    """Seconds of one pass, and CPU seconds with those of all processes."""
    results: list[ShardResult] = []
    seconds: list[float] = []

    def pass_over() -> None:
        results.extend(engine(processes).run(shards, work))

    cpu = cpu_of_children(lambda: seconds.append(elapsed(pass_over)))
    if wrong := [result for result in results if result.state != state]:
        raise SystemExit(f"shards did not end as {state!r}: {wrong[:3]}")
    return {"s": seconds[0], "CPU s": cpu}


def grow(data: Path, times: int) -> None:
    """Add so many shards and photos for each one in a data folder: hard links under other names."""
    files = [path for path in data.rglob("*") if path.is_file() and path.suffix and path.parent != data]
    for time in range(times):
        for path in files:
            digest = hashlib.sha256(f"{time} {path.stem}".encode()).hexdigest()
            is_of_batch = path.name.startswith("archive")
            name = path.name.replace("archive", f"other{time}") if is_of_batch else f"{digest}{path.suffix}"
            path.with_name(name).hardlink_to(path)


def delete_results(data: Path, batch_id: str) -> None:
    """Delete the results of the shards of a batch; the cache stays."""
    for name in RESULTS:
        for path in (data / name).rglob(f"{batch_id}-*"):
            path.unlink()


def between(photos: int, others: int, size: int) -> Prediction:
    """Predict the last photos of an archive, after so many others."""
    whole, before = (predict(count, STAND_INS, size, KIND) for count in (others + photos, others))
    start = predict(0, STAND_INS, size, KIND).first_cpu_s - value("shard")  # of a process: in both
    names = ("first_cpu_s", "cached_cpu_s", "finished_cpu_s")
    return replace(whole, **{name: getattr(whole, name) - getattr(before, name) + start for name in names})


class Measured:
    """Adds figures beside predictions to a report, and prints them."""

    def __init__(self, report: Report, title: str) -> None:
        self._report = report
        self._title = title

    def add(self, what: str, measured: float, predicted: float | None = None, wall: float | None = None) -> None:
        """Add a figure."""
        columns: dict[str, float] = {"measured": measured}
        columns |= {"predicted": predicted, "ratio": predicted / measured} if predicted else {}
        columns |= {"elapsed s": wall} if wall is not None else {}
        self._report.add(f"{self._title}: {what}", **columns)
        print(f"{self._title}: {what}", json.dumps(columns), flush=True)

    def add_pass(self, what: str, found: dict[str, float], predicted: float) -> None:
        """Add the CPU seconds of a pass, and its elapsed ones."""
        self.add(f"{what}, CPU s", found["CPU s"], predicted, found["s"])


def measure(report: Report, photos: int, options: argparse.Namespace, root: Path) -> None:
    shards = shards_of(root, "archive", photos, options.size, options.side)
    work = batch_work(Settings(root=root, device="cpu"), function="stand_ins:real_size")
    expected = predict(photos, STAND_INS, photos // len(shards), KIND)
    data, found = root / "data", Measured(report, f"{photos:,}")

    found.add_pass("first pass", run(shards, work, options.processes, "done"), expected.first_cpu_s)
    sizes = files_and_bytes(data)
    found.add("files", sum(count for count, _ in sizes.values()), expected.files)
    found.add("GB", sum(size for _, size in sizes.values()) / 1e9, expected.data_bytes / 1e9)
    for name, (count, size) in sizes.items():
        found.add(f"{name}: files", count)
        found.add(f"{name}: kB a photo", size / 1000 / photos)
    found.add("peak MiB of a process", resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024)
    if not options.among:
        measure_again(found, "archive", shards, work, options.processes, data, expected)
        return
    times = max(1, options.among // photos)
    grow(data, times)
    last = shards_of(root, "last", photos, options.size, options.side)
    found = Measured(report, f"{photos:,} after {(times + 1) * photos:,}")
    found.add("files before", sum(count for count, _ in files_and_bytes(data).values()))
    expected = between(photos, (times + 1) * photos, photos // len(last))
    found.add_pass("first pass", run(last, work, options.processes, "done"), expected.first_cpu_s)
    measure_again(found, "last", last, work, options.processes, data, expected)


def measure_again(
    found: Measured, batch_id: str, shards: list[Shard], work: Work, processes: int, data: Path, expected: Prediction
) -> None:
    """Measure a pass with everything in the cache, and one with everything finished."""
    delete_results(data, batch_id)
    found.add_pass("cached pass", run(shards, work, processes, "done"), expected.cached_cpu_s)
    found.add_pass("finished", run(shards, work, processes, "already_done"), expected.finished_cpu_s)


def main() -> None:
    parser = arguments(__doc__, rounds=1)
    parser.add_argument("--photos", type=int, nargs="+", default=[2_000, 20_000])
    parser.add_argument("--size", type=int, default=2000, help="photos of a shard")
    parser.add_argument("--side", type=int, default=SIDE, help="long side of the photos, px")
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--among", type=int, default=0, metavar="N", help="also after N other photos")
    parser.add_argument("--folder", type=Path, help="parent of the temporary folders")
    options = parser.parse_args()
    report = Report(f"Archives with stand-in models, photos of {options.side} px, {options.processes} processes")
    for photos in options.photos:
        with tempfile.TemporaryDirectory(dir=options.folder) as name:
            measure(report, photos, options, Path(name))
    report.show(options.json)


if __name__ == "__main__":
    main()
