"""`dagster dev` and `dagster-daemon run` as real processes, and queries to their GraphQL interface."""

from __future__ import annotations

import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parent.parent

WITH_FAKES = f"""load_from:
  - python_file:
      relative_path: {REPOSITORY / "tests" / "fake_definitions.py"}
      attribute: definitions
      location_name: curation_features
"""

Query = Callable[..., dict[str, Any]]


def free_port() -> int:
    """Return a free port below the range that the system assigns to clients."""
    while True:
        port = random.SystemRandom().randrange(20_000, 32_000)
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


def wait_for(found: Callable[[], Any], seconds: float) -> Any:
    """Wait until `found` returns a true value, and return it; fail after `seconds`."""
    end = time.monotonic() + seconds
    while not (result := found()):
        assert time.monotonic() < end, f"nothing after {seconds} s"
        time.sleep(0.5)
    return result


@contextmanager
def process(command: list[str], log: Path, **environ: str) -> Iterator[subprocess.Popen[bytes]]:
    """A process in a new process group, which is stopped at the end. A daemon polls backfills often."""
    with log.open("ab") as stream:
        running = subprocess.Popen(
            [sys.executable, "-m", *command],
            stdout=stream,
            stderr=stream,
            start_new_session=True,
            env={**os.environ, **environ},
        )
    try:
        yield running
    finally:
        stop(running)


def stop(running: subprocess.Popen[bytes]) -> None:
    """Interrupt a group of processes, and kill what is left of it after a while."""
    with suppress(ProcessLookupError, subprocess.TimeoutExpired):
        os.killpg(running.pid, signal.SIGINT)
        running.wait(60)
    with suppress(ProcessLookupError):
        os.killpg(running.pid, signal.SIGKILL)
    running.wait()


def project(root: Path, *, with_fakes: bool = False, **replaced: str) -> None:
    """The files that a project needs for Dagster; `replaced` are settings of `dagster.yaml` to be replaced.

    Args:
        with_fakes: runs use fake models.
    """
    (root / "workspace.yaml").write_text(WITH_FAKES if with_fakes else (REPOSITORY / "workspace.yaml").read_text())
    home = root / "data" / "dagster"
    home.mkdir(parents=True, exist_ok=True)
    text = (REPOSITORY / "config" / "dagster.yaml").read_text()
    for old, new in replaced.items():
        assert f"{old}: " in text, old
        lines = [f"{line.split(old)[0]}{old}: {new}" if line.strip().startswith(f"{old}:") else line
                 for line in text.splitlines()]  # fmt: skip
        text = "\n".join(lines)
    (home / "dagster.yaml").write_text(text)


@contextmanager
def dagster_dev(root: Path, port: int | None = None) -> Iterator[Query]:
    """`dagster dev -w workspace.yaml` in the current folder; gives a function that runs a GraphQL query."""
    port, log = port or free_port(), root / "dev.log"

    def query(text: str, **variables: Any) -> dict[str, Any]:
        body = json.dumps({"query": text, "variables": variables}).encode()
        request = urllib.request.Request(f"http://127.0.0.1:{port}/graphql", body, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=300) as response:
            answer = json.load(response)
        assert "errors" not in answer, answer
        return answer["data"]

    with process(["dagster", "dev", "-w", "workspace.yaml", "-p", str(port)], log) as running:

        def ready() -> bool:
            assert running.poll() is None, log.read_text()
            try:
                return bool(query("{ assetNodes { assetKey { path } } }")["assetNodes"])
            except (urllib.error.URLError, ConnectionError, TimeoutError):
                return False

        wait_for(ready, 400)
        yield query
