"""Kill runs with `kill -9`, run them again, and compare their files with undisturbed runs.

    python tools/kills/kills.py --kills 50 --seed 1
    python tools/kills/kills.py --kills 50 --at adoptions events/latest

Both `curation-features process` and `curation-features materialize` are killed so many times, half of them in an empty
project, half with a finished older version of the batch. Every other kill is at a random moment; the others are just
before a step: opening a file for writing, a flush to disk, a rename, a removal, or opening one of Dagster's databases.
With `--at`, all kills are just before a step that names such a path.

After the kill every file with a final name is complete, of the old or the new version, and no event is in the journal
or was posted without its artifacts. After the next run the bytes and the events equal those of an undisturbed run,
and no temporary file is left. The exit code is 1 if anything differs.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from processes import kill, start, wait

from curation_features.clip.label_embeddings import read, stored_version
from curation_features.storage.cache import FeatureCache

WAYS = ("process", "materialize")
BEGINS = ("empty", "old")
STEPS = frozenset({"open", "os.rename", "os.remove", "os.link", "sqlite3.connect", "faults.flush"})
UNCOMPARED = ("dagster", "locks", "adoptions", "index")  # these folders differ between runs

Files = dict[str, bytes]


# --- a batch ----------------------------------------------------------------------------------------------------------


def write_photos(folder: Path) -> list[dict[str, Any]]:
    """Write a dozen photos of many kinds, some of them damaged; returns their artifacts."""
    folder.mkdir(parents=True)
    random_pixels = np.random.default_rng(0).integers(90, 160, (48, 64, 3), dtype=np.uint8)
    photo = Image.fromarray(random_pixels)
    images: dict[str, Image.Image] = {
        "a.jpg": photo,
        "b.png": photo.rotate(90, expand=True),
        "c.webp": photo,
        "gray.jpg": photo.convert("L"),
        "palette.png": photo.convert("P"),
        "alpha.png": photo.convert("RGBA"),
        "cmyk.jpg": photo.convert("CMYK"),
        "flat.png": Image.new("RGB", (64, 48), "gray"),
        "tiny.png": photo.crop((0, 0, 7, 5)),
    }
    for name, image in images.items():
        image.save(folder / name)
    cut = BytesIO()
    photo.save(cut, "JPEG")
    (folder / "cut.jpg").write_bytes(cut.getvalue()[:700])
    names = [*images, "cut.jpg", "missing.jpg", "a.jpg"]
    return [{"photo_id": f"id/{name}", "original_uri": f"./photos/{name}", "exif": {"iso": 64}} for name in names]


def make_project(root: Path) -> None:
    """Write the photos, and two versions of one batch: `old.json` and `new.json`."""
    artifacts = write_photos(root / "photos")
    old = {"batch_id": "trip", "artifacts": artifacts[:-4]}
    new = {"batch_id": "trip", "artifacts": artifacts, "note": "changed"}
    for name, document in (("old", old), ("new", new)):
        (root / f"{name}.json").write_text(json.dumps(document))


# --- outputs of a run -------------------------------------------------------------------------------------------------


def outputs(root: Path) -> Files:
    """Read the files with a final name in the data folder, without the cache, which `cached` compares."""
    data = root / "data"
    found = {}
    for path in sorted(data.rglob("*")):
        place = path.relative_to(data)
        compared = place.parts[0] not in UNCOMPARED and place.parts[:2] != ("cache", "features")
        if compared and path.is_file() and not path.name.startswith("."):
            found[str(place)] = path.read_bytes()
    return found


def cached(root: Path) -> dict[str, Any]:
    """Parse the cache: entries by file; None for a damaged one."""
    cache = FeatureCache(root / "data" / "cache" / "features")
    found: dict[str, Any] = {}
    for artifact in json.loads((root / "new.json").read_text())["artifacts"]:
        photo, path = root / artifact["original_uri"], cache.path(artifact["photo_id"])
        if path.exists():
            entry = cache.load(artifact["photo_id"], hashlib.sha256(photo.read_bytes()).hexdigest())
            found[path.name] = entry and json.loads(path.read_bytes())["features"]
    if cache.label_embeddings.exists():
        version = stored_version(cache.label_embeddings)
        labels = read(cache.label_embeddings, version) if version else None
        found["labels"] = labels and hashlib.sha256(labels.vectors.tobytes()).hexdigest()
    return found


def adopted(root: Path) -> list[Any] | None:
    """Read what Dagster has not registered of the batch, without timings; None if there is nothing."""
    path = root / "data" / "adoptions" / "trip.json"
    if not path.exists():
        return None
    note = json.loads(path.read_bytes())
    versions = {name: [made["data_version"], made["code_version"]] for name, made in note["assets"].items()}
    return [note["manifest"], note["event"], versions]


def leftovers(root: Path) -> list[str]:
    """List the temporary files in the data folder."""
    return [str(path.relative_to(root)) for path in (root / "data").rglob("*.tmp")]


# --- a webhook --------------------------------------------------------------------------------------------------------


@contextmanager
def webhook(log: Path) -> Iterator[str]:
    """Serve a webhook that appends each post to `{log}/{name in the URL}`; yields its URL."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            with (log / self.path.strip("/")).open("ab", buffering=0) as file:
                file.write(body.replace(b"\n", b" ") + b"\n")
            self.send_response(204)
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    process = os.fork()
    if not process:
        server.serve_forever()
    server.server_close()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        kill(process)
        wait(process)


