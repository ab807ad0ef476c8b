from __future__ import annotations

import hashlib
import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from huggingface_hub import try_to_load_from_cache

from curation_features.errors import InvalidWeightsError, MissingWeightsError
from curation_features.weights import Weights, locate_brisque, locate_clip, locate_clip_iqa, sources
from curation_features.weights.catalog import PUBLISHED_CLIPS
from curation_features.weights.find import TOKENIZER_FILES, find_known_file
from curation_features.weights.hub_cache import cached
from curation_features.weights.known_files import KnownFile, brisque_file, clip_iqa_file

DEGRADE = "CURATION_FEATURES_ON_MISSING_WEIGHTS=degrade"
CHECKPOINT = "open_clip_model.safetensors"
CONFIG = "open_clip_config.json"
COMMIT = "0123456789abcdef0123456789abcdef01234567"
PICKLE = b"\x80\x02 stands for a file of torch.save"


# --- a checkpoint in a folder ---


@pytest.fixture
def local(settings, clip_checkpoint):
    """Settings of a project with a checkpoint of its own in `model/`."""
    shutil.copytree(clip_checkpoint, settings.root / "model")
    return settings.replace(model="local-dir:model")


def test_a_folders_checkpoint_is_found_and_identified(local):
    weights = locate_clip(local)
    assert weights.path == local.root / "model" / CHECKPOINT
    assert (weights.source, weights.tokenizer) == ("local-dir:model", None)
    assert weights.config == json.loads((local.root / "model" / CONFIG).read_text())
    assert locate_clip(local) == weights


@pytest.mark.parametrize("name", [CHECKPOINT, CONFIG])
def test_the_digest_covers_the_weights_and_the_configuration(local, name):
    before = locate_clip(local).sha256
    path = local.root / "model" / name
    data = path.read_bytes()
    path.write_bytes(data + b" " if name.endswith("json") else data[:-1] + bytes([data[-1] ^ 1]))
    assert locate_clip(local).sha256 != before


def with_text(settings, **text):
    """Change the text configuration of the checkpoint in `model/`."""
    path = settings.root / "model" / CONFIG
    config = json.loads(path.read_text())
    config["model_cfg"]["text_cfg"].update(text)
    path.write_text(json.dumps(config))


def test_a_folders_tokenizer_lies_in_the_folder_and_counts(local):
    with_text(local, hf_tokenizer_name="org/tokenizer")
    with pytest.raises(
        MissingWeightsError, match=r"lacks its tokenizer \(tokenizer_config.json and one of tokenizer.json"
    ):
        locate_clip(local)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (local.root / "model" / name).write_text("{}")
    weights = locate_clip(local)
    assert weights.tokenizer == local.root / "model"
    (local.root / "model" / "tokenizer.json").write_text("{ }")
    assert locate_clip(local).sha256 != weights.sha256


def test_a_digest_is_remembered_and_a_damaged_memory_is_ignored(local):
    weights = locate_clip(local)
    memo = local.data_path / "cache" / "weights.json"
    (remembered,) = json.loads(memo.read_text()).values()
    assert remembered == hashlib.sha256(weights.path.read_bytes()).hexdigest()
    memo.write_text(memo.read_text().replace(remembered, "0" * 64))
    assert locate_clip(local).sha256 != weights.sha256  # the memory is really used
    for damage in ("", "{", "[]", '{"x": 1}', memo.read_text().replace("0" * 64, "short")):
        memo.write_text(damage)
        assert locate_clip(local).sha256 == weights.sha256


