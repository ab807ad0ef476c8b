"""Finds the groups of photos: copies, then sets, then bursts, in parts that do not depend on each other.

A part is what copies and capture times connect: photos of one picture, and photos of one camera without a pause of a
minute. Its groups depend on its photos only, so that a change touches its own part. Nothing depends on the order of
photos.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, MutableMapping, Sequence
from dataclasses import replace
from itertools import chain, pairwise
from typing import Any

from curation_features.groups.bursts import find_bursts
from curation_features.groups.copies import Copies, Edge, find_edges, link_copies
from curation_features.groups.digests import digest_of
from curation_features.groups.keeper import rank_copies
from curation_features.groups.linking import components, neighbours
from curation_features.groups.look import Look
from curation_features.groups.members import RAW_AND_RENDERED, group_id, to_group
from curation_features.groups.moments import resolve_moments
from curation_features.groups.photos import Group, Member, Photo, PhotoSet
from curation_features.groups.pictures import (
    Found,
    Frame,
    Picture,
    in_time,
    lane_of,
    pair_raws,
    split_by_gap,
    to_frame,
)
from curation_features.groups.sets import find_sets
from curation_features.schema import GROUPS_VERSION

RUN_GAP = 60.0
"""Seconds without a photo of a camera that no burst or set continues over."""

Memory = MutableMapping[str, list[dict[str, Any]]]
"""Digest of a part's photos -> its groups, by keys instead of indices; JSON can hold it."""


def group_photos(photos: PhotoSet, edges: Collection[Edge] | None = None, memory: Memory | None = None) -> list[Group]:
    """Find the groups of photos.

    Args:
        photos: with distinct keys, in any order.
        edges: all that `copies.find_edges` finds among them after `resolved`; None: find them.
        memory: the groups of an earlier run. Only parts whose photos changed since are computed; then it has the
            groups of this run.

    Returns:
        Groups by id. A photo is in one group at most.
    """
    photos = resolved(photos)
    edges = find_edges(photos) if edges is None else edges
    before: Memory = dict(memory) if memory is not None else {}
    used: Memory = {}
    groups: list[Group] = []
    of_photo: defaultdict[int, list[Edge]] = defaultdict(list)
    for edge in edges:
        of_photo[edge.first].append(edge)
    for part in _parts(photos.photos, edges):
        own = [edge for index in part for edge in of_photo.get(index, ())]
        groups += _recalled(photos, part, own, before, used)
    if memory is not None:
        memory.clear()
        memory.update(used)
    return sorted(groups, key=lambda group: group.id)


def resolved(photos: PhotoSet) -> PhotoSet:
    """Return photos whose moments have the resolution that is believed; see `resolve_moments`."""
    moments = resolve_moments(photos.photos)
    return replace(photos, photos=[replace(p, moment=m) for p, m in zip(photos.photos, moments, strict=True)])


def _recalled(photos: PhotoSet, part: Sequence[int], edges: list[Edge], before: Memory, used: Memory) -> list[Group]:
    """Return the groups of a part, remembered ones if nothing changed."""
    selected = _select(photos, part)
    place = {index: position for position, index in enumerate(part)}
    own = [replace(edge, first=place[edge.first], second=place[edge.second]) for edge in edges]
    own.sort(key=lambda edge: (edge.first, edge.second))
    digest = _digest(selected, own)
    remembered = before.get(digest)
    if remembered is None:
        remembered = [_to_record(group, selected.photos) for group in group_part(selected, own)]
    used[digest] = remembered
    index = {photos.photos[i].key: i for i in part}
    return [_from_record(record, index) for record in remembered]


def _select(photos: PhotoSet, part: Sequence[int]) -> PhotoSet:
    return PhotoSet(
        [photos.photos[index] for index in part],
        photos.hashes[part],
        photos.has_hash[part],
        None if photos.vectors is None else photos.vectors[part],
        lambda place: photos.fingerprint(part[place]),
    )


def _digest(photos: PhotoSet, edges: Sequence[Edge]) -> str:
    """Return a digest of all that the groups of a part depend on."""
    pairs = [(edge.first, edge.second, edge.similarity, edge.transform.tolist()) for edge in edges]
    return digest_of(photos, (GROUPS_VERSION, pairs))


def _to_record(group: Group, photos: Sequence[Photo]) -> dict[str, Any]:
    members = [
        [photos[m.index].key, m.rank, m.reason, None if m.copy_of is None else photos[m.copy_of].key]
        for m in group.members
    ]
    return {"kind": group.kind, "what": group.what, "similarity": group.similarity, "members": members}


