"""Fuzz reading, decoding, metrics, EXIF, thumbnail and ingest with damaged images.

    python fuzz/images.py --count 10000 --seed 1

Input `index` depends on the seed and `index` alone. A worker process tries each input; if it dies or hangs, its parent
starts a new one. A photo is either measured with finite values, or refused with a known reason. Everything else is a
finding: the table names it, `--keep` stores its input, and the exit code is 1.
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import os
import resource
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import suppress
from functools import partial
from hashlib import sha256
from multiprocessing.connection import Connection
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
from image_files import image_files
from mutations import damaged

from curation_features.errors import PhotoError
from curation_features.ingest.folder import ingest
from curation_features.photos.exif.fields import read_exif
from curation_features.photos.processes.isolation import Decoder
from curation_features.photos.reader import PhotoReader
from curation_features.photos.thumbnail import ICON
from curation_features.schema import PHOTO_REASONS, Measurement
from curation_features.settings import Settings
from curation_features.technical.analyzer import TechnicalQualityAnalyzer
from curation_features.technical.brisque.index import FEATURES, SUPPORT_VECTORS, Brisque
from curation_features.weights import LazyModel

MAX_PIXELS = 4_000_000
SECONDS = 120.0  # five passes over one photo, each bounded by `max_decode_seconds`, on a busy machine
MEMORY_MB = 400

_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
_CHANGES = {
    "os.mkdir": 0,
    "os.rename": 1,
    "os.link": 1,
    "os.symlink": 1,
    "os.remove": 0,
    "os.rmdir": 0,
    "os.truncate": 0,
}
_NEVER = ("subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "socket.connect", "pickle.find_class")


def numbered(seed: int, index: int, files: Mapping[str, bytes]) -> tuple[str, bytes]:
    """Return the name and the bytes of input `index`."""
    return damaged(Random(f"{seed} {index}"), files)


class Trial:
    """Tries images in a separate project folder, and returns the outcome of each.

    Args:
        root: an empty folder.
        brisque: a regressor; by default one with random support vectors.
        isolated: decode in child processes. Without them, decoders that crash are findings.
    """

    def __init__(self, root: Path, brisque: Any = None, *, isolated: bool = False) -> None:
        self.settings = Settings(
            root=root,
            max_pixels=MAX_PIXELS,
            workers=1,
            preview_side=64,
            brisque_side=64,
            device="cpu",
            isolate_decoders=isolated,
        )
        self._decoder = Decoder(self.settings)
        self.trespasses: list[str] = []
        self._photo = root / "photos" / "photo.jpg"
        self._photo.parent.mkdir()
        self._reader = PhotoReader(self.settings)
        model = LazyModel.ready(brisque or _random_brisque(), "made up")
        self._technical = TechnicalQualityAnalyzer(self.settings, brisque=model)

    def watch(self) -> None:
        """Record, from now on, each change outside the data folder and each process that is started."""
        data, root = f"{self.settings.data_path}{os.sep}", str(self.settings.root)

        def audit(event: str, details: tuple[Any, ...]) -> None:
            path = None
            if event == "open" and isinstance(details[0], (str, bytes)):
                path = details[0] if (details[2] or 0) & _WRITING else None
            elif event in _CHANGES:
                path = details[_CHANGES[event]]
            elif event in _NEVER:
                self.trespasses.append(f"{event}{details}")
            if path is not None and not f"{os.path.abspath(os.fsdecode(path))}{os.sep}".startswith(data):
                self.trespasses.append(f"{event}{details}")

        self._write(b"")
        self.settings.data_path.mkdir(exist_ok=True)
        assert data.startswith(root)
        sys.addaudithook(audit)

    def __call__(self, data: bytes) -> str:
        """Return `measured`, or the reason of the refusal.

        Raises:
            AssertionError: a promise is broken.
            Exception: the package raised an unexpected error.
        """
        self._write(data)
        outcome = self._measured()
        json.dumps(read_exif(data), allow_nan=False)
        small = self._decoder.make_thumbnail(self._reader.read("photos/photo.jpg"), ICON) if data else None
        assert outcome != "measured" or small is not None, "a photo without a thumbnail"
        result = ingest([self._photo], self.settings, batch_id="fuzz", replace=True)
        rejected = [reason.partition(":")[0] for _, reason in result.rejected]
        assert rejected == ([] if outcome == "measured" else [outcome]), f"{outcome}, but ingest: {rejected}"
        trespasses, self.trespasses = self.trespasses, []
        assert not trespasses, f"reached further than the data folder: {trespasses[:3]}"
        return outcome

    def _write(self, data: bytes) -> None:
        descriptor = os.open(self._photo, os.O_RDWR | os.O_CREAT | os.O_TRUNC)
        try:
            os.write(descriptor, data)
        finally:
            os.close(descriptor)
            self.trespasses.clear()

    def _measured(self) -> str:
        try:
            photo = self._decoder.decode(self._reader.read("photos/photo.jpg"))
        except PhotoError as error:
            assert error.reason in PHOTO_REASONS, f"unknown reason {error.reason}"
            return error.reason
        height, width, channels = photo.rgb.shape
        assert (photo.info.width, photo.info.height, 3) == (width, height, channels)
        assert 0 < width * height <= MAX_PIXELS
        for name, measurement in self._technical.measure_cpu(photo.rgb).items():
            _check(name, measurement)
        return "measured"


def _check(name: str, measurement: Measurement) -> None:
    if measurement.score is None:
        assert measurement.error is not None, name
        assert measurement.error.reason != "internal_error", f"{name}: {measurement.error}"
        return
    assert 0 <= measurement.score <= 1, f"{name}: {measurement}"
    assert all(map(math.isfinite, measurement.raw.values())), f"{name}: {measurement}"


def _random_brisque() -> Brisque:
    random = np.random.default_rng(0)
    coefficients = random.standard_normal((SUPPORT_VECTORS, 1)).astype(np.float32)
    return Brisque(coefficients, random.uniform(-1, 1, (SUPPORT_VECTORS, FEATURES)).astype(np.float32))


# The worker process and its parent ----------------------------------------------------------------------------------


def _work(connection: Connection, seed: int, shared: Path | None, memory_mb: int) -> None:
    """Try the inputs whose numbers arrive; send back the outcome or the error of each."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())  # libtiff prints every bad code word
    files = image_files(shared)
    with tempfile.TemporaryDirectory() as folder:
        trial = Trial(Path(folder).resolve())
        for name in sorted(files):  # intact files load all libraries, and show the memory that they need
            with suppress(PhotoError):
                trial(files[name])
        trial.watch()
        base = _peak_mb()
        with suppress(ValueError, OSError):  # a runaway allocation must not take the machine down
            resource.setrlimit(resource.RLIMIT_AS, (32 << 30, 32 << 30))
        connection.send(("ready", ""))
        while True:
            try:
                outcome = (trial(numbered(seed, connection.recv(), files)[1]), "")
            except Exception as error:
                outcome = (f"FOUND {type(error).__name__}", "".join(traceback.format_exception(error)))
            if _peak_mb() > base + memory_mb:
                outcome = ("FOUND memory", f"peak {_peak_mb():.0f} MB, {base:.0f} before")
                base = _peak_mb()
            connection.send(outcome)


