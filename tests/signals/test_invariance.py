"""Signals follow the photo, not its exposure, size, turn, compression or frame."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from degraded import blurred, noisy, rgb_of_gray

from curation_features.schema import SIGNAL, SIGNALS
from curation_features.signals.edges import edges
from curation_features.signals.flags import flags
from curation_features.signals.grain import grain
from curation_features.signals.table import MEASURES, measure_part
from curation_features.signals.views import Views

NAMES = ("astronaut", "chelsea", "coffee", "rocket")


def blur_of(rgb: np.ndarray) -> float:
    found = edges(Views(np.ascontiguousarray(rgb)))["blur_px"]
    assert found is not None
    return found


@pytest.mark.parametrize("name", NAMES)
def test_blur_stays_with_exposure_contrast_and_turns(photos, name):
    rgb = photos[name]
    expected = blur_of(rgb)
    for turned in (rgb[:, ::-1], rgb[::-1], np.rot90(rgb), np.rot90(rgb, 2)):
        assert blur_of(turned) == pytest.approx(expected, abs=0.03)  # the tiles begin elsewhere
    darker, flatter = rgb // 2, (rgb // 2 + 64).astype(np.uint8)
    assert blur_of(darker) == pytest.approx(expected, abs=0.03)
    assert blur_of(flatter) == pytest.approx(expected, abs=0.03)


@pytest.mark.long
def test_blur_stays_with_size_and_jpeg(beer):
    small = cv2.resize(beer, (1024, 683), interpolation=cv2.INTER_AREA)
    expected = blur_of(small)
    for width in (4000, 2000):
        resized = cv2.resize(beer, (width, width * 2 // 3), interpolation=cv2.INTER_AREA)
        assert blur_of(resized) == pytest.approx(expected, abs=0.03)
    for quality in (95, 85, 70):
        jpeg = cv2.imdecode(cv2.imencode(".jpg", small, [cv2.IMWRITE_JPEG_QUALITY, quality])[1], cv2.IMREAD_COLOR)
        assert blur_of(jpeg) == pytest.approx(expected, abs=0.03)


def test_borders_do_not_change_blur(photos):
    rgb = blurred(photos["astronaut"], 3)
    for grey in (0, 255):
        framed = cv2.copyMakeBorder(rgb, 40, 40, 25, 25, cv2.BORDER_CONSTANT, value=(grey, grey, grey))
        assert blur_of(framed) == pytest.approx(blur_of(rgb) * 512 / 592, rel=0.15)  # the preview has the frame, too
        borders = {side: measure_part(Views(framed), "facts").values[f"border_{side}"] for side in ("top", "left")}
        assert borders == {"top": pytest.approx(40 / 592, abs=0.003), "left": pytest.approx(25 / 562, abs=0.003)}


@pytest.mark.parametrize("sigma", [4, 12])
def test_noise_of_a_gradient_is_its_sigma(sigma):
    rows = np.linspace(60, 180, 682)[:, None] + np.zeros(1024)
    noise = np.random.default_rng(0).normal(0, sigma, rows.shape)
    found = grain(Views(rgb_of_gray(rows + noise)))["noise_luma"]
    assert found == pytest.approx(sigma, rel=0.2)


def ramps() -> dict[str, np.ndarray]:
    y, x = np.mgrid[:682, :1024].astype(float)
    sky = 220 * np.cos(np.hypot(x - 512, y - 341) / 900) ** 4
    random = np.random.default_rng(0)
    pictures = {
        "flat": 0 * x + 128,
        "black": 0 * x,
        "white": 0 * x + 255,
        "ramp": x / 1023 * 255,
        "falling ramp": y / 681 * 255,
        "diagonal ramp": (x + y) / 1704 * 255,
        "slow ramp": 100 + x / 100,
        "small ramp": x[:72, :96] / 95 * 255,
        "sky": sky,
        **{f"sky with noise {sigma}": sky + random.normal(0, sigma, x.shape) for sigma in (1, 3, 12)},
    }
    return {name: rgb_of_gray(gray) for name, gray in pictures.items()}


def test_pictures_without_edges_have_no_blur():
    assert {name: edges(Views(rgb))["blur_px"] for name, rgb in ramps().items()} == dict.fromkeys(ramps())


def test_every_photo_has_a_blur_however_soft(photos):
    for name, rgb in photos.items():
        soft = blurred(rgb, 9 * max(rgb.shape) / 1024)
        assert blur_of(rgb) < 0.85 < 1.5 < blur_of(soft), name
        assert blur_of((soft * 0.3).astype(np.uint8)) > 0.85, name


SHAPES = ((1, 1), (2, 95), (95, 95), (96, 96), (97, 131), (1, 400), (3000, 5), (40, 2000), (17, 96), (600, 11))


@pytest.mark.parametrize("shape", SHAPES)
def test_any_shape_gives_numbers_in_range_or_none(shape):
    rgb = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)
    for group in MEASURES:
        for name, value in measure_part(Views(rgb), group).values.items():
            signal = SIGNAL[name]
            assert value is None or signal.low <= value <= (signal.high or np.inf), name
            assert value is None or max(shape) >= 96 or group == "facts", name


def test_the_table_names_what_the_groups_measure(photos):
    views = Views(photos["coffee"])
    measured = [(name, group) for group in MEASURES for name in measure_part(views, group).values]
    assert measured == [(signal.name, signal.part) for signal in SIGNALS]
    values = {name: value for group in MEASURES for name, value in measure_part(views, group).values.items()}
    assert all(round(value, SIGNAL[name].digits) == value for name, value in values.items())


def flags_of(rgb: np.ndarray) -> dict[str, str]:
    views = Views(rgb)
    values = {name: value for group in MEASURES for name, value in measure_part(views, group).values.items()}
    return {flag.name: flag.reason for flag in flags(values)}


def test_each_fault_is_flagged_with_its_reason(photos):
    rgb = cv2.resize(photos["astronaut"], (1024, 1024), interpolation=cv2.INTER_CUBIC)
    line = np.zeros((31, 31), np.float32)
    line[15] = 1 / 31
    assert not flags_of(photos["astronaut"]).keys() & {"blurred", "noisy", "dark"}
    assert "px wide at 512 px, limit 0.85" in flags_of(blurred(rgb, 4))["blurred"]
    assert "shaken" in flags_of(cv2.filter2D(rgb, -1, line))
    assert "gray levels, limit 4" in flags_of(noisy(rgb, 14))["noisy"]
    assert "EV brighter" in flags_of((rgb * 0.3).astype(np.uint8))["dark"]
    assert " % of the middle is clipped to white, limit 28 %" in flags_of(np.maximum(rgb, 255))["bright"]
