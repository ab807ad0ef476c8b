"""Photos to be grouped, and the groups found. Nothing here computes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, TypeAlias

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from curation_features.fingerprints import Fingerprint

Kind: TypeAlias = Literal["copy", "burst", "set"]
"""`copy`: one picture in several files; `burst`: one moment in several frames; `set`: frames that belong together."""


@dataclass(frozen=True, slots=True)
class Moment:
    """When a photo was taken, by its camera's clock.

    Attributes:
        seconds: since 1970 in the camera's local time, with decimals if the camera gives them.
        resolution: seconds that the value may be off: 1 without decimals, 60 if the seconds are unknown.
    """

    seconds: float
    resolution: float


@dataclass(frozen=True, slots=True)
class Exposure:
    """Settings of an exposure; None where unknown.

    Attributes:
        seconds: exposure time.
        aperture: f-number.
        iso: ISO speed.
        bias_ev: exposure compensation in EV.
        is_bracketed: whether the camera says that the exposure is one of a bracket.
    """

    seconds: float | None = None
    aperture: float | None = None
    iso: float | None = None
    bias_ev: float | None = None
    is_bracketed: bool = False


@dataclass(frozen=True, slots=True)
class Photo:
    """A photo, without its pixels.

    Attributes:
        key: unique among the photos, and independent of the batch.
        sha256: of the file's bytes.
        path: of the original, as its manifest names it.
        width: of the original, upright, in pixels.
        height: likewise.
        format: of the file, like `JPEG`.
        burst: the camera's id of the burst that the photo belongs to; None: unknown.
        measures: numbers that compare photos of a group by name (`focus_px`, `blur_px`, `clip_iqa`, ...).
    """

    key: str
    sha256: str
    path: str
    width: int
    height: int
    format: str
    moment: Moment | None = None
    camera: str | None = None
    exposure: Exposure = field(default_factory=Exposure)
    measures: Mapping[str, float | None] = field(default_factory=dict)
    burst: str | None = None


@dataclass(frozen=True, slots=True)
class PhotoSet:
    """Photos with what is compared of them.

    Attributes:
        photos: N photos.
        hashes: (N, 8, 32) of uint8: `Fingerprint.hashes`; zero for a photo without a fingerprint.
        has_hash: (N,) of bool.
        vectors: (N, D) of float16 or float32 with unit norm; zero for a photo without one. None: no photo has one.
        fingerprint: returns the fingerprint of the photo at an index, read when it is needed; None: there is none.
    """

    photos: Sequence[Photo]
    hashes: NDArray[np.uint8]
    has_hash: NDArray[np.bool_]
    vectors: NDArray[np.float32] | NDArray[np.float16] | None
    fingerprint: Callable[[int], Fingerprint | None]


@dataclass(frozen=True, slots=True)
class Member:
    """A photo of a group.

    Attributes:
        index: of the photo in its `PhotoSet`.
        rank: 1 is the best; photos that cannot be told apart share a rank (1, 1, 3). In a set all have rank 1.
        reason: why it has its rank, in words.
        copy_of: index of the better copy of the same picture in this group; None for the copy to keep.
    """

    index: int
    rank: int
    reason: str
    copy_of: int | None = None


@dataclass(frozen=True, slots=True)
class Group:
    """At least two photos.

    Attributes:
        id: depends on the photos of the group only, not on their order, nor on other photos.
        kind: see `Kind`.
        what: kind of a set or copy in words: `bracket`, `focus stack`, `panorama`, `raw and rendered`; else "".
        members: by rank, and then by key.
        similarity: least similarity of two members, in [0, 1].
    """

    id: str
    kind: Kind
    what: str
    members: Sequence[Member]
    similarity: float
