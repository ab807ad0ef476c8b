"""The command line: what it does, what it prints, and its exit codes."""

from __future__ import annotations

import hashlib
import json
import os
import shlex
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest
from PIL import Image

from curation_features.cli import main
from curation_features.weights.catalog import LABELLERS

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, small_models: dict[str, str]) -> Path:
    """An empty project with small real models, and the current folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DAGSTER_HOME", raising=False)
    for name, value in small_models.items():
        monkeypatch.setenv(name, value)
    folder = tmp_path / "my photos"
    folder.mkdir()
    for n in range(2):
        Image.effect_noise((96, 64), 20 + n).convert("RGB").save(folder / f"photo [bold] {n}.png")
    return tmp_path


@pytest.fixture
def no_weights(project: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The same project where no model can be had."""
    monkeypatch.setenv("CURATION_FEATURES_MODEL", "local-dir:nowhere")
    monkeypatch.setenv("CURATION_FEATURES_CLIP_IQA_WEIGHTS", "nowhere.pt")
    monkeypatch.setenv("CURATION_FEATURES_BRISQUE_WEIGHTS", "nowhere.pt")
    return project


def test_from_a_folder_of_photos_to_features(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["ingest", "my photos", "--batch-id", "trip"]) == 0
    assert "2 photos in batch trip" in capsys.readouterr().out
    assert main(["process", "data/batches/trip.json"]) == 0
    shown = capsys.readouterr().out
    assert "photo [bold]" in shown
    assert "0 of 2 photos came out of the cache" in shown
    assert str(project / "data" / "features" / "trip.json") in shown
    document = json.loads((project / "data" / "features" / "trip.json").read_bytes())
    assert [artifact["features"]["status"] for artifact in document["artifacts"]] == ["ok", "ok"]


def events(project: Path) -> list[str]:
    return sorted(path.name for path in (project / "data" / "events" / "features.completed").glob("*"))


@pytest.mark.parametrize("command", ["process", "materialize"])
def test_a_finished_batch_is_announced_once(project: Path, command: str) -> None:
    main(["ingest", "my photos", "--batch-id", "trip"])
    assert main([command, "data/batches/trip.json"]) == 0
    assert main([command, "data/batches/trip.json"]) == 0
    digest = hashlib.sha256((project / "data/features/trip.json").read_bytes()).hexdigest()
    assert events(project) == [f"trip-{digest[:12]}.json"]


def test_submit_hands_a_manifest_to_the_sensor_as_it_is(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["ingest", "my photos", "--batch-id", "trip"])
    assert not (project / "data" / "incoming").exists()
    assert main(["submit", "data/batches/trip.json"]) == 0
    assert "waits for Dagster's sensor" in capsys.readouterr().out
    submitted = (project / "data/incoming/trip.json").read_bytes()
    assert submitted == (project / "data/batches/trip.json").read_bytes()


def test_submit_refuses_what_the_sensor_would_quarantine(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("bad.json").write_text('{"batch_id": "../x", "artifacts": []}')
    assert main(["submit", "bad.json"]) == 2
    assert "batch_id" in capsys.readouterr().err
    assert not (project / "data" / "incoming").exists()


def test_materialize_makes_the_same_file_through_dagster(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["ingest", "my photos", "--batch-id", "trip"])
    main(["process", "data/batches/trip.json", "--output", "expected.json"])
    assert main(["materialize", "data/batches/trip.json"]) == 0
    shown = capsys.readouterr().out
    assert "Dagster run" in shown
    assert "2 of 2 photos came out of the cache" in shown
    assert (project / "data/features/trip.json").read_bytes() == (project / "expected.json").read_bytes()
    assert (project / "data" / "dagster" / "dagster.yaml").exists()


def test_missing_weights_stop_a_run_with_code_3(no_weights: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["ingest", "my photos", "--batch-id", "trip"])
    for command in ("process", "materialize"):
        assert main([command, "data/batches/trip.json"]) == 3
        error = capsys.readouterr().err
        assert "nowhere" in error
        assert "--allow-degraded" in error
        assert "Traceback" not in error
    assert not (no_weights / "data" / "features").exists()


def test_a_degraded_run_to_standard_output_is_json_alone_too(no_weights: Path, capsysbinary) -> None:
    main(["ingest", "my photos", "--batch-id", "trip"])
    capsysbinary.readouterr()
    assert main(["process", "data/batches/trip.json", "--allow-degraded", "--output", "-"]) == 0
    shown = capsysbinary.readouterr()
    assert json.loads(shown.out)["batch_id"] == "trip"
    assert b"Degraded run" in shown.err


@pytest.mark.parametrize("command", ["process", "materialize"])
def test_a_degraded_run_says_so_once_at_the_top(no_weights: Path, capsys: pytest.CaptureFixture[str], command) -> None:
    main(["ingest", "my photos", "--batch-id", "trip"])
    capsys.readouterr()
    assert main([command, "data/batches/trip.json", "--allow-degraded"]) == 0
    shown = capsys.readouterr()
    assert shown.out.count("Degraded run") == 1
    assert shown.out.index("Degraded run") < shown.out.index("sharpness")
    assert "A model cannot be used" not in shown.err
    document = json.loads((no_weights / "data" / "features" / "trip.json").read_bytes())
    assert {artifact["features"]["status"] for artifact in document["artifacts"]} == {"degraded"}
    errors = document["artifacts"][0]["features"]["errors"]
    assert {error["stage"] for error in errors} == {"image_embedding", "clip_iqa", "brisque"}


def test_an_unreadable_photo_is_named_and_costs_nothing_else(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (project / "my photos" / "broken.jpg").write_bytes(b"no photo")
    assert main(["ingest", "my photos", "--batch-id", "trip"]) == 0
    assert "broken.jpg" in capsys.readouterr().out
    assert main(["process", "data/batches/trip.json"]) == 0
    assert "1 x photo: unreadable" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["process", "absent.json"], 2, "absent.json: cannot be read"),
        (["process", "half.json"], 2, "half.json: is not valid JSON"),
        (["materialize", "half.json"], 2, "half.json: is not valid JSON"),
        (["ingest", "absent"], 2, "absent"),
        (["ingest", "my photos", "--batch-id", "../up"], 2, "batch_id"),
    ],
)
def test_what_cannot_work_is_said_in_a_line(project, capsys, arguments, code, said) -> None:
    (project / "half.json").write_text('{"batch_id": "b", "artif')
    assert main(arguments) == code
    error = capsys.readouterr().err
    assert error.startswith("curation-features: ")
    assert said in error


