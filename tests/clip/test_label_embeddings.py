from __future__ import annotations

import io
import json
import os
import pickle
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from checkpoints import weights_in

from curation_features.clip.engine import OpenClipEngine
from curation_features.clip.label_embeddings import (
    PROMPTS_AT_ONCE,
    LabelEmbeddings,
    embed_labels,
    label_version,
    read,
    stored_version,
    write,
)
from curation_features.clip.vocabulary import Vocabulary, load_vocabulary
from curation_features.devices.selection import Device
from curation_features.errors import InvalidWeightsError
from curation_features.testing import FakeClipEngine

VOCABULARY = Vocabulary(("sea", "hill", "cat", "night", "food"), ("a photo of {}", "{} scene"))


def embeddings(version: str = "v1") -> LabelEmbeddings:
    return LabelEmbeddings(embed_labels(FakeClipEngine(), VOCABULARY), 98.5, version)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "cache" / "label_embeddings.pt"
    write(path, embeddings(), VOCABULARY)
    return path


@pytest.mark.long
def test_embeddings_are_open_clips_zero_shot_classifier(settings, clip_checkpoint):
    import open_clip

    vocabulary = load_vocabulary(settings)
    folder = f"local-dir:{clip_checkpoint}"
    model = open_clip.create_model_from_pretrained(folder, return_transform=False).eval()
    expected = open_clip.build_zero_shot_classifier(
        model, open_clip.get_tokenizer(folder), vocabulary.labels, vocabulary.templates
    )
    vectors = embed_labels(OpenClipEngine(weights_in(clip_checkpoint), Device("cpu", "fp32")), vocabulary)
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(vectors, expected.T.numpy(), atol=1e-6)


@pytest.mark.long
def test_thousands_of_labels_use_small_batches():
    sizes: list[int] = []

    class Engine(FakeClipEngine):
        def encode_texts(self, prompts):
            sizes.append(len(prompts))
            return super().encode_texts(prompts)

    vocabulary = Vocabulary(tuple(f"label {number}" for number in range(3000)), ("a {}", "b {}", "c {}"))
    vectors = embed_labels(Engine(), vocabulary)
    assert sum(sizes) == 9000
    assert max(sizes) <= PROMPTS_AT_ONCE
    prompts = FakeClipEngine().encode_texts(["a label 2345", "b label 2345", "c label 2345"]).astype(float)
    np.testing.assert_allclose(vectors[2345], prompts.sum(0) / np.linalg.norm(prompts.sum(0)), atol=1e-6)


def test_a_label_without_a_finite_embedding_is_named():
    class Engine(FakeClipEngine):
        def encode_texts(self, prompts):
            vectors = super().encode_texts(prompts)
            vectors[[index for index, prompt in enumerate(prompts) if "cat" in prompt]] = np.nan
            return vectors

    with pytest.raises(InvalidWeightsError, match="'cat'"):
        embed_labels(Engine(), VOCABULARY)


def test_the_version_changes_with_labels_templates_and_model():
    versions = {
        label_version("model", VOCABULARY),
        label_version("other", VOCABULARY),
        label_version("model", Vocabulary(VOCABULARY.labels[::-1], VOCABULARY.templates)),
        label_version("model", Vocabulary(VOCABULARY.labels, VOCABULARY.templates[:1])),
    }
    assert len(versions) == 4
    assert label_version("model", VOCABULARY) in versions


def test_what_is_written_is_read_back(path):
    import torch

    found = read(path, "v1")
    assert found is not None
    assert np.array_equal(found.vectors, embeddings().vectors)
    assert (found.logit_scale, found.version) == (98.5, "v1")
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]
    content = torch.load(path, weights_only=True)
    assert sorted(content) == ["embeddings", "labels", "logit_scale", "templates", "version"]
    assert content["labels"] == list(VOCABULARY.labels)


def test_another_version_and_a_missing_file_are_not_read(path, caplog):
    assert read(path, "v2") is None
    assert read(path.with_name("none.pt"), "v1") is None
    assert caplog.messages == []


@pytest.mark.long
def test_reading_needs_no_torch(path):
    script = (
        "import sys; from pathlib import Path; "
        "from curation_features.clip.label_embeddings import read, stored_version; "
        "path = Path(sys.argv[1]); print(stored_version(path), read(path, 'v1').vectors.shape, 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", script, path], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["v1", "(5,", "16)", "False"]


