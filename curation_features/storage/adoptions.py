"""Batches that were accepted or finished without Dagster, until Dagster's records have them.

    {data_path}/adoptions/{batch_id}.json    what `process` did: the manifest's digest and, once finished, each asset

The file is the only tie between the two ways to make a batch, so that the one without Dagster never imports it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from filelock import FileLock

from curation_features.atomic_files import cannot_write, store_bytes


@dataclass(frozen=True, slots=True)
class AdoptedAsset:
    """An asset that was made without Dagster: what its materialization is to say."""

    data_version: str
    code_version: str
    metadata: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Adoption:
    """A batch that Dagster has to learn about.

    Attributes:
        manifest: digest of the accepted manifest.
        event: id of the event of the finished features; None if the batch is not finished.
        assets: what was made, by the name of the asset, in the order in which it was made.
    """

    batch_id: str
    manifest: str
    event: str | None = None
    assets: Mapping[str, AdoptedAsset] = field(default_factory=dict)


class Adoptions:
    """The adoptions of one data folder."""

    def __init__(self, data_path: Path) -> None:
        self.folder = data_path / "adoptions"

    def path(self, batch_id: str) -> Path:
        """The file of a batch."""
        return self.folder / f"{batch_id}.json"

    def note(self, adoption: Adoption) -> None:
        """Keep what Dagster has to learn of a batch; it replaces what was noted before. Raises `StoreError`."""
        with self._locked():
            store_bytes(self.path(adoption.batch_id), json.dumps(asdict(adoption)).encode())

    def waiting(self) -> list[str]:
        """The batches that Dagster has to learn about, sorted."""
        return sorted(path.stem for path in self.folder.glob("[A-Za-z0-9]*.json"))

    @contextmanager
    def take(self, batch_id: str) -> Iterator[Adoption | None]:
        """Give the adoption of a batch, None if there is none, and delete it when the block succeeds.

        One that cannot be read counts as none, and goes: the batch is complete without it.

        Raises:
            StoreError: it cannot be deleted.
        """
        path = self.path(batch_id)
        if not path.exists():  # most often, and then without a lock
            yield None
            return
        with self._locked():
            yield _read(path)
            try:
                path.unlink(missing_ok=True)
            except OSError as error:
                raise cannot_write(path, error) from error

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Keep an adoption from being replaced between the reading and the deletion."""
        path = self.folder / ".lock"
        lock = FileLock(path)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            lock.acquire()
        except OSError as error:
            raise cannot_write(path, error) from error
        try:
            yield
        finally:
            lock.release()


def _read(path: Path) -> Adoption | None:
    try:
        fields = json.loads(path.read_bytes())
        assets = {name: AdoptedAsset(**asset) for name, asset in fields.pop("assets").items()}
        return Adoption(**fields, assets=assets)
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return None
