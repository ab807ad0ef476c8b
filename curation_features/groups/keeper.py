"""The copy to keep of one picture: the one nearest to what the camera recorded, and the reason in words."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from curation_features.groups.best import Ranked
from curation_features.groups.look import GRAY, Look, colour_of, correlate, to_gray
from curation_features.groups.moments import stem_of
from curation_features.groups.photos import Photo
from curation_features.photos.formats import RAW_FORMATS

_FORMATS = (*RAW_FORMATS, "TIFF", "PNG", "BMP", "HEIC", "JXL", "AVIF", "JPEG", "WEBP", "GIF")
"""From the most to the least that a format keeps of a photo of equal size."""

_WHOLE = 0.98
"""Least correlation of the thumbnails of two photos that show the whole picture, in one of eight orientations."""

_WHITE, _WHITER = 250, 0.02
"""Gray level that counts as white, and the difference in the share of white that counts."""

_NAME_OF_COPY = re.compile(r"copy|kopie|copie|edited|\(\d+\)|~\d+", re.I)


class _Rule(NamedTuple):
    """A comparison in which low is best; the reason of the best copy, and of a worse one."""

    value: Callable[[int], Any]
    best: str
    worse: str


def rank_copies(indices: Sequence[int], photos: Sequence[Photo], look: Look) -> list[tuple[int, Ranked]]:
    """Return the copies of one picture, best first; each has a separate rank.

    More pixels without borders are best; then colour; fewer white pixels; the camera's data; weaker JPEG compression;
    the format that keeps more; the name that does not say copy; the first path.
    """
    rules = _rules(photos, look)
    ordered = sorted(indices, key=lambda index: [rule.value(index) for rule in rules])
    best = ordered[0]
    lost = [next(rule for rule in rules if rule.value(other) != rule.value(best)) for other in ordered[1:]]
    words = [_worse(rule, best, other, photos, look) for rule, other in zip(lost, ordered[1:], strict=True)]
    praise = "; ".join(dict.fromkeys(rule.best for rule in rules if rule in lost))
    if all(word == _CROP for word in words):
        praise = "largest; the others are crops" if len(words) > 1 else "largest; the other is a crop"
    ranked = [Ranked(1, praise), *(Ranked(rank, word) for rank, word in enumerate(words, 2))]
    return list(zip(ordered, ranked, strict=True))


_CROP = "cropped"
_LARGEST, _SMALLER = "largest", "smaller: {0} x {1}, the best {2} x {3}"


def _rules(photos: Sequence[Photo], look: Look) -> list[_Rule]:
    return [
        _Rule(lambda i: -_pixels(photos[i]), _LARGEST, _SMALLER),
        _Rule(lambda i: _is_gray(i, photos, look), "in colour", "without colour"),
        _Rule(lambda i: _white(i, look), "highlights kept", "highlights clipped"),
        _Rule(lambda i: photos[i].camera is None, "with the camera's data", "without the camera's data"),
        _Rule(lambda i: round(photos[i].measures.get("blocks") or 0.0, 1), "least compressed", "more compressed"),
        _Rule(lambda i: _format(photos[i]), "in the format that keeps most", "in a format that keeps less"),
        _Rule(lambda i: _name(photos[i]), "equal to the others, and first by name", "equal to the best"),
    ]


def _worse(rule: _Rule, best: int, other: int, photos: Sequence[Photo], look: Look) -> str:
    first, second = photos[best], photos[other]
    if first.sha256 == second.sha256:
        return "same bytes as the best" if first.path != second.path else "the file of the best, under another id"
    if rule.best == _LARGEST and _is_part(best, other, look):
        return _CROP
    return rule.worse.format(second.width, second.height, first.width, first.height)


def _pixels(photo: Photo) -> float:
    """Return the pixels without plain borders, which programs add."""
    top, bottom, left, right = (photo.measures.get(f"border_{side}") or 0.0 for side in _SIDES)
    return photo.width * photo.height * (1 - top - bottom) * (1 - left - right)


_SIDES = ("top", "bottom", "left", "right")


def _is_gray(index: int, photos: Sequence[Photo], look: Look) -> bool:
    measured = photos[index].measures.get("is_gray")
    fingerprint = look.fingerprint(index)
    if measured is not None or fingerprint is None:
        return bool(measured)
    return colour_of(fingerprint.thumbnail) < GRAY


def _white(index: int, look: Look) -> int:
    """Return the share of white in a thumbnail, in steps that count."""
    fingerprint = look.fingerprint(index)
    return 0 if fingerprint is None else int((to_gray(fingerprint) >= _WHITE).mean() / _WHITER)


def _is_part(best: int, other: int, look: Look) -> bool:
    """Return whether a copy shows less than the whole picture: no orientation has the same thumbnail."""
    first, second = look.fingerprint(best), look.fingerprint(other)
    if first is None or second is None:
        return False
    whole, part = to_gray(first), to_gray(second)
    turned = [np.rot90(side, turns) for side in (part, part.T) for turns in range(4)]
    return all((correlate(whole, gray) or 0.0) < _WHOLE for gray in turned)


def _format(photo: Photo) -> int:
    return _FORMATS.index(photo.format) if photo.format in _FORMATS else len(_FORMATS)


def _name(photo: Photo) -> tuple[bool, int, str, str]:
    """Return a key that sorts originals before copies of files; shorter names and upper folders are first."""
    return bool(_NAME_OF_COPY.search(stem_of(photo.path))), len(photo.path), photo.path, photo.key
