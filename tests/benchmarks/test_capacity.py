"""`benchmarks/capacity.py` computes in the units it names, and names the limit."""

from __future__ import annotations

import math
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture
def capacity(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(REPOSITORY / "benchmarks")
    monkeypatch.delitem(sys.modules, "photos", raising=False)
    import capacity

    return capacity


def test_a_day_of_photos(capacity: Any) -> None:
    """A machine with 10 cores at 0.1 CPU s a photo: 86,400 photos take 864 s of each stage, by hand."""
    ten = capacity.Hardware("ten cores", 10, 0, 1e9, 36.0, prepare=0.04, models=0.06)
    found = capacity.predict(86_400, ten, size=864)
    assert found.shards == 100
    assert found.seconds["processor"] == pytest.approx(864)
    assert found.seconds["network"] == pytest.approx(86_400 * 220e3 / 1e9)
    assert found.limit == "processor"
    beyond = found.elapsed_s - 864
    assert 0 < beyond < 100, "start, and a hundred shards of less than half a second on two processes"
    assert found.usd == pytest.approx(found.elapsed_s / 100 + 86_400 * 0.4e-6)
    assert found.finished_cpu_s == pytest.approx(0.85 + 100 * 0.0047 + 86_400 * 0.00012)
    assert found.files == 2 * 86_400 + 11 * 100
    assert found.index_bytes["float16"] == 86_400 * 768 * 2
    assert found.dagster_bytes["SQLite, a run each"] == pytest.approx(100 * 314e3)


@pytest.mark.parametrize(
    ("changed", "limit"),
    [({}, "processor"), ({"network": 1e6}, "network"), ({"gpus": 1, "models": 1.0}, "GPU")],
)
def test_the_slowest_stage_is_the_limit(capacity: Any, changed: dict[str, float], limit: str) -> None:
    machine = replace(capacity.Hardware("m", 8, 0, 1e12, 0, prepare=0.1, models=0.1), **changed)
    assert capacity.predict(100_000, machine).limit == limit


def test_twice_the_machines_take_half_the_time(capacity: Any) -> None:
    one, many = (capacity.predict(10**7, capacity.gpus(count)) for count in (8, 16))
    assert one.seconds["processor"] == 2 * many.seconds["processor"]
    assert one.seconds["GPU"] == 2 * many.seconds["GPU"]
    assert one.seconds["network"] == 2 * many.seconds["network"]


def test_what_breaks_first_depends_on_the_archive(capacity: Any) -> None:
    broken = [len(capacity.breaks(capacity.predict(photos, capacity.gpus(1)))) for photos in capacity.ARCHIVES]
    assert broken[0] == broken[1] == 0 < broken[2] <= broken[3]


def test_every_constant_has_unit_and_source(capacity: Any) -> None:
    for name, one in capacity.CONSTANTS.items():
        assert one.unit, name
        assert one.source, name
        assert 0 < one.value < math.inf, name


def test_durations_have_their_largest_unit(capacity: Any) -> None:
    shown = [capacity.duration(seconds) for seconds in (5, 90, 5400, 129_600, 63_072_000)]
    assert shown == ["5 s", "1.5 min", "1.5 h", "1.5 d", "2 y"]
