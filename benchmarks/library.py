"""Measure searches over 100,000 and 1,000,000 photos.

The vectors are stand-ins: 3,000 subjects around a common mean, with the spread of real image embeddings (cosines of two
photos 0.2 to 0.9), 768 numbers. The text tower is that of ViT-L/14, with random weights, which take the same time.
With --data the tables are kept, and used again.

    cold     a process from its start to the printed paths, with a text that it has not seen; beside it, `import torch,
             open_clip` alone
    warm     a search in a process that has searched before, with the same words, and with others; as a DataFrame
    page     requests of the library page: photos before and after columns are loaded into memory, counts, another order
    exact    the first 100 against all cosines in float32 of the stored vectors
    add      a batch of 1,000 photos is added to the index
    killed   a process that adds batches is killed at random: the index answers as before or with the new batches
"""

from __future__ import annotations

import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from checkpoints import write_checkpoints
from gather import template
from measure import Report, arguments
from numpy.typing import NDArray

from curation_features.gallery import answers
from curation_features.gallery.current import OpenTables
from curation_features.gallery.selection import LOADED, selection_from
from curation_features.search.finding import Finder
from curation_features.search.index import Index, read_contents
from curation_features.search.indexing import update_index
from curation_features.search.library import Library
from curation_features.search.tables import Tables
from curation_features.settings import Settings
from curation_features.storage.tables import EMBEDDING_COLUMNS, GROUP_COLUMNS, arrow_schema
from curation_features.versions import part_version
from curation_features.weights import locate

DIMENSION = 768
BATCH = 1000
SUBJECTS = 3000
MODEL = "ViT-L-14"
WORDS = (
    ("red", "old", "small", "wet", "two", "quiet", "bright", "lost"),
    ("parrots", "ships", "roads", "hands", "hills"),
)


class Vectors:
    """Stand-ins of image embeddings: the same for the same number of a batch."""

    def __init__(self) -> None:
        rng = np.random.default_rng(0)
        self._mean = rng.standard_normal(DIMENSION)
        self._subjects = 0.9 * rng.standard_normal((SUBJECTS, DIMENSION))

    def of(self, batch: int, count: int = BATCH) -> NDArray[np.float32]:
        """Return the vectors of a batch."""
        rng = np.random.default_rng([1, batch])
        noise = rng.standard_normal((count, DIMENSION), np.float32)
        found = self._mean + self._subjects[rng.integers(SUBJECTS, size=count)] + 0.8 * noise
        return (found / np.linalg.norm(found, axis=1, keepdims=True)).astype(np.float32)


def table_of_batch() -> pa.Table:
    """Return a table of features whose photos are in no group."""
    table = template(BATCH)
    for name in GROUP_COLUMNS:
        place = table.schema.names.index(name)
        table = table.set_column(place, table.schema.field(name), pa.nulls(BATCH, table.schema.field(name).type))
    return table


def write_batch(settings: Settings, number: int, vectors: NDArray[np.float32], version: str, table: pa.Table) -> None:
    """Write a finished batch."""
    features, name, rows = settings.data_path / "features", f"batch-{number:06}", len(vectors)
    (features / "embeddings").mkdir(parents=True, exist_ok=True)
    ids = pa.array([f"{number:08x}{place:08x}" * 4 for place in range(rows)])
    column = pa.ListArray.from_arrays(
        pa.array(np.arange(rows + 1, dtype=np.int32) * DIMENSION), pa.array(vectors.ravel())
    )
    same = {"batch_id": pa.array([name] * rows), "photo_id": ids, "sha256": ids}
    norms = pa.array(np.full(rows, 10.0))
    schema = arrow_schema(EMBEDDING_COLUMNS, {"version": version, "model": settings.model, "dimension": DIMENSION})
    found = pa.table({**same, "embedding": column, "embedding_norm": norms}, schema=schema)
    path = features / "embeddings" / f"{name}.parquet"
    pq.write_table(found, path, row_group_size=1024, compression="none", use_dictionary=["batch_id"])
    for changed, values in same.items():
        table = table.set_column(table.schema.names.index(changed), table.schema.field(changed), values)
    pq.write_table(table, features / f"{name}.parquet", row_group_size=1024, compression="zstd")
    (features / f"{name}.json").write_text("{}")