# --- kills ------------------------------------------------------------------------------------------------------------


def steps_called(root: Path, at_step: Callable[[], None], place: str = "") -> None:
    """Call `at_step` before each change of a file in the data folder, from now on.

    Args:
        place: only steps whose path contains this; a flush has no path.
    """
    data = str(root / "data")

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event not in STEPS or not any(place in str(argument) for argument in (*arguments, "")):
            return
        if event == "open":
            reads = not (arguments[2] or 0) & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
            if reads or not str(arguments[0]).startswith(data):
                return
        at_step()

    fsync = os.fsync

    def flush(file: int) -> None:
        sys.audit("faults.flush")
        fsync(file)

    os.fsync = flush
    sys.addaudithook(hook)


@dataclass
class Bench:
    """Undisturbed runs of one command, and kills to compare with them."""

    folder: Path
    way: str
    url: str
    begins: Sequence[str]
    place: str = ""
    expected: dict[str, Files] = field(default_factory=dict)
    expected_cache: dict[str, dict[str, Any]] = field(default_factory=dict)
    expected_adoption: dict[str, Any] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    steps: dict[str, int] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    kills: Counter[str] = field(default_factory=Counter)

    def prepare(self) -> None:
        """Run undisturbed: the old version, the new one after it, and the new one alone."""
        (self.folder / "posts").mkdir()
        make_project(self.folder / "empty")
        old = self._copy("empty", "old")
        self._undisturbed(old, "old.json")
        self.old = outputs(old)
        for begin in self.begins:
            root = self._copy(begin, f"{begin}-undisturbed")
            began = time.monotonic()
            self._undisturbed(root, "new.json", count=root / "steps")
            self.seconds[begin] = time.monotonic() - began
            self.steps[begin] = len((root / "steps").read_bytes())
            self.expected[begin], self.expected_cache[begin] = outputs(root), cached(root)
            self.expected_adoption[begin] = adopted(root)

    def kill_once(self, number: int, begin: str, share: float, aimed: bool) -> None:
        """Kill a run after a fraction of its time, or before one of its steps; check, run again, and check."""
        root = self._copy(begin, f"kill-{number}")
        step = int(share * self.steps[begin])

        def countdown() -> None:
            left = step

            def at_step() -> None:
                nonlocal left
                left -= 1
                if left < 0:
                    kill(os.getpid())

            steps_called(root, at_step, self.place)

        process = self._start(root, "new.json", countdown if aimed else lambda: None)
        if not aimed:
            time.sleep(share * self.seconds[begin])
            kill(process)
        ended = wait(process)
        what = f"{self.way}, {begin}, {'step' if aimed else 'moment'} {share:.3f}"
        self.kills["killed" if ended == -9 else "had ended"] += 1
        if ended not in (-9, 0):
            self.problems.append(f"{what}: the run failed with {ended} before it was killed: {_said(root)}")
        self.kills["temporary files left by kills"] += len(leftovers(root))
        self._check_killed(root, begin, what)
        again = wait(self._start(root, "new.json"))
        if again:
            self.problems.append(f"{what}: the next run failed with {again}: {_said(root)}")
        self._check_finished(root, begin, what)
        shutil.rmtree(root)

    def _check_killed(self, root: Path, begin: str, what: str) -> None:
        found, new = outputs(root), self.expected[begin]
        for name, content in found.items():
            if name.startswith("events/pending/"):
                allowed = [event for path, event in new.items() if path.startswith("events/features.completed/")]
            else:
                allowed = [new.get(name), self.old.get(name)]
            if content not in allowed:
                self.problems.append(f"{what}: {name} is neither old nor new")
        for name, content in cached(root).items():
            if content is None:
                self.problems.append(f"{what}: {name} in the cache is damaged")
        events = [json.loads(content) for name, content in found.items() if name.startswith("events/features.")]
        finished = {_digest(self.old)} if begin == "old" else set()
        if found.get("features/trip.parquet") == new["features/trip.parquet"] and "features/trip.json" in found:
            finished.add(_digest(found))
        for event in [*events, *self._posts(root)]:
            if event["data"]["features"] not in finished:
                self.problems.append(f"{what}: event {event['id']} without its artifacts")

    def _check_finished(self, root: Path, begin: str, what: str) -> None:
        found, expected = outputs(root), self.expected[begin]
        for name in sorted(found.keys() | expected.keys()):
            if found.get(name) != expected.get(name):
                self.problems.append(f"{what}: {name} differs after the next run")
        if adopted(root) != self.expected_adoption[begin]:
            self.problems.append(f"{what}: the adoption differs after the next run: {adopted(root)}")
        if cached(root) != self.expected_cache[begin]:
            self.problems.append(f"{what}: the cache differs after the next run")
        if left := leftovers(root):
            self.problems.append(f"{what}: left over: {', '.join(left)}")
        journal = {name: json.loads(text) for name, text in found.items() if name.startswith("events/features.")}
        posts = self._posts(root)
        new_events = [event for event in journal.values() if event["data"]["features"] != _digest(self.old)]
        if any(event not in posts for event in new_events) or any(post not in journal.values() for post in posts):
            self.problems.append(f"{what}: posted are {[post['id'] for post in posts]}, made {sorted(journal)}")
        self.kills["events posted twice, the same"] += len(posts) - len({post["id"] for post in posts})

    def _posts(self, root: Path) -> list[dict[str, Any]]:
        log = self.folder / "posts" / root.name
        return [json.loads(line) for line in log.read_bytes().splitlines()] if log.exists() else []

    def _undisturbed(self, root: Path, manifest: str, count: Path | None = None) -> None:
        def counting() -> None:
            if count is not None:
                file = os.open(count, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
                steps_called(root, lambda: os.write(file, b"."), self.place)

        if code := wait(self._start(root, manifest, counting)):
            raise SystemExit(f"an undisturbed run failed with {code}: {_said(root)}")

    def _start(self, root: Path, manifest: str, before: Callable[[], None] = lambda: None) -> int:
        url = f"{self.url}/{root.name}"
        return start(root, [self.way, manifest], root / "log", before=before, CURATION_FEATURES_EVENT_WEBHOOK=url)

    def _copy(self, begin: str, name: str) -> Path:
        shutil.copytree(self.folder / begin, self.folder / name)
        return self.folder / name


def _digest(files: Files) -> str:
    return hashlib.sha256(files["features/trip.json"]).hexdigest()


def _said(root: Path) -> str:
    return (root / "log").read_text(errors="replace")[-2000:]


def run(way: str, begins: Sequence[str], kills: int, seed: int, place: str = "") -> list[str]:
    """Kill runs of one command so many times; prints the totals, returns the problems."""
    chance = random.Random(f"{seed} {way}")
    with tempfile.TemporaryDirectory() as folder, webhook(Path(folder) / "posts") as url:
        bench = Bench(Path(folder), way, url, begins, place)
        bench.prepare()
        number = 0
        while bench.kills["killed"] < kills:
            kinds = 2 * len(begins)  # spreads each kind of kill over the whole run
            share = ((number // kinds + chance.random()) / max(1, -(-kills // kinds))) % 1.0
            aimed = bool(place) or bool(number % 2)
            bench.kill_once(number, begin=begins[number // 2 % len(begins)], share=share, aimed=aimed)
            number += 1
        where = f"{way} at {place}" if place else way
        print(f"{where}: {json.dumps(bench.kills)}, problems {len(bench.problems)}, steps {bench.steps}", flush=True)
        return bench.problems


def main() -> int:
    """Read the arguments and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=50, help="kills of each way (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=WAYS)
    parser.add_argument("--from", dest="begins", nargs="+", choices=BEGINS, default=BEGINS)
    parser.add_argument(
        "--at", nargs="+", default=[""], metavar="PLACE", help="parts of paths to kill at, each so often"
    )
    args = parser.parse_args()
    problems = [
        problem
        for way in args.ways
        for place in args.at
        for problem in run(way, args.begins, args.kills, args.seed, place)
    ]
    for problem in problems:
        print(problem)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
