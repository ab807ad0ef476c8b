"""When a photo was taken, from the texts that cameras and programs write.

EXIF writes `2024:12:25 11:25:57`; phones and editors also write dashes, slashes, ISO 8601, fractions and zones into the
same field. A camera without a clock writes zeros or blanks.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import NamedTuple

_FIRST_YEAR = 1826  # of the oldest photo that is left; some programs write year 1 for an unknown date
_MOMENT = re.compile(
    r"(?P<year>\d{4})(?P<sign>[:/.-])(?P<month>[ \d]?\d)(?P=sign)(?P<day>[ \d]?\d)[ T]+"
    r"(?P<hour>[ \d]?\d):(?P<minute>[ \d]?\d)(?::(?P<second>[ \d]?\d)(?:[.,](?P<fraction>\d+))?)?"
    r"\s*(?P<offset>Z|[+-]\d\d:?\d\d)?",
    re.ASCII,
)
_OFFSET = re.compile(r"(?P<sign>[+-])(?P<hours>\d\d):?(?P<minutes>[0-5]\d)", re.ASCII)
_FRACTION = re.compile(r"\d{1,9}", re.ASCII)


class CaptureTime(NamedTuple):
    """The moment of capture by the camera's clock.

    Attributes:
        datetime: local date and time, as EXIF writes it: `2024:12:25 11:25:57`.
        utc_offset: local time minus UTC: `+01:00`. None if unknown.
        subseconds: decimals of the second: `07` is 0.07 s. None if unknown.
    """

    datetime: str
    utc_offset: str | None = None
    subseconds: str | None = None


def find_capture_time(candidates: Iterable[Sequence[str | None]]) -> CaptureTime | None:
    """Return the first candidate that is a date.

    Args:
        candidates: date and time, offset and decimals of the second, as written. An offset or decimals in the first
            text replace missing ones.
    """
    times = (_read(text, offset, fraction) for text, offset, fraction in candidates if text)
    return next((time for time in times if time), None)


def _read(text: str, offset: str | None, fraction: str | None) -> CaptureTime | None:
    match = _MOMENT.fullmatch(text)
    if match is None:
        return None
    fields = (match[name] or "0" for name in ("year", "month", "day", "hour", "minute", "second"))
    try:
        moment = datetime(*map(int, fields))  # type: ignore[arg-type]
    except ValueError:  # such as month 0 or 30 February
        return None
    if moment.year < _FIRST_YEAR:
        return None
    digits = _FRACTION.match(fraction or "") or _FRACTION.match(match["fraction"] or "")
    return CaptureTime(
        moment.strftime("%Y:%m:%d %H:%M:%S"),
        _to_offset(offset) or _to_offset(match["offset"]),
        digits[0] if digits else None,
    )


def _to_offset(text: str | None) -> str | None:
    """Return an offset from UTC, -12:00 to +14:00, as EXIF writes it."""
    if text == "Z":
        return "+00:00"
    match = _OFFSET.fullmatch(text or "")
    if match is None or not -1200 <= int(f"{match['sign']}{match['hours']}{match['minutes']}") <= 1400:
        return None
    return f"{match['sign']}{match['hours']}:{match['minutes']}"
