"""Resolves the names of batches on the command line: ids, or paths of their files."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from curation_features.cli.terminal import printable
from curation_features.errors import InputError, ManifestError
from curation_features.manifest import is_batch_id, read_manifest
from curation_features.settings import Settings, nearest

if TYPE_CHECKING:
    from curation_features.orchestration.records import BatchRecords

MANIFEST_HELP = (
    "a batch manifest, bare or as a CloudEvent; or the id of a batch: its manifest in data/batches (ingested last), "
    "else the one in data/manifests (accepted last)"
)
BATCH_HELP = "id of a batch, or the path of its manifest or of a file of its features"


def find_manifest(given: str, settings: Settings) -> Path:
    """The path of a manifest, given as a file or as the id of its batch.

    The manifest ingested last is preferred to the one accepted last, as it is newer.

    Raises:
        ManifestError: neither exists; names the batch with the nearest id.
    """
    if _is_file(Path(given)):
        return Path(given)
    for folder in _folders(settings):
        path = folder / f"{given}.json"
        if "/" not in given and _is_file(path):
            return path
    folders = " or ".join(map(str, _folders(settings)))
    is_path = "/" in given or given.endswith(".json")
    missing = "no such file" if is_path else f"no such file, and no batch of this id in {folders}"
    known = (path.stem for folder in _folders(settings) for path in sorted(folder.glob("[A-Za-z0-9]*.json")))
    hint = nearest(Path(given).stem, known)
    raise ManifestError("", f"{printable(given)}: cannot be read: {missing}{hint}")


def find_manifests(given: Sequence[str], settings: Settings) -> list[Path]:
    """The paths of manifests, given as files, ids of batches, or folders of manifests.

    A name that is both a batch and a folder (of its photos) is the batch.

    Raises:
        ManifestError: none exists.
        InputError: a folder has no manifests.
    """
    return [path for name in given for path in _find_some(name, settings)]


def _find_some(given: str, settings: Settings) -> list[Path]:
    folder = Path(given)
    try:
        return [find_manifest(given, settings)]
    except ManifestError:
        if not _is_folder(folder):
            raise
    manifests = sorted(path for path in folder.glob("*.json") if not path.name.startswith("."))
    if not manifests:
        raise InputError(
            f"{printable(given)}: holds no manifest (*.json); to make a batch of photos: "
            "curation-features ingest FOLDER"
        )
    return manifests


def is_folder_of_manifests(given: str, settings: Settings) -> bool:
    """Whether a name is a folder, and not a batch."""
    return _is_folder(Path(given)) and not any(_is_file(folder / f"{given}.json") for folder in _folders(settings))


def batch_id_of(given: str, settings: Settings) -> str:
    """The id of a batch, given as the id itself or as the path of its manifest or features.

    Raises:
        ManifestError: the file is not a manifest.
    """
    path = Path(given)
    if not _is_file(path):
        return given
    ours = (*_folders(settings), settings.data_path / "features", settings.data_path / "features" / "embeddings")
    return path.stem if path.resolve().parent in ours else read_manifest(path).batch_id


def check_known(batch_ids: Iterable[str], settings: Settings, records: BatchRecords | None = None) -> None:
    """Raise `InputError` if a batch has neither a file nor a partition in Dagster."""
    from curation_features.inventory import batch_files, known_batch_ids
    from curation_features.storage.places import list_places

    for batch_id in batch_ids:
        is_id = is_batch_id(batch_id)
        if is_id and (batch_files(settings, batch_id) or (records is not None and records.holds(batch_id))):
            continue
        known = known_batch_ids(list_places(settings.data_path))
        remedy = nearest(Path(batch_id).stem, known) or "; `curation-features batches list` shows all"
        raise InputError(f"unknown batch {batch_id!r} in {settings.data_path}{remedy}")


def _folders(settings: Settings) -> tuple[Path, Path]:
    return settings.data_path / "batches", settings.data_path / "manifests"


def _is_folder(path: Path) -> bool:
    with suppress(OSError, ValueError):
        return path.is_dir()
    return False


def _is_file(path: Path) -> bool:
    """Whether a path exists and is not a folder; a folder of photos often has the name of its batch."""
    with suppress(OSError, ValueError):  # a name that is too long; a NUL
        return path.exists() and not path.is_dir()
    return False
