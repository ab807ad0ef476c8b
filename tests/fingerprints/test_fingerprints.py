"""Fingerprints of ordinary and of odd photos, and their bytes."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from skimage import data

from curation_features.fingerprints import from_bytes, hashes_of, to_bytes
from curation_features.fingerprints.borders import without_borders
from curation_features.fingerprints.keypoints import keypoints, mirrored
from curation_features.fingerprints.measure import measure, tile_sharpness


@pytest.fixture(scope="module")
def coffee():
    return measure(data.coffee())


def rgb_of(luma: np.ndarray) -> np.ndarray:
    return np.repeat(luma[..., None], 3, axis=2)


@pytest.mark.parametrize("value", [0, 77, 255])
@pytest.mark.parametrize("size", [(1, 1), (1, 700), (700, 1), (5, 96), (64, 64), (300, 400)])
def test_flat_photos_have_no_quality_and_no_keypoints(size, value):
    found = measure(np.full((*size, 3), value, np.uint8))
    assert (found.quality, len(found.keypoints.positions), float(found.sharpness.max())) == (0, 0, 0)
    assert not found.hashes.any()
    assert (found.thumbnail == value).all()


def test_gray_ramps_have_no_keypoints():
    ramp = rgb_of(np.tile(np.linspace(0, 255, 800).astype(np.uint8), (600, 1)))
    assert len(measure(ramp).keypoints.positions) == 0
    assert measure(ramp // 4 + 90).quality == 0  # under a gray level in a hundred from sample to sample


def test_bits_are_equal_with_any_number_of_threads(coffee):
    before = cv2.getNumThreads()
    try:
        cv2.setNumThreads(1)
        assert to_bytes(measure(data.coffee())) == to_bytes(coffee)
    finally:
        cv2.setNumThreads(before)


def test_keypoints_are_spread_and_inside(coffee):
    positions = coffee.keypoints.positions
    assert len(positions) == 256
    assert (positions >= 0).all()
    assert (positions <= (1, 400 / 600)).all()
    cells = {tuple(cell) for cell in np.floor(positions * (8, 12)).astype(int).tolist()}
    assert len(cells) >= 35  # of 64, some of which are a plain table


def test_mirror_exchanges_the_halves_of_descriptors():
    luma = cv2.resize(data.camera(), (400, 400), interpolation=cv2.INTER_AREA)
    found, other = keypoints(luma), keypoints(np.ascontiguousarray(luma[:, ::-1]))
    apart = np.abs(found.positions[:, None] * (-1, 1) + (1, 0) - other.positions).max(2) * 400  # px
    ours, theirs = np.nonzero(apart < 0.1)
    bits = np.unpackbits(mirrored(found.descriptors)[ours] ^ other.descriptors[theirs], axis=1).sum(1)
    assert len(bits) > 80
    assert np.median(bits) < 8  # 128 by chance


def test_sharpness_falls_where_a_photo_is_blurred():
    luma = data.camera()
    soft = luma.copy()
    soft[:, 256:] = cv2.GaussianBlur(luma, (0, 0), 2)[:, 256:]
    ratio = tile_sharpness(soft) / tile_sharpness(luma)
    np.testing.assert_allclose(ratio[:, :3], 1, rtol=1e-5)
    assert ratio[:, 4:].max() < 0.9
    assert np.median(ratio[:, 4:]) < 0.5


def test_sharpness_is_gradient_over_variance():
    luma = data.camera()[:160, :96]
    tile = luma[20:40, 12:24].astype(float)
    right, below = luma[20:40, 13:25] - tile, luma[21:41, 12:24] - tile
    expected = (np.square(right).mean() + np.square(below).mean()) / (tile.var() + 4)
    assert tile_sharpness(luma)[1, 1] == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("gray", [0, 200, 255])
def test_borders_are_cut_on_opposite_sides_only(gray):
    inner = data.camera()[100:300, 100:400]
    framed = cv2.copyMakeBorder(inner, 9, 12, 0, 0, cv2.BORDER_CONSTANT, value=gray)
    np.testing.assert_array_equal(without_borders(framed), inner)
    one_sided = framed[:-12]
    np.testing.assert_array_equal(without_borders(one_sided), one_sided)


def test_bytes_keep_a_fingerprint(coffee):
    data_of = to_bytes(coffee)
    found = from_bytes(data_of)
    assert len(data_of) < 11_000
    assert to_bytes(found) == data_of
    for name in ("hashes", "thumbnail", "sharpness"):
        np.testing.assert_array_equal(getattr(found, name), getattr(coffee, name))
    assert found.quality == coffee.quality
    np.testing.assert_array_equal(found.keypoints.descriptors, coffee.keypoints.descriptors)
    np.testing.assert_allclose(found.keypoints.positions, coffee.keypoints.positions, atol=1e-5)
    np.testing.assert_array_equal(hashes_of(data_of), coffee.hashes)


@pytest.mark.parametrize("damage", ["short", "long", "empty", "version", "flipped bit", "header alone"])
def test_damaged_bytes_are_refused(coffee, damage):
    whole = to_bytes(coffee)
    flipped = bytearray(whole)
    flipped[5000] ^= 4
    broken = {
        "short": whole[:-1],
        "long": whole + b"\0",
        "empty": b"",
        "version": b"FPR0" + whole[4:],
        "flipped bit": bytes(flipped),
        "header alone": whole[:12],
    }[damage]
    for decode in (from_bytes, hashes_of):
        with pytest.raises(ValueError, match="fingerprint"):
            decode(broken)
