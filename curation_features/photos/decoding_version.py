"""The version of decoding that a photo's cached results need.

A change of decoding alters the pixels of a few kinds of photos. Only their results are computed again; those of a
common JPEG, PNG or WebP stay valid. A later change adds a version, and the photos that it alters.

    1    decoding without colour profiles; colour of 16 bits cut to 8; unusual TIFFs misread
    2    the present one
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping

from curation_features.photos.colour.matrix_profile import MAX_PROFILE_BYTES, is_srgb
from curation_features.photos.formats import identify
from curation_features.photos.jpeg_segments import START_OF_SCAN, segments

FIRST, PRESENT = 1, 2

_FRAMES = frozenset({*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC})
_ICC_SEGMENT, _ICC_HEAD = b"ICC_PROFILE\0", 14  # then number and count
_WEBP_HAS_PROFILE = 0x20
_AVIF_START = 1 << 16  # bytes that hold the properties of an image
_PLAIN_TIFF: Mapping[int, tuple[object, ...]] = {
    258: ((8,), (8, 8, 8)),  # BitsPerSample
    262: (1, 2),  # PhotometricInterpretation: black is zero; RGB
    284: (None, 1),  # PlanarConfiguration: chunky
    339: (None, (1,), (1, 1, 1)),  # SampleFormat: unsigned
}
"""TIFF tag -> values of the photos that are decoded as before."""


def decoding_version(data: bytes) -> int:
    """Return 2 if a photo's pixels may differ from those of decoding 1, else 1; in doubt 2.

    Pixels are not decoded: 40 to 140 microseconds for a JPEG, 600 for a TIFF, and 3,000 for the first photo with a
    profile. A format that decoding 1 did not read has version 1.
    """
    find = _IS_ALTERED.get(identify(data))
    try:
        return PRESENT if find is not None and find(data) else FIRST
    except Exception:  # hostile bytes can raise any exception
        return PRESENT


def _is_altered_jpeg(data: bytes) -> bool:
    parts = []
    is_cmyk = False
    for kind, start, end in segments(data, 2):
        if kind == START_OF_SCAN:
            break
        if kind in _FRAMES:
            is_cmyk = data[start + 9] == 4  # components
        elif kind == 0xE2 and data.startswith(_ICC_SEGMENT, start + 4):
            parts.append(data[start + 4 : end])
    # A profile of several segments, each of 64 kB, has tables.
    return bool(parts) and (is_cmyk or len(parts) > 1 or _alters(parts[0][_ICC_HEAD:]))


def _is_altered_png(data: bytes) -> bool:
    depth, colour_type = data[24], data[25]
    is_gray = colour_type == 0
    if depth == 16 and not is_gray:
        return True
    start = 33
    while (kind := data[start + 4 : start + 8]) not in (b"IDAT", b""):
        length = int.from_bytes(data[start : start + 4], "big")
        content = data[start + 8 : start + 8 + length]
        if kind == b"tRNS" and is_gray and depth < 8:
            return True
        if kind == b"iCCP":
            packed = content[content.index(0) + 2 :]
            if _alters(zlib.decompressobj().decompress(packed, MAX_PROFILE_BYTES + 1)):
                return True
        start += 12 + length
    return False


def _is_altered_webp(data: bytes) -> bool:
    if data[12:16] != b"VP8X" or not data[20] & _WEBP_HAS_PROFILE:
        return False
    start = data.index(b"ICCP", 30)
    length = int.from_bytes(data[start + 4 : start + 8], "little")
    return _alters(data[start + 8 : start + 8 + length])


def _is_altered_avif(data: bytes) -> bool:
    head = data[:_AVIF_START]
    return b"colrprof" in head or b"colrrICC" in head


def _is_altered_tiff(data: bytes) -> bool:
    from curation_features.photos.decoders.pillow import quiet_pillow
    from curation_features.photos.limits import open_image

    with quiet_pillow(), open_image(data, formats=("TIFF",)) as image:
        tags = image.tag_v2  # type: ignore[attr-defined]
        profile = image.info.get("icc_profile")
        is_plain = all(tags.get(tag) in values for tag, values in _PLAIN_TIFF.items())
    return not is_plain or bool(profile and _alters(profile))


def _alters(profile: bytes) -> bool:
    return len(profile) <= MAX_PROFILE_BYTES and not is_srgb(profile)


_IS_ALTERED: Mapping[str, Callable[[bytes], bool]] = {
    "JPEG": _is_altered_jpeg,
    "PNG": _is_altered_png,
    "WEBP": _is_altered_webp,
    "AVIF": _is_altered_avif,
    "TIFF": _is_altered_tiff,
}
