from __future__ import annotations

import hashlib
import json
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

from curation_features import models
from curation_features.errors import InvalidWeightsError, MissingWeightsError, SettingsError
from curation_features.models import (
    KnownFile,
    LazyModel,
    Weights,
    brisque_file,
    clip_iqa_file,
    locate_brisque,
    locate_clip,
    locate_clip_iqa,
    locate_known_file,
    model_status,
)

DEGRADE = "--allow-degraded or CURATION_FEATURES_ON_MISSING_WEIGHTS=degrade"


# --- a checkpoint in a folder ---


@pytest.fixture
def local(settings, clip_checkpoint):
    """Settings of a project with a checkpoint of its own in `model/`."""
    shutil.copytree(clip_checkpoint, settings.root / "model")
    return settings.replace(model="local-dir:model")


def test_a_folders_checkpoint_is_found_and_identified(local):
    weights = locate_clip(local)
    assert weights.path == local.root / "model" / "open_clip_model.safetensors"
    assert weights.source == "local-dir:model"
    assert locate_clip(local) == weights


@pytest.mark.parametrize("name", ["open_clip_model.safetensors", "open_clip_config.json"])
def test_the_digest_covers_the_weights_and_the_configuration(local, name):
    before = locate_clip(local).sha256
    path = local.root / "model" / name
    data = path.read_bytes()
    path.write_bytes(data + b" " if name.endswith("json") else data[:-1] + bytes([data[-1] ^ 1]))
    assert locate_clip(local).sha256 != before


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


def test_a_memory_that_cannot_be_written_costs_no_result(local, caplog):
    expected = locate_clip(local)
    (local.root / "blocked").write_text("a file where the data folder should be")
    assert locate_clip(local.replace(data_dir="blocked")) == expected
    assert "cannot be written" in caplog.text


def test_the_file_that_is_hashed_is_the_file_that_open_clip_loads(local):
    """With several checkpoints in a folder, open_clip's own choice decides."""
    from open_clip.factory import _find_checkpoint_in_dir

    folder = local.root / "model"
    weights = (folder / "open_clip_model.safetensors").read_bytes()
    import torch

    torch.save({}, folder / "open_clip_pytorch_model.bin")
    (folder / "open_clip_pytorch_model.safetensors").write_bytes(weights)
    (folder / "model.safetensors").write_bytes(weights)
    for name in ("open_clip_model.safetensors", "open_clip_pytorch_model.safetensors", "open_clip_pytorch_model.bin"):
        assert locate_clip(local).path == folder / name == Path(_find_checkpoint_in_dir(folder))
        (folder / name).unlink()
    with pytest.raises(MissingWeightsError, match=r"holds none of open_clip_model\.safetensors"):
        locate_clip(local)


def test_a_missing_folder_configuration_or_checkpoint_says_what_to_put_where(local):
    with pytest.raises(MissingWeightsError, match="nowhere is not a folder; put open_clip_config") as caught:
        locate_clip(local.replace(model="local-dir:nowhere"))
    assert DEGRADE in str(caught.value)
    (local.root / "model" / "open_clip_config.json").rename(local.root / "kept")
    with pytest.raises(MissingWeightsError, match="holds no open_clip_config"):
        locate_clip(local)
    (local.root / "kept").rename(local.root / "model" / "open_clip_config.json")
    (local.root / "model" / "open_clip_model.safetensors").unlink()
    with pytest.raises(MissingWeightsError, match=r"holds none of open_clip_model\.safetensors"):
        locate_clip(local)


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
    ],
)
def test_a_damaged_checkpoint_is_found_by_its_header_alone(local, damage, message):
    path = local.root / "model" / "open_clip_model.safetensors"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(InvalidWeightsError, match=f"{path} {message}.*; copy it there again"):
        locate_clip(local)


@pytest.mark.parametrize("damage", [b"<html>", b"", b"PK\x03\x04 the start of an archive"])
def test_a_damaged_pytorch_checkpoint_is_found(local, damage):
    folder = local.root / "model"
    (folder / "open_clip_model.safetensors").unlink()
    (folder / "open_clip_pytorch_model.bin").write_bytes(damage)
    with pytest.raises(InvalidWeightsError, match=r"open_clip_pytorch_model.bin is (not a PyTorch file|truncated)"):
        locate_clip(local)


