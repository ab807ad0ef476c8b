"""Ctrl-C of `materialize`: a real signal to a real process, and the status of the run in Dagster."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import dagster as dg
import pytest
from devserver import wait_for
from PIL import Image

from curation_features.cli import main

pytestmark = pytest.mark.long

# Fake models; CLIP creates a file when it is called, then sleeps.
CHILD = """
import signal, sys, time
from pathlib import Path

from curation_features.cli import main
from curation_features.weights import LazyModel
from curation_features.pipeline import Models
from curation_features.testing import FakeBrisque, FakeClipEngine, FakeQualityModel

class Slow(FakeClipEngine):
    def encode_texts(self, prompts):
        Path("asked").touch()
        time.sleep(float(sys.argv[1]))
        return super().encode_texts(prompts)

signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job ignores it
fakes = [LazyModel.ready(fake, "fake") for fake in (Slow(), FakeQualityModel(), FakeBrisque())]
Models.from_settings = lambda *_: Models(*fakes)
sys.exit(main(["materialize", "trip"]))
"""


def test_ctrl_c_cancels_the_run_and_the_next_one_succeeds(tmp_path: Path, home: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DAGSTER_HOME", str(home))
    (tmp_path / "photos").mkdir()
    Image.effect_noise((64, 48), 20).convert("RGB").save(tmp_path / "photos" / "0.png")
    assert main(["ingest", "photos", "--batch-id", "trip"]) == 0
    child = [sys.executable, "-c", CHILD]
    with subprocess.Popen([*child, "600"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as running:
        wait_for(lambda: Path("asked").exists() or running.poll() is not None, 300)
        running.send_signal(signal.SIGINT)
        said, complained = running.communicate(timeout=300)
    assert (running.returncode, said) == (130, "")
    assert complained.startswith("curation-features: interrupted")

    with dg.DagsterInstance.from_config(os.fspath(home)) as instance:
        [run] = instance.get_runs()
        assert run.status is dg.DagsterRunStatus.CANCELED
        kinds = [entry.dagster_event.event_type for entry in instance.all_logs(run.run_id) if entry.dagster_event]
        assert kinds.count(dg.DagsterEventType.RUN_CANCELING) == kinds.count(dg.DagsterEventType.RUN_CANCELED) == 1
        assert dg.DagsterEventType.RUN_FAILURE not in kinds
        [failed] = [entry.dagster_event for entry in instance.all_logs(run.run_id, dg.DagsterEventType.STEP_FAILURE)]
        assert failed.step_failure_data.user_failure_data.description == "interrupted at the terminal"
    assert subprocess.run([*child, "0"], capture_output=True).returncode == 0


def test_an_interrupt_without_a_terminal_is_a_failure(pipeline, monkeypatch) -> None:
    """The daemon's run is retried then."""
    inherited = signal.signal(signal.SIGINT, signal.default_int_handler)
    encode = pipeline.world.clip.encode_texts

    def interrupted(prompts):
        signal.raise_signal(signal.SIGINT)
        return encode(prompts)

    monkeypatch.setattr(pipeline.world.clip, "encode_texts", interrupted)
    try:
        result = pipeline.run()
    finally:
        signal.signal(signal.SIGINT, inherited)
    assert result.dagster_run.status is dg.DagsterRunStatus.FAILURE
