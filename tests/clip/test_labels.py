from __future__ import annotations

import json
import math
from fractions import Fraction

import numpy as np
import pytest
import scipy.special
from hypothesis import given
from hypothesis import strategies as st

from curation_features.clip.labels import confidences, cosines, fallback_prediction, label_photos
from curation_features.schema import FeatureError, LabelScore

NAMES = ("a", "b", "c", "d", "e", "f", "g")


def unit(rows: np.ndarray) -> np.ndarray:
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def random_vectors(count: int, seed: int, dimension: int = 16) -> np.ndarray:
    return unit(np.random.default_rng(seed).standard_normal((count, dimension)))


def test_recorded_embeddings_give_the_right_labels(shared_data):
    """ViT-B/32 embeddings recorded by clip-retrieval and Detic: two kittens and two palms on a beach."""
    folder = shared_data / "clip" / "recorded_vitb32"
    photos = np.load(folder / "image_embeddings" / "clip_retrieval_test_images.npz")
    known = json.loads((folder / "text_embeddings" / "oid_500_names.json").read_text())
    texts = np.load(folder / "text_embeddings" / "oid_clip_a+cname.npy").astype(np.float32)
    names = ["Cat", "Dog", "House", "Tree", "Building", "Chair", "Car", "Flower", "Boat", "Bird", "Person", "Palm tree"]
    images, vectors = unit(photos["emb"].astype(np.float32)), unit(texts[[known.index(name) for name in names]])
    labellings = dict(zip(photos["names"].tolist(), label_photos(images, vectors, names, 100.0), strict=True))
    for photo, name, confidence in (("123_456", "Cat", 0.94), ("456_123", "Cat", 0.94), ("321_421", "Palm tree", 0.99)):
        assert labellings[photo].labels[0].label == name
        assert labellings[photo].labels[0].confidence == pytest.approx(confidence, abs=0.02)
    expected = scipy.special.softmax(100.0 * images.astype(float) @ vectors.astype(float).T, axis=1)
    for prediction, row in zip(labellings.values(), expected, strict=True):
        assert [label.confidence for label in prediction.labels] == pytest.approx(sorted(row)[:-6:-1], abs=1e-6)


def test_a_worked_example():
    """Two labels at right angles and a photo at 60 and 30 degrees to them; scale 2."""
    vectors = np.eye(5, dtype=np.float32)
    photo = np.array([[0.5, math.sqrt(0.75), 0, 0, 0]], np.float32)
    (prediction,) = label_photos(photo, vectors, NAMES[:5], 2.0)
    total = math.exp(1.0) + math.exp(math.sqrt(3.0)) + 3
    assert [label.label for label in prediction.labels] == ["b", "a", "c", "d", "e"]
    assert prediction.labels[0] == LabelScore("b", round(math.exp(math.sqrt(3.0)) / total, 6), 0.866025)
    assert prediction.labels[1] == LabelScore("a", round(math.exp(1.0) / total, 6), 0.5)
    assert prediction.cosines == (0.5, 0.866025, 0.0, 0.0, 0.0)
    assert prediction.margin == pytest.approx((math.exp(math.sqrt(3.0)) - math.exp(1.0)) / total, abs=1e-6)
    assert prediction.error is None


def test_a_negative_cosine_is_kept_and_its_score_is_zero():
    vectors = unit(np.array([[1, 0], [-1, 0], [0, 1], [0, -1], [-1, -1]], np.float32))
    (prediction,) = label_photos(np.array([[1, 0]], np.float32), vectors, NAMES[:5], 1.0)
    assert prediction.cosines == (1.0, -1.0, 0.0, 0.0, -0.707107)
    assert [label.cosine_score for label in prediction.labels] == [1.0, 0.0, 0.0, 0.0, 0.0]


def test_a_number_that_rounds_to_zero_has_no_sign():
    vectors = unit(np.array([[-1e-9, 1], [1e-9, -1], [0, 1], [1, 0], [0, 1]], np.float32))
    (prediction,) = label_photos(np.array([[1, 0]], np.float32), vectors, NAMES[:5], 1.0)
    assert repr(prediction.cosines) == "(0.0, 0.0, 0.0, 1.0, 0.0)"


def test_ties_go_by_position_in_the_vocabulary():
    names = [str(number) for number in range(1000)]
    vectors = np.resize(np.eye(3, dtype=np.float32), (1000, 3))
    (prediction,) = label_photos(np.array([[0.6, 0.8, 0.0]], np.float32), vectors, names, 100.0)
    assert [label.label for label in prediction.labels] == ["1", "4", "7", "10", "13"]
    assert prediction.margin == 0.0