def test_a_change_that_keeps_size_and_modification_time_is_noticed(local):
    before = locate_clip(local)
    stat = before.path.stat()
    data = before.path.read_bytes()
    before.path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    os.utime(before.path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert locate_clip(local).sha256 != before.sha256


def test_a_memory_that_cannot_be_written_costs_no_result(local, caplog):
    expected = locate_clip(local)
    (local.root / "blocked").write_text("a file where the data folder should be")
    assert locate_clip(local.replace(data_dir="blocked")) == expected
    assert "cannot be written" in caplog.text


def test_the_file_that_is_hashed_is_the_file_that_open_clip_loads(local):
    """With several checkpoints in a folder, open_clip's own choice decides."""
    from open_clip.factory import _find_checkpoint_in_dir

    folder = local.root / "model"
    weights = (folder / CHECKPOINT).read_bytes()
    import torch

    torch.save({}, folder / "open_clip_pytorch_model.bin")
    (folder / "open_clip_pytorch_model.safetensors").write_bytes(weights)
    (folder / "model.safetensors").write_bytes(weights)
    for name in (CHECKPOINT, "open_clip_pytorch_model.safetensors", "open_clip_pytorch_model.bin"):
        assert locate_clip(local).path == folder / name == Path(_find_checkpoint_in_dir(folder))
        (folder / name).unlink()
    with pytest.raises(MissingWeightsError, match=r"holds none of open_clip_model\.safetensors"):
        locate_clip(local)


def test_a_missing_folder_configuration_or_checkpoint_says_what_to_put_where(local):
    with pytest.raises(MissingWeightsError, match="nowhere is not a folder; put open_clip_config") as caught:
        locate_clip(local.replace(model="local-dir:nowhere"))
    assert DEGRADE in str(caught.value)
    (local.root / "model" / CONFIG).rename(local.root / "kept")
    with pytest.raises(MissingWeightsError, match="holds no open_clip_config"):
        locate_clip(local)
    (local.root / "kept").rename(local.root / "model" / CONFIG)
    (local.root / "model" / CHECKPOINT).unlink()
    with pytest.raises(MissingWeightsError, match=r"holds none of open_clip_model\.safetensors"):
        locate_clip(local)


WEIGHTLESS = len(b"{}").to_bytes(8, "little") + b"{}"


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda data: b"<!DOCTYPE html><html>Sign in</html>", "is not a safetensors file .*DOCTYP"),
        (lambda data: b"", "is not a safetensors file"),
        (lambda data: data[:4], "is not a safetensors file"),
        (lambda data: data[:100], "is truncated"),
        (lambda data: data[:-1], "is truncated or damaged"),
        (lambda data: data + b"x", "is truncated or damaged"),
        (lambda data: data[:8] + b"\xff" + data[9:], "has a damaged header"),
        (lambda data: WEIGHTLESS, "holds no weights"),
    ],
    ids=["html", "empty", "4 bytes", "100 bytes", "cut", "longer", "header", "weightless"],
)
def test_a_damaged_checkpoint_is_found_by_its_header_alone(local, damage, message):
    path = local.root / "model" / CHECKPOINT
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(InvalidWeightsError, match=f"{path} {message}.*; copy it there again"):
        locate_clip(local)


@pytest.mark.parametrize(
    "damage", [b"<html>", b"", b"PK\x03\x04 the start of an archive"], ids=["html", "empty", "zip"]
)
def test_a_damaged_pytorch_checkpoint_is_found(local, damage):
    folder = local.root / "model"
    (folder / CHECKPOINT).unlink()
    (folder / "open_clip_pytorch_model.bin").write_bytes(damage)
    with pytest.raises(InvalidWeightsError, match=r"open_clip_pytorch_model.bin is (not a PyTorch file|truncated)"):
        locate_clip(local)


@pytest.mark.parametrize(
    "config", ["{", "[]", "{}", '{"model_cfg": 1}', '{"model_cfg": {"text_cfg": 1}}', "[" * 100_000]
)
def test_a_configuration_that_is_none_is_an_error_that_names_it(local, config):
    (local.root / "model" / CONFIG).write_text(config)
    with pytest.raises(InvalidWeightsError, match=r"open_clip_config.json (is not JSON|has no model_cfg).*; copy it"):
        locate_clip(local)


# --- a checkpoint in the hub's cache ---


