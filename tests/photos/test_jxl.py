"""JPEG XL: pixel types, transcoded JPEGs, profiles."""

from __future__ import annotations

from io import BytesIO

import imagecodecs
import numpy as np
import pylibjxl
import pytest
from other_formats import jxl
from pictures import CAT_PIXELS, decoded, encoded, pillows
from PIL import Image, ImageCms

from curation_features.photos.colour.nclx import to_profile
from curation_features.photos.decoders.jxl import read_jxl
from curation_features.photos.limits import DecodeLimits

LIMITS = DecodeLimits(1_000_000)


@pytest.mark.parametrize("scale", [257, 1 / 255])
def test_sixteen_bits_and_floats_are_scaled(scale: float) -> None:
    values = (CAT_PIXELS * np.float64(scale)).astype(np.uint16 if scale > 1 else np.float32)
    assert np.abs(decoded(imagecodecs.jpegxl_encode(values, lossless=True)).rgb.astype(int) - CAT_PIXELS).max() <= 1


def test_gray_transparency_and_animation() -> None:
    gray = np.ascontiguousarray(CAT_PIXELS[..., 0])
    np.testing.assert_array_equal(decoded(jxl(gray)).rgb, gray[..., None].repeat(3, 2))
    alpha = np.linspace(0, 255, 96 * 64).reshape(96, 64, 1).round()
    rgba = np.concatenate([CAT_PIXELS, alpha.astype(np.uint8)], axis=2)
    expected = CAT_PIXELS * (alpha / 255) + 255 * (1 - alpha / 255)
    assert np.abs(decoded(jxl(rgba)).rgb - expected).max() <= 0.51
    gray_alpha = np.ascontiguousarray(rgba[..., [0, 3]])
    expected = gray[..., None] * (alpha / 255) + 255 * (1 - alpha / 255)
    assert np.abs(decoded(imagecodecs.jpegxl_encode(gray_alpha, lossless=True)).rgb - expected).max() <= 0.51
    frames = imagecodecs.jpegxl_encode(np.stack([CAT_PIXELS, 255 - CAT_PIXELS]), lossless=True)
    np.testing.assert_array_equal(decoded(frames).rgb, CAT_PIXELS)


def test_lossy_files_and_transcoded_jpegs_equal_another_decoder() -> None:
    jpeg = encoded(CAT_PIXELS, quality=95, subsampling=0)
    transcoded = pylibjxl.jpeg_to_jxl(jpeg)
    assert np.abs(decoded(transcoded).rgb.astype(int) - pillows(jpeg)).mean() < 1
    for data in (transcoded, imagecodecs.jpegxl_encode(CAT_PIXELS, distance=1.0)):
        np.testing.assert_array_equal(decoded(data).rgb, imagecodecs.jpegxl_decode(data))


@pytest.mark.parametrize("is_lossless", [True, False])
def test_pixels_and_profile_belong_together(is_lossless: bool) -> None:
    """A lossy file is stored in XYB; the decoder chooses a space, and the profile says which."""
    profile = to_profile(12, 13)[0]
    assert profile is not None
    colours = np.array([(200, 80, 60), (60, 180, 90), (90, 90, 200)], np.uint8).repeat(32, 0)[None].repeat(64, 0)
    data = pylibjxl.encode(colours, icc=profile, lossless=is_lossless)
    stored = read_jxl(data, LIMITS)
    found = as_srgb(stored.pixels, stored.profile)
    expected = as_srgb(colours, profile)
    assert np.abs(expected - colours.astype(int)).max() > 15  # the profile matters
    assert np.abs(found - expected).mean() <= (0 if is_lossless else 2)


def as_srgb(pixels: np.ndarray, profile: bytes | None) -> np.ndarray:
    if profile is None:
        return pixels.astype(int)
    source, target = ImageCms.ImageCmsProfile(BytesIO(profile)), ImageCms.createProfile("sRGB")
    return np.asarray(ImageCms.profileToProfile(Image.fromarray(pixels), source, target, renderingIntent=1)).astype(int)
