"""`pull`: everything that a run needs, right and whole after any accident. Each pull is a process of its own."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import signal
import time
from contextlib import suppress
from pathlib import Path

import pytest
from hubs import CLI, COMMIT, PULL, blob_of

from curation_features.atomic_files import replacing

CHECKPOINT = "open_clip_model.safetensors"
CONFIG = "open_clip_config.json"
PICKLE = b"\x80\x02" + bytes(range(256)) * 2000
WORDS = {"tokenizer.json": b"{}", "special_tokens_map.json": b"{ }", "tokenizer_config.json": b"{  }"}


@pytest.fixture
def make(hub, hub_model, make_machine):
    """Makes machines for which everything is published: a model with a tokenizer, and the two single files."""
    config = json.loads(hub_model[CONFIG])
    config["model_cfg"]["text_cfg"] = {"hf_tokenizer_name": "org/words"}
    hub.repositories = {"org/model": {**hub_model, CONFIG: json.dumps(config).encode()}, "org/words": WORDS}
    hub.plain = {"RN50.pt": PICKLE + b"1", "brisque_svm_weights.pt": PICKLE}

    def make(name: str, **environ: str):
        machine = make_machine(name, **environ)
        machine.rn50_sha256 = hashlib.sha256(hub.plain["RN50.pt"]).hexdigest()
        return machine

    return make


@pytest.fixture
def machine(make):
    return make("machine")


@pytest.fixture(scope="module")
def first_pull(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("pulled") / "hf"


@pytest.fixture
def connected(hub, make, first_pull):
    """Another machine, on which a pull was not disturbed. It is the same for all tests, so it is done once."""
    other = make("connected")
    if not first_pull.exists():
        assert problems(other.pull()) == {}
        shutil.copytree(other.home, first_pull, symlinks=True)
        hub.requests.clear()
    else:
        shutil.copytree(first_pull, other.home, symlinks=True)
    return other


def problems(statuses) -> dict[str, str]:
    return {name: status["problem"] for name, status in statuses.items() if status["problem"]}


def altered(data: bytes) -> bytes:
    return data[:-1] + bytes([data[-1] ^ 1])


def test_from_nothing_to_everything_and_then_nothing_is_sent(hub, machine):
    statuses = machine.pull()
    assert problems(statuses) == {}
    assert statuses["clip"]["origin"] == f"commit {COMMIT} in the hub's cache"
    published = {**hub.repositories["org/model"], **WORDS, **hub.plain}
    assert {request.name for request in hub.gets()} == set(published)
    blobs = {blob_of(name, data) for name, data in hub.repositories["org/model"].items()}
    assert {path.name for path in machine.blobs().iterdir()} == blobs
    assert {path.name: path.read_bytes() for path in machine.weights.glob("*.pt")} == hub.plain
    hub.requests.clear()
    assert machine.pull() == statuses
    assert machine.pull(HF_HUB_OFFLINE="1") == statuses
    assert hub.requests == []


def test_one_model_that_cannot_be_had_keeps_no_other_from_being_fetched(hub, machine):
    hub.repositories.clear()
    hub.wrong["RN50.pt"] = b"<html>"
    statuses = machine.pull()
    assert set(problems(statuses)) == {"clip", "clip_iqa"}
    assert [statuses[name]["reason"] for name in ("clip", "clip_iqa", "brisque")] == ["missing_weights"] * 2 + [None]
    statuses = machine.pull(CURATION_FEATURES_MODEL="nonsense")
    assert statuses["clip"]["reason"] == "settings"
    assert "neither hf-hub" in statuses["clip"]["problem"]


def test_what_was_altered_on_the_disk_is_replaced_and_nothing_else_is_sent(hub, machine):
    machine.pull()
    whole = machine.files()
    digest = blob_of(CHECKPOINT, hub.repositories["org/model"][CHECKPOINT])
    for path in (machine.blobs() / digest, machine.weights / "RN50.pt", machine.weights / "brisque_svm_weights.pt"):
        path.write_bytes(altered(path.read_bytes()) if path.suffix != ".pt" else b"<html>")
    remember(machine, machine.blobs() / digest, digest)
    hub.requests.clear()
    assert problems(machine.pull()) == {}
    assert machine.files() == whole
    assert {request.name for request in hub.gets()} == {CHECKPOINT, "RN50.pt", "brisque_svm_weights.pt"}
    for name in (CONFIG, "tokenizer.json"):
        (link,) = machine.home.rglob(name)
        link.write_bytes(link.read_bytes() + b" ")
        assert problems(machine.pull()) == {}
        assert machine.files() == whole


def remember(machine, path: Path, sha256: str) -> None:
    """Make the project's memory of digests believe that a file was not altered, as after a fault of the disk."""
    memo, stat = machine.root / "data" / "cache" / "weights.json", path.stat()
    known = {key: value for key, value in json.loads(memo.read_text()).items() if not key.startswith(f"{path}|")}
    known[f"{path}|{stat.st_size}|{stat.st_mtime_ns}|{stat.st_ctime_ns}"] = sha256
    memo.write_text(json.dumps(known))


