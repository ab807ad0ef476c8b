"""`shard`, and `process` through an engine."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from curation_features.cli import main
from curation_features.engines import ShardResult
from curation_features.engines.shard_files import read_shards
from curation_features.manifest import read_manifest


def write(path: Path, count: int, batch_id: str = "archive", **fields: Any) -> Path:
    artifacts = [{"photo_id": f"{n}", "original_uri": f"./photos/{n}.png"} for n in range(count)]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"batch_id": batch_id, "artifacts": artifacts, **fields}))
    return path


Run = Callable[..., dict[str, Any]]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs a command in an empty project without weights; gives its JSON."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CURATION_FEATURES_MODEL", "local-dir:nowhere")
    monkeypatch.setenv("CURATION_FEATURES_CLIP_IQA_WEIGHTS", "nowhere.pt")
    monkeypatch.setenv("CURATION_FEATURES_BRISQUE_WEIGHTS", "nowhere.pt")  # without it no process needs torch

    def call(*arguments: str, code: int = 0) -> dict[str, Any]:
        capsys.readouterr()
        assert main([*arguments, "--json"]) == code
        fields: dict[str, Any] = json.loads(capsys.readouterr().out)
        return fields

    return call


def test_a_folder_holds_the_shards_of_a_batch(run: Run, tmp_path: Path, capsys) -> None:
    write(tmp_path / "data/batches/archive.json", 200)
    first = run("shard", "archive", "--size", "20")
    folder = Path(first["files"]["folder"])
    assert folder == tmp_path / "data/shards/archive"
    assert {path.stem for path in folder.iterdir()} == {one["batch_id"] for one in first["shards"]}
    assert sum(one["photos"] for one in first["shards"]) == first["photos"] == 200
    assert first["changes"] == {"new": len(first["shards"]), "changed": 0, "unchanged": 0}
    stamps = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert run("shard", "archive", "--size", "20")["changes"]["unchanged"] == len(first["shards"])
    assert {path: path.stat().st_mtime_ns for path in folder.iterdir()} == stamps

    write(tmp_path / "data/batches/archive.json", 201)
    more = run("shard", "archive", "--size", "20")
    assert sorted(more["changes"].values())[-1] >= len(first["shards"]) - 1
    assert more["former"] == more["removed"] == []


def test_former_shards_are_named_and_their_manifests_deleted(run: Run, tmp_path: Path, capsys) -> None:
    write(tmp_path / "data/batches/archive.json", 200)
    first = run("shard", "archive", "--size", "20")
    folder = Path(first["files"]["folder"])
    ids = [one["batch_id"] for one in first["shards"]]
    own = write(folder / f"archive-{'0' * 12}.json", 1, f"archive-{'0' * 12}")  # looks like one of ours
    (folder / f"archive-{'1' * 12}.json").write_text("damaged")
    write(tmp_path / f"data/manifests/{ids[1]}.json", 9, ids[1], shard_of="archive")
    write(tmp_path / f"data/features/{ids[2]}.json", 9, ids[2], shard_of="archive")
    write(tmp_path / f"data/manifests/{ids[0]}.json", 9, ids[0], shard_of="archive")  # it is a shard again
    second = run("shard", "archive", "--size", "90")
    now = [one["batch_id"] for one in second["shards"]]
    assert second["removed"] == sorted(second["removed"], key=second["removed"].index)
    assert set(second["removed"]) == set(ids) - set(now)
    assert set(second["former"]) == {ids[1], ids[2]} - set(now)
    assert own.exists()
    assert {path.stem for path in folder.iterdir()} == {*now, own.stem, f"archive-{'1' * 12}"}
    assert main(["shard", "archive", "--size", "90"]) == 0
    said = capsys.readouterr().out
    assert f"curation-features batches rm {' '.join(second['former'])}" in said
    assert f"curation-features process {folder}" in said


@pytest.mark.long
def test_a_folder_of_manifests_runs_through_the_engine(run: Run, tmp_path: Path, capsys) -> None:
    (tmp_path / "photos").mkdir()
    Image.effect_noise((64, 48), 30).save(tmp_path / "photos" / "0.png")  # the other photo is missing
    for n in range(2):
        write(tmp_path / f"shards/{n}.json", 2, f"trip-{n}")
    (tmp_path / "shards/bad.json").write_text("{")
    write(tmp_path / "shards/twin.json", 1, "Trip-0")
    command = ["process", "shards", "--processes", "1", "--allow-degraded"]
    found = run(*command, code=1)
    assert found["error"]["kind"] == "failed"
    assert "2 of 4 batches failed" in found["error"]["message"]
    assert found["states"] == {"done": 2, "already_done": 0, "failed": 2}
    assert found["statuses"] == {"ok": 0, "degraded": 2, "failed": 2}
    assert (found["photos"], found["engine"]) == (4, "local")
    assert found["placement"].startswith("1 process with ")
    assert {one["batch_id"] for one in found["batches"] if one["state"] == "failed"} == {"bad", "Trip-0"}
    assert (tmp_path / "data/features/trip-1.html").exists()

    parts = [run("process", "trip-0", "trip-1", "--part", f"{n}/3", "--allow-degraded")["batches"] for n in range(3)]
    assert [[one["batch_id"] for one in part] for part in parts] == [["trip-0"], ["trip-1"], []]

    assert main(["process", "trip-0", "trip-1", "--engine", "local", "--allow-degraded"]) == 0
    shown = capsys.readouterr()
    assert "Degraded run: model weights are missing" in shown.out
    assert "2 batches: 2 already done; 4 photos: 2 degraded, 2 failed" in shown.out
    assert shown.err == ""


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["process", "a.json", "--processes", "2", "--output", "out.json"], "--output is for one manifest"),
        (["process", "a.json", "a.json", "--output", "-"], "--output is for one manifest"),
        (["process", "a.json", "--engine", "locl"], "invalid choice: 'locl'"),
        (["process", "a.json", "--processes", "0"], "not a whole number of 1 or more"),
        *(
            (["process", "a.json", "--part", part], f"{part!r} is not I/N")
            for part in ("3/3", "1/-3", "1", "a/b", "0/0")
        ),
        (["shard", "a.json", "--size", "0"], "not a whole number of 1 or more"),
        (["process", "empty"], "holds no manifest"),
        (["process", "nothing", "--processes", "2"], "cannot be read: no such file"),
    ],
)
def test_senseless_arguments_are_refused(run: Run, tmp_path: Path, arguments: list[str], said: str) -> None:
    write(tmp_path / "a.json", 1)
    (tmp_path / "empty").mkdir()
    assert said in run(*arguments, code=2)["error"]["message"]


def test_manifests_of_one_run_are_read_by_id(tmp_path: Path) -> None:
    event = {"specversion": "1.0", "type": "preprocess.completed", "data": {"batch_id": "e", "artifacts": [{}]}}
    (tmp_path / "event.json").write_text(json.dumps(event))
    paths = [
        write(tmp_path / "a.json", 3, "a"),
        write(tmp_path / "b.json", 1, "A"),
        write(tmp_path / "c.json", 1, "../up"),
        tmp_path / "missing.json",
        tmp_path / "event.json",
    ]
    found = list(read_shards(paths))
    kinds = [one.state if isinstance(one, ShardResult) else (one.batch_id, one.photos) for one in found]
    assert kinds == [("a", 3), "failed", "failed", "failed", ("e", 1)]
    reasons = [one.reason for one in found if isinstance(one, ShardResult)]
    assert "has the batch id of" in reasons[0]
    assert "batch_id: must be 1 to 128" in reasons[1]
    assert read_manifest(paths[0]).batch_id == "a"
