"""When, with which camera and how a photo was taken, from the fields that `ingest` writes into an artifact.

A camera's clock is compared with itself only: clocks of two cameras differ by minutes or years. Texts that are not as
`ingest` writes them count as unknown.
"""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from curation_features.groups.photos import Exposure, Moment, Photo

SECOND, MINUTE = 1.0, 60.0
"""Resolutions of a time without decimals, and of one whose seconds are unknown."""

_ZEROS = 0.9
"""Share of times with 00 seconds from which no seconds of a camera's folder are believed; 1 in 60 has 00 by chance."""

_NUMBER = re.compile(r"(?<!\d)(?<![12]\d{7}[ _-])(\d{3,7})(?!.*\d)", re.DOTALL)
"""The last digits of a name. Fewer count edits of one photo; more, and those after a date, are a time."""

_GOOGLE = re.compile(r"(\d{5})([a-z]+_)\d{5}(_burst\d+)", re.ASCII)
_SUFFIX = re.compile(r"\.[^./\\]{1,5}$")
_COPY = re.compile(r"(?:[ _-]*(?:copy|edited|kopie|copie|cover)|\s*\(\d+\)|~\d+)+$", re.I)


def moment_of(exif: Mapping[str, Any]) -> Moment | None:
    """Return when a photo was taken, from `datetime` and `subseconds`; None if unknown."""
    try:
        taken = datetime.strptime(exif.get("datetime") or "", "%Y:%m:%d %H:%M:%S").replace(tzinfo=UTC)
    except (TypeError, ValueError):  # a camera without a clock: 0000:00:00 00:00:00
        return None
    digits = exif.get("subseconds")
    if not isinstance(digits, str) or not re.fullmatch(r"\d{1,9}", digits, re.ASCII):
        return Moment(taken.timestamp(), SECOND)
    return Moment(taken.timestamp() + float(f"0.{digits}"), 10.0 ** -len(digits))


def exposure_of(exif: Mapping[str, Any]) -> Exposure:
    """Return the settings of an exposure, from `shutter_speed`, `aperture`, `iso`, `exposure_bias`, `exposure_mode`."""
    speed = str(exif.get("shutter_speed") or "")
    numerator, _, denominator = speed.partition("/")
    seconds = _positive(numerator)
    if denominator:
        whole = _positive(denominator)
        seconds = seconds / whole if seconds and whole else None
    bias = exif.get("exposure_bias")
    return Exposure(
        seconds,
        _positive(str(exif.get("aperture") or "").removeprefix("f/")),
        _positive(exif.get("iso")),
        float(bias) if isinstance(bias, (int, float)) and math.isfinite(bias) else None,
        exif.get("exposure_mode") == "auto bracket",
    )


def camera_of(exif: Mapping[str, Any]) -> str | None:
    """Return the name of the camera; None if the photo does not name it."""
    camera = exif.get("camera")
    return camera if isinstance(camera, str) and camera not in ("", "Unknown") else None


def burst_of(exif: Mapping[str, Any]) -> str | None:
    """Return the camera's id of the burst that a photo belongs to, from `burst_id`; None if there is none."""
    burst = exif.get("burst_id")
    return burst if isinstance(burst, str) and burst else None


def _positive(value: Any) -> float | None:
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if 0 < number < math.inf else None


def folder_of(path: str) -> str:
    """Return the folder of a path or address, with any kind of slash; empty if it has none."""
    return re.split(r"[/\\](?=[^/\\]*$)", path, maxsplit=1)[0] if re.search(r"[/\\]", path) else ""


def stem_of(path: str) -> str:
    """Return the name of a file without folder and suffix."""
    return _SUFFIX.sub("", re.split(r"[/\\]", path)[-1])


def file_number(path: str) -> tuple[str, int] | None:
    """Return a camera's name for a series and the number of a file in it; None if the name has no number.

    `IMG_0012.JPG` is 12 of `img_#`, and so is `IMG_0012 (1).jpg`; `00003IMG_00003_BURST2020.jpg` is 3 of its burst.
    """
    stem = _COPY.sub("", stem_of(path)).casefold()
    if google := _GOOGLE.match(stem):
        return f"#{google[2]}{google[3]}", int(google[1])
    match = _NUMBER.search(stem)
    return (f"{stem[: match.start()]}#{stem[match.end() :]}", int(match[1])) if match else None


def resolve_moments(photos: Sequence[Photo]) -> list[Moment | None]:
    """Return the moments of photos; one whose seconds are not believed has a resolution of a minute.

    Some programs write dates without seconds, like iCloud for the web. If nearly all times of a camera's photos in a
    folder have 00 seconds and no decimals, their seconds are unknown, also if there is a single time.
    """
    times: defaultdict[tuple[str | None, str], set[Moment]] = defaultdict(set)
    for photo in photos:
        if photo.moment is not None:
            times[photo.camera, folder_of(photo.path)].add(photo.moment)
    coarse = {unit for unit, moments in times.items() if _share_of_zeros(moments) >= _ZEROS}
    return [_resolve(photo, coarse) for photo in photos]


def _share_of_zeros(moments: set[Moment]) -> float:
    return sum(_is_zero(moment) for moment in moments) / len(moments)


def _is_zero(moment: Moment) -> bool:
    return moment.resolution >= SECOND and moment.seconds % 60 == 0


def _resolve(photo: Photo, coarse: set[tuple[str | None, str]]) -> Moment | None:
    moment = photo.moment
    if moment is not None and _is_zero(moment) and (photo.camera, folder_of(photo.path)) in coarse:
        return Moment(moment.seconds, MINUTE)
    return moment
