"""Camera raw: the preview or a demosaic, turned once; damage has its reason."""

from __future__ import annotations

import struct
from io import BytesIO

import numpy as np
import pytest
import rawpy
from other_formats import dng
from pictures import decoded, encoded, reason_of
from PIL import Image

from curation_features.photos.decoders.raw import PREVIEW_SIDE
from curation_features.photos.formats import identify

ROWS, COLUMNS = np.mgrid[0:48, 0:64]
SENSOR = (
    np.stack([COLUMNS * 3 + 30, ROWS * 4 + 30, np.full_like(ROWS, 240)], axis=2)
    .astype(np.uint8)
    .repeat(2, 0)
    .repeat(2, 1)
)
"""(96, 128, 3): each colour covers a 2 x 2 cell of the mosaic."""
HALF = SENSOR[::2, ::2]


def picture(width: int, height: int) -> np.ndarray:
    """A preview that is not like the sensor's picture: blue is 200."""
    ramp = np.broadcast_to(np.linspace(20, 230, width).astype(np.uint8), (height, width))
    return np.stack([ramp, ramp, np.full_like(ramp, 200)], axis=2)


def preview(width: int, height: int, **options: object) -> bytes:
    return encoded(picture(width, height), quality=90, **options)


def test_without_a_preview_the_sensor_is_measured() -> None:
    photo = decoded(dng(SENSOR))
    assert (photo.source, photo.info.width, photo.info.height) == ("demosaic", 128, 96)
    assert np.abs(photo.rgb.astype(int) - HALF).max() <= 1  # the mosaic was made by the formula of sRGB


def test_a_dark_photo_stays_dark() -> None:
    """LibRaw's default makes 1 % of the pixels white."""
    dark = SENSOR // 4
    assert np.abs(decoded(dng(dark)).rgb.astype(int) - dark[::2, ::2]).max() <= 2
    with rawpy.imread(BytesIO(dng(dark))) as raw:
        assert raw.postprocess(half_size=True).max() > 2 * dark.max()


@pytest.mark.parametrize(
    ("sizes", "source"),
    [
        ([(PREVIEW_SIDE, 768)], "preview"),
        ([(768, PREVIEW_SIDE)], "preview"),
        ([(PREVIEW_SIDE - 1, 768)], "demosaic"),
        ([(160, 120), (PREVIEW_SIDE, 768)], "preview"),
        ([(PREVIEW_SIDE, 768), (160, 120)], "preview"),
    ],
)
def test_the_largest_preview_is_taken_if_it_is_large_enough(sizes: list[tuple[int, int]], source: str) -> None:
    photo = decoded(dng(SENSOR, previews=[preview(*size) for size in sizes]))
    assert (photo.source, photo.notes) == (source, ())
    if source == "preview":
        assert max(photo.info.width, photo.info.height) == PREVIEW_SIDE
        assert np.abs(photo.rgb[..., 2].astype(int) - 200).max() <= 8
    else:
        assert np.abs(photo.rgb.astype(int) - HALF).max() <= 1


def test_a_preview_below_a_third_of_the_sensor_is_not_taken() -> None:
    sensor = np.tile(SENSOR, (1, 25, 1))  # 3200 px: a third is 1067
    assert decoded(dng(sensor, previews=[preview(1066, 32)])).source == "demosaic"
    assert decoded(dng(sensor, previews=[preview(1067, 32)])).source == "preview"


@pytest.mark.parametrize("orientation", [1, 3, 5, 6, 7, 8])
def test_a_preview_is_turned_once(orientation: int) -> None:
    """It has the raw file's orientation, its own, or was turned before."""
    exif = Image.Exif()
    exif[274] = orientation
    for options in ({}, {"exif": exif}):
        photo = decoded(dng(SENSOR, orientation, previews=[preview(PREVIEW_SIDE, 768, **options)]))
        first, last = {1: (20, 230), 3: (230, 20), 5: (20, 230), 6: (20, 230), 7: (230, 20), 8: (230, 20)}[orientation]
        line = photo.rgb[:, 0, 0] if orientation > 4 else photo.rgb[0, :, 0]
        assert len(line) == PREVIEW_SIDE
        assert np.abs(np.array([line[0], line[-1]], int) - (first, last)).max() <= 8
    before = decoded(dng(SENSOR, orientation, previews=[preview(768, PREVIEW_SIDE)]))
    assert before.rgb.shape[:2] == (PREVIEW_SIDE, 768)


def test_a_preview_is_checked_like_a_jpeg() -> None:
    whole = preview(PREVIEW_SIDE, 768)
    for damaged in (whole[: len(whole) // 2], whole.replace(b"\xff\xc0", b"\xff\xc3", 1)):  # cut; lossless
        data = dng(SENSOR, previews=[whole]).replace(whole, damaged.ljust(len(whole), b"\0"))
        photo = decoded(data)
        assert (photo.source, photo.notes) == ("demosaic", ("preview_unreadable",))


def test_damage_and_unknown_cameras_have_a_reason() -> None:
    data = dng(SENSOR)
    assert reason_of(data[: len(data) // 2]) == "truncated"
    for start in (b"FOVb", b"FUJIFILMCCD-RAW ", b"IIRO\x08\0\0\0", b"\0\0\0\x18ftypcrx \0\0\0\1crx isom"):
        assert identify(start + bytes(400))
        assert reason_of(start + bytes(400)) in ("unsupported_format", "truncated", "unreadable")


def test_a_cut_dng_is_refused_although_its_preview_is_whole() -> None:
    data = dng(SENSOR, previews=[preview(PREVIEW_SIDE, 768)])
    entry = struct.pack("<HHI", 273, 4, 1)  # StripOffsets
    at = data.index(entry) + len(entry)
    (start,) = struct.unpack_from("<I", data, at)
    moved = (
        data[:at]
        + struct.pack("<I", len(data))
        + data[at + 4 :]
        + data[start : start + SENSOR.shape[0] * SENSOR.shape[1] * 2]
    )
    assert decoded(moved).source == "preview"
    assert reason_of(moved[:-1]) == "truncated"
    assert reason_of(moved[: len(data) + 100]) == "truncated"


def test_an_image_that_is_only_a_thumbnail_is_refused() -> None:
    assert reason_of(encoded(SENSOR, "TIFF", tiffinfo={254: 1, 271: "Drawn"})) == "unsupported_format"
