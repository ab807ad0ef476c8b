"""`docs/labels.md`: its commands work, and its figures are those of the recorded embeddings."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import scipy.special
from documents import blocks, commands, run_line
from PIL import Image

from curation_features.clip.separability import expected_confidences

GUIDE = Path(__file__).resolve().parents[2] / "docs" / "labels.md"
TWELVE = ["Cat", "Dog", "House", "Tree", "Building", "Chair", "Car", "Flower", "Boat", "Bird", "Person", "Palm tree"]
FACE, HALF, PALMS, PATH, PLANTS = "123_456", "456_123", "321_421", "208_495", "416_264"
ROWS = {FACE: "a kitten's face", HALF: "the upper half of a kitten", PALMS: "palms"}


@pytest.mark.slow
def test_its_commands_work_in_their_order(
    tmp_path: Path, small_models: dict[str, str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, value in small_models.items():
        monkeypatch.setenv(name, value)
    (tmp_path / "my photos").mkdir()
    for number in range(3):
        Image.effect_noise((96, 64), 20 + number).convert("RGB").save(tmp_path / "my photos" / f"{number}.png")
    outputs = []
    for line in commands("labels.md"):
        run_line(line)
        outputs.append(capsys.readouterr().out)
    assert len(outputs) == 7
    assert "weddings: 7 labels, 6 templates" in outputs[2]
    assert "Nearest pairs" in outputs[3]
    labels = set(json.loads((tmp_path / "config" / "vocabularies" / "weddings.json").read_bytes())["labels"])
    document = json.loads((tmp_path / "data" / "features" / "party.json").read_bytes())
    assert document["vocabulary"] == "weddings"
    assert {label["label"] for found in document["artifacts"] for label in found["features"]["clip_labels"]} <= labels
    photos = pd.read_parquet(tmp_path / "data" / "features" / "party.parquet")
    assert {"photo_id", "label", "confidence", "label_margin", "version_clip"} <= set(photos)


@pytest.mark.long
def test_its_recipe_finds_the_threshold_that_counting_finds(tmp_path: Path) -> None:
    """Ten photos; the label is right where confidence is high, but for one; two fit no label."""
    (tmp_path / "data" / "features").mkdir(parents=True)
    confidence = [round(0.05 + n / 10, 2) for n in range(10)]
    photos = pd.DataFrame({"photo_id": [f"p{n}" for n in range(10)], "label": "bride", "confidence": confidence})
    photos.to_parquet(tmp_path / "data" / "features" / "party.parquet")
    truth = ["", "", "groom", "bride", "groom", *["bride"] * 5]
    pd.DataFrame({"photo_id": photos["photo_id"], "label": truth}).to_csv(tmp_path / "sample.csv", index=False)
    [recipe] = blocks(GUIDE, "python")
    script = f"{recipe}\nprint(found.to_json(orient='records'))"
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=True)
    for row in json.loads(done.stdout.splitlines()[-1]):
        kept = [n for n in range(10) if confidence[n] >= row["confidence"] - 5e-4]
        right = sum(truth[n] == "bride" for n in kept)
        assert row["kept"] == len(kept) / 10
        assert row["precision"] == pytest.approx(right / len(kept), abs=1e-3)
        assert row["recall"] == pytest.approx(right / 8, abs=1e-3)
    assert "0.455" in done.stdout.splitlines()[-2]  # the lowest over the last wrong one, 0.45


def unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


class Recorded:
    """Recorded embeddings of photos and names by a real model, ViT-B/32."""

    def __init__(self, folder: Path) -> None:
        folder = folder / "clip" / "recorded_vitb32"
        images = np.load(folder / "image_embeddings" / "clip_retrieval_test_images.npz")
        self.photos = dict(zip(images["names"].tolist(), unit(images["emb"].astype(float)), strict=True))
        texts = folder / "text_embeddings"
        self.things = unit(np.load(texts / "oid_clip_a+cname.npy").astype(float))
        self.names = json.loads((texts / "oid_500_names.json").read_text())
        lvis = unit(np.load(texts / "lvis_v1_clip_a+cname.npy").astype(float))
        places = json.loads((texts / "lvis_1203_names.json").read_text())
        self.more = {name: lvis[places.index(name)] for name in ("kitten", "tiger", "cougar")}

    def shares(self, photo: str, *more: str) -> list[tuple[str, float]]:
        """Confidences of the twelve labels and more, at scale 100, highest first."""
        labels = {name: self.things[self.names.index(name)] for name in TWELVE} | {
            name: self.more[name] for name in more
        }
        found = scipy.special.softmax(100.0 * np.stack(list(labels.values())) @ self.photos[photo])
        return sorted(zip(labels, found.tolist(), strict=True), key=lambda entry: -entry[1])


@pytest.fixture
def recorded(shared_data: Path) -> Recorded:
    return Recorded(shared_data)


def row_of(photo: str, cells: int) -> list[str]:
    """The cells of a photo's row in the table with `cells` columns."""
    rows = [line.strip("| ").split(" | ") for line in GUIDE.read_text(encoding="utf-8").splitlines()]
    [row] = (row for row in rows if row[0] == ROWS[photo] and len(row) == cells)
    return row