def test_wrong_settings_are_code_2(project, capsys, monkeypatch) -> None:
    monkeypatch.setenv("CURATION_FEATURES_DEVCE", "cpu")
    assert main(["cache", "stats"]) == 2
    assert "did you mean 'device'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("output", "said"),
    [
        ("folder.json", "folder.json: cannot be written: it is a folder"),
        ("nope/x.json", "nope/x.json: cannot be written: there is no folder nope; make it first"),
        ("photo.png/x.json", "there is no folder photo.png"),
    ],
)
def test_an_output_that_cannot_be_is_refused_before_any_work(project, capsys, output: str, said: str) -> None:
    main(["ingest", "my photos", "--batch-id", "trip"])
    (project / "folder.json").mkdir()
    (project / "photo.png").touch()
    assert main(["process", "trip", "--output", output]) == 2
    assert said in capsys.readouterr().err
    assert not (project / "nope").exists()
    assert not (project / "data" / "cache").exists()


def test_a_root_that_is_not_there_is_refused_and_not_made(project, capsys) -> None:
    assert main(["--root", "nowhere", "ingest", "my photos", "--batch-id", "trip"]) == 2
    assert f"root: {project / 'nowhere'} is not a folder" in capsys.readouterr().err
    assert not (project / "nowhere").exists()


def test_output_to_standard_output_is_json_alone(project: Path) -> None:
    main(["ingest", "my photos", "--batch-id", "trip"])
    command = [sys.executable, "-m", "curation_features", "process", "data/batches/trip.json", "--output", "-"]
    run = subprocess.run(command, capture_output=True, check=True, cwd=project, env=os.environ)
    assert json.loads(run.stdout)["batch_id"] == "trip"


def test_models_status_tells_what_is_here(project, capsys) -> None:
    assert main(["models", "status"]) == 0
    assert capsys.readouterr().out.count("  here: ") == 3


def test_models_status_tells_what_is_not_and_how_to_get_it(no_weights, capsys) -> None:
    assert main(["models", "status"]) == 0
    shown = capsys.readouterr().out
    assert shown.count("  not usable: ") == shown.count("  without it: ") == 3


