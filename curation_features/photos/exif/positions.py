"""Position of a photo from EXIF's GPS directory."""

from __future__ import annotations

from collections.abc import Sequence

from PIL.ExifTags import GPS

from curation_features.photos.exif.tiff_tags import Directory, Value, find, to_number, to_text

_BELOW = frozenset({1, 3})  # altitude references of EXIF 3.0: below sea level, and below the ellipsoid
_OF_A_FIX = (GPS.GPSDOP, GPS.GPSHPositioningError)


def to_position(gps: Sequence[Directory]) -> dict[str, float] | None:
    """Return `latitude` and `longitude` in degrees, north and east positive, and `altitude` in metres if known.

    None if the position is incomplete or out of range. 0, 0 is what devices write before they have a position: it
    counts only with a sign of a fix, such as satellites.
    """
    latitude = _to_degrees(find(gps, GPS.GPSLatitude), find(gps, GPS.GPSLatitudeRef), "NS", 90)
    longitude = _to_degrees(find(gps, GPS.GPSLongitude), find(gps, GPS.GPSLongitudeRef), "EW", 180)
    if latitude is None or longitude is None or (latitude == longitude == 0 and not _has_fix(gps)):
        return None
    position = {"latitude": latitude, "longitude": longitude}
    altitude = to_number(find(gps, GPS.GPSAltitude))
    if altitude is not None:
        position["altitude"] = -altitude if _is_below(find(gps, GPS.GPSAltitudeRef)) else altitude
    return position


def _is_below(reference: Value | None) -> bool:
    """Return whether an altitude is negative. Some devices write the reference as a digit of text."""
    digit = to_text(reference)
    return (int(digit) if digit in ("1", "3") else to_number(reference)) in _BELOW


def _has_fix(gps: Sequence[Directory]) -> bool:
    satellites = to_text(find(gps, GPS.GPSSatellites)) or ""
    return (
        bool(satellites.strip("0 "))
        or to_text(find(gps, GPS.GPSStatus)) == "A"
        or to_text(find(gps, GPS.GPSMeasureMode)) in ("2", "3")
        or any((to_number(find(gps, tag)) or 0) > 0 for tag in _OF_A_FIX)
    )


def _to_degrees(parts: Value | None, hemisphere: Value | None, hemispheres: str, limit: float) -> float | None:
    """Convert degrees, minutes and seconds to signed degrees with 7 decimals (1 cm).

    Minutes and seconds of 0/0 are not used: the degrees or minutes have decimals.
    """
    sign = {hemispheres[0]: 1, hemispheres[1]: -1}.get((to_text(hemisphere) or "").upper()[:1])
    if sign is None or not isinstance(parts, tuple) or len(parts) != 3:
        return None
    numbers = [parts[0], *(0.0 if number != number else number for number in parts[1:])]
    degrees = sum(number / 60**power for power, number in enumerate(numbers))
    return round(sign * degrees, 7) if 0 <= degrees <= limit else None  # NaN fails, too
