"""`pull`: complete and verified weights after any accident."""

from __future__ import annotations

import json
import shutil
import signal
import time
from contextlib import suppress
from pathlib import Path

import pytest
from hubs import CHECKPOINT, CLI, COMMIT, CONFIG, PICKLE, PULL, altered, blob_of
from huggingface_hub import hf_hub_download

from curation_features.atomic_files import replacing
from curation_features.cli import main

WORDS = {"tokenizer.json": b"{}", "special_tokens_map.json": b"{ }", "tokenizer_config.json": b"{  }"}


@pytest.fixture
def machine(hub, hub_model, make_machine):
    """A machine whose hub has everything: a model with a tokenizer, and RN50."""
    config = json.loads(hub_model[CONFIG])
    config["model_cfg"]["text_cfg"] = {"hf_tokenizer_name": "org/words"}
    hub.repositories = {"org/model": {**hub_model, CONFIG: json.dumps(config).encode()}, "org/words": WORDS}
    hub.plain = {"RN50.pt": PICKLE + b"1"}
    return make_machine("machine")


@pytest.fixture
def connected(hub, machine, make_machine):
    """Another machine after an undisturbed pull."""
    other = make_machine("connected")
    assert problems(other.pull()) == {}
    hub.requests.clear()
    return other


def problems(statuses) -> dict[str, str]:
    return {name: status.problem for name, status in statuses.items() if status.problem}


def reasons(statuses) -> list[str | None]:
    """The reasons of clip, clip_iqa and brisque."""
    return [status.reason for status in statuses.values()]


def test_a_pull_fetches_everything_once(hub, machine):
    statuses = machine.pull()
    assert problems(statuses) == {}
    assert statuses["clip"].origin == f"commit {COMMIT} in the hub's cache"
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
    assert statuses["clip"].reason == "settings"
    assert "neither hf-hub" in statuses["clip"].problem


@pytest.mark.long
def test_altered_files_are_replaced_and_no_others(hub, machine):
    machine.pull()
    expected = machine.files()
    digest = blob_of(CHECKPOINT, hub.repositories["org/model"][CHECKPOINT])
    for path in (machine.blobs() / digest, machine.weights / "RN50.pt"):
        path.write_bytes(altered(path.read_bytes()) if path.suffix != ".pt" else b"<html>")
    remember(machine, machine.blobs() / digest, digest)
    hub.requests.clear()
    assert problems(machine.pull()) == {}
    assert machine.files() == expected
    assert {request.name for request in hub.gets()} == {CHECKPOINT, "RN50.pt"}
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
    assert machine.pull()["clip"].origin == f"commit {'b' * 40} in the hub's cache"


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
    assert (status.source, status.problem) == ("hf-hub:org/rn50", None)
    assert Path(status.path).name == CHECKPOINT


# --- accidents ---


@pytest.mark.long
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


def part_size(machine) -> int:
    """Bytes of the largest part file."""
    sizes = [0]
    for part in machine.blobs().glob("*.part"):
        with suppress(FileNotFoundError):  # it has got its final name
            sizes.append(part.stat().st_size)
    return max(sizes)


@pytest.mark.long
@pytest.mark.parametrize("accident", [signal.SIGKILL, signal.SIGINT])
def test_an_interrupted_pull_is_resumed(hub, machine, accident):
    hub.stop_at = 800_000
    with machine.start(INTERRUPTIBLE + CLI, "models", "pull") as process:
        try:
            while part_size(machine) < 100_000:  # more than the configuration, which comes first
                assert process.poll() is None, process.communicate()
                time.sleep(0.005)
            process.send_signal(accident)
            _, err = process.communicate(timeout=240)
        finally:
            process.kill()
            hub.stop_at = None
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
from curation_features.atomic_files import replacing
with replacing(Path(sys.argv[3])) as temporary:
    temporary.write_bytes(b"half")
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.long
def test_leftovers_are_deleted_unless_they_are_in_use(connected, machine):
    """Files of the hub's own client stay."""
    machine.start(KILLED_WRITER, machine.weights / "RN50.pt").communicate()
    assert len(list(machine.weights.iterdir())) == 1
    leftovers = ("blobs/0.%22x%22.part", "snapshots/.0.1.0123abcd.tmp", "refs/.main.1.0123abcd.tmp")
    others = machine.blobs() / f"{'1' * 64}.89abcdef.incomplete"
    for path in (*(machine.blobs().parent / name for name in leftovers), others):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"half")
    with replacing(machine.weights / "copy") as used:
        used.write_bytes(b"half")
        assert problems(machine.pull()) == {}
        assert used.exists()
    (machine.weights / "copy").unlink()
    others.unlink()
    assert machine.files() == connected.files()


@pytest.mark.long
def test_two_pulls_at_once_do_not_disturb_each_other(hub, connected, machine):
    hub.pace = 0.002
    for process in [machine.start(PULL) for _ in range(2)]:
        _, err = process.communicate(timeout=240)
        assert process.returncode == 0, err
    assert machine.files() == connected.files()
    names = [request.name for request in hub.gets()]
    assert sorted(names) == sorted(set(names))


