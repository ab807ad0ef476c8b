"""EXIF as ExifTool reads it, for all files with EXIF that tests have."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from exif_files import EXPECTED, FILES

from curation_features.photos.exif.fields import camera_name, read_exif

PRINTED = ("Make", "Model", "FNumber", "ApertureValue", "ExposureTime", "ShutterSpeedValue", "FocalLength")
PLAIN = ("ISO", "LensModel", "DateTimeOriginal", "CreateDate", "OffsetTimeOriginal", "OffsetTimeDigitized")
PLAIN = (*PLAIN, "SubSecTimeOriginal", "SubSecTimeDigitized", "ExposureCompensation", "ExposureMode")
MODES = ("auto", "manual", "auto bracket")
PLACE = ("GPSLatitude", "GPSLongitude", "GPSAltitude")

ON_PURPOSE: Mapping[str, Mapping[str, str]] = {
    "dashes.jpg": {"datetime": "ExifTool shows a date as written"},
    "slashes.jpg": {"datetime": "ExifTool shows a date as written"},
    "with-zone.jpg": {"datetime": "ExifTool shows the zone in the date", "utc_offset": "taken from the date's text"},
    "zero-original.jpg": {"datetime": "zeros are not a date: the digitization counts"},
    "digitized-and-modified.jpg": {"datetime": "blanks are not a date: the digitization counts"},
    "iso-65535.jpg": {"iso": "the tag is at its limit: RecommendedExposureIndex has the value"},
    "gps-null-island.jpg": {"gps": "0, 0 without a fix is not a position"},
    "gps-seconds-0-0.jpg": {"gps": "ExifTool 12.57 shows an empty position for seconds of 0/0"},
    "exif_gps_typeerror.jpg": {"datetime": "from XMP, since EXIF has none", "utc_offset": "from XMP"},
    "exif_typeerror.jpg": {"datetime": "from XMP, since EXIF has none", "utc_offset": "from XMP"},
    "big.tif": {
        "gps": "ExifTool 12.57 takes the position in a BigTIFF for other tags",
        "burst_id": "ExifTool 12.57 does not read the maker notes in a BigTIFF",
    },
    "idat.heic": dict.fromkeys(EXPECTED, "ExifTool 12.57 does not read an item in `idat`, and takes the other one"),
    "packed.jxl": dict.fromkeys(EXPECTED, "ExifTool needs a Perl module for Brotli"),
}
"""File -> fields that differ from ExifTool, and why."""


@pytest.fixture(scope="module")
def exiftool() -> str:
    found = shutil.which("exiftool")
    if found is None:
        pytest.skip("no ExifTool: install libimage-exiftool-perl")
    return found


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("formats")
    for name, make in FILES.items():
        try:
            (folder / name).write_bytes(make())
        except pytest.skip.Exception:  # its package is not installed
            continue
    return folder


def run(exiftool: str, *folders: Path) -> list[dict[str, Any]]:
    """Read the EXIF of folders; of EXIF alone, except for Composite's signed position and the name of a burst."""
    tags = [f"-EXIF:{name}" for name in PRINTED] + [f"-EXIF:{name}#" for name in PLAIN]
    tags += ["-EXIF:LensInfo", "-Apple:BurstUUID", "-XMP-GCamera:BurstID", *(f"-Composite:{name}#" for name in PLACE)]
    command = [exiftool, "-json", "-charset", "exif=utf8", "-q", "-q", "-r", "-ext", "*", *tags, *map(str, folders)]
    return json.loads(subprocess.run(command, capture_output=True, timeout=120, check=False).stdout)


def as_ours(theirs: Mapping[str, Any]) -> dict[str, Any]:
    """Express ExifTool's values as fields of an artifact."""
    text = {name: str(value) for name, value in theirs.items()}
    aperture = text.get("FNumber") or text.get("ApertureValue")
    length = text.get("FocalLength", "0.0 mm").removesuffix(" mm")
    kind = "Original" if text.get("DateTimeOriginal") else "Digitized"
    place = [theirs.get(name) for name in PLACE]
    bias, mode = theirs.get("ExposureCompensation"), theirs.get("ExposureMode")
    lens = text.get("LensInfo", "").replace(" f/?", "")
    return {
        "camera": camera_name(text.get("Make"), text.get("Model")) or "Unknown",
        "lens": text.get("LensModel") or lens or "Unknown",
        "iso": theirs.get("ISO"),
        "aperture": f"f/{aperture}" if aperture else None,
        "shutter_speed": text.get("ExposureTime") or text.get("ShutterSpeedValue"),
        "focal_length": f"{float(length):.0f}mm" if float(length) else None,
        "datetime": text.get("DateTimeOriginal") or text.get("CreateDate"),
        "gps": dict(zip(("latitude", "longitude", "altitude"), place, strict=True)) if place[0] is not None else None,
        "utc_offset": text.get(f"OffsetTime{kind}"),
        "subseconds": text.get(f"SubSecTime{kind}"),
        "exposure_bias": None if bias is None else round(bias, 2),
        "exposure_mode": None if mode is None else MODES[mode],
        "burst_id": text.get("BurstUUID") or text.get("BurstID"),
    }


def differing(theirs: Mapping[str, Any]) -> list[str]:
    ours, expected = read_exif(Path(theirs["SourceFile"]).read_bytes()), as_ours(theirs)
    place, expected_place = ours.pop("gps"), expected.pop("gps")
    names = [name for name, value in expected.items() if ours.get(name) != value]
    if (place is None) != (expected_place is None) or (place and place != pytest.approx(expected_place, abs=1e-7)):
        names.append("gps")
    return names


def unexpected(read: list[dict[str, Any]]) -> dict[str, list[str]]:
    found = {Path(theirs["SourceFile"]).name: differing(theirs) for theirs in read}
    return {name: rest for name, fields in found.items() if (rest := [f for f in fields if f not in allowed(name)])}


def allowed(name: str) -> Mapping[str, str]:
    return ON_PURPOSE.get(name, {})


@pytest.mark.long
def test_exiftool_agrees_on_every_format(exiftool: str, made: Path) -> None:
    read = run(exiftool, made)
    assert len(read) == len([*made.iterdir()])
    assert unexpected(read) == {}


@pytest.mark.long
def test_exiftool_agrees_on_every_file(exiftool: str, shared_data: Path) -> None:
    read = run(exiftool, *(shared_data / name for name in ("photos", "corrupt", "inputs")))
    assert len(read) > 90
    assert unexpected(read) == {}
    differences = {Path(theirs["SourceFile"]).name: {*differing(theirs)} for theirs in read}
    superfluous = {name: {*fields} - differences.get(name, {*fields}) for name, fields in ON_PURPOSE.items()}
    assert not any(superfluous.values()), superfluous
