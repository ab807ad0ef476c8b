"""EXIF as ingest writes it: in the field's terms, finite values, and None if unknown."""

from __future__ import annotations

import json
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from pictures import tiff
from PIL import Image
from PIL.TiffImagePlugin import IFDRational
from specification import EXAMPLE

from curation_features.photos.exif.fields import camera_name, read_exif

MAKE, MODEL, DATE = 0x010F, 0x0110, 0x0132
EXPOSURE, F_NUMBER, ISO, FOCAL, LENS = 0x829A, 0x829D, 0x8827, 0x920A, 0xA434
ORIGINAL, DIGITIZED, LENS_INFO, NOTES = 0x9003, 0x9004, 0xA432, 0x927C
SHUTTER_APEX, APERTURE_APEX, MAX_APERTURE = 0x9201, 0x9202, 0x9205
OFFSET, OFFSET_ORIGINAL, OFFSET_DIGITIZED = 0x9010, 0x9011, 0x9012
SUBSECONDS, SUBSECONDS_ORIGINAL, SUBSECONDS_DIGITIZED = 0x9290, 0x9291, 0x9292
SENSITIVITY, STANDARD_OUTPUT, RECOMMENDED, SPEED = 0x8830, 0x8831, 0x8832, 0x8833
FIELDS = ("camera", "lens", "iso", "aperture", "shutter_speed", "focal_length", "datetime", "gps")
UNKNOWN = {**dict.fromkeys(FIELDS), "camera": "Unknown", "lens": "Unknown"}
NORTH_EAST = {1: "N", 2: (48.0, 51.0, 29.6), 3: "E", 4: (2.0, 17.0, 40.2)}  # the Eiffel Tower
NULL_ISLAND = {1: "N", 2: (0.0, 0.0, 0.0), 3: "E", 4: (0.0, 0.0, 0.0)}
NOTHING = IFDRational(0, 0)


def fields(base: Any = (), photo: Any = (), gps: Any = ()) -> dict[str, Any]:
    exif = Image.Exif()
    exif.update(base)
    exif.get_ifd(0x8769).update(photo)
    exif.get_ifd(0x8825).update(gps)
    buffer = BytesIO()
    Image.new("RGB", (8, 8)).save(buffer, "JPEG", exif=exif.tobytes())
    found = read_exif(buffer.getvalue())
    json.dumps(found, allow_nan=False)
    return found


def known(found: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in found.items() if value not in (None, "Unknown")}


def test_the_specifications_example() -> None:
    exposure = {ISO: 64, F_NUMBER: IFDRational(18, 10), EXPOSURE: IFDRational(1, 60), FOCAL: IFDRational(425, 100)}
    found = fields(
        {MAKE: "Apple", MODEL: "iPhone 11 Pro Max", DATE: "2025:01:01 00:00:00"},
        {**exposure, ORIGINAL: "2024:12:25 11:25:57"},
    )
    assert found == json.loads(EXAMPLE)["artifacts"][0]["exif"]
    assert list(found) == list(UNKNOWN)


def test_missing_fields_are_unknown() -> None:
    assert fields() == read_exif(b"") == read_exif(b"no photo") == UNKNOWN


R5 = {"camera": "Canon EOS R5"}


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("apex-only", R5 | {"aperture": "f/4.0", "shutter_speed": "1/64"}),
        ("dashes", R5 | {"datetime": "2012:12:22 10:37:28"}),
        ("slashes", R5 | {"datetime": "2007:06:30 18:45:17"}),
        ("with-zone", R5 | {"datetime": "2015:02:01 14:42:59", "utc_offset": "+01:00"}),
        ("digitized-only", R5 | {"datetime": "2024:12:25 11:25:57"}),
        ("digitized-and-modified", R5 | {"datetime": "2024:12:25 11:25:57"}),
        ("modified-only", R5),
        ("zero-original", R5 | {"datetime": "2024:12:25 11:25:57"}),
        ("f0.95", R5 | {"aperture": "f/0.95"}),
        ("iso-65535", R5 | {"iso": 102400}),
        ("gps-null-island", R5),
        ("gps-seconds-0-0", R5 | {"gps": {"latitude": 52.5, "longitude": 13.4}}),
        ("nul-garbage", {"camera": "GoPro HD2"}),
        ("utf8-model", {"camera": "小米 14 Ultra", "lens": "Voigtländer Nokton"}),
    ],
)
def test_the_inputs_are_read_as_their_readme_says(shared_data: Path, name: str, expected: dict[str, Any]) -> None:
    assert known(read_exif((shared_data / f"inputs/exif/{name}.jpg").read_bytes())) == expected


