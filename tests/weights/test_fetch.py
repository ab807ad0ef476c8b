"""Fetches by the hub's real client, in separate processes, from a hub on the loopback."""

from __future__ import annotations

import hashlib
import json
import re
from importlib.metadata import version
from pathlib import Path

import pytest
from devserver import free_port
from hubs import CHECKPOINT, CLI, COMMIT, CONFIG, PICKLE, RUN, SIGN_IN, altered, blob_of

from curation_features.weights.find import TOKENIZER_FILES

WEIGHTLESS = len(b"{}").to_bytes(8, "little") + b"{}"


@pytest.fixture
def model(hub_model) -> dict[str, bytes]:
    return dict(hub_model)


@pytest.fixture
def machine(hub, model, make_machine):
    """A machine whose hub has `org/model`, `RN50.pt` and `brisque_svm_weights.pt`."""
    hub.repositories["org/model"] = model
    hub.plain = {"RN50.pt": PICKLE + b"1", "brisque_svm_weights.pt": PICKLE}
    machine = make_machine("machine")
    machine.rn50_sha256 = hashlib.sha256(PICKLE + b"1").hexdigest()
    return machine


@pytest.mark.long
def test_a_model_is_fetched_once_and_then_needs_no_network(hub, machine, model):
    first = machine.locate("clip")
    assert Path(first["path"]).read_bytes() == model[CHECKPOINT]
    assert {request.name for request in hub.gets()} == {CHECKPOINT, CONFIG}
    assert re.findall(r"INFO:.*Downloading (\S+) of org/model", first["log"]) == [CONFIG, CHECKPOINT]
    hub.requests.clear()
    assert machine.locate("clip")["sha256"] == first["sha256"]
    assert machine.locate("clip", HF_HUB_OFFLINE="1")["sha256"] == first["sha256"]
    assert hub.requests == []


GET = """
from huggingface_hub import hf_hub_download
for name in sys.argv[4:]:
    print(hf_hub_download("org/model", name))
"""


@pytest.mark.long
def test_the_cache_is_that_of_the_hubs_own_client(hub, machine, make_machine):
    machine.locate("clip")
    hub.requests.clear()
    snapshot = f"{machine.home}/hub/models--org--model/snapshots/{COMMIT}"
    for environ in ({}, {"HF_HUB_OFFLINE": "1"}):
        paths = machine.run(GET, CONFIG, CHECKPOINT, **environ)[0].split()
        assert paths == [f"{snapshot}/{CONFIG}", f"{snapshot}/{CHECKPOINT}"]
    assert hub.gets() == []
    other = make_machine("other")
    other.run(GET, CONFIG, CHECKPOINT)
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
    assert Path(machine.locate("clip", CURATION_FEATURES_MODEL="ViT/tag")["path"]).name == first
    assert [request.name for request in hub.gets()] == [first]


@pytest.mark.long
def test_all_files_are_of_one_commit_of_the_revision(hub, machine):
    hub.revisions["v1"] = "a" * 40
    weights = machine.locate("clip", CURATION_FEATURES_MODEL="hf-hub:org/model@v1")
    assert Path(weights["path"]).parent.name == "a" * 40
    asked = [request.path.split("/")[4] for request in hub.requests if "/resolve/" in request.path]
    assert asked == ["v1", *(["a" * 40] * (len(asked) - 1))]
    assert (machine.blobs().parent / "refs" / "v1").read_text() == "a" * 40


def with_text(model, **text) -> dict[str, bytes]:
    config = json.loads(model[CONFIG])
    config["model_cfg"]["text_cfg"].update(text)
    return {**model, CONFIG: json.dumps(config).encode()}


@pytest.mark.long
def test_a_tokenizer_and_an_encoders_config_are_fetched_too(hub, machine, model):
    words = {"tokenizer.json": b"{}", "tokenizer_config.json": b"{ }"}
    hub.repositories["org/model"] = with_text(model, hf_tokenizer_name="org/words", hf_model_name="org/encoder")
    hub.repositories["org/words"] = {**words, "README.md": b"x"}
    hub.repositories["org/encoder"] = {"config.json": b"{  }", "model.safetensors": b"large"}
    assert machine.locate("clip")["problem"] is None
    assert {request.name for request in hub.gets()} == {CONFIG, CHECKPOINT, *words, "config.json"}
    assert hub.gets()[-1].name == TOKENIZER_FILES[-1]