def _from_record(record: dict[str, Any], index: dict[str, int]) -> Group:
    members = [
        Member(index[key], rank, reason, None if copy_of is None else index[copy_of])
        for key, rank, reason, copy_of in record["members"]
    ]
    least = min(key for key, *_ in record["members"])
    return Group(group_id(least), record["kind"], record["what"], members, record["similarity"])


# --- Parts ---


def _parts(photos: Sequence[Photo], edges: Iterable[Edge]) -> list[list[int]]:
    """Return the parts of at least two photos, by key, each in order of the keys of its photos."""
    copies = ((edge.first, edge.second) for edge in edges)
    pairs = chain(copies, _equal_files(photos), pair_raws(photos).items(), _runs(photos))
    parts = (sorted(part, key=lambda index: photos[index].key) for part in components(neighbours(pairs)))
    return sorted(parts, key=lambda part: photos[part[0]].key)


def _equal_files(photos: Sequence[Photo]) -> Iterator[tuple[int, int]]:
    """Yield photos whose files have equal bytes."""
    first: dict[str, int] = {}
    for index, photo in enumerate(photos):
        if first.setdefault(photo.sha256, index) != index:
            yield first[photo.sha256], index


def _runs(photos: Sequence[Photo]) -> Iterator[tuple[int, int]]:
    """Yield photos of one clock that follow each other without a pause."""
    lanes: defaultdict[tuple[str, str], list[tuple[float, int]]] = defaultdict(list)
    for index, photo in enumerate(photos):
        if photo.moment is not None and photo.moment.resolution <= 1:
            lanes[lane_of(photo)].append((photo.moment.seconds, index))
    for lane in lanes.values():
        for (earlier, one), (later, other) in pairwise(sorted(lane)):
            if later - earlier <= RUN_GAP + max(photos[i].exposure.seconds or 0.0 for i in (one, other)):
                yield one, other


# --- One part ---


def group_part(photos: PhotoSet, edges: Sequence[Edge]) -> list[Group]:
    """Find the groups of one part, whose photos are in order of their keys."""
    look = Look(photos)
    copies = link_copies(photos, edges)
    similarity = {index: group.similarity for group in copies for index in group.members}
    pictures = _pictures(photos.photos, copies, look)
    found = [*_moments(pictures, photos.photos, look)]
    grouped = {picture.best for group in found for picture in group.pictures}
    found += [_alone(p) for p in pictures if p.best not in grouped and len(p.photos) > 1]
    return [to_group(_with_copies(group, similarity), photos.photos, look) for group in found]


def _pictures(photos: Sequence[Photo], copies: Sequence[Copies], look: Look) -> list[Picture]:
    """Collapse copies onto the best one, and raw files onto their rendered files."""
    owners = pair_raws(photos)
    in_copies = {index for group in copies for index in group.members}
    alone = [(index,) for index in range(len(photos)) if index not in in_copies]
    pictures = []
    for group in [*(group.members for group in copies), *alone]:
        rendered = [index for index in group if index not in owners]
        if rendered:
            ordered = [index for index, _ in rank_copies(rendered, photos, look)] if len(rendered) > 1 else rendered
            raws = [raw for index in ordered for raw in sorted(owners) if owners[raw] == index]
            pictures.append(Picture(ordered[0], tuple(ordered[1:]), tuple(raws)))
    return sorted(pictures, key=lambda picture: picture.best)


def _moments(pictures: Sequence[Picture], photos: Sequence[Photo], look: Look) -> Iterator[Found]:
    """Yield the sets and bursts among pictures."""
    lanes: defaultdict[tuple[str, str], list[Frame]] = defaultdict(list)
    for picture in pictures:
        if frame := to_frame(picture, photos):
            lanes[frame.lane].append(frame)
    for _, lane in sorted(lanes.items()):
        for run in split_by_gap(in_time(lane, photos), RUN_GAP):
            sets, rest = find_sets(run, look)
            yield from sets
            yield from find_bursts(rest, look)


def _alone(picture: Picture) -> Found:
    if picture.raws:
        return Found("set", RAW_AND_RENDERED, (picture,), 1.0)
    return Found("copy", "", (picture,), 1.0)


def _with_copies(found: Found, similarity: dict[int, float]) -> Found:
    """Return a group whose similarity covers the copies in it."""
    copied = (similarity[picture.best] for picture in found.pictures if picture.copies)
    return replace(found, similarity=min([found.similarity, *copied]))
