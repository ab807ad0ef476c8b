"""Models with invalid output or without memory, and invalid vocabularies."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from curation_features.cli import main
from curation_features.errors import SettingsError
from curation_features.service import FeaturesService
from curation_features.storage.artifacts import ArtifactStore
from curation_features.storage.tables import read_rows
from curation_features.weights import LazyModel

BAD = 3  # position of the photo that the model fails on


@pytest.fixture
def batch(world) -> dict[str, Any]:
    return {"batch_id": "b", "artifacts": [world.photo(f"{n}.png", n) for n in range(8)]}


def run(world, batch: dict[str, Any], **changes: Any) -> list[dict[str, Any]]:
    """The features of a batch, computed in new stages, written and read back."""
    stages = world.stages(world.settings.replace(batch_size=8, **changes))
    merged = FeaturesService(stages=stages).run(world.batch(batch["artifacts"], "b"))
    store = ArtifactStore(world.settings.data_path)
    artifact = store.write_features(merged.document, merged.rows(), merged.version, merged.labels)
    document = json.loads(artifact.json_path.read_bytes(), parse_constant=refuse)
    return [artifact["features"] for artifact in document["artifacts"]]


def refuse(*_: object) -> Any:
    raise AssertionError("NaN or an infinity was written, or a model was loaded")


def errors(features: dict[str, Any]) -> list[tuple[str, str]]:
    return [(error["stage"], error["reason"]) for error in features["errors"]]


def is_bad(world) -> Callable[[np.ndarray], bool]:
    """A predicate for the input made of the bad photo, for any of the fake models."""
    with Image.open(world.root / "photos" / f"{BAD}.png") as image:
        rgb = np.asarray(image)
    known = (float(rgb.mean()), float(world.clip.preprocess(rgb).mean()))
    return lambda pixels: any(abs(float(pixels.mean()) - mean) < 1e-6 for mean in known)


def method_of(world, part: str) -> tuple[Any, str]:
    """The model of a part, and the name of its method that computes the part."""
    return (world.clip, "embed_images") if part == "image_embedding" else (getattr(world, part), "score")


def spoil(patch: pytest.MonkeyPatch, world, part: str, value: Any) -> None:
    """Let a model return `value` for the bad photo."""
    bad = is_bad(world)
    model, method = method_of(world, part)
    sound = getattr(model, method)

    def spoiled(inputs: np.ndarray) -> Any:
        if part == "brisque":
            return value if bad(inputs) else sound(inputs)
        found = sound(inputs)
        results = np.array(found.vectors if part == "image_embedding" else found)
        for row, one in enumerate(inputs):
            if bad(one):
                results[row] = value
        return found._replace(vectors=results) if part == "image_embedding" else results

    patch.setattr(model, method, spoiled)


@pytest.mark.parametrize(
    ("part", "value", "reason"),
    [
        ("clip_iqa", math.nan, "not_finite"),
        ("clip_iqa", -math.inf, "not_finite"),
        ("clip_iqa", 1.5, "out_of_range"),
        ("clip_iqa", -0.01, "out_of_range"),
        ("brisque", math.nan, "not_finite"),
        ("brisque", math.inf, "not_finite"),
        ("image_embedding", math.nan, "not_finite"),
        ("image_embedding", math.inf, "not_finite"),
        ("image_embedding", 0.0, "out_of_range"),
        ("image_embedding", 3.0, "out_of_range"),
    ],
)
def test_an_invalid_model_output_is_a_default_and_not_cached(world, batch, monkeypatch, part, value, reason) -> None:
    sound = run(world, batch)
    world.stages().cache.clear()
    with monkeypatch.context() as patch:
        spoil(patch, world, part, value)
        found = run(world, batch)
    assert errors(found[BAD]) == [(part, reason)]
    assert found[BAD]["status"] == "degraded"
    if part != "image_embedding":
        assert found[BAD]["tech"] == {**sound[BAD]["tech"], part: 0.0}
        assert found[BAD]["clip_labels"] == sound[BAD]["clip_labels"]
    else:
        assert found[BAD]["tech"] == sound[BAD]["tech"]
        assert {label["confidence"] for label in found[BAD]["clip_labels"]} == {0.0}
    assert [one for n, one in enumerate(found) if n != BAD] == [one for n, one in enumerate(sound) if n != BAD]
    for row in read_rows(world.settings.data_path / "features" / "b.parquet"):
        numbers = [*row.values(), *(row["label_cosines"] or ())]
        assert all(math.isfinite(number) for number in numbers if isinstance(number, float))
    assert run(world, batch) == sound


@pytest.mark.parametrize("norm", [math.nan, math.inf, 0.0, -1.0])
def test_a_vector_of_an_impossible_norm_is_refused(world, batch, monkeypatch, norm) -> None:
    sound, embed, bad = run(world, batch), world.clip.embed_images, is_bad(world)
    world.stages().cache.clear()

    def spoiled(inputs: np.ndarray) -> Any:
        found = embed(inputs)
        return found._replace(norms=[norm if bad(one) else kept for one, kept in zip(inputs, found.norms, strict=True)])

    monkeypatch.setattr(world.clip, "embed_images", spoiled)
    found = run(world, batch)
    assert errors(found[BAD]) == [("image_embedding", "out_of_range")]
    assert [one for n, one in enumerate(found) if n != BAD] == [one for n, one in enumerate(sound) if n != BAD]


def test_a_score_just_out_of_range_is_clipped(world, batch, monkeypatch) -> None:
    spoil(monkeypatch, world, "clip_iqa", 1.0000001)
    found = run(world, batch)
    assert found[BAD]["tech"]["clip_iqa"] == 1.0
    assert found[BAD]["status"] == "ok"


# Memory


def cramped(
    patch: pytest.MonkeyPatch, world, part: str, capacity: int, error: Exception, *, poisoned: bool = False
) -> list[int]:
    """Let a model run out of memory above `capacity` photos, or at the bad one; returns the batch sizes."""
    bad = is_bad(world)
    model, method = method_of(world, part)
    sound, sizes = getattr(model, method), []

    def limited(inputs: Sequence[np.ndarray]) -> Any:
        sizes.append(len(inputs))
        if len(inputs) > capacity or (poisoned and any(bad(one) for one in inputs)):
            raise error
        return sound(inputs)

    patch.setattr(model, method, limited)
    return sizes


OUT_OF_MEMORY = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
    RuntimeError("MPS backend out of memory (MPS allocated: 8.00 GB)"),
    MemoryError(),
]


@pytest.mark.parametrize("error", OUT_OF_MEMORY, ids=["cuda", "mps", "cpu"])
@pytest.mark.parametrize("part", ["clip_iqa", "image_embedding"])
def test_a_batch_that_does_not_fit_is_halved_until_it_does(world, batch, monkeypatch, part, error) -> None:
    sound = run(world, batch)
    world.stages().cache.clear()
    sizes = cramped(monkeypatch, world, part, 2, error)
    assert run(world, batch) == sound
    assert sizes == [8, 4, 2, 2, 4, 2, 2]


@pytest.mark.parametrize("error", OUT_OF_MEMORY, ids=["cuda", "mps", "cpu"])
@pytest.mark.parametrize("part", ["clip_iqa", "image_embedding"])
def test_only_a_photo_that_does_not_fit_alone_fails(world, batch, monkeypatch, caplog, part, error) -> None:
    sound = run(world, batch)
    world.stages().cache.clear()
    with monkeypatch.context() as patch, caplog.at_level(logging.WARNING):
        cramped(patch, world, part, 3, error, poisoned=True)
        found = run(world, batch)
    assert errors(found[BAD]) == [(part, "out_of_memory")]
    assert [one for n, one in enumerate(found) if n != BAD] == [one for n, one in enumerate(sound) if n != BAD]
    assert len([message for message in caplog.messages if "failed on one photo of the batch" in message]) == 1
    results: list[Any] = []
    done = world.done_by(lambda: results.append(run(world, batch)))
    assert results == [sound]
    assert done == {"decoded": 1, "clip_iqa" if part == "clip_iqa" else "clip_images": 1}


# Vocabularies


def write(world, **files: Any) -> None:
    folder = world.root / "config"
    folder.mkdir(exist_ok=True)
    for name, content in files.items():
        (folder / f"{name}.json").write_text(json.dumps({name: content}))


LABELS = ["cat", "dog", "tree", "house", "car", "boat"]


@pytest.mark.parametrize(
    ("files", "named"), [({"labels": [*LABELS, "dog"]}, "labels[6]"), ({"templates": ["a photo"]}, "templates[0]")]
)
def test_an_invalid_vocabulary_stops_a_run_early(world, batch, files, named) -> None:
    write(world, **files)
    untouched = {name: LazyModel(refuse, refuse) for name in ("clip", "clip_iqa", "brisque")}
    with pytest.raises(SettingsError) as caught:
        FeaturesService(stages=world.stages(**untouched)).process(batch)
    assert named in str(caught.value)
    assert world.counts()["decoded"] == 0


def test_an_invalid_vocabulary_is_code_2(world, batch, capsys, monkeypatch) -> None:
    write(world, labels=[*LABELS, "dog"])
    (world.root / "m.json").write_text(json.dumps(batch))
    monkeypatch.chdir(world.root)
    for command in ("process", "materialize"):
        assert main([command, "m.json"]) == 2
        assert "labels[6] ('dog')" in capsys.readouterr().err
    assert not (world.settings.data_path / "features").exists()


@pytest.mark.long
def test_thousands_of_labels_label_a_batch(world, batch) -> None:
    write(world, labels=[f"label {n}" for n in range(4000)], templates=["a photo of {}"])
    found = run(world, batch)
    assert {features["status"] for features in found} == {"ok"}
    for row, features in zip(read_rows(world.settings.data_path / "features" / "b.parquet"), found, strict=True):
        assert len(row["label_cosines"]) == 4000
        best = int(np.argmax(row["label_cosines"]))
        assert features["clip_labels"][0]["label"] == f"label {best}"
