"""EXIF fields of an artifact: readable, in EXIF's terms, never a guess."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from itertools import islice
from typing import Any, NamedTuple, TypeVar

from PIL.ExifTags import IFD, Base

from curation_features.photos.exif.blocks import find_blocks
from curation_features.photos.exif.capture_time import CaptureTime, find_capture_time
from curation_features.photos.exif.lenses import lens_name
from curation_features.photos.exif.positions import to_position
from curation_features.photos.exif.series import read_series
from curation_features.photos.exif.tiff_tags import Directory, Value, find, open_directory, to_number, to_text
from curation_features.photos.limits import MAX_EXIF_BYTES

_WORD = re.compile(r"[^\W_]+")
_LEGAL_FORM = re.compile(
    r"([\s,]+(corporation|corp|company|co|inc|ltd|limited|gmbh|ag|imaging|camera|computer|optical|electronics)\.?)+$",
    re.I,
)  # suffixes of a maker's name that are not on its cameras
_MAX_BLOCKS = 16  # a photo has one or two
_XMP_TAG = 700  # of a TIFF
_XMP_DATES = tuple(
    re.compile(rb"""\b%s\s*(?:=\s*["']|>)\s*([^"'<]{10,40})""" % name)
    for name in (b"exif:DateTimeOriginal", b"photoshop:DateCreated", b"exif:DateTimeDigitized")
)
_LARGEST_SHORT = 65535  # ISOSpeedRatings is at its limit: another tag has the speed
_SPEEDS = (Base.RecommendedExposureIndex, Base.ISOSpeed, Base.StandardOutputSensitivity)
_SPEEDS_OF_TYPE = {
    1: Base.StandardOutputSensitivity,
    2: Base.RecommendedExposureIndex,
    3: Base.ISOSpeed,
    4: Base.RecommendedExposureIndex,
    5: Base.ISOSpeed,
    6: Base.RecommendedExposureIndex,
    7: Base.RecommendedExposureIndex,
}  # SensitivityType -> tag (EXIF 2.3, table 8)

_Result = TypeVar("_Result")


class _Tags(NamedTuple):
    """Metadata of a file: its Exif directory before the main one, position, and XMP packets."""

    camera: Sequence[Directory]
    gps: Sequence[Directory]
    xmp: Sequence[bytes]


def read_exif(data: bytes) -> dict[str, Any]:
    """Return camera, lens, exposure, time and position from a file's bytes.

    Returns:
        `camera` and `lens` ("Unknown" if not given), `iso` (int), `aperture` ("f/1.8", "f/4.0", "f/0.95"),
        `shutter_speed` (seconds: "1/60", "2.5"), `focal_length` ("4mm"), `datetime` ("2024:12:25 11:25:57", the
        camera's local time when the photo was taken or digitized; never the time of an edit) and `gps` (`latitude`
        and `longitude` in degrees, north and east positive; `altitude` in metres above sea level if it is known). Any
        other missing, damaged or non-finite field is None.

        If the file has them: `utc_offset` ("+01:00", local time minus UTC) and `subseconds` ("07": 0.07 s), of
        `datetime`; `exposure_bias` (EV, 0.67), `exposure_mode` ("auto", "manual", "auto bracket") and `burst_id` (the
        camera's name for the burst).
    """
    tags = _read_tags(data)
    fields = {name: _survive(read, tags) for name, read in _FIELDS.items()}
    taken = _survive(_capture_time, tags)
    fields |= {"camera": fields["camera"] or "Unknown", "lens": fields["lens"] or "Unknown"}
    fields["datetime"] = taken.datetime if taken else None
    precise = {"utc_offset": taken.utc_offset, "subseconds": taken.subseconds} if taken else {}
    series = _survive(lambda tags: read_series(tags.camera, tags.xmp), tags) or {}
    return fields | {name: value for name, value in precise.items() if value is not None} | series


def _survive(read: Callable[[_Tags], _Result], tags: _Tags) -> _Result | None:
    """Read a field. None if it is damaged in an unforeseen way."""
    with suppress(Exception):
        return read(tags)
    return None


def _read_tags(data: bytes) -> _Tags:
    """Return the metadata before the first damage; an empty directory for a damaged one."""
    found: dict[str, list[bytes]] = {"exif": [], "gps": [], "xmp": []}
    with suppress(Exception):  # a damaged file
        for kind, block in islice(find_blocks(data), _MAX_BLOCKS):
            found[kind].append(block)
    mains = [open_directory(block) for block in found["exif"]]
    photos = [main.follow(IFD.Exif) for main in mains]
    places = [*(main.follow(IFD.GPSInfo) for main in mains), *map(open_directory, found["gps"])]
    packets = (main.get(_XMP_TAG, MAX_EXIF_BYTES) for main in mains)
    return _Tags((*photos, *mains), places, [*found["xmp"], *(p for p in packets if isinstance(p, bytes))])


def _camera(tags: _Tags) -> str | None:
    return camera_name(to_text(find(tags.camera, Base.Make)), to_text(find(tags.camera, Base.Model)))


def camera_name(make: str | None, model: str | None) -> str | None:
    """Return the usual name of a camera from EXIF's `Make` and `Model`. None if EXIF has neither.

    A model that starts with a word of the maker is the name: "NIKON CORPORATION", "NIKON D3400" -> "NIKON D3400".
    Otherwise the maker precedes, without its legal form: "OLYMPUS IMAGING CORP.", "E-M10" -> "OLYMPUS E-M10".
    """
    if not make or not model:
        return model or make
    first = _WORD.match(model.lower())
    if model.lower().startswith(make.lower()) or (first and first[0] in _WORD.findall(make.lower())):
        return model
    return f"{_LEGAL_FORM.sub('', make)} {model}"


def _positive(value: Value | None) -> float | None:
    """Return a plausible positive number. None for any other value."""
    number = to_number(value)
    return number if number is not None and 1e-9 < number < 1e9 else None


def _iso(tags: _Tags) -> int | None:
    speed = _positive(find(tags.camera, Base.ISOSpeedRatings))
    if speed is not None and speed != _LARGEST_SHORT:
        return round(speed)
    named = _SPEEDS_OF_TYPE.get(int(to_number(find(tags.camera, Base.SensitivityType)) or 0))
    order = (named, *_SPEEDS) if named else _SPEEDS
    speeds = (_positive(find(tags.camera, tag)) for tag in order)
    speed = next(filter(None, speeds), speed)
    return round(speed) if speed is not None else None


def _aperture(tags: _Tags) -> str | None:
    number = _positive(find(tags.camera, Base.FNumber)) or _from_apex(find(tags.camera, Base.ApertureValue), 0.5)
    return f"f/{number:.{2 if number < 1 else 1}f}" if number else None


def _shutter_speed(tags: _Tags) -> str | None:
    """Format as ExifTool does: a fraction up to 1/4 s, otherwise decimals."""
    seconds = _positive(find(tags.camera, Base.ExposureTime))
    seconds = seconds or _from_apex(find(tags.camera, Base.ShutterSpeedValue), -1)
    if not seconds:
        return None
    return f"1/{round(1 / seconds)}" if seconds < 0.25001 else f"{round(seconds, 1):g}"


def _from_apex(value: Value | None, exponent: float) -> float | None:
    """Return 2 ** (exponent * value). None for 0, which cameras write for unknown (EXIF 2.3, annex C)."""
    apex = to_number(value)
    return 2 ** (exponent * apex) if apex and abs(apex) < 29 else None


def _focal_length(tags: _Tags) -> str | None:
    length = _positive(find(tags.camera, Base.FocalLength))
    return f"{length:.0f}mm" if length else None


def _capture_time(tags: _Tags) -> CaptureTime | None:
    """Return when the photo was taken; without such a date when it was digitized; then as XMP says."""
    texts = [
        (Base.DateTimeOriginal, Base.OffsetTimeOriginal, Base.SubsecTimeOriginal),
        (Base.DateTimeDigitized, Base.OffsetTimeDigitized, Base.SubsecTimeDigitized),
    ]
    in_exif = ([to_text(find(tags.camera, tag)) for tag in names] for names in texts)
    matches = (pattern.search(packet) for pattern in _XMP_DATES for packet in tags.xmp)
    in_xmp = ([to_text(match[1]), None, None] for match in matches if match)
    return find_capture_time([*in_exif, *in_xmp])


_FIELDS: Mapping[str, Callable[[_Tags], Any]] = {
    "camera": _camera,
    "lens": lambda tags: lens_name(tags.camera),
    "iso": _iso,
    "aperture": _aperture,
    "shutter_speed": _shutter_speed,
    "focal_length": _focal_length,
    "datetime": lambda tags: None,  # its place; the time has more than one field
    "gps": lambda tags: to_position(tags.gps),
}