# Exposure


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [((1, 8000), "1/8000"), ((1, 4), "1/4"), ((3, 10), "0.3"), ((1, 2), "0.5"), ((5, 2), "2.5"), ((30, 1), "30")],
)
def test_shutter_speeds(seconds: tuple[int, int], shown: str) -> None:
    assert fields(photo={EXPOSURE: IFDRational(*seconds)})["shutter_speed"] == shown


@pytest.mark.parametrize(("number", "shown"), [(0.95, "f/0.95"), (1.4, "f/1.4"), (4, "f/4.0"), (11, "f/11.0")])
def test_apertures(number: float, shown: str) -> None:
    assert fields(photo={F_NUMBER: IFDRational(round(number * 100), 100)})["aperture"] == shown


@pytest.mark.parametrize(  # EXIF 2.3, annex C: table of apertures and shutter speeds
    ("photo", "expected"),
    [
        ({APERTURE_APEX: 5.0}, {"aperture": "f/5.7"}),
        ({APERTURE_APEX: 3.0, F_NUMBER: NOTHING}, {"aperture": "f/2.8"}),
        ({SHUTTER_APEX: 7.0}, {"shutter_speed": "1/128"}),
        ({SHUTTER_APEX: -3.0}, {"shutter_speed": "8"}),
        ({APERTURE_APEX: 3.0, F_NUMBER: 8.0, SHUTTER_APEX: 1.0, EXPOSURE: 0.01}, None),  # the direct tags count
        ({MAX_APERTURE: 3.0}, {}),
        ({APERTURE_APEX: 0.0, SHUTTER_APEX: 0.0}, {}),
        ({APERTURE_APEX: 60.0, SHUTTER_APEX: -60.0}, {}),
    ],
)
def test_apex_values_replace_missing_direct_ones(photo: dict[int, Any], expected: dict[str, str] | None) -> None:
    direct = {"aperture": "f/8.0", "shutter_speed": "1/100"}
    assert known(fields(photo=photo)) == (direct if expected is None else expected)


@pytest.mark.parametrize(  # EXIF 2.3, table 8: SensitivityType names the tag
    ("photo", "iso"),
    [
        ({ISO: 64}, 64),
        ({ISO: (200, 0)}, 200),
        ({ISO: 65535, SENSITIVITY: 1, STANDARD_OUTPUT: 204800, RECOMMENDED: 102400}, 204800),
        ({ISO: 65535, SENSITIVITY: 2, STANDARD_OUTPUT: 204800, RECOMMENDED: 102400}, 102400),
        ({ISO: 65535, SENSITIVITY: 3, SPEED: 409600, RECOMMENDED: 102400}, 409600),
        ({ISO: 65535, SPEED: 409600}, 409600),
        ({ISO: 65535}, 65535),
        ({RECOMMENDED: 800}, 800),
        ({ISO: 0, STANDARD_OUTPUT: 800}, 800),
        ({ISO: 100, RECOMMENDED: 102400}, 100),
        ({ISO: 0}, None),
    ],
)
def test_the_iso_is_found_in_the_tag_that_has_it(photo: dict[int, Any], iso: int | None) -> None:
    assert fields(photo=photo)["iso"] == iso


# Names


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