def test_the_array_of_an_earlier_release_is_read(path):
    import torch

    torch.save(torch.load(path, weights_only=True), path)  # without further entries
    found = read(path, "v1")
    assert found is not None
    assert np.array_equal(found.vectors, embeddings().vectors)
    assert read(path, "v2") is None


@pytest.mark.parametrize(
    "damage",
    [
        lambda _: b"",
        lambda data: data[: len(data) // 2],
        lambda data: data[:-10],
        lambda _: b"<!DOCTYPE html>",
        lambda _: pickle.dumps({"version": "v1"}),
    ],
    ids=["empty", "truncated", "cut short", "web page", "plain pickle"],
)
def test_a_damaged_file_is_replaced(path, damage, caplog):
    path.write_bytes(damage(path.read_bytes()))
    assert read(path, "v1") is None
    assert stored_version(path) is None
    assert "computed again" in caplog.text
    write(path, embeddings(), VOCABULARY)
    assert read(path, "v1") is not None


@pytest.mark.parametrize(
    "change",
    [
        {"embeddings": None},
        {"embeddings": "text"},
        {"embeddings": np.ones((5, 16), np.float64)},
        {"embeddings": np.ones((4, 16), np.float32)},
        {"embeddings": np.ones((5, 16), np.float32)},
        {"embeddings": np.full((5, 16), np.nan, np.float32)},
        {"logit_scale": float("nan")},
        {"logit_scale": -1.0},
        {"labels": None},
    ],
)
def test_content_that_cannot_be_label_vectors_is_not_read(path, change):
    import torch

    content = torch.load(path, weights_only=True)
    content |= {key: torch.tensor(value) if isinstance(value, np.ndarray) else value for key, value in change.items()}
    torch.save(content, path)
    assert read(path, "v1") is None


def replace_entry(path: Path, name: str, content: bytes, **options: Any) -> None:
    with zipfile.ZipFile(path) as entries:
        contents = {entry: entries.read(entry) for entry in entries.namelist()}
    with zipfile.ZipFile(path, "w") as entries:
        for entry, old in contents.items():
            entries.writestr(entry, content if entry.endswith(name) else old, **options)


def saved(array: Any) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("embeddings.npy", b""),
        ("embeddings.npy", saved(np.ones((5, 16), np.float64))),
        ("embeddings.npy", saved(embeddings().vectors[:4])),
        ("embeddings.npy", saved(np.full((5, 16), np.nan, np.float32))),
        ("embeddings.npy", saved(np.array([{}]))),  # a pickle
        ("version.json", json.dumps({"version": "v1", "labels": 5, "logit_scale": -1.0}).encode()),
        ("version.json", json.dumps({"version": "v1", "labels": 5, "logit_scale": None}).encode()),
        ("version.json", json.dumps({"version": "v1"}).encode()),
    ],
)
def test_damaged_entries_are_not_read(path, name, content, caplog):
    replace_entry(path, name, content)
    assert read(path, "v1") is None
    assert "computed again" in caplog.text


def test_a_compressed_array_is_not_read(path):
    array = saved(embeddings().vectors)
    replace_entry(path, "embeddings.npy", array, compress_type=zipfile.ZIP_DEFLATED)
    assert read(path, "v1") is None


class Hostile:
    """A pickle that creates a folder if its code is executed."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self):
        return os.mkdir, (str(self.target),)


@pytest.mark.parametrize("kind", ["zip", "legacy"])
def test_a_hostile_file_is_never_executed(path, tmp_path, kind):
    import torch

    trap = tmp_path / "executed"
    content = {"version": "v1", "embeddings": Hostile(trap)}
    torch.save(content, path, _use_new_zipfile_serialization=kind == "zip")
    assert read(path, "v1") is None
    assert not trap.exists()
    torch.load(path, weights_only=False)  # the trap works
    assert trap.exists()


@pytest.mark.parametrize("entry", [b"{", b"[]", b'{"version": 7}', b'{"version": "' + b"x" * 10_000 + b'"}'])
def test_an_invalid_version_entry_is_ignored(tmp_path, entry):
    path = tmp_path / "label_embeddings.pt"
    with zipfile.ZipFile(path, "w") as entries:
        entries.writestr("archive/version.json", entry)
    assert stored_version(path) is None
