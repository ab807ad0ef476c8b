"""Fetches by the hub's real client from a hub on the loopback."""

from __future__ import annotations

import hashlib
import json
import logging
import re
from importlib.metadata import version

import pytest
from devserver import free_port
from hubs import CHECKPOINT, COMMIT, CONFIG, PICKLE, SIGN_IN, altered, blob_of
from huggingface_hub import hf_hub_download

from curation_features.cli import main
from curation_features.weights.files import link
from curation_features.weights.sources import TOKENIZER_FILES

WEIGHTLESS = len(b"{}").to_bytes(8, "little") + b"{}"
WORDS = {"tokenizer.json": b"{}", "tokenizer_config.json": b"{ }"}


@pytest.fixture
def model(hub_model) -> dict[str, bytes]:
    return dict(hub_model)


@pytest.fixture
def machine(hub, model, make_machine):
    """A machine whose hub has `org/model` and `RN50.pt`."""
    hub.repositories["org/model"] = model
    hub.plain = {"RN50.pt": PICKLE + b"1"}
    return make_machine("machine")


def test_a_model_is_fetched_once_and_then_needs_no_network(hub, machine, model, caplog):
    caplog.set_level(logging.INFO)
    first = machine.locate()
    assert first.path.read_bytes() == model[CHECKPOINT]
    assert [request.name for request in hub.gets()] == [CONFIG, CHECKPOINT]
    assert re.findall(r"Downloading (\S+) of org/model", caplog.text) == [CONFIG, CHECKPOINT]
    hub.requests.clear()
    assert machine.locate() == machine.locate(HF_HUB_OFFLINE="1") == first
    assert hub.requests == []


def test_the_cache_is_that_of_the_hubs_own_client(hub, machine, make_machine):
    machine.locate()
    hub.requests.clear()
    snapshot = f"{machine.home}/hub/models--org--model/snapshots/{COMMIT}"
    with machine.settings():
        for name, offline in ((CONFIG, False), (CONFIG, True), (CHECKPOINT, False), (CHECKPOINT, True)):
            assert hf_hub_download("org/model", name, local_files_only=offline) == f"{snapshot}/{name}"
    assert hub.gets() == []
    other = make_machine("other")
    with other.settings():
        for name in (CONFIG, CHECKPOINT):
            hf_hub_download("org/model", name)
    theirs = other.files()
    theirs.pop("hub/CACHEDIR.TAG", None)
    assert theirs == machine.files()


def test_only_the_first_checkpoint_of_a_listed_model_is_fetched(hub, machine, model):
    """open_clip contains the configurations of its listed models."""
    memo = machine.root / "data" / "cache" / "model_names.json"
    memo.parent.mkdir(parents=True)
    entry = {"hub": "org/model/", "config": json.loads(model[CONFIG])}
    memo.write_text(json.dumps({f"ViT/tag in open_clip {version('open_clip_torch')}": entry}))
    first = "open_clip_pytorch_model.safetensors"
    hub.repositories["org/model"] = {first: model[CHECKPOINT], "open_clip_pytorch_model.bin": PICKLE}
    assert machine.locate(CURATION_FEATURES_MODEL="ViT/tag").path.name == first
    assert [request.name for request in hub.gets()] == [first]


def test_all_files_are_of_one_commit_of_the_revision(hub, machine):
    hub.revisions["v1"] = "a" * 40
    weights = machine.locate(CURATION_FEATURES_MODEL="hf-hub:org/model@v1")
    assert weights.path.parent.name == "a" * 40
    asked = [request.path.split("/")[4] for request in hub.requests if "/resolve/" in request.path]
    assert asked == ["v1", *(["a" * 40] * (len(asked) - 1))]
    assert (machine.blobs().parent / "refs" / "v1").read_text() == "a" * 40


def with_text(model, **text) -> dict[str, bytes]:
    config = json.loads(model[CONFIG])
    config["model_cfg"]["text_cfg"].update(text)
    return {**model, CONFIG: json.dumps(config).encode()}


def test_a_tokenizer_and_an_encoders_config_are_fetched_too(hub, machine, model):
    hub.repositories["org/model"] = with_text(model, hf_tokenizer_name="org/words", hf_model_name="org/encoder")
    hub.repositories["org/words"] = {**WORDS, "README.md": b"x"}
    hub.repositories["org/encoder"] = {"config.json": b"{  }", "model.safetensors": b"large"}
    machine.locate()
    names = [request.name for request in hub.gets()]
    assert names == [CONFIG, CHECKPOINT, *(name for name in TOKENIZER_FILES if name in WORDS), "config.json"]


