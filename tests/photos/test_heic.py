"""HEIC: the primary image, its bits, colours and auxiliary images; safe releases only."""

from __future__ import annotations

import struct
from io import BytesIO

import numpy as np
import pillow_heif
import pytest
from other_formats import heic, with_transforms
from pictures import CAT_PIXELS, decoded, reason_of, refusal
from PIL import Image, ImageCms

from curation_features.photos.decoders.heic import check_releases, read_heic
from curation_features.photos.limits import DecodeLimits

LIMITS = DecodeLimits(1_000_000)
SAFE_DETAILS = "{'libheif': '1.23.4', 'decoders': {'libde265': 'libde265 HEVC decoder, version 1.1.3'}}"


def test_ten_bits_are_scaled() -> None:
    codes = np.linspace(0, 65535, 96 * 64).reshape(96, 64, 1).repeat(3, axis=2).astype(np.uint16)
    data = heic(codes, "RGB;16")
    assert pillow_heif.open_heif(data).info["bit_depth"] == 10
    assert np.abs(decoded(data).rgb - codes / 257).max() <= 1


def test_gray_and_transparency() -> None:
    gray = np.ascontiguousarray(CAT_PIXELS[..., 0])
    assert np.abs(decoded(heic(gray, "L")).rgb.astype(int) - gray[..., None]).max() <= 1
    alpha = np.linspace(0, 255, 96 * 64).reshape(96, 64, 1).round()
    rgba = np.concatenate([CAT_PIXELS, alpha.astype(np.uint8)], axis=2)
    expected = CAT_PIXELS * (alpha / 255) + 255 * (1 - alpha / 255)
    assert np.abs(decoded(heic(rgba, "RGBA")).rgb - expected).max() <= 2


def test_of_several_images_the_primary_is_measured() -> None:
    for primary in (0, 1):
        photo = decoded(heic(CAT_PIXELS, others=[255 - CAT_PIXELS], primary_index=primary))
        assert np.abs(photo.rgb.astype(int) - (CAT_PIXELS, 255 - CAT_PIXELS)[primary]).max() <= 1
        assert photo.notes == ("multi_picture",)


@pytest.mark.parametrize(
    ("kind", "note"),
    [
        (b"urn:com:apple:photo:2020:aux:hdrgainmap", "gain_map"),
        (b"urn:mpeg:hevc:2015:auxid:2", "depth_map"),
        (b"urn:com:apple:photo:2018:aux:portraiteffectsmatte", None),
    ],
)
def test_gain_and_depth_maps_are_noted(kind: bytes, note: str | None) -> None:
    box = struct.pack(">I4s4x", 13 + len(kind), b"auxC") + kind + b"\0"
    stored = read_heic(with_transforms(heic(CAT_PIXELS), 1, properties=box), LIMITS)
    assert stored.notes == ((note,) if note else ())
    assert np.abs(stored.pixels.astype(int) - CAT_PIXELS).max() <= 1


def test_the_profile_is_that_of_the_file() -> None:
    icc = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    image = Image.fromarray(CAT_PIXELS)
    image.info["icc_profile"] = icc
    buffer = BytesIO()
    pillow_heif.from_pillow(image).save(buffer)
    assert read_heic(buffer.getvalue(), LIMITS).profile == icc
    assert read_heic(heic(CAT_PIXELS), LIMITS).profile is None  # nclx of sRGB


@pytest.mark.parametrize(
    ("primaries", "transfer", "has_profile", "notes"),
    [
        (1, 13, False, ()),
        (2, 2, False, ()),
        (1, 1, False, ()),
        (12, 13, True, ()),
        (9, 1, True, ()),
        (9, 16, True, ("hdr_transfer",)),
        (9, 18, True, ("hdr_transfer",)),
        (10, 13, False, ("colour_unknown",)),
    ],
)
def test_code_points_become_a_profile(primaries: int, transfer: int, has_profile: bool, notes: tuple[str, ...]) -> None:
    data = heic(CAT_PIXELS, color_primaries=primaries, transfer_characteristics=transfer, matrix_coefficients=6)
    stored = read_heic(data, LIMITS)
    assert (stored.profile is not None, stored.notes) == (has_profile, notes)


# Safe releases


def test_the_installed_releases_are_safe() -> None:
    check_releases(pillow_heif.__version__, str(pillow_heif.libheif_info()))
    check_releases("1.7.0", SAFE_DETAILS)


@pytest.mark.parametrize(
    ("release", "details", "old"),
    [
        ("1.6.0", SAFE_DETAILS, "pillow-heif 1.6.0"),
        ("0.22.0", SAFE_DETAILS, "pillow-heif 0.22.0"),
        ("1.8.1", SAFE_DETAILS.replace("1.23.4", "1.23.3"), "libheif 1.23.3"),
        ("1.8.1", SAFE_DETAILS.replace("1.23.4", "1.9.9"), "libheif 1.9.9"),
        ("1.8.1", SAFE_DETAILS.replace("1.1.3", "1.0.16"), "libde265 1.0.16"),
    ],
)
def test_releases_with_holes_are_refused(release: str, details: str, old: str) -> None:
    error = refusal(lambda: check_releases(release, details))
    assert error.reason == "unsupported_format"
    assert old in str(error)
    assert 'pip install --upgrade "curation-features[heic]"' in str(error)


def test_no_byte_is_parsed_by_a_release_with_holes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pillow_heif, "__version__", "1.6.0")
    monkeypatch.setattr(pillow_heif, "HeifFile", lambda *_, **__: pytest.fail("parsed"))
    assert reason_of(heic(CAT_PIXELS)) == "unsupported_format"
