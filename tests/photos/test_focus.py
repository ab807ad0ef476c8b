"""The focus of an original, as `ingest` writes it and features show it."""

from __future__ import annotations

import json

import cv2
import numpy as np
import pytest
from pictures import encoded
from PIL import Image
from skimage import data as bundled

from curation_features.photos.copies import make_copies
from curation_features.photos.limits import DecodeLimits
from curation_features.photos.reader import PhotoFile
from curation_features.pipeline.signals_of_photo import signals_of_photo
from curation_features.schema import FOCUS_VERSION, SIGNALS, PhotoInfo, PhotoRecord, Signals
from curation_features.signals.focus import focus

LIMITS = DecodeLimits(max_pixels=50_000_000)
NAMES = [signal.name for signal in SIGNALS if signal.part == "focus"]
TURN_BACK = {1: None, 2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}
"""EXIF orientation -> Pillow's transposition that turns an upright image into the stored one."""


def half_sharp(side: int = 1700) -> Image.Image:
    """A photo that is sharp only in its upper left quarter."""
    pixels = np.tile(bundled.coffee(), (8, 6, 1))[:side, :side]
    blurred = cv2.GaussianBlur(pixels, (0, 0), 3)
    blurred[: side // 2, : side // 2] = pixels[: side // 2, : side // 2]
    return Image.fromarray(blurred)


def copies_of(data: bytes):
    return make_copies(PhotoFile(data, "0" * 64), LIMITS)


@pytest.mark.parametrize("orientation", TURN_BACK)
def test_the_sharpest_place_is_that_of_the_upright_photo(orientation) -> None:
    upright, exif = half_sharp(), Image.Exif()
    exif[0x0112] = orientation
    back = TURN_BACK[orientation]
    stored = upright if back is None else upright.transpose(Image.Transpose(back))
    found = copies_of(encoded(stored, "JPEG", quality=95, exif=exif)).focus
    assert found is not None
    assert list(found) == NAMES
    assert found["focus_left"] < 0.5
    assert found["focus_top"] < 0.5
    assert found["focus_px"] < found["focus_median_px"]


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_it_is_measured_on_all_pixels_of_the_original(mode) -> None:
    pixels = half_sharp(3000).convert(mode)
    found = copies_of(encoded(pixels, "TIFF")).focus
    if mode == "CMYK":  # not converted at full size
        assert found is None
        return
    expected = focus(np.asarray(pixels.convert("RGB")))
    assert found is not None
    assert expected is not None
    assert found["focus_px"] == pytest.approx(expected.focus_px, abs=1e-3)


def measured(width: int, height: int, kind: str = "JPEG") -> PhotoRecord:
    names = {part: [one.name for one in SIGNALS if one.part == part] for part in ("focus", "blocking", "facts")}
    parts = {part: Signals(dict.fromkeys(of_part, 0.25)) for part, of_part in names.items()}
    return PhotoRecord("one", "one.jpg", PhotoInfo("0" * 64, kind, width, height), signals=parts)


FOCUS = {"version": FOCUS_VERSION, **dict.fromkeys(NAMES, 0.5)}


@pytest.mark.parametrize(
    ("processing", "focus_px", "blocks", "megapixels"),
    [
        (None, 0.25, 0.25, 0.25),
        ({"original_size": [400, 300]}, 0.25, 0.25, 0.12),
        ({"original_size": [300, 400], "focus": FOCUS}, 0.25, 0.25, 0.12),
        ({"original_size": [4000, 3000], "focus": FOCUS}, 0.5, None, 12.0),
        ({"original_size": [4000, 3000]}, None, None, 12.0),
        ({"original_size": [4000, 3000], "focus": FOCUS | {"version": 0}}, None, None, 12.0),
        ({"original_size": [4000, 3000], "focus": FOCUS | {"focus_px": "sharp"}}, None, None, 12.0),
        ({"original_size": [4000, 3000], "focus": FOCUS | {"focus_left": 1.5}}, None, None, 12.0),
        ({"original_size": [4000, 3000], "focus": FOCUS | {"focus_px": True}}, None, None, 12.0),
        ({"original_size": "large"}, 0.25, 0.25, 0.25),
        ({"original_size": [0, 3]}, 0.25, 0.25, 0.25),
        ("none", 0.25, 0.25, 0.25),
    ],
)
def test_signals_of_a_reduced_copy_come_from_the_manifest(processing, focus_px, blocks, megapixels) -> None:
    found = signals_of_photo(measured(400, 300), json.loads(json.dumps({"processing_metadata": processing})))
    assert (found["focus_px"], found["blocks"], found["megapixels"]) == (focus_px, blocks, megapixels)
    assert signals_of_photo(measured(400, 300, "PNG"), {})["blocks"] is None


def test_a_photo_that_was_not_read_has_no_signals() -> None:
    found = signals_of_photo(PhotoRecord("one", "one.jpg"), {"processing_metadata": {"focus": FOCUS}})
    assert found == dict.fromkeys(signal.name for signal in SIGNALS)
