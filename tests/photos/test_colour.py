"""Colour: profiles become sRGB as their published primaries, curves and tables say."""

from __future__ import annotations

import struct
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pictures import CAT_PIXELS, decoded, encoded
from PIL import Image, ImageCms
from profiles import (
    DISPLAY_P3,
    PROPHOTO,
    SPACES,
    SRGB,
    Space,
    cicp,
    from_space,
    gray_profile,
    icc,
    lab_of,
    lut_profile,
    parametric,
    rgb_profile,
    srgb_code,
    srgb_curve,
    table_curve,
    to_space,
    xyz,
    xyz_of,
)
from skimage import data as bundled

from curation_features import TechnicalQualityAnalyzer
from curation_features.photos.colour import conversion as colour
from curation_features.photos.colour.conversion import to_srgb
from curation_features.photos.colour.matrix_profile import MAX_PROFILE_BYTES, _linearise, is_srgb
from curation_features.photos.colour.srgb_profile import SRGB_PROFILE
from curation_features.photos.decoding_version import decoding_version
from curation_features.settings import Settings
from curation_features.testing import FakeQualityModel
from curation_features.weights import LazyModel

ASTRONAUT = np.ascontiguousarray(bundled.astronaut()[:256, 100:356])
CHELSEA = np.asarray(Image.fromarray(bundled.chelsea()).resize((1024, 681), Image.Resampling.BICUBIC))
GRAYS = np.repeat(np.arange(256, dtype=np.uint8)[np.newaxis, :, np.newaxis], 3, axis=2)
P3 = rgb_profile(DISPLAY_P3)
GRAY_22 = gray_profile(lambda code: code**2.2)


def differences(pixels: np.ndarray, other: np.ndarray) -> np.ndarray:
    return np.abs(pixels.astype(int) - other.astype(int))


# RGB ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("major", [2, 4])
@pytest.mark.parametrize(("name", "levels"), [("Display P3", 2), ("Adobe RGB", 1), ("ProPhoto", 3)])
def test_a_copy_in_a_wider_space_is_the_srgb_picture(name: str, levels: int, major: int) -> None:
    """8 bits in a wider space are coarser: what is lost is `levels` at most, and a third of a level on average."""
    copy = to_space(ASTRONAUT, SPACES[name])
    pixels, notes = to_srgb(copy, rgb_profile(SPACES[name], major))
    assert notes == ()
    assert differences(pixels, from_space(copy, SPACES[name])).max() <= 1
    assert differences(pixels, ASTRONAUT).max() <= levels
    assert differences(pixels, ASTRONAUT).mean() < 0.33


@pytest.mark.parametrize("name", SPACES)
def test_colours_outside_srgb_are_clipped(name: str) -> None:
    levels = np.arange(0, 256, 17, dtype=np.uint8)
    grid = np.stack(np.meshgrid(levels, levels, levels), axis=-1).reshape(1, -1, 3)
    pixels, _ = to_srgb(grid, rgb_profile(SPACES[name]))
    assert differences(pixels, from_space(grid, SPACES[name])).max() <= 1


@pytest.mark.parametrize("kind", [b"scnr", b"mntr", b"prtr", b"spac"])
def test_profiles_of_each_class_are_read(kind: bytes) -> None:
    grid = to_space(CAT_PIXELS, PROPHOTO)
    reference = from_space(grid, PROPHOTO)
    assert differences(to_srgb(grid, rgb_profile(PROPHOTO, kind=kind))[0], reference).max() <= 1
    table = lut_profile(b"RGB ", 3, lambda nodes: lab_of(PROPHOTO.curve(nodes) @ PROPHOTO.to_pcs.T), 33, kind=kind)
    pixels = to_srgb(grid, table)[0]
    assert differences(pixels, reference).mean() < 1  # between nodes, colours are interpolated
    assert differences(grid, reference).mean() > 10


@pytest.mark.parametrize(
    "profile",
    [rgb_profile(SRGB), rgb_profile(SRGB, 4), SRGB_PROFILE, gray_profile(srgb_curve)],
    ids=["v2", "v4", "ours", "gray"],
)
def test_an_srgb_profile_changes_nothing(profile: bytes) -> None:
    pixels, notes = to_srgb(ASTRONAUT, profile)
    assert pixels is ASTRONAUT
    assert notes == ()


