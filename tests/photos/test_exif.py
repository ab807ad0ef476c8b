"""EXIF as ingest writes it: finite values, and None if unknown."""

from __future__ import annotations

import json
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from PIL.TiffImagePlugin import IFDRational
from specification import EXAMPLE

from curation_features.photos.exif import camera_name, read_exif

MAKE, MODEL, DATE = 0x010F, 0x0110, 0x0132
EXPOSURE, F_NUMBER, ISO, ORIGINAL, FOCAL, LENS = 0x829A, 0x829D, 0x8827, 0x9003, 0x920A, 0xA434
FIELDS = ("camera", "lens", "iso", "aperture", "shutter_speed", "focal_length", "datetime", "gps")
UNKNOWN = {**dict.fromkeys(FIELDS), "camera": "Unknown", "lens": "Unknown"}
NORTH_EAST = {1: "N", 2: (48.0, 51.0, 29.6), 3: "E", 4: (2.0, 17.0, 40.2)}  # the Eiffel Tower


def fields(base: Any = (), photo: Any = (), gps: Any = (), kind: str = "JPEG") -> dict[str, Any]:
    exif = Image.Exif()
    exif.update(base)
    exif.get_ifd(0x8769).update(photo)
    exif.get_ifd(0x8825).update(gps)
    buffer = BytesIO()
    Image.new("RGB", (8, 8)).save(buffer, kind, exif=exif.tobytes())
    found = read_exif(buffer.getvalue())
    json.dumps(found, allow_nan=False)
    return found


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_the_specifications_example(kind: str) -> None:
    exposure = {ISO: 64, F_NUMBER: IFDRational(18, 10), EXPOSURE: IFDRational(1, 60), FOCAL: IFDRational(425, 100)}
    found = fields(
        {MAKE: "Apple", MODEL: "iPhone 11 Pro Max", DATE: "2025:01:01 00:00:00"},
        {**exposure, ORIGINAL: "2024:12:25 11:25:57"},
        kind=kind,
    )
    assert found == json.loads(EXAMPLE)["artifacts"][0]["exif"]
    assert list(found) == list(UNKNOWN)


def test_missing_fields_are_unknown() -> None:
    assert fields() == read_exif(b"") == read_exif(b"no photo") == UNKNOWN


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [((1, 8000), "1/8000"), ((1, 4), "1/4"), ((3, 10), "0.3"), ((1, 2), "0.5"), ((5, 2), "2.5"), ((30, 1), "30")],
)
def test_shutter_speeds(seconds: tuple[int, int], shown: str) -> None:
    assert fields(photo={EXPOSURE: IFDRational(*seconds)})["shutter_speed"] == shown


@pytest.mark.parametrize(
    ("make", "model", "name"),
    [
        ("Canon", "Canon EOS 5D", "Canon EOS 5D"),
        ("NIKON CORPORATION", "NIKON D3400", "NIKON D3400"),
        ("NIKON", "COOLPIX P900", "NIKON COOLPIX P900"),
        ("OLYMPUS IMAGING CORP.", "E-M10", "OLYMPUS E-M10"),
        ("OLYMPUS OPTICAL CO.,LTD", "C3040Z", "OLYMPUS C3040Z"),
        ("EASTMAN KODAK COMPANY", "KODAK EASYSHARE Z740", "KODAK EASYSHARE Z740"),
        ("CASIO COMPUTER CO.,LTD.", "EX-Z750", "CASIO EX-Z750"),
        ("PENTAX Corporation", "PENTAX K10D", "PENTAX K10D"),
        ("RICOH IMAGING COMPANY, LTD.", "GR III", "RICOH GR III"),
        ("LEICA CAMERA AG", "LEICA Q2", "LEICA Q2"),
        ("samsung", "SAMSUNG-SM-G900A", "SAMSUNG-SM-G900A"),
        ("Hewlett-Packard", "Hewlett-Packard PhotoSmart 620", "Hewlett-Packard PhotoSmart 620"),
        ("Co., Ltd.", "-X1", "Co. -X1"),
        ("Canon", None, "Canon"),
        (None, "iPhone 12", "iPhone 12"),
        (None, None, None),
    ],
)
def test_a_camera_is_named_with_its_maker_once(make, model, name) -> None:
    assert camera_name(make, model) == name


def test_names_are_cleaned_and_the_make_is_said_once() -> None:
    found = fields({MAKE: "Canon", MODEL: "Canon EOS 5D\0\0 "}, {LENS: " EF24-70mm\x07\n"})
    assert (found["camera"], found["lens"]) == ("Canon EOS 5D", "EF24-70mm")
    assert fields({MODEL: "\0\0"})["camera"] == "Unknown"


def test_zero_denominators_and_senseless_values_are_none() -> None:
    nothing = IFDRational(0, 0)
    gps = {**NORTH_EAST, 2: (nothing, 0.0, 0.0)}
    assert fields(photo={F_NUMBER: nothing, EXPOSURE: IFDRational(1, 0), FOCAL: 0, ISO: 0}, gps=gps) == UNKNOWN
    assert fields({DATE: "    :  :     :  :  "}, {ORIGINAL: "0"}) == UNKNOWN


def test_positions_are_signed_decimal_degrees() -> None:
    assert fields(gps=NORTH_EAST)["gps"] == pytest.approx({"latitude": 48.858222, "longitude": 2.2945}, abs=1e-6)
    south_west = {**NORTH_EAST, 1: "S", 3: "W", 5: b"\1", 6: IFDRational(25, 2)}
    expected = {"latitude": -48.858222, "longitude": -2.2945, "altitude": -12.5}
    assert fields(gps=south_west)["gps"] == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("change", [{1: "X"}, {2: (91.0, 0.0, 0.0)}, {4: (2.0, 17.0)}, {3: ""}])
def test_a_position_that_is_incomplete_or_off_the_globe_is_none(change: dict[int, Any]) -> None:
    assert fields(gps={**NORTH_EAST, **change})["gps"] is None


def test_real_files_with_broken_exif_are_read_without_an_error(shared_data: Path) -> None:
    for path in sorted((shared_data / "corrupt").iterdir()):
        found = read_exif(path.read_bytes())
        json.dumps(found, allow_nan=False)
        assert list(found) == list(UNKNOWN)
