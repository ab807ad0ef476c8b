"""A project with two finished batches that share a photo; made once, and copied for each test."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from projects import Project, project_at

from curation_features.settings import load_settings
from curation_features.storage.artifacts import ArtifactStore

SHARED, OWN_OF_A, OWN_OF_B = 3, (1, 2), (4,)


class KilledError(BaseException):
    """Ends a command like `kill -9`, as far as files are concerned."""


class Library:
    """The project; photos are identified by the seed of their pixels.

    Attributes:
        settings: those that its commands have.
        store: its artifacts.
    """

    def __init__(self, project: Project) -> None:
        self.project = project
        self.root = project.root
        self.settings = load_settings(project.root)
        self.data = self.settings.data_path
        self.store = ArtifactStore(self.data)

    def command(self, *arguments: str) -> int:
        self.project.terminal.seek(0)
        self.project.terminal.truncate()
        return self.project.command(*arguments)

    @property
    def output(self) -> str:
        """The output of the last command."""
        return self.project.terminal.getvalue()

    def run_json(self, *arguments: str, code: int = 0) -> dict[str, Any]:
        """The JSON output of a command, which must exit with `code`."""
        assert self.command(*arguments, "--json") == code, self.output
        found: dict[str, Any] = json.loads(self.output.splitlines()[0 if code else -1])
        return found

    def ingest(self, batch_id: str, *seeds: int) -> Path:
        """Ingest a batch of exactly these photos, and return its manifest."""
        folder = self.root / "photos" / f"{batch_id} {seeds}"
        folder.mkdir(parents=True, exist_ok=True)
        for seed in seeds:
            Image.fromarray(pixels(seed)).save(folder / f"{seed}.png")
        assert self.project.command("ingest", str(folder), "--batch-id", batch_id, "--replace") == 0
        return self.data / "batches" / f"{batch_id}.json"

    def make(self, batch_id: str, *seeds: int, command: str = "process") -> None:
        assert self.project.command(command, str(self.ingest(batch_id, *seeds))) == 0

    def photo_id(self, seed: int) -> str:
        """The id of an ingested photo: the digest of its file."""
        (path, *_) = (self.root / "photos").rglob(f"{seed}.png")
        return hashlib.sha256(path.read_bytes()).hexdigest()

    def traces(self, *texts: str) -> list[str]:
        """The files of the data folder with a pattern in name or content, except Dagster's and the log."""
        pattern, found = re.compile("|".join(texts).encode()), []
        for path in sorted(self.data.rglob("*")):
            name = path.relative_to(self.data).as_posix()
            if path.is_dir() or name.startswith("dagster/") or name == "deleted.jsonl":
                continue
            if pattern.search(name.encode()) or pattern.search(path.read_bytes()):
                found.append(name)
        return found

    def features(self, batch_id: str) -> dict[str, Any]:
        document: dict[str, Any] = json.loads((self.data / "features" / f"{batch_id}.json").read_bytes())
        return document


def pixels(seed: int) -> Any:
    return np.random.default_rng(seed).integers(90, 160, (48, 64, 3), dtype=np.uint8)


def snapshot(
    folder: Path, *, without: tuple[str, ...] = ("dagster", "locks", "index", "deleted.jsonl")
) -> dict[str, bytes]:
    """Every file in a folder with its content, except locks, and the index, whose names are random."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name != ".lock" and path.relative_to(folder).parts[0] not in without
    }


@pytest.fixture(scope="session")
def finished_library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("library")
    with project_at(root) as project:
        library = Library(project)
        library.make("holiday", *OWN_OF_A, SHARED)
        library.make("holiday-two", SHARED, *OWN_OF_B)
    return root


@pytest.fixture
def library(finished_library: Path, tmp_path: Path) -> Iterator[Library]:
    """Batch `holiday` of photos 1, 2 and 3, and batch `holiday-two` of 3 and 4, both finished without Dagster."""
    root = shutil.copytree(finished_library, tmp_path / "project")
    with project_at(root) as project:
        yield Library(project)