@pytest.mark.long
@pytest.mark.parametrize(("photo", "label"), [(FACE, "Cat"), (HALF, "Cat"), (PALMS, "Palm tree")])
def test_confidence_falls_with_the_number_of_labels(recorded, photo, label) -> None:
    right = recorded.names.index(label)
    others = [place for place in range(500) if place != right]
    generator = np.random.default_rng(1)
    medians = []
    for count in (5, 10, 20, 50, 100, 200, 500):
        chosen = [[right, *generator.choice(others, count - 1, replace=False)] for _ in range(400)]
        cosine = np.stack([recorded.things[places] @ recorded.photos[photo] for places in chosen])
        medians.append(float(np.median(scipy.special.softmax(100.0 * cosine, axis=1)[:, 0])))
    _, name, cosine, *figures = row_of(photo, 10)
    assert (name, float(cosine)) == (label, pytest.approx(recorded.things[right] @ recorded.photos[photo], abs=5e-4))
    assert [float(figure) for figure in figures] == pytest.approx(medians, abs=0.02)  # of draws
    assert float(figures[-1]) == pytest.approx(medians[-1], abs=0.005)  # of all


@pytest.mark.parametrize("photo", [FACE, HALF])
def test_near_synonyms_share_the_confidence_as_its_table_says(recorded, photo) -> None:
    sets = ((), ("kitten",), ("kitten", "tiger", "cougar"))
    for cell, more in zip(row_of(photo, 4)[1:], sets, strict=True):
        (first, most), (_, second), *_ = shares = recorded.shares(photo, *more)
        *entries, margin = re.findall(r"([A-Za-z]+) (\d\.\d\d)", cell)
        assert entries[0][0] == first
        for name, figure in entries:
            assert float(figure) == pytest.approx(dict(shares)[name], abs=0.0051)
        assert (margin[0], float(margin[1])) == ("margin", pytest.approx(most - second, abs=0.0051))
    both = dict(recorded.shares(photo, "kitten"))
    assert f"{both['Cat'] + both['kitten']:.2f}" in {FACE: "0.96", HALF: "0.99"}[photo]


def test_the_other_figures_of_its_text(recorded) -> None:
    text = " ".join(GUIDE.read_text(encoding="utf-8").split())
    (chair, first), (_, second), *_ = recorded.shares(PATH)
    assert f"it gets {chair} at {first:.2f}, with a margin of {first - second:.2f}" in text
    flower, share = recorded.shares(PLANTS)[0]
    assert f"get {flower} at {share:.2f}" in text
    cosine = np.stack(list(recorded.photos.values())) @ recorded.things.T
    first_labels = np.median(scipy.special.softmax(100.0 * cosine, axis=1).max(axis=1))
    expected = np.median([label.confidence for label in expected_confidences(recorded.things, recorded.names, 100.0)])
    assert f"in the middle {expected:.2f} for all 500 labels" in text
    assert f"the first labels of the seven photos have {first_labels:.2f}" in text
    means = cosine.mean(axis=1)
    assert f"was {means.min():.2f} to {means.max():.2f}, another one for each photo" in text
    [lowest, *_, highest] = sorted(float(row_of(photo, 10)[2]) for photo in ROWS)
    assert f"right labels had {lowest:.2f} to {highest:.2f}" in text
