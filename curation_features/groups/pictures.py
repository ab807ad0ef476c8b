"""Pictures: the best copy of each photo, with its other copies and its raw files."""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from curation_features.groups.moments import file_number, folder_of, stem_of
from curation_features.groups.photos import Exposure, Kind, Moment, Photo
from curation_features.photos.formats import RAW_FORMATS

RAW_GAP = 2.0
"""Largest difference in seconds of a raw file and its rendered file, as in immich's rule for such pairs."""

APART = 2.0
"""A frame before or after a set is further away than its frames are from each other, by this factor."""

EQUAL_EV = 0.1
"""Difference of a setting in EV up to which two frames have one exposure."""

_SHOT = re.compile(r"\.raw-\d+(\.mp)?\.(cover|original)$")  # Pixel: PXL_1.RAW-01.COVER.jpg, PXL_1.RAW-02.ORIGINAL.dng


@dataclass(frozen=True, slots=True)
class Picture:
    """One picture: all are indices of photos.

    Attributes:
        best: the copy to keep.
        copies: worse copies, best first.
        raws: raw files of the same shot, which are kept with `best`.
    """

    best: int
    copies: tuple[int, ...] = ()
    raws: tuple[int, ...] = ()

    @property
    def photos(self) -> tuple[int, ...]:
        """All photos of the picture."""
        return (self.best, *self.copies, *self.raws)


@dataclass(frozen=True, slots=True)
class Frame:
    """A picture with what its copies know of the shot.

    Attributes:
        lane: what has one clock: a camera, or the folder of photos that name none.
        number: name of a series of files, and number in it.
    """

    picture: Picture
    lane: tuple[str, str]
    moment: Moment
    exposure: Exposure
    number: tuple[str, int] | None
    burst: str | None


@dataclass(frozen=True, slots=True)
class Found:
    """A group before its photos are ranked.

    Attributes:
        what: see `Group.what`.
        similarity: least similarity of two pictures.
    """

    kind: Kind
    what: str
    pictures: tuple[Picture, ...]
    similarity: float


def is_raw(photo: Photo) -> bool:
    """Return whether a photo is a camera's raw file."""
    return photo.format in RAW_FORMATS


def shot_of(photo: Photo) -> tuple[str, str]:
    """Return what the files of one shot share: folder, and name without suffix and case."""
    stem = _SHOT.sub("", stem_of(photo.path).casefold())
    inner, dot, suffix = stem.rpartition(".")
    is_rendered_raw = dot and any(f".{suffix}" in suffixes for suffixes in RAW_FORMATS.values())  # IMG_1.CR3.jpg
    return folder_of(photo.path), inner if is_rendered_raw else stem


def pair_raws(photos: Sequence[Photo]) -> dict[int, int]:
    """Return raw file -> rendered file of the same shot: same name, folder, camera and moment.

    A camera or moment that is unknown may be the same. Of several rendered files JPEG precedes, then the first key.
    """
    rendered: defaultdict[tuple[str, str], list[int]] = defaultdict(list)
    for index, photo in enumerate(photos):
        if not is_raw(photo):
            rendered[shot_of(photo)].append(index)
    pairs: dict[int, int] = {}
    for index, photo in enumerate(photos):
        if is_raw(photo):
            owners = [other for other in rendered.get(shot_of(photo), ()) if _is_one_shot(photo, photos[other])]
            if owners:
                pairs[index] = min(owners, key=lambda i: (photos[i].format != "JPEG", photos[i].key))
    return pairs


def _is_one_shot(raw: Photo, other: Photo) -> bool:
    if raw.camera and other.camera and raw.camera != other.camera:
        return False
    return not (raw.moment and other.moment) or abs(raw.moment.seconds - other.moment.seconds) <= RAW_GAP


def lane_of(photo: Photo) -> tuple[str, str]:
    """Return what has the clock of a photo: its camera, or the folder of photos that name none."""
    return ("camera", photo.camera) if photo.camera else ("folder", folder_of(photo.path))


def to_frame(picture: Picture, photos: Sequence[Photo]) -> Frame | None:
    """Return the frame of a picture; None if no copy knows its moment to the second.

    A copy that lost its EXIF takes moment, exposure and camera from the first copy that has them.
    """
    for index in picture.photos:
        photo = photos[index]
        if photo.moment is not None and photo.moment.resolution <= 1:
            number = file_number(photo.path)
            return Frame(picture, lane_of(photo), photo.moment, photo.exposure, number, photo.burst)
    return None


def in_time(frames: Iterable[Frame], photos: Sequence[Photo]) -> list[Frame]:
    """Return frames in order of time; within a second by number, and then by key."""
    return sorted(frames, key=lambda f: (f.moment.seconds, f.number or ("", 0), photos[f.picture.best].key))


def gap(earlier: Frame, later: Frame) -> float:
    """Return the seconds between two exposures, at least 0. Cameras write the begin or the end of an exposure."""
    longest = max(earlier.exposure.seconds or 0.0, later.exposure.seconds or 0.0)
    return max(0.0, later.moment.seconds - earlier.moment.seconds - longest)


def is_apart(row: Sequence[Frame], begin: int, end: int) -> bool:
    """Return whether no frame precedes or follows a part of a row at once, as in a burst."""
    inner = max(gap(one, other) for one, other in pairwise(row[begin:end]))
    limit = APART * inner + max(frame.moment.resolution for frame in row[begin:end])
    before = gap(row[begin - 1], row[begin]) if begin else math.inf
    after = gap(row[end - 1], row[end]) if end < len(row) else math.inf
    return min(before, after) > limit


def is_uniform(one: Frame, other: Frame) -> bool:
    """Return whether two frames have one exposure, as far as the camera says it; each setting is the same."""
    pairs = (
        (one.exposure.seconds, other.exposure.seconds),
        (one.exposure.aperture, other.exposure.aperture),
        (one.exposure.iso, other.exposure.iso),
    )
    return all(a == b or (a and b and abs(math.log2(a / b)) <= EQUAL_EV) for a, b in pairs)


def split_by_gap(frames: Sequence[Frame], limit: float) -> list[list[Frame]]:
    """Split frames, which are in order of time, at gaps of more than `limit` seconds."""
    runs: list[list[Frame]] = []
    for frame in frames:
        if runs and gap(runs[-1][-1], frame) <= limit:
            runs[-1].append(frame)
        else:
            runs.append([frame])
    return runs