@pytest.mark.long
@pytest.mark.parametrize("repo", ["org/words", "org/model"])
def test_a_tokenizer_is_in_another_repository_or_the_models(hub, machine, model, repo):
    hub.repositories["org/words"] = {"README.md": b"x"}
    hub.repositories["org/model"] = with_text(model, hf_tokenizer_name=repo)
    problem = machine.locate("clip")["problem"]
    assert "CLIP hf-hub:org/model" in problem
    assert f"the repository {repo} holds none of tokenizer_config.json" in problem
    assert "words" not in str(machine.files().keys())
    hub.repositories[repo] |= {"tokenizer.json": b"{}", "tokenizer_config.json": b"{ }"}
    assert machine.locate("clip")["problem"] is None


@pytest.mark.long
def test_a_folder_gets_only_its_encoders_config_from_the_hub(hub, machine, model):
    folder = machine.root / "local"
    folder.mkdir()
    for name, data in with_text(model, hf_model_name="org/encoder").items():
        (folder / name).write_bytes(data)
    hub.repositories["org/encoder"] = {"config.json": b"{}"}
    assert machine.locate("clip", CURATION_FEATURES_MODEL="local-dir:local")["problem"] is None
    assert [request.name for request in hub.gets()] == ["config.json"]
    (folder / CHECKPOINT).unlink()
    hub.requests.clear()
    assert "holds none of" in machine.locate("clip", CURATION_FEATURES_MODEL="local-dir:local")["problem"]
    assert hub.gets() == []


# --- errors ---

NEVER_WAITS = """
import time
def sleep(seconds):
    raise SystemExit("waited")
time.sleep = sleep
"""


def test_without_a_connection_the_error_comes_at_once(machine):
    out, err, code = machine.run(NEVER_WAITS + RUN, "clip", HF_ENDPOINT=f"http://127.0.0.1:{free_port()}")
    assert code == 0, err
    failed = json.loads(out)
    assert failed["kind"] == "MissingWeightsError"
    for part in ("CLIP hf-hub:org/model", "Connection refused", "models pull", "--from FOLDER", "--allow-degraded"):
        assert part in failed["problem"]
    assert "\n" not in failed["problem"]


@pytest.mark.parametrize("model_name", ["clip", "brisque"])
def test_offline_mode_sends_no_request(hub, machine, model_name):
    failed = machine.locate(model_name, HF_HUB_OFFLINE="1")
    assert (failed["kind"], hub.requests) == ("MissingWeightsError", [])
    assert "HF_HUB_OFFLINE is set" in failed["problem"]


@pytest.mark.long
def test_an_unknown_repository_revision_or_checkpoint_is_named(hub, machine, model):
    problem = machine.locate("clip", CURATION_FEATURES_MODEL="hf-hub:org/none")["problem"]
    for part in ("RepositoryNotFoundError", "org/none/resolve", "check the name"):
        assert part in problem
    assert "/resolve/v9/" in machine.locate("clip", CURATION_FEATURES_MODEL="hf-hub:org/model@v9")["problem"]
    del hub.repositories["org/model"][CHECKPOINT]
    assert f"the repository org/model holds none of {CHECKPOINT}" in machine.locate("clip")["problem"]
    hub.plain = {}
    problem = machine.locate("brisque")["problem"]
    for part in ("BRISQUE's regressor is not on this machine", "404", "models pull", "--allow-degraded"):
        assert part in problem


@pytest.mark.long
def test_only_the_hub_gets_the_token_of_a_gated_repository(hub, machine):
    """The stub refuses a token that is sent to the host of large files."""
    hub.gated["org/model"] = "hf_secret"
    for environ in ({}, {"HF_TOKEN": "hf_other"}):
        problem = machine.locate("clip", **environ)["problem"]
        assert "GatedRepoError" in problem
        assert "set HF_TOKEN" in problem
        assert "hf_other" not in problem
    assert hub.gets() == []
    assert machine.locate("clip", HF_TOKEN="hf_secret")["problem"] is None


@pytest.mark.long
def test_a_sign_in_page_is_an_error_and_leaves_nothing(hub, machine):
    hub.sign_in = True
    for name, problem in (("clip", "sign-in page"), ("brisque", "not a PyTorch file (it begins with b'<!DOCTYPE")):
        failed = machine.locate(name)
        assert failed["kind"] == "MissingWeightsError"
        assert problem in failed["problem"]
    assert machine.files() == {}
    hub.sign_in = False
    assert machine.locate("clip")["problem"] is None


