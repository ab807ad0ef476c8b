"""The command `watch`: one look, and a service that ends at a signal."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from projects import Project, project_at

from curation_features.cli import main
from curation_features.watching.journal import Journal

pytestmark = pytest.mark.long

# Fake models; CLIP creates a file when it is called, then sleeps.
CHILD = """
import signal, sys, time
from pathlib import Path
from curation_features.cli import main
from curation_features.pipeline import Models
from curation_features.testing import FakeBrisque, FakeClipEngine, FakeQualityModel
from curation_features.weights import LazyModel

class Slow(FakeClipEngine):
    def encode_texts(self, prompts):
        Path("asked").touch()
        time.sleep(100)

signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job ignores it
fakes = [LazyModel.ready(fake, "fake") for fake in (Slow(), FakeQualityModel(), FakeBrisque())]
Models.from_settings = lambda *_: Models(*fakes)
sys.exit(main(["watch", "card", "--every", "0.1", "--json"]))
"""
SETTINGS = {"WATCH_BATCHES": "folder", "WATCH_SETTLE_SECONDS": "0", "ISOLATE_DECODERS": "false"}


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    for name, value in SETTINGS.items():
        monkeypatch.setenv(f"CURATION_FEATURES_{name}", value)
    monkeypatch.chdir(tmp_path)
    with project_at(tmp_path) as found:
        yield found


def photo(path: Path, seed: int) -> None:
    path.parent.mkdir(exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(100, 130, (64, 96, 3), dtype=np.uint8)).save(path)


def test_once_processes_what_is_there_and_ends(project: Project) -> None:
    photo(project.root / "card" / "a.png", 1)
    assert project.command("watch", "card", "--once") == 0
    assert "finished card: 1 ok" in project.terminal.getvalue()
    photo(project.root / "card" / "b.png", 100)
    assert project.command("watch", "card", "--once", "--json") == 0
    fields = json.loads(project.terminal.getvalue().splitlines()[-1])
    assert [batch["batch_id"] for batch in fields["batches"]] == ["card-2"]
    assert (fields["waiting"], fields["failed"], fields["problems"]) == (0, {}, {})
    features = json.loads((project.settings.data_path / "features" / "card-2.json").read_bytes())
    assert [artifact["original_uri"] for artifact in features["artifacts"]] == ["./card/b.png"]


def test_a_journal_that_cannot_be_written_stops_nothing(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    photo(project.root / "card" / "a.png", 1)
    pauses: list[float] = []
    opened: list[Journal] = []
    real = Journal.__init__

    def read_only(self: Journal, path: Path) -> None:
        real(self, path)
        opened.append(self)
        self.db.execute("PRAGMA query_only = 1")

    def sleep(seconds: float) -> None:
        """Pass, and make the journal writable in the third pause; end when the batch is finished."""
        pauses.append(seconds)
        if len(pauses) == 3:
            opened[-1].db.execute("PRAGMA query_only = 0")
        elif "finished card" in project.terminal.getvalue() or len(pauses) > 9:
            raise KeyboardInterrupt

    monkeypatch.setattr(Journal, "__init__", read_only)
    monkeypatch.setattr("curation_features.cli.watch.time.sleep", sleep)
    assert project.command("watch", "card", "--every", "5") == 0
    text = project.terminal.getvalue()
    assert text.count("readonly") == 1
    assert "finished card" in text
    assert pauses[:3] == [10, 20, 40]


def test_a_batch_that_fails_is_reported_and_retried(project: Project) -> None:
    photo(project.root / "card" / "a.png", 1)
    obstacle = project.settings.data_path / "manifests" / "card.json"
    obstacle.mkdir(parents=True)
    assert project.command("watch", "card", "--once") == 1
    assert project.terminal.getvalue().count("failed: ") == 1
    obstacle.rmdir()
    assert project.command("watch", "card", "--once") == 0
    assert (project.settings.data_path / "features" / "card.json").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(["watch"], "no folder to watch"), (["watch", "s3://b/c"], "only local"), (["watch", "x", "--every", "0"], "0")],
)
def test_wrong_arguments_are_refused(project: Project, arguments: list[str], message: str, capsys) -> None:
    assert main(arguments) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_and_the_next_start_continues(project: Project, number: int) -> None:
    photo(project.root / "card" / "a.png", 1)
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-c", CHILD], stdout=pipe, stderr=pipe, text=True) as child:
        try:
            wait_for((project.root / "asked").exists, child)
            child.send_signal(number)
            output, errors = child.communicate(timeout=60)
        finally:
            child.kill()
    assert child.returncode == 0, errors
    assert "Traceback" not in errors
    fields = json.loads(output)
    assert (fields["batches"], fields["failed"], fields["signal"]) == ([], {}, True)
    assert project.command("watch", "card", "--once") == 0
    assert "finished card: 1 ok" in project.terminal.getvalue()


def wait_for(condition, child: subprocess.Popen[str], seconds: float = 120.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert child.poll() is None, child.communicate()
        assert time.monotonic() < end
        time.sleep(0.02)
