"""The reduced copies of a photo that `ingest` writes: a ranking image and a standardised image."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import simplejpeg

from curation_features.photos.colour.srgb_profile import SRGB_PROFILE
from curation_features.photos.decode import decode
from curation_features.photos.exif.fields import read_exif
from curation_features.photos.limits import DecodeLimits
from curation_features.photos.reader import PhotoFile
from curation_features.photos.reduction import reduce
from curation_features.schema import PhotoInfo, SignalValue

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

RANKING_SIDE = 2048
"""Longest side of a ranking image, px."""

STANDARD_SIDE = 1024
"""Longest side of a standardised image, which the pipeline analyses, px."""

_QUALITY = 95
_PROFILE_SEGMENT = b"ICC_PROFILE\0\x01\x01"  # part 1 of 1 (ICC.1:2022, annex B.4)


@dataclass(frozen=True, slots=True)
class Copies:
    """The copies of one photo, and what its file says.

    Attributes:
        exif: see `read_exif`.
        ranking: a JPEG of at most `RANKING_SIDE` px, upright sRGB, with an sRGB profile and no other metadata.
        standard: a JPEG of at most `STANDARD_SIDE` px like it; empty if `ranking` is small enough for both.
        ranking_size, standard_size: width and height of the images, px.
        source, notes: see `photos.stored.StoredImage`.
        focus: see `photos.decode.Photo`.
    """

    info: PhotoInfo
    exif: Mapping[str, Any]
    ranking: bytes
    standard: bytes
    ranking_size: tuple[int, int]
    standard_size: tuple[int, int]
    source: str
    notes: tuple[str, ...]
    focus: Mapping[str, SignalValue] | None = None


def make_copies(file: PhotoFile, limits: DecodeLimits) -> Copies:
    """Decode a photo once and reduce it by area, to the ranking image and from it to the standardised image.

    Raises:
        PhotoError: see `decode`.
        ResourceError: the process has too many open files.
    """
    photo = decode(file, limits, side=RANKING_SIDE, with_focus=True)
    standard = reduce(photo.rgb, STANDARD_SIDE)
    return Copies(
        photo.info,
        read_exif(file.data),
        _encode(photo.rgb),
        b"" if standard is photo.rgb else _encode(standard),
        _size(photo.rgb),
        _size(standard),
        photo.source,
        photo.notes,
        photo.focus,
    )


def _size(rgb: NDArray[np.uint8]) -> tuple[int, int]:
    return rgb.shape[1], rgb.shape[0]


def _encode(rgb: NDArray[np.uint8]) -> bytes:
    """Encode as JPEG of quality 95 without chroma subsampling, tagged as sRGB."""
    data: bytes = simplejpeg.encode_jpeg(rgb, quality=_QUALITY, colorspace="RGB", colorsubsampling="444")
    payload = _PROFILE_SEGMENT + SRGB_PROFILE
    start = 4 + int.from_bytes(data[4:6], "big")  # behind SOI and the JFIF segment
    return data[:start] + b"\xff\xe2" + (len(payload) + 2).to_bytes(2, "big") + payload + data[start:]
