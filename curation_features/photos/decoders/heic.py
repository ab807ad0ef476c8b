"""HEIC and HEIF, with pillow-heif (libheif, libde265): the extra `heic`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from functools import cache

from curation_features.errors import PhotoError
from curation_features.photos.boxes import find_auxiliary
from curation_features.photos.colour.nclx import to_profile
from curation_features.photos.decoders.extras import load_library
from curation_features.photos.decoders.pillow import to_stored
from curation_features.photos.limits import DecodeLimits, check_pixels
from curation_features.photos.stored import StoredImage

SAFE: Mapping[str, tuple[int, ...]] = {"pillow-heif": (1, 7), "libheif": (1, 23, 4), "libde265": (1, 1, 3)}
"""First releases without the published holes (CVE-2026-84383 and GHSA-2jg2-4ch7-h545: writes out of bounds)."""

_REASONS = (
    ("too_large", re.compile(r"security limit|memory", re.IGNORECASE)),
    ("truncated", re.compile(r"end of file|file bounds|size too small|cannot read full", re.IGNORECASE)),
    ("unsupported_format", re.compile(r"unsupported|no decoding plugin|codec", re.IGNORECASE)),
)
"""Reason -> messages of libheif; any other is `unreadable`."""


def read_heic(data: bytes, limits: DecodeLimits) -> StoredImage:
    """Decode the primary image of a HEIC.

    libheif applies `irot`, `imir` and `clap`; by ISO/IEC 23008-12 the orientation in EXIF is not applied. More than 8
    bits are scaled. Other images, thumbnails, gain and depth maps are ignored, and noted.
    """
    library = load_library("heic", "HEIC")
    check_releases(library.__version__, str(library.libheif_info()))
    try:
        file = library.HeifFile(data, convert_hdr_to_8bit=True)
        width, height = file.size
        check_pixels(width, height, limits)
        image = file.to_pillow()
    except (ValueError, EOFError, RuntimeError, SyntaxError, OSError, IndexError) as error:
        raise _explain(error) from error
    nclx = file.info.get("nclx_profile") or {}
    own = image.info.get("icc_profile")
    profile, notes = (own, ()) if own else to_profile(nclx.get("color_primaries"), nclx.get("transfer_characteristics"))
    others = ("multi_picture",) if len(file) > 1 else ()
    return replace(to_stored(image), orientation=1, profile=profile, notes=(*others, *find_auxiliary(data), *notes))


@cache
def check_releases(release: str, details: str) -> None:
    """Refuse releases with published holes.

    Args:
        release: release of pillow-heif.
        details: what it reports of its libraries, such as "{'libheif': '1.23.6', ... libde265 ..., version 1.1.3'}".

    Raises:
        PhotoError: `unsupported_format`.
    """
    found = {"pillow-heif": _read_numbers(release)}
    for name, pattern in (("libheif", r"'libheif': '([\d.]+)"), ("libde265", r"libde265[^']*version ([\d.]+)")):
        match = re.search(pattern, details)
        if match:  # another HEVC decoder may be built in instead of libde265
            found[name] = _read_numbers(match[1])
    for name, numbers in found.items():
        if numbers < SAFE[name]:
            old, safe = (".".join(map(str, version)) for version in (numbers, SAFE[name]))
            raise PhotoError(
                "unsupported_format",
                f"HEIC files are not read with {name} {old}: photos can attack it; {safe} or newer is needed: "
                'pip install --upgrade "curation-features[heic]"',
            )


def _read_numbers(release: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", release)[:3])


def _explain(error: Exception) -> PhotoError:
    message = " ".join(str(error).split())
    reason = next((reason for reason, pattern in _REASONS if pattern.search(message)), "unreadable")
    causes: Mapping[str, str] = {
        "too_large": "decoding exceeds the limits of libheif",
        "truncated": "the file ends before the image is complete",
        "unsupported_format": "libheif does not read this kind of HEIC; export it as JPEG",
        "unreadable": "the image is damaged; copy it again, or export it as JPEG",
    }
    cause, _, remedy = causes[reason].partition("; ")
    return PhotoError(reason, f"{cause} ({message}); {remedy or 'copy it again'}")
