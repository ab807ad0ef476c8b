from __future__ import annotations

import json
import logging
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from curation_features.clip.classifier import CLIPClassifier
from curation_features.clip.label_embeddings import stored_version
from curation_features.clip.labels import label_photos
from curation_features.errors import SettingsError
from curation_features.settings import Settings
from curation_features.testing import FakeClipEngine
from curation_features.weights import LazyModel


def fake(settings: Settings, identity: str = "fake") -> tuple[CLIPClassifier, FakeClipEngine]:
    engine = FakeClipEngine()
    return CLIPClassifier(settings, engine=LazyModel.ready(engine, identity)), engine


def picture(seed: int = 0, size: tuple[int, int] = (40, 60)) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)


def names(labels: list[dict]) -> list[str]:
    return [label["label"] for label in labels]


@pytest.mark.long
def test_a_real_model_from_end_to_end(settings, clip_checkpoint):
    """Scores of a seeded checkpoint, against open_clip's own zero-shot recipe."""
    import open_clip
    import torch

    classifier = CLIPClassifier(settings.replace(model=f"local-dir:{clip_checkpoint}", device="cpu"))
    found = classifier.classify(picture())
    model, transform = open_clip.create_model_from_pretrained(f"local-dir:{clip_checkpoint}")
    model.eval()
    vocabulary = classifier.vocabulary
    with torch.no_grad():
        texts = open_clip.build_zero_shot_classifier(
            model, open_clip.get_tokenizer("ViT-B-32"), vocabulary.labels, vocabulary.templates
        )
        image = model.encode_image(transform(Image.fromarray(picture()))[None], normalize=True)
        image, texts = image.double(), texts.double()  # in float32 the recipe is off by 1e-6, by machine
        expected = (model.logit_scale.double().exp() * image @ texts).softmax(dim=-1)[0]
    best = expected.topk(5)
    assert names(found) == [vocabulary.labels[index] for index in best.indices]
    assert [label["confidence"] for label in found] == pytest.approx(best.values.tolist(), abs=2e-6)
    cosine = (image @ texts)[0][best.indices].clip(0, 1)
    assert [label["cosine_score"] for label in found] == pytest.approx(cosine.tolist(), abs=2e-6)
    json.dumps(found, allow_nan=False)


def test_several_images_give_a_list(settings):
    classifier, _ = fake(settings)
    Image.fromarray(picture()).save(settings.root / "photo.png")
    several = [classifier.classify(picture()), classifier.classify(picture(1))]
    assert classifier.classify(["photo.png", picture(1)]) == several
    assert classifier.classify_many(iter(["photo.png", picture(1)])) == several
    assert classifier.classify([]) == classifier.classify_many([]) == []


def test_a_pil_image_is_treated_as_its_file_would_be(settings):
    """Oriented, with transparency, and in 16 bits."""
    classifier, _ = fake(settings)
    exif = Image.Exif()
    exif[274] = 6
    Image.fromarray(picture()).save(settings.root / "oriented.png", exif=exif)
    rgba = np.dstack([picture(1), np.full((40, 60), 30, np.uint8)])
    Image.fromarray(rgba).save(settings.root / "transparent.png")
    Image.fromarray(picture(2)[:, :, 0].astype(np.uint16) * 257).save(settings.root / "deep.png")
    for name in ("oriented.png", "transparent.png", "deep.png"):
        with Image.open(settings.root / name) as image:
            assert classifier.classify(image) == classifier.classify(name)
    assert classifier.classify("oriented.png") == classifier.classify(np.rot90(picture(), -1))


def test_label_embeddings_are_computed_once_and_stored(settings, caplog):
    caplog.set_level(logging.INFO)
    classifier, engine = fake(settings)
    first = classifier.label_embeddings()
    assert classifier.label_embeddings() is first
    assert engine.texts_encoded == 300
    again, unused = fake(settings)
    assert np.array_equal(again.label_embeddings().vectors, first.vectors)
    assert unused.texts_encoded == 0
    assert caplog.messages == [
        "Loaded 50 labels and 6 templates",
        "Built and cached embeddings for 50 labels",
        "Loaded 50 labels and 6 templates",
        "Loaded cached embeddings for 50 labels",
    ]
    assert stored_version(settings.cache_path / "label_embeddings.pt") == classifier.label_version


