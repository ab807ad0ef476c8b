"""Manifests of shards on disk: writes those of a batch, reads those of a run, finds former ones."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Literal

from curation_features.atomic_files import flush, store_bytes, sweep, writing
from curation_features.engines.executor import Shard, ShardResult
from curation_features.engines.sharding import SHARD_OF, shard_ids_pattern
from curation_features.errors import ManifestError, StoreError
from curation_features.manifest import is_batch_id, read_manifest, to_json
from curation_features.storage import places

Change = Literal["new", "changed", "unchanged"]


@dataclass(frozen=True, slots=True)
class WrittenShard:
    """A shard in its folder, and how its file has changed."""

    batch_id: str
    photos: int
    change: Change


def write_shards(shards: Iterable[Mapping[str, Any]], folder: Path) -> Iterator[WrittenShard]:
    """Write the manifest of each shard as `{folder}/{batch_id}.json`; unchanged files are not touched.

    Raises:
        StoreError: a file cannot be written.
    """
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    sweep(folder)
    for shard in shards:
        path, data = folder / f"{shard['batch_id']}.json", to_json(shard)
        before = _read(path)
        if before != data:
            store_bytes(path, data, durable=False)
        change: Change = "unchanged" if before == data else "changed" if before is not None else "new"
        yield WrittenShard(shard["batch_id"], len(shard["artifacts"]), change)
    with writing(folder):
        flush(folder)


def remove_former_shards(batch_id: str, current: Sequence[str], folder: Path) -> list[str]:
    """Delete the manifests of former shards of a batch from its folder, and return their ids.

    Raises:
        StoreError: a file cannot be deleted.
    """
    former = list(_former(batch_id, current, folder))
    for name in former:
        path = folder / f"{name}.json"
        with writing(path):
            path.unlink(missing_ok=True)
    return former


def former_batches(batch_id: str, current: Sequence[str], data_path: Path) -> list[str]:
    """Return the ids of batches with results that were shards of a batch, and are none now."""
    folders = (place.path(data_path, "").parent for place in (places.ACCEPTED, places.FEATURES))
    return sorted({name for folder in folders for name in _former(batch_id, current, folder)})


def read_shards(paths: Iterable[Path]) -> Iterator[Shard | ShardResult]:
    """Read the ids of manifests; a file that is not a valid manifest, or repeats an id, is a failed result.

    Only JSON, id and the number of artifacts are checked: the work checks the rest.
    """
    first: dict[str, Path] = {}
    for path in paths:
        try:
            shard = _read_shard(path)
        except (StoreError, ManifestError, OSError) as error:
            yield ShardResult(path.stem, "failed", str(error))
            continue
        other = first.setdefault(shard.batch_id.casefold(), path)
        if other is path:
            yield shard
        else:
            reason = f"{path} has the batch id of {other}: give one of them another id, or remove it"
            yield ShardResult(shard.batch_id, "failed", reason, photos=shard.photos)


def _read_shard(path: Path) -> Shard:
    document = places.read_object(path)
    batch_id, artifacts = document.get("batch_id"), document.get("artifacts")
    if not (is_batch_id(batch_id) and isinstance(artifacts, list)):
        batch = read_manifest(path)  # raises for the faulty field
        return Shard(batch.batch_id, path, len(batch.artifacts))
    return Shard(str(batch_id), path, len(artifacts))


def _former(batch_id: str, current: Sequence[str], folder: Path) -> Iterator[str]:
    """Yield the ids of files of former shards in a folder."""
    known, pattern = set(current), f"{shard_ids_pattern(batch_id)}.json"
    for entry in places.files_in(folder):
        name = entry.name.removesuffix(".json")
        if (
            fnmatchcase(entry.name, pattern)
            and name not in known
            and _document(folder, entry.name)[SHARD_OF] == batch_id
        ):
            yield name


def _document(folder: Path, name: str) -> dict[str, Any]:
    """Read a document; one that cannot be read is not a shard's."""
    with suppress(StoreError, FileNotFoundError):
        return {SHARD_OF: None, **places.read_object(folder / name)}
    return {SHARD_OF: None}


def _read(path: Path) -> bytes | None:
    with suppress(StoreError, FileNotFoundError):
        return places.read_regular(path)
    return None