@pytest.mark.parametrize("model", ["ViT-L-14", "hf-hub:", "hf-hub:model", "hf-hub:a/b/c", "local-dir:", "s3://a/b"])
def test_any_other_spelling_is_an_error_that_names_the_two_that_are_legal(settings, model):
    with pytest.raises(SettingsError, match=r"neither hf-hub:ORG/REPO\[@REVISION\].*nor local-dir:FOLDER"):
        locate_clip(settings.replace(model=model))


# --- a checkpoint of the hub: its real client, in a process of its own (it reads its environment on import) ---

SCRIPT = """
import json, sys
from pathlib import Path
from curation_features.errors import CurationError
from curation_features.models import locate_clip, model_status
from curation_features.settings import Settings
settings = Settings(root=Path(sys.argv[1]), model=sys.argv[2])
try:
    weights = locate_clip(settings)
    print(json.dumps({"path": str(weights.path), "sha256": weights.sha256, "torch": "torch" in sys.modules}))
except CurationError as error:
    print(json.dumps({"error": type(error).__name__, "message": str(error)}))
"""


class Client:
    """Runs `locate_clip` in a new process with a hub cache of its own."""

    def __init__(self, root: Path, url: str) -> None:
        self.root, self.cache = root, root / "hf"
        self.environ = {**os.environ, "HF_HOME": str(self.cache), "HF_ENDPOINT": url, "HF_HUB_DISABLE_XET": "1"}
        for name in ("HF_HUB_OFFLINE", "HF_TOKEN", "HF_HUB_CACHE"):
            self.environ.pop(name, None)

    def locate(self, model: str = "hf-hub:org/model", **environ: str) -> dict[str, object]:
        command = [sys.executable, "-W", "error", "-c", SCRIPT, self.root, model]
        done = subprocess.run(command, env={**self.environ, **environ}, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)


@pytest.fixture
def client(hub, tmp_path) -> Client:
    return Client(tmp_path, hub.url)


@pytest.fixture
def model_files(clip_checkpoint) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in clip_checkpoint.iterdir()}


def dead_url() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{probe.getsockname()[1]}"


def test_a_hub_model_is_downloaded_once_and_then_needs_no_network(hub, client, model_files, clip_checkpoint, settings):
    hub.files = model_files
    first = client.locate()
    assert Path(first["path"]).name == "open_clip_model.safetensors"
    assert Path(first["path"]).read_bytes() == model_files["open_clip_model.safetensors"]
    assert sum(request.startswith("GET /cdn/") for request in hub.requests) == 1
    assert not (client.root / "data").exists()  # the blob's name is its digest: nothing was hashed
    assert first["torch"] is False
    copied = settings.replace(model=f"local-dir:{clip_checkpoint}")
    assert first["sha256"] == locate_clip(copied).sha256
    hub.requests.clear()
    assert client.locate() == first
    assert client.locate(HF_HUB_OFFLINE="1") == first
    assert hub.requests == []


def test_a_repository_without_safetensors_gives_its_pytorch_checkpoint(hub, client, model_files, tmp_path):
    import torch

    torch.save({"logit_scale": torch.ones(())}, tmp_path / "bin")
    hub.files = {
        "open_clip_config.json": model_files["open_clip_config.json"],
        "open_clip_pytorch_model.bin": (tmp_path / "bin").read_bytes(),
    }
    assert Path(client.locate()["path"]).name == "open_clip_pytorch_model.bin"


def test_a_revision_is_asked_for_by_name(hub, client, model_files):
    hub.files = model_files
    assert "error" not in client.locate("hf-hub:org/model@v1.0")
    assert {request.split("/")[4] for request in hub.requests if "/resolve/" in request} == {"v1.0"}


def test_without_a_connection_the_error_says_what_was_tried_why_it_failed_and_how_to_get_it(client):
    url = dead_url()
    start = time.monotonic()
    failed = client.locate(HF_ENDPOINT=url)
    assert time.monotonic() - start < 10
    assert failed["error"] == "MissingWeightsError"
    for part in (
        "hf-hub:org/model",
        str(client.cache / "hub"),
        f"{url}/org/model: ",
        "Connection refused",
        "connect to the network once and run again",
        "hf download org/model open_clip_config.json open_clip_model.safetensors",
        f"copy its HF_HOME folder to {client.cache}",
        "CURATION_FEATURES_MODEL=local-dir:FOLDER",
        DEGRADE,
    ):
        assert part in failed["message"]
    assert "\n" not in failed["message"]


def test_offline_mode_sends_no_request(hub, client, model_files):
    hub.files = model_files
    failed = client.locate(HF_HUB_OFFLINE="1")
    assert (failed["error"], hub.requests) == ("MissingWeightsError", [])
    assert "HF_HUB_OFFLINE is set" in failed["message"]


