"""The command line with real small models: outcomes, errors, exit codes, help."""

from __future__ import annotations

import hashlib
import json
import shlex
import subprocess
import sys
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from curation_features.cli import main
from curation_features.cli.app import parser
from curation_features.cli.command import with_make_dev
from curation_features.weights.catalog import LABELLERS

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, small_models: dict[str, str]) -> Path:
    """A project with small real models and the manifest `trip` of two photos; it is the current folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DAGSTER_HOME", raising=False)
    for name, value in small_models.items():
        monkeypatch.setenv(name, value)
    folder = tmp_path / "my photos"
    folder.mkdir()
    for n in range(2):
        Image.effect_noise((96, 64), 20 + n).convert("RGB").save(folder / f"photo [bold] {n}.png")
    assert main(["ingest", "my photos", "--batch-id", "trip"]) == 0
    return tmp_path


@pytest.fixture
def no_weights(project: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The same project without weights but those in the package."""
    monkeypatch.setenv("CURATION_FEATURES_MODEL", "local-dir:nowhere")
    monkeypatch.setenv("CURATION_FEATURES_CLIP_IQA_WEIGHTS", "nowhere.pt")
    return project


@pytest.fixture
def failed(capsys: pytest.CaptureFixture[str]) -> Callable[..., dict[str, Any]]:
    """Runs a command that must fail; gives `error` of its JSON, which standard error repeats."""

    def run(*arguments: str) -> dict[str, Any]:
        capsys.readouterr()
        code = main([*arguments, "--json"])
        shown = capsys.readouterr()
        error: dict[str, Any] = json.loads(shown.out)["error"]
        assert error["exit_code"] == code
        assert shown.err.startswith("curation-features: ")
        assert "Traceback" not in shown.err
        assert error["message"].splitlines()[0] in shown.err
        return error

    return run


# --- outcomes ---


@pytest.mark.long
@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        ("--root {} config show", "root"),
        ("ingest {}", "photos"),
        ("run a {}", "photos"),
        ("process {}", "manifest"),
        ("process a --output={}", "output"),
        ("process a --vocabulary={}", "vocabulary"),
        ("materialize {}", "manifest"),
        ("submit {}", "manifest"),
        ("report {}", "batch"),
        ("report a --output={}", "output"),
        ("backfill {}", "batches"),
        ("labels check {}", "vocabulary"),
        ("gather {}", "output"),
        ("gather a {}", "batches"),
        ("flags list {}", "batch"),
        ("flags calibrate {}", "batches"),
        ("models pull --from={}", "from_folder"),
    ],
)
def test_a_tilde_is_the_home_folder_in_every_argument(monkeypatch, arguments: str, name: str) -> None:
    monkeypatch.setenv("HOME", "/home/ada")
    for given, meant in (("~/x", "/home/ada/x"), ("~nobody-is-called-so/x", "~nobody-is-called-so/x")):
        value = getattr(parser().parse_args(arguments.format(given).split()), name)
        assert str(value[-1] if isinstance(value, list) else value) == meant


@pytest.mark.long
@pytest.mark.parametrize("command", ["process", "materialize"])
def test_a_finished_batch_is_announced_once(project: Path, capsys, command: str) -> None:
    assert main(["process", "data/batches/trip.json", "--output", "expected.json"]) == 0
    for _ in range(2):
        capsys.readouterr()
        assert main([command, "data/batches/trip.json"]) == 0
    shown = capsys.readouterr().out
    assert "2 of 2 photos came from the cache" in shown
    assert ("Dagster run" in shown) == (project / "data/dagster/dagster.yaml").exists() == (command == "materialize")
    data = (project / "data/features/trip.json").read_bytes()
    assert data == (project / "expected.json").read_bytes()
    assert {artifact["features"]["status"] for artifact in json.loads(data)["artifacts"]} == {"ok"}
    events = [path.name for path in (project / "data/events/features.completed").glob("*")]
    assert events == [f"trip-{hashlib.sha256(data).hexdigest()[:12]}.json"]


@pytest.mark.long
@pytest.mark.parametrize("command", ["process", "materialize"])
def test_a_degraded_run_says_so_once_at_the_top(no_weights: Path, capsys: pytest.CaptureFixture[str], command) -> None:
    capsys.readouterr()
    assert main([command, "data/batches/trip.json", "--allow-degraded"]) == 0
    shown = capsys.readouterr()
    assert shown.out.count("Degraded run") == 1
    assert shown.out.index("Degraded run") < shown.out.index("sharpness")
    assert "A model cannot be used" not in shown.err
    document = json.loads((no_weights / "data" / "features" / "trip.json").read_bytes())
    assert {artifact["features"]["status"] for artifact in document["artifacts"]} == {"degraded"}
    errors = document["artifacts"][0]["features"]["errors"]
    assert {error["stage"] for error in errors} == {"image_embedding", "clip_iqa"}