def _peak_mb() -> float:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1 << 20 if sys.platform == "darwin" else 1 << 10)


class _Worker:
    """A process that tries inputs one by one; a new one replaces it if it dies or hangs."""

    def __init__(self, seed: int, shared: Path | None, seconds: float, memory_mb: int) -> None:
        self._seconds = seconds
        self._start = partial(self._started, seed, shared, memory_mb)
        self._connection, self._process = self._start()

    @staticmethod
    def _started(seed: int, shared: Path | None, memory_mb: int) -> tuple[Connection, Any]:
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe()
        process = context.Process(target=_work, args=(theirs, seed, shared, memory_mb), daemon=True)
        process.start()
        theirs.close()
        assert ours.recv() == ("ready", "")
        return ours, process

    def __call__(self, index: int) -> tuple[str, str]:
        self._connection.send(index)
        try:
            if self._connection.poll(self._seconds):
                outcome, detail = self._connection.recv()
                return str(outcome), str(detail)
            found = ("FOUND hang", f"more than {self._seconds:g} s")
        except EOFError:
            self._process.join()
            found = ("FOUND crash", f"exit code {self._process.exitcode}")
        self._process.kill()
        self._process.join()
        self._connection, self._process = self._start()
        return found

    def stop(self) -> None:
        self._process.kill()
        self._process.join()


def outcomes(worker: _Worker, count: int) -> Iterator[tuple[int, str, str]]:
    """Yield number, outcome and detail of each input."""
    for index in range(count):
        yield (index, *worker(index))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=1000, help="inputs to try")
    parser.add_argument("--seed", type=int, default=1, help="another seed makes other inputs")
    parser.add_argument("--shared", type=Path, help="a folder with corrupt/ and photos/, whose files are damaged, too")
    parser.add_argument(
        "--keep", type=Path, default=Path("fuzz-findings"), help="folder for inputs that found something"
    )
    parser.add_argument("--seconds", type=float, default=SECONDS, help="time limit for one photo")
    parser.add_argument("--memory-mb", type=int, default=MEMORY_MB, help="memory that one photo may need")
    options = parser.parse_args()

    begun, totals, files = time.monotonic(), Counter[str](), image_files(options.shared)
    worker = _Worker(options.seed, options.shared, options.seconds, options.memory_mb)
    for index, outcome, detail in outcomes(worker, options.count):
        totals[outcome] += 1
        if outcome.startswith("FOUND"):
            name, data = numbered(options.seed, index, files)
            options.keep.mkdir(parents=True, exist_ok=True)
            path = options.keep / f"{options.seed}-{index}-{sha256(data).hexdigest()[:12]}"
            path.write_bytes(data)
            print(f"{outcome}: {path} ({name})\n{detail}", file=sys.stderr, flush=True)
    worker.stop()
    for outcome, number in totals.most_common():
        print(f"{number:8,}  {outcome}")
    print(
        f"{options.count:8,}  inputs out of {len(files)} files, seed {options.seed}, {time.monotonic() - begun:.0f} s"
    )
    return int(any(outcome.startswith("FOUND") for outcome in totals))


if __name__ == "__main__":
    sys.exit(main())