def test_the_order_holds_where_confidences_round_to_zero():
    vectors = unit(np.array([[-3, 1], [-2, 1], [-1, 1], [0, 1], [1, 1], [9, 1]], np.float32))
    (prediction,) = label_photos(np.array([[1, 0]], np.float32), vectors, NAMES[:6], 1e5)
    assert [label.label for label in prediction.labels] == list("fedcb")
    assert [label.confidence for label in prediction.labels] == [1.0, 0.0, 0.0, 0.0, 0.0]


@pytest.mark.long
@given(cosine=st.lists(st.floats(-1, 1), min_size=1, max_size=20), scale=st.floats(1e-3, 1e6))
def test_confidences_are_the_softmax_at_any_scale(cosine, scale):
    found = confidences(np.array([cosine]), scale)[0]
    largest = max(cosine)
    odds = [math.exp((value - largest) * scale) for value in cosine]
    np.testing.assert_allclose(found, [value / math.fsum(odds) for value in odds], rtol=1e-12, atol=1e-300)
    assert found.sum() == pytest.approx(1.0)


def test_an_embedding_not_finite_is_an_error_of_that_photo():
    photos, vectors = random_vectors(4, 1), random_vectors(7, 2)
    alone = label_photos(photos[[0, 3]], vectors, NAMES, 100.0)
    photos[1, 0], photos[2, 3] = np.nan, np.inf
    together = label_photos(photos, vectors, NAMES, 100.0)
    assert [together[0], together[3]] == alone
    for prediction in together[1:3]:
        assert (prediction.error.stage, prediction.error.reason) == ("clip_labels", "not_finite")
        assert prediction.labels == ()


@pytest.mark.long
def test_a_photos_numbers_do_not_depend_on_its_batch():
    photos, vectors = random_vectors(300, 7, 768), random_vectors(50, 8, 768)
    together = cosines(photos, vectors)
    for start in range(1, 20):
        for part in (slice(start, start + 1), slice(start, start + 151)):
            assert np.array_equal(cosines(photos[part], vectors), together[part])
    names = [str(number) for number in range(50)]
    assert label_photos(photos[::-1], vectors, names, 100.0)[::-1] == label_photos(photos, vectors, names, 100.0)


def test_a_cosine_follows_from_its_two_vectors_alone():
    """No order of dimensions, labels or photos changes a bit, so the BLAS may sum in any order."""
    photos, vectors = random_vectors(20, 9, 512), random_vectors(13, 10, 512)
    expected = cosines(photos, vectors)
    for seed in range(5):
        random = np.random.default_rng(seed)
        order, dimensions = random.permutation(13), random.permutation(512)
        found = cosines(np.asfortranarray(photos[:, dimensions]), vectors[order][:, dimensions])
        assert np.array_equal(found, expected[:, order])


@pytest.mark.parametrize("spread", [0, 1, 6])
def test_a_cosine_is_exact_to_1e_13(spread):
    """Compare with fractions; with a large `spread` one number dominates a vector."""
    random = np.random.default_rng(spread)
    rows = random.standard_normal((8, 300)) * np.exp(spread * random.standard_normal((8, 300)))
    vectors = unit(rows)
    found = cosines(vectors[:4], vectors[4:])
    for (row, column), value in np.ndenumerate(found):
        pairs = zip(vectors[row].tolist(), vectors[4 + column].tolist(), strict=True)
        assert abs(Fraction(float(value)) - sum(Fraction(a) * Fraction(b) for a, b in pairs)) < 1e-13


def test_the_same_label_twice_is_a_tie_wherever_it_stands():
    photos, vectors = random_vectors(5, 11, 768), random_vectors(41, 12, 768)
    twice = np.concatenate([vectors, vectors[::-1]])
    names = [str(number) for number in range(82)]
    for prediction in label_photos(photos, twice, names, 100.0):
        first, second = (int(label.label) for label in prediction.labels[:2])
        assert (second, prediction.margin) == (81 - first, 0.0)
        assert first < second


def test_no_photos_give_no_labels():
    assert label_photos(np.empty((0, 16), np.float32), random_vectors(7, 2), NAMES, 100.0) == []


def test_fallback_labels_are_the_first_or_configured_ones():
    error = FeatureError("photo", "missing", "no such file")
    first = fallback_prediction(NAMES, error)
    assert first.labels == tuple(LabelScore(name, 0.0, 0.0) for name in "abcde")
    assert (first.error, first.cosines, first.margin) == (error, (), None)
    assert [label.label for label in fallback_prediction(NAMES, error, ("x", "y")).labels] == ["x", "y"]
