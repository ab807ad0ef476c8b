from __future__ import annotations

import hashlib
import importlib
import json
import os
import shutil
import socket
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from hubs import CHECKPOINT, COMMIT, CONFIG, PICKLE, altered
from huggingface_hub import cached_assets_path, constants, try_to_load_from_cache

from curation_features.cli import main
from curation_features.errors import InvalidWeightsError, MissingWeightsError, WeightsError
from curation_features.weights import (
    KnownFile,
    ModelStatus,
    Weights,
    brisque_file,
    catalog,
    clip_iqa_file,
    locate,
    model_status,
    pull,
    sources,
)
from curation_features.weights.fetch import fetch_clip
from curation_features.weights.files import cached, digest
from curation_features.weights.sources import FETCH

locate_module = importlib.import_module("curation_features.weights.locate")  # a function has the same name
PICKLED = "open_clip_pytorch_model.bin"
WEIGHTLESS = len(b"{}").to_bytes(8, "little") + b"{}"


def sha256_of(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


# --- a checkpoint in a folder ---


@pytest.fixture
def local(settings, clip_checkpoint):
    """Settings of a project with a user-supplied checkpoint in `model/`."""
    shutil.copytree(clip_checkpoint, settings.root / "model")
    return settings.replace(model="local-dir:model")


def set_text(settings, **text):
    """Change the text configuration of the checkpoint in `model/`."""
    path = settings.root / "model" / CONFIG
    config = json.loads(path.read_text())
    config["model_cfg"]["text_cfg"].update(text)
    path.write_text(json.dumps(config))


def test_a_folders_checkpoint_is_found(local):
    weights = locate("clip", local)
    assert weights.path == local.root / "model" / CHECKPOINT
    assert (weights.source, weights.tokenizer) == ("local-dir:model", None)
    assert weights.config == json.loads((local.root / "model" / CONFIG).read_text())
    set_text(local, hf_tokenizer_name="org/tokenizer")
    with pytest.raises(MissingWeightsError, match=r"lacks its tokenizer \(tokenizer_config.json"):
        locate("clip", local)


@pytest.mark.parametrize("name", [CHECKPOINT, CONFIG, "tokenizer.json"])
def test_a_changed_file_changes_the_digest(local, name):
    """Even if the checkpoint keeps its size and modification time."""
    folder = local.root / "model"
    set_text(local, hf_tokenizer_name="org/tokenizer")
    for file in ("tokenizer.json", "tokenizer_config.json"):
        (folder / file).write_text("{}")
    before = locate("clip", local)
    assert before.tokenizer == folder
    assert locate("clip", local) == before
    data, stat = (folder / name).read_bytes(), (folder / name).stat()
    (folder / name).write_bytes(altered(data) if name == CHECKPOINT else data + b" ")
    os.utime(folder / name, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert locate("clip", local).sha256 != before.sha256


def test_a_digest_is_remembered_and_a_damaged_memo_ignored(local):
    weights = locate("clip", local)
    memo = local.data_path / "cache" / "weights.json"
    (remembered,) = json.loads(memo.read_text()).values()
    assert remembered == sha256_of(weights.path.read_bytes())
    memo.write_text(memo.read_text().replace(remembered, "0" * 64))
    assert locate("clip", local).sha256 != weights.sha256  # the memo is really used
    for damage in ("", "{", "[]", '{"x": 1}', memo.read_text().replace("0" * 64, "short")):
        memo.write_text(damage)
        assert locate("clip", local).sha256 == weights.sha256


def test_a_memo_that_cannot_be_written_loses_no_result(local, caplog):
    expected = locate("clip", local)
    (local.root / "blocked").write_text("a file instead of the data folder")
    assert locate("clip", local.replace(data_dir="blocked")) == expected
    assert "cannot be written" in caplog.text


def test_open_clips_choice_among_checkpoints_decides(local):
    import torch
    from open_clip.factory import _find_checkpoint_in_dir

    folder = local.root / "model"
    weights = (folder / CHECKPOINT).read_bytes()
    torch.save({}, folder / PICKLED)
    (folder / "open_clip_pytorch_model.safetensors").write_bytes(weights)
    (folder / "model.safetensors").write_bytes(weights)
    for name in (CHECKPOINT, "open_clip_pytorch_model.safetensors", PICKLED):
        assert locate("clip", local).path == folder / name == Path(_find_checkpoint_in_dir(folder))
        (folder / name).unlink()
    with pytest.raises(MissingWeightsError, match=r"holds none of open_clip_model\.safetensors"):
        locate("clip", local)


def test_a_missing_folder_or_configuration_has_a_remedy(local):
    with pytest.raises(MissingWeightsError, match=r"nowhere is not a folder; put .*ON_MISSING_WEIGHTS=degrade"):
        locate("clip", local.replace(model="local-dir:nowhere"))
    (local.root / "model" / CONFIG).unlink()
    with pytest.raises(MissingWeightsError, match=f"holds no {CONFIG}"):
        locate("clip", local)


@pytest.mark.parametrize(
    ("name", "damage", "message"),
    [
        (CHECKPOINT, lambda data: b"<!DOCTYPE html><html>Sign in</html>", "is not a complete safetensors .*DOCTYP"),
        (CHECKPOINT, lambda data: b"", "is not a complete safetensors file"),
        (CHECKPOINT, lambda data: data[:4], "is not a complete safetensors file"),
        (CHECKPOINT, lambda data: data[:100], "is not a complete safetensors file"),
        (CHECKPOINT, lambda data: data[:-1], "is not a complete safetensors .*not fully covered"),
        (CHECKPOINT, lambda data: data + b"x", "is not a complete safetensors .*not fully covered"),
        (CHECKPOINT, lambda data: data[:8] + b"\xff" + data[9:], "is not a complete safetensors .*header"),
        (CHECKPOINT, lambda data: WEIGHTLESS, "holds no weights"),
        (PICKLED, lambda data: b"<html>", "is not a PyTorch file"),
        (PICKLED, lambda data: b"", "is not a PyTorch file"),
        (PICKLED, lambda data: b"PK\x03\x04 the start of an archive", "is truncated"),
    ],
)
def test_the_header_of_a_checkpoint_shows_damage(local, name, damage, message):
    path = (local.root / "model" / CHECKPOINT).rename(local.root / "model" / name)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(InvalidWeightsError, match=f"{path} {message}.*; copy it there again"):
        locate("clip", local)


@pytest.mark.parametrize(
    "config", ["{", "[]", "{}", '{"model_cfg": 1}', '{"model_cfg": {"text_cfg": 1}}', "[" * 100_000]
)
def test_a_configuration_that_is_not_valid_is_an_error(local, config):
    (local.root / "model" / CONFIG).write_text(config)
    with pytest.raises(InvalidWeightsError, match=r"open_clip_config.json (is not JSON|has no model_cfg).*; copy it"):
        locate("clip", local)


# --- a checkpoint in the hub's cache ---


@pytest.fixture
def hub_cache(tmp_path, monkeypatch) -> Path:
    """An empty cache of the hub, which is offline."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_ASSETS_CACHE", str(tmp_path / "assets"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    return tmp_path / "hub"


def put(cache: Path, repo: str, name: str, data: bytes, commit: str = COMMIT, revision: str = "main") -> Path:
    """Put a file into the cache in its documented layout: a blob, and a link to it in the snapshot of a commit."""
    folder = cache / f"models--{repo.replace('/', '--')}"
    blob, link = folder / "blobs" / sha256_of(data), folder / "snapshots" / commit / name
    ref = folder / "refs" / revision
    for path in (blob, link, ref):
        path.parent.mkdir(parents=True, exist_ok=True)
    blob.write_bytes(data)
    link.unlink(missing_ok=True)
    link.symlink_to(os.path.relpath(blob, link.parent))
    ref.write_text(commit)
    return link


@pytest.fixture
def published(hub_cache, settings):
    """Settings of a project whose model is `org/model` of the hub."""
    return settings.replace(model="hf-hub:org/model")


def put_model(cache: Path, local, commit: str = COMMIT) -> Path:
    """Put the files of `model/` into the cache; returns the link to the checkpoint."""
    for path in (local.root / "model").iterdir():
        link = put(cache, "org/model", path.name, path.read_bytes(), commit)
    return link.with_name(CHECKPOINT)


@pytest.mark.parametrize("revision", ["main", "a/branch", "c" * 40, "d" * 40, "e" * 40, "unknown"])
@pytest.mark.parametrize("name", ["here.bin", "folder/here.bin", "absent.bin", "folder"])
def test_cached_files_are_those_of_the_hubs_own_client(hub_cache, revision, name):
    put(hub_cache, "org/model", "here.bin", b"here", "c" * 40)
    put(hub_cache, "org/model", "here.bin", b"here", "d" * 40, "a/branch")
    put(hub_cache, "org/model", "folder/here.bin", b"there", "c" * 40)
    for repo in ("org/model", "org/none"):
        theirs = try_to_load_from_cache(repo, name, revision=revision)
        assert cached(repo, revision, name) == (Path(theirs) if isinstance(theirs, str) else None)


def test_a_cached_checkpoint_has_the_digest_of_a_folders(hub_cache, published, local):
    link = put_model(hub_cache, local)
    weights = locate("clip", published)
    assert (weights.path, weights.sha256) == (link, locate("clip", local).sha256)
    data = link.read_bytes()
    link.resolve().write_bytes(altered(data))
    with pytest.raises(InvalidWeightsError, match="models pull") as caught:
        locate("clip", published)
    for content in (data, altered(data)):
        assert sha256_of(content) in str(caught.value)


COSINES = (("a cat", "a dog", 0.9),)


def publish(monkeypatch, sha256: str) -> None:
    """Put `org/model` into the table of models."""
    entry = replace(catalog.LABELLERS[0], repo="org/model", revision="f" * 40, file=CHECKPOINT, sha256=sha256)
    monkeypatch.setattr(sources, "PUBLISHED_CLIPS", {"org/model": replace(entry, text_cosines=COSINES)})


@pytest.mark.parametrize(
    ("commit", "error"), [("f" * 40, "and the published file has 0000"), (COMMIT, "is not on this machine")]
)
def test_a_published_checkpoint_must_have_the_tables_digest(hub_cache, published, local, monkeypatch, commit, error):
    """open_clip itself fetches it at `main`, which may be at another commit."""
    publish(monkeypatch, sha256_of(put_model(hub_cache, local, commit).read_bytes()))
    weights = locate("clip", published)
    assert (weights.sha256, weights.text_cosines) == (locate("clip", local).sha256, COSINES)
    assert locate("clip", local).text_cosines == ()
    publish(monkeypatch, "0" * 64)
    with pytest.raises(WeightsError, match=error):
        locate("clip", published)


def test_a_published_checkpoint_is_imported_from_any_commit(hub_cache, published, local, monkeypatch, tmp_path):
    """Its digest identifies it; any other checkpoint has to be of the right commit."""
    stick = tmp_path / "stick"
    checkpoint = put_model(stick, local)
    for sha256 in ("", "0" * 64):
        publish(monkeypatch, sha256)
        with pytest.raises(MissingWeightsError, match=f"stick holds no {CHECKPOINT}"):
            fetch_clip(sources.model_source(published), folder=stick)
    publish(monkeypatch, sha256_of(checkpoint.read_bytes()))
    fetch_clip(sources.model_source(published), folder=stick)
    weights = locate("clip", published)
    assert (weights.sha256, weights.path.parent.name) == (locate("clip", local).sha256, "f" * 40)


def test_a_model_needs_its_configuration_and_tokenizer(hub_cache, published, local):
    set_text(local, hf_tokenizer_name="org/words")
    model = local.root / "model"
    for repo, name, missing in (
        ("org/model", CHECKPOINT, "CLIP hf-hub:org/model is not on this machine"),
        ("org/model", CONFIG, f"{CONFIG} is not on this machine"),
        ("org/words", "tokenizer.json", "The tokenizer org/words of CLIP hf-hub:org/model"),
        ("org/words", "tokenizer_config.json", "The tokenizer org/words of CLIP hf-hub:org/model"),
    ):
        with pytest.raises(MissingWeightsError, match=f"{missing}.*; run `curation-features models pull"):
            locate("clip", published, fetch=False)
        put(hub_cache, repo, name, (model / name).read_bytes() if repo == "org/model" else b"{}")
    assert locate("clip", published).tokenizer.parent.parent == hub_cache / "models--org--words"


def test_a_text_encoders_configuration_is_cached(hub_cache, local):
    set_text(local, hf_model_name="org/encoder")
    encoder = put(hub_cache, "org/encoder", "config.json", b"{}")
    weights = locate("clip", local)
    assert weights.config["model_cfg"]["text_cfg"]["hf_model_name"] == str(encoder.parent)
    put(hub_cache, "org/encoder", "config.json", b"{ }")
    assert locate("clip", local).sha256 != weights.sha256


# --- single files ---


@pytest.fixture
def home(tmp_path, monkeypatch, hub_cache) -> Path:
    """A home folder without any cached model."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture
def known(home, monkeypatch) -> KnownFile:
    """CLIP-IQA's file, if `PICKLE` were what OpenAI publishes."""
    monkeypatch.setattr(catalog, "RN50_SHA256", sha256_of(PICKLE))
    return clip_iqa_file()


def write(path: Path, data: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def test_the_cache_of_piq_is_known(home):
    assert clip_iqa_file().elsewhere == home / ".cache" / "clip" / "RN50.pt"


def test_downloads_are_assets_of_the_hubs_cache(hub_cache):
    documented = cached_assets_path("curation-features", "weights", assets_dir=constants.HF_ASSETS_CACHE)
    assert clip_iqa_file().path.parent == documented.parent


def test_the_weights_folder_has_priority(settings, known):
    with pytest.raises(MissingWeightsError, match=r"CLIP-IQA's RN50 is not on this machine.*models pull"):
        locate("clip_iqa", settings)
    for path in (known.elsewhere, known.path):
        write(path, PICKLE)
        assert locate("clip_iqa", settings) == Weights(known.url, path, known.sha256)


@pytest.mark.parametrize("place", ["path", "elsewhere"])
def test_another_file_is_refused_with_both_digests(settings, known, place):
    path = write(getattr(known, place), altered(PICKLE))
    with pytest.raises(InvalidWeightsError, match=f"set CURATION_FEATURES_CLIP_IQA_WEIGHTS={path}") as caught:
        locate("clip_iqa", settings)
    for content in (PICKLE, altered(PICKLE)):
        assert sha256_of(content) in str(caught.value)


def test_a_remembered_digest_can_be_verified_again(settings, known):
    write(known.path, PICKLE)
    locate("clip_iqa", settings)
    memo = settings.data_path / "cache" / "weights.json"
    memo.write_text(memo.read_text().replace(known.sha256, "0" * 64))
    with pytest.raises(InvalidWeightsError):
        locate("clip_iqa", settings)
    assert pull(settings)[1].sha256 == locate("clip_iqa", settings).sha256 == known.sha256


@pytest.mark.parametrize("model", ["clip_iqa", "brisque"])
def test_a_user_supplied_file_is_used_as_it_is(settings, home, model):
    path = write(settings.root / "mine.pt", PICKLE)
    setting = f"{model}_weights"
    assert locate(model, settings.replace(**{setting: "mine.pt"})) == Weights("mine.pt", path, sha256_of(PICKLE))
    with pytest.raises(MissingWeightsError, match=f"CURATION_FEATURES_{setting.upper()} names .*none.pt"):
        locate(model, settings.replace(**{setting: "none.pt"}))


def test_clip_iqa_needs_openais_file(settings, home):
    write(clip_iqa_file().path, PICKLE)
    with pytest.raises(InvalidWeightsError, match="afeb0e10f9e5a86da6080e35cf09123aca3b358a0c3e3b6c78a7b63bc04b6762"):
        locate("clip_iqa", settings)


# --- the file in the package ---


def test_brisque_needs_no_network_and_no_heavy_library(tmp_path):
    code = (
        "import sys; from pathlib import Path; sys.addaudithook(lambda event, _: event != 'socket.connect' or 1 / 0);"
        "from curation_features.settings import Settings;"
        "from curation_features.technical.brisque.loading import read_regressor;"
        "from curation_features.weights import locate;"
        "print([array.shape for array in read_regressor(locate('brisque', Settings(root=Path(sys.argv[1]))))],"
        " sorted({'torch', 'piq', 'safetensors', 'huggingface_hub'} & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", code, tmp_path], capture_output=True, text=True)
    assert done.stdout == "[(774, 1), (774, 36)] []\n", done.stderr


@pytest.mark.parametrize("damage", [altered, lambda data: data[:-1], lambda data: None])
def test_a_damaged_package_is_an_error(settings, monkeypatch, tmp_path, damage):
    content = damage(brisque_file().path.read_bytes())
    damaged = replace(brisque_file(), path=tmp_path / "brisque.npz")
    if content:
        damaged.path.write_bytes(content)
    monkeypatch.setitem(locate_module._SINGLE_FILES, "brisque", lambda: damaged)
    with pytest.raises(InvalidWeightsError, match=r"brisque.npz is missing or was altered; install .* again"):
        locate("brisque", settings)


PIQ = "https://github.com/photosynthesis-team/piq/releases/download/v0.4.0/brisque_svm_weights.pt"


@pytest.mark.parametrize("folder", ["hf/assets/curation-features/weights", "torch/hub/checkpoints"])
def test_results_of_the_earlier_download_stay_valid(settings, tmp_path, folder):
    """The project remembers its digest, also after the download is deleted."""
    fresh = locate("brisque", settings)
    assert fresh.identity == f"{brisque_file().url}@{brisque_file().sha256[:16]}"
    for content in (b"damaged", PICKLE):
        digest(settings, write(tmp_path / folder / "brisque_svm_weights.pt", content))
    digest(settings, write(tmp_path / "elsewhere" / "brisque_svm_weights.pt", b"of another user"))
    (tmp_path / folder / "brisque_svm_weights.pt").unlink()
    weights = locate("brisque", settings)
    assert weights.identity == f"{PIQ}@{sha256_of(PICKLE)[:16]}"
    assert (weights.path, weights.sha256) == (fresh.path, fresh.sha256)


# --- status ---


def test_the_status_downloads_nothing(local, home, monkeypatch, capsys):
    monkeypatch.setattr(socket.socket, "connect", None)  # any attempt to reach a server raises
    statuses = model_status(local)
    clip, clip_iqa, brisque = (replace(status, without_it="", licence="") for status in statuses)
    path, bundled = local.root / "model" / CHECKPOINT, brisque_file()
    sha256, size = locate("clip", local).sha256, path.stat().st_size
    assert clip == ModelStatus("clip", "local-dir:model", path, sha256, size, "a user-supplied file")
    assert clip_iqa == ModelStatus(
        "clip_iqa", clip_iqa_file().url, problem=clip_iqa.problem, remedy=FETCH, reason="missing_weights"
    )
    assert "CLIP-IQA's RN50 is not on this machine" in clip_iqa.problem
    found = (bundled.path, bundled.sha256, bundled.path.stat().st_size, "this package")
    assert brisque == ModelStatus("brisque", bundled.url, *found)
    assert all(status.without_it for status in statuses)
    monkeypatch.setenv("CURATION_FEATURES_MODEL", local.model)
    assert main(["--root", str(local.root), "models", "status", "--json"]) == 0
    models = json.loads(capsys.readouterr().out)["models"]
    assert models == json.loads(json.dumps([asdict(status) for status in statuses], default=str))
    keys = "name source path sha256 bytes origin problem remedy reason without_it licence"
    assert sorted(models[0]) == sorted(keys.split())


def test_the_status_of_an_unusable_model_is_its_problem(local, home):
    assert "neither hf-hub" in model_status(local.replace(model="ViT-L-14"))[0].problem
    write(clip_iqa_file().path, b"<html>")
    clip_iqa = model_status(local)[1]
    assert (clip_iqa.reason, clip_iqa.path) == ("invalid_weights", None)
    assert "is not a PyTorch file" in clip_iqa.problem


def test_the_status_names_the_origin_of_rn50(settings, known):
    for path, origin in ((known.elsewhere, "a download of another library"), (known.path, "the weights folder")):
        write(path, PICKLE)
        assert model_status(settings)[1].origin == origin
