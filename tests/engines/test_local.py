"""The engine `local`: results, deaths of processes and of the driver."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
from engine_work import ERRORS_OF_ALL_SHARDS, all_gone, attempts, script, shards, wait_until

from curation_features.engines.local import LocalEngine
from curation_features.engines.placement import Placement, Slot
from curation_features.errors import CurationError


def engine(processes: int, **options: object) -> LocalEngine:
    slots = tuple(Slot(1, {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": str(n)}) for n in range(processes))
    return LocalEngine(Placement(slots, "here"), **options)


@pytest.mark.long
def test_a_shard_that_fails_costs_only_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    shown: Counter[str] = Counter()
    given = shards("busy", "ok1", "die", "raise", "bug", "dead", "ok2", "ok3")
    found = {
        result.batch_id: result
        for result in engine(2, progress=lambda photos, worked: shown.update({str(worked): photos})).run(
            given, script(tmp_path)
        )
    }
    assert {name: result.state for name, result in found.items()} == {
        "busy": "done", "ok1": "done", "die": "done", "raise": "failed", "bug": "failed", "dead": "failed",
        "ok2": "done", "ok3": "done",
    }  # fmt: skip
    assert found["raise"].reason == "no space"
    assert found["bug"].reason == "ValueError: odd"
    assert "died 2 times, the last one by SIGKILL" in found["dead"].reason
    assert found["ok1"].statuses["ok"] == 10
    # Each photo once, although some were measured twice; 4 of `dead` before its process died.
    assert shown == {"True": 54, "False": 26}
    tried = {name: attempts(tmp_path, name) for name in found}
    assert {name: len(tries) for name, tries in tried.items() if len(tries) > 1} == {"busy": 2, "die": 2, "dead": 2}
    assert [one["wait"] for one in tried["busy"]] == [False, True]
    assert tried["die"][0]["pid"] != tried["die"][1]["pid"]
    every = [one for tries in tried.values() for one in tries]
    assert len({one["pid"] for one in every}) >= 4  # one more for each death, if there was work for it
    assert {one["OMP_NUM_THREADS"] for one in every} == {"1"}
    assert {one["CUDA_VISIBLE_DEVICES"] for one in every} == {"0", "1"}
    assert all_gone({one["pid"] for one in every})


@pytest.mark.long
@pytest.mark.parametrize(
    ("ids", "prepare", "error", "said"), ERRORS_OF_ALL_SHARDS.values(), ids=ERRORS_OF_ALL_SHARDS.keys()
)
def test_an_error_of_all_shards_stops_the_run(
    tmp_path: Path, ids: list[str], prepare: str, error: type[CurationError], said: str
) -> None:
    with pytest.raises(error, match=said):
        list(engine(1).run(shards(*ids), script(tmp_path, prepare=prepare)))
    assert not attempts(tmp_path, "ok2")


@pytest.mark.long
def test_a_closed_run_ends_its_processes(tmp_path: Path) -> None:
    run = engine(2).run(shards("ok1", "hang1", "hang2"), script(tmp_path))
    assert next(run).batch_id == "ok1"
    wait_until(lambda: attempts(tmp_path, "hang1"))
    start = time.monotonic()
    run.close()
    assert time.monotonic() - start < 5
    assert all_gone(attempts(tmp_path, name)[0]["pid"] for name in ("ok1", "hang1"))


DRIVER = """
import signal, sys
from pathlib import Path
signal.pthread_sigmask(signal.SIG_SETMASK, [])  # a background job ignores SIGINT; tests may run with others blocked
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGTERM, signal.SIG_DFL)
from engine_work import script, shards
from curation_features.engines.local import LocalEngine
from curation_features.engines.placement import Placement, Slot
engine = LocalEngine(Placement((Slot(1), Slot(1)), "here"))
print([*engine.run(shards("hang1", "hang2", "ok1"), script(Path(sys.argv[1])))])
"""


@pytest.mark.long
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_processes_end_with_their_driver(tmp_path: Path, number: signal.Signals) -> None:
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", DRIVER, str(tmp_path)]
    with subprocess.Popen(command, env=environ, start_new_session=True, stderr=subprocess.PIPE) as driver:
        try:
            wait_until(lambda: attempts(tmp_path, "hang1") and attempts(tmp_path, "hang2"))
            if number == signal.SIGINT:
                os.killpg(driver.pid, number)  # as a terminal does for Ctrl-C
            else:
                driver.send_signal(number)
            _, said = driver.communicate(timeout=30)
            wait_until(lambda: all_gone(attempts(tmp_path, name)[0]["pid"] for name in ("hang1", "hang2")), 10)
        finally:
            driver.kill()
    assert not attempts(tmp_path, "ok1")
    assert number != signal.SIGINT or said.count(b"KeyboardInterrupt") == 1  # of the driver only


def test_results_are_json() -> None:
    (shard,) = shards("trip")
    assert type(shard).from_json(json.loads(json.dumps(shard.to_json()))) == shard