SRGB_PARAMETERS = (1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045)
CURVES = {
    "linear": (b"curv" + bytes(8), lambda code: code),
    "one-exponent": (b"curv" + struct.pack(">IIH2x", 0, 1, 563), lambda code: code ** (563 / 256)),
    "type-0": (parametric(0, 1.8), lambda code: code**1.8),
    "type-1": (parametric(1, 2, 0.9, 0.1), lambda code: (0.9 * code + 0.1) ** 2),
    "type-2": (parametric(2, 2, 0.8, 0.1, 0.1), lambda code: (0.8 * code + 0.1) ** 2 + 0.1),
    "type-4": (parametric(4, 2.4, *SRGB_PARAMETERS, 0.01, 0.01), lambda code: srgb_curve(code) + 0.01),
}


@pytest.mark.parametrize("name", CURVES)
def test_every_kind_of_curve_is_read(name: str) -> None:
    """Both readers of curves, littlecms and ours, agree with the formula of ICC.1:2022, 10.18."""
    tag, curve = CURVES[name]
    light = curve(np.arange(256) / 255)
    assert np.abs(_linearise(tag, np.arange(256) / 255) - light).max() < 1e-4
    light = np.clip(light, 0, 1)
    reference = srgb_code((light - light[0]) / (1 - light[0])) * 255  # black point compensation
    pixels = to_srgb(GRAYS, icc(b"GRAY", {b"kTRC": tag}, major=4))[0]
    assert np.abs(pixels[0, :, 0] - reference).max() <= 2


@pytest.mark.parametrize(("shift", "same"), [(0, True), (0.0001, True), (0.001, False), (0.01, False)])
def test_what_counts_as_srgb_hardly_changes_in_littlecms(shift: float, same: bool) -> None:
    profile = rgb_profile(Space(((0.64 + shift, 0.33), (0.30, 0.60 + shift), (0.15, 0.06))))
    levels = colour._make_samples("RGB")
    change = differences(colour._apply(levels, colour._build_transform(profile, "RGB"), "RGB"), levels).max()
    assert is_srgb(profile) == same
    assert (change <= 1) == same


REAL = {  # deviations from sRGB that littlecms gives, in levels
    "photos/craft-beer.jpg": 1,  # sRGB IEC61966-2.1
    "photos/denali.webp": 1,
    "photos/wood_anemones.jpg": 1,  # "c2", of 524 bytes
    "corrupt/xmp_test.jpg": 143,  # Adobe RGB (1998)
    "corrupt/xmp_tags_orientation.png": 79,  # ColorMatch RGB
    "corrupt/icc_profile_big.jpg": 53,  # a table of 400 kB
}


@pytest.mark.parametrize("name", REAL)
def test_profiles_of_real_files(name: str, shared_data: Path) -> None:
    data = (shared_data / name).read_bytes()
    with Image.open(BytesIO(data)) as image:
        profile = image.info["icc_profile"]
    levels = colour._make_samples("RGB")
    change = differences(to_srgb(levels, profile)[0], levels).max()
    assert change == (0 if REAL[name] == 1 else pytest.approx(REAL[name], abs=2))
    assert decoding_version(data) == (1 if change == 0 else 2)
    transform = ImageCms.buildTransform(
        ImageCms.ImageCmsProfile(BytesIO(profile)), ImageCms.createProfile("sRGB"), "RGB", "RGB", 1
    )
    expected = np.asarray(ImageCms.applyTransform(Image.fromarray(levels), transform))
    assert differences(to_srgb(levels, profile)[0], expected).max() <= 1


def test_a_profile_counts_by_its_numbers_not_its_name() -> None:
    p3 = rgb_profile(DISPLAY_P3).replace(b"test", b"sRGB")
    assert differences(to_srgb(ASTRONAUT, p3)[0], ASTRONAUT).max() > 10


