"""Ingest of photos as a batch: ids, EXIF, reduced images, companions, manifest.

It replaces the ingest and preprocess services for users who have only photos.
"""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Callable, Collection, Container, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

from curation_features.atomic_files import store_bytes, sweep, uri
from curation_features.clip.vocabulary import named_vocabulary
from curation_features.concurrency import bounded_map, worker_count
from curation_features.errors import InputError, ManifestError, PhotoError
from curation_features.ingest.batch_ids import legal_id
from curation_features.ingest.discovery import find_companions, scan
from curation_features.ingest.images import Images
from curation_features.ingest.patterns import fixed_part
from curation_features.manifest import MAX_INGEST_MESSAGE, batch_from, read_manifest, to_json
from curation_features.photos.exif.fields import read_exif
from curation_features.photos.reader import RANKING_FOLDER, PhotoReader
from curation_features.settings import Settings, load_settings
from curation_features.storage.artifacts import ArtifactStore

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Change:
    """Difference to the previous batch with the same id.

    A photo is identified by its bytes, so an edited photo counts as another one. An unreadable photo is identified by
    its path. A raw file that was a photo, and is a companion now that its JPEG exists, is not gone. Companions alone
    change nothing.

    Attributes:
        before: number of photos of the previous batch; 0 if there is none.
        added: number of photos only in the new batch.
        gone: number of photos only in the previous batch.
    """

    before: int
    added: int
    gone: int


@dataclass(frozen=True, slots=True)
class IngestResult:
    """A batch created from photos.

    Attributes:
        manifest: the manifest as written.
        path: the file of the manifest.
        rejected: unreadable files with the reason. They are also in the manifest, with the reason as `ingest_error`,
            so that the pipeline reports them as failed.
        change: difference to the previous batch, as in the newest of its manifests and features.
        excluded: photos whose id was to be excluded. If all are, the manifest has no photo, and is not written.
    """

    manifest: dict[str, Any]
    path: Path
    rejected: tuple[tuple[Path, str], ...]
    change: Change
    excluded: tuple[Path, ...] = ()


def new_batch_id(now: datetime) -> str:
    """Return an id such as `batch_20251017_105804`."""
    return f"batch_{now:%Y%m%d_%H%M%S}"


def batch_id_of(paths: Sequence[Path]) -> str:
    """Return the default batch id: the name of the common folder.

    The id is the same each time, so that photos are added to the batch. Characters that are not allowed in an id become
    `-`: the folder `my photos` gives `my-photos`. The folder of a pattern is the one before its first wildcard.
    """
    absolute = [Path(os.path.abspath(fixed_part(path))) for path in paths]  # noqa: PTH100 (a link keeps its own name)
    folder = os.path.commonpath([path if path.is_dir() else path.parent for path in absolute])
    return legal_id(Path(folder).name)


def find_photos(folder: Path, settings: Settings | None = None) -> list[Path]:
    """Return the photos under `folder`, sorted by path. Skipped files are logged (`discovery.scan` returns them).

    Args:
        settings: by default those of the current project. Its data folder is skipped.

    Raises:
        InputError: the folder does not exist, cannot be listed, or has no photos.
    """
    found = scan([folder], (settings or load_settings()).data_path)
    for line in found.messages():
        log.warning("%s", line)
    return [*found.photos]


