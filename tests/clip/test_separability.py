"""Separability, compared with loops over pairs, worked examples and recorded embeddings."""

from __future__ import annotations

import itertools
import json
import math
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import scipy.special

from curation_features.clip import separability
from curation_features.clip.separability import (
    TYPICAL_ALIGNMENT,
    LabelPair,
    expected_confidences,
    nearest_pairs,
    template_effects,
    typical_odds,
)


def unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


def recorded(folder: Path, name: str, names: str) -> tuple[np.ndarray, list[str]]:
    texts = folder / "clip" / "recorded_vitb32" / "text_embeddings"
    return unit(np.load(texts / name).astype(float)), json.loads((texts / names).read_text())


def photos(folder: Path) -> np.ndarray:
    path = folder / "clip" / "recorded_vitb32" / "image_embeddings" / "clip_retrieval_test_images.npz"
    return unit(np.load(path)["emb"].astype(float))


@pytest.fixture
def things(shared_data) -> tuple[np.ndarray, list[str]]:
    return recorded(shared_data, "oid_clip_a+cname.npy", "oid_500_names.json")


def test_odds_are_the_softmax_at_the_typical_alignment():
    for degrees, scale in ((0, 100.0), (10, 100.0), (60, 50.0), (180, 3.0)):
        distance = 2 * math.sin(math.radians(degrees) / 2)  # of two unit vectors
        gap = TYPICAL_ALIGNMENT * distance
        right, wrong = scipy.special.softmax([scale * gap, 0.0])
        assert typical_odds(np.array(math.cos(math.radians(degrees))), scale) == pytest.approx(right / wrong, rel=1e-6)


@pytest.mark.parametrize("rows_at_once", [3, 512])
def test_pairs_and_confidences_equal_a_loop_over_pairs(monkeypatch, rows_at_once):
    monkeypatch.setattr(separability, "_ROWS_AT_ONCE", rows_at_once)
    generator = np.random.default_rng(5)
    vectors = unit(generator.standard_normal((11, 6)) + 2.0)
    labels = [f"label {n}" for n in range(11)]
    odds = np.ones((11, 11))
    pairs = []
    for a, b in itertools.combinations(range(11), 2):
        odds[a, b] = odds[b, a] = math.exp(80.0 * TYPICAL_ALIGNMENT * math.dist(vectors[a], vectors[b]))
        pairs.append((float(vectors[a].dot(vectors[b])), labels[a], labels[b], odds[a, b]))
    found = nearest_pairs(vectors, labels, 80.0)
    expected = sorted(pairs, reverse=True)[:10]
    assert [(pair.first, pair.second) for pair in found] == [pair[1:3] for pair in expected]
    assert [pair.cosine for pair in found] == pytest.approx([pair[0] for pair in expected])
    assert [pair.odds for pair in found] == pytest.approx([pair[3] for pair in expected])
    for row, outlook in enumerate(expected_confidences(vectors, labels, 80.0)):
        logits = -np.log(odds[row])
        assert outlook.confidence == pytest.approx(scipy.special.softmax(logits)[row])
        near = [other for other in np.argsort(odds[row], kind="stable") if other != row and odds[row, other] < 10]
        assert outlook.close == tuple(labels[other] for other in near)


@pytest.mark.long
def test_memory_is_linear_in_the_number_of_labels():
    def peak(count: int) -> int:
        vectors = unit(np.random.default_rng(0).standard_normal((count, 4)))
        tracemalloc.start()
        nearest_pairs(vectors, [""] * count, 100.0)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return peak

    assert peak(1600) < 3 * peak(800)


def test_ties_are_in_vocabulary_order():
    vectors = np.resize(np.eye(2), (6, 2))
    pairs = nearest_pairs(vectors, list("abcdef"), 100.0, count=7)
    assert ["".join((pair.first, pair.second)) for pair in pairs] == ["ac", "ae", "bd", "bf", "ce", "df", "ab"]


