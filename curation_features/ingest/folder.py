"""A folder of photos becomes a batch: ids, EXIF, reduced images, and the manifest that the pipeline waits for.

This does what the ingest and preprocess services do before the features service, for those who have only photos.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any

from PIL import Image

from curation_features.atomic_files import link_bytes, store_bytes, sweep, uri
from curation_features.clip.vocabulary import named_vocabulary
from curation_features.concurrency import bounded_map, worker_count
from curation_features.errors import InputError, ManifestError, PhotoError
from curation_features.ingest.discovery import scan
from curation_features.ingest.exif import read_exif
from curation_features.manifest import MAX_INGEST_MESSAGE, batch_from, read_manifest, to_json
from curation_features.photos.limits import SUFFIXES
from curation_features.photos.reader import RANKING_FOLDER, PhotoFile, PhotoReader, decode
from curation_features.settings import Settings, load_settings
from curation_features.storage.artifacts import ArtifactStore

log = logging.getLogger(__name__)

RANKING_SIDE = 2048
"""Longest side of a ranking image, px."""

STANDARD_SIDE = 1024
"""Longest side of a standardised image, which is the one that is analysed, px."""

_MAX_ID = 128  # characters


@dataclass(frozen=True, slots=True)
class Change:
    """What becomes of the photos of the batch that had the same id.

    Attributes:
        before: how many photos it had; 0: there was none.
        added: photos that it did not have.
        gone: photos that it had, and that are not in the new one. A photo is the same if its bytes are; one that could
            not be read, if its place is. So an edited photo is another one.
    """

    before: int
    added: int
    gone: int


@dataclass(frozen=True, slots=True)
class IngestResult:
    """A batch that was made out of photos.

    Attributes:
        manifest: as it was written.
        path: the manifest's file.
        rejected: files that cannot be read, with the reason. They are in the manifest too, with the reason as
            `ingest_error`, so that the pipeline reports them as failed and says why.
        change: against the batch of that id before, as the newest of its manifests and features says.
    """

    manifest: dict[str, Any]
    path: Path
    rejected: tuple[tuple[Path, str], ...]
    change: Change


def new_batch_id(now: datetime) -> str:
    """An id such as `batch_20251017_105804`."""
    return f"batch_{now:%Y%m%d_%H%M%S}"


def batch_id_of(paths: Sequence[Path]) -> str:
    """The id that a batch of these folders and files gets by default: the name of the folder that holds all of them.

    It is the same each time, so that photos are added to the batch. What an id may not hold becomes `-`: a folder
    `my photos` gives `my-photos`.
    """
    absolute = [Path(os.path.abspath(path)) for path in paths]  # noqa: PTH100 (a link keeps its own name)
    folder = os.path.commonpath([path if path.is_dir() else path.parent for path in absolute])
    name = Path(folder).name
    letters = "".join(c for c in unicodedata.normalize("NFKD", name) if not unicodedata.combining(c))
    legal = re.sub(r"\.+", ".", re.sub(r"[^A-Za-z0-9._-]+", "-", letters)).strip("._-")
    return legal[:_MAX_ID].rstrip("._-") or f"photos-{hashlib.sha256(os.fsencode(name)).hexdigest()[:8]}"


def find_photos(folder: Path, settings: Settings | None = None) -> list[Path]:
    """The photos under `folder`, sorted by path; what is passed over is logged (`discovery.scan` gives it as data).

    Args:
        settings: by default those of the current project. Its data folder is left out.

    Raises:
        InputError: there is no such folder, it cannot be listed, or there is no photo in it.
    """
    found = scan([folder], (settings or load_settings()).data_path)
    for line in found.told():
        log.warning("%s", line)
    return [*found.photos]


def ingest(
    photos: Sequence[Path],
    settings: Settings,
    *,
    batch_id: str,
    vocabulary: str | None = None,
    replace: bool = False,
    progress: Callable[[int], None] | None = None,
    comparing: AbstractContextManager[None] | None = None,
) -> IngestResult:
    """Reduce the photos, read their EXIF, and write the manifest `{data_dir}/batches/{batch_id}.json`.

    Each photo gets a ranking image and a standardised image under `{data_dir}/rankingInput/`, upright and without
    EXIF, never enlarged: one file under two names where the photo has no side over 1024 px. They are named by the
    digest of the original's bytes and left alone if they are there. Files with the same bytes share them, and share a
    `photo_id`. Memory does not grow with the number of photos.

    Args:
        photos: one artifact each, in this order. A symbolic link is followed only within the photos' own folders.
        batch_id: see `batch_id_of` and `new_batch_id`.
        vocabulary: name of the vocabulary that the manifest asks for; none: the project's.
        replace: whether a batch of that id may lose photos. Without it, all that it has must be here; to see that, the
            files are read twice.
        progress: called with 1 for each photo that is done.
        comparing: entered while photos are compared with those of the batch before.

    Raises:
        InputError: the batch would lose photos without `replace`. Nothing was written.
        ManifestError: an id or the name of a vocabulary that is not legal; an id that differs from a known one in case
            only.
        SettingsError: there is no such vocabulary, or it cannot be used.
        StoreError: an image or the manifest cannot be written.
    """
    head = {"batch_id": batch_id} if vocabulary is None else {"batch_id": batch_id, "vocabulary": vocabulary}
    batch_from({**head, "artifacts": []})  # before any work
    if vocabulary is not None:
        named_vocabulary(settings, vocabulary)
    store = ArtifactStore(settings.data_path)
    store.check_batch_id(batch_id)
    paths = [Path(os.path.abspath(photo)) for photo in photos]  # noqa: PTH100 (a link keeps its own name)
    reader = PhotoReader(settings.replace(photo_roots=tuple(sorted({str(path.parent) for path in paths}))))
    workers = worker_count(settings.workers)
    before = _artifacts_before(store, batch_id, replace)
    if before and not replace:
        with comparing or nullcontext():
            identify = partial(_identity, reader=reader, settings=settings)
            _check_consent(batch_id, before, [*bounded_map(identify, paths, workers=workers, ahead=2 * workers)])
    sweep(settings.data_path / "batches", settings.data_path / RANKING_FOLDER)
    artifacts: list[dict[str, Any]] = []
    rejected: list[tuple[Path, str]] = []
    rows = bounded_map(partial(_artifact, reader=reader, settings=settings), paths, workers=workers, ahead=2 * workers)
    for photo, (artifact, rejection) in zip(photos, rows, strict=True):
        artifacts.append(artifact)
        if rejection is not None:
            rejected.append((photo, rejection))
        if progress:
            progress(1)
    manifest = {**head, "artifacts": artifacts}
    path = settings.data_path / "batches" / f"{batch_id}.json"
    store_bytes(path, to_json(manifest), durable=True)
    change = _change(before, [(artifact["photo_id"], artifact["original_uri"]) for artifact in artifacts])
    return IngestResult(manifest, path, tuple(rejected), change)


# The batch before -----------------------------------------------------------------------------------------------------

_Identity = tuple[str, str]  # photo_id and original_uri


def _artifacts_before(store: ArtifactStore, batch_id: str, replace: bool) -> Sequence[Mapping[str, Any]]:
    """The artifacts of the batch that has this id; none where it is new."""
    path = store.newest_manifest(batch_id)
    if path is None:
        return ()
    try:
        artifacts: Sequence[Mapping[str, Any]] = read_manifest(path).document["artifacts"]
    except ManifestError as error:
        if replace:
            return ()
        raise InputError(
            f"batch {batch_id!r} is there, and its photos are not known ({path.parent}: {error}); "
            f"pass --replace to replace it, or another --batch-id"
        ) from error
    return artifacts


def _check_consent(batch_id: str, before: Sequence[Mapping[str, Any]], photos: Sequence[_Identity]) -> None:
    gone = _gone(before, photos)
    if gone:
        names = ", ".join(ascii(artifact.get("original_uri") or artifact["photo_id"])[:200] for artifact in gone[:3])
        photos_before = f"{len(before)} photo{'s' * (len(before) > 1)}"
        raise InputError(
            f"batch {batch_id!r} holds {photos_before}, {len(gone)} of them changed or not here "
            f"({names}{', ...' * (len(gone) > 3)}); pass --replace to replace it, or another --batch-id"
        )


def _change(before: Sequence[Mapping[str, Any]], photos: Sequence[_Identity]) -> Change:
    old_ids = {artifact["photo_id"] for artifact in before}
    old_uris = {artifact["original_uri"] for artifact in before if _is_unread(artifact)}
    added = sum(photo_id not in old_ids and uri not in old_uris for photo_id, uri in photos)
    return Change(len(before), added, len(_gone(before, photos)))


def _gone(before: Sequence[Mapping[str, Any]], photos: Sequence[_Identity]) -> list[Mapping[str, Any]]:
    ids, uris = {photo_id for photo_id, _ in photos}, {uri for _, uri in photos}
    left = (artifact for artifact in before if artifact["photo_id"] not in ids)
    return [artifact for artifact in left if not (_is_unread(artifact) and artifact["original_uri"] in uris)]


def _is_unread(artifact: Mapping[str, Any]) -> bool:
    return artifact.get("std_uri") is None and artifact.get("ranking_uri") is None


# Photos ---------------------------------------------------------------------------------------------------------------


def _identity(path: Path, reader: PhotoReader, settings: Settings) -> _Identity:
    """The `photo_id` and the `original_uri` that the artifact of a file gets."""
    original_uri = uri(path, settings.root)
    try:
        return reader.read(original_uri).sha256, original_uri
    except PhotoError:
        return _unread_id(original_uri), original_uri


def _unread_id(original_uri: str) -> str:
    return hashlib.sha256(original_uri.encode()).hexdigest()


def _artifact(path: Path, reader: PhotoReader, settings: Settings) -> tuple[dict[str, Any], str | None]:
    """The artifact of one file; with the reason, and with less in it, if the file cannot be read."""
    original_uri = uri(path, settings.root)
    file = None
    try:
        file = reader.read(original_uri)
        return _readable(file, original_uri, settings), None
    except PhotoError as error:
        message = str(error)
        if error.reason == "forbidden_path" and path.is_symlink():
            message = "it is a link out of the photos' folders; ingest the folder that it leads to"
        artifact = {
            "photo_id": file.sha256 if file else _unread_id(original_uri),
            "original_uri": original_uri,
            "exif": read_exif(b""),
            "format": path.suffix.lower(),
            "ingest_error": {"reason": error.reason, "message": message[:MAX_INGEST_MESSAGE]},
        }
        return artifact, f"{error.reason}: {message}"


def _readable(file: PhotoFile, original_uri: str, settings: Settings) -> dict[str, Any]:
    photo = decode(file, max_pixels=settings.max_pixels, max_seconds=settings.max_decode_seconds)
    image = Image.fromarray(photo.rgb)
    folder = settings.data_path / RANKING_FOLDER
    ranking, standard = folder / f"{file.sha256}.jpg", folder / f"{file.sha256}_1024.jpg"
    _reduce(image, RANKING_SIDE, ranking)
    if max(image.size) <= STANDARD_SIDE and not _is_there(standard):  # the two are the same
        link_bytes(ranking, standard)
    return {
        "photo_id": file.sha256,
        "original_uri": original_uri,
        "ranking_uri": uri(ranking, settings.root),
        "std_uri": uri(standard, settings.root),
        "exif": read_exif(file.data),
        "format": SUFFIXES[photo.info.format][0],
        "processing_metadata": {
            "original_size": [photo.info.width, photo.info.height],
            "standardized_size": _reduce(image, STANDARD_SIDE, standard),
            "processing_method": "quality_preserved",
        },
    }


def _reduce(image: Image.Image, side: int, path: Path) -> list[int]:
    """Write `image` with its long side reduced to at most `side` px, unless that is done; returns [width, height]."""
    scale = min(1.0, side / max(image.size))
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    if _is_there(path):
        with suppress(OSError):  # of another user
            os.utime(path)  # until the manifest is written nothing else shows that it is in use
    else:
        reduced = image if size == image.size else image.resize(size, Image.Resampling.LANCZOS, reducing_gap=3.0)
        buffer = BytesIO()
        reduced.save(buffer, "JPEG", quality=95, subsampling="4:4:4")
        store_bytes(path, buffer.getvalue(), durable=False)
    return list(size)


def _is_there(path: Path) -> bool:
    return path.is_file() and path.stat().st_size > 0
