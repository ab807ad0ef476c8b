"""`pull`: complete and verified weights after any accident. Each pull is a separate process."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from filelock import FileLock
from hubs import CHECKPOINT, CLI, COMMIT, CONFIG, PICKLE, PULL, altered, blob_of

from curation_features.atomic_files import replacing

pytestmark = pytest.mark.long

WORDS = {"tokenizer.json": b"{}", "special_tokens_map.json": b"{ }", "tokenizer_config.json": b"{  }"}


@pytest.fixture
def make(hub, hub_model, make_machine):
    """Make machines whose hub has everything: a model with a tokenizer, and the two single files."""
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
    """Another machine after an undisturbed pull, which is done once for all tests."""
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


def reasons(statuses) -> list[str | None]:
    """The reasons of clip, clip_iqa and brisque."""
    return [status["reason"] for status in statuses.values()]


def test_a_pull_fetches_everything_once(hub, machine):
    statuses = machine.pull()
    assert problems(statuses) == {}
    assert statuses["clip"]["origin"] == f"commit {COMMIT} in the hub's cache"
    assert {request.name for request in hub.gets()} == {*hub.repositories["org/model"], *WORDS, *hub.plain}
    blobs = {blob_of(name, data) for name, data in hub.repositories["org/model"].items()}
    assert {path.name for path in machine.blobs().iterdir()} == blobs
    assert {path.name: path.read_bytes() for path in machine.weights.glob("*.pt")} == hub.plain
    hub.requests.clear()
    assert machine.pull() == machine.pull(HF_HUB_OFFLINE="1") == statuses
    assert hub.requests == []


def test_a_model_that_cannot_be_fetched_stops_no_other(hub, machine):
    hub.repositories.clear()
    hub.wrong["RN50.pt"] = b"<html>"
    assert reasons(machine.pull()) == ["missing_weights", "missing_weights", None]
    statuses = machine.pull(CURATION_FEATURES_MODEL="nonsense")
    assert statuses["clip"]["reason"] == "settings"
    assert "neither hf-hub" in statuses["clip"]["problem"]


def test_altered_files_are_replaced_and_no_others(hub, machine):
    machine.pull()
    expected = machine.files()
    digest = blob_of(CHECKPOINT, hub.repositories["org/model"][CHECKPOINT])
    for path in (machine.blobs() / digest, machine.weights / "RN50.pt", machine.weights / "brisque_svm_weights.pt"):
        path.write_bytes(altered(path.read_bytes()) if path.suffix != ".pt" else b"<html>")
    remember(machine, machine.blobs() / digest, digest)
    hub.requests.clear()
    assert problems(machine.pull()) == {}
    assert machine.files() == expected
    assert {request.name for request in hub.gets()} == {CHECKPOINT, "RN50.pt", "brisque_svm_weights.pt"}
    for name in (CONFIG, "tokenizer.json"):
        (link,) = machine.home.rglob(name)
        link.write_bytes(link.read_bytes() + b" ")
        assert problems(machine.pull()) == {}
        assert machine.files() == expected


def remember(machine, path: Path, sha256: str) -> None:
    """Record a digest for a file as it is now, as after a fault of the disk."""
    memo, stat = machine.root / "data" / "cache" / "weights.json", path.stat()
    known = {key: value for key, value in json.loads(memo.read_text()).items() if not key.startswith(f"{path}|")}
    known[f"{path}|{stat.st_size}|{stat.st_mtime_ns}|{stat.st_ctime_ns}"] = sha256
    memo.write_text(json.dumps(known))


def test_an_incomplete_cache_is_completed_from_one_commit(hub, machine):
    machine.pull()
    expected = machine.files()
    for name in (CONFIG, "tokenizer_config.json"):
        (link,) = machine.home.rglob(name)
        link.resolve().unlink()
        link.unlink()
    (machine.blobs("org/words").parent / "refs" / "main").unlink()
    assert problems(machine.pull()) == {}
    assert machine.files() == expected
    (machine.blobs().parent / "snapshots" / COMMIT / CONFIG).unlink()
    hub.revisions["main"] = "b" * 40
    assert machine.pull()["clip"]["origin"] == f"commit {'b' * 40} in the hub's cache"


def test_user_supplied_files_are_verified_and_not_fetched(hub, machine):
    (machine.root / "right.pt").write_bytes(PICKLE)
    (machine.root / "html.pt").write_bytes(b"<html>")
    statuses = machine.pull(
        CURATION_FEATURES_MODEL="local-dir:none",
        CURATION_FEATURES_CLIP_IQA_WEIGHTS="right.pt",
        CURATION_FEATURES_BRISQUE_WEIGHTS="html.pt",
    )
    assert (hub.requests, machine.files()) == ([], {})
    assert reasons(statuses) == ["missing_weights", None, "invalid_weights"]


def test_clip_iqas_weights_may_be_a_repository(hub, hub_model, machine):
    hub.repositories["org/rn50"] = dict(hub_model)
    status = machine.pull(CURATION_FEATURES_CLIP_IQA_WEIGHTS="hf-hub:org/rn50")["clip_iqa"]
    assert (status["source"], status["problem"]) == ("hf-hub:org/rn50", None)
    assert Path(status["path"]).name == CHECKPOINT


# --- accidents ---


def test_a_pull_after_any_number_of_kills_leaves_nothing_over(hub, connected, machine):
    expected = connected.files()
    size = sum(len(content) for content in expected.values() if isinstance(content, bytes))
    hub.pace = 0.004
    for fraction in (0.0, 0.1, 0.35, 0.6, 0.8, 0.99, 1.0):
        hub.requests.clear()
        process = machine.start(PULL)
        while hub.sent < fraction * size and process.poll() is None:
            time.sleep(0.002)
        process.kill()
        process.communicate()
        final = {path: content for path, content in machine.files().items() if not path.endswith((".part", ".tmp"))}
        assert final.items() <= expected.items()
    hub.pace = 0
    assert problems(machine.pull()) == {}
    assert machine.files() == expected


INTERRUPTIBLE = """
import signal
signal.signal(signal.SIGINT, signal.default_int_handler)  # also if pytest was started with SIGINT ignored
"""


@contextmanager
def half_done(machine, hub) -> Iterator[subprocess.Popen[str]]:
    """A pull that has written a part of the checkpoint and waits for the rest."""
    hub.stop_at = 800_000
    with machine.start(INTERRUPTIBLE + CLI, "models", "pull") as process:
        try:
            while part_size(machine) < 100_000:  # more than the configuration, which comes first
                assert process.poll() is None, process.communicate()
                time.sleep(0.005)
            yield process
        finally:
            process.kill()
            hub.stop_at = None


def part_size(machine) -> int:
    """Bytes of the largest part file."""
    sizes = [0]
    for part in machine.blobs().glob("*.part"):
        with suppress(FileNotFoundError):  # it has got its final name
            sizes.append(part.stat().st_size)
    return max(sizes)


@pytest.mark.parametrize("accident", [signal.SIGKILL, signal.SIGINT])
def test_an_interrupted_pull_is_resumed(hub, machine, accident):
    with half_done(machine, hub) as process:
        process.send_signal(accident)
        _, err = process.communicate(timeout=240)
    assert "Traceback" not in err
    assert process.returncode == (130 if accident == signal.SIGINT else -accident)
    done = part_size(machine)
    hub.requests.clear()
    assert problems(machine.pull()) == {}
    (request,) = hub.gets(CHECKPOINT)
    size = len(hub.repositories["org/model"][CHECKPOINT])
    assert (request.range, request.sent) == (f"bytes={done}-", size - done)


KILLED_WRITER = """
import os, signal
from pathlib import Path
from curation_features.atomic_files import replacing
with replacing(Path({path!r})) as temporary:
    temporary.write_bytes(b"half")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_leftovers_are_deleted_unless_they_are_in_use(connected, machine):
    """A blob that the hub's client downloads is locked."""
    machine.pull()
    unused, used = (machine.blobs() / f"{digit * 64}.89abcdef.incomplete" for digit in "01")
    parts = (machine.blobs() / f"{'0' * 64}.%22x%22.part", machine.weights / "RN50.pt.%22x%22.part")
    for path in (unused, used, *parts, machine.blobs().parent / "refs" / ".main.1.0123abcd.tmp"):
        path.write_bytes(b"half")
    copy = machine.weights / "prepared" / "copy"
    machine.start(KILLED_WRITER.format(path=str(copy))).communicate()
    assert len(list(copy.parent.iterdir())) == 1
    lock = machine.home / "hub" / ".locks" / "models--org--model" / f"{'1' * 64}.lock"
    lock.parent.mkdir(parents=True)
    with replacing(copy) as written, FileLock(lock):
        written.write_bytes(b"half")
        assert problems(machine.pull()) == {}
        assert written.exists()
    copy.unlink()
    used.unlink()
    assert machine.files() == connected.files()


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
    """A folder with everything that a machine has fetched."""
    if layout == "HF_HOME":
        return shutil.copytree(connected.home, stick, symlinks=True)
    if layout == "hub cache":
        shutil.copytree(connected.home / "hub", stick, symlinks=True)
    elif layout == "hub cache without links":
        shutil.copytree(connected.home / "hub", stick / "hub")
        for blobs in list(stick.rglob("blobs")):
            shutil.rmtree(blobs)
    for repo, files in hub.repositories.items() if "hub" not in layout else ():
        folder = stick / repo.removeprefix("org/") if layout != "flat" else stick
        folder.mkdir(parents=True, exist_ok=True)
        if layout == "hf download":
            connected.run(DOWNLOAD, folder.name, folder, *files)
        for name, data in files.items() if layout != "hf download" else ():
            (folder / name).write_bytes(data)
    for name, data in hub.plain.items():
        (stick / name).write_bytes(data)
    return stick