def make_library(root: Path, photos: int) -> tuple[Settings, str]:
    """Write batches of photos, as far as they do not exist, and the model; return the version of the vectors."""
    folder = root / "models"
    if not (folder / "safetensors").exists():
        folder.mkdir(parents=True)
        write_checkpoints(folder, MODEL, ["safetensors"])
    settings = Settings(root=root, data_dir=f"data-{photos}", model=f"local-dir:{folder / 'safetensors'}")
    version = part_version("embedding", settings, locate("clip", settings, fetch=False).identity)
    vectors, table = Vectors(), table_of_batch()
    for number in range(photos // BATCH):
        if not (settings.data_path / "features" / f"batch-{number:06}.json").exists():
            write_batch(settings, number, vectors.of(number), version, table)
    return settings, version


def words(seed: int) -> str:
    choose = random.Random(seed)
    return f"{choose.choice(WORDS[0])} {choose.choice(WORDS[1])} {seed}"


# Measurements --------------------------------------------------------------------------------------------------------


def child_seconds(*command: str, env: dict[str, str] | None = None) -> float:
    """Return the CPU seconds of a process."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env={**os.environ, **(env or {})})
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def cold(settings: Settings, rounds: int) -> dict[str, float]:
    env = {"CURATION_FEATURES_MODEL": settings.model, "CURATION_FEATURES_DATA_DIR": settings.data_dir}
    env["PYTHONDONTWRITEBYTECODE"] = ""
    command = (sys.executable, "-m", "curation_features", "--root", str(settings.root), "search")
    child_seconds(*command, words(0), "--paths", "--all", env=env)  # reads files into the cache of the system
    ours, kept, peers = [], [], []
    for number in range(1, rounds + 1):
        ours.append(child_seconds(*command, words(number), "--paths", "--all", env=env))
        kept.append(child_seconds(*command, words(number), "--paths", "--all", env=env))
        peers.append(child_seconds(sys.executable, "-c", "import torch, open_clip", env=env))
    return {"cold": median(ours), "cold, text kept": median(kept), "import torch, open_clip": median(peers)}


def warm(settings: Settings, rounds: int) -> dict[str, float]:
    every, one = Finder(settings), Finder(settings.replace(workers=1))
    library = Library(settings)
    actions: dict[str, Callable[[int], object]] = {
        "warm": lambda _: every.find([words(0)]),
        "warm, other words": lambda number: every.find([words(1000 + number)]),
        "warm, one thread": lambda _: one.find([words(0)]),
        "warm, DataFrame": lambda _: library.search(words(0)),
    }
    taken: dict[str, list[tuple[float, float]]] = {name: [] for name in actions}
    for number in range(10 * rounds + 1):
        for name, action in actions.items():
            taken[name].append(spent(partial(action, number)))
    return {
        f"{name}, {clock}": median(seconds[place] for seconds in found[1:])
        for name, found in taken.items()
        for place, clock in enumerate(("CPU", "wall"))
    }


def spent(action: Callable[[], object]) -> tuple[float, float]:
    """Return the CPU seconds and the seconds that an action takes."""
    cpu, wall = time.process_time(), time.perf_counter()
    action()
    return time.process_time() - cpu, time.perf_counter() - wall


def page(settings: Settings) -> dict[str, float]:
    opened = OpenTables(Tables(settings.data_path), "")
    newest, sharpest = selection_from({}), selection_from({"sort": ["sharpness"]})
    blurred, ok = selection_from({"sort": ["blur_px"]}), selection_from({"status": ["status 1"]})

    def load() -> None:
        while opened.tables.load(LOADED) < 1:
            pass

    actions: dict[str, Callable[[], object]] = {
        "newest photos": lambda: answers.photos(opened, newest, 0, 120),
        "by sharpness, from files": lambda: answers.photos(opened, sharpest, 0, 120),
        "counts, from files": lambda: answers.counts(opened, newest),
        "columns are loaded": load,
        "by blur": lambda: answers.photos(opened, blurred, 0, 120),
        "counts": lambda: answers.counts(opened, newest),
        "counts of one status": lambda: answers.counts(opened, ok),
    }
    taken = {name: spent(action) for name, action in actions.items()}
    opened.close()
    clocks = enumerate(("CPU", "wall"))
    return {f"page: {name}, {clock}": taken[name][place] for place, clock in clocks for name in actions}


def exact(settings: Settings, version: str, photos: int) -> dict[str, float]:
    """Return how many of the first 100 are the same, and the memory of a process that searches."""
    finder = Finder(settings)
    before = anonymous_mib()
    agreed = []
    vectors = Vectors()
    queries = [words(number) for number in range(3)]
    results = [finder.find([text], top=100) for text in queries]
    growth = anonymous_mib() - before
    index = Index(settings.data_path, read_contents(settings.data_path), version)
    towards = np.stack([finder.embed(text, index) for text in queries]).T
    cosines = np.concatenate([vectors.of(number) @ towards for number in range(photos // BATCH)])
    for column, found in zip(cosines.T, results, strict=True):
        best = {f"{place // BATCH:08x}{place % BATCH:08x}" * 4 for place in np.argsort(-column)[:100]}
        agreed.append(len(best & {hit.photo_id for hit in found.hits}))
    mapped = sum(path.stat().st_size for path in (settings.data_path / "index").iterdir()) / 1e9
    return {"first 100": min(agreed), "mapped GB": mapped, "resident growth MB": growth}


def anonymous_mib() -> float:
    """Return the memory of this process that is not a mapped file, in MB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1000 for line in lines if line.startswith("RssAnon"))


