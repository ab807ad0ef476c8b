"""Groups of the photos of a batch: what is compared of them, and `group` of their features.

A photo is a file: its `photo_id`, its bytes and its location. Files of equal bytes in two places are two photos, copies
of each other, also if they share a `photo_id`, as those of `ingest` do. One file in two batches is one photo.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np

from curation_features.fingerprints.spool import FingerprintSpool
from curation_features.groups.digests import digest_of
from curation_features.groups.moments import burst_of, camera_of, exposure_of, moment_of
from curation_features.groups.photos import Group, Photo, PhotoSet
from curation_features.photos.formats import SUFFIXES
from curation_features.photos.locations import Locations
from curation_features.pipeline.signals_of_photo import original_size
from curation_features.schema import PhotoInfo, PhotoRecord, round_score

if TYPE_CHECKING:
    from numpy.typing import NDArray

Grouped = dict[str, Any]
"""`features.group` of a photo: id, kind, what, rank, size, similarity, copy_of, copy_of_path, reason."""

Kept = Callable[[str], "Sequence[Grouped | None] | None"]
"""Returns the groups that were made of data with a digest, one per artifact; None: they are not known."""


@dataclass(frozen=True, slots=True)
class BatchGroups:
    """The groups of a batch.

    Attributes:
        by_place: `group` of each artifact that is in a group.
        digest: of all that they depend on.
    """

    by_place: Mapping[int, Grouped]
    digest: str


class Compared:
    """The data by which the distinct photos of a batch are compared, in their order.

    A context manager. Fingerprints may be in a temporary file; vectors are kept in half precision.
    """

    def __init__(self) -> None:
        self.fingerprints = FingerprintSpool()
        self._vectors: list[NDArray[np.float16] | None] = []

    def __enter__(self) -> Compared:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.fingerprints.__exit__(kind, error, trace)

    def add(self, record: PhotoRecord) -> None:
        """Add the fingerprint and the vector of the next photo."""
        self.fingerprints.add(record.fingerprint.data if record.fingerprint else None)
        self.add_vector(record)

    def add_vector(self, record: PhotoRecord) -> None:
        """Add the vector of the next photo, if it has one."""
        vector = record.embedding.vector if record.embedding else None
        self._vectors.append(None if vector is None else vector.astype(np.float16))

    def of(self, numbers: Sequence[int], photos: Sequence[Photo]) -> PhotoSet:
        """Return photos as a set to be grouped; the data of each has one of these numbers."""
        hashes, has_hash = self.fingerprints.hashes()
        chosen = list(numbers)
        return PhotoSet(
            photos,
            hashes[chosen],
            has_hash[chosen],
            stacked([self._vectors[number] for number in chosen]),
            lambda index: self.fingerprints.read(chosen[index]),
        )


def stacked(vectors: Sequence[NDArray[np.float16] | None]) -> NDArray[np.float16] | None:
    """Return vectors as rows of an array, zero for a photo without one; None if no photo has one.

    A vector of another length than most is of another model, and counts as none.
    """
    lengths = Counter(len(vector) for vector in vectors if vector is not None)
    if not lengths:
        return None
    length = max(lengths, key=lambda one: (lengths[one], one))
    found = np.zeros((len(vectors), length), np.float16)
    for row, vector in zip(found, vectors, strict=True):
        if vector is not None and len(vector) == length:
            row[:] = vector
    return found


def key_of(photo_id: str, sha256: str, location: str) -> str:
    """Return the key of a photo, the same in every batch; other bytes or another place are another photo."""
    return hashlib.sha256(f"{photo_id}\n{sha256}\n{location}".encode("utf-8", "surrogatepass")).hexdigest()[:32]


def photo_of(
    record: PhotoRecord, artifact: Mapping[str, Any], signals: Mapping[str, Any], locations: Locations
) -> Photo | None:
    """Return a photo to be grouped; None if it could not be read.

    Args:
        artifact: of the photo, as it came in.
        signals: those of its features.
        locations: of files.
    """
    if record.info is None:
        return None
    exif = artifact.get("exif")
    exif = exif if isinstance(exif, Mapping) else {}
    width, height = _original_size(record.info, artifact)
    path = str(artifact.get("original_uri") or record.image_uri)
    scores = {name: measurement.score for name, measurement in record.measurements.items()}
    raw = {name: value for measurement in record.measurements.values() for name, value in measurement.raw.items()}
    return Photo(
        key=key_of(record.photo_id, record.info.sha256, locations.of(path)),
        sha256=record.info.sha256,
        path=path,
        width=width,
        height=height,
        format=_FORMATS.get(str(artifact.get("format")).lower(), record.info.format),
        moment=moment_of(exif),
        camera=camera_of(exif),
        exposure=exposure_of(exif),
        measures={**raw, **scores, **signals},
        burst=burst_of(exif),
    )


def _original_size(info: PhotoInfo, artifact: Mapping[str, Any]) -> tuple[int, int]:
    """Return the upright size of the original: the manifest's, turned like the image that was measured."""
    given = original_size(artifact)
    if given is None:
        return info.width, info.height
    is_turned = (given[0] > given[1]) != (info.width > info.height)
    return given[::-1] if is_turned else given


