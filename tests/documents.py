"""The code blocks of the documentation, and their commands."""

from __future__ import annotations

import re
import shlex
import subprocess
from pathlib import Path

from curation_features.cli import main

REPOSITORY = Path(__file__).resolve().parent.parent


def blocks(path: Path, language: str) -> list[str]:
    """The blocks of a document in a language."""
    matches = re.findall(rf"^```{language}\n(.*?)^```", path.read_text("utf-8"), re.MULTILINE | re.DOTALL)
    return [block for block in matches if block.strip()]


def commands(document: str) -> list[str]:
    """The lines of the `sh` blocks of a document."""
    return [line for block in blocks(REPOSITORY / "docs" / document, "sh") for line in block.splitlines() if line]


def run(*command: str) -> str:
    """Run a command that must succeed; returns its standard output."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
    return done.stdout


def run_line(line: str) -> None:
    """Run a line of a shell. A command of this package runs in this process, which has imported torch already."""
    name, *arguments = shlex.split(line)
    if name == "curation-features":
        assert main(arguments) == 0, line
    else:
        print(run("bash", "-c", line))
