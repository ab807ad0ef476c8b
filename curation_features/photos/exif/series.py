"""A photo's place in a series: exposure compensation, exposure mode, and the burst that it belongs to.

Source: EXIF 3.0, ExposureBiasValue and ExposureMode; Apple's maker notes as in ExifTool's documentation (BurstUUID,
0x000B); Google's XMP (GCamera:BurstID).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any

from PIL.ExifTags import Base

from curation_features.photos.exif.tiff_tags import Directory, find, to_number, to_text

_MODES = {0: "auto", 1: "manual", 2: "auto bracket"}
_LARGEST_BIAS = 30.0  # EV; some cameras write -1/0 or a large number for unknown
_APPLE, _APPLE_HEAD = b"Apple iOS\0", 14  # the offsets of its directory are from the begin of the note
_BURST_UUID = 0x000B
_MAX_NOTE = 100_000  # bytes of maker notes; longer ones are cut
_GOOGLE = re.compile(rb"""\bGCamera:BurstID\s*(?:=\s*["']|>)\s*([^"'<]{8,64})""")


def read_series(camera: Sequence[Directory], xmp: Sequence[bytes]) -> dict[str, Any]:
    """Return `exposure_bias` (EV), `exposure_mode` and `burst_id`: only those that the file has."""
    bias = to_number(find(camera, Base.ExposureBiasValue))
    mode = to_number(find(camera, Base.ExposureMode))
    fields = {
        "exposure_bias": round(bias, 2) + 0.0 if bias is not None and abs(bias) <= _LARGEST_BIAS else None,
        "exposure_mode": _MODES.get(int(mode)) if mode is not None else None,
        "burst_id": next(_bursts(camera, xmp), None),
    }
    return {name: value for name, value in fields.items() if value is not None}


def _bursts(camera: Sequence[Directory], xmp: Sequence[bytes]) -> Iterator[str]:
    for directory in camera:
        note = directory.entries.get(Base.MakerNote)
        if note and directory.data[note.start : note.start + len(_APPLE)] == _APPLE:
            notes = Directory(directory.data[note.start : min(note.end, note.start + _MAX_NOTE)], ">")
            if name := to_text(notes.at(_APPLE_HEAD).get(_BURST_UUID)):
                yield name
    for packet in xmp:
        if (match := _GOOGLE.search(packet)) and (name := to_text(match[1])):
            yield name