def test_the_same_label_under_two_names_cannot_be_told_apart():
    verdicts = [LabelPair("a", "b", 0.9, odds).verdict for odds in (1.0, 2.99, 3.0, 9.99, 10.0)]
    assert verdicts == ["inseparable", "inseparable", "close", "close", "apart"]
    [pair] = nearest_pairs(np.ones((2, 4)), ["cup", "mug"], 100.0)
    assert (pair.cosine, pair.odds) == (pytest.approx(1.0), pytest.approx(1.0, abs=1e-5))


def test_idle_and_confusing_templates_are_found():
    generator = np.random.default_rng(2)
    labels = list("abcdef")
    base = unit(generator.standard_normal((6, 64)))
    mixed = base.copy()
    mixed[[1, 2]] = mixed[[2, 1]]
    prompts = np.stack([base, base, base, mixed], axis=1)
    effects = template_effects(prompts, labels, ["{}", "a {}", "the {}", "no {}"], 100.0)
    assert [effect.confused for effect in effects] == [(), (), (), ("b", "c")]
    assert effects[0].shift == pytest.approx(effects[1].shift)
    assert not effects[3].is_idle
    whole, without = unit(prompts.sum(axis=1)), unit(prompts[:, :3].sum(axis=1))
    moved = max(math.dist(one, other) for one, other in zip(whole, without, strict=True))
    assert effects[3].shift == pytest.approx(math.exp(100 * TYPICAL_ALIGNMENT * moved))
    same = template_effects(prompts[:, :3], labels, ["{}", "a {}", "the {}"], 100.0)
    assert [(effect.shift, effect.confused, effect.is_idle) for effect in same] == [(pytest.approx(1), (), True)] * 3
    assert template_effects(prompts[:, :1], labels, ["{}"], 100.0) == []


def test_recorded_embeddings_pair_similar_labels(things):
    """ViT-B/32, "a <name>" for the 500 names of OpenImages, two of which are duplicates."""
    pairs = nearest_pairs(*things, 100.0)
    assert [f"{pair.first} / {pair.second}" for pair in pairs[2:]] == [
        "Home appliance / Kitchen appliance",
        "Building / Office building",
        "Knife / Kitchen knife",
        "Vehicle / Land vehicle",
        "Car / Vehicle",
        "Woman / Girl",
        "Man / Boy",
        "Coffee cup / Coffee",
    ]
    assert {(pair.first, pair.second, pair.verdict) for pair in pairs[:2]} == {
        ("Mouse", "Mouse", "inseparable"),
        ("Bench", "Bench", "inseparable"),
    }
    assert {pair.verdict for pair in pairs[2:]} == {"close"}
    crowded = {label.label: label.close for label in expected_confidences(*things, 100.0) if len(label.close) >= 3}
    assert set(crowded) == {"Vehicle", "Truck", "Drink"}
    assert set(crowded["Drink"]) == {"Beer", "Coffee", "Juice"}


@pytest.mark.long
def test_the_typical_alignment_is_the_one_that_was_measured(shared_data, things):
    """The alignment of photos with their first label and its nearest label, over two vocabularies."""
    alignments, any_pair = [], []
    for vectors, _ in (things, recorded(shared_data, "lvis_v1_clip_a+cname.npy", "lvis_1203_names.json")):
        cosine = photos(shared_data) @ vectors.T
        between = vectors @ vectors.T
        np.fill_diagonal(between, -1.0)
        for row in cosine:
            first = int(row.argmax())
            beside = int(between[first].argmax())
            alignments.append((row[first] - row[beside]) / math.dist(vectors[first], vectors[beside]))
        left, right = np.triu_indices(300, 1)
        left, right = np.stack([left, right])[:, between[left, right] < 0.999]  # two names are there twice
        distance = np.linalg.norm(vectors[left] - vectors[right], axis=1)
        any_pair.append(np.median(np.abs(cosine[:, left] - cosine[:, right]) / distance))
    assert len(alignments) == 14
    assert np.median(alignments) == pytest.approx(TYPICAL_ALIGNMENT, abs=0.005)
    assert np.median(alignments) == pytest.approx(0.058, abs=5e-4)
    assert (min(alignments), max(alignments)) == (pytest.approx(0.005, abs=5e-4), pytest.approx(0.127, abs=5e-4))
    assert any_pair == pytest.approx([0.022, 0.022], abs=1e-3)