def test_models_pull_loads_files_of_ones_own_and_fetches_nothing(project, capsys, monkeypatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert main(["models", "pull", "--from", "nope"]) == 2  # also where nothing has to come from there
    assert "nope is not a folder" in capsys.readouterr().err
    assert main(["models", "pull"]) == 0
    assert capsys.readouterr().out.count("  here: ") == 3
    (project / "none.pt").write_bytes(b"<html>")
    monkeypatch.setenv("CURATION_FEATURES_BRISQUE_WEIGHTS", "none.pt")
    assert main(["models", "pull"]) == 1
    assert "none.pt is not a PyTorch file" in capsys.readouterr().out
    (project / "none.pt").write_bytes(b"\x80\x02 a pickle, but of no regressor")
    assert main(["models", "pull"]) == 1
    assert "cannot be read as tensors" in capsys.readouterr().out
    monkeypatch.setenv("CURATION_FEATURES_BRISQUE_WEIGHTS", "nowhere.pt")
    assert main(["models", "pull"]) == 3


def test_cache_stats_and_clear(project, capsys) -> None:
    main(["ingest", "my photos", "--batch-id", "trip"])
    main(["process", "data/batches/trip.json"])
    capsys.readouterr()
    assert main(["cache", "stats", "--json"]) == 0
    stats = json.loads(capsys.readouterr().out)
    assert (stats["photos"], stats["label_embeddings"]) == (2, True)
    assert main(["cache", "clear"]) == 0
    assert "2 files deleted" in capsys.readouterr().out
    assert main(["cache", "clear", "--all"]) == 0
    assert "1 files deleted" in capsys.readouterr().out


def test_models_list_shows_the_table_of_the_documentation(project, capsys) -> None:
    assert main(["models", "list"]) == 0
    shown = capsys.readouterr().out
    documented = (REPOSITORY / "docs" / "models.md").read_text()
    for clip in LABELLERS:
        row = next(line for line in documented.splitlines() if line.startswith(f"| `hf-hub:{clip.repo}`"))
        for value in (clip.licence, f"{clip.megabytes / 1000:.2f}", f"{clip.gflop:.1f}", clip.use):
            assert value in row
            assert value in shown
        assert f"{clip.zero_shot:.1%}".replace("%", " %") in row
    assert max(map(len, shown.splitlines())) <= 100


COMMANDS = [
    "ingest",
    "run",
    "process",
    "materialize",
    "report",
    "models pull",
    "models list",
    "models status",
    "cache stats",
    "cache clear",
    "submit",
    "backfill",
    "config show",
    "labels check",
    "labels list",
]


@pytest.mark.parametrize("command", COMMANDS)
def test_help_shows_an_example_that_parses(command, capsys, monkeypatch) -> None:
    with pytest.raises(SystemExit) as stopped:
        main([*command.split(), "--help"])
    assert stopped.value.code == 0
    example = capsys.readouterr().out.split("example:\n")[1].split("\n\n")[0].strip()
    assert example.startswith(f"curation-features {command}")
    from curation_features.cli.app import parser

    assert callable(parser().parse_args(shlex.split(example)[1:]).command)


def test_help_lists_the_exit_codes(capsys) -> None:
    with pytest.raises(SystemExit):
        main(["--help"])
    assert "exit codes:" in capsys.readouterr().out


def test_the_version_is_that_of_the_package(capsys) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["--version"])
    assert stopped.value.code == 0
    assert capsys.readouterr().out == f"curation-features {metadata.version('curation-features')}\n"


@pytest.mark.parametrize("group", [[], ["models"], ["labels"], ["cache"], ["config"]])
def test_without_a_command_the_help_is_shown_and_the_code_is_2(capsys, group: list[str]) -> None:
    assert main(group) == 2
    shown = capsys.readouterr()
    with pytest.raises(SystemExit):
        main([*group, "--help"])
    assert shown.out == ""
    assert shown.err == "curation-features: the following arguments are required: COMMAND\n" + capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "said", "usage"),
    [
        (["proces", "x"], "there is no command 'proces'; did you mean 'process'?", "curation-features"),
        (["xyzzy"], "there is no command 'xyzzy'\n", "curation-features"),
        (["models", "stat"], "there is no command 'stat'; did you mean 'status'?", "curation-features models"),
        (["process", "x", "--outptu", "y"], "--outptu y; did you mean '--output'?", "curation-features process"),
        (["process", "x", "--outptu=y"], "--outptu=y; did you mean '--output'?", "curation-features process"),
        (["process", "x", "y"], "unrecognized arguments: y\n", "curation-features process"),
        (["--vebose", "cache", "stats"], "--vebose; did you mean '--verbose'?", "curation-features"),
        (["process", "x", "--out", "y"], "unrecognized arguments: --out y", "curation-features process"),
        (
            ["backfill", "--assets", "lables"],
            "no such asset: lables; did you mean 'labels'?",
            "curation-features backfill",
        ),
        (["backfill", "--assets", "features,clip_label"], "did you mean 'clip_labels'?", "curation-features backfill"),
    ],
)
def test_what_is_unknown_is_answered_with_the_nearest(capsys, arguments: list[str], said: str, usage: str) -> None:
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert said in error
    assert f"\nusage: {usage} [" in error


def test_wrong_usage_is_code_2_and_shows_the_usage(capsys) -> None:
    assert main(["process"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("curation-features: the following arguments are required: MANIFEST\n")
    assert "usage: curation-features process" in error
