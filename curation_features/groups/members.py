"""Photos of a group with their ranks and reasons."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from itertools import pairwise

from curation_features.groups.best import NO_WINNER, Ranked, rank_frames
from curation_features.groups.keeper import rank_copies
from curation_features.groups.look import Look
from curation_features.groups.photos import Group, Member, Photo
from curation_features.groups.pictures import Found, Picture
from curation_features.groups.stacks import is_needed

RAW_AND_RENDERED = "raw and rendered"
_OF_SHOT = "raw file of the same shot"

_OTHER_VIEWS = f"{NO_WINNER}: not of one view"


def to_group(found: Found, photos: Sequence[Photo], look: Look) -> Group:
    """Rank the photos of a group: worse copies of a picture follow all pictures."""
    members = [member for members in _members(found, photos, look) for member in members]
    members.sort(key=lambda member: (member.rank, photos[member.index].key))
    least = min(photos[member.index].key for member in members)
    return Group(group_id(least), found.kind, found.what, members, found.similarity)


def group_id(least_key: str) -> str:
    """Return the id of a group whose least key is given: a photo is in one group, so that no two share an id.

    A photo that is added to a group or removed from it changes the id only if its key is the least.
    """
    return hashlib.sha256(least_key.encode()).hexdigest()[:20]


def _members(found: Found, photos: Sequence[Photo], look: Look) -> Iterator[list[Member]]:
    frames = [photos[picture.best] for picture in found.pictures]
    if found.kind == "burst":
        ranks = [(ranked.rank, ranked.reason) for ranked in _ranked(found, frames, look)]
        last = len(frames) + 1
    else:
        ranks, last = [(1, _reason(found))] * len(frames), 2
    for picture, (rank, reason) in zip(found.pictures, ranks, strict=True):
        copies = rank_copies((picture.best, *picture.copies), photos, look) if picture.copies else []
        is_copies = found.kind == "copy"
        reason = copies[0][1].reason if is_copies else reason
        yield [Member(picture.best, rank, reason)]
        yield [
            Member(index, ranked.rank, ranked.reason, picture.best)
            if is_copies
            else Member(index, last, f"copy: {ranked.reason}", picture.best)
            for index, ranked in copies[1:]
        ]
        yield _raws(picture, photos, rank, last)


def _ranked(found: Found, frames: Sequence[Photo], look: Look) -> list[Ranked]:
    """Rank the frames of a burst. Those that are sharp in different places may be a focus stack: none is worse."""
    indices = [picture.best for picture in found.pictures]
    if any(look.shows_another_view(*pair) for pair in pairwise(indices)):
        return [Ranked(1, _OTHER_VIEWS)] * len(frames)
    return rank_frames(frames, lambda sharpest, other: is_needed(indices[sharpest], indices[other], look))


def _reason(found: Found) -> str:
    if found.what == RAW_AND_RENDERED:
        return "kept with its raw file"
    return f"frame of a {found.what}"


def _raws(picture: Picture, photos: Sequence[Photo], rank: int, last: int) -> list[Member]:
    """Return the raw files of a picture: each kept with it, but for equal bytes."""
    kept: dict[str, int] = {}
    members = []
    for index in picture.raws:
        first = kept.setdefault(photos[index].sha256, index)
        is_kept = first == index
        members.append(
            Member(index, rank, _OF_SHOT) if is_kept else Member(index, last, "copy: same bytes as the best", first)
        )
    return members
