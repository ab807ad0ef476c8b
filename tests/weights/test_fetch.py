"""Fetching through the hub's real client, in processes of its own, from a hub on the loopback."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path

import pytest
from devserver import free_port
from hubs import CLI, COMMIT, RUN, SIGN_IN, blob_of

from curation_features.weights.find import TOKENIZER_FILES

CHECKPOINT = "open_clip_model.safetensors"
CONFIG = "open_clip_config.json"
WEIGHTLESS = len(b"{}").to_bytes(8, "little") + b"{}"


@pytest.fixture
def model(hub_model) -> dict[str, bytes]:
    return dict(hub_model)


@pytest.fixture
def machine(hub, model, make_machine):
    """A machine whose hub has `org/model`."""
    hub.repositories["org/model"] = model
    return make_machine("machine")


def dead_url() -> str:
    return f"http://127.0.0.1:{free_port()}"


def altered(data: bytes) -> bytes:
    """The same with its last bit turned over."""
    return data[:-1] + bytes([data[-1] ^ 1])


def test_a_run_fetches_a_model_of_the_hub_once_and_then_needs_no_network(hub, machine, model):
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


def test_the_hubs_own_client_finds_what_was_fetched_where_it_would_have_put_it(hub, machine, make_machine):
    """The cache is the hub's, for every other library too."""
    machine.locate("clip")
    hub.requests.clear()
    snapshot = f"{machine.home}/hub/models--org--model/snapshots/{COMMIT}"
    for environ in ({}, {"HF_HUB_OFFLINE": "1"}):
        assert machine.run(GET, CONFIG, CHECKPOINT, **environ)[0].split() == [
            f"{snapshot}/{CONFIG}",
            f"{snapshot}/{CHECKPOINT}",
        ]
    assert hub.gets() == []
    other = make_machine("other")
    other.run(GET, CONFIG, CHECKPOINT)
    theirs = other.files()
    theirs.pop("hub/CACHEDIR.TAG", None)
    assert theirs == machine.files()


def test_only_the_first_checkpoint_that_the_repository_has_is_fetched(hub, machine, model):
    hub.repositories["org/model"] = {CONFIG: model[CONFIG], "open_clip_pytorch_model.bin": b"\x80\x02 a pickle"}
    assert Path(machine.locate("clip")["path"]).name == "open_clip_pytorch_model.bin"


def test_a_model_of_open_clips_list_needs_no_configuration(hub, machine, model):
    memo = machine.root / "data" / "cache" / "model_names.json"
    memo.parent.mkdir(parents=True)
    from importlib.metadata import version

    published = {"hub": "org/model/", "config": json.loads(model[CONFIG])}
    memo.write_text(json.dumps({f"ViT/tag in open_clip {version('open_clip_torch')}": published}))
    del hub.repositories["org/model"][CONFIG]
    assert machine.locate("clip", CURATION_FEATURES_MODEL="ViT/tag")["problem"] is None


def test_a_revision_is_asked_for_by_name_and_all_files_are_of_one_commit(hub, machine):
    hub.revisions["v1"] = "a" * 40
    found = machine.locate("clip", CURATION_FEATURES_MODEL="hf-hub:org/model@v1")
    assert Path(found["path"]).parent.name == "a" * 40
    asked = [request.path.split("/")[4] for request in hub.requests if "/resolve/" in request.path]
    assert asked == ["v1", *(["a" * 40] * (len(asked) - 1))]
    assert (machine.blobs().parent / "refs" / "v1").read_text() == "a" * 40


def with_text(model, **text) -> dict[str, bytes]:
    config = json.loads(model[CONFIG])
    config["model_cfg"]["text_cfg"].update(text)
    return {**model, CONFIG: json.dumps(config).encode()}


