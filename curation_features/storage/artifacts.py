"""Artifacts on disk: accepted manifests, outputs of stages, and finished features.

    data/manifests/{batch_id}.json           the manifest of a batch that was accepted last
    data/stages/{stage}/{batch_id}.parquet   the output of a stage, for later stages
    data/features/{batch_id}.json, .parquet  the enriched artifacts, and the same as a table
    data/features/embeddings/{batch_id}.parquet  the image embeddings, outside the glob `data/features/*.parquet`

Every file is written to a temporary name, flushed to disk and renamed.
"""

from __future__ import annotations

import hashlib
import logging
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from curation_features.atomic_files import (
    FEATURES_AGAIN,
    open_regular,
    publish,
    reading,
    staged,
    store_bytes,
    sweep,
    writing,
)
from curation_features.errors import BusyError, ManifestError, StoreError
from curation_features.manifest import Batch, parse_manifest, to_json
from curation_features.schema import FINGERPRINT, Embedding, PhotoRecord
from curation_features.storage.embeddings import EmbeddingsWriter
from curation_features.storage.places import files_in
from curation_features.storage.tables import (
    FEATURE_COLUMNS,
    GROUP_COLUMNS,
    STAGE_TABLES,
    Row,
    column_names,
    digested,
    group_of,
    read_metadata,
    read_rows,
    record_of,
    rows_writer,
    table_writer,
)

log = logging.getLogger(__name__)

_MANIFEST_FOLDERS = ("manifests", "features", "batches")  # {batch_id}.json in each lists the photos of a batch
_LISTING_S = 5.0  # the two checks of two processes at the same time see no file of each other either
_SWEPT_FOLDERS = (
    *("manifests", "adoptions", "features", "features/embeddings", "cache", "cache/thumbnails", "cache/ingest"),
    *(f"stages/{stage}" for stage in STAGE_TABLES),
    *("groups", "index", "cache/queries"),
)


@dataclass(frozen=True, slots=True)
class StageArtifact:
    """Output of a stage: file, digest of the logical content, and metadata."""

    path: Path
    digest: str
    metadata: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class FeatureArtifact:
    """Finished features of a batch. `digest` is the SHA-256 of the JSON file."""

    json_path: Path
    table_path: Path
    embeddings_path: Path
    digest: str