@pytest.mark.long
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
    failed = machine.locate("clip")
    assert failed["kind"] == "MissingWeightsError"
    assert re.search(rf"{name}: what the server sent (has (sha256|git sha1)|is not|is truncated)", failed["problem"])
    assert "models pull" in failed["problem"]
    assert len(hub.gets(name)) == 2
    left = machine.files()
    assert not any(blob_of(name, model[name]) in path or path.endswith((name, ".part")) for path in left)


@pytest.mark.long
def test_a_published_checkpoint_without_weights_is_refused(hub, machine, model):
    hub.repositories["org/model"] = {**model, CHECKPOINT: WEIGHTLESS}
    assert f"{CHECKPOINT}: what the server sent holds no weights" in machine.locate("clip")["problem"]
    assert CHECKPOINT not in str(machine.files())


# --- interruptions ---


@pytest.mark.long
def test_a_broken_connection_is_resumed_and_only_the_rest_sent(hub, machine, model):
    hub.cut[CHECKPOINT] = 1_500_000
    assert machine.locate("clip")["problem"] is None
    first, second = hub.gets(CHECKPOINT)
    done = int(re.fullmatch(r"bytes=(\d+)-", second.range)[1])
    assert 0 < done <= first.sent
    assert second.sent == len(model[CHECKPOINT]) - done


@pytest.mark.long
def test_a_server_that_stops_sending_is_given_up(hub, machine):
    hub.cut[CHECKPOINT] = 0
    assert "0 bytes read" in machine.locate("clip")["problem"]
    assert len([request for request in hub.requests if request.path.startswith("/cdn/")]) == 1


# --- single files ---


@pytest.mark.long
def test_a_single_file_is_fetched_once_even_in_pieces(hub, machine):
    hub.cut["RN50.pt"] = 200_000
    weights = machine.locate("clip_iqa")
    assert weights["path"] == str(machine.weights / "RN50.pt")
    assert (weights["sha256"], (machine.weights / "RN50.pt").read_bytes()) == (machine.rn50_sha256, PICKLE + b"1")
    assert len(re.findall(r"INFO:.*Downloading CLIP-IQA's RN50 from http", weights["log"])) == 1
    assert [request.range is None for request in hub.gets("RN50.pt")] == [True, False, False]
    assert hub.sent < len(PICKLE) + 2 * (1 << 16)
    hub.requests.clear()
    assert machine.locate("clip_iqa")["sha256"] == machine.rn50_sha256
    assert hub.requests == []


@pytest.mark.long
def test_a_wrong_single_file_is_refused_and_leaves_nothing(hub, machine):
    """Of BRISQUE's file no digest is known."""
    hub.wrong = {"RN50.pt": PICKLE + b"2", "brisque_svm_weights.pt": SIGN_IN}
    problem = machine.locate("clip_iqa")["problem"]
    assert hashlib.sha256(PICKLE + b"2").hexdigest() in problem
    assert machine.rn50_sha256 in problem
    assert "what the server sent is not a PyTorch file" in machine.locate("brisque")["problem"]
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
        machine.rn50_sha256 = hashlib.sha256(hub.plain[name]).hexdigest()
    hub.no_ranges = fault == "no ranges"
    assert machine.locate("clip_iqa")["problem"] is None
    size = len(hub.plain[name])
    expected = {"altered part": [("bytes=100000-", size - 100_000), (None, size)], "complete part": []}
    sent = [(request.range, request.sent) for request in hub.gets(name)]
    assert sent == expected.get(fault, [("bytes=100000-", size)])
    assert (machine.weights / name).read_bytes() == hub.plain[name]
    assert not part.exists()


@pytest.mark.long
def test_a_run_shows_its_downloads(hub, hub_model, make_machine, brisque_regressor):
    """Without a terminal: a line for each file that is complete."""
    machine = make_machine("machine", CURATION_FEATURES_BRISQUE_WEIGHTS=str(brisque_regressor))
    hub.repositories["org/model"] = hub_model
    (machine.root / "batch.json").write_text('{"batch_id": "b", "artifacts": []}')
    _, err, _ = machine.run(CLI, "process", "batch.json", "--allow-degraded", "--output", "-")
    assert re.search(r"^open_clip_model.safetensors: 2.0 MB$", err, re.MULTILINE)
    _, err, _ = machine.run(CLI, "process", "batch.json", "--allow-degraded", "--output", "-")
    assert "open_clip_model.safetensors" not in err