def test_a_tokenizer_and_the_configuration_of_a_text_encoder_are_fetched_too(hub, machine, model):
    hub.repositories["org/model"] = with_text(model, hf_tokenizer_name="org/words", hf_model_name="org/encoder")
    hub.repositories["org/words"] = {"tokenizer.json": b"{}", "tokenizer_config.json": b"{ }", "README.md": b"x"}
    hub.repositories["org/encoder"] = {"config.json": b"{  }", "model.safetensors": b"large"}
    assert machine.locate("clip")["problem"] is None
    assert {request.name for request in hub.gets()} == {
        CONFIG,
        CHECKPOINT,
        "tokenizer.json",
        "tokenizer_config.json",
        "config.json",
    }
    assert hub.gets()[-1].name == TOKENIZER_FILES[-1]


def test_a_repository_without_a_tokenizer_is_named_and_leaves_nothing(hub, machine, model):
    hub.repositories["org/model"] = with_text(model, hf_tokenizer_name="org/words")
    hub.repositories["org/words"] = {"README.md": b"x"}
    assert (
        "The tokenizer org/words of CLIP hf-hub:org/model is not on this machine" in machine.locate("clip")["problem"]
    )
    assert "words" not in str(machine.files().keys())


def test_a_tokenizer_may_lie_in_the_models_own_repository(hub, machine, model):
    words = {"tokenizer.json": b"{}", "tokenizer_config.json": b"{ }"}
    hub.repositories["org/model"] = {**with_text(model, hf_tokenizer_name="org/model"), **words}
    assert machine.locate("clip")["problem"] is None


def test_a_folder_of_ones_own_gets_only_what_it_needs_of_the_hub(hub, machine, model):
    own = machine.root / "own"
    own.mkdir()
    for name, data in with_text(model, hf_model_name="org/encoder").items():
        (own / name).write_bytes(data)
    hub.repositories["org/encoder"] = {"config.json": b"{}"}
    assert machine.locate("clip", CURATION_FEATURES_MODEL="local-dir:own")["problem"] is None
    assert [request.name for request in hub.gets()] == ["config.json"]
    (own / CHECKPOINT).unlink()
    hub.requests.clear()
    assert "holds none of" in machine.locate("clip", CURATION_FEATURES_MODEL="local-dir:own")["problem"]
    assert hub.gets() == []


NEVER_WAITS = """
import time
def sleep(seconds):
    raise SystemExit("waited")
time.sleep = sleep
"""


def test_without_a_connection_the_error_comes_at_once_and_says_why_and_what_to_do(machine):
    out, err, code = machine.run(NEVER_WAITS + RUN, "clip", HF_ENDPOINT=dead_url())
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


def test_a_repository_a_revision_or_a_checkpoint_that_is_not_there_is_named(hub, machine, model):
    failed = machine.locate("clip", CURATION_FEATURES_MODEL="hf-hub:org/none")
    assert "RepositoryNotFoundError" in failed["problem"]
    assert "org/none/resolve" in failed["problem"]
    assert "check the name" in failed["problem"]
    assert "/resolve/v9/" in machine.locate("clip", CURATION_FEATURES_MODEL="hf-hub:org/model@v9")["problem"]
    del hub.repositories["org/model"][CHECKPOINT]
    assert f"the repository org/model holds none of {CHECKPOINT}" in machine.locate("clip")["problem"]


def test_a_gated_repository_wants_a_token_which_no_other_host_is_told(hub, machine):
    """The stub refuses a token that is sent to the host of large files."""
    hub.gated["org/model"] = "hf_secret"
    for environ in ({}, {"HF_TOKEN": "hf_other"}):
        failed = machine.locate("clip", **environ)
        assert "GatedRepoError" in failed["problem"]
        assert "set HF_TOKEN" in failed["problem"]
        assert "hf_other" not in failed["problem"]
    assert hub.gets() == []
    assert machine.locate("clip", HF_TOKEN="hf_secret")["problem"] is None


