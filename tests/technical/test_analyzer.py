from __future__ import annotations

import logging
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from curation_features.errors import InvalidWeightsError, MissingWeightsError, UndefinedMetricError
from curation_features.schema import CPU_METRICS, METRIC, METRIC_NAMES, FeatureError
from curation_features.settings import Settings
from curation_features.technical import analyzer as analyzer_module
from curation_features.technical.analyzer import TechnicalQualityAnalyzer
from curation_features.technical.brisque.loading import load_brisque
from curation_features.testing import FakeQualityModel
from curation_features.weights import LazyModel

FAKE_CLIP_IQA = LazyModel.ready(FakeQualityModel(), "fake")


class FakeBrisque:
    """Gives the same index for any image, or raises."""

    def __init__(self, result: float | Exception = 25.0) -> None:
        self.result = result

    def score(self, rgb: np.ndarray) -> float:
        if isinstance(self.result, Exception):
            raise self.result
        return self.result


def analyzer_with(settings: Settings, result: float | Exception = 25.0) -> TechnicalQualityAnalyzer:
    brisque = LazyModel.ready(FakeBrisque(result), "fake")
    return TechnicalQualityAnalyzer(settings, brisque=brisque, clip_iqa=FAKE_CLIP_IQA)


def without_weights(settings: Settings) -> TechnicalQualityAnalyzer:
    def locate():
        raise MissingWeightsError("no such weights")

    return TechnicalQualityAnalyzer(
        settings, brisque=LazyModel(locate, load_brisque), clip_iqa=LazyModel(locate, lambda _: FakeQualityModel())
    )


def odd_images() -> dict[str, np.ndarray]:
    """1 to 11 px, flat ones, a step edge, noise: some metrics are not defined for them."""
    rng = np.random.default_rng(0)
    step = np.zeros((32, 32, 3), np.uint8)
    step[:, 16:] = 200
    return {
        **{f"{side}x{side}": rng.integers(0, 256, (side, side, 3), dtype=np.uint8) for side in range(1, 12)},
        **{f"flat {level}": np.full((24, 24, 3), level, np.uint8) for level in (0, 128, 200, 255)},
        "row": rng.integers(0, 256, (1, 700, 3), dtype=np.uint8),
        "step": step,
        "noise": rng.integers(0, 256, (40, 30, 3), dtype=np.uint8),
    }


def test_a_photo_gets_five_scores(settings, bundled):
    analyzer = analyzer_with(settings)
    scores = analyzer.analyze(bundled("astronaut"))
    assert tuple(scores) == METRIC_NAMES
    # tanh(14671.146 / 2000), 0.006657 / 0.08, 1 - 25 / 100: the golden measurements of this photo
    assert scores["sharpness"] == pytest.approx(0.999999, abs=2e-6)
    assert scores["noise"] == pytest.approx(0.083217, abs=1e-5)
    assert scores["brisque"] == 0.75
    assert all(type(score) is float and 0 <= score <= 1 for score in scores.values())


def test_several_images_give_a_list(settings, bundled):
    analyzer = analyzer_with(settings)
    photos = [bundled("coffee"), bundled("moon")]
    expected = [analyzer.analyze(photo) for photo in photos]
    assert analyzer.analyze(photos) == analyzer.analyze_many(iter(photos)) == expected
    assert analyzer.analyze([]) == analyzer.analyze_many([]) == []


@pytest.mark.parametrize(
    ("image", "message"),
    [
        *((np.zeros(shape, np.uint8), "RGB image") for shape in ((4, 4), (4, 4, 4), (0, 4, 3))),
        (np.zeros((4, 4, 3)), "float64"),
    ],
)
def test_an_array_that_is_no_rgb_image(settings, image, message):
    with pytest.raises(TypeError, match=message):
        analyzer_with(settings).measure_cpu(image)


def test_only_what_is_asked_for_is_measured(settings, bundled):
    found = without_weights(settings).measure_cpu(bundled("moon"), {"noise", "sharpness"})
    assert tuple(found) == ("sharpness", "noise")
    with pytest.raises(ValueError, match="clip_iqa"):
        without_weights(settings).measure_cpu(bundled("moon"), ["clip_iqa"])


def test_numbers_are_plain_and_rounded(settings, bundled):
    for measured in analyzer_with(settings, 12.3456789).measure(bundled("coffee")).values():
        for value in (measured.score, *measured.raw.values()):
            assert type(value) is float
            assert value == round(value, 6)


def test_an_undefined_metric_is_an_error(settings):
    analyzer = analyzer_with(settings, UndefinedMetricError("undefined_statistics", "no contrast"))
    flat = np.full((24, 24, 3), 128, np.uint8)
    found = analyzer.measure(flat)
    assert found["noise"].error.reason == "flat_image"
    assert found["brisque"].error == FeatureError("brisque", "undefined_statistics", "no contrast")
    assert found["sharpness"].score == 0
    assert found["exposure"].score == pytest.approx(0.498, abs=0.001)
    scores = analyzer.analyze(flat)
    assert (scores["noise"], scores["brisque"]) == (1.0, 0.0) == (METRIC["noise"].default, METRIC["brisque"].default)