# --- from a folder ---


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
    else:
        for repo, files in hub.repositories.items():
            folder = stick / repo.removeprefix("org/")
            folder.mkdir(parents=True)
            for name, data in files.items():
                with connected.settings():
                    hf_hub_download(repo, name, local_dir=folder)
                assert (folder / name).read_bytes() == data
            if layout == "REPO":
                shutil.rmtree(folder / ".cache")
    for name, data in hub.plain.items():
        (stick / name).write_bytes(data)
    return stick


@pytest.mark.parametrize("layout", ["HF_HOME", "hub cache", "hub cache without links", "hf download", "REPO"])
def test_a_folder_fills_the_cache_like_the_network(hub, connected, machine, tmp_path, layout):
    stick = stick_with(layout, connected, hub, tmp_path / "stick")
    hub.requests.clear()
    statuses = machine.pull(stick)
    if layout == "REPO":  # the commit is unknown
        expected = connected.pull()
        assert [status.sha256 for status in statuses.values()] == [status.sha256 for status in expected.values()]
        assert len((machine.blobs().parent / "refs" / "main").read_text()) == 40
    else:
        assert problems(statuses) == {}
        assert machine.files() == connected.files()
    assert hub.requests == []


def test_an_import_replaces_a_download_that_was_interrupted(connected, machine):
    machine.weights.mkdir(parents=True)
    (machine.weights / "RN50.pt.%22x%22.part").write_bytes(b"half")
    assert problems(machine.pull(connected.home)) == {}
    assert machine.files() == connected.files()


def test_a_damaged_file_in_the_folder_is_refused_by_name(connected, machine, tmp_path):
    stick = shutil.copytree(connected.home, tmp_path / "stick", symlinks=True)
    (checkpoint,) = stick.rglob(CHECKPOINT)
    (rn50,) = stick.rglob("RN50.pt")
    for path in (checkpoint.resolve(), rn50):
        path.write_bytes(altered(path.read_bytes()))
    statuses = machine.pull(stick)
    assert reasons(statuses) == ["invalid_weights", "invalid_weights", None]
    for name, path in (("clip", checkpoint), ("clip_iqa", rn50)):
        assert f"{path} has sha256" in statuses[name].problem
    assert not {path.rpartition("/")[2] for path in machine.files()} & {CHECKPOINT, "RN50.pt"}
    assert problems(machine.pull(connected.home)) == {}
    assert machine.files() == connected.files()


def test_the_missing_files_of_a_folder_are_named(hub, machine, tmp_path):
    stick = tmp_path / "stick"
    (stick / "model").mkdir(parents=True)
    statuses = machine.pull(stick)
    assert reasons(statuses) == ["missing_weights", "missing_weights", None]
    assert all(f"{stick} holds no" in problem for problem in problems(statuses).values())
    for name, missing in ((CHECKPOINT, CONFIG), (CONFIG, "tokenizer_config.json of org/words")):
        (stick / "model" / name).write_bytes(hub.repositories["org/model"][name])
        assert f"{stick} holds no {missing}" in machine.pull(stick)["clip"].problem
    assert hub.requests == []


def test_a_snapshot_of_another_revision_is_not_imported(hub, connected, machine, tmp_path):
    stick = stick_with("hf download", connected, hub, tmp_path / "stick")
    other, same = ({"CURATION_FEATURES_MODEL": f"hf-hub:org/model@{commit}"} for commit in ("c" * 40, COMMIT))
    for folder in (connected.home, stick):
        assert "holds no" in machine.pull(folder, **other)["clip"].problem
    assert machine.pull(connected.home, **same)["clip"].problem is None


# --- the command ---


@pytest.mark.slow
def test_the_command_fetches_loads_and_lists_the_weights(hub, make_machine, clip_checkpoint, rn50_archive, capsys):
    hub.repositories = {"org/model": {path.name: path.read_bytes() for path in clip_checkpoint.iterdir()}}
    hub.plain = {rn50_archive.name: rn50_archive.read_bytes()}
    machine = make_machine("machine")
    with machine.settings():
        assert main(["--root", str(machine.root), "models", "pull"]) == 0
        out, err = capsys.readouterr()
        assert main(["--root", str(machine.root), "models", "status"]) == 0
        assert capsys.readouterr() == (out, "")
    assert [line.split(": ")[0] for line in err.splitlines()] == [CONFIG, CHECKPOINT, *hub.plain]
    assert out.count("  here: ") == out.count("  from: ") == 3


def test_missing_weights_exit_with_3_and_no_folder_with_2(machine, capsys):
    with machine.settings(HF_HUB_OFFLINE="1"):
        assert main(["--root", str(machine.root), "models", "pull"]) == 3
        out = capsys.readouterr().out
        assert out.count("HF_HUB_OFFLINE is set") == 2
        assert "models pull" not in out
        assert out.count("clip, clip_iqa: pull again") == out.count("--from") == 1
        assert main(["--root", str(machine.root), "models", "pull", "--from", "nowhere"]) == 2
    assert "nowhere is not a folder" in capsys.readouterr().err