def test_a_half_filled_cache_is_completed(hub, machine):
    machine.pull()
    whole = machine.files()
    for name in (CONFIG, "tokenizer_config.json"):
        (link,) = machine.home.rglob(name)
        link.resolve().unlink()
        link.unlink()
    (machine.blobs("org/words").parent / "refs" / "main").unlink()
    assert problems(machine.pull()) == {}
    assert machine.files() == whole


def test_a_new_commit_is_not_mixed_with_an_old_one(hub, machine):
    """Where a file is missing, all are taken from the commit of today."""
    machine.pull()
    (machine.blobs().parent / "snapshots" / COMMIT / CONFIG).unlink()
    hub.revisions["main"] = "b" * 40
    assert machine.pull()["clip"]["origin"] == f"commit {'b' * 40} in the hub's cache"


def test_files_of_ones_own_are_verified_and_not_fetched(hub, machine, make_machine):
    (machine.root / "own.pt").write_bytes(PICKLE)
    (machine.root / "html.pt").write_bytes(b"<html>")
    own = {
        "CURATION_FEATURES_MODEL": "local-dir:none",
        "CURATION_FEATURES_CLIP_IQA_WEIGHTS": "own.pt",
        "CURATION_FEATURES_BRISQUE_WEIGHTS": "html.pt",
    }
    statuses = machine.pull(**own)
    assert (hub.requests, machine.files()) == ([], {})
    assert [statuses[name]["reason"] for name in ("clip", "clip_iqa", "brisque")] == [
        "missing_weights",
        None,
        "invalid_weights",
    ]


def test_clip_iqas_weights_may_come_from_the_hub(hub, hub_model, machine):
    hub.repositories["org/rn50"] = dict(hub_model)
    status = machine.pull(CURATION_FEATURES_CLIP_IQA_WEIGHTS="hf-hub:org/rn50")["clip_iqa"]
    assert (status["source"], status["problem"]) == ("hf-hub:org/rn50", None)


# --- accidents ---


def killed(machine, hub, sent: int) -> None:
    """Kill a pull when so many bytes have been sent since it began."""
    hub.requests.clear()
    process = machine.start(PULL)
    while hub.sent < sent and process.poll() is None:
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.communicate()


def test_a_pull_after_kills_at_any_moment_gives_the_right_files_and_leaves_nothing_over(hub, connected, machine):
    whole = connected.files()
    in_all = sum(len(content) for content in whole.values() if isinstance(content, bytes))
    hub.pace = 0.004
    for share in (0.0, 0.1, 0.35, 0.6, 0.8, 0.99, 1.0):
        killed(machine, hub, int(share * in_all))
        named = {path: content for path, content in machine.files().items() if not path.endswith((".part", ".tmp"))}
        assert named.items() <= whole.items()
    hub.pace = 0
    assert problems(machine.pull()) == {}
    assert machine.files() == whole


def half_way(machine, hub, *command: str):
    """A process that has written a part of the checkpoint, and waits for the rest of it."""
    hub.stop_at = 800_000
    process = machine.start(*command)
    while not begun_part(machine):
        assert process.poll() is None, process.communicate()
        time.sleep(0.005)
    return process


def begun_part(machine) -> int:
    """How many bytes of the checkpoint have been written, if it is under way."""
    for part in machine.blobs().glob("*.part"):
        with suppress(FileNotFoundError):  # the configuration's, which is there before
            if (size := part.stat().st_size) > 100_000:
                return size
    return 0


