"""The signals and flags of one image."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from degraded import blurred
from PIL import Image
from skimage import data as bundled
from worlds import World

from curation_features import PhotoError, PhotoSignals, measure_signals
from curation_features.schema import SIGNAL
from curation_features.settings import Settings
from curation_features.signals import table

COFFEE = blurred(bundled.coffee(), 2.5)


def names(found: PhotoSignals, kind: str) -> list[str]:
    return [flag.name for flag in found.flags if flag.kind == kind]


def test_pixels_have_the_signals_and_flags_of_their_file(settings: Settings) -> None:
    Image.fromarray(COFFEE).save(settings.root / "coffee.png")
    found = [measure_signals(image, settings) for image in ("coffee.png", COFFEE, Image.fromarray(COFFEE))]
    assert found[0] == found[1] == found[2]
    assert list(found[0].values) == list(SIGNAL)
    assert [name for name, value in found[0].values.items() if value is None] == ["blocks"]
    assert (names(found[0], "flag"), found[0].errors) == (["blurred"], ())


def test_only_a_jpeg_file_has_blocks(settings: Settings) -> None:
    path = settings.root / "coffee.jpg"
    Image.fromarray(COFFEE).save(path, quality=8)
    assert "blocky" in names(measure_signals(path, settings), "hint")
    assert measure_signals(Image.open(path), settings).values["blocks"] is None


def test_limits_are_those_of_the_settings(settings: Settings) -> None:
    assert measure_signals(COFFEE, settings.replace(limit_blurred=50, limit_shaken_blur=50, limit_soft=50)).flags == ()


@pytest.mark.parametrize(("image", "error"), [("none.jpg", PhotoError), (COFFEE[..., 0], TypeError)])
def test_what_is_no_photo_is_an_error(settings: Settings, image: Any, error: type[Exception]) -> None:
    with pytest.raises(error):
        measure_signals(image, settings)


def test_a_failed_part_is_an_error_of_this_part(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(table, "MEASURES", {**table.MEASURES, "grain": lambda views: {"noise_luma": float("nan")}})
    found = measure_signals(COFFEE, settings)
    assert [(error.stage, error.reason) for error in found.errors] == [("grain", "internal_error")]
    assert (found.values["noise_luma"], names(found, "flag")) == (None, ["blurred"])


@pytest.mark.long
def test_a_batch_of_originals_has_the_same(world: World) -> None:
    artifact = world.photo("coffee.jpg")
    Image.fromarray(np.ascontiguousarray(COFFEE[::2, ::2])).save(world.root / "photos" / "coffee.jpg", quality=8)
    [features], _ = world.run({"batch_id": "trip", "artifacts": [artifact]})
    found = measure_signals(Path("photos/coffee.jpg"), world.settings)
    assert dict(found.values) == features["signals"]
    assert [(flag.name, flag.kind, flag.reason) for flag in found.flags] == [
        (flag["name"], flag["kind"], flag["reason"]) for flag in features["flags"]
    ]
    assert found.flags
