"""Signals are equal to slow formulas in double precision, from the papers."""

from __future__ import annotations

import math

import cv2
import numpy as np
import pytest
from scipy import ndimage

from curation_features.signals import blocking, edges, facts, grain, tones
from curation_features.signals.views import Views

MASK = np.outer([1, -2, 1], [1, -2, 1]) / 6


def rms_of_tiles(plane: np.ndarray, tile: int, weight: np.ndarray = MASK) -> np.ndarray:
    energy = ndimage.correlate(plane.astype(np.float64), weight, mode="mirror") ** 2
    rows, columns = plane.shape[0] // tile, plane.shape[1] // tile
    return np.sqrt(energy[: rows * tile, : columns * tile].reshape(rows, tile, columns, tile).mean((1, 3)))


def share_of_tiles(mask: np.ndarray, tile: int) -> np.ndarray:
    rows, columns = mask.shape[0] // tile, mask.shape[1] // tile
    return mask[: rows * tile, : columns * tile].reshape(rows, tile, columns, tile).mean((1, 3))


def usable(plane: np.ndarray, tile: int) -> np.ndarray:
    return share_of_tiles((plane < 4) | (plane > 251), tile) < 0.02


def radii_by_loops(inner: np.ndarray) -> list[float]:
    image = inner.astype(np.float64)
    noise = np.percentile(rms_of_tiles(inner, 16)[usable(inner, 16)], 5)
    laplacian = ndimage.correlate(image, np.array([[0, 1, 0], [1, -4, 1], [0, 1, 0]]), mode="mirror")
    corners = [(y, x) for y in range(1, image.shape[0] - 32, 32) for x in range(1, image.shape[1] - 32, 32)]
    corners.sort(key=lambda at: np.mean(laplacian[at[0] : at[0] + 32, at[1] : at[1] + 32] ** 2))
    radii = []
    for down, right, step in ((0, 1, 8), (1, 0, 8), (1, 1, 4), (1, -1, 4)):
        first, second = [], []
        for y, x in corners[-max(3, round(len(corners) * 0.2)) :]:
            here = image[y : y + 32, x : x + 32]
            ahead = image[y + down : y + down + 32, x + right : x + right + 32]
            behind = image[y - down : y - down + 32, x - right : x - right + 32]
            first.append(np.mean((ahead - behind) ** 2))
            second.append(np.mean((ahead + behind - 2 * here) ** 2))
        m1, m2 = np.mean(first) - 2 * noise**2, np.mean(second) - 6 * noise**2
        radii.append(math.sqrt((m1 + 2e-3) / (step * (m2 + 5e-5))))
    return radii


def test_blur_and_streak_are_the_ratio_of_moments(photos):
    for name in ("astronaut", "camera", "chelsea", "coffee", "rocket", "moon"):
        inner = Views(photos[name]).inner
        across, down, falling, rising = radii_by_loops(inner)
        streak = max(across / down, down / across, falling / rising, rising / falling)
        assert edges.blur(inner) == pytest.approx((max(across, down, falling, rising), streak), rel=2e-5), name


def test_noise_is_the_uneven_floor_of_immerkaers_mask(photos):
    for name in ("astronaut", "camera", "chelsea", "coffee"):
        views = Views(photos[name])
        low, quarter = np.percentile(rms_of_tiles(views.detail_luma, 12)[usable(views.detail_luma, 12)], (1, 25))
        assert grain.noise_luma(views.detail_luma) == pytest.approx(low**2 / max(quarter, 1e-3) / 0.775, abs=5e-6), name
        luma, red, blue = np.moveaxis(views.chroma, 2, 0)
        both = np.hypot(rms_of_tiles(red, 4), rms_of_tiles(blue, 4))
        brightness = np.rint(share_of_tiles(luma.astype(float), 4))
        low, quarter = np.percentile(both[(brightness > 8) & (brightness < 245)], (1, 25))
        assert grain.noise_chroma(views.chroma) == pytest.approx(low**2 / max(quarter, 1e-3) / 0.57, abs=5e-6), name


def test_tones_are_sorted_values(photos):
    for name, rgb in photos.items():
        views = Views(rgb)
        values, found = np.sort(views.preview_rgb.max(2), axis=None), tones.tones(views)
        encoded = values[math.ceil(0.995 * values.size) - 1] / 255
        linear = encoded / 12.92 if encoded <= 0.04045 else ((encoded + 0.055) / 1.055) ** 2.4
        assert found["headroom_ev"] == pytest.approx(max(0, -math.log2(linear + 1e-4)), abs=1e-9), name
        luma = np.sort(views.preview, axis=None) / 255
        high, low = (luma[math.ceil(share * luma.size) - 1] for share in (0.99, 0.01))
        assert found["contrast"] == pytest.approx(high - low, abs=1e-9), name


def test_clipping_counts_the_middle_half():
    rgb = np.zeros((200, 400, 3), np.uint8)
    rgb[50:100, 100:300, 0] = 253
    rgb[:50] = 255
    found = tones.tones(Views(rgb))
    assert [found[f"clipped_centre{end}"] for end in ("", "_red", "_green", "_blue")] == [0.5, 0.5, 0, 0]


def test_blocks_are_steps_at_every_eighth_row_and_column(photos):
    luma = Views(cv2.imdecode(cv2.imencode(".jpg", photos["coffee"], [1, 15])[1], 1)).luma
    ratios = []
    for plane in (luma.astype(float), luma.T.astype(float)):
        steps = np.abs(np.diff(plane, axis=0)).mean(1)
        steps = steps[: len(steps) // 8 * 8]
        at = np.arange(len(steps)) % 8 == 7
        ratios.append((steps[at].mean() + 0.1) / (steps[~at].mean() + 0.1))
    assert blocking.blocks(luma) == pytest.approx(min(ratios), rel=1e-5)
    assert min(ratios) > 1.7
    assert blocking.blocks(luma[3:, 3:]) < 1.1  # the caller must not give a crop


def test_facts_are_those_of_the_papers(photos):
    for name, rgb in photos.items():
        views = Views(rgb)
        found = facts.facts(views)
        shares = np.unique(views.preview, return_counts=True)[1] / views.preview.size
        red, green, blue = np.moveaxis(views.preview_rgb.astype(float), 2, 0)
        rg, yb = red - green, (red + green) / 2 - blue
        colourful = math.sqrt(rg.var() + yb.var()) + 0.3 * math.sqrt(rg.mean() ** 2 + yb.mean() ** 2)
        assert found["entropy"] == pytest.approx(-np.sum(shares * np.log2(shares)), abs=1e-9)
        assert found["colourfulness"] == pytest.approx(colourful, abs=1e-6)
        assert found["is_gray"] is (name in ("camera", "grass", "moon"))
        assert (found["aspect"], found["megapixels"]) == (rgb.shape[1] / rgb.shape[0], rgb[..., 0].size / 1e6)