_FORMATS = {suffix: name for name, suffixes in SUFFIXES.items() for suffix in suffixes}


def group_batch(
    records: Sequence[PhotoRecord],
    artifacts: Sequence[Mapping[str, Any]],
    signals: Sequence[Mapping[str, Any]],
    numbers: Sequence[int],
    compared: Compared,
    locations: Locations,
    rules: object = None,
    kept: Kept = lambda digest: None,
) -> BatchGroups:
    """Find the groups of the photos of a batch. Artifacts of one photo share its group.

    Args:
        records: one per artifact.
        artifacts: of the batch.
        signals: those of their features.
        numbers: place of each one's data in `compared`.
        compared: data of the photos.
        locations: of files.
        rules: versions of the data and of the grouping.
        kept: finds groups that were made before.
    """
    places: dict[str, list[int]] = {}
    photos: dict[str, Photo] = {}
    for place, described in enumerate(map(partial(photo_of, locations=locations), records, artifacts, signals)):
        if described is not None:
            photos.setdefault(described.key, described)
            places.setdefault(described.key, []).append(place)
    if len(photos) < 2:
        return BatchGroups({}, "")
    found = compared.of([numbers[of[0]] for of in places.values()], list(photos.values()))
    is_text = all(map(_is_text, (photo.path for photo in found.photos)))
    digest = digest_of(found, (rules, list(places.values()))) if is_text else ""
    before = kept(digest) if digest else None
    if before is not None:
        return BatchGroups({place: group for place, group in enumerate(before) if group is not None}, digest)
    from curation_features.groups.grouping import group_photos

    names = [records[of[0]].photo_id for of in places.values()]
    of_photo = list(places.values())
    groups = entries(group_photos(found), names, found.photos)
    return BatchGroups({place: group for index, group in groups for place in of_photo[index]}, digest)


def _is_text(path: str) -> bool:
    """Return whether a table can hold a path: lone surrogates would become question marks."""
    return not any("\ud800" <= character <= "\udfff" for character in path)


def entries(
    groups: Iterable[Group], photo_ids: Sequence[str], photos: Sequence[Photo]
) -> Iterable[tuple[int, Grouped]]:
    """Yield the index of each photo of a group with its `group`.

    Args:
        photo_ids: of the photos that were grouped.
        photos: that were grouped.
    """
    for group in groups:
        for member in group.members:
            best = member.copy_of
            yield (
                member.index,
                {
                    "id": group.id,
                    "kind": group.kind,
                    "what": group.what,
                    "rank": member.rank,
                    "size": len(group.members),
                    "similarity": round_score(group.similarity),
                    "copy_of": None if best is None else photo_ids[best],
                    "copy_of_path": None if best is None else photos[best].path,
                    "reason": member.reason,
                },
            )