def ingest(
    photos: Sequence[Path],
    settings: Settings,
    *,
    batch_id: str,
    vocabulary: str | None = None,
    replace: bool = False,
    exclude: Container[str] = (),
    progress: Callable[[int], None] | None = None,
    comparing: AbstractContextManager[None] | None = None,
) -> IngestResult:
    """Reduce the photos, read their EXIF, and write the manifest `{data_dir}/batches/{batch_id}.json`.

    The artifact of a photo with companions (see `companions`) lists them, sorted: `"companions": [{"kind": "raw",
    "sidecar" or "video", "uri": ...}]`. They are searched in the photo's folder, and never opened.

    Each photo gets a ranking image and a standardised image in `{data_dir}/rankingInput/`, upright, without EXIF and
    never enlarged; both names link to one file if no side exceeds 1024 px. The file name is the SHA-256 of the
    original; an existing file is kept. Files with equal bytes share these images and the `photo_id`. Memory does not
    grow with the number of photos.

    Args:
        photos: one artifact each, in this order. A symbolic link is followed only within the photos' folders.
        batch_id: see `batch_id_of` and `new_batch_id`.
        vocabulary: name of the vocabulary for the manifest; by default the project's.
        replace: allow an existing batch to lose photos. Without it, the files are read twice to check that none is
            lost.
        exclude: ids of photos that are skipped, before they are decoded; asked for by several threads.
        progress: called with 1 for each photo done.
        comparing: context of the comparison with the previous batch.

    Raises:
        InputError: the batch would lose photos without `replace`. Nothing was written.
        ManifestError: the id or the vocabulary's name is invalid, or the id differs from a known one only in case.
        SettingsError: the vocabulary does not exist or is invalid.
        StoreError: an image or the manifest cannot be written.
    """
    head = {"batch_id": batch_id} if vocabulary is None else {"batch_id": batch_id, "vocabulary": vocabulary}
    batch_from({**head, "artifacts": []})  # checks the id and the name
    if vocabulary is not None:
        named_vocabulary(settings, vocabulary)
    store = ArtifactStore(settings.data_path)
    store.check_batch_id(batch_id)
    paths = [Path(os.path.abspath(photo)) for photo in photos]  # noqa: PTH100 (a link keeps its own name)
    reader = PhotoReader(settings.replace(photo_roots=tuple(sorted({str(path.parent) for path in paths}))))
    workers = worker_count(settings.workers)
    companions = {path: _describe(found, settings) for path, found in find_companions(map(str, paths)).items()}
    companion_uris = {companion["uri"] for found in companions.values() for companion in found}
    before = _read_previous(store, batch_id, replace)
    images = Images(settings)
    known: list[_Artifact | None] = [None] * len(paths)
    if before and not replace:
        with comparing or nullcontext():
            look_up = partial(_look_up, reader=reader, images=images, settings=settings)
            looked_up = [*bounded_map(look_up, paths, workers=workers, ahead=2 * workers)]
            _check_replacement(batch_id, before, [identity for identity, _ in looked_up], companion_uris)
            known = [artifact for _, artifact in looked_up]
    sweep(settings.data_path / "batches", settings.data_path / RANKING_FOLDER)
    artifacts: list[dict[str, Any]] = []
    rejected: list[tuple[Path, str]] = []
    excluded: list[Path] = []
    rows = bounded_map(
        partial(_ingest_photo, reader=reader, images=images, settings=settings, exclude=exclude),
        zip(paths, known, strict=True),
        workers=workers,
        ahead=2 * workers,
    )
    for photo, path, (artifact, rejection) in zip(photos, paths, rows, strict=True):
        found = companions.get(str(path))
        if artifact is None:
            excluded.append(photo)
        else:
            artifacts.append({**artifact, "companions": found} if found else artifact)
        if rejection is not None:
            rejected.append((photo, rejection))
        if progress:
            progress(1)
    manifest = {**head, "artifacts": artifacts}
    file = settings.data_path / "batches" / f"{batch_id}.json"
    if artifacts or not excluded:
        store_bytes(file, to_json(manifest), durable=True)
    identities = [(artifact["photo_id"], artifact["original_uri"]) for artifact in artifacts]
    change = _compare(before, identities, companion_uris)
    return IngestResult(manifest, file, tuple(rejected), change, tuple(excluded))


# The previous batch ---------------------------------------------------------------------------------------------------

_Identity = tuple[str, str]  # photo_id and original_uri
_Artifact = dict[str, Any]


def _read_previous(store: ArtifactStore, batch_id: str, replace: bool) -> Sequence[Mapping[str, Any]]:
    """Return the artifacts of the existing batch with this id. Empty if the id is new."""
    path = store.newest_manifest(batch_id)
    if path is None:
        return ()
    try:
        artifacts: Sequence[Mapping[str, Any]] = read_manifest(path).document["artifacts"]
    except ManifestError as error:
        if replace:
            return ()
        raise InputError(
            f"batch {batch_id!r} exists, but its photos cannot be read ({path.parent}: {error}); "
            f"pass --replace to replace it, or another --batch-id"
        ) from error
    return artifacts


