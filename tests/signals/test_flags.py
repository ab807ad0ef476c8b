from __future__ import annotations

from dataclasses import fields, replace

import pytest

from curation_features.schema import SIGNAL
from curation_features.settings import SPECS
from curation_features.signals.flags import (
    DEFAULT_LIMITS,
    FLAGS,
    HINTS,
    RULES,
    Flag,
    FlagCount,
    Limits,
    count_flags,
    flags,
    limits_of,
)

CASES = [  # signals -> flags
    ({"blur_px": 0.85}, ["soft"]),
    ({"blur_px": 0.86}, ["blurred"]),
    ({"blur_px": 0.61, "streak": 1.51}, ["blurred", "shaken"]),
    ({"blur_px": 0.6, "streak": 3.0}, []),
    ({"blur_px": None, "streak": None}, []),
    ({"noise_luma": 4.1}, ["noisy"]),
    ({"noise_luma": None, "noise_chroma": 1.31}, ["noisy"]),
    ({"noise_luma": 4.0, "noise_chroma": 1.3}, []),
    ({"headroom_ev": 1.5}, ["dark"]),
    ({"clipped_centre": 0.29, "blocks": 1.8}, ["bright", "blocky"]),
    ({}, []),
]


@pytest.mark.parametrize(("signals", "expected"), CASES)
def test_a_value_over_its_limit_is_flagged(signals, expected):
    assert [flag.name for flag in flags(signals)] == expected


def test_the_reason_names_value_and_limit():
    assert flags({"blur_px": 0.95}) == [Flag("blurred", "flag", "edges 0.95 px wide at 512 px, limit 0.85")]
    assert flags({"blur_px": 0.851})[0].reason == "edges 0.851 px wide at 512 px, limit 0.85"
    assert flags({"clipped_centre": 0.3})[0].reason == "30.00 % of the middle is clipped to white, limit 28 %"
    assert flags({"headroom_ev": 2.0}, replace(DEFAULT_LIMITS, dark=1.0))[0].reason.endswith(
        "2.00 EV brighter before highlights clip, limit 1"
    )


def test_flags_are_counted_before_hints():
    found = [("soft", "hint"), ("later", "flag"), ("dark", "flag"), ("blurred", "flag"), ("dark", "flag")]
    counts = [("blurred", "flag", 1), ("dark", "flag", 2), ("later", "flag", 1), ("soft", "hint", 1)]
    assert count_flags(found) == [FlagCount(*count) for count in counts]


def test_rules_use_known_signals_and_every_limit():
    used = [pair for rule in RULES for pair in rule.over]
    assert {signal for signal, _ in used} <= SIGNAL.keys()
    assert {limit for _, limit in used} == {field.name for field in fields(Limits)}
    assert [f"limit_{field.name}" for field in fields(Limits)] == [name for name in SPECS if name.startswith("limit_")]
    assert (FLAGS, HINTS) == (("blurred", "noisy", "dark"), ("shaken", "soft", "bright", "blocky"))


def test_limits_are_those_of_the_settings(settings):
    given = {f"limit_{field.name}": number + 10.0 for number, field in enumerate(fields(Limits))}
    assert limits_of(settings.replace(**given)) == Limits(*given.values())
    assert limits_of(settings) == DEFAULT_LIMITS
