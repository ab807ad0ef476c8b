"""Links pairs to groups of bounded diameter; never by a chain of pairs alone.

The result depends on the pairs and on the keys, not on any order. It depends on each connected component alone: pairs
of one component give the same groups without the others.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import NamedTuple, Protocol, TypeVar

T = TypeVar("T")


class Linked(NamedTuple):
    """A group.

    Attributes:
        members: indices in the order of their keys.
        similarity: least similarity of two members.
    """

    members: tuple[int, ...]
    similarity: float


class Relations(Protocol[T]):
    """Relations between photos, such as transforms."""

    def own(self, index: int) -> T:
        """The relation of a photo to itself."""

    def between(self, one: int, other: int) -> T | None:
        """The relation of the second photo to the first; None if they do not belong together."""

    def joined(self, first: T, then: T) -> T:
        """One relation for two in a row."""

    def fits(self, members: Iterable[T], relation: T) -> bool:
        """Whether a photo with this relation to the leader fits the members; this bounds the diameter."""


def link(pairs: Mapping[tuple[int, int], float], keys: Sequence[str]) -> list[Linked]:
    """Link by complete linkage: each two members of a group are one of the pairs.

    The most similar groups are united first, as long as all pairs between them are given.

    Args:
        pairs: two indices, the smaller one first -> similarity, higher is closer.
        keys: of the photos by index, unique.

    Returns:
        Groups of at least two, by the key of their first member.
    """
    named = {pair: tuple(sorted((keys[pair[0]], keys[pair[1]]))) for pair in pairs}
    order = sorted(pairs, key=lambda pair: (-pairs[pair], named[pair]))
    group: dict[int, int] = {index: index for pair in pairs for index in pair}
    members = {index: [index] for index in group}
    between: dict[int, Counter[int]] = defaultdict(Counter)  # group -> other group -> pairs so far
    least: dict[int, float] = {}
    for pair in order:
        one, other = sorted((group[pair[0]], group[pair[1]]), key=lambda index: (-len(members[index]), index))
        if one == other:
            continue
        between[one][other] += 1
        between[other][one] += 1
        if between[one][other] < len(members[one]) * len(members[other]):
            continue
        for index in members[other]:
            group[index] = one
        members[one] += members.pop(other)
        least[one] = pairs[pair]  # pairs come in falling similarity: this is the least one
        for third, count in between.pop(other).items():
            del between[third][other]
            if third != one:
                between[one][third] += count
                between[third][one] += count
    found = (Linked(tuple(sorted(members[one], key=lambda i: keys[i])), least[one]) for one in least if one in members)
    return sorted(found, key=lambda linked: keys[linked.members[0]])


def link_to_leaders(
    pairs: Collection[tuple[int, int]], keys: Sequence[str], relations: Relations[T]
) -> list[dict[int, T]]:
    """Link the photos of each component to its leader, the one with most pairs.

    A member is related to the leader, or paired with one that is; so two members are at most four steps apart. What
    remains gets another leader.

    Args:
        pairs: two indices each.
        keys: of the photos by index, unique.
        relations: between photos.

    Returns:
        Groups of at least two: index -> what the leader, the first, has to do with it; by the leaders' keys.
    """
    near = neighbours(pairs)
    groups = []
    for component in components(near):
        remaining = set(component)
        while remaining:
            leader = min(remaining, key=lambda index: (-len(near[index] & remaining), keys[index]))
            group = _about(leader, sorted(remaining - {leader}, key=lambda index: keys[index]), near, relations)
            remaining -= group.keys()
            if len(group) > 1:
                groups.append(group)
    return sorted(groups, key=lambda group: keys[next(iter(group))])


def _about(leader: int, others: Sequence[int], near: Mapping[int, set[int]], relations: Relations[T]) -> dict[int, T]:
    """The group about a leader."""
    group = {leader: relations.own(leader)}
    for index in others:
        relation = relations.between(leader, index)
        if relation is not None and relations.fits(group.values(), relation):
            group[index] = relation
    direct = {index: group[index] for index in others if index in group}
    for index in others:
        if index not in group:
            steps = (
                relations.joined(first, then)
                for middle, first in direct.items()
                if middle in near[index] and (then := relations.between(middle, index)) is not None
            )
            fitting = next((step for step in steps if relations.fits(group.values(), step)), None)
            if fitting is not None:
                group[index] = fitting
    return group


def neighbours(pairs: Iterable[tuple[int, int]]) -> dict[int, set[int]]:
    """The photos that each photo is paired with."""
    near: dict[int, set[int]] = defaultdict(set)
    for one, other in pairs:
        near[one].add(other)
        near[other].add(one)
    return dict(near)


def components(near: Mapping[int, set[int]]) -> list[set[int]]:
    """Connected components of `neighbours`."""
    found, seen = [], set[int]()
    for start in near:
        if start in seen:
            continue
        reached, waiting = {start}, [start]
        while waiting:
            added = near[waiting.pop()] - reached
            reached |= added
            waiting += added
        seen |= reached
        found.append(reached)
    return found