def test_a_sign_in_page_in_place_of_everything_is_an_error_and_leaves_nothing(hub, machine, model):
    hub.sign_in = True
    for name in ("clip", "brisque"):
        failed = machine.locate(name)
        assert failed["kind"] == "MissingWeightsError"
        assert (
            "sign-in page" in failed["problem"]
            or "is not a PyTorch file (it begins with b'<!DOCTYPE" in failed["problem"]
        )
    assert machine.files() == {}
    hub.sign_in = False
    assert machine.locate("clip")["problem"] is None


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
def test_wrong_bytes_are_tried_twice_refused_and_leave_nothing(hub, machine, model, name, change):
    hub.wrong[name] = change(model[name])
    failed = machine.locate("clip")
    assert failed["kind"] == "MissingWeightsError"
    assert re.search(rf"{name}: what the server sent (has (sha256|git sha1)|is not|is truncated)", failed["problem"])
    assert "models pull" in failed["problem"]
    assert len(hub.gets(name)) == 2
    left = machine.files()
    assert not any(blob_of(name, model[name]) in path or path.endswith((name, ".part")) for path in left)


def test_a_part_file_that_was_altered_is_thrown_away_and_all_is_fetched(hub, machine):
    hub.cut[CHECKPOINT] = 1 << 20
    machine.run("from curation_features.weights import download\ndownload.PATIENCE = 0\n" + RUN_ONCE)
    (part,) = machine.blobs().glob("*.part")
    part.write_bytes(altered(part.read_bytes()))
    hub.cut.clear()
    hub.requests.clear()
    assert machine.locate("clip")["problem"] is None
    assert [bool(request.range) for request in hub.gets(CHECKPOINT)] == [True, False]


RUN_ONCE = """
from curation_features.weights import locate_clip
from curation_features.settings import load_settings
locate_clip(load_settings())
"""


def test_a_published_checkpoint_without_weights_is_refused(hub, machine, model):
    hub.repositories["org/model"] = {**model, CHECKPOINT: WEIGHTLESS}
    assert f"{CHECKPOINT}: what the server sent holds no weights" in machine.locate("clip")["problem"]
    assert CHECKPOINT not in str(machine.files())


def test_a_connection_that_breaks_off_is_made_again_and_only_the_rest_is_sent(hub, machine, model):
    hub.cut[CHECKPOINT] = 1_500_000
    assert machine.locate("clip")["problem"] is None
    first, second = hub.gets(CHECKPOINT)
    begun = int(re.fullmatch(r"bytes=(\d+)-", second.range)[1])
    assert 0 < begun <= first.sent
    assert second.sent == len(model[CHECKPOINT]) - begun


def test_a_download_that_was_given_up_is_gone_on_with_by_the_next_run(hub, machine, model):
    hub.cut[CHECKPOINT] = 1_000_000
    impatient = "from curation_features.weights import download\ndownload.PATIENCE = 0\n"
    machine.run(impatient + RUN_ONCE)
    (part,) = machine.blobs().glob("*.part")
    begun = part.stat().st_size
    assert 0 < begun <= 1_000_000
    hub.cut.clear()
    hub.requests.clear()
    assert machine.locate("clip")["problem"] is None
    (request,) = hub.gets(CHECKPOINT)
    assert (request.range, request.sent) == (f"bytes={begun}-", len(model[CHECKPOINT]) - begun)


def test_a_server_that_sends_nothing_any_more_is_given_up(hub, machine, model):
    hub.cut[CHECKPOINT] = 0
    assert "0 bytes read" in machine.locate("clip")["problem"]
    assert len([request for request in hub.requests if request.path.startswith("/cdn/")]) == 1


# --- single files ---

PICKLE = b"\x80\x02" + bytes(range(256)) * 2000


@pytest.fixture
def files(hub, machine):
    """The machine, for which `RN50.pt` and `brisque_svm_weights.pt` are published."""
    hub.plain = {"RN50.pt": PICKLE + b"1", "brisque_svm_weights.pt": PICKLE}
    machine.rn50_sha256 = hashlib.sha256(PICKLE + b"1").hexdigest()
    return machine