@pytest.mark.parametrize(
    ("stored", "name"),
    [
        (b"Canon EOS 5D\0\0 ", "Canon EOS 5D"),
        (b"HD2\0\xff\x12rest", "HD2"),
        (b"\0\0", "Unknown"),
        ("Fairphone für alle".encode(), "Fairphone für alle"),
        ("Fairphone für alle".encode("latin-1"), "Fairphone für alle"),
        (b" E-M10\x07\n ", "E-M10"),
        (b"A" * 150 + "小".encode() * 2000, "A" * 150 + "小" * 50),
    ],
)
def test_text_is_utf8_or_latin1_until_the_first_nul(stored: bytes, name: str) -> None:
    assert fields({MODEL: stored})["camera"] == name


@pytest.mark.parametrize("kind", [2, 129])  # EXIF 3.0 has a type for UTF-8
def test_both_types_of_text_are_read(kind: int) -> None:
    name = "小米 14 Ultra\0".encode()
    for order in "<>":
        assert read_exif(tiff([(MODEL, kind, len(name), 256)], name, order=order))["camera"] == "小米 14 Ultra"


@pytest.mark.parametrize(  # as ExifTool prints LensInfo
    ("model", "tenths", "name"),
    [
        ("EF24-70mm", (240, 1050, 40, 40), "EF24-70mm"),
        (None, (180, 550, 35, 56), "18-55mm f/3.5-5.6"),
        ("----", (500, 500, 18, 18), "50mm f/1.8"),
        ("0.0 mm f/0.0", (280, 800, None, None), "28-80mm"),
        (None, (None, None, None, None), "Unknown"),
        (None, (0, 0, 0, 0), "Unknown"),
    ],
)
def test_a_lens_is_named_or_specified(model: str | None, tenths: tuple[int | None, ...], name: str) -> None:
    specification = tuple(NOTHING if number is None else IFDRational(number, 10) for number in tenths)
    assert fields(photo={LENS_INFO: specification, **({LENS: model} if model else {})})["lens"] == name


def notes(make: bytes, head: bytes, entries: list[tuple[int, int, int, int]], tail: bytes) -> bytes:
    """Return a TIFF with maker notes at 1024: `head`, then a directory whose offsets count from the file."""
    body = head + tiff(entries, tail)
    directory = tiff([(0x8769, 4, 1, 512), (MAKE, 2, len(make), 256)], make).ljust(512, b"\0")
    return directory + tiff([(NOTES, 7, len(body), 1024)], b"")[8:].ljust(512, b"\0") + body


def test_lenses_in_maker_notes_are_read() -> None:
    lens = b"EF24-105mm f/4L IS USM\0"
    canon = notes(b"Canon\0", b"", [(0x95, 2, len(lens), 1024 + 248)], lens)
    canon = canon[:1024] + canon[1032:]  # the notes are a directory without the head of a TIFF
    numbers = (180, 10, 550, 10, 35, 10, 56, 10)
    nikon = b"".join(number.to_bytes(4, "little") for number in numbers)
    nikon = notes(b"NIKON CORPORATION\0", b"Nikon\0\2\x10\0\0", [(0x84, 5, 4, 256)], nikon)
    assert read_exif(canon)["lens"] == "EF24-105mm f/4L IS USM"
    assert read_exif(nikon)["lens"] == "18-55mm f/3.5-5.6"
    moved = notes(b"Canon\0", b"", [(0x95, 2, 6, 256)], lens)  # an editor moved the notes: the offset is of other text
    assert read_exif(moved[:1024] + moved[1032:])["lens"] == "Unknown"


