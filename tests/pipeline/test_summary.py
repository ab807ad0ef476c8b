"""Summary of a batch: percentiles, labels, errors and the worst photos by metric."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from records import SETTINGS, signals

from curation_features.manifest import batch_from
from curation_features.pipeline import EnrichedBatch, merge
from curation_features.pipeline.summary import (
    error_counts,
    extremes,
    failed_photos,
    flag_counts,
    flagged_count,
    label_distribution,
    score_percentiles,
    signal_percentiles,
)
from curation_features.schema import (
    METRIC_NAMES,
    Embedding,
    FeatureError,
    LabelPrediction,
    LabelScore,
    Measurement,
    PhotoInfo,
    PhotoRecord,
)

LABELS = tuple("abcdef")
FLAT = FeatureError("noise", "flat_image", "the image is flat")
GONE = FeatureError("photo", "missing", "no such file")


def photo(
    name: str, scores: Mapping[str, float | FeatureError] | float = 0.5, label: str = "a", sha256: str = ""
) -> PhotoRecord:
    """A measured photo; one number sets all scores, 1 best."""
    if isinstance(scores, float):
        scores = {metric: 1.0 - scores if metric == "noise" else scores for metric in METRIC_NAMES}
    measurements = {
        metric: Measurement(error=score) if isinstance(score, FeatureError) else Measurement(score)
        for metric, score in scores.items()
    }
    return PhotoRecord(
        name,
        f"{name}.jpg",
        PhotoInfo(sha256 or name, "JPEG", 3, 2),
        measurements=measurements,
        signals=signals(),
        embedding=Embedding(np.ones(4, np.float32)),
        prediction=LabelPrediction((LabelScore(label, 0.9, 0.3), LabelScore("f", 0.1, 0.2)), (0.3,) * 6, 0.8),
    )


def unread(name: str) -> PhotoRecord:
    return PhotoRecord(name, f"{name}.jpg", failure=GONE)


def merged(records: Sequence[PhotoRecord]) -> EnrichedBatch:
    artifacts = [{"photo_id": record.photo_id, "original_uri": record.image_uri} for record in records]
    batch = batch_from({"batch_id": "b", "artifacts": artifacts})
    return merge(batch, records, {"technical": "1", "clip": "1", "signals": "1"}, LABELS, SETTINGS)


def test_percentiles_are_of_what_was_measured() -> None:
    records = [photo(str(n), {"sharpness": n / 100, "noise": n / 50 if n < 51 else FLAT}) for n in range(101)]
    found = score_percentiles(merged([*records, unread("gone")]))
    assert set(found) == {"sharpness", "noise"}
    assert found["sharpness"] == pytest.approx({"p05": 0.05, "p50": 0.5, "p95": 0.95})
    assert found["noise"] == pytest.approx({"p05": 0.05, "p50": 0.5, "p95": 0.95})
    assert all(type(value) is float for value in found["sharpness"].values())
    assert score_percentiles(merged([unread("gone")])) == {}
    assert score_percentiles(merged([])) == {}


def with_signals(name: str, **values: float | bool | None) -> PhotoRecord:
    """A photo with these signals, and no flag from the others."""
    record = photo(name)
    record.signals = signals(**{"clipped_centre": 0.0, **values})
    return record


def test_signals_have_percentiles_of_what_was_measured() -> None:
    records = [with_signals(str(n), blur_px=n / 100, focus_px=None if n else 2.0, noise_luma=None) for n in range(101)]
    found = signal_percentiles(merged([*records, unread("gone")]))
    assert found == {
        "blur_px": pytest.approx({"p05": 0.05, "p50": 0.5, "p95": 0.95}),
        "headroom_ev": {"p05": 0.5, "p50": 0.5, "p95": 0.5},
        "focus_px": {"p05": 2.0, "p50": 2.0, "p95": 2.0},
    }
    assert signal_percentiles(merged([unread("gone")])) == {}


def test_flags_are_counted_before_hints_without_zeros() -> None:
    records = [
        with_signals("1", clipped_centre=0.5),
        with_signals("2", blur_px=0.7, clipped_centre=0.5),
        with_signals("3", headroom_ev=3.0),
        with_signals("4", headroom_ev=3.0, blur_px=0.9),
        with_signals("5"),
        unread("gone"),
    ]
    counts = [(flag.name, flag.artifacts) for flag in flag_counts(merged(records))]
    assert counts == [("blurred", 1), ("dark", 2), ("soft", 1), ("bright", 2)]
    assert flagged_count(merged(records)) == 2
    assert flag_counts(merged([])) == []


def test_labels_are_counted_over_photos_that_have_some() -> None:
    unlabelled = photo("x")
    unlabelled.prediction = LabelPrediction(error=FeatureError("clip_labels", "missing_weights", "no weights"))
    records = [photo("1", label="c"), photo("2", label="b"), photo("3", label="b"), unlabelled, unread("gone")]
    shares = [(share.label, share.artifacts, share.share) for share in label_distribution(merged(records))]
    assert shares == [("b", 2, pytest.approx(2 / 3)), ("c", 1, pytest.approx(1 / 3))]
    assert label_distribution(merged([unlabelled])) == []


def test_errors_are_counted_by_stage_and_reason() -> None:
    rest = dict.fromkeys(METRIC_NAMES, 0.5)
    small = FeatureError("brisque", "too_small", "2 x 2 px")
    records = [
        photo("1", {**rest, "noise": FLAT}),
        photo("2", {**rest, "noise": FeatureError("noise", "flat_image", "another message"), "brisque": small}),
        unread("gone"),
        photo("3"),
    ]
    found = [(error.stage, error.reason, error.artifacts, error.message) for error in error_counts(merged(records))]
    assert found == [
        ("noise", "flat_image", 2, "the image is flat"),
        ("brisque", "too_small", 1, "2 x 2 px"),
        ("photo", "missing", 1, "no such file"),
    ]


# Extremes


def raw(name: str, metric: str, score: float = 0.5, sha256: str = "", **values: float) -> PhotoRecord:
    """A photo with one measured metric."""
    record = photo(name, {metric: score}, sha256=sha256)
    record.measurements[metric] = Measurement(score, values)
    return record


def exposed(name: str, p1: float = 0.0, p50: float = 0.5, p99: float = 1.0, low: float = 0.0, high: float = 0.0):
    return raw(name, "exposure", p1=p1, p50=p50, p99=p99, clipped_low=low, clipped_high=high)


def of_metric(found, metric: str) -> str:
    return "".join(extreme.photo.record.photo_id for extreme in found if extreme.metric == metric)


@pytest.mark.parametrize(
    ("metric", "measure", "cause", "values", "order"),
    [
        ("sharpness", "tenengrad", "least sharp", {"a": 9000.0, "b": 20.5, "c": 15000.0, "d": 300.0}, "bda"),
        ("noise", "noise_sigma", "noisiest", {"a": 0.01, "b": 0.2, "c": 0.001, "d": 0.05}, "bda"),
        ("brisque", "brisque_raw", "least natural", {"a": 20.0, "b": 112.0, "c": -3.0, "d": 80.0}, "bda"),
    ],
)
def test_raw_measurements_order_where_scores_saturate(metric, measure, cause, values, order) -> None:
    records = [raw(name, metric, 1.0, **{measure: value}) for name, value in values.items()]
    found = extremes(merged(records), 3)
    assert of_metric(found, metric) == order
    assert [(e.cause, e.measure, e.value) for e in found] == [(cause, measure, values[name]) for name in order]
    assert all(extreme.photo.artifact["photo_id"] == extreme.photo.record.photo_id for extreme in found)


def test_clip_iqa_is_ordered_by_its_score() -> None:
    found = extremes(merged([raw("a", "clip_iqa", 0.7), raw("b", "clip_iqa", 0.2), raw("c", "clip_iqa", 0.4)]), 2)
    assert of_metric(found, "clip_iqa") == "bc"
    assert [(e.measure, e.value) for e in found] == [("clip_iqa", 0.2), ("clip_iqa", 0.4)]


@pytest.mark.parametrize(
    ("values", "cause", "measure", "value"),
    [
        ({"p50": 0.1}, "dark", "p50", 0.1),  # costs 0.4
        ({"p50": 0.9, "p1": 0.3}, "bright", "p50", 0.9),  # 0.4 against 0.15
        ({"p1": 0.4, "p99": 0.6, "p50": 0.45}, "little contrast", "p99 - p1", 0.2),  # 0.4 against 0.05
        ({"p50": 0.2, "low": 0.31}, "shadows clipped", "clipped_low", 0.31),  # 0.31 against 0.3
        ({"p50": 0.8, "high": 0.31}, "highlights clipped", "clipped_high", 0.31),
        ({"p50": 0.8, "high": 0.29}, "bright", "p50", 0.8),
    ],
)
def test_the_largest_loss_of_exposure_is_the_cause(values, cause, measure, value) -> None:
    [found] = extremes(merged([exposed("a", **values)]))
    assert (found.metric, found.cause, found.measure) == ("exposure", cause, measure)
    assert found.value == pytest.approx(value)


@pytest.mark.long
@given(st.lists(st.tuples(*[st.floats(0, 1)] * 5), min_size=1, max_size=6))
def test_exposure_is_ordered_by_the_formula_of_the_score(photos) -> None:
    def unlimited(p1, p50, p99, low, high) -> float:
        return 0.5 * (1 - 2 * abs(p50 - 0.5)) + 0.5 * (p99 - p1) - (low + high)

    names = [str(place) for place in range(len(photos))]
    found = extremes(merged([exposed(name, *values) for name, values in zip(names, photos, strict=True)]), 6)
    scores = [unlimited(*photos[int(extreme.photo.record.photo_id)]) for extreme in found]
    assert scores == pytest.approx(sorted(scores), abs=1e-9)
    left_out = set(range(len(photos))) - {int(extreme.photo.record.photo_id) for extreme in found}
    assert all(unlimited(*photos[place]) >= 1 - 1e-9 for place in left_out)


def test_without_measurement_or_with_perfect_exposure_none() -> None:
    records = [
        raw("a", "sharpness", tenengrad=5.0),
        photo("b", {"sharpness": 0.5, "noise": FLAT}),  # without its raw measurement
        raw("c", "sharpness", tenengrad=float("nan")),
        exposed("perfect"),
        unread("gone"),
    ]
    assert [extreme.photo.record.photo_id for extreme in extremes(merged(records))] == ["a"]
    assert extremes(merged([])) == []


def test_ties_go_by_the_order_of_the_batch() -> None:
    found = extremes(merged([raw(name, "sharpness", tenengrad=7.0) for name in "zyxw"]), 3)
    assert of_metric(found, "sharpness") == "zyx"


def test_the_same_bytes_are_named_once_for_each_metric() -> None:
    records = [raw("a", "noise", sha256="1", noise_sigma=0.2), raw("b", "noise", sha256="1", noise_sigma=0.2)]
    for record in records:
        record.measurements["sharpness"] = Measurement(0.1, {"tenengrad": 3.0})
    found = extremes(merged([*records, raw("c", "noise", sha256="2", noise_sigma=0.1)]))
    assert (of_metric(found, "noise"), of_metric(found, "sharpness")) == ("ac", "a")
    artifact = {"photo_id": "a", "original_uri": "a.jpg"}
    batch = batch_from({"batch_id": "b", "artifacts": [artifact, artifact]})
    both = merge(
        batch, [raw("a", "sharpness", tenengrad=3.0)], {"technical": "1", "clip": "1", "signals": "1"}, LABELS, SETTINGS
    )
    assert of_metric(extremes(both), "sharpness") == "a"


@pytest.mark.parametrize(
    ("value", "told"), [(0.004123, "0.00412"), (24.32, "24.3"), (999.6, "1000"), (15234.4, "15234")]
)
def test_an_extreme_has_its_number(value, told) -> None:
    [found] = extremes(merged([raw("a", "sharpness", tenengrad=value)]))
    assert found.description == f"least sharp (tenengrad {told})"


def test_failed_photos_are_named_in_order() -> None:
    found = failed_photos(merged([unread("y"), photo("a"), unread("x")]))
    assert [failed.record.photo_id for failed in found] == ["y", "x"]