def test_an_unexpected_error_costs_one_metric_and_one_traceback(settings, bundled, caplog):
    analyzer = analyzer_with(settings, RuntimeError("out of cheese"))
    with caplog.at_level(logging.ERROR):
        found = analyzer.measure_cpu(bundled("moon"))
        analyzer.measure_cpu(bundled("moon"))
    assert found["brisque"].error == FeatureError("brisque", "internal_error", "out of cheese")
    assert all(found[name].score is not None for name in CPU_METRICS if name != "brisque")
    assert [bool(record.exc_info) for record in caplog.records] == [True, False]


@pytest.mark.parametrize(("value", "reason"), [(np.nan, "not_finite"), (np.inf, "not_finite"), (1.5, "out_of_range")])
def test_an_invalid_number_of_a_model_is_an_error(settings, bundled, value, reason):
    class Model(FakeQualityModel):
        def score(self, batch):
            return np.full(len(batch), value)

    clip_iqa = LazyModel.ready(Model(), "fake")
    analyzer = TechnicalQualityAnalyzer(settings, brisque=LazyModel.ready(FakeBrisque(value), ""), clip_iqa=clip_iqa)
    found = analyzer.measure(bundled("moon"))
    assert found["clip_iqa"].error.reason == reason
    assert (found["brisque"].error is None) == np.isfinite(value)


def test_missing_weights_are_an_error_or_none(settings, bundled, caplog):
    with pytest.raises(MissingWeightsError):
        without_weights(settings).measure_cpu(bundled("moon"))
    with pytest.raises(MissingWeightsError):
        without_weights(settings).analyze(bundled("moon"))
    degraded = without_weights(settings.replace(on_missing_weights="degrade"))
    found = degraded.measure(bundled("moon"))
    assert {name for name in METRIC_NAMES if found[name].error} == {"clip_iqa", "brisque"}
    assert found["brisque"].error.reason == "missing_weights"
    assert [name for name, score in degraded.analyze(bundled("moon")).items() if score is None] == [
        "clip_iqa", "brisque",
    ]  # fmt: skip
    assert [record.levelname for record in caplog.records] == ["WARNING"] * 2  # once per model


@pytest.mark.long
def test_models_are_those_that_settings_name(settings, brisque_pair, rn50_archive, tmp_path, bundled):
    named = settings.replace(
        brisque_weights=str(brisque_pair), clip_iqa_weights=str(rn50_archive), clip_iqa_side=64, device="cpu"
    )
    scores = TechnicalQualityAnalyzer(named).analyze(bundled("coffee"))
    assert scores["brisque"] == pytest.approx(1 - 0.300660, abs=1e-6)
    assert 0 < scores["clip_iqa"] < 1
    (tmp_path / "page.pt").write_text("<!DOCTYPE html>")
    with pytest.raises(InvalidWeightsError, match=r"page\.pt"):
        TechnicalQualityAnalyzer(named.replace(brisque_weights="page.pt")).analyze(bundled("coffee"))


def test_settings_decide_the_constants(settings, bundled, lazy_brisque):
    rgb = bundled("coffee")

    def measured(**changes):
        changed = settings.replace(**changes)
        return TechnicalQualityAnalyzer(changed, brisque=lazy_brisque, clip_iqa=FAKE_CLIP_IQA).measure_cpu(rgb)

    usual = measured()
    for changes, metrics in (
        ({"preview_side": 200}, {"sharpness", "exposure", "noise"}),
        ({"sharpness_scale": 9000.0}, {"sharpness"}),
        ({"clip_high": 200}, {"exposure"}),
        ({"noise_sigma_max": 0.01}, {"noise"}),
        ({"brisque_side": 300}, {"brisque"}),
    ):
        found = measured(**changes)
        assert {name for name in CPU_METRICS if found[name].score != usual[name].score} == metrics


def test_threads_give_what_one_thread_gives(settings, real_photos, lazy_brisque):
    analyzer = TechnicalQualityAnalyzer(settings, brisque=lazy_brisque, clip_iqa=FAKE_CLIP_IQA)
    photos = [rgb[:200, :300] for rgb in real_photos.values()] * 3
    alone = [analyzer.measure_cpu(rgb) for rgb in photos]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(analyzer.measure_cpu, photos)) == alone


@pytest.mark.parametrize(("name", "rgb"), odd_images().items())
def test_odd_images_get_a_number_or_a_known_reason_per_metric(settings, lazy_brisque, name, rgb):
    analyzer = TechnicalQualityAnalyzer(settings, brisque=lazy_brisque, clip_iqa=FAKE_CLIP_IQA)
    found = analyzer.measure(rgb)
    assert found["sharpness"].error is found["exposure"].error is found["clip_iqa"].error is None
    reasons = {metric: found[metric].error.reason for metric in METRIC_NAMES if found[metric].error}
    assert set(reasons.values()) <= {"flat_image", "too_small", "undefined_statistics"}
    assert ("brisque" in reasons) == (name not in ("noise", "step"))


def test_every_preview_metric_is_measured():
    assert set(analyzer_module._PREVIEW_METRICS) | {"brisque"} == set(CPU_METRICS)
