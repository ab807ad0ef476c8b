from __future__ import annotations

import hashlib
import json
import shutil
import socket

import pytest

from curation_features.cli import main
from curation_features.weights import brisque_file, clip_iqa_file, locate_clip, model_status

PICKLE = b"\x80\x02 a file of torch.save"


@pytest.fixture
def local(settings, clip_checkpoint, tmp_path, monkeypatch):
    """Settings of a project with a user-supplied checkpoint, on a machine without other weights or connection."""
    from huggingface_hub import constants

    for name in ("TORCH_HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setattr(constants, "HF_ASSETS_CACHE", str(tmp_path / "assets"))
    monkeypatch.setattr(socket.socket, "connect", None)  # any attempt to reach a server raises
    shutil.copytree(clip_checkpoint, settings.root / "model")
    return settings.replace(model="local-dir:model")


def test_the_status_downloads_nothing(local):
    elsewhere = brisque_file().elsewhere
    elsewhere.parent.mkdir(parents=True)
    elsewhere.write_bytes(PICKLE)
    clip, clip_iqa, brisque = model_status(local)
    weights = locate_clip(local)
    assert (clip.name, clip.source, clip.problem) == ("clip", "local-dir:model", None)
    assert (clip.path, clip.sha256, clip.bytes) == (weights.path, weights.sha256, weights.path.stat().st_size)
    assert clip.origin == "a user-supplied file"
    assert (clip_iqa.path, clip_iqa.sha256, clip_iqa.bytes, clip_iqa.origin) == (None, None, 0, "")
    assert clip_iqa.reason == "missing_weights"
    assert "CLIP-IQA's RN50 is not on this machine" in clip_iqa.problem
    assert (brisque.name, brisque.bytes, brisque.problem) == ("brisque", len(PICKLE), None)
    assert (brisque.source, brisque.origin) == (brisque_file().url, "a download of another library")
    assert all(status.without_it for status in (clip, clip_iqa, brisque))


def test_the_status_of_an_unusable_model_is_its_problem(local):
    assert "neither hf-hub" in model_status(local.replace(model="ViT-L-14"))[0].problem
    clip_iqa_file().path.parent.mkdir(parents=True)
    clip_iqa_file().path.write_bytes(b"<html>")
    status = model_status(local)[1]
    assert (status.reason, status.path) == ("invalid_weights", None)
    assert "is not a PyTorch file" in status.problem


def test_the_status_is_available_as_json(local, monkeypatch, capsys):
    monkeypatch.setenv("CURATION_FEATURES_MODEL", local.model)
    brisque_file().path.parent.mkdir(parents=True)
    brisque_file().path.write_bytes(PICKLE)
    assert main(["--root", str(local.root), "models", "status", "--json"]) == 0
    clip, clip_iqa, brisque = json.loads(capsys.readouterr().out)["models"]
    keys = "name source path sha256 bytes origin problem reason without_it licence"
    assert sorted(clip) == sorted(keys.split())
    assert clip["path"] == str(local.root / "model" / "open_clip_model.safetensors")
    assert (clip_iqa["path"], clip_iqa["reason"]) == (None, "missing_weights")
    assert (brisque["sha256"], brisque["origin"]) == (hashlib.sha256(PICKLE).hexdigest(), "the weights folder")