def test_our_profile_is_srgb_with_constant_bytes() -> None:
    profile = ImageCms.ImageCmsProfile(BytesIO(SRGB_PROFILE)).profile
    assert profile.profile_description == "sRGB"
    assert profile.creation_date is not None
    assert profile.creation_date.year == 2000
    columns = [profile.red_colorant, profile.green_colorant, profile.blue_colorant]
    np.testing.assert_allclose(np.array([c[0] for c in columns]).T, SRGB.to_pcs, atol=2e-4)
    transform = ImageCms.buildTransform(
        ImageCms.createProfile("sRGB"), ImageCms.ImageCmsProfile(BytesIO(SRGB_PROFILE)), "RGB", "RGB"
    )
    image = Image.fromarray(ASTRONAUT)
    np.testing.assert_array_equal(np.asarray(ImageCms.applyTransform(image, transform)), ASTRONAUT)
    assert len(SRGB_PROFILE) < 500


# Gray -----------------------------------------------------------------------------------------------------------------


def dot_gain_20(code: np.ndarray) -> np.ndarray:
    """Linear light of ink on paper whose 50 % dots print as 70 %."""
    ink = 1 - code
    return 1 - (ink + GAIN * ink * (1 - ink))


@pytest.mark.parametrize("curve", [lambda code: code**2.2, lambda code: code**1.8, dot_gain_20])
def test_gray_profiles_apply_to_expanded_gray(curve) -> None:
    pixels, notes = to_srgb(GRAYS, gray_profile(curve))
    reference = np.rint(srgb_code(curve(np.arange(256) / 255)) * 255)
    assert np.abs(pixels[0] - reference[:, np.newaxis]).max() <= 1
    assert np.ptp(pixels, axis=2).max() == 0
    assert notes == ()


def test_a_gray_profile_of_a_colour_photo_is_ignored() -> None:
    pixels, notes = to_srgb(ASTRONAUT, GRAY_22)
    assert pixels is ASTRONAUT
    assert notes == ("profile_ignored",)


# CMYK -----------------------------------------------------------------------------------------------------------------


BLACK = 0.0112  # luminance of the darkest ink: L* 10
GAIN = 0.8  # dots of 50 % print as 70 %


def press(ink: np.ndarray) -> np.ndarray:
    """Lab of inks, 0..1, with dot gain: sRGB's light of (1 - ink)(1 - black), from `BLACK` to white."""
    printed = ink + GAIN * ink * (1 - ink)
    light = srgb_curve((1 - printed[:, :3]) * (1 - printed[:, 3:])) * (1 - BLACK) + BLACK
    return lab_of(light @ SRGB.to_pcs.T)


def inks_of(code: np.ndarray) -> np.ndarray:
    """Return the inks, 0..1, for sRGB's code values, 0..1; half of the gray is black ink."""
    black = (1 - code.max(axis=-1, keepdims=True)) / 2
    printed = np.concatenate([1 - code / (1 - black), black], axis=-1)
    return (1 + GAIN - np.sqrt((1 + GAIN) ** 2 - 4 * GAIN * np.clip(printed, 0, 1))) / (2 * GAIN)


def separated(rgb: np.ndarray) -> np.ndarray:
    """Return the inks, 255 is full, for sRGB pixels; black becomes the darkest ink."""
    return np.rint(inks_of(rgb / 255) * 255).astype(np.uint8)


def inks_of_lab(lab: np.ndarray) -> np.ndarray:
    light = xyz_of(lab) @ np.linalg.inv(SRGB.to_pcs).T
    return inks_of(srgb_code((light - BLACK) / (1 - BLACK)))


PRESS = lut_profile(b"CMYK", 4, press, 17, inks_of_lab)


def test_cmyk_goes_through_its_profile() -> None:
    pixels, notes = to_srgb(separated(ASTRONAUT), PRESS)
    assert notes == ()
    assert differences(pixels, ASTRONAUT).mean() < 1
    assert np.quantile(differences(pixels, ASTRONAUT), 0.999) <= 6
    naive, notes = to_srgb(separated(ASTRONAUT), None)
    assert differences(naive, ASTRONAUT).mean() > 10
    assert notes == ("cmyk_without_profile",)


def test_full_ink_is_255_and_the_darkest_ink_is_black() -> None:
    inks = np.diag([255, 255, 255, 255]).astype(np.uint8)[np.newaxis]
    paper = np.zeros((1, 1, 4), np.uint8)
    [cyan, magenta, yellow, black] = to_srgb(inks, PRESS)[0][0].tolist()
    assert to_srgb(paper, PRESS)[0].min() == 255
    assert max(black) <= 3  # without black point compensation: 27
    for colour_, missing in ((cyan, 0), (magenta, 1), (yellow, 2)):
        assert colour_[missing] <= 3
        assert min(level for channel, level in enumerate(colour_) if channel != missing) >= 252


