"""The focus is the radius of a known blur, in the sharpest part of the photo."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from degraded import blurred, noisy, rgb_of_gray
from PIL import Image, ImageDraw, ImageFont

from curation_features.signals.focus import focus


@pytest.mark.parametrize("radius", [1, 2, 4])
def test_the_radius_of_a_gaussian_is_found(polygons, radius):
    found = focus(blurred(polygons, radius))
    assert found.focus_px == pytest.approx(radius, rel=0.2)
    assert found.focus_px <= found.focus_median_px < 1.5 * radius


def test_a_radius_over_a_twelfth_of_a_tile_is_wide(polygons):
    assert 4.5 < focus(blurred(polygons, 8)).focus_px < 9


def test_a_step_as_sharp_as_pixels_is_a_third_of_a_pixel(polygons):
    assert focus(polygons).focus_px == pytest.approx(np.sqrt(1 / 8), abs=0.05)


@pytest.mark.parametrize("radius", [1, 2])
def test_noise_does_not_look_sharp(polygons, radius):
    assert focus(noisy(blurred(polygons, radius), 5)).focus_px == pytest.approx(radius, rel=0.3)


@pytest.mark.parametrize("turns", range(4))
def test_the_sharp_half_is_found(polygons, turns):
    half = polygons.copy()
    half[:, :800] = blurred(polygons, 6)[:, :800]
    found = focus(np.ascontiguousarray(np.rot90(half, turns)))
    left, top, width, height = found.box
    centre = (left + width / 2, top + height / 2)
    sharp = [centre[0] > 760, centre[1] < 840, centre[0] < 840, centre[1] > 760][turns]
    assert sharp
    assert found.focus_px < 0.5


def test_hot_pixels_stamps_and_frames_do_not_look_sharp(polygons):
    soft = blurred(polygons, 4)
    expected = focus(soft).focus_px
    random = np.random.default_rng(0)
    hot = soft.copy()
    hot[random.integers(0, 1200, 500), random.integers(0, 1600, 500)] = 255
    stamp = Image.fromarray(soft)
    ImageDraw.Draw(stamp).text((1250, 1110), "2026 11 28", fill=(255, 160, 0), font=ImageFont.load_default(50))
    framed = cv2.copyMakeBorder(soft, 50, 50, 50, 50, cv2.BORDER_CONSTANT, value=(0, 0, 0))
    for changed in (hot, np.asarray(stamp), framed):
        assert focus(changed).focus_px == pytest.approx(expected, rel=0.2)


def test_motion_is_seen_in_any_direction(polygons):
    for turn in (0, 30, 90):
        line = np.zeros((21, 21), np.float32)
        line[10] = 1
        line = cv2.warpAffine(line, cv2.getRotationMatrix2D((10, 10), turn, 1), (21, 21))
        found = focus(cv2.filter2D(polygons, -1, line / line.sum()))
        assert found.focus_px > 0.6  # edges along the motion stay sharp
        assert found.focus_median_px > 1.5


def test_no_edges_have_no_focus():
    flat = np.full((800, 1200), 128.0)
    for gray in (flat, flat + np.arange(1200) / 10, flat + np.random.default_rng(0).normal(0, 6, flat.shape)):
        assert focus(rgb_of_gray(gray)) is None


@pytest.mark.parametrize("shape", [(1, 1), (95, 95), (96, 96), (97, 131), (1, 400), (3000, 5), (40, 2000), (1537, 60)])
def test_any_shape_gives_a_place_inside_or_none(shape):
    rgb = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)
    found = focus(rgb)
    if found:
        left, top, width, height = found.box
        assert 0 <= left <= shape[1] - width
        assert 0 <= top <= shape[0] - height


@pytest.mark.long
def test_a_blurred_photo_of_24_megapixels_is_soft(beer):
    sharp, soft = focus(beer), focus(blurred(beer, 4))
    assert sharp.focus_px < 1
    assert 2.5 < soft.focus_px < 6
