"""Limits that a collection offers."""

from __future__ import annotations

import math
from dataclasses import asdict, fields, replace

import numpy as np
import pytest

from curation_features.schema import SIGNAL
from curation_features.signals.calibration import SIGNALS, flagged_photos, offered_limits, offers
from curation_features.signals.flags import DEFAULT_LIMITS, Limits, flags

LIMITS = [field.name for field in fields(Limits)]
OTHER_LIMITS = replace(DEFAULT_LIMITS, blurred=0.7, soft=0.5, dark=0.9, shaken_streak=1.1)


def collection(photos: int, seed: int = 1) -> dict[str, np.ndarray]:
    """Signals of random photos, some of them over each limit, and some undefined."""
    rng = np.random.default_rng(seed)
    scales = {"blur_px": 0.6, "noise_luma": 2.5, "streak": 1.2, "clipped_centre": 0.2, "blocks": 1.2}
    found = {name: np.round(rng.lognormal(np.log(scales.get(name, 1)), 0.4, photos), 3) for name in SIGNALS}
    for values in found.values():
        values[rng.random(photos) < 0.1] = np.nan
    return found


def one(limit: str, limits: Limits = DEFAULT_LIMITS, **values: list[float]):
    """The offer for a limit of photos with these signals, all others undefined."""
    size = len(next(iter(values.values())))
    given = {name: np.array(values.get(name, [np.nan] * size), float) for name in SIGNALS}
    return next(offer for offer in offers(given, limits) if offer.limit == limit)


def photos_of(values: dict[str, np.ndarray]) -> list[dict[str, float | None]]:
    rows = np.column_stack([values[name] for name in SIGNALS]).tolist()
    return [
        {name: None if math.isnan(number) else number for name, number in zip(SIGNALS, row, strict=True)}
        for row in rows
    ]


def names(photo: dict[str, float | None], limits: Limits) -> set[str]:
    return {flag.name for flag in flags(photo, limits)}


def test_every_limit_has_an_offer_of_its_percentile() -> None:
    values = collection(1000)
    found = {offer.limit: offer for offer in offers(values)}
    assert list(found) == LIMITS
    for limit, offer in found.items():
        known = values[offer.signal][~np.isnan(values[offer.signal])]
        percent = 90 if limit in ("soft", "shaken_blur") else 99
        assert offer.percentile == percent
        assert offer.offer == pytest.approx(np.percentile(known, percent), abs=0.5 * 10 ** -SIGNAL[offer.signal].digits)
        assert offer.value == getattr(DEFAULT_LIMITS, limit)


@pytest.mark.parametrize("limits", [DEFAULT_LIMITS, OTHER_LIMITS])
def test_counts_are_those_of_the_flags(limits: Limits) -> None:
    """`flags.flags` judges photo by photo; a limit's other rules of the same flag do not count."""
    values = collection(400)
    photos, found = photos_of(values), {offer.limit: offer for offer in offers(values, limits)}
    never = Limits(**dict.fromkeys(LIMITS, math.inf))
    alone = {
        "blurred": ("blurred",), "noisy_luma": ("noisy_luma",), "noisy_chroma": ("noisy_chroma",), "dark": ("dark",),
        "shaken_blur": ("shaken_blur", "shaken_streak"), "shaken_streak": ("shaken_blur", "shaken_streak"),
        "bright": ("bright",), "blocky": ("blocky",),
    }  # fmt: skip
    for limit, kept in alone.items():
        for value, count in ((found[limit].value, found[limit].flagged), (found[limit].offer, found[limit].would_flag)):
            only = Limits(**{**asdict(never), **{name: getattr(limits, name) for name in kept}, limit: value})
            assert count == sum(bool(names(photo, only)) for photo in photos) > 0, limit
    assert found["soft"].flagged == sum("soft" in names(photo, limits) for photo in photos) > 0
    flagged = sum(any(flag.kind == "flag" for flag in flags(photo, limits)) for photo in photos)
    assert flagged_photos(values, limits) == flagged > 0


def test_only_photos_with_all_signals_of_a_rule_count() -> None:
    offer = one("shaken_streak", blur_px=[0.9, 0.9, math.nan, 0.5], streak=[2.0, math.nan, 2.0, 2.0])
    assert (offer.measured, offer.flagged, offer.flags) == (2, 1, ("blurred", "shaken"))
    assert one("blurred", blur_px=[0.9, math.nan, 0.5]).measured == 2


def test_a_soft_photo_that_is_blurred_counts_once() -> None:
    offer = one("soft", blur_px=[0.5, 0.7, 0.9])
    assert (offer.flagged, offer.offer, offer.would_flag) == (1, 0.86, 0)  # numpy: 0.7 + 0.8 * 0.2


def test_an_offer_flags_what_is_over_its_rounded_value() -> None:
    values = [round(0.3 + n / 1000, 3) for n in range(201)]  # 0.3 to 0.5; the 99th percentile is 0.498
    offer = one("blurred", blur_px=values)
    assert (offer.offer, offer.would_flag, offer.measured) == (0.498, 2, 201)
    assert not offer.is_of_few
    assert one("blurred", blur_px=values[:199]).is_of_few


@pytest.mark.parametrize("values", [[], [math.nan] * 3, [0.0] * 500, [0.0] * 499 + [5.0]])
def test_without_measurements_or_with_perfect_ones_none(values) -> None:
    """A limit of 0 would flag every photo that is not perfect."""
    offer = one("noisy_luma", noise_luma=values)
    assert (offer.offer, offer.would_flag) == (None, None)
    assert offer.measured == sum(not math.isnan(value) for value in values)
    assert offered_limits([offer]) == DEFAULT_LIMITS


def test_offered_limits_replace_the_present_ones() -> None:
    found = offers(collection(1000))
    assert asdict(offered_limits(found)) == {offer.limit: offer.offer for offer in found}


def test_the_input_is_not_changed() -> None:
    values = collection(50)
    before = {name: numbers.copy() for name, numbers in values.items()}
    offers(values)
    for name, numbers in before.items():
        np.testing.assert_array_equal(values[name], numbers)