class ArtifactStore:
    """Reads and writes the artifacts in one data folder."""

    def __init__(self, data_path: Path) -> None:
        self.data_path = data_path
        self._swept = False
        self._folded: set[str] = set()  # names of manifests and features, case-folded, as of the last listing
        self._listed_until = 0.0
        self._accepted: dict[str, tuple[tuple[int, int, int], str]] = {}  # batch -> identity of the file, digest

    def manifest_path(self, batch_id: str) -> Path:
        """Return the path of the accepted manifest of a batch."""
        return self.data_path / "manifests" / f"{batch_id}.json"

    def put_manifest(self, batch: Batch) -> None:
        """Accept a manifest, from which the batch is computed from now on."""
        path = self.manifest_path(batch.batch_id)
        store_bytes(path, to_json(batch.document))
        self._accepted[batch.batch_id] = (_file_identity(path), batch.digest)
        self._folded.add(path.name.casefold())

    def accepted_digest(self, batch_id: str) -> str | None:
        """Return the digest of the accepted manifest. None if it is missing or unreadable.

        The file is read again only if it was replaced since this store read or wrote it.
        """
        try:
            known, digest = self._accepted.get(batch_id, ((), ""))
            return digest if known == _file_identity(self.manifest_path(batch_id)) else self.manifest(batch_id).digest
        except (OSError, StoreError):
            return None

    def manifest(self, batch_id: str) -> Batch:
        """Return the accepted manifest of a batch. Raises `StoreError` if it is missing or unreadable."""
        path = self.manifest_path(batch_id)
        try:
            identity = _file_identity(path)
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
        """Return the newest file that lists the photos of a batch. None if the id is new.

        The candidates are the manifest that `ingest` wrote, the accepted manifest and the finished features.
        """
        paths = (self.data_path / folder / f"{batch_id}.json" for folder in _MANIFEST_FOLDERS)
        return max((path for path in paths if path.is_file()), key=lambda path: path.stat().st_mtime_ns, default=None)

    def check_batch_id(self, batch_id: str) -> None:
        """Refuse a new id that differs from a known one only in case.

        A batch with a `newest_manifest` is known. For an unknown id, or on a case-insensitive file system, the folders
        are listed (60,000 files take 60 ms), at most every few seconds unless a similar id is known.

        Raises:
            ManifestError: the id is refused; its `field` is `batch_id`.
        """
        name = f"{batch_id}.json"
        folders = [self.data_path / folder for folder in _MANIFEST_FOLDERS]
        if any((folder / name).exists() and not (folder / name.swapcase()).exists() for folder in folders):
            return
        if self._is_unlike_known(name, folders):
            return
        similar: set[str] = set()
        for folder in folders:
            with suppress(OSError):  # the folder may not exist yet
                similar.update(other for other in os.listdir(folder) if other.casefold() == name.casefold())  # noqa: PTH208
        if similar and name not in similar:
            other = min(similar).removesuffix(".json")
            raise ManifestError(
                "batch_id",
                f"{batch_id!r} differs from the batch {other!r} in case only, and some file systems treat both as the "
                f"same; use {other!r}, or another id",
            )

    def _is_unlike_known(self, name: str, folders: Sequence[Path]) -> bool:
        """Return whether no file of a recent listing, or checked since, has this name in any case; remember it.

        A tick of the sensor checks many new ids: listing 100,000 batches for each of them would take most of its time.
        """
        now = time.monotonic()
        if now >= self._listed_until:
            self._folded.clear()
            for folder in folders:
                with suppress(OSError):  # the folder may not exist yet
                    self._folded.update(other.casefold() for other in os.listdir(folder) if other.endswith(".json"))  # noqa: PTH208
            self._listed_until = time.monotonic() + _LISTING_S
        is_unlike = name.casefold() not in self._folded
        self._folded.add(name.casefold())
        return is_unlike

    @contextmanager
    def exclusive(self, batch_id: str, *, wait: bool = True) -> Iterator[None]:
        """Hold the lock of a batch, so that no other process computes it.

        Without the lock, a run with an older manifest could finish last. The first call deletes the temporary files of
        killed runs.

        Args:
            wait: wait until the batch is free.

        Raises:
            BusyError: another process computes the batch (without `wait`).
            StoreError: the lock file cannot be created.
        """
        bucket = hashlib.sha256(batch_id.encode()).hexdigest()[:2]  # a bounded number of lock files
        path = self.data_path / "locks" / f"{bucket}.lock"
        with ExitStack() as stack:
            with writing(path):
                path.parent.mkdir(parents=True, exist_ok=True)
                try:
                    stack.enter_context(FileLock(path, blocking=wait))
                except Timeout as error:
                    raise BusyError(
                        f"another process works on batch {batch_id}, or on one with the same lock {path}: "
                        f"try again later"
                    ) from error
            if not self._swept:
                self._swept = True
                sweep(*(self.data_path / name for name in _SWEPT_FOLDERS))
            yield

    def batch_ids(self) -> list[str]:
        """Return the ids of batches with an accepted manifest, sorted."""
        return sorted(path.stem for path in (self.data_path / "manifests").glob("[A-Za-z0-9]*.json"))

    def stage_path(self, stage: str, batch_id: str) -> Path:
        """Return the path of a stage's output for a batch."""
        return self.data_path / "stages" / stage / f"{batch_id}.parquet"

    def write_stages(
        self,
        batch: Batch,
        records: Iterable[PhotoRecord],
        versions: Mapping[str, Mapping[str, str]],
        model: str | None = None,
        labels: Sequence[str] = (),
    ) -> dict[str, StageArtifact]:
        """Write the outputs of several stages from one stream of records.

        The metadata of each file holds the digest of the manifest, and:

        Args:
            versions: by stage to write, the versions of its parts.
            model: the CLIP model as in the settings.
            labels: the vocabulary, in the order of the cosines.
        """
        metadata = {
            stage: {"versions": dict(parts), "manifest": batch.digest, "model": model, "labels": list(labels)}
            for stage, parts in versions.items()
        }
        paths = {stage: self.stage_path(stage, batch.batch_id) for stage in versions}
        digests = {stage: hashlib.sha256(str(sorted(parts.items())).encode()) for stage, parts in versions.items()}
        with ExitStack() as stack:
            writers = {
                stage: stack.enter_context(table_writer(path, STAGE_TABLES[stage].columns, metadata[stage]))
                for stage, path in paths.items()
            }
            for record in records:
                for stage, add in writers.items():
                    row = STAGE_TABLES[stage].to_row(record)
                    digests[stage].update(digested(row))
                    add(row)
        return {
            stage: StageArtifact(path, digests[stage].hexdigest(), metadata[stage]) for stage, path in paths.items()
        }

    def stage_metadata(self, stage: str, batch: Batch) -> dict[str, Any]:
        """Return the metadata of a stage's output. Raises `StoreError` for another manifest."""
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
        """Return whether a stage's output was made from exactly this manifest."""
        try:
            self.stage_metadata(stage, batch)
        except StoreError:
            return False
        return True

    def read_stage(self, stage: str, batch: Batch) -> Iterator[PhotoRecord]:
        """Yield the records of a stage, in the order of distinct photos."""
        self.stage_metadata(stage, batch)
        path = self.stage_path(stage, batch.batch_id)
        with reading(path, f"materialize {stage} again"):
            for row in read_rows(path):
                record = record_of(row)
                STAGE_TABLES[stage].restore(record, row)
                yield record

    def remove_from_stage(self, stage: str, batch_id: str, photo_id: str, digests: Mapping[str, str]) -> None:
        """Remove a photo from a stage's table, if the table exists.

        Args:
            digests: old digest of a manifest -> digest of the manifest without the photo, for the table's metadata.

        Raises:
            StoreError: the table cannot be read or written.
        """
        path = self.stage_path(stage, batch_id)
        if not path.is_file():
            return
        with reading(path, f"delete it, or materialize {stage} again"):
            metadata = read_metadata(path)
            metadata["manifest"] = digests.get(metadata["manifest"], metadata["manifest"])
            stored = column_names(path)  # a table of an earlier release keeps its columns
            columns = {name: column for name, column in STAGE_TABLES[stage].columns.items() if name in stored}
            with table_writer(path, columns, metadata) as add:
                for row in read_rows(path):
                    if row["photo_id"] != photo_id:
                        add(row)

    def feature_paths(self, batch_id: str) -> tuple[Path, Path]:
        """Return the paths of the finished features: JSON and Parquet."""
        folder = self.data_path / "features"
        return folder / f"{batch_id}.json", folder / f"{batch_id}.parquet"

    def finished_batch_ids(self) -> list[str]:
        """Return the ids of finished batches, sorted. Their JSON file, written last, exists. Raises `StoreError`."""
        names = (entry.name for entry in files_in(self.data_path / "features"))
        return sorted(name[:-5] for name in names if name.endswith(".json") and name[0].isascii() and name[0].isalnum())

    def embeddings_path(self, batch_id: str) -> Path:
        """Return the path of a finished batch's image embeddings."""
        return self.data_path / "features" / "embeddings" / f"{batch_id}.parquet"

    @contextmanager
    def embeddings(self, batch_id: str, version: str | None, model: str | None) -> Iterator[EmbeddingsWriter]:
        """Yield an embeddings writer, whose file remains only after `write_features`.

        Args:
            version: version of the embeddings; None if there are none.
            model: the CLIP model as in the settings.

        Raises:
            StoreError: the folder cannot be created.
        """
        path = self.embeddings_path(batch_id)
        with ExitStack() as stack:
            with writing(path):
                temporary = stack.enter_context(staged(path))
            source = {"version": version, "model": model}
            yield stack.enter_context(closing(EmbeddingsWriter(path, temporary, batch_id, source)))

    @contextmanager
    def stored_embeddings(
        self,
        batch: Batch,
        records: Iterable[PhotoRecord],
        each: Callable[[PhotoRecord], None] = lambda record: None,
    ) -> Iterator[tuple[EmbeddingsWriter, list[PhotoRecord]]]:
        """Yield a writer filled from `image_embeddings`, and the records with the norms of their embeddings.

        Photos with other bytes have neither.

        Args:
            records: the records of the batch's distinct photos, in order.
            each: called with each record, which has its embedding.
        """
        stage = "image_embeddings"
        metadata = self.stage_metadata(stage, batch) if self.has_stage(stage, batch) else {}
        version = metadata.get("versions", {}).get("embedding")
        with self.embeddings(batch.batch_id, version, metadata.get("model")) as writer:
            stored = self._read_stage_safely(stage, batch)
            normed = []
            for record in records:
                other = next(stored, None)
                embedding = (other.embedding if other and other.info == record.info else None) or Embedding()
                embedded = replace(record, embedding=embedding)
                writer.add(embedded)
                each(embedded)
                normed.append(replace(record, embedding=Embedding(norm=embedding.norm)))
            yield writer, normed

    def read_fingerprints(self, batch: Batch) -> Iterator[bytes | None]:
        """Yield the fingerprints of `technical_metrics`, in the order of distinct photos; none of an earlier release.

        Raises:
            StoreError: the table is of another manifest, or cannot be read.
        """
        stage = "technical_metrics"
        self.stage_metadata(stage, batch)
        path = self.stage_path(stage, batch.batch_id)
        with reading(path, f"materialize {stage} again"):
            for row in read_rows(path, ["photo_id", FINGERPRINT]):
                yield row.get(FINGERPRINT)

    def _read_stage_safely(self, stage: str, batch: Batch) -> Iterator[PhotoRecord]:
        """Yield the records of a stage up to the first unreadable one."""
        try:
            yield from self.read_stage(stage, batch)
        except StoreError as error:
            log.warning("Features without all embeddings: %s", error)

    def kept_groups(self, batch_id: str, digest: str) -> list[Row | None] | None:
        """Return `group` of each artifact in the last features of a batch, if these were made of the same data.

        Args:
            digest: as `write_features` got it.

        Returns:
            None if the features are missing, of other data, or cannot be read.
        """
        _, path = self.feature_paths(batch_id)
        try:
            with reading(path, FEATURES_AGAIN):
                open_regular(path).close()
                if read_metadata(path).get("groups") != digest:
                    return None
                return [group_of(row) for row in read_rows(path, list(GROUP_COLUMNS))]
        except StoreError:
            return None

    def write_features(
        self,
        document: Mapping[str, Any],
        rows: Iterable[Row],
        version: Mapping[str, str],
        labels: Sequence[str],
        embeddings: EmbeddingsWriter | None = None,
        groups: str = "",
    ) -> FeatureArtifact:
        """Write the enriched artifacts: table, embeddings and, last, JSON.

        The old files are replaced only after all new ones are on disk.

        Args:
            version: the `version` of the features.
            labels: the vocabulary, in the order of the table's cosines.
            embeddings: the image embeddings; None deletes older ones.
            groups: digest of what the groups were made of, for `kept_groups`.
        """
        json_path, table_path = self.feature_paths(document["batch_id"])
        embeddings_path = self.embeddings_path(document["batch_id"])
        data = to_json(document)
        metadata = {"version": dict(version), "labels": list(labels), "groups": groups}
        with writing(json_path), staged(json_path) as json_file, staged(table_path) as table_file:
            json_file.write_bytes(data)
            with writing(table_path), rows_writer(table_file, FEATURE_COLUMNS, metadata) as add:
                for row in rows:
                    add(row)
            files = [(table_file, table_path), (json_file, json_path)]
            if embeddings is None:
                embeddings_path.unlink(missing_ok=True)
            else:
                embeddings.finish()
                files.insert(1, (embeddings.temporary, embeddings_path))
            publish(*files)
        return FeatureArtifact(json_path, table_path, embeddings_path, hashlib.sha256(data).hexdigest())


def _file_identity(path: Path) -> tuple[int, int, int]:
    """Return a value that changes if a file is replaced."""
    status = path.stat()
    return status.st_ino, status.st_size, status.st_mtime_ns