def _check_replacement(
    batch_id: str,
    before: Sequence[Mapping[str, Any]],
    photos: Sequence[_Identity],
    companion_uris: Collection[str],
) -> None:
    gone = _find_gone(before, photos, companion_uris)
    if gone:
        names = ", ".join(ascii(artifact.get("original_uri") or artifact["photo_id"])[:200] for artifact in gone[:3])
        count = f"{len(before)} photo{'s' * (len(before) > 1)}"
        raise InputError(
            f"batch {batch_id!r} has {count}, {len(gone)} of them changed or missing here "
            f"({names}{', ...' * (len(gone) > 3)}); pass --replace to replace it, or another --batch-id"
        )


def _compare(
    before: Sequence[Mapping[str, Any]], photos: Sequence[_Identity], companion_uris: Collection[str]
) -> Change:
    old_ids = {artifact["photo_id"] for artifact in before}
    old_uris = {artifact["original_uri"] for artifact in before if _is_unread(artifact)}
    added = sum(photo_id not in old_ids and uri not in old_uris for photo_id, uri in photos)
    return Change(len(before), added, len(_find_gone(before, photos, companion_uris)))


def _find_gone(
    before: Sequence[Mapping[str, Any]], photos: Sequence[_Identity], companion_uris: Collection[str]
) -> list[Mapping[str, Any]]:
    """Return the artifacts that are neither photos nor companions now."""
    ids, uris = {photo_id for photo_id, _ in photos}, {uri for _, uri in photos}
    missing = (artifact for artifact in before if artifact["photo_id"] not in ids)
    kept = (artifact for artifact in missing if artifact.get("original_uri") not in companion_uris)
    return [artifact for artifact in kept if not (_is_unread(artifact) and artifact["original_uri"] in uris)]


def _is_unread(artifact: Mapping[str, Any]) -> bool:
    return artifact.get("std_uri") is None and artifact.get("ranking_uri") is None


# Companions -----------------------------------------------------------------------------------------------------------


def _describe(companions: Sequence[tuple[str, str]], settings: Settings) -> list[dict[str, str]]:
    """Return the companions of a photo as in its artifact."""
    return [
        {"kind": kind, "uri": found} for kind, found in sorted((k, uri(Path(p), settings.root)) for k, p in companions)
    ]


# Photos ---------------------------------------------------------------------------------------------------------------


def _look_up(path: Path, reader: PhotoReader, images: Images, settings: Settings) -> tuple[_Identity, _Artifact | None]:
    """Return the `photo_id` and the `original_uri` of a file, and its artifact if it has been ingested before."""
    original_uri = uri(path, settings.root)
    try:
        file = reader.read(original_uri)
    except PhotoError:
        return (_hash_uri(original_uri), original_uri), None
    fields = images.known_fields(file)
    identity = {"photo_id": file.sha256, "original_uri": original_uri}
    return (file.sha256, original_uri), None if fields is None else {**identity, **fields}


def _hash_uri(original_uri: str) -> str:
    return hashlib.sha256(original_uri.encode()).hexdigest()


def _ingest_photo(
    photo: tuple[Path, _Artifact | None],
    reader: PhotoReader,
    images: Images,
    settings: Settings,
    exclude: Container[str],
) -> tuple[_Artifact | None, str | None]:
    """Return the artifact of a file, None if it is excluded, and the reason of a failure.

    Args:
        photo: the file, and its artifact if `_look_up` has found it.
    """
    path, known = photo
    if known is not None:
        return (None if known["photo_id"] in exclude else known), None
    original_uri = uri(path, settings.root)
    file = None
    try:
        file = reader.read(original_uri)
        if file.sha256 in exclude:
            return None, None
        return {"photo_id": file.sha256, "original_uri": original_uri, **images.fields(file)}, None
    except PhotoError as error:
        message = str(error)
        if error.reason == "forbidden_path" and path.is_symlink():
            message = "it is a link to a file outside the photos' folders; ingest the folder of that file"
        artifact = {
            "photo_id": file.sha256 if file else _hash_uri(original_uri),
            "original_uri": original_uri,
            "exif": read_exif(b""),
            "format": path.suffix.lower(),
            "ingest_error": {"reason": error.reason, "message": message[:MAX_INGEST_MESSAGE]},
        }
        return artifact, f"{error.reason}: {message}"
