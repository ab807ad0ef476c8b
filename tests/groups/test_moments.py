"""Times, exposures and numbers of files, from the fields of a manifest."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from curation_features.groups import Exposure, Moment, Photo
from curation_features.groups.moments import camera_of, exposure_of, file_number, folder_of, moment_of, resolve_moments
from curation_features.groups.pictures import pair_raws
from curation_features.groups.shots import may_be_one_moment

NOON = datetime(2024, 12, 25, 12, tzinfo=UTC).timestamp()


@pytest.mark.parametrize(
    ("exif", "expected"),
    [
        ({"datetime": "2024:12:25 12:00:01"}, Moment(NOON + 1, 1)),
        ({"datetime": "2024:12:25 12:00:01", "subseconds": "07", "utc_offset": "+05:00"}, Moment(NOON + 1.07, 0.01)),
        ({"datetime": "2024:12:25 12:00:01", "subseconds": "x"}, Moment(NOON + 1, 1)),
        ({"datetime": "0000:00:00 00:00:00"}, None),
        ({"datetime": None}, None),
        ({"datetime": 7}, None),
        ({}, None),
    ],
)
def test_a_moment_is_the_cameras_clock(exif: dict[str, Any], expected: Moment | None) -> None:
    found = moment_of(exif)
    if expected is None:
        assert found is None
    else:
        assert found is not None
        assert (found.seconds, found.resolution) == pytest.approx((expected.seconds, expected.resolution))


@pytest.mark.parametrize(
    ("exif", "expected"),
    [
        ({"shutter_speed": "1/60", "aperture": "f/1.8", "iso": 100}, Exposure(1 / 60, 1.8, 100)),
        ({"shutter_speed": "2.5", "exposure_bias": -0.67}, Exposure(2.5, bias_ev=-0.67)),
        ({"exposure_bias": 0, "exposure_mode": "auto bracket"}, Exposure(bias_ev=0.0, is_bracketed=True)),
        ({"shutter_speed": "1/0", "aperture": "f/", "iso": "?", "exposure_mode": "manual"}, Exposure()),
        ({"shutter_speed": "fast", "aperture": None, "iso": -1, "exposure_bias": "0"}, Exposure()),
        ({}, Exposure()),
    ],
)
def test_exposures_are_numbers_or_unknown(exif: dict[str, Any], expected: Exposure) -> None:
    assert exposure_of(exif) == expected
    assert camera_of({**exif, "camera": "Unknown"}) is None


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("a/IMG_0012.JPG", ("img_#", 12)),
        ("a\\IMG_0012 (1).CR3", ("img_#", 12)),
        ("s3://b/DSC00001-edited.arw", ("dsc#", 1)),
        ("P1010007.JPG", ("p#", 1010007)),
        ("20240101_120000_003.jpg", ("20240101_120000_#", 3)),
        ("00003IMG_00003_BURST20200101120000123_COVER.jpg", ("#img__burst20200101120000123", 3)),
        ("IMG_20240101_120000_BURST002_COVER.jpg", ("img_20240101_120000_burst#", 2)),
        ("PXL_20240101_120000123.jpg", None),  # a time
        ("IMG_20240101_120000.jpg", None),
        ("DSC_0001-2.jpg", None),  # the second edit of one photo
        ("portrait.jpg", None),
    ],
)
def test_a_file_has_the_cameras_number(path: str, expected: tuple[str, int] | None) -> None:
    assert file_number(path) == expected


def photo(path: str, seconds: float | None = None, resolution: float = 1.0, **changes: Any) -> Photo:
    moment = None if seconds is None else Moment(NOON + seconds, resolution)
    fields = {"sha256": path, "width": 6000, "height": 4000, "format": "JPEG", "camera": "A"}
    return Photo(path, path=path, moment=moment, **{**fields, **changes})


@pytest.mark.parametrize(
    ("seconds", "resolutions"),
    [
        ([0, 60, 120, 3600], [60] * 4),  # iCloud's dates
        ([0, 0, 0], [60] * 3),
        ([0, 60, 61, 3600], [1] * 4),
        ([59, 60, 61], [1] * 3),
        ([0, *range(60, 1201, 60), 7], [60] * 21 + [1]),  # one photo in the folder has seconds
    ],
)
def test_seconds_of_zero_throughout_are_unknown(seconds: list[int], resolutions: list[float]) -> None:
    photos = [photo(f"a/{place}.jpg", value) for place, value in enumerate(seconds)]
    others = [photo(f"b/{place}.jpg", value + 0.5, 0.1) for place, value in enumerate(seconds)]
    found = resolve_moments([*others, *photos])
    assert [moment.resolution for moment in found if moment] == [0.1] * len(others) + resolutions
    assert resolve_moments([*photos, *others])[::-1] == resolve_moments([*photos, *others][::-1])


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        (photo("a/IMG_001.jpg", 5), photo("b/IMG_001.jpg", 5), True),
        (photo("a/IMG_001.jpg", 5), photo("a/IMG_002.jpg", 5), False),
        (photo("a/IMG_001.jpg", 5), photo("a/IMG_001.jpg", 6), False),
        (photo("a/IMG_001.jpg", 5.25, 0.01), photo("a/IMG_002.jpg", 5.25, 0.01), True),
        (photo("a/IMG_001.jpg", 5.25, 0.01), photo("a/IMG_001.jpg", 5.26, 0.01), False),
        (photo("a/IMG_001.jpg", 5.25, 0.01), photo("a/IMG_001.jpg", 5), True),  # a copy that lost its decimals
        (photo("a/IMG_001.jpg", 5), photo("a/IMG_001.jpg", 5 + 7200), True),  # another time zone
        (photo("a/IMG_001.jpg", 5), photo("a/IMG_002.jpg"), True),
    ],
)
def test_frames_of_a_burst_are_not_one_moment(one: Photo, other: Photo, expected: bool) -> None:
    assert may_be_one_moment(one, other) is may_be_one_moment(other, one) is expected


def test_a_raw_file_belongs_to_the_rendered_one() -> None:
    raw = {"format": "CR3"}
    photos = [
        photo("a/IMG_1.JPG", 1),
        photo("a/img_1.cr3", 2, **raw),
        photo("b/IMG_1.CR3", 1, **raw),  # another folder
        photo("a/IMG_2.HEIC", 1, format="HEIC"),
        photo("a/IMG_2.CR3", None, camera=None, **raw),
        photo("a/IMG_2.jpg", 1),
        photo("a/IMG_3.jpg", 1),
        photo("a/IMG_3.CR3", 9, **raw),  # another moment: the counter began again
        photo("a/IMG_4.jpg", 1, camera="B"),
        photo("a/IMG_4.CR3", 1, **raw),
        photo("a/PXL_1.RAW-01.COVER.jpg", 1),
        photo("a/PXL_1.RAW-02.ORIGINAL.dng", 1, format="DNG"),
        photo("a/IMG_5.CR3.jpg"),
        photo("a/IMG_5.CR3", **raw),
    ]
    found = {photos[one].path: photos[other].path for one, other in pair_raws(photos).items()}
    assert found == {
        "a/img_1.cr3": "a/IMG_1.JPG",
        "a/IMG_2.CR3": "a/IMG_2.jpg",
        "a/PXL_1.RAW-02.ORIGINAL.dng": "a/PXL_1.RAW-01.COVER.jpg",
        "a/IMG_5.CR3": "a/IMG_5.CR3.jpg",
    }
    assert folder_of("x.jpg") == ""
