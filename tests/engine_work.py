"""Work for engines: a script without photos, and batches with fake models."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from curation_features.engines import Shard, ShardFunction, ShardResult, Work
from curation_features.errors import (
    BusyError,
    CurationError,
    MissingWeightsError,
    ResourceError,
    SettingsError,
    StoreError,
)

ERRORS_OF_ALL_SHARDS: Mapping[str, tuple[list[str], str, type[CurationError], str]] = {
    "weights": (["ok1", "weights", "ok2"], "", MissingWeightsError, "fetch them"),
    "settings": (["ok1"], "settings", SettingsError, "device: nonsense"),
    "no process": (["ok1"], "die", ResourceError, "3 ended at once, the last one (by SIGKILL|\\(.*died)"),
}
"""Shards, how their work begins (see `scripted`), and the error that stops the run."""

SCRIPT = f"{__name__}:scripted"
FAKES = f"{__name__}:fake_batches"


def script(folder: Path, **settings: Any) -> Work:
    """Work whose shards do what their ids say; see `scripted`."""
    return Work(SCRIPT, {"folder": str(folder), **settings})


def shards(*ids: str) -> list[Shard]:
    return [Shard(batch_id, Path(), 10) for batch_id in ids]


def attempts(folder: Path, batch_id: str) -> list[dict[str, Any]]:
    """The processes that tried a shard, in order."""
    path = folder / batch_id
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def scripted(settings: Mapping[str, Any]) -> ShardFunction:
    """A function of shards whose id begins with `ok`, `raise`, `bug`, `weights`, `die`, `dead`, `busy` or `hang`."""
    folder, prepare = Path(settings["folder"]), settings.get("prepare", "")
    if prepare == "settings":
        raise SettingsError("device: nonsense")
    if prepare == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    names = ("OMP_NUM_THREADS", "CUDA_VISIBLE_DEVICES")
    environ = {name: os.environ.get(name) for name in names}

    def run(shard: Shard, progress: Callable[[int], None], *, wait: bool) -> ShardResult:
        before = len(attempts(folder, shard.batch_id))
        with (folder / shard.batch_id).open("a") as file:
            file.write(json.dumps({"pid": os.getpid(), "wait": wait, **environ}) + "\n")
        for _ in range(4):
            progress(1)
            time.sleep(0.3 if shard.batch_id.startswith(("die", "dead")) else 0)
        match shard.batch_id.rstrip("0123456789"):
            case "raise":
                raise StoreError("no space")
            case "bug":
                raise ValueError("odd")
            case "weights":
                raise MissingWeightsError("no weights", "fetch them")
            case "dead":
                os.kill(os.getpid(), signal.SIGKILL)
            case "die" if not before:
                os.kill(os.getpid(), signal.SIGKILL)
            case "busy" if not wait:
                raise BusyError("another process")
            case "hang":
                time.sleep(600)
        return ShardResult(shard.batch_id, "done", photos=10, statuses={"ok": 10, "degraded": 0, "failed": 0})

    return run


def fake_batches(settings: Mapping[str, Any]) -> ShardFunction:
    """`ProcessBatches` with fake models, which take `FAKE_SECONDS` of the environment per photo.

    CLIP's weights are missing: labels need torch, whose import takes seconds in each process.
    """
    from curation_features.engines.batch_work import ProcessBatches
    from curation_features.pipeline import Models
    from curation_features.testing import FakeBrisque, FakeQualityModel
    from curation_features.weights import LazyModel

    def missing() -> Any:
        raise MissingWeightsError("no CLIP here")

    class SlowQuality(FakeQualityModel):
        def score(self, batch: Any) -> Any:
            time.sleep(len(batch) * float(os.environ.get("FAKE_SECONDS", "0")))
            return super().score(batch)

    class FakeBatches(ProcessBatches):
        def models(self, _: object) -> Models:
            quality = LazyModel.ready(SlowQuality(), "fake quality")
            return Models(LazyModel(missing, missing), quality, LazyModel.ready(FakeBrisque(), "fake brisque"))

    return FakeBatches(settings)


def is_running(process: int) -> bool:
    """Whether a process runs; a zombie does not."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def wait_until(condition: Callable[[], object], seconds: float = 60) -> None:
    """Wait for a condition, which must become true."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def all_gone(processes: Iterable[int]) -> bool:
    return not any(map(is_running, processes))
