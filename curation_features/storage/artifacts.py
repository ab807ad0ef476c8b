"""Artifacts on disk: accepted manifests, what each stage made, and finished features.

    data/manifests/{batch_id}.json           the manifest of a batch that was accepted last, by whichever way in
    data/stages/{stage}/{batch_id}.parquet   what a stage made, for the stages after it
    data/features/{batch_id}.json, .parquet  the enriched artifacts, and the same as a table
    data/features/embeddings/{batch_id}.parquet  the image vectors: not beside the tables, whose glob would match them

Everything is written to a temporary name, flushed to disk and renamed.
"""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from curation_features.atomic_files import cannot_write, flush, replacing, store_bytes, sweep
from curation_features.errors import BusyError, ManifestError, StoreError
from curation_features.manifest import Batch, parse_manifest, to_json
from curation_features.schema import PhotoRecord
from curation_features.storage.embeddings import EmbeddingsWriter, embeddings_writer
from curation_features.storage.tables import (
    FEATURE_COLUMNS,
    STAGE_TABLES,
    Row,
    RowDigest,
    StageTable,
    read_metadata,
    read_rows,
    record_of,
    table_writer,
)

log = logging.getLogger(__name__)

_MANIFEST_FOLDERS = ("manifests", "features", "batches")  # {batch_id}.json in each says which photos a batch has


@dataclass(frozen=True, slots=True)
class StageArtifact:
    """What a stage wrote: its file, the digest of its logical content, and its metadata."""

    path: Path
    digest: str
    metadata: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class FeatureArtifact:
    """The finished features of a batch: its files, and the digest of the JSON file's bytes."""

    json_path: Path
    table_path: Path
    embeddings_path: Path
    digest: str


