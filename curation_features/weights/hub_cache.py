"""The Hugging Face hub's cache on this machine, read without any network call."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from curation_features.weights.hub_layout import commit_of, repository_folder


def cached(repo: str, revision: str, name: str) -> Path | None:
    """A file of a repository in the cache.

    `huggingface_hub.try_to_load_from_cache` says the same, but a run of which all is cached would wait for its import.
    """
    folder = repository_folder(repo)
    path = folder / "snapshots" / commit_of(folder, revision) / name
    return path if path.is_file() else None


def first_cached(repo: str, revision: str, names: Iterable[str]) -> Path | None:
    """The first of some files that is in the cache."""
    return next((path for name in names if (path := cached(repo, revision, name))), None)


def recorded_sha256(path: Path) -> str | None:
    """The sha256 under which the cache keeps a large file; None for a small one, and outside of the cache.

    The cache names the blob of a large file by its sha256, as the hub gave it.
    """
    blob = path.resolve().name
    return blob if re.fullmatch("[0-9a-f]{64}", blob) else None
