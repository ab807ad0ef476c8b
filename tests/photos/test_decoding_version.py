"""The version of decoding: 1 for photos whose pixels are as before profiles were read, which Pillow decodes alike."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pictures import CAT, encoded, pillows, png, rgb_of
from PIL import Image, TiffImagePlugin
from profiles import ADOBE_RGB, DISPLAY_P3, SRGB, gray_profile, lut_profile, rgb_profile, srgb_curve

from curation_features.photos.colour.srgb_profile import SRGB_PROFILE
from curation_features.photos.decoding_version import decoding_version

P3, GRAY_22 = rgb_profile(DISPLAY_P3), gray_profile(lambda code: code**2.2)
INKS = lut_profile(b"CMYK", 4, lambda ink: np.stack([100 * (1 - ink[:, 3]), *2 * [0 * ink[:, 3]]], axis=1), 11)
SRGB_PROFILES = {"ours": SRGB_PROFILE, "v2": rgb_profile(SRGB), "v4": rgb_profile(SRGB, 4)}

PLAIN: dict[str, tuple[str, str, dict[str, Any]]] = {
    "jpeg": ("RGB", "JPEG", {}),
    "progressive": ("RGB", "JPEG", {"progressive": True}),
    "gray-jpeg": ("L", "JPEG", {}),
    "cmyk-jpeg": ("CMYK", "JPEG", {}),
    "png": ("RGB", "PNG", {}),
    "gray-png": ("L", "PNG", {}),
    "palette-png": ("P", "PNG", {}),
    "bits-png": ("1", "PNG", {}),
    "webp": ("RGB", "WEBP", {}),
    "tiff": ("RGB", "TIFF", {}),
    "gray-tiff": ("L", "TIFF", {"compression": "tiff_lzw"}),
    "bmp": ("RGB", "BMP", {}),
    "gif": ("P", "GIF", {}),
    "avif": ("RGB", "AVIF", {"speed": 10}),
    **{f"srgb-jpeg-{name}": ("RGB", "JPEG", {"icc_profile": data}) for name, data in SRGB_PROFILES.items()},
    "srgb-png": ("RGB", "PNG", {"icc_profile": SRGB_PROFILE}),
    "srgb-webp": ("RGB", "WEBP", {"icc_profile": SRGB_PROFILE}),
    "srgb-tiff": ("RGB", "TIFF", {"icc_profile": SRGB_PROFILE}),
    "srgb-gray": ("L", "JPEG", {"icc_profile": gray_profile(srgb_curve)}),
    "huge-profile": ("RGB", "WEBP", {"icc_profile": P3 + bytes(5_000_000)}),
}

ALTERED: dict[str, tuple[str, str, dict[str, Any]]] = {
    "p3-jpeg": ("RGB", "JPEG", {"icc_profile": P3}),
    "adobe-jpeg": ("RGB", "JPEG", {"icc_profile": rgb_profile(ADOBE_RGB, 4)}),
    "gray-jpeg": ("L", "JPEG", {"icc_profile": GRAY_22}),
    "cmyk-jpeg": ("CMYK", "JPEG", {"icc_profile": INKS}),  # in two segments
    "p3-png": ("RGB", "PNG", {"icc_profile": P3}),
    "p3-webp": ("RGB", "WEBP", {"icc_profile": P3, "lossless": True}),
    "p3-tiff": ("RGB", "TIFF", {"icc_profile": P3}),
    "p3-avif": ("RGB", "AVIF", {"icc_profile": P3, "speed": 10}),
}


def file_in(kind: tuple[str, str, dict[str, Any]]) -> bytes:
    mode, name, options = kind
    return encoded(CAT.convert(mode), name, **options)


@pytest.mark.parametrize("name", PLAIN)
def test_results_of_the_same_pixels_stay_valid(name: str) -> None:
    data = file_in(PLAIN[name])
    assert decoding_version(data) == 1
    np.testing.assert_array_equal(rgb_of(data), pillows(data))


@pytest.mark.parametrize("name", ALTERED)
def test_results_of_other_pixels_are_outdated(name: str) -> None:
    data = file_in(ALTERED[name])
    assert decoding_version(data) == 2
    assert np.abs(rgb_of(data).astype(int) - pillows(data)).max() > 2


def test_deep_and_transparent_pngs_are_decoded_again() -> None:
    def chunks(depth: int, colour_type: int, *more: bytes) -> bytes:
        head = b"IHDR" + struct.pack(">2I5B", 4, 1, depth, colour_type, 0, 0, 0)
        return png(head, *more, b"IDAT" + zlib.compress(bytes(64)), b"IEND")

    transparent = b"tRNS\0\1"
    assert decoding_version(chunks(16, 2)) == 2
    assert decoding_version(chunks(16, 6)) == 2
    assert decoding_version(chunks(2, 0, transparent)) == 2
    assert decoding_version(chunks(16, 0)) == 1
    assert decoding_version(chunks(8, 0, transparent)) == 1
    assert decoding_version(chunks(2, 0)) == 1


def test_unusual_tiffs_are_decoded_again(shared_data: Path) -> None:
    files = [*shared_data.glob("inputs/tiff-*/*.tif")]
    assert len(files) >= 4
    assert [decoding_version(path.read_bytes()) for path in files] == [2] * len(files)
    assert decoding_version(encoded(Image.fromarray(np.full((4, 4), 300, np.uint16)), "TIFF")) == 2
    white_is_zero = TiffImagePlugin.ImageFileDirectory_v2()
    white_is_zero[262] = 0
    assert decoding_version(encoded(CAT.convert("L"), "TIFF", tiffinfo=white_is_zero)) == 2


def test_a_format_that_was_not_read_has_no_older_results() -> None:
    assert decoding_version(b"\0\0\0\x18ftypheic" + bytes(100)) == 1
    assert decoding_version(b"") == 1


@pytest.mark.parametrize("kind", [*PLAIN.values(), *ALTERED.values()], ids=[*PLAIN, *(f"{n}+" for n in ALTERED)])
def test_any_bytes_have_a_version(kind: tuple[str, str, dict[str, Any]]) -> None:
    data = file_in(kind)
    rng = np.random.default_rng(2)
    for length in rng.integers(0, 1000, 15):
        assert decoding_version(data[:length]) in (1, 2)
    for _ in range(15):
        damaged = bytearray(data)
        for place in rng.integers(0, min(len(data), 1500), 6):
            damaged[place] = rng.integers(256)
        assert decoding_version(bytes(damaged)) in (1, 2)