def test_a_killed_pull_is_gone_on_with(hub, machine):
    process = half_way(machine, hub, PULL)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    (part,) = machine.blobs().glob("*.part")
    begun = part.stat().st_size
    assert begun > 0
    hub.stop_at = None
    hub.requests.clear()
    assert problems(machine.pull()) == {}
    (request,) = hub.gets(CHECKPOINT)
    assert request.range == f"bytes={begun}-"


def test_leftovers_of_others_go_too_but_nothing_that_is_in_use(connected, machine):
    machine.pull()
    blobs = [machine.blobs() / f"{'0' * 64}.{name}" for name in ("89abcdef.incomplete", "%22x%22.part")]
    refs = machine.blobs().parent / "refs"
    for path in (*blobs, refs / ".main.1.0123abcd.tmp", machine.weights / "RN50.pt.%22x%22.part"):
        path.write_bytes(b"half")
    copy = machine.weights / "prepared" / "copy"
    machine.start(KILLED_WRITER.format(path=str(copy))).communicate()
    assert len(list(copy.parent.iterdir())) == 1
    with replacing(copy) as alive:
        alive.write_bytes(b"half")
        assert problems(machine.pull()) == {}
        assert alive.exists()
    copy.unlink()
    assert machine.files() == connected.files()


KILLED_WRITER = """
import os, signal
from pathlib import Path
from curation_features.atomic_files import replacing
with replacing(Path({path!r})) as temporary:
    temporary.write_bytes(b"half")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_blob_that_the_hubs_client_is_downloading_is_left_to_it(machine):
    from filelock import FileLock

    machine.pull()
    blob = machine.blobs() / f"{'0' * 64}.89abcdef.incomplete"
    blob.write_bytes(b"half")
    lock = machine.home / "hub" / ".locks" / "models--org--model" / f"{'0' * 64}.lock"
    lock.parent.mkdir(parents=True)
    with FileLock(lock):
        machine.pull()
    assert blob.exists()


def test_two_pulls_at_once_do_not_disturb_each_other(hub, connected, machine):
    hub.pace = 0.002
    pulls = [machine.start(PULL) for _ in range(2)]
    for process in pulls:
        out, err = process.communicate(timeout=240)
        assert process.returncode == 0, err
        assert all(json.loads(line)["problem"] is None for line in out.splitlines())
    assert machine.files() == connected.files()
    names = [request.name for request in hub.gets()]
    assert sorted(names) == sorted(set(names))


# --- from a folder ---


DOWNLOAD = """
from huggingface_hub import hf_hub_download
for name in sys.argv[6:]:
    hf_hub_download(f"org/{sys.argv[4]}", name, local_dir=sys.argv[5])
