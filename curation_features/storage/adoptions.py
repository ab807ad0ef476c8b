"""Batches that were accepted or finished without Dagster, until Dagster records them.

    {data_path}/adoptions/{batch_id}.json    the manifest's digest and, once finished, each asset

`process` writes the file and Dagster reads it, so that `process` need not import Dagster.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from filelock import FileLock

from curation_features.atomic_files import store_bytes, writing


@dataclass(frozen=True, slots=True)
class AdoptedAsset:
    """An asset computed without Dagster: the content of its materialization."""

    data_version: str
    code_version: str
    metadata: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Adoption:
    """A batch for Dagster to record.

    Attributes:
        manifest: digest of the accepted manifest.
        event: id of the event of the finished features; None if the batch is not finished.
        assets: by name of the asset, in the order of computation.
    """

    batch_id: str
    manifest: str
    event: str | None = None
    assets: Mapping[str, AdoptedAsset] = field(default_factory=dict)


class Adoptions:
    """Reads and writes the adoptions of one data folder."""

    def __init__(self, data_path: Path) -> None:
        self.folder = data_path / "adoptions"

    def path(self, batch_id: str) -> Path:
        """Return the file of a batch."""
        return self.folder / f"{batch_id}.json"

    def note(self, adoption: Adoption) -> None:
        """Write the adoption of a batch, replacing an earlier one. Raises `StoreError`."""
        with self._hold_lock():
            store_bytes(self.path(adoption.batch_id), json.dumps(asdict(adoption)).encode())

    def is_noted(self, batch_id: str, event: str) -> bool:
        """Return whether the adoption of a batch is of this event, or was already taken."""
        path = self.path(batch_id)
        adoption = _read(path)
        return not path.exists() if adoption is None else adoption.event == event

    def waiting(self) -> list[str]:
        """Return the ids of batches for Dagster to record, sorted."""
        return sorted(path.stem for path in self.folder.glob("[A-Za-z0-9]*.json"))

    @contextmanager
    def take(self, batch_id: str) -> Iterator[Adoption | None]:
        """Yield the adoption of a batch, or None. Delete it if the block succeeds.

        An unreadable adoption counts as None and is deleted too: the batch is complete without it.

        Raises:
            StoreError: the file cannot be deleted.
        """
        path = self.path(batch_id)
        if not path.exists():  # the usual case, which needs no lock
            yield None
            return
        with self._hold_lock():
            yield _read(path)
            with writing(path):
                path.unlink(missing_ok=True)

    @contextmanager
    def _hold_lock(self) -> Iterator[None]:
        """Hold the lock, so that nothing changes between reading and deletion."""
        path = self.folder / ".lock"
        with ExitStack() as stack:
            with writing(path):
                self.folder.mkdir(parents=True, exist_ok=True)
                stack.enter_context(FileLock(path))
            yield


def _read(path: Path) -> Adoption | None:
    try:
        fields = json.loads(path.read_bytes())
        assets = {name: AdoptedAsset(**asset) for name, asset in fields.pop("assets").items()}
        return Adoption(**fields, assets=assets)
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return None
