"""EXIF in the files of real encoders of HEIC, AVIF, JPEG XL and DNG."""

from __future__ import annotations

import pylibjxl
import pytest
from other_formats import dng, heic, jxl
from pictures import CAT_PIXELS, encoded
from PIL import Image

from curation_features.photos.exif.fields import read_exif


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