"""


def stick_with(layout: str, connected, hub, stick: Path) -> Path:
    """A folder with all that a machine has fetched, as people copy it."""
    model = hub.repositories["org/model"]
    if layout == "HF_HOME":
        return shutil.copytree(connected.home, stick, symlinks=True)
    if layout == "hub cache":
        shutil.copytree(connected.home / "hub", stick, symlinks=True)
    elif layout == "links followed":
        shutil.copytree(connected.home / "hub", stick / "some" / "where")
        for blobs in list(stick.rglob("blobs")):
            shutil.rmtree(blobs)
    elif layout == "hf download":
        connected.run(DOWNLOAD, "model", stick / "model", *model)
        connected.run(DOWNLOAD, "words", stick / "words", *WORDS)
    else:
        folders = {"ORG/NAME": ("org/model", "org/words"), "NAME": ("model", "words"), "itself": ("", "")}[layout]
        for folder, files in zip(folders, (model, WORDS), strict=True):
            (stick / folder).mkdir(parents=True, exist_ok=True)
            for name, data in files.items():
                (stick / folder / name).write_bytes(data)
    (stick / "clip").mkdir()
    for name, data in hub.plain.items():
        (stick / "clip" / name).write_bytes(data)
    return stick


@pytest.mark.parametrize(
    "layout", ["HF_HOME", "hub cache", "links followed", "hf download", "ORG/NAME", "NAME", "itself"]
)
def test_weights_carried_in_by_hand_make_the_same_cache_in_every_layout(hub, connected, machine, tmp_path, layout):
    stick = stick_with(layout, connected, hub, tmp_path / "stick")
    hub.requests.clear()
    assert problems(machine.pull(stick)) == {}
    assert hub.requests == []
    found = machine.files()
    if layout in ("ORG/NAME", "NAME", "itself"):  # the commit is not known
        commits = {path.parts[-2] for path in map(Path, found) if "snapshots" in path.parts}
        assert all(len(commit) == 40 for commit in commits)
        found = {re.sub("|".join(commits), COMMIT, path): content for path, content in found.items()}
        found = {path: COMMIT.encode() if "/refs/" in path else content for path, content in found.items()}
    assert found == connected.files()


def test_a_damaged_file_in_the_folder_is_refused_by_name(connected, machine, tmp_path):
    stick = tmp_path / "stick"
    shutil.copytree(connected.home, stick, symlinks=True)
    (checkpoint,) = stick.rglob(CHECKPOINT)
    checkpoint.resolve().write_bytes(altered(checkpoint.read_bytes()))
    (rn50,) = stick.rglob("RN50.pt")
    rn50.write_bytes(altered(rn50.read_bytes()))
    statuses = machine.pull(stick)
    assert [status["reason"] for status in statuses.values()] == ["invalid_weights", "invalid_weights", None]
    for name, path in (("clip", checkpoint), ("clip_iqa", rn50)):
        assert str(path) in statuses[name]["problem"]
        assert "has sha256" in statuses[name]["problem"]
    assert not {path.rpartition("/")[2] for path in machine.files()} & {CHECKPOINT, "RN50.pt"}
    assert problems(machine.pull(connected.home)) == {}
    assert machine.files() == connected.files()


def test_what_the_folder_lacks_is_named(hub, machine, tmp_path):
    stick = tmp_path / "stick"
    stick.mkdir()
    for status in machine.pull(stick).values():
        assert status["reason"] == "missing_weights"
        assert f"{stick} holds no" in status["problem"]
    (stick / "model").mkdir()
    for name, missing in ((CHECKPOINT, CONFIG), (CONFIG, "tokenizer_config.json of org/words")):
        (stick / "model" / name).write_bytes(hub.repositories["org/model"][name])
        assert f"{stick} holds no {missing}" in machine.pull(stick)["clip"]["problem"]
    assert hub.requests == []


def test_a_snapshot_of_another_revision_is_not_taken(hub, connected, machine, tmp_path):
    other = {"CURATION_FEATURES_MODEL": f"hf-hub:org/model@{'c' * 40}"}
    stick = stick_with("hf download", connected, hub, tmp_path / "stick")
    for folder in (connected.home, stick):
        assert "holds no" in machine.pull(folder, **other)["clip"]["problem"]
    same = {"CURATION_FEATURES_MODEL": f"hf-hub:org/model@{COMMIT}"}
    assert machine.pull(connected.home, **same)["clip"]["problem"] is None


# --- the command ---


def test_the_command_fetches_loads_and_shows_what_is_here(
    hub, make_machine, clip_checkpoint, rn50_archive, shared_data
):
    brisque = shared_data / "brisque" / "brisque_svm_weights.pt"
    hub.repositories = {"org/model": {path.name: path.read_bytes() for path in clip_checkpoint.iterdir()}}
    hub.plain = {path.name: path.read_bytes() for path in (rn50_archive, brisque)}
    machine = make_machine("machine")
    machine.rn50_sha256 = hashlib.sha256(hub.plain["RN50.pt"]).hexdigest()
    out, err, code = machine.run(CLI, "models", "pull")
    assert code == 0, err
    assert [line.split(": ")[0] for line in err.splitlines()] == [CONFIG, CHECKPOINT, *hub.plain]
    assert out.count("  here: ") == out.count("  from: ") == 3
    assert machine.run(CLI, "models", "status") == (out, "", 0)


def test_missing_weights_are_code_3_and_no_folder_is_code_2(hub, machine):
    out, _, code = machine.run(CLI, "models", "pull", HF_HUB_OFFLINE="1")
    assert (code, out.count("HF_HUB_OFFLINE is set")) == (3, 3)
    _, err, code = machine.run(CLI, "models", "pull", "--from", "nowhere")
    assert (code, "nowhere is not a folder" in err) == (2, True)


def test_an_interrupted_pull_says_nothing_more_and_is_gone_on_with(hub, machine):
    process = half_way(machine, hub, CLI, "models", "pull")
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=240)
    assert process.returncode == 130
    assert "Traceback" not in err
    (part,) = machine.blobs().glob("*.part")
    assert part.stat().st_size > 0
