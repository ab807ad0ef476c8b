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
    assert (found.miniature == value).all()


def test_a_miniature_has_the_mean_luma_of_parts():
    """Parts of 8 x 6 px of a photo of 512 x 384 px."""
    luma = np.random.default_rng(0).integers(0, 256, (384, 512)).astype(np.uint8)
    expected = luma.reshape(64, 6, 64, 8).mean((1, 3))
    np.testing.assert_allclose(measure(rgb_of(luma)).miniature, expected, atol=0.5)


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


def test_keypoints_of_all_levels_lie_on_their_corners():
    """A displacement, such as that of ORB's levels, has the wrong direction in the mirrored photo."""
    luma = cv2.resize(data.camera(), (400, 400), interpolation=cv2.INTER_AREA)
    found, other = keypoints(luma), keypoints(np.ascontiguousarray(luma[:, ::-1]))
    apart = np.linalg.norm(found.positions[:, None] * (-1, 1) + (1, 0) - other.positions, axis=2).min(1) * 400  # px
    assert (apart < 1).mean() > 0.97


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
    before, after = tile_sharpness(luma), tile_sharpness(soft)
    np.testing.assert_allclose(after[:, :3], before[:, :3], rtol=0.35, atol=0.03)  # the floor of noise differs
    is_detailed = before[:, 4:] > 0.05
    assert (after[:, 4:] < 0.6 * before[:, 4:])[is_detailed].all()


def test_sharpness_is_gradient_over_variance_without_noise():
    luma = data.camera()[:160, :96]
    tiles = luma.reshape(8, 20, 8, 12).swapaxes(1, 2).reshape(64, 20, 12).astype(float)
    energy = np.square(np.diff(tiles, axis=1)).mean((1, 2)) + np.square(np.diff(tiles, axis=2)).mean((1, 2))
    floor = min(np.quantile(energy, 0.05), 16)
    expected = np.maximum(energy - floor, 0) / (tiles.var((1, 2)) + 25)
    assert tile_sharpness(luma).ravel() == pytest.approx(expected, rel=1e-5)


def test_noise_does_not_make_a_plain_tile_sharp():
    luma = data.camera().copy()
    luma[:128] = 90
    luma = np.clip(luma + np.random.default_rng(0).normal(0, 2, luma.shape), 0, 255).round().astype(np.uint8)
    sharpness = tile_sharpness(luma)
    assert sharpness[:2].max() < 0.05 < np.median(sharpness[4:])


def test_sharpness_is_measured_in_the_larger_copy():
    """A blur of 1 px at 1024 px, in one half, is under the resolution of the preview of 512 px."""
    rgb = cv2.resize(np.stack([data.camera()] * 3, axis=2), (1024, 1024), interpolation=cv2.INTER_CUBIC)
    rgb = cv2.addWeighted(rgb, 2.0, cv2.GaussianBlur(rgb, (0, 0), 1.5), -1.0, 0)  # detail as fine as a camera's
    soft = rgb.copy()
    soft[512:] = cv2.GaussianBlur(rgb, (0, 0), 0.8)[512:]
    preview = cv2.resize(soft, (512, 512), interpolation=cv2.INTER_AREA)
    detail = cv2.cvtColor(soft, cv2.COLOR_RGB2GRAY)
    np.testing.assert_array_equal(measure(preview, detail).sharpness, tile_sharpness(detail))
    np.testing.assert_array_equal(measure(soft).sharpness, tile_sharpness(detail))
    assert np.median(measure(soft).sharpness[4:] / measure(rgb).sharpness[4:]) < 0.8


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
    assert len(data_of) < 15_000
    assert to_bytes(found) == data_of
    for name in ("hashes", "thumbnail", "miniature", "sharpness"):
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
