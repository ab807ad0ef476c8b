"""A batch at a glance: percentiles, labels, errors, the best and the worst photos."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from curation_features.manifest import batch_from
from curation_features.schema import (
    METRIC_NAMES,
    Embedding,
    FeatureError,
    Labelling,
    LabelScore,
    Measurement,
    PhotoInfo,
    PhotoRecord,
)
from curation_features.stages import Merged, merge
from curation_features.stages.summary import error_counts, label_distribution, overall, picks, score_percentiles

LABELS = tuple("abcdef")
FLAT = FeatureError("noise", "flat_image", "the image is flat")
GONE = FeatureError("photo", "missing", "no such file")


def photo(
    name: str, scores: Mapping[str, float | FeatureError] | float = 0.5, label: str = "a", sha256: str = ""
) -> PhotoRecord:
    """A measured photo; one number stands for all scores, 1 best."""
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
        embedding=Embedding(np.ones(4, np.float32)),
        labelling=Labelling((LabelScore(label, 0.9, 0.3), LabelScore("f", 0.1, 0.2)), (0.3,) * 6, 0.8),
    )


def unread(name: str) -> PhotoRecord:
    return PhotoRecord(name, f"{name}.jpg", failure=GONE)


def merged(records: Sequence[PhotoRecord]) -> Merged:
    artifacts = [{"photo_id": record.photo_id, "original_uri": record.image_uri} for record in records]
    batch = batch_from({"batch_id": "b", "artifacts": artifacts})
    return merge(batch, records, {"technical": "1", "clip": "1"}, LABELS, ())


def names(chosen) -> str:
    return "".join(pick.record.photo_id for pick in chosen)


def test_percentiles_are_of_what_was_measured() -> None:
    records = [photo(str(n), {"sharpness": n / 100, "noise": n / 50 if n < 51 else FLAT}) for n in range(101)]
    found = score_percentiles(merged([*records, unread("gone")]))
    assert set(found) == {"sharpness", "noise"}
    assert found["sharpness"] == pytest.approx({5: 0.05, 50: 0.5, 95: 0.95})
    assert found["noise"] == pytest.approx({5: 0.05, 50: 0.5, 95: 0.95})
    assert all(type(value) is float for value in found["sharpness"].values())


def test_nothing_measured_has_no_percentiles() -> None:
    assert score_percentiles(merged([unread("gone")])) == {}
    assert score_percentiles(merged([])) == {}


def test_labels_are_counted_over_photos_that_have_some() -> None:
    unlabelled = photo("x")
    unlabelled.labelling = Labelling(error=FeatureError("clip_labels", "missing_weights", "no weights"))
    records = [photo("1", label="c"), photo("2", label="b"), photo("3", label="b"), unlabelled, unread("gone")]
    shares = [(share.label, share.photos, share.share) for share in label_distribution(merged(records))]
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
    found = [(error.stage, error.reason, error.photos, error.message) for error in error_counts(merged(records))]
    assert found == [
        ("noise", "flat_image", 2, "the image is flat"),
        ("brisque", "too_small", 1, "2 x 2 px"),
        ("photo", "missing", 1, "no such file"),
    ]


def test_overall_is_the_mean_of_the_measured_scores_with_noise_turned_round() -> None:
    assert overall(photo("1", {"sharpness": 0.8, "exposure": 0.6, "noise": 0.1})) == pytest.approx(
        (0.8 + 0.6 + 0.9) / 3
    )
    assert overall(photo("1", {"sharpness": 0.8, "noise": FLAT})) == pytest.approx(0.8)
    assert overall(photo("1", {"noise": FLAT})) is None
    assert overall(unread("gone")) is None


def test_the_best_and_the_worst_come_best_and_worst_first() -> None:
    records = [photo(name, value / 10) for name, value in zip("dgbafceh", [4, 7, 2, 1, 6, 3, 5, 8], strict=True)]
    found = picks(merged(records))
    assert (names(found.best), names(found.worst), names(found.failed)) == ("hgf", "abc", "")
    assert found.best[0].overall == pytest.approx(0.8)
    assert found.best[0].artifact["features"]["status"] == "ok"


def test_ties_go_by_the_order_of_the_batch() -> None:
    found = picks(merged([photo(name, 0.5) for name in "zyxwvu"]))
    assert (names(found.best), names(found.worst)) == ("zyx", "wvu")


def test_a_degraded_photo_is_never_among_the_best_and_a_failed_one_is_apart() -> None:
    brilliant = dict.fromkeys(METRIC_NAMES, 1.0) | {"noise": FLAT}
    dull = dict.fromkeys(METRIC_NAMES, 0.0) | {"noise": FLAT}
    found = picks(merged([unread("x"), photo("b", brilliant), photo("d", dull), photo("o", 0.5), unread("y")]), n=1)
    assert (names(found.best), names(found.worst), names(found.failed)) == ("o", "d", "xy")


@given(st.lists(st.tuples(st.sampled_from([0.1, 0.5, 0.9]), st.sampled_from(["ok", "degraded", "failed"])), max_size=9))
def test_no_photo_is_picked_twice(photos) -> None:
    def made(name: str, value: float, status: str) -> PhotoRecord:
        if status == "failed":
            return unread(name)
        record = photo(name, value)
        if status == "degraded":
            record.measurements["noise"] = Measurement(error=FLAT)
        return record

    found = picks(merged([made(str(place), *kind) for place, kind in enumerate(photos)]))
    chosen = [pick.record.photo_id for pick in (*found.best, *found.worst, *found.failed)]
    assert len(chosen) == len(set(chosen))
    measured = sum(status != "failed" for _, status in photos)
    assert len(found.best) + len(found.worst) <= min(6, measured)
    assert len(found.worst) >= min(3, measured // 2)
    assert all(pick.artifact["features"]["status"] == "ok" for pick in found.best)


def test_the_same_bytes_under_two_ids_are_one_photo() -> None:
    found = picks(merged([photo("a", 0.9, sha256="1"), photo("b", 0.9, sha256="1"), photo("c", 0.1, sha256="2")]))
    assert (names(found.best), names(found.worst)) == ("a", "c")


def test_one_photo_on_two_artifacts_is_picked_once() -> None:
    artifact = {"photo_id": "a", "original_uri": "a.jpg"}
    batch = batch_from({"batch_id": "b", "artifacts": [artifact, artifact]})
    both = merge(batch, [photo("a", 0.9)], {"technical": "1", "clip": "1"}, LABELS, ())
    found = picks(both)
    assert (names(found.best), names(found.worst)) == ("a", "")