@pytest.fixture
def hub_cache(tmp_path, monkeypatch) -> Path:
    """An empty cache of the hub, which is offline."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_ASSETS_CACHE", str(tmp_path / "assets"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    return tmp_path / "hub"


def put(
    cache: Path, repo: str, name: str, data: bytes, commit: str = "0123456789abcdef0123456789abcdef01234567"
) -> Path:
    """Put a file into the cache in its documented layout: a blob, and a link to it in the snapshot of a commit."""
    folder = cache / f"models--{repo.replace('/', '--')}"
    blob = folder / "blobs" / hashlib.sha256(data).hexdigest()
    link = folder / "snapshots" / commit / name
    for path in (blob, link, folder / "refs" / "main"):
        path.parent.mkdir(parents=True, exist_ok=True)
    blob.write_bytes(data)
    link.unlink(missing_ok=True)
    link.symlink_to(os.path.relpath(blob, link.parent))
    (folder / "refs" / "main").write_text(commit)
    return link


@pytest.mark.parametrize("revision", ["main", "a/branch", "c" * 40, "d" * 40, "e" * 40, "unknown"])
@pytest.mark.parametrize("name", ["here.bin", "folder/here.bin", "absent.bin", "folder"])
def test_files_are_found_in_the_cache_where_the_hubs_own_client_finds_them(hub_cache, revision, name):
    for commit, reference in (("c" * 40, "main"), ("d" * 40, "a/branch")):
        put(hub_cache, "org/model", "here.bin", b"here", commit=commit)
        ref = hub_cache / "models--org--model" / "refs" / reference
        ref.parent.mkdir(parents=True, exist_ok=True)
        ref.write_text(commit)
    put(hub_cache, "org/model", "folder/here.bin", b"there", commit="c" * 40)
    for repo in ("org/model", "org/none"):
        theirs = try_to_load_from_cache(repo, name, revision=revision)
        assert cached(repo, revision, name) == (Path(theirs) if isinstance(theirs, str) else None)


def test_a_checkpoint_in_the_cache_has_the_same_digest_as_the_same_in_a_folder(hub_cache, settings, local):
    for path in (local.root / "model").iterdir():
        put(hub_cache, "org/model", path.name, path.read_bytes())
    weights = locate_clip(settings.replace(model="hf-hub:org/model"))
    assert weights.sha256 == locate_clip(local).sha256
    assert weights.path.name == CHECKPOINT
    assert weights.path.is_relative_to(hub_cache)


def test_an_altered_checkpoint_in_the_cache_is_an_error_with_both_digests(hub_cache, settings, local):
    for path in (local.root / "model").iterdir():
        link = put(hub_cache, "org/model", path.name, path.read_bytes())
        if path.name == CHECKPOINT:
            data = path.read_bytes()
            altered = data[:-1] + bytes([data[-1] ^ 1])
            link.resolve().write_bytes(altered)
    with pytest.raises(InvalidWeightsError, match="models pull") as caught:
        locate_clip(settings.replace(model="hf-hub:org/model"))
    for content in (data, altered):
        assert hashlib.sha256(content).hexdigest() in str(caught.value)


def publish(monkeypatch, repo: str, sha256: str, revision: str = "f" * 40) -> None:
    """Put a repository into the table of models."""
    entry = replace(next(iter(PUBLISHED_CLIPS.values())), repo=repo, revision=revision, sha256=sha256, file=CHECKPOINT)
    monkeypatch.setattr(sources, "PUBLISHED_CLIPS", {repo: entry})


def test_a_published_checkpoint_must_have_the_digest_of_the_table(hub_cache, settings, local, monkeypatch):
    for path in (local.root / "model").iterdir():
        put(hub_cache, "org/model", path.name, path.read_bytes(), commit="f" * 40)
    published = settings.replace(model="hf-hub:org/model")
    sha256 = hashlib.sha256((local.root / "model" / CHECKPOINT).read_bytes()).hexdigest()
    publish(monkeypatch, "org/model", sha256)
    assert locate_clip(published).sha256 == locate_clip(local).sha256
    publish(monkeypatch, "org/model", "0" * 64)
    with pytest.raises(InvalidWeightsError, match=f"has sha256 {sha256}, and the published file has 0000"):
        locate_clip(published)


def test_what_open_clip_has_fetched_serves_if_it_is_the_published_checkpoint(hub_cache, settings, local, monkeypatch):
    for path in (local.root / "model").iterdir():
        put(hub_cache, "org/model", path.name, path.read_bytes())
    published = settings.replace(model="hf-hub:org/model")
    publish(monkeypatch, "org/model", hashlib.sha256((local.root / "model" / CHECKPOINT).read_bytes()).hexdigest())
    assert locate_clip(published).sha256 == locate_clip(local).sha256
    publish(monkeypatch, "org/model", "0" * 64)
    with pytest.raises(MissingWeightsError):
        locate_clip(published)


def test_a_published_checkpoint_may_be_carried_in_from_any_commit(hub_cache, settings, local, monkeypatch, tmp_path):
    """Its digest tells that it is the one; any other has to be of the commit."""
    from curation_features.weights.locate import wanted_clip

    stick = tmp_path / "stick"
    for path in (local.root / "model").iterdir():
        put(stick, "org/model", path.name, path.read_bytes())
    published = settings.replace(model="hf-hub:org/model")
    for sha256 in ("", "0" * 64):
        publish(monkeypatch, "org/model", sha256)
        with pytest.raises(MissingWeightsError, match=f"stick holds no {CHECKPOINT}"):
            wanted_clip(published).carry(stick)
    publish(monkeypatch, "org/model", hashlib.sha256((local.root / "model" / CHECKPOINT).read_bytes()).hexdigest())
    wanted_clip(published).carry(stick)
    assert locate_clip(published).sha256 == locate_clip(local).sha256
    assert locate_clip(published).path.parent.name == "f" * 40


def test_a_published_model_carries_its_recorded_cosines(hub_cache, settings, local, monkeypatch):
    for path in (local.root / "model").iterdir():
        put(hub_cache, "org/model", path.name, path.read_bytes(), commit="f" * 40)
    publish(monkeypatch, "org/model", "")
    entry = replace(sources.PUBLISHED_CLIPS["org/model"], text_cosines=(("a cat", "a dog", 0.9),))
    monkeypatch.setattr(sources, "PUBLISHED_CLIPS", {"org/model": entry})
    assert locate_clip(settings.replace(model="hf-hub:org/model")).text_cosines == entry.text_cosines
    assert locate_clip(local).text_cosines == ()


def test_a_checkpoint_without_its_configuration_or_tokenizer_is_missing(hub_cache, settings, local):
    from curation_features.weights.find import find_clip
    from curation_features.weights.sources import model_source

    settings = settings.replace(model="hf-hub:org/model")
    find = lambda: find_clip(settings, model_source(settings))  # noqa: E731
    with_text(local, hf_tokenizer_name="org/words")
    with pytest.raises(
        MissingWeightsError, match="CLIP hf-hub:org/model is not on this machine; run `curation-features"
    ):
        find()
    put(hub_cache, "org/model", CHECKPOINT, (local.root / "model" / CHECKPOINT).read_bytes())
    with pytest.raises(MissingWeightsError, match=r"open_clip_config.json is not on this machine"):
        find()
    put(hub_cache, "org/model", CONFIG, (local.root / "model" / CONFIG).read_bytes())
    with pytest.raises(MissingWeightsError, match="The tokenizer org/words of CLIP hf-hub:org/model is not on"):
        find()
    put(hub_cache, "org/words", "tokenizer.json", b"{}")
    with pytest.raises(MissingWeightsError, match="The tokenizer org/words"):
        find()
    put(hub_cache, "org/words", TOKENIZER_FILES[-1], b"{}")
    assert find().tokenizer.parent.parent == hub_cache / "models--org--words"


def test_the_configuration_of_a_text_encoder_is_read_from_the_cache(hub_cache, settings, local):
    with_text(local, hf_model_name="org/encoder")
    encoder = put(hub_cache, "org/encoder", "config.json", b"{}")
    weights = locate_clip(local)
    assert weights.config["model_cfg"]["text_cfg"]["hf_model_name"] == str(encoder.parent)
    put(hub_cache, "org/encoder", "config.json", b"{ }")
    assert locate_clip(local).sha256 != weights.sha256


# --- single files ---


@pytest.fixture
def home(tmp_path, monkeypatch, hub_cache) -> Path:
    """A home folder without any cached model."""
    for name in ("TORCH_HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture
def known(home) -> KnownFile:
    digest = hashlib.sha256(PICKLE).hexdigest()
    return KnownFile("the model", "https://example.org/w.pt", "w.pt", home / "w.pt", "brisque_weights", digest)


def write(path: Path, data: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def test_weights_that_piq_and_torch_fetched_are_found_where_these_keep_them(home, monkeypatch):
    assert clip_iqa_file().elsewhere == home / ".cache" / "clip" / "RN50.pt"
    assert brisque_file().elsewhere == home / ".cache" / "torch" / "hub" / "checkpoints" / "brisque_svm_weights.pt"
    monkeypatch.setenv("XDG_CACHE_HOME", "/xdg")
    assert brisque_file().elsewhere == Path("/xdg/torch/hub/checkpoints/brisque_svm_weights.pt")
    monkeypatch.setenv("TORCH_HOME", "~/t")
    assert brisque_file().elsewhere == home / "t" / "hub" / "checkpoints" / "brisque_svm_weights.pt"
    import torch

    assert brisque_file().elsewhere.parent.parent == Path(torch.hub.get_dir()).expanduser()


def test_downloads_lie_in_the_hubs_cache_as_its_documented_assets(hub_cache):
    from huggingface_hub import cached_assets_path, constants

    documented = cached_assets_path("curation-features", "weights", assets_dir=constants.HF_ASSETS_CACHE)
    assert clip_iqa_file().path.parent == documented.parent


def test_a_file_is_taken_from_its_place_first(settings, known):
    with pytest.raises(MissingWeightsError, match=r"the model is not on this machine.*models pull"):
        find_known_file(settings, known)
    for path in (known.elsewhere, known.path):
        write(path, PICKLE)
        assert find_known_file(settings, known) == Weights(known.url, path, known.sha256)


@pytest.mark.parametrize("place", ["path", "elsewhere"])
def test_another_file_in_a_known_place_is_refused_with_both_digests(settings, known, place):
    path = write(getattr(known, place), PICKLE + b"!")
    with pytest.raises(
        InvalidWeightsError, match=f"CURATION_FEATURES_BRISQUE_WEIGHTS={path} to use it as it is"
    ) as caught:
        find_known_file(settings, known)
    assert known.sha256 in str(caught.value)
    assert hashlib.sha256(PICKLE + b"!").hexdigest() in str(caught.value)


def test_the_beginning_of_a_digest_is_enough_to_know_a_file(settings, known):
    write(known.path, PICKLE)
    assert find_known_file(settings, replace(known, sha256=known.sha256[:8])).sha256 == known.sha256
    with pytest.raises(InvalidWeightsError):
        find_known_file(settings, replace(known, sha256="00000000"))


def test_a_remembered_digest_is_read_again_when_asked(settings, known):
    write(known.path, PICKLE)
    find_known_file(settings, known)
    memo = settings.data_path / "cache" / "weights.json"
    memo.write_text(memo.read_text().replace(known.sha256, "0" * 64))
    with pytest.raises(InvalidWeightsError):
        find_known_file(settings, known)
    assert find_known_file(settings, known, again=True).sha256 == known.sha256
    assert find_known_file(settings, known).sha256 == known.sha256


def test_a_file_that_settings_name_is_used_as_it_is(settings, home):
    (settings.root / "mine.pt").write_bytes(PICKLE)
    for locate, setting in ((locate_clip_iqa, "clip_iqa_weights"), (locate_brisque, "brisque_weights")):
        weights = locate(settings.replace(**{setting: "mine.pt"}))
        assert weights == Weights("mine.pt", settings.root / "mine.pt", hashlib.sha256(PICKLE).hexdigest())
        with pytest.raises(MissingWeightsError, match=f"CURATION_FEATURES_{setting.upper()} names .*none.pt"):
            locate(settings.replace(**{setting: "none.pt"}))


def test_clip_iqa_wants_openais_file(settings, home):
    write(clip_iqa_file().path, PICKLE)
    with pytest.raises(InvalidWeightsError, match="afeb0e10f9e5a86da6080e35cf09123aca3b358a0c3e3b6c78a7b63bc04b6762"):
        locate_clip_iqa(settings)


def test_clip_iqas_weights_may_come_from_the_hub(hub_cache, settings, local):
    for path in (local.root / "model").iterdir():
        put(hub_cache, "org/rn50", path.name, path.read_bytes())
    weights = locate_clip_iqa(settings.replace(clip_iqa_weights="hf-hub:org/rn50"))
    assert (weights.source, weights.path.name) == ("hf-hub:org/rn50", CHECKPOINT)
