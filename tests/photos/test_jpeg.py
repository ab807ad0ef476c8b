"""JPEG decoding: pixels equal Pillow's, and detected damage is an error."""

from __future__ import annotations

import random
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pictures import encoded, rgb_of
from PIL import Image
from skimage import data as bundled

from curation_features.errors import PhotoError
from curation_features.photos.jpeg import jpeg_pixels

CAT = Image.fromarray(bundled.chelsea())
VARIANTS: dict[str, dict[str, Any]] = {
    "baseline": {},
    "4:4:4": {"quality": 95, "subsampling": "4:4:4"},
    "4:2:2": {"quality": 40, "subsampling": "4:2:2"},
    "progressive": {"progressive": True, "quality": 85},
    "restarts": {"restart_marker_rows": 1, "quality": 85},
    "optimised": {"optimize": True, "quality": 20},
}


def pillows(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(BytesIO(data)).convert("RGB"))


def refused(data: bytes) -> bool:
    try:
        rgb_of(data)
    except PhotoError:
        return True
    return False


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_pixels_are_pillows_bit_for_bit(variant: str, mode: str) -> None:
    for size in ((451, 300), (33, 17), (1, 1)):
        data = encoded(CAT.convert(mode).resize(size), **VARIANTS[variant])
        assert jpeg_pixels(data) is not None
        np.testing.assert_array_equal(rgb_of(data), pillows(data))


@pytest.mark.long
def test_real_photos_equal_pillows_bit_for_bit(shared_data: Path) -> None:
    files = {path: path.read_bytes() for name in ("photos", "corrupt") for path in (shared_data / name).iterdir()}
    jpegs = {path.name: data for path, data in files.items() if data.startswith(b"\xff\xd8")}
    assert len(jpegs) > 25
    refusals = {name for name, data in jpegs.items() if refused(data)}
    # The first is truncated; the second has lost half its lines, which Pillow does not report.
    assert refusals == {"ultrahdr.jpg", "hopper_bad_exif.jpg"}
    for name in jpegs.keys() - refusals - {name for name in jpegs if "orientation" in name}:
        np.testing.assert_array_equal(rgb_of(jpegs[name]), pillows(jpegs[name]))


def scan(data: bytes) -> int:
    """Return the offset of the coded pixels."""
    return data.index(b"\xff\xda") + 14


@pytest.mark.parametrize("variant", VARIANTS)
def test_missing_pixels_in_the_middle_are_detected(variant: str) -> None:
    data = encoded(CAT, **VARIANTS[variant])
    start = (scan(data) + len(data)) // 2
    assert Image.open(BytesIO(data[:start] + data[start + 1500 :])).load()  # Pillow does not detect it
    assert refused(data[:start] + data[start + 1500 :])


@pytest.mark.parametrize("variant", VARIANTS)
def test_many_flipped_bits_are_mostly_detected(variant: str) -> None:
    data, flips, detected = encoded(CAT, **VARIANTS[variant]), random.Random(1), 0
    for _ in range(20):
        damaged = bytearray(data)
        for _ in range(50):
            damaged[flips.randrange(scan(data), len(data) - 2)] ^= 1 << flips.randrange(8)
        detected += refused(bytes(damaged))
    assert detected >= 10


def test_harmless_extra_bytes_are_not_damage() -> None:
    data = encoded(CAT)
    aligned, padded = (data[:-2] + rest + data[-2:] for rest in (bytes(range(1, 17)), bytes(5000)))
    before = data[:2] + b"\xff\xe5\0\4ab junk " + data[2:]
    for harmless in (aligned, padded, before, data + b"behind the end"):
        np.testing.assert_array_equal(rgb_of(harmless), pillows(data))


def test_cmyk_is_decoded_by_pillow() -> None:
    cmyk = encoded(CAT.convert("CMYK"), quality=95)
    np.testing.assert_array_equal(rgb_of(cmyk), pillows(cmyk))