@pytest.mark.parametrize("layout", ["HF_HOME", "hub cache", "hub cache without links", "hf download", "REPO", "flat"])
def test_a_folder_fills_the_cache_like_the_network(hub, connected, machine, tmp_path, layout):
    stick = stick_with(layout, connected, hub, tmp_path / "stick")
    hub.requests.clear()
    assert problems(machine.pull(stick)) == {}
    assert hub.requests == []
    files = machine.files()
    if layout in ("REPO", "flat"):  # the commit is unknown
        commits = {path.parts[-2] for path in map(Path, files) if "snapshots" in path.parts}
        assert all(len(commit) == 40 for commit in commits)
        files = {re.sub("|".join(commits), COMMIT, path): content for path, content in files.items()}
        files = {path: COMMIT.encode() if "/refs/" in path else content for path, content in files.items()}
    assert files == connected.files()


def test_a_damaged_file_in_the_folder_is_refused_by_name(connected, machine, tmp_path):
    stick = shutil.copytree(connected.home, tmp_path / "stick", symlinks=True)
    (checkpoint,) = stick.rglob(CHECKPOINT)
    (rn50,) = stick.rglob("RN50.pt")
    for path in (checkpoint.resolve(), rn50):
        path.write_bytes(altered(path.read_bytes()))
    statuses = machine.pull(stick)
    assert reasons(statuses) == ["invalid_weights", "invalid_weights", None]
    for name, path in (("clip", checkpoint), ("clip_iqa", rn50)):
        assert f"{path} has sha256" in statuses[name]["problem"]
    assert not {path.rpartition("/")[2] for path in machine.files()} & {CHECKPOINT, "RN50.pt"}
    assert problems(machine.pull(connected.home)) == {}
    assert machine.files() == connected.files()


