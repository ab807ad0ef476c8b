"""A folder of photos becomes a batch: ids, EXIF, reduced images, and the manifest that the pipeline waits for.

This does what the ingest and preprocess services do before the features service, for those who have only photos.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from curation_features.clip.vocabulary import named_vocabulary
from curation_features.confinement import SUFFIXES
from curation_features.errors import InputError, PhotoError
from curation_features.exif import read_exif
from curation_features.files import store_bytes, sweep, uri
from curation_features.manifest import batch_from, to_json
from curation_features.photos import RANKING_FOLDER, PhotoFile, PhotoReader, decode
from curation_features.stages.streaming import bounded_map, worker_count

if TYPE_CHECKING:
    from curation_features.settings import Settings

RANKING_SIDE = 2048
"""Longest side of a ranking image, px."""

STANDARD_SIDE = 1024
"""Longest side of a standardised image, which is the one that is analysed, px."""


@dataclass(frozen=True, slots=True)
class IngestResult:
    """A batch that was made out of photos.

    Attributes:
        manifest: as it was written.
        path: the manifest's file, in the folder that the sensor watches.
        rejected: files that cannot be read, with the reason. They are in the manifest too, so that the pipeline
            reports them as failed.
    """

    manifest: dict[str, Any]
    path: Path
    rejected: tuple[tuple[Path, str], ...]


def new_batch_id(now: datetime) -> str:
    """An id such as `batch_20251017_105804`."""
    return f"batch_{now:%Y%m%d_%H%M%S}"


def find_photos(folder: Path) -> list[Path]:
    """The files under `folder` that are called like photos, sorted by path; hidden files and folders are left out.

    Raises:
        InputError: there is no such folder, it cannot be listed, or there is no photo in it.
    """
    suffixes = {suffix for names in SUFFIXES.values() for suffix in names}
    photos: list[Path] = []

    def refuse(error: OSError) -> None:
        raise InputError(f"{error.filename}: cannot be listed: {error.strerror}") from error

    for parent, folders, names in os.walk(folder, onerror=refuse):
        folders[:] = [name for name in folders if not name.startswith(".")]
        found = (Path(parent, name) for name in names if not name.startswith("."))
        photos.extend(path for path in found if path.suffix.lower() in suffixes)
    if not photos:
        raise InputError(f"{folder}: no photos here; files are known by their suffix ({', '.join(sorted(suffixes))})")
    return sorted(photos)


def ingest(
    photos: Sequence[Path],
    settings: Settings,
    *,
    batch_id: str,
    vocabulary: str | None = None,
    progress: Callable[[int], None] | None = None,
) -> IngestResult:
    """Reduce the photos, read their EXIF, and write the manifest `{data_dir}/batches/{batch_id}.json`.

    Each photo gets a ranking image and a standardised image under `{data_dir}/rankingInput/`, upright and without
    EXIF, never enlarged. They are named by the digest of the original's bytes and left alone if they are there. Files
    with the same bytes share them, and share a `photo_id`. Memory does not grow with the number of photos.

    Args:
        photos: one artifact each, in this order. A symbolic link is followed only within the photos' own folders.
        batch_id: see `new_batch_id`.
        vocabulary: name of the vocabulary that the manifest asks for; none: the project's.
        progress: called with 1 for each photo that is done.

    Raises:
        ManifestError: a `batch_id` or the name of a vocabulary that is not legal.
        SettingsError: there is no such vocabulary, or it cannot be used.
        StoreError: an image or the manifest cannot be written.
    """
    head = {"batch_id": batch_id} if vocabulary is None else {"batch_id": batch_id, "vocabulary": vocabulary}
    batch_from({**head, "artifacts": []})  # before any work
    if vocabulary is not None:
        named_vocabulary(settings, vocabulary)
    sweep(settings.data_path / "batches", settings.data_path / RANKING_FOLDER)
    paths = [Path(os.path.abspath(photo)) for photo in photos]  # noqa: PTH100 (a link keeps its own name)
    reader = PhotoReader(settings.replace(photo_roots=tuple(sorted({str(path.parent) for path in paths}))))
    workers = worker_count(settings.workers)
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
    return IngestResult(manifest, path, tuple(rejected))


def _artifact(path: Path, reader: PhotoReader, settings: Settings) -> tuple[dict[str, Any], str | None]:
    """The artifact of one file; with the reason, and with less in it, if the file cannot be read."""
    original_uri = uri(path, settings.root)
    file = None
    try:
        file = reader.read(str(path))
        return _readable(file, original_uri, settings), None
    except PhotoError as error:
        unread = hashlib.sha256(original_uri.encode()).hexdigest()
        artifact = {
            "photo_id": file.sha256 if file else unread,
            "original_uri": original_uri,
            "exif": read_exif(b""),
            "format": path.suffix.lower(),
        }
        return artifact, f"{error.reason}: {error}"


def _readable(file: PhotoFile, original_uri: str, settings: Settings) -> dict[str, Any]:
    photo = decode(file, max_pixels=settings.max_pixels, max_seconds=settings.max_decode_seconds)
    image = Image.fromarray(photo.rgb)
    folder = settings.data_path / RANKING_FOLDER
    ranking, standard = folder / f"{file.sha256}.jpg", folder / f"{file.sha256}_1024.jpg"
    _reduce(image, RANKING_SIDE, ranking)
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
    if path.is_file() and path.stat().st_size:
        with suppress(OSError):  # of another user
            os.utime(path)  # until the manifest is written nothing else shows that it is in use
    else:
        reduced = image if size == image.size else image.resize(size, Image.Resampling.LANCZOS, reducing_gap=3.0)
        buffer = BytesIO()
        reduced.save(buffer, "JPEG", quality=95, subsampling="4:4:4")
        store_bytes(path, buffer.getvalue(), durable=False)
    return list(size)