# Time


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2012-12-22 10:37:28", {"datetime": "2012:12:22 10:37:28"}),
        ("2012:12:22T10:37:28", {"datetime": "2012:12:22 10:37:28"}),
        ("2012-12-22T10:37:28.045Z", {"datetime": "2012:12:22 10:37:28", "utc_offset": "+00:00", "subseconds": "045"}),
        ("2012:12:22 10:37:28-0330", {"datetime": "2012:12:22 10:37:28", "utc_offset": "-03:30"}),
        ("2012: 1: 2  3: 4: 5", {"datetime": "2012:01:02 03:04:05"}),
        ("2012-12-22T10:37", {"datetime": "2012:12:22 10:37:00"}),
        ("2024:02:29 00:00:00", {"datetime": "2024:02:29 00:00:00"}),
        ("2023:02:29 00:00:00", {}),
        ("2012:12:22 24:00:00", {}),
        ("2012:13:22 10:37:28", {}),
        ("0001:01:01 00:00:00", {}),
        ("0000:00:00 00:00:00", {}),
        ("    :  :     :  :  ", {}),
        ("2012:12:22", {}),
        ("12/22/2012 10:37:28", {}),
        ("2012-12:22 10:37:28", {}),
        ("2012:12:22 10:37:28 PM", {}),
        ("2012:12:22 10:37:28+25:00", {"datetime": "2012:12:22 10:37:28"}),
        ("2012:12:22 10:37:28-12:30", {"datetime": "2012:12:22 10:37:28"}),
        ("٢٠١٢:12:22 10:37:28".encode(), {}),
        ("0", {}),
    ],
)
def test_dates_are_read_as_cameras_and_programs_write_them(text: Any, expected: dict[str, str]) -> None:
    assert known(fields(photo={ORIGINAL: text})) == expected


@pytest.mark.parametrize(
    ("base", "photo", "expected"),
    [
        ({DATE: "2025:06:01 10:00:00"}, {}, {}),
        ({DATE: "2025:06:01 10:00:00"}, {ORIGINAL: "0000:00:00 00:00:00"}, {}),
        (
            {DATE: "2025:06:01 10:00:00"},
            {ORIGINAL: " ", DIGITIZED: "2024:12:25 11:25:57", OFFSET_DIGITIZED: "-12:00", SUBSECONDS_DIGITIZED: "07 "},
            {"datetime": "2024:12:25 11:25:57", "utc_offset": "-12:00", "subseconds": "07"},
        ),
        (
            {},
            {ORIGINAL: "2024:12:25 11:25:57", DIGITIZED: "2025:12:25 11:25:57", OFFSET: "+01:00", SUBSECONDS: "5"},
            {"datetime": "2024:12:25 11:25:57"},
        ),
        (
            {},
            {ORIGINAL: "2024:12:25 11:25:57.5+01:00", OFFSET_ORIGINAL: "+14:00", SUBSECONDS_ORIGINAL: "250"},
            {"datetime": "2024:12:25 11:25:57", "utc_offset": "+14:00", "subseconds": "250"},
        ),
        (
            {},
            {ORIGINAL: "2024:12:25 11:25:57", OFFSET_ORIGINAL: "   :  ", SUBSECONDS_ORIGINAL: "   "},
            {"datetime": "2024:12:25 11:25:57"},
        ),
    ],
)
def test_the_date_of_an_edit_is_never_the_capture(base: Any, photo: Any, expected: dict[str, str]) -> None:
    assert known(fields(base, photo)) == expected


# Series


def test_a_series_is_read_if_the_file_says_it() -> None:
    """The values of all formats are in `exif_files`, compared with ExifTool; these are the odd ones."""
    bias, mode = 0x9204, 0xA402
    assert known(fields(photo={bias: IFDRational(0, 1), mode: 1})) == {"exposure_bias": 0.0, "exposure_mode": "manual"}
    assert known(fields(photo={bias: NOTHING, mode: 7, NOTES: b"Apple iOS\0\0\1MM\0\1"})) == {}
    assert known(fields(photo={bias: IFDRational(-99, 1), NOTES: b"Nikon\0\2"})) == {}
    name = "b1f0cb6c-5f7a-4c7f-9f5e-000000000001"
    packet = f'<rdf:Description GCamera:BurstID="{name}" GCamera:BurstPrimary="1"/>'.encode()
    assert known(read_exif(tiff([(700, 1, len(packet), 256)], packet))) == {"burst_id": name}