@pytest.mark.long
def test_output_to_standard_output_is_json_alone(no_weights: Path) -> None:
    command = ["process", "data/batches/trip.json", "--output", "-", "--allow-degraded"]
    done = subprocess.run([sys.executable, "-m", "curation_features", *command], capture_output=True, check=True)
    assert json.loads(done.stdout)["batch_id"] == "trip"
    assert b"Degraded run" in done.stderr


@pytest.mark.parametrize(("models", "missing"), [("project", 0), ("no_weights", 2)])
def test_models_status_shows_each_model(request, capsys, models: str, missing: int) -> None:
    request.getfixturevalue(models)
    capsys.readouterr()
    assert main(["models", "status"]) == 0
    shown = capsys.readouterr().out
    expected = {"here": 3 - missing, "not usable": missing, "without it": missing}
    assert {line: shown.count(f"  {line}: ") for line in expected} == expected
    assert "  from: this package\n  licence: LIVE" in shown


@pytest.mark.long
def test_models_pull_verifies_user_supplied_files(project, capsys, monkeypatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert main(["models", "pull"]) == 0
    assert capsys.readouterr().out.count("  here: ") == 3
    for content, problem in ((b"<html>", "none.pt"), (b"\x80\x02 a pickle, but of no regressor", "as tensors")):
        (project / "none.pt").write_bytes(content)
        monkeypatch.setenv("CURATION_FEATURES_BRISQUE_WEIGHTS", "none.pt")
        assert main(["models", "pull"]) == 1
        assert problem in capsys.readouterr().out
    monkeypatch.setenv("CURATION_FEATURES_BRISQUE_WEIGHTS", "nowhere.pt")
    assert main(["models", "pull", "--json"]) == 3
    models = json.loads(capsys.readouterr().out)["models"]
    assert [model["name"] for model in models if model["reason"] == "missing_weights"] == ["brisque"]
    monkeypatch.setenv("CURATION_FEATURES_CLIP_IQA_WEIGHTS", "none.pt")
    assert main(["models", "pull"]) == 1  # one missing, one invalid


def test_models_list_shows_the_table_of_the_documentation(capsys) -> None:
    assert main(["models", "list"]) == 0
    shown = capsys.readouterr().out
    documented = (REPOSITORY / "docs" / "models.md").read_text()
    for clip in LABELLERS:
        row = next(line for line in documented.splitlines() if line.startswith(f"| `hf-hub:{clip.repo}`"))
        for value in (clip.licence, f"{clip.megabytes / 1000:.2f}", f"{clip.gflop:.1f}", clip.use):
            assert value in row
            assert value in shown
        assert f"{clip.zero_shot:.1%}".replace("%", " %") in row


@pytest.mark.long
def test_cache_stats_and_clear(project, capsys) -> None:
    def fields(*arguments: str) -> dict[str, Any]:
        capsys.readouterr()
        assert main(["cache", *arguments, "--json"]) == 0
        return json.loads(capsys.readouterr().out)

    main(["process", "data/batches/trip.json"])
    stats = fields("stats")
    assert (stats["photos"], stats["label_embeddings"]) == (2, True)
    assert fields("clear")["deleted"] == 2
    assert fields("clear", "--all")["deleted"] == 1


# --- errors ---


def test_missing_weights_stop_a_run_with_code_3(no_weights: Path, failed) -> None:
    for command in ("process", "materialize"):
        error = failed(command, "data/batches/trip.json")
        assert (error["kind"], error["exit_code"]) == ("missing_weights", 3)
        assert "nowhere" in error["message"]
        assert "--allow-degraded" in error["message"]
    assert not (no_weights / "data" / "features").exists()


def test_wrong_settings_are_code_2(project, failed, monkeypatch) -> None:
    monkeypatch.setenv("CURATION_FEATURES_DEVCE", "cpu")
    error = failed("cache", "stats")
    assert (error["kind"], error["exit_code"]) == ("settings", 2)
    assert "did you mean 'device'" in error["message"]


@pytest.mark.parametrize(
    ("arguments", "kind", "named"),
    [
        ("process absent.json", "manifest", "absent.json"),
        ("process half.json", "manifest", "half.json"),
        ("materialize half.json", "manifest", "half.json"),
        ("submit bad.json", "manifest", "batch_id"),
        ("ingest absent", "input", "absent"),
        ("ingest s3://photos/trip", "usage", "s3://photos/trip: only local folders"),
        ("ingest 'my photos' --batch-id ../up", "manifest", "batch_id"),
        ("--root nowhere ingest 'my photos' --batch-id trip", "settings", "nowhere"),
        ("config show devce", "input", "did you mean 'device'?"),
        ("models pull --from nope", "input", "nope"),
        ("process trip --output -", "usage", "--output -"),
        ("process trip --output folder.json", "input", "folder.json"),
        ("process trip --output nope/x.json", "input", "nope"),
        ("process trip --output half.json/x.json", "input", "half.json"),
    ],
)
def test_invalid_input_is_refused_before_any_work(project, failed, arguments: str, kind: str, named: str) -> None:
    (project / "half.json").write_text('{"batch_id": "b", "artif')
    (project / "bad.json").write_text('{"batch_id": "../x", "artifacts": []}')
    (project / "folder.json").mkdir()
    before = sorted(project.rglob("*"))
    error = failed(*shlex.split(arguments))
    assert (error["kind"], error["exit_code"]) == (kind, 2)
    assert named in error["message"]
    assert sorted(project.rglob("*")) == before


def test_a_failed_request_is_code_1(project, failed) -> None:
    error = failed("backfill", "--url", "http://[::1")
    assert (error["kind"], error["exit_code"]) == ("failed", 1)
    assert "http://[::1" in error["message"]


@pytest.mark.parametrize(
    ("arguments", "named", "usage"),
    [
        ("proces x", "did you mean 'process'?", ""),
        ("xyzzy", "'xyzzy'\n", ""),
        ("models stat", "did you mean 'status'?", " models"),
        ("process x --outptu y", "--outptu y; did you mean '--output'?", " process"),
        ("process x --outptu=y", "--outptu=y; did you mean '--output'?", " process"),
        ("materialize x y", "arguments: y\n", " materialize"),
        ("--vebose cache stats", "--vebose; did you mean '--verbose'?", ""),
        ("process x --out y", "--out y", " process"),
        ("process", "MANIFEST", " process"),
        ("ingest", "PATH --samples", " ingest"),
        ("ingest photos --samples", "not allowed with", " ingest"),
        ("backfill --assets lables", "lables; did you mean 'labels'?", " backfill"),
        ("backfill --assets features,clip_label", "did you mean 'clip_labels'?", " backfill"),
    ],
)
def test_wrong_usage_shows_the_usage_and_a_hint(failed, arguments: str, named: str, usage: str) -> None:
    error = failed(*arguments.split())
    assert (error["kind"], error["exit_code"]) == ("usage", 2)
    assert named in error["message"]
    assert f"\nusage: curation-features{usage} [" in error["message"]


# --- help ---


COMMANDS = (
    *("ingest", "run", "process", "materialize", "report", "submit", "backfill", "gc", "config show"),
    *("models pull", "models list", "models status", "cache stats", "cache clear", "labels check", "labels list"),
    *("flags list", "flags calibrate"),
    *("batches list", "batches show", "batches rm"),
)


@pytest.mark.parametrize("command", COMMANDS)
def test_help_shows_an_example_that_parses(command: str, capsys) -> None:
    with pytest.raises(SystemExit) as stopped:
        main([*command.split(), "--help"])
    assert stopped.value.code == 0
    example = capsys.readouterr().out.split("example:\n")[1].split("\n\n")[0].strip()
    assert example.startswith(f"curation-features {command}")
    assert callable(parser().parse_args(shlex.split(example)[1:]).command)


@pytest.mark.parametrize("group", [[], ["models"], ["labels"], ["cache"], ["config"], ["batches"], ["flags"]])
def test_without_a_command_the_help_is_shown_and_the_code_is_2(capsys, group: list[str]) -> None:
    assert main(group) == 2
    shown = capsys.readouterr()
    with pytest.raises(SystemExit):
        main([*group, "--help"])
    usage = capsys.readouterr().out
    assert shown.out == ""
    assert shown.err.endswith(f": COMMAND\n{usage}")
    assert group or "exit codes:" in usage


def test_make_dev_is_named_in_a_clone_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(REPOSITORY)
    assert with_make_dev("runs it") == "; `make dev` runs it"
    monkeypatch.chdir(tmp_path)
    assert with_make_dev("runs it") == ""


def test_the_version_is_that_of_the_package(capsys) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["--version"])
    assert stopped.value.code == 0
    assert capsys.readouterr().out == f"curation-features {metadata.version('curation-features')}\n"