def test_untagged_pixels_are_srgb() -> None:
    assert to_srgb(ASTRONAUT, None) == (ASTRONAUT, ())
    inks = np.array([[[0, 0, 0, 0], [255, 0, 0, 0], [0, 102, 0, 51], [0, 0, 0, 255]]], np.uint8)
    expected = [[255, 255, 255], [0, 255, 255], [204, 122, 204], [0, 0, 0]]
    assert differences(to_srgb(inks, None)[0][0], np.array(expected)).max() <= 1


# Profiles that cannot be used -----------------------------------------------------------------------------------------

BROKEN = {
    "empty": b"\0",
    "text": b"not a profile" * 100,
    "truncated": P3[:300],
    "head-only": P3[:128],
    "of-cmyk": PRESS,
    "lab": icc(b"Lab ", {}),
    "device-link": icc(b"RGB ", {}, kind=b"link"),
    "named-colours": icc(b"RGB ", {}, kind=b"nmcl"),
    "no-curves": icc(b"RGB ", {}),
    "black": icc(
        b"RGB ",
        {b"rTRC": table_curve([0, 1]), b"gTRC": table_curve([0, 1]), b"bTRC": table_curve([0, 1])}
        | {name: xyz((0, 0, 0)) for name in (b"rXYZ", b"gXYZ", b"bXYZ")},
    ),
    "endless-curve": P3.replace(b"curv\0\0\0\0\0\0\x04\0", b"curv\0\0\0\0\xff\xff\xff\xff"),
    "tags-outside": P3.replace(b"rXYZ\0\0", b"rXYZ\xff\xff"),
    "version-9": P3[:8] + b"\x09" + P3[9:],
    "too-large": P3 + bytes(MAX_PROFILE_BYTES),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_profile_that_cannot_be_used_is_noted_and_ignored(name: str) -> None:
    pixels, notes = to_srgb(ASTRONAUT, BROKEN[name])
    assert notes == ("profile_ignored",)
    assert pixels is ASTRONAUT


def test_a_photo_with_a_broken_profile_is_measured() -> None:
    photo = decoded(encoded(CAT_PIXELS, "PNG", icc_profile=BROKEN["truncated"]))
    np.testing.assert_array_equal(photo.rgb, CAT_PIXELS)
    assert photo.notes == ("profile_ignored",)
    cmyk, notes = to_srgb(separated(CAT_PIXELS), P3)
    np.testing.assert_array_equal(cmyk, to_srgb(separated(CAT_PIXELS), None)[0])
    assert notes == ("profile_ignored", "cmyk_without_profile")


@pytest.mark.parametrize(("profile", "channels"), [(P3, 3), (GRAY_22, 3), (PRESS, 4)], ids=["rgb", "gray", "cmyk"])
def test_damaged_profiles_raise_nothing(profile: bytes, channels: int) -> None:
    rng = np.random.default_rng(5)
    pixels = np.full((2, 2, channels), 77, np.uint8)
    for _ in range(60 if channels == 3 else 5):
        damaged = bytearray(profile)
        for place in rng.integers(0, min(len(profile), 1000), 4):
            damaged[place] = rng.integers(256)
        assert to_srgb(pixels, bytes(damaged))[0].shape == (2, 2, 3)


@pytest.mark.parametrize("transfer", [16, 18], ids=["pq", "hlg"])
def test_hdr_curves_are_ignored_and_hdr_tables_are_used(transfer: int) -> None:
    tag = cicp(9, transfer)
    curve = table_curve(np.linspace(0, 1, 1024) ** 6)
    names = (b"rTRC", b"gTRC", b"bTRC")
    columns = {name: P3[at : at + 20] for name, at in zip((b"rXYZ", b"gXYZ", b"bXYZ"), _tag_starts(P3), strict=True)}
    pixels, notes = to_srgb(ASTRONAUT, icc(b"RGB ", {**columns, **dict.fromkeys(names, curve), b"cicp": tag}, major=4))
    assert pixels is ASTRONAUT
    assert notes == ("hdr_profile", "profile_ignored")

    table = lut_profile(b"RGB ", 3, lambda nodes: lab_of(nodes**1.5 @ SRGB.to_pcs.T), 17, tags={b"cicp": tag})
    pixels, notes = to_srgb(ASTRONAUT, table)
    assert notes == ("hdr_profile",)
    assert differences(pixels, srgb_code((ASTRONAUT / 255) ** 1.5) * 255).mean() < 2


def _tag_starts(profile: bytes) -> list[int]:
    entries = [profile[132 + 12 * n : 144 + 12 * n] for n in range(int.from_bytes(profile[128:132], "big"))]
    starts = {entry[:4]: int.from_bytes(entry[4:8], "big") for entry in entries}
    return [starts[name] for name in (b"rXYZ", b"gXYZ", b"bXYZ")]


# Cache and threads ----------------------------------------------------------------------------------------------------


def test_threads_share_one_transform_per_profile(monkeypatch: pytest.MonkeyPatch) -> None:
    built: list[str] = []
    build = colour._build_transform
    monkeypatch.setattr(colour, "_build_transform", lambda *args: built.append(args[1]) or build(*args))
    colour._find_conversion.cache_clear()
    copy = to_space(ASTRONAUT, DISPLAY_P3)
    once = to_srgb(copy, P3)[0]
    with ThreadPoolExecutor(4) as pool:
        for pixels, _ in pool.map(lambda profile: to_srgb(copy, profile), [bytes(bytearray(P3)) for _ in range(24)]):
            np.testing.assert_array_equal(pixels, once)
    assert built == ["RGB"]


def test_pixels_of_the_caller_are_not_changed() -> None:
    for pixels, profile in ((to_space(CAT_PIXELS, DISPLAY_P3), P3), (separated(CAT_PIXELS), PRESS), (GRAYS, GRAY_22)):
        before = pixels.copy()
        pixels.flags.writeable = False
        assert to_srgb(pixels, profile)[0].flags.c_contiguous
        np.testing.assert_array_equal(pixels, before)
        pixels.flags.writeable = True


# Files ----------------------------------------------------------------------------------------------------------------

EXACT: dict[str, dict[str, Any]] = {
    "JPEG": {"quality": 98, "subsampling": "4:4:4"},
    "PNG": {},
    "TIFF": {},
}


def copies(kind: str) -> dict[str, bytes]:
    """The cat in a format: in sRGB, and in other spaces with their profile."""
    found = {"sRGB": encoded(CHELSEA, kind, **EXACT[kind])}
    for name in ("Display P3", "Adobe RGB"):
        space: Space = SPACES[name]
        found[name] = encoded(to_space(CHELSEA, space), kind, icc_profile=rgb_profile(space), **EXACT[kind])
    if kind in ("JPEG", "TIFF"):
        image = Image.fromarray(separated(CHELSEA), "CMYK")
        found["CMYK"] = encoded(image, kind, icc_profile=PRESS, **EXACT[kind])
    return found


@pytest.mark.long
@pytest.mark.parametrize("kind", EXACT)
def test_copies_score_like_the_srgb_picture(
    kind: str, settings: Settings, brisque_regressor: Path, tmp_path: Path
) -> None:
    brisque = settings.replace(brisque_weights=str(brisque_regressor))
    analyzer = TechnicalQualityAnalyzer(brisque, clip_iqa=LazyModel.ready(FakeQualityModel(), "fake"))
    scores = {}
    for name, content in copies(kind).items():
        path = tmp_path / f"{name}.{kind.lower()}"
        path.write_bytes(content)
        measured = analyzer.measure(path)
        scores[name] = {metric: measured[metric].score for metric in ("sharpness", "exposure", "noise", "brisque")}
        scores[name]["brisque"] = 1 - measured["brisque"].raw["brisque_raw"] / 100  # random weights: often below 0
    for name in scores:
        assert scores[name] == pytest.approx(scores["sRGB"], abs=0.01), name


def test_gray_files_go_through_their_profile() -> None:
    for kind in ("JPEG", "PNG", "TIFF"):
        gray = Image.fromarray(CAT_PIXELS).convert("L")
        plain, tagged = decoded(encoded(gray, kind)).rgb, decoded(encoded(gray, kind, icc_profile=GRAY_22)).rgb
        reference = np.rint(srgb_code((plain / 255) ** 2.2) * 255)
        assert differences(plain, tagged).max() > 1
        assert differences(tagged, reference).max() <= 1