def test_the_missing_files_of_a_folder_are_named(hub, machine, tmp_path):
    stick = tmp_path / "stick"
    (stick / "model").mkdir(parents=True)
    statuses = machine.pull(stick)
    assert reasons(statuses) == ["missing_weights"] * 3
    assert all(f"{stick} holds no" in status["problem"] for status in statuses.values())
    for name, missing in ((CHECKPOINT, CONFIG), (CONFIG, "tokenizer_config.json of org/words")):
        (stick / "model" / name).write_bytes(hub.repositories["org/model"][name])
        assert f"{stick} holds no {missing}" in machine.pull(stick)["clip"]["problem"]
    assert hub.requests == []


def test_a_snapshot_of_another_revision_is_not_imported(hub, connected, machine, tmp_path):
    other = {"CURATION_FEATURES_MODEL": f"hf-hub:org/model@{'c' * 40}"}
    stick = stick_with("hf download", connected, hub, tmp_path / "stick")
    for folder in (connected.home, stick):
        assert "holds no" in machine.pull(folder, **other)["clip"]["problem"]
    same = {"CURATION_FEATURES_MODEL": f"hf-hub:org/model@{COMMIT}"}
    assert machine.pull(connected.home, **same)["clip"]["problem"] is None


# --- the command ---


@pytest.mark.slow
def test_the_command_fetches_loads_and_lists_the_weights(hub, make_machine, clip_checkpoint, rn50_archive, shared_data):
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


def test_missing_weights_exit_with_3_and_no_folder_with_2(hub, machine):
    out, _, code = machine.run(CLI, "models", "pull", HF_HUB_OFFLINE="1")
    assert (code, out.count("HF_HUB_OFFLINE is set")) == (3, 3)
    _, err, code = machine.run(CLI, "models", "pull", "--from", "nowhere")
    assert (code, "nowhere is not a folder" in err) == (2, True)