def test_a_single_file_is_downloaded_once_into_the_weights_folder(hub, files):
    found = files.locate("clip_iqa")
    assert found["path"] == str(files.weights / "RN50.pt")
    assert (found["sha256"], files.weights.joinpath("RN50.pt").read_bytes()) == (files.rn50_sha256, PICKLE + b"1")
    assert len(re.findall(r"INFO:.*Downloading CLIP-IQA's RN50 from http", found["log"])) == 1
    hub.requests.clear()
    assert files.locate("clip_iqa")["sha256"] == files.rn50_sha256
    assert hub.requests == []


def test_a_single_file_with_another_digest_is_refused_with_both_and_leaves_nothing(hub, files):
    hub.wrong["RN50.pt"] = PICKLE + b"2"
    failed = files.locate("clip_iqa")
    assert (
        f"has sha256 {hashlib.sha256(PICKLE + b'2').hexdigest()} in place of {files.rn50_sha256}" in failed["problem"]
    )
    assert files.files() == {}


def test_a_web_page_is_refused_although_no_digest_is_known(hub, files):
    hub.wrong["brisque_svm_weights.pt"] = SIGN_IN
    assert "what the server sent is not a PyTorch file" in files.locate("brisque")["problem"]
    assert files.files() == {}


def test_a_server_that_is_down_or_has_no_such_file_is_an_error_with_a_remedy(hub, files):
    hub.plain = {}
    failed = files.locate("brisque")
    for part in ("BRISQUE's regressor is not on this machine", "404", "models pull", "--allow-degraded"):
        assert part in failed["problem"]
    assert files.files() == {}


def test_a_single_file_is_gone_on_with_where_it_broke_off(hub, files):
    hub.cut["RN50.pt"] = 200_000
    assert files.locate("clip_iqa")["problem"] is None
    requests = hub.gets("RN50.pt")
    assert [request.range is None for request in requests] == [True, False, False]
    assert sum(request.sent for request in requests) < len(PICKLE) + 2 * (1 << 16)


def test_a_server_that_knows_no_ranges_or_has_another_file_by_now_is_asked_for_all_of_it(hub, files):
    for change in ("ranges", "content"):
        name = "RN50.pt" if change == "ranges" else "brisque_svm_weights.pt"
        part = files.weights / f"{name}.%22{hashlib.md5(hub.plain[name]).hexdigest()}%22.part"
        part.parent.mkdir(parents=True, exist_ok=True)
        part.write_bytes(hub.plain[name][:100_000])
        hub.no_ranges = change == "ranges"
        if change == "content":
            hub.plain[name] = b"\x80\x02 another one"
        hub.requests.clear()
        assert files.locate("clip_iqa" if change == "ranges" else "brisque")["problem"] is None
        (request,) = hub.gets(name)
        assert (request.range, request.sent) == ("bytes=100000-", len(hub.plain[name]))
        assert (files.weights / name).read_bytes() == hub.plain[name]


def test_a_download_that_was_whole_but_had_no_name_yet_is_not_sent_again(hub, files):
    part = files.weights / f"RN50.pt.%22{hashlib.md5(hub.plain['RN50.pt']).hexdigest()}%22.part"
    part.parent.mkdir(parents=True)
    part.write_bytes(hub.plain["RN50.pt"])
    assert files.locate("clip_iqa")["problem"] is None
    assert hub.gets() == []
    assert not part.exists()


def test_a_run_that_has_to_fetch_shows_that_it_does(hub, hub_model, make_machine, brisque_regressor):
    """Here no terminal is there: a line for each file that has come."""
    machine = make_machine("machine", CURATION_FEATURES_BRISQUE_WEIGHTS=str(brisque_regressor))
    hub.repositories["org/model"] = hub_model
    (machine.root / "batch.json").write_text('{"batch_id": "b", "artifacts": []}')
    _, said, _ = machine.run(CLI, "process", "batch.json", "--allow-degraded", "--output", "-")
    assert re.search(r"^open_clip_model.safetensors: 2.0 MB$", said, re.MULTILINE)
    _, said, _ = machine.run(CLI, "process", "batch.json", "--allow-degraded", "--output", "-")
    assert "open_clip_model.safetensors" not in said