def add(settings: Settings, version: str, photos: int) -> dict[str, float]:
    number = photos // BATCH
    write_batch(settings, number, Vectors().of(number), version, table_of_batch())
    start, cpu = time.perf_counter(), time.process_time()
    made = update_index(settings.data_path)
    found = {"add 1,000, CPU": time.process_time() - cpu, "add 1,000, wall": time.perf_counter() - start}
    assert made.added == BATCH
    for path in (settings.data_path / "features").rglob(f"batch-{number:06}.*"):
        path.unlink()
    update_index(settings.data_path)
    return found


_UPDATE = "import sys; from pathlib import Path; from curation_features.search.indexing import update_index\n"
_UPDATE += "print('ready', flush=True); update_index(Path(sys.argv[1]))"


def killed(settings: Settings, version: str, photos: int, kills: int) -> dict[str, float]:
    """Kill a process that adds ten batches, at random times; return how often the index was right."""
    first, right, whole = photos // BATCH, 0, 0
    for kill in range(kills):
        for number in range(first, first + 10):
            write_batch(settings, number, Vectors().of(number + kill), version, table_of_batch())
        process = subprocess.Popen([sys.executable, "-c", _UPDATE, settings.data_path], stdout=subprocess.PIPE)
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(random.uniform(0, 2))
        process.send_signal(signal.SIGKILL)
        process.communicate()
        before = read_contents(settings.data_path)
        index = Index(settings.data_path, before, version)
        rows = [row for part in index.ranges() for row in (part.start, part.stop - 1)]
        right += all(index.photo(row).photo_id for row in rows)
        update_index(settings.data_path)
        index = Index(settings.data_path, read_contents(settings.data_path), version)
        [*_, last] = (slice(batch.first, batch.first + batch.count) for _, batch in sorted(index.batches.items()))
        stored = Vectors().of(first + 9 + kill).astype(np.float16)
        whole += bool(np.array_equal(index.vectors[last], stored)) and len(index) == photos + 10 * BATCH
    for number in range(first, first + 10):
        for path in (settings.data_path / "features").rglob(f"batch-{number:06}.*"):
            path.unlink()
    update_index(settings.data_path)
    return {"kills": kills, "old index answers": right, "repaired": whole}


def measure(root: Path, photos: int, parts: set[str], rounds: int) -> dict[str, Any]:
    settings, version = make_library(root, photos)
    start = time.process_time()
    update_index(settings.data_path)
    found: dict[str, Any] = {"photos": photos, "index, CPU": time.process_time() - start}
    if "cold" in parts:
        found |= cold(settings, rounds)
    if "warm" in parts:
        found |= warm(settings, rounds)
    if "page" in parts:
        found |= page(settings)
    if "exact" in parts:
        found |= exact(settings, version, photos)
    if "add" in parts:
        found |= add(settings, version, photos)
    if "killed" in parts:
        found |= killed(settings, version, photos, 10 * rounds)
    return found


PARTS = ("cold", "warm", "page", "exact", "add", "killed")


def main() -> None:
    parser = arguments(__doc__, rounds=3)
    parser.add_argument("--photos", type=int, action="append", help="numbers of photos (100,000 and 1,000,000)")
    parser.add_argument("--only", action="append", choices=PARTS, help="parts; by default all")
    parser.add_argument("--data", type=Path, help="keep the tables here")
    args = parser.parse_args()
    root = args.data or Path(tempfile.mkdtemp())
    try:
        report = Report("Searches; seconds of one core unless named otherwise")
        measured = [
            measure(root, photos, set(args.only or PARTS), args.rounds)
            for photos in args.photos or (100_000, 1_000_000)
        ]
        for name in dict.fromkeys(name for found in measured for name in found):
            report.add(name, **{f"{found['photos']:,}": found.get(name, "") for found in measured})
        report.show(args.json)
    finally:
        if not args.data:
            shutil.rmtree(root)


if __name__ == "__main__":
    main()