def test_a_repository_without_a_model_is_an_error(hub, client, model_files):
    assert "404 Not Found" in client.locate()["message"]
    hub.files = {"open_clip_config.json": model_files["open_clip_config.json"]}
    assert "the repository holds none of open_clip_model.safetensors" in client.locate()["message"]


def test_a_download_that_breaks_off_is_an_error_and_the_next_run_finishes_it(hub, client, model_files):
    hub.files = model_files
    hub.cut = {"open_clip_model.safetensors"}
    assert client.locate()["error"] == "MissingWeightsError"
    hub.cut = set()
    assert "error" not in client.locate()


@pytest.mark.parametrize("damage", [b"<!DOCTYPE html><html>Sign in to the network</html>", b""])
def test_wrong_bytes_from_the_hub_are_an_error_that_says_how_to_fetch_them_again(hub, client, model_files, damage):
    hub.files = {**model_files, "open_clip_model.safetensors": damage}
    failed = client.locate()
    assert failed["error"] == "InvalidWeightsError"
    assert "hf download org/model open_clip_model.safetensors open_clip_config.json" in failed["message"]
    assert "--force-download" in failed["message"]


# --- single files ---


@pytest.fixture
def home(tmp_path, monkeypatch) -> Path:
    """A home folder without any cached model."""
    for name in ("TORCH_HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    return tmp_path / "home"


PICKLE = b"\x80\x02 stands for a file of torch.save"


@pytest.fixture
def known(hub, home) -> KnownFile:
    """A file that the loopback server publishes."""
    hub.files = {"weights.pt": PICKLE}
    digest = hashlib.sha256(PICKLE).hexdigest()
    return KnownFile("the model", f"{hub.url}/cdn/weights.pt", home / "cache" / "weights.pt", "brisque_weights", digest)


def test_the_places_are_those_of_piq_and_torch(home, monkeypatch):
    assert clip_iqa_file().path == home / ".cache" / "clip" / "RN50.pt"
    assert brisque_file().path == home / ".cache" / "torch" / "hub" / "checkpoints" / "brisque_svm_weights.pt"
    monkeypatch.setenv("XDG_CACHE_HOME", "/xdg")
    assert brisque_file().path == Path("/xdg/torch/hub/checkpoints/brisque_svm_weights.pt")
    monkeypatch.setenv("TORCH_HOME", "~/t")
    assert brisque_file().path == home / "t" / "hub" / "checkpoints" / "brisque_svm_weights.pt"
    import torch

    assert brisque_file().path.parent.parent == Path(torch.hub.get_dir()).expanduser()


def test_a_file_is_downloaded_once_and_checked(settings, hub, known):
    weights = locate_known_file(settings, known)
    assert weights == Weights(known.url, known.path, known.sha256)
    assert known.path.read_bytes() == PICKLE
    assert locate_known_file(settings, known) == weights
    assert hub.requests == ["GET /cdn/weights.pt"]


def test_a_download_with_another_digest_is_refused_and_leaves_nothing(settings, hub, known):
    hub.files = {"weights.pt": PICKLE + b"!"}
    with pytest.raises(MissingWeightsError, match="does not match the known hash"):
        locate_known_file(settings, known)
    assert not any(known.path.parent.iterdir())


def test_a_web_page_is_refused_although_no_digest_is_known(settings, hub, known):
    hub.files = {"weights.pt": b"<html>Sign in</html>"}
    with pytest.raises(MissingWeightsError, match="what the server sent is not a PyTorch file"):
        locate_known_file(settings, replace(known, sha256=None))
    assert not any(known.path.parent.iterdir())


def test_a_download_that_breaks_off_leaves_nothing(settings, hub, known):
    hub.cut = {"weights.pt"}
    with pytest.raises(MissingWeightsError, match="the model is not on this machine"):
        locate_known_file(settings, known)
    assert not any(known.path.parent.iterdir())


def test_a_server_that_is_down_or_has_no_such_file_is_an_error_with_a_remedy(settings, hub, known):
    url = f"{dead_url()}/weights.pt"
    start = time.monotonic()
    with pytest.raises(MissingWeightsError) as caught:
        locate_known_file(settings, replace(known, url=url))
    assert time.monotonic() - start < 5
    for part in (f"Tried {known.path} and {url}: ", "refused", "CURATION_FEATURES_BRISQUE_WEIGHTS", DEGRADE):
        assert part in str(caught.value)
    hub.files = {}
    with pytest.raises(MissingWeightsError, match="404"):
        locate_known_file(settings, known)


def test_the_hubs_offline_mode_stops_these_downloads_too(settings, hub, known, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(MissingWeightsError, match="HF_HUB_OFFLINE is set"):
        locate_known_file(settings, known)
    assert hub.requests == []


def test_another_file_in_the_known_place_is_refused_with_both_digests(settings, known):
    known.path.parent.mkdir(parents=True)
    known.path.write_bytes(PICKLE + b"!")
    with pytest.raises(InvalidWeightsError, match="delete it and run again") as caught:
        locate_known_file(settings, known)
    assert known.sha256 in str(caught.value)
    assert hashlib.sha256(PICKLE + b"!").hexdigest() in str(caught.value)
    assert known.path.exists()


def test_a_file_that_settings_name_is_used_as_it_is(settings, home):
    (settings.root / "mine.pt").write_bytes(PICKLE)
    for locate, setting in ((locate_clip_iqa, "clip_iqa_weights"), (locate_brisque, "brisque_weights")):
        weights = locate(settings.replace(**{setting: "mine.pt"}))
        assert weights == Weights("mine.pt", settings.root / "mine.pt", hashlib.sha256(PICKLE).hexdigest())
        with pytest.raises(MissingWeightsError, match=f"CURATION_FEATURES_{setting.upper()} names .*none.pt"):
            locate(settings.replace(**{setting: "none.pt"}))


def test_clip_iqa_wants_openais_file(settings, home):
    clip_iqa_file().path.parent.mkdir(parents=True)
    clip_iqa_file().path.write_bytes(PICKLE)
    with pytest.raises(InvalidWeightsError, match="afeb0e10f9e5a86da6080e35cf09123aca3b358a0c3e3b6c78a7b63bc04b6762"):
        locate_clip_iqa(settings)


# --- status ---


def test_the_status_tells_what_is_there_and_downloads_nothing(local, home, monkeypatch):
    monkeypatch.setattr(socket.socket, "connect", None)  # any attempt to reach a server raises
    brisque_file().path.parent.mkdir(parents=True)
    brisque_file().path.write_bytes(PICKLE)
    clip, clip_iqa, brisque = model_status(local)
    assert (clip.name, clip.source, clip.problem) == ("clip", "local-dir:model", None)
    assert (clip.path, clip.sha256) == (locate_clip(local).path, locate_clip(local).sha256)
    assert clip.bytes == clip.path.stat().st_size
    assert (clip_iqa.path, clip_iqa.sha256, clip_iqa.bytes) == (None, None, 0)
    assert "not downloaded yet" in clip_iqa.problem
    assert (brisque.name, brisque.bytes, brisque.problem) == ("brisque", len(PICKLE), None)
    assert all(status.without_it for status in (clip, clip_iqa, brisque))


def test_the_status_of_a_model_that_cannot_be_used_is_its_problem(settings, home):
    assert "neither hf-hub" in model_status(settings.replace(model="ViT-L-14"))[0].problem


# --- loading ---


def test_a_model_is_located_and_loaded_once_for_all_threads():
    calls: list[str] = []
    barrier = threading.Barrier(8)

    def locate() -> Weights:
        calls.append("locate")
        return Weights("source", Path("file"), "0123456789abcdef0123")

    def load(weights: Weights) -> object:
        calls.append("load")
        time.sleep(0.05)
        return object()

    model = LazyModel(locate, load)
    found: list[object] = []

    def use() -> None:
        barrier.wait()
        found.append(model.get())

    threads = [threading.Thread(target=use) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert calls == ["locate", "load"]
    assert len(set(map(id, found))) == 1
    assert model.identity == "source@0123456789abcdef"


def test_the_identity_does_not_load_the_model():
    def refuse(weights: Weights) -> object:
        raise AssertionError("loaded")

    model = LazyModel(lambda: Weights("source", Path("file"), "0" * 64), refuse)
    assert model.identity == "source@0000000000000000"


def test_a_failure_is_remembered_for_a_while_and_then_tried_again(monkeypatch):
    attempts: list[str] = []

    def load(weights: Weights) -> str:
        attempts.append("load")
        if len(attempts) == 1:
            raise InvalidWeightsError("damaged")
        return "model"

    model = LazyModel(lambda: Weights("source", Path("file"), ""), load)
    for _ in range(3):
        with pytest.raises(InvalidWeightsError, match="damaged"):
            model.get()
    assert attempts == ["load"]
    monkeypatch.setattr(models, "RETRY_AFTER_S", 0.0)
    assert model.get() == "model"