@pytest.mark.parametrize("repo", ["org/words", "org/model"])
def test_a_tokenizer_is_in_another_repository_or_the_models(hub, machine, model, repo):
    hub.repositories["org/words"] = {"README.md": b"x"}
    hub.repositories["org/model"] = with_text(model, hf_tokenizer_name=repo)
    problem = machine.problem()
    assert "CLIP hf-hub:org/model" in problem
    assert f"the repository {repo} holds none of tokenizer_config.json" in problem
    assert "words" not in str(machine.files().keys())
    hub.repositories[repo] |= WORDS
    machine.locate()


def test_a_tokenizer_linked_in_part_is_not_found(hub, machine, model, monkeypatch):
    hub.repositories["org/model"] = {**with_text(model, hf_tokenizer_name="org/model"), **WORDS, "vocab.txt": b""}
    files = iter([CONFIG, CHECKPOINT, *WORDS])  # all but one

    def interrupted(*arguments):
        if next(files, None) is None:
            raise OSError("interrupted")
        link(*arguments)

    monkeypatch.setattr("curation_features.weights.fetch.link", interrupted)
    pinned = {"CURATION_FEATURES_MODEL": f"hf-hub:org/model@{COMMIT}"}
    assert "interrupted" in machine.problem(**pinned)
    assert "is not on this machine" in machine.problem(**pinned, HF_HUB_OFFLINE="1")


def test_a_folder_gets_only_its_encoders_config_from_the_hub(hub, machine, model):
    folder = machine.root / "local"
    folder.mkdir()
    for name, data in with_text(model, hf_model_name="org/encoder").items():
        (folder / name).write_bytes(data)
    hub.repositories["org/encoder"] = {"config.json": b"{}"}
    machine.locate(CURATION_FEATURES_MODEL="local-dir:local")
    assert [request.name for request in hub.gets()] == ["config.json"]
    (folder / CHECKPOINT).unlink()
    hub.requests.clear()
    assert "holds none of" in machine.problem(CURATION_FEATURES_MODEL="local-dir:local")
    assert hub.gets() == []


# --- errors ---


def test_without_a_connection_the_error_comes_at_once(hub, machine, monkeypatch):
    monkeypatch.setattr("time.sleep", None)  # any wait raises another error
    hub.url = f"http://127.0.0.1:{free_port()}"
    problem = machine.problem()
    for part in ("CLIP hf-hub:org/model", "Connection refused", "models pull", "--from FOLDER", "--allow-degraded"):
        assert part in problem
    assert "\n" not in problem


@pytest.mark.parametrize("model_name", ["clip", "clip_iqa"])
def test_offline_mode_sends_no_request(hub, machine, model_name):
    assert "HF_HUB_OFFLINE is set" in machine.problem(model_name, HF_HUB_OFFLINE="1")
    assert hub.requests == []


def test_an_unknown_repository_revision_or_checkpoint_is_named(hub, machine, model):
    problem = machine.problem(CURATION_FEATURES_MODEL="hf-hub:org/none")
    for part in ("RepositoryNotFoundError", "org/none/resolve", "check the name"):
        assert part in problem
    assert "/resolve/v9/" in machine.problem(CURATION_FEATURES_MODEL="hf-hub:org/model@v9")
    del hub.repositories["org/model"][CHECKPOINT]
    assert f"the repository org/model holds none of {CHECKPOINT}" in machine.problem()
    hub.plain = {}
    problem = machine.problem("clip_iqa")
    for part in ("CLIP-IQA's RN50 is not on this machine", "404", "models pull", "--allow-degraded"):
        assert part in problem


def test_only_the_hub_gets_the_token_of_a_gated_repository(hub, machine):
    """The stub refuses a token that is sent to the host of large files."""
    hub.gated["org/model"] = "hf_secret"
    for environ in ({}, {"HF_TOKEN": "hf_other"}):
        problem = machine.problem(**environ)
        assert "GatedRepoError" in problem
        assert "set HF_TOKEN" in problem
        assert "hf_other" not in problem
    assert hub.gets() == []
    machine.locate(HF_TOKEN="hf_secret")


def test_a_sign_in_page_is_an_error_and_leaves_nothing(hub, machine):
    hub.sign_in = True
    assert "sign-in page" in machine.problem()
    assert "not a PyTorch file (it begins with b'<!DOCTYPE" in machine.problem("clip_iqa")
    assert machine.files() == {}
    hub.sign_in = False
    machine.locate()


