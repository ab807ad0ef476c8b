"""Measure archives of 2,000 to 200,000 photos through the engine `local`, and compare with `capacity.py`.

The models are stand-ins that take no time, with embeddings of the real size, so this measures what does not depend on
the models: reading, decoding, metrics, files and their bytes, the overhead of a shard. Photos are a few JPEGs, each
under many ids. Three passes: nothing cached; everything cached, without results; everything finished.
"""

from __future__ import annotations

import json
import os
import resource
import shutil
import tempfile
from collections import Counter
from pathlib import Path

from capacity import STAND_INS, Photos, Prediction, predict
from measure import Report, arguments, cpu_of_children, elapsed
from photos import write_photos

from curation_features.engines import Shard, Work
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


def shards_of(root: Path, photos: int, size: int, side: int) -> list[Shard]:
    """Write the manifests of an archive of so many photos."""
    paths = write_photos(root / "photos", DISTINCT, side)
    artifacts = [
        {
            "photo_id": f"{number:08x}",
            "original_uri": str(paths[number % DISTINCT]),
            "std_uri": str(paths[number % DISTINCT]),
            "exif": {"camera": "camera", "lens": "lens", "iso": 64, "aperture": "f/1.8", "gps": None},
            "format": ".jpg",
            "processing_metadata": {"original_size": [3840, 2160], "standardized_size": [1024, 576]},
        }
        for number in range(photos)
    ]
    folder = root / "shards"
    list(write_shards(split(batch_from({"batch_id": "archive", "artifacts": artifacts}), size), folder))
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
    results: Counter[str] = Counter()
    seconds: list[float] = []

    def pass_over() -> None:
        results.update(result.state for result in engine(processes).run(shards, work))

    cpu = cpu_of_children(lambda: seconds.append(elapsed(pass_over)))
    if results != {state: len(shards)}:
        raise SystemExit(f"shards ended as {dict(results)}, not all as {state!r}")
    return {"s": seconds[0], "CPU s": cpu}


def measure(report: Report, photos: int, size: int, processes: int, side: int, root: Path) -> None:
    shards = shards_of(root, photos, size, side)
    work = batch_work(Settings(root=root, device="cpu"), function="stand_ins:real_size")
    expected: Prediction = predict(photos, STAND_INS, photos // len(shards), KIND)
    data = root / "data"

    def add(what: str, measured: float, predicted: float | None = None, wall: float | None = None) -> None:
        columns: dict[str, float] = {"measured": measured}
        columns |= {"predicted": predicted, "ratio": predicted / measured} if predicted else {}
        columns |= {"elapsed s": wall} if wall is not None else {}
        report.add(f"{photos:,}: {what}", **columns)
        print(f"{photos:,}: {what}", json.dumps(columns), flush=True)

    first = run(shards, work, processes, "done")
    add("first pass, CPU s", first["CPU s"], expected.first_cpu_s, first["s"])
    found = files_and_bytes(data)
    add("files", sum(files for files, _ in found.values()), expected.files)
    add("GB", sum(sizes for _, sizes in found.values()) / 1e9, expected.data_bytes / 1e9)
    for name, (files, sizes) in found.items():
        add(f"{name}: files", files)
        add(f"{name}: kB a photo", sizes / 1000 / photos)
    add("peak MiB of a process", resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024)
    for name in RESULTS:
        shutil.rmtree(data / name)
    cached = run(shards, work, processes, "done")
    add("cached pass, CPU s", cached["CPU s"], expected.cached_cpu_s, cached["s"])
    finished = run(shards, work, processes, "already_done")
    add("finished, CPU s", finished["CPU s"], expected.finished_cpu_s, finished["s"])


def main() -> None:
    parser = arguments(__doc__, rounds=1)
    parser.add_argument("--photos", type=int, nargs="+", default=[2_000, 20_000])
    parser.add_argument("--size", type=int, default=2000, help="photos of a shard")
    parser.add_argument("--side", type=int, default=SIDE, help="long side of the photos, px")
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--folder", type=Path, help="parent of the temporary folders")
    options = parser.parse_args()
    report = Report(f"Archives with stand-in models, photos of {options.side} px, {options.processes} processes")
    for photos in options.photos:
        with tempfile.TemporaryDirectory(dir=options.folder) as name:
            measure(report, photos, options.size, options.processes, options.side, Path(name))
    report.show(options.json)


if __name__ == "__main__":
    main()