class ArtifactStore:
    """The artifacts under one data folder."""

    def __init__(self, data_path: Path) -> None:
        self.data_path = data_path
        self._swept = False
        self._accepted: dict[str, tuple[tuple[int, int, int], str]] = {}  # batch -> the manifest's file, and its digest

    def manifest_path(self, batch_id: str) -> Path:
        """Path of the accepted manifest of a batch."""
        return self.data_path / "manifests" / f"{batch_id}.json"

    def put_manifest(self, batch: Batch) -> None:
        """Accept a manifest: from now on it is the one that the batch's features are made from."""
        path = self.manifest_path(batch.batch_id)
        store_bytes(path, to_json(batch.document))
        self._accepted[batch.batch_id] = (_identity(path), batch.digest)

    def accepted_digest(self, batch_id: str) -> str | None:
        """Digest of the manifest that is accepted now; None if there is none, or if it cannot be read.

        The file is read again only if it was replaced since this store read or wrote it.
        """
        try:
            known, digest = self._accepted.get(batch_id, ((), ""))
            return digest if known == _identity(self.manifest_path(batch_id)) else self.manifest(batch_id).digest
        except (OSError, StoreError):
            return None

    def manifest(self, batch_id: str) -> Batch:
        """The accepted manifest of a batch. Raises `StoreError`: there is none, or it cannot be read."""
        path = self.manifest_path(batch_id)
        try:
            identity = _identity(path)
            batch = parse_manifest(path.read_bytes())
        except (OSError, ManifestError) as error:
            raise StoreError(
                f"no usable manifest for batch {batch_id!r} at {path} ({error}); "
                f"accept it again: curation-features materialize MANIFEST"
            ) from error
        if batch.batch_id != batch_id:
            raise StoreError(
                f"{path}: holds the manifest of batch {batch.batch_id!r}; remove it, or accept the right one"
            )
        self._accepted[batch_id] = (identity, batch.digest)
        return batch

    def newest_manifest(self, batch_id: str) -> Path | None:
        """The newest file that says which photos a batch has; None where the id is new.

        That is the manifest that `ingest` has written, the accepted one, or the finished features.
        """
        paths = (self.data_path / folder / f"{batch_id}.json" for folder in _MANIFEST_FOLDERS)
        return max((path for path in paths if path.is_file()), key=lambda path: path.stat().st_mtime_ns, default=None)

    def check_batch_id(self, batch_id: str) -> None:
        """Refuse a new id that differs from a known one in case only: file systems may take the two for one.

        Known are the batches of which there is a `newest_manifest`. For one of them nothing is listed, unless this file
        system does take the two for one; else 60,000 files cost some 50 ms.

        Raises:
            ManifestError: such an id; its `field` is `batch_id`.
        """
        name = f"{batch_id}.json"
        folders = [self.data_path / folder for folder in _MANIFEST_FOLDERS]
        if any((folder / name).exists() and not (folder / name.swapcase()).exists() for folder in folders):
            return
        alike = sorted(other for folder in folders for other in _alike(folder, name))
        if alike and name not in alike:
            other = alike[0].removesuffix(".json")
            raise ManifestError(
                "batch_id",
                f"{batch_id!r} differs from the batch {other!r} in case only, and some file systems take the two for "
                f"one; use {other!r}, or another id",
            )

    @contextmanager
    def exclusive(self, batch_id: str, *, wait: bool = True) -> Iterator[None]:
        """Keep every other process from making the same batch at the same time.

        Without it, a run that began with an older manifest could end last. The first time, what killed runs have left
        of their writes goes.

        Args:
            wait: until the batch is free.

        Raises:
            BusyError: the batch is being made (without `wait`).
            StoreError: the lock cannot be taken.
        """
        bucket = hashlib.sha256(batch_id.encode()).hexdigest()[:2]  # a bounded number of lock files
        path = self.data_path / "locks" / f"{bucket}.lock"
        lock = FileLock(path)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            lock.acquire(timeout=-1 if wait else 0)
        except Timeout as error:
            raise BusyError(
                f"batch {batch_id} is being made now, or one that shares its lock {path}: try again when it is finished"
            ) from error
        except OSError as error:
            raise cannot_write(path, error) from error
        try:
            self._sweep()
            yield
        finally:
            lock.release()

    def _sweep(self) -> None:
        if self._swept:
            return
        self._swept = True
        stages = [f"stages/{stage}" for stage in STAGE_TABLES]
        for name in ("manifests", "adoptions", "features", "features/embeddings", "cache", "cache/thumbnails", *stages):
            sweep(self.data_path / name)

    def batch_ids(self) -> list[str]:
        """The batches with an accepted manifest, sorted."""
        return sorted(path.stem for path in (self.data_path / "manifests").glob("[A-Za-z0-9]*.json"))

    def stage_path(self, stage: str, batch_id: str) -> Path:
        """Where a stage keeps what it made of a batch."""
        return self.data_path / "stages" / stage / f"{batch_id}.parquet"

    def write_stages(
        self,
        batch: Batch,
        records: Iterable[PhotoRecord],
        versions: Mapping[str, Mapping[str, str]],
        model: str | None = None,
        labels: Sequence[str] = (),
    ) -> dict[str, StageArtifact]:
        """Write what one or several stages made, out of one stream of records, as they come.

        Args:
            versions: for each stage to be written, the versions of its parts. They are kept with it, as is the
                digest of the manifest.
            model: the CLIP model as settings name it, which is kept with them, too.
            labels: so is the vocabulary, in the order of the cosines.
        """
        writers: list[tuple[StageTable, Callable[[Row], None], RowDigest]] = []
        artifacts: dict[str, Callable[[], StageArtifact]] = {}
        with ExitStack() as stack:
            for stage, parts in versions.items():
                table, path = STAGE_TABLES[stage], self.stage_path(stage, batch.batch_id)
                metadata = {"versions": dict(parts), "manifest": batch.digest, "model": model, "labels": list(labels)}
                digest = RowDigest(table.digested, str(sorted(parts.items())))
                writers.append((table, stack.enter_context(table_writer(path, table.columns, metadata)), digest))
                artifacts[stage] = partial(_stage_artifact, path, digest, metadata)
            for record in records:
                for table, add, digest in writers:
                    row = table.to_row(record)
                    digest.add(row)
                    add(row)
        return {stage: artifact() for stage, artifact in artifacts.items()}

    def stage_metadata(self, stage: str, batch: Batch) -> dict[str, Any]:
        """Metadata of what a stage made of exactly this manifest; raises `StoreError` where it made nothing of it."""
        path = self.stage_path(stage, batch.batch_id)
        try:
            metadata = read_metadata(path)
        except (OSError, ValueError, KeyError) as error:
            raise StoreError(
                f"{stage} of batch {batch.batch_id!r} is missing or unreadable at {path}: materialize it"
            ) from error
        if metadata.get("manifest") != batch.digest:
            raise StoreError(
                f"{stage} of batch {batch.batch_id!r} was made from another version of its manifest: "
                f"materialize it again"
            )
        return metadata

    def has_stage(self, stage: str, batch: Batch) -> bool:
        """Whether a stage was made of exactly this manifest."""
        try:
            self.stage_metadata(stage, batch)
        except StoreError:
            return False
        return True

    def read_stage(self, stage: str, batch: Batch) -> Iterator[PhotoRecord]:
        """The records of a stage, in the order of the batch's distinct photos."""
        self.stage_metadata(stage, batch)
        table, path = STAGE_TABLES[stage], self.stage_path(stage, batch.batch_id)
        rows = read_rows(path)
        while True:
            try:
                row = next(rows, None)
            except (OSError, ValueError) as error:
                raise StoreError(f"{path}: cannot be read ({error}): materialize {stage} again") from error
            if row is None:
                return
            record = record_of(row)
            table.restore(record, row)
            yield record

    def remove_from_stage(self, stage: str, batch_id: str, photo_id: str, digests: Mapping[str, str]) -> None:
        """Remove a photo from a stage's table, if there is one. Nothing is computed; other rows keep their values.

        Args:
            digests: of manifests: a table that was made from the first of two counts as made from the second then.

        Raises:
            StoreError: the table cannot be read or written.
        """
        path = self.stage_path(stage, batch_id)
        if not path.is_file():
            return
        try:
            metadata = read_metadata(path)
            metadata["manifest"] = digests.get(metadata["manifest"], metadata["manifest"])
            with table_writer(path, STAGE_TABLES[stage].columns, metadata) as add:
                for row in read_rows(path):
                    if row["photo_id"] != photo_id:
                        add(row)
        except (OSError, ValueError, KeyError) as error:
            raise StoreError(f"{path}: cannot be read ({error}): delete it, or materialize {stage} again") from error

    def feature_paths(self, batch_id: str) -> tuple[Path, Path]:
        """Where the finished features lie: JSON and Parquet."""
        folder = self.data_path / "features"
        return folder / f"{batch_id}.json", folder / f"{batch_id}.parquet"

    def finished_batch_ids(self) -> list[str]:
        """The batches whose features are finished, sorted: the JSON file is written last."""
        return sorted(path.stem for path in (self.data_path / "features").glob("[A-Za-z0-9]*.json"))

    def embeddings_path(self, batch_id: str) -> Path:
        """Where the image vectors of a finished batch lie."""
        return self.data_path / "features" / "embeddings" / f"{batch_id}.parquet"

    def embeddings(
        self, batch_id: str, version: str | None, model: str | None
    ) -> AbstractContextManager[EmbeddingsWriter]:
        """A file for the image vectors of a batch, to be filled and given to `write_features` (see `EmbeddingsWriter`).

        Args:
            version: of the vectors; None where there are none.
            model: the CLIP model as settings name it.
        """
        return embeddings_writer(self.embeddings_path(batch_id), batch_id, {"version": version, "model": model})

    @contextmanager
    def stored_embeddings(self, batch: Batch, records: Iterable[PhotoRecord]) -> Iterator[EmbeddingsWriter]:
        """The vectors that `image_embeddings` has made of these records' very bytes; null for all others.

        Args:
            records: of the batch's distinct photos, in order.
        """
        try:
            made = self.stage_metadata("image_embeddings", batch)
        except StoreError as error:
            log.warning("Features without vectors: %s", error)
            made = {}
        version = made.get("versions", {}).get("embedding")
        with self.embeddings(batch.batch_id, version, made.get("model")) as file:
            stored = self._readable_stage("image_embeddings", batch) if made else iter(())
            for record in records:
                found = next(stored, None)
                fits = found is not None and found.info == record.info
                file.add(replace(record, embedding=found.embedding if found and fits else None))
            yield file

    def _readable_stage(self, stage: str, batch: Batch) -> Iterator[PhotoRecord]:
        try:
            yield from self.read_stage(stage, batch)
        except StoreError as error:
            log.warning("The rest of it is left out: %s", error)

    def write_features(
        self,
        document: Mapping[str, Any],
        rows: Iterable[Row],
        version: Mapping[str, str],
        labels: Sequence[str],
        embeddings: EmbeddingsWriter | None = None,
    ) -> FeatureArtifact:
        """Write the enriched artifacts. The JSON file comes last: where it stands, the others stand too.

        None replaces the one before until there was room for all.

        Args:
            version: the `version` of the features.
            labels: the vocabulary, in the order of the table's cosines.
            embeddings: the image vectors; None: there are none, and older ones go.
        """
        json_path, table_path = self.feature_paths(document["batch_id"])
        embeddings_path = self.embeddings_path(document["batch_id"])
        data = to_json(document)
        metadata = {"version": dict(version), "labels": list(labels)}
        try:
            with replacing(json_path) as temporary:
                temporary.write_bytes(data)
                flush(temporary)
                with table_writer(table_path, FEATURE_COLUMNS, metadata) as add:
                    for row in rows:
                        add(row)
                    if embeddings is not None:
                        embeddings.finish()
                if embeddings is not None:
                    embeddings.publish()
                else:
                    embeddings_path.unlink(missing_ok=True)
        except OSError as error:
            raise cannot_write(json_path, error) from error
        return FeatureArtifact(json_path, table_path, embeddings_path, hashlib.sha256(data).hexdigest())


def _identity(path: Path) -> tuple[int, int, int]:
    """What changes whenever a file is replaced."""
    status = path.stat()
    return status.st_ino, status.st_size, status.st_mtime_ns


def _stage_artifact(path: Path, digest: RowDigest, metadata: Mapping[str, Any]) -> StageArtifact:
    return StageArtifact(path, digest.hexdigest(), metadata)


def _alike(folder: Path, name: str) -> list[str]:
    """The names in a folder that are `name`, but for their case."""
    try:
        names = os.listdir(folder)  # noqa: PTH208 (there may be many)
    except OSError:  # no such folder yet, say
        return []
    folded = name.casefold()
    if f"/{folded}/" not in "/".join(("", *names, "")).casefold():  # in one go: one by one takes ten times as long
        return []
    return [other for other in names if other.casefold() == folded]