# Position


def test_positions_are_signed_decimal_degrees() -> None:
    assert fields(gps=NORTH_EAST)["gps"] == pytest.approx({"latitude": 48.858222, "longitude": 2.2945}, abs=1e-6)
    south_west = {**NORTH_EAST, 1: "S", 3: "w", 5: b"\1", 6: IFDRational(25, 2)}
    expected = {"latitude": -48.858222, "longitude": -2.2945, "altitude": -12.5}
    assert fields(gps=south_west)["gps"] == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(
    ("reference", "altitude"), [(b"\0", 12.5), (b"\1", -12.5), (b"\2", 12.5), (b"\3", -12.5), (b"1", -12.5)]
)
def test_altitudes_have_the_sign_of_their_reference(reference: bytes, altitude: float) -> None:
    assert fields(gps={**NORTH_EAST, 5: reference, 6: IFDRational(25, 2)})["gps"]["altitude"] == altitude


@pytest.mark.parametrize(
    "change",
    [
        {1: "X"},
        {2: (91.0, 0.0, 0.0)},
        {4: (2.0, 17.0)},
        {3: ""},
        {2: (NOTHING, 0.0, 0.0)},
        {4: (1, 2, IFDRational(1, 0))},
    ],
)
def test_a_position_that_is_incomplete_or_off_the_globe_is_none(change: dict[int, Any]) -> None:
    assert fields(gps={**NORTH_EAST, **change})["gps"] is None


def test_minutes_and_seconds_may_be_missing() -> None:
    position = {**NORTH_EAST, 2: (48.5, NOTHING, NOTHING), 4: (2.0, 17.25, NOTHING), 6: IFDRational(1, 0)}
    assert fields(gps=position)["gps"] == {"latitude": 48.5, "longitude": 2.2875}


@pytest.mark.parametrize(
    ("signs", "has_position"),
    [
        ({}, False),
        ({8: "00", 9: "V"}, False),
        ({8: "07"}, True),
        ({9: "A"}, True),
        ({10: "3"}, True),
        ({11: 1.5}, True),
    ],
)
def test_zero_zero_is_a_position_only_with_a_fix(signs: dict[int, Any], has_position: bool) -> None:
    found = fields(gps={**NULL_ISLAND, **signs})["gps"]
    assert found == ({"latitude": 0, "longitude": 0} if has_position else None)
    assert fields(gps={**NULL_ISLAND, 4: (0.0, 0.0, 1.0)})["gps"] is not None


# Damage


def test_zero_denominators_and_senseless_values_are_none() -> None:
    photo = {F_NUMBER: NOTHING, EXPOSURE: IFDRational(1, 0), FOCAL: 0, ISO: 0}
    assert fields(photo=photo, gps={**NORTH_EAST, 2: (NOTHING, 0.0, 0.0)}) == UNKNOWN


@pytest.mark.parametrize("lost", [0x8769, 0x8825])
def test_a_lost_directory_does_not_cost_the_others(lost: int) -> None:
    name = b"X100\0"
    entries = [(MODEL, 2, len(name), 256), (0x8769, 4, 1, 300), (0x8825, 4, 1, 300)]
    entries = [(tag, kind, count, 9**9 if tag == lost else value) for tag, kind, count, value in entries]
    found = read_exif(tiff(entries, name.ljust(44, b"\0") + tiff([(ISO, 3, 1, 64)], b"")[8:]))
    assert known(found) == {"camera": "X100"} | ({"iso": 64} if lost == 0x8825 else {})


def test_real_files_with_broken_exif_are_read_without_an_error(shared_data: Path) -> None:
    for path in sorted((shared_data / "corrupt").iterdir()):
        found = read_exif(path.read_bytes())
        json.dumps(found, allow_nan=False)
        assert [*found][: len(UNKNOWN)] == list(UNKNOWN)
        assert {*found} - {*UNKNOWN} <= {"utc_offset", "subseconds", "exposure_bias", "exposure_mode", "burst_id"}