@pytest.mark.parametrize(
    ("name", "change"),
    [
        (CHECKPOINT, altered),
        (CHECKPOINT, lambda data: SIGN_IN),
        (CHECKPOINT, lambda data: data[:-1]),
        (CHECKPOINT, lambda data: data + b"x"),
        (CONFIG, altered),
    ],
    ids=["altered", "html", "shorter", "longer", "configuration"],
)
def test_wrong_bytes_are_refused_twice_and_leave_nothing(hub, machine, model, name, change):
    hub.wrong[name] = change(model[name])
    problem = machine.problem()
    assert re.search(rf"{name}: what the server sent (has (sha256|git sha1)|is not)", problem)
    assert "models pull" in problem
    assert len(hub.gets(name)) == 2
    left = machine.files()
    assert not any(blob_of(name, model[name]) in path or path.endswith((name, ".part")) for path in left)


def test_a_published_checkpoint_without_weights_is_refused(hub, machine, model):
    hub.repositories["org/model"] = {**model, CHECKPOINT: WEIGHTLESS}
    assert f"{CHECKPOINT}: what the server sent holds no weights" in machine.problem()
    assert CHECKPOINT not in str(machine.files())


# --- interruptions ---


@pytest.mark.long
def test_a_broken_connection_is_resumed_and_only_the_rest_sent(hub, machine, model):
    hub.cut[CHECKPOINT] = 1_500_000
    machine.locate()
    first, second = hub.gets(CHECKPOINT)
    done = int(re.fullmatch(r"bytes=(\d+)-", second.range)[1])
    assert 0 < done <= first.sent
    assert second.sent == len(model[CHECKPOINT]) - done


def test_a_server_that_stops_sending_is_given_up(hub, machine):
    hub.cut[CHECKPOINT] = 0
    assert "0 bytes read" in machine.problem()
    assert len([request for request in hub.requests if request.path.startswith("/cdn/")]) == 1


# --- single files ---


@pytest.mark.long
def test_a_single_file_is_fetched_once_even_in_pieces(hub, machine, caplog):
    caplog.set_level(logging.INFO)
    hub.cut["RN50.pt"] = 200_000
    weights = machine.locate("clip_iqa")
    assert weights.path == machine.weights / "RN50.pt"
    assert weights.path.read_bytes() == hub.plain["RN50.pt"]
    assert len(re.findall("Downloading CLIP-IQA's RN50 from http", caplog.text)) == 1
    assert [request.range is None for request in hub.gets("RN50.pt")] == [True, False, False]
    assert hub.sent < len(PICKLE) + 2 * (1 << 16)
    hub.requests.clear()
    assert machine.locate("clip_iqa") == weights
    assert hub.requests == []


def test_a_wrong_single_file_is_refused_and_leaves_nothing(hub, machine):
    hub.wrong = {"RN50.pt": PICKLE + b"2"}
    problem = machine.problem("clip_iqa")
    for content in (hub.plain["RN50.pt"], hub.wrong["RN50.pt"]):
        assert hashlib.sha256(content).hexdigest() in problem
    hub.wrong = {"RN50.pt": SIGN_IN}
    assert "what the server sent is not a PyTorch file" in machine.problem("clip_iqa")
    assert machine.files() == {}


@pytest.mark.parametrize("fault", ["no ranges", "new content", "altered part", "complete part"])
def test_a_part_file_is_resumed_only_if_it_fits(hub, machine, fault):
    """A complete part is not sent again; an altered one is discarded after its digest is wrong."""
    name = "RN50.pt"
    part = machine.weights / f"{name}.%22{hashlib.md5(hub.plain[name]).hexdigest()}%22.part"
    part.parent.mkdir(parents=True)
    part.write_bytes(hub.plain[name] if fault == "complete part" else hub.plain[name][:100_000])
    if fault == "altered part":
        part.write_bytes(altered(part.read_bytes()))
    if fault == "new content":
        hub.plain[name] = PICKLE + b"another"
    hub.no_ranges = fault == "no ranges"
    machine.locate("clip_iqa")
    size = len(hub.plain[name])
    expected = {"altered part": [("bytes=100000-", size - 100_000), (None, size)], "complete part": []}
    sent = [(request.range, request.sent) for request in hub.gets(name)]
    assert sent == expected.get(fault, [("bytes=100000-", size)])
    assert (machine.weights / name).read_bytes() == hub.plain[name]
    assert not part.exists()


def test_a_run_shows_its_downloads(machine, capsys):
    """Without a terminal: a line for each file that is complete."""
    batch = machine.root / "batch.json"
    batch.write_text('{"batch_id": "b", "artifacts": []}')
    for is_first in (True, False):
        with machine.settings():
            main(["--root", str(machine.root), "process", str(batch), "--allow-degraded", "--output", "-"])
        lines = capsys.readouterr().err.splitlines()
        assert (f"{CHECKPOINT}: 2.0 MB" in lines) == is_first
