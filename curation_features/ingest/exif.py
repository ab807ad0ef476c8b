"""The EXIF fields of an artifact, as ingest writes them: for people, in EXIF's own terms, and never a guess."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from PIL import ExifTags

from curation_features.photos.limits import open_image, read_tags
from curation_features.photos.reader import quiet_pillow

_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
_DATETIME = re.compile(r"\d{4}:\d\d:\d\d \d\d:\d\d:\d\d")
_WORD = re.compile(r"[^\W_]+")
_LEGAL_FORM = re.compile(
    r"([\s,]+(corporation|corp|company|co|inc|ltd|limited|gmbh|ag|imaging|camera|computer|optical|electronics)\.?)+$",
    re.I,
)  # the end of a maker's name that no camera carries
_MAX_TEXT = 200  # characters; longer fields are damage or worse

_Tags = Mapping[int, Any]


def read_exif(data: bytes) -> dict[str, Any]:
    """Camera, lens, exposure, time and place of a photo, from the bytes of its file.

    Returns:
        `camera` and `lens` ("Unknown" where they are not said), `iso` (int), `aperture` ("f/1.8"), `shutter_speed`
        (seconds: "1/60", "2.5"), `focal_length` ("4mm"), `datetime` ("2024:12:25 11:25:57", local time) and `gps`
        (`latitude` and `longitude` in degrees, north and east positive; `altitude` in metres above sea level if it
        is known). Every other field that is missing, damaged or not a finite number is None.
    """
    base, photo, place = _read_tags(data)
    return {
        "camera": camera_name(_text(base.get(ExifTags.Base.Make)), _text(base.get(ExifTags.Base.Model))) or "Unknown",
        "lens": _text(photo.get(ExifTags.Base.LensModel)) or "Unknown",
        "iso": _iso(photo.get(ExifTags.Base.ISOSpeedRatings)),
        "aperture": _formatted("f/{:g}", _positive(photo.get(ExifTags.Base.FNumber)), 1),
        "shutter_speed": _shutter_speed(_positive(photo.get(ExifTags.Base.ExposureTime))),
        "focal_length": _formatted("{:.0f}mm", _positive(photo.get(ExifTags.Base.FocalLength)), 0),
        "datetime": _datetime(photo.get(ExifTags.Base.DateTimeOriginal), base.get(ExifTags.Base.DateTime)),
        "gps": _gps(place),
    }


def _read_tags(data: bytes) -> tuple[_Tags, _Tags, _Tags]:
    """The main, the Exif and the GPS directory, each empty where it is missing or damaged."""
    directories: list[_Tags] = [{}, {}, {}]
    with quiet_pillow(), suppress(Exception):  # broken metadata raises anything; what was read before it stays
        exif = read_tags(open_image(data))
        directories[0] = dict(exif)
        directories[1] = dict(exif.get_ifd(ExifTags.IFD.Exif))
        directories[2] = dict(exif.get_ifd(ExifTags.IFD.GPSInfo))
    return directories[0], directories[1], directories[2]


def _text(value: Any) -> str | None:
    if isinstance(value, bytes):
        value = value.decode("utf-8", "replace")
    return _UNPRINTABLE.sub("", value[:_MAX_TEXT]).strip() or None if isinstance(value, str) else None


def _number(value: Any) -> float | None:
    """A finite number, or None: EXIF's rationals may have a denominator of 0."""
    try:
        number = float(value[0] if isinstance(value, tuple) else value)
    except (TypeError, ValueError, IndexError, ArithmeticError):
        return None
    return number if math.isfinite(number) else None


def _positive(value: Any) -> float | None:
    """A number that a camera could mean; nothing outside this range can be printed sensibly."""
    number = _number(value)
    return number if number is not None and 1e-9 < number < 1e9 else None


def _formatted(template: str, number: float | None, decimals: int) -> str | None:
    return None if number is None else template.format(round(number, decimals))


def camera_name(make: str | None, model: str | None) -> str | None:
    """Maker and model as people say them, from EXIF's `Make` and `Model`; None if EXIF has neither.

    A model that begins with a word of the maker stands alone: "NIKON CORPORATION", "NIKON D3400" -> "NIKON D3400". Else
    the maker comes first, without its legal form: "OLYMPUS IMAGING CORP.", "E-M10" -> "OLYMPUS E-M10".
    """
    if not make or not model:
        return model or make
    first = _WORD.match(model.lower())
    if model.lower().startswith(make.lower()) or (first and first[0] in _WORD.findall(make.lower())):
        return model
    return f"{_LEGAL_FORM.sub('', make)} {model}"


def _iso(value: Any) -> int | None:
    number = _positive(value)
    return None if number is None else round(number)


def _shutter_speed(seconds: float | None) -> str | None:
    """As ExifTool prints it: a fraction up to a quarter of a second, else seconds with one decimal."""
    if seconds is None:
        return None
    return f"1/{round(1 / seconds)}" if seconds < 0.25001 else f"{round(seconds, 1):g}"


def _datetime(*values: Any) -> str | None:
    """The first value that is a date and time; cameras without a clock write blanks."""
    texts = (_text(value) for value in values)
    return next((text for text in texts if text and _DATETIME.fullmatch(text)), None)


def _gps(place: _Tags) -> dict[str, float] | None:
    """The position, or None unless both coordinates and their hemispheres are there and on the globe."""
    latitude = _degrees(place.get(ExifTags.GPS.GPSLatitude), place.get(ExifTags.GPS.GPSLatitudeRef), "NS", 90)
    longitude = _degrees(place.get(ExifTags.GPS.GPSLongitude), place.get(ExifTags.GPS.GPSLongitudeRef), "EW", 180)
    if latitude is None or longitude is None:
        return None
    position = {"latitude": latitude, "longitude": longitude}
    altitude = _number(place.get(ExifTags.GPS.GPSAltitude))
    if altitude is not None:
        below = place.get(ExifTags.GPS.GPSAltitudeRef) in (1, b"\x01", "\x01")
        position["altitude"] = -altitude if below else altitude
    return position


def _degrees(parts: Any, hemisphere: Any, hemispheres: str, limit: float) -> float | None:
    """Degrees, minutes and seconds as signed decimal degrees, to 7 decimals (a centimetre)."""
    sign = {hemispheres[0]: 1, hemispheres[1]: -1}.get((_text(hemisphere) or "").upper())
    if sign is None or not isinstance(parts, tuple) or len(parts) != 3:
        return None
    numbers = [_number(part) for part in parts]
    if any(number is None for number in numbers):
        return None
    degrees = sum(number / 60**power for power, number in enumerate(numbers) if number is not None)
    return round(sign * degrees, 7) if 0 <= degrees <= limit else None
