"""EXIF fields of an artifact: readable, in EXIF's terms, never a guess."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any, TypeVar

from PIL import ExifTags, Image

from curation_features.photos.exif_block import find_exif
from curation_features.photos.limits import open_image, read_tags
from curation_features.photos.pillow import quiet_pillow

_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
_DATETIME = re.compile(r"\d{4}:\d\d:\d\d \d\d:\d\d:\d\d")
_WORD = re.compile(r"[^\W_]+")
_LEGAL_FORM = re.compile(
    r"([\s,]+(corporation|corp|company|co|inc|ltd|limited|gmbh|ag|imaging|camera|computer|optical|electronics)\.?)+$",
    re.I,
)  # suffixes of a maker's name that are not on its cameras
_MAX_TEXT = 200  # characters; longer fields are damage or worse

_Tags = Mapping[int, Any]
_Result = TypeVar("_Result")


def read_exif(data: bytes) -> dict[str, Any]:
    """Return camera, lens, exposure, time and position from a file's bytes.

    Returns:
        `camera` and `lens` ("Unknown" if not given), `iso` (int), `aperture` ("f/1.8"), `shutter_speed`
        (seconds: "1/60", "2.5"), `focal_length` ("4mm"), `datetime` ("2024:12:25 11:25:57", local time) and `gps`
        (`latitude` and `longitude` in degrees, north and east positive; `altitude` in metres above sea level if it
        is known). Any other missing, damaged or non-finite field is None.
    """
    base, photo, gps = _read_tags(data)
    return {
        "camera": camera_name(_clean_text(base.get(ExifTags.Base.Make)), _clean_text(base.get(ExifTags.Base.Model)))
        or "Unknown",
        "lens": _clean_text(photo.get(ExifTags.Base.LensModel)) or "Unknown",
        "iso": _format(photo.get(ExifTags.Base.ISOSpeedRatings), round),
        "aperture": _format(photo.get(ExifTags.Base.FNumber), lambda number: f"f/{round(number, 1):g}"),
        "shutter_speed": _format(photo.get(ExifTags.Base.ExposureTime), _format_shutter_speed),
        "focal_length": _format(photo.get(ExifTags.Base.FocalLength), lambda length: f"{length:.0f}mm"),
        "datetime": _find_datetime(photo.get(ExifTags.Base.DateTimeOriginal), base.get(ExifTags.Base.DateTime)),
        "gps": _to_position(gps),
    }


def _read_tags(data: bytes) -> tuple[_Tags, _Tags, _Tags]:
    """Return the main, the Exif and the GPS directory. A missing or damaged one is empty."""
    directories: list[_Tags] = [{}, {}, {}]
    with quiet_pillow(), suppress(Exception):  # broken metadata can raise any exception
        exif = _load_block(find_exif(data)) or read_tags(open_image(data))
        directories[0] = dict(exif)
        directories[1] = dict(exif.get_ifd(ExifTags.IFD.Exif))
        directories[2] = dict(exif.get_ifd(ExifTags.IFD.GPSInfo))
    return directories[0], directories[1], directories[2]


def _load_block(block: bytes) -> Image.Exif:
    exif = Image.Exif()
    if block:
        exif.load(block)
    return exif


def _clean_text(value: Any) -> str | None:
    if isinstance(value, bytes):
        value = value.decode("utf-8", "replace")
    return _UNPRINTABLE.sub("", value[:_MAX_TEXT]).strip() or None if isinstance(value, str) else None


def _to_number(value: Any) -> float | None:
    """Return a finite number or None. (An EXIF rational may be 1/0.)"""
    try:
        number = float(value[0] if isinstance(value, tuple) else value)
    except (TypeError, ValueError, IndexError, ArithmeticError):
        return None
    return number if math.isfinite(number) else None


def _format(value: Any, convert: Callable[[float], _Result]) -> _Result | None:
    """Convert a plausible positive number. None for any other value."""
    number = _to_number(value)
    return convert(number) if number is not None and 1e-9 < number < 1e9 else None


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


def _format_shutter_speed(seconds: float) -> str:
    """Format as ExifTool does: a fraction up to 1/4 s, otherwise decimals."""
    return f"1/{round(1 / seconds)}" if seconds < 0.25001 else f"{round(seconds, 1):g}"


def _find_datetime(*values: Any) -> str | None:
    """Return the first value that is a date and time. (Some cameras write blanks.)"""
    texts = (_clean_text(value) for value in values)
    return next((text for text in texts if text and _DATETIME.fullmatch(text)), None)


def _to_position(gps: _Tags) -> dict[str, float] | None:
    """Return the position, or None if it is incomplete or out of range."""
    latitude = _to_degrees(gps.get(ExifTags.GPS.GPSLatitude), gps.get(ExifTags.GPS.GPSLatitudeRef), "NS", 90)
    longitude = _to_degrees(gps.get(ExifTags.GPS.GPSLongitude), gps.get(ExifTags.GPS.GPSLongitudeRef), "EW", 180)
    if latitude is None or longitude is None:
        return None
    position = {"latitude": latitude, "longitude": longitude}
    altitude = _to_number(gps.get(ExifTags.GPS.GPSAltitude))
    if altitude is not None:
        below = gps.get(ExifTags.GPS.GPSAltitudeRef) in (1, b"\x01", "\x01")
        position["altitude"] = -altitude if below else altitude
    return position


def _to_degrees(parts: Any, hemisphere: Any, hemispheres: str, limit: float) -> float | None:
    """Convert degrees, minutes and seconds to signed degrees with 7 decimals (1 cm)."""
    sign = {hemispheres[0]: 1, hemispheres[1]: -1}.get((_clean_text(hemisphere) or "").upper())
    if sign is None or not isinstance(parts, tuple) or len(parts) != 3:
        return None
    numbers = [_to_number(part) for part in parts]
    if any(number is None for number in numbers):
        return None
    degrees = sum(number / 60**power for power, number in enumerate(numbers) if number is not None)
    return round(sign * degrees, 7) if 0 <= degrees <= limit else None
