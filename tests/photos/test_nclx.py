"""Profiles of code points: against Apple's Display P3, Little CMS, and the levels of ITU-R BT.2408."""

from __future__ import annotations

from io import BytesIO

import numpy as np
import pytest
from other_formats import heic
from pictures import CAT_PIXELS, encoded
from PIL import Image, ImageCms

from curation_features.photos.boxes import read_nclx
from curation_features.photos.colour.nclx import colorants, to_profile
from curation_features.photos.decoders.avif import read_avif
from curation_features.photos.limits import DecodeLimits

APPLE_P3 = [[0.51512, 0.29198, 0.15710], [0.24120, 0.69225, 0.06657], [-0.00105, 0.04189, 0.78407]]
"""Columns rXYZ, gXYZ and bXYZ of Apple's "Display P3" profile."""


def as_srgb(primaries: int, transfer: int, *colours: tuple[int, int, int]) -> np.ndarray:
    profile, _ = to_profile(primaries, transfer)
    assert profile is not None
    image = Image.fromarray(np.array([colours], np.uint8))
    source = ImageCms.ImageCmsProfile(BytesIO(profile))
    converted = ImageCms.profileToProfile(image, source, ImageCms.createProfile("sRGB"), renderingIntent=1)
    return np.asarray(converted)[0].astype(int)


def test_the_colorants_are_those_of_apple() -> None:
    assert np.abs(colorants(12) - APPLE_P3).max() < 2e-4


def test_display_p3_becomes_srgb() -> None:
    """CSS Color 4: red and green of sRGB are (0.9175, 0.2003, 0.1386) and (0.4584, 0.9853, 0.2983) in Display P3."""
    found = as_srgb(12, 13, (234, 51, 35), (117, 251, 76), (128, 128, 128), (255, 255, 255), (0, 0, 0))
    assert (
        np.abs(found - [(255, 0, 0), (0, 255, 0), (128,) * 3, (255,) * 3, (0,) * 3]).max() <= 3
    )  # of 8-bit code values


def test_the_transfer_of_linear_light() -> None:
    assert np.abs(as_srgb(1, 8, (55, 55, 55), (128, 128, 128)) - [(128,) * 3, (188,) * 3]).max() <= 1


@pytest.mark.parametrize(("transfer", "white", "gray"), [(16, 0.58, 0.38), (18, 0.75, 0.38)])
def test_diffuse_white_of_hdr_is_white(transfer: int, white: float, gray: float) -> None:
    """BT.2408, table 1: 203 cd/m2 are 58 % PQ and 75 % HLG; 18 % gray, 26 cd/m2, is 38 % in both."""
    shades = [(round(255 * level),) * 3 for level in (white, gray, 1.0, 0.0)]
    found = as_srgb(9, transfer, *shades)[:, 1]
    linear = 26 / 203
    expected_gray = 255 * (1.055 * linear ** (1 / 2.4) - 0.055)
    assert found[0] >= 252
    assert abs(found[1] - expected_gray) <= 6
    assert (found[2], found[3]) == (255, 0)


def test_code_points_of_an_avif_are_read() -> None:
    data = encoded(CAT_PIXELS, "AVIF")
    stored = read_avif(data, DecodeLimits(10_000))
    assert read_nclx(data) == (1, 13)
    assert (stored.profile, stored.notes) == (None, ())
    nclx = data.index(b"colrnclx") + 8
    of_p3 = data[:nclx] + b"\0\x0c\0\x0d" + data[nclx + 4 :]
    assert read_nclx(of_p3) == (12, 13)
    assert read_avif(of_p3, DecodeLimits(10_000)).profile == to_profile(12, 13)[0]


def test_code_points_are_those_of_the_primary_image() -> None:
    pictures = {"others": [255 - CAT_PIXELS], "color_primaries": 12, "transfer_characteristics": 13}
    for primary in (0, 1):
        assert read_nclx(heic(CAT_PIXELS, primary_index=primary, matrix_coefficients=6, **pictures)) == (12, 13)
    assert read_nclx(heic(CAT_PIXELS, save_nclx_profile=False)) is None


def test_a_profile_of_an_avif_precedes_its_code_points() -> None:
    icc = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    assert read_avif(encoded(CAT_PIXELS, "AVIF", icc_profile=icc), DecodeLimits(10_000)).profile == icc