def test_label_embeddings_follow_labels_templates_and_model(settings):
    fake(settings)[0].label_embeddings()
    config = settings.root / "config"
    config.mkdir()

    def prompts_encoded(identity: str = "fake") -> int:
        classifier, engine = fake(settings, identity)
        classifier.label_embeddings()
        return engine.texts_encoded

    assert prompts_encoded() == 0
    assert prompts_encoded("another model") == 300
    (config / "labels.json").write_text('{"labels": ["a", "b", "c", "d", "e", "f"]}')
    assert prompts_encoded("another model") == 36
    (config / "templates.json").write_text('{"templates": ["{}"]}')
    assert prompts_encoded("another model") == 6
    assert prompts_encoded("another model") == 0


def test_threads_build_the_label_vectors_once(settings):
    class Slow(FakeClipEngine):
        def encode_texts(self, prompts):
            time.sleep(0.02)
            return super().encode_texts(prompts)

    engine = Slow()
    classifier = CLIPClassifier(settings, engine=LazyModel.ready(engine, "slow"))
    with ThreadPoolExecutor(8) as pool:
        for future in [pool.submit(classifier.label_embeddings) for _ in range(8)]:
            future.result()
    assert engine.texts_encoded == 300


def test_a_temperature_replaces_the_learned_scale(settings):
    vectors = fake(settings)[0].embed([picture()])
    for temperature, scale in ((None, 100.0), (3.0, 3.0)):
        classifier, _ = fake(settings.replace(temperature=temperature))
        known = classifier.label_embeddings()
        expected = label_photos(vectors, known.vectors, classifier.vocabulary.labels, scale)
        assert classifier.label(vectors) == expected


def test_more_photos_than_one_batch_are_embedded_in_order(settings):
    classifier, engine = fake(settings.replace(batch_size=3))
    images = [picture(seed) for seed in range(8)]
    vectors = classifier.embed(images)
    assert engine.images_encoded == 8
    assert all(np.array_equal(classifier.embed([image])[0], row) for image, row in zip(images, vectors, strict=True))
    assert classifier.embed([]).shape == (0, 16)


def test_an_embedding_not_finite_has_fallback_labels(settings, caplog):
    class Engine(FakeClipEngine):
        def encode_images(self, batch):
            vectors = super().encode_images(batch)
            vectors[0] = np.nan
            return vectors

    settings = settings.replace(fallback_labels=tuple("vwxyz"))
    classifier = CLIPClassifier(settings, engine=LazyModel.ready(Engine(), "fake"))
    first, second = classifier.classify([picture(0), picture(1)])
    assert first == [{"label": name, "confidence": 0.0, "cosine_score": 0.0} for name in "vwxyz"]
    assert second[0]["confidence"] > 0
    assert "not finite" in caplog.text


def test_bad_labels_are_an_error_before_a_model_is_looked_for(settings):
    (settings.root / "config").mkdir()
    (settings.root / "config" / "labels.json").write_text('{"labels": []}')

    def refuse() -> None:
        raise AssertionError("looked for a model")

    with pytest.raises(SettingsError, match="0 labels"):
        CLIPClassifier(settings, engine=LazyModel(refuse, refuse))  # type: ignore[arg-type]


def test_a_cache_folder_that_cannot_be_written_costs_no_results(settings, tmp_path: Path, caplog):
    expected = fake(settings)[0].classify(picture())
    blocked = tmp_path / "blocked"
    blocked.write_text("a file where the data folder should be")
    assert fake(settings.replace(data_dir="blocked"))[0].classify(picture()) == expected
    assert "cannot be written" in caplog.text
