"""`kill -9` during runs, and during the creation of Dagster's databases. `tools/kills/kills.py` tries more."""

from __future__ import annotations

import json
from typing import Any

import pytest
from interpreters import REPOSITORY, run_python

SCRIPT = """
import json, os, sys
from pathlib import Path
import kills, processes
from curation_features.orchestration import launch
from curation_features.settings import Settings, packaged_file

def instance(root, before=lambda: None):
    process = os.fork()
    if not process:
        before()
        with launch.project_instance(Settings(root=root)) as found:
            os._exit(0 if found.get_dynamic_partitions("batch_id") == [] else 1)
    return processes.wait(process)

def killed_before(event, call):
    def before():
        left = call
        def hook(name, arguments):
            nonlocal left
            if name == event:
                left -= 1
                if left < 0:
                    processes.kill(os.getpid())
        os.setsid()
        sys.addaudithook(hook)
    return before

folder = Path(sys.argv[1])
problems = kills.run("process", ("empty", "old"), 6, 7)
made = {}
for event, call in (("sqlite3.connect", 31), ("os.rename", 1)):
    root = folder / event
    root.mkdir()
    codes = [instance(root, killed_before(event, call)), instance(root)]
    made[event] = [codes, sorted(os.listdir(root / "data/dagster"))]
print(json.dumps({"problems": problems, "made": made}))
"""


@pytest.fixture(scope="module")
def outcome(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The results of all kills, from one process to import once."""
    found: dict[str, Any] = json.loads(run_python("-c", SCRIPT, tmp_path_factory.mktemp("instances")).splitlines()[-1])
    return found


@pytest.mark.long
def test_a_killed_run_is_finished_by_the_next_one(outcome) -> None:
    assert outcome["problems"] == []


@pytest.mark.long
def test_a_killed_creation_of_an_instance_is_completed(outcome) -> None:
    whole = [[-9, 0], [".creating.lock", "dagster.yaml", "history", "schedules"]]
    assert outcome["made"] == {"sqlite3.connect": whole, "os.rename": whole}


@pytest.mark.slow
def test_the_same_through_dagster() -> None:
    kills = REPOSITORY / "tools" / "kills" / "kills.py"
    assert "problems 0" in run_python(kills, "--ways", "materialize", "--kills", 4)
