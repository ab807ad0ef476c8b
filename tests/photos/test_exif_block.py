"""EXIF of HEIC, AVIF, JPEG XL and camera raw, against ExifTool if it is installed."""

from __future__ import annotations

import json
import shutil
import struct
import subprocess
from pathlib import Path

import numpy as np
import pylibjxl
import pytest
from other_formats import dng, heic, jxl
from pictures import CAT_PIXELS, encoded
from PIL import Image

from curation_features.photos.exif import read_exif
from curation_features.photos.exif_block import find_exif


def exif() -> Image.Exif:
    tags = Image.Exif()
    tags[271], tags[272] = "Drawn", "Camera"
    directory = tags.get_ifd(0x8769)
    directory[0x9003], directory[0x8827], directory[0x829D] = "2024:05:06 07:08:09", 640, 2.8
    return tags


FILES = {
    "HEIC": heic(CAT_PIXELS, exif=exif().tobytes()),
    "HEIC of two images": heic(CAT_PIXELS, exif=exif().tobytes(), others=[255 - CAT_PIXELS]),
    "AVIF": encoded(CAT_PIXELS, "AVIF", exif=exif()),
    "JXL": jxl(CAT_PIXELS, exif=exif().tobytes().removeprefix(b"Exif\0\0")),
    "JXL of a JPEG": pylibjxl.jpeg_to_jxl(encoded(CAT_PIXELS, exif=exif())),
    "DNG": dng(CAT_PIXELS),
}


@pytest.mark.parametrize("kind", FILES)
def test_exif_is_read_without_the_decoder(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("curation_features.errors.find_spec", lambda name: None)
    fields = read_exif(FILES[kind])
    assert fields["camera"] == "Drawn Camera"
    if kind != "DNG":
        assert (fields["datetime"], fields["iso"], fields["aperture"]) == ("2024:05:06 07:08:09", 640, "f/2.8")


@pytest.mark.parametrize("kind", ["HEIC", "AVIF", "DNG"])  # without a library, ExifTool has no compressed boxes
def test_exiftool_reads_the_same(kind: str, tmp_path: Path) -> None:
    if shutil.which("exiftool") is None:
        pytest.skip("ExifTool is not installed")
    path = tmp_path / "photo"
    path.write_bytes(FILES[kind])
    done = subprocess.run(["exiftool", "-json", path], capture_output=True, check=True)
    [found], fields = json.loads(done.stdout), read_exif(FILES[kind])
    assert fields["camera"] == f"{found['Make']} {found['Model']}"
    assert (fields["iso"], fields["datetime"]) == (found.get("ISO"), found.get("DateTimeOriginal"))


def test_other_raw_files_have_their_own_magic() -> None:
    of_tiff = dng(CAT_PIXELS, is_dng=False)
    for magic in (b"IIRO", b"IIRS", b"IIU\0"):
        assert find_exif(magic + of_tiff[4:]) == of_tiff
        assert read_exif(magic + of_tiff[4:])["camera"] == "Drawn Camera"
    jpeg = encoded(CAT_PIXELS, exif=exif())
    raf = b"FUJIFILMCCD-RAW ".ljust(84, b"0") + struct.pack(">II", 92, len(jpeg)) + jpeg
    assert read_exif(raf)["iso"] == 640


def test_damaged_files_have_no_exif_or_a_part_of_it() -> None:
    generator = np.random.default_rng(0)
    for data in FILES.values():
        for length in range(0, len(data), 97):
            read_exif(data[:length])
        for _ in range(100):
            damaged = bytearray(data)
            for position in generator.integers(0, min(len(data), 900), 3):
                damaged[position] ^= int(generator.integers(1, 256))
            read_exif(bytes(damaged))
