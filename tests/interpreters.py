"""Python code in a fresh process."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
_FOLDERS = (".", "tests", "tests/impatient", "tools/kills")
_IMPORTABLE = os.pathsep.join(str(REPOSITORY / folder) for folder in _FOLDERS)


def run_python(*arguments: object, given: str = "") -> str:
    """The output of a process that can import the package, the builders of the tests, and the harness of the kills."""
    inherited = {name: value for name, value in os.environ.items() if name != "DAGSTER_HOME"}
    done = subprocess.run(
        [sys.executable, *map(str, arguments)], env={**inherited, "PYTHONPATH": _IMPORTABLE}, input=given,
        capture_output=True, text=True, timeout=550,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout
