"""Command output: progress on a real terminal, the summary of a batch, JSON, errors."""

from __future__ import annotations

import fcntl
import json
import os
import re
import signal
import struct
import subprocess
import sys
import termios
import threading
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from PIL import Image, ImageFilter
from skimage import data as bundled

from curation_features.cli import main
from curation_features.cli.terminal import doing, downloads, progress
from curation_features.pipeline import Models
from curation_features.pipeline.observer import Observer, SilentObserver
from curation_features.schema import METRIC_NAMES
from curation_features.settings import Settings
from curation_features.testing import FakeBrisque, FakeClipEngine, FakeQualityModel
from curation_features.weights import LazyModel, Weights

CONTROL = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
COLOUR = re.compile(r"\x1b\[[0-9;]*3[0-9][0-9;]*m")


class Terminal:
    """A pseudo-terminal with a `stream` to write to; `text` is everything written, and closes it."""

    def __init__(self) -> None:
        self._master, slave = os.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 80, 0, 0))
        self.stream = os.fdopen(slave, "w", encoding="utf-8")
        self._output = bytearray()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        try:
            while data := os.read(self._master, 65536):
                self._output += data
        except OSError:  # the other end is closed
            pass

    @property
    def text(self) -> str:
        self.stream.close()
        self._reader.join()
        return self._output.decode()


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Callable[[], Terminal]:
    """Replaces standard error by a new terminal, and returns it."""
    for name in ("CI", "NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "80")

    def replace() -> Terminal:
        screen = Terminal()
        monkeypatch.setattr(sys, "stderr", screen.stream)
        return screen

    return replace


class Project:
    """A project with lazy fake models."""

    def __init__(self, root: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.root = root
        self.capsys = capsys
        self.clip = FakeClipEngine()

    def models(self, _: Settings, observer: Observer | None = None, fetch: bool = True) -> Models:
        def lazy(model: Any, name: str) -> LazyModel[Any]:
            loading = partial((observer or SilentObserver()).model_loading, name)
            return LazyModel(lambda: Weights(type(model).__name__, Path(), ""), lambda _: model, loading)

        return Models(lazy(self.clip, "CLIP"), lazy(FakeQualityModel(), "CLIP-IQA"), lazy(FakeBrisque(), "BRISQUE"))

    def photo(self, name: str, seed: int = 0) -> None:
        path = self.root / "photos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.effect_noise((64, 48), 5 + 2 * seed).convert("RGB").save(path)

    def ingested(self, count: int, *broken: str, prefix: str = "") -> str:
        """The output of an ingest of new photos, and of broken files."""
        for seed in range(count):
            self.photo(f"{prefix}{seed:03}.png", seed)
        for name in broken:
            (self.root / "photos" / name).write_bytes(b"no photo")
        self.capsys.readouterr()
        assert main(["ingest", "photos", "--batch-id", "trip"]) == 0
        return self.capsys.readouterr().out


@pytest.fixture(scope="module")
def dagster_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One instance for all tests, as it is slow to make."""
    return tmp_path_factory.mktemp("dagster")


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys, dagster_home: Path) -> Project:
    """An empty project; it is the current folder."""
    found = Project(tmp_path, capsys)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DAGSTER_HOME", str(dagster_home))
    monkeypatch.setenv("CURATION_FEATURES_DEVICE", "cpu")
    monkeypatch.setattr(Models, "from_settings", found.models)
    return found


PROCESS = ["process", "data/batches/trip.json"]
MATERIALIZE = ["materialize", "data/batches/trip.json"]


# --- progress -----------------------------------------------------------------------------------------------------


@pytest.mark.long
@pytest.mark.parametrize("arguments", [["ingest", "photos", "--batch-id", "trip"], PROCESS, MATERIALIZE])
def test_a_terminal_shows_the_progress_of_a_command(project: Project, terminal, capsys, arguments: list[str]) -> None:
    project.ingested(3)
    screen = terminal()
    assert main(arguments) == 0
    shown = CONTROL.sub("", screen.text)
    assert " 3/3 " in shown
    steps = ["ingesting "]
    if arguments[0] != "ingest":
        loaded = [f"loading {name} " for name in ("CLIP", "CLIP-IQA", "BRISQUE")]
        steps = [*loaded, "embedding labels ", "measuring ", "contact sheet "]
    assert [text for text in steps if text not in shown] == []
    assert ("starting Dagster" in shown) == (arguments == MATERIALIZE)
    assert "\x1b" not in capsys.readouterr().out


@pytest.mark.long
def test_an_unchanged_page_has_no_bar(project: Project, terminal) -> None:
    project.ingested(3)
    screens = []
    for _ in range(2):
        screens.append(terminal())
        assert main(PROCESS) == 0
    first, second = (CONTROL.sub("", screen.text) for screen in screens)
    assert first.rindex("measuring ") < first.rindex("contact sheet ")
    assert "3/3 " in first[first.rindex("contact sheet ") :]
    assert "contact sheet" not in second


@pytest.mark.parametrize(
    ("is_terminal", "variables"),
    [
        (False, {}),
        (False, {"FORCE_COLOR": "1"}),
        (False, {"COLUMNS": "40"}),
        (True, {"TERM": "dumb"}),
        (True, {"CI": "1"}),
    ],
)
def test_files_ci_and_dumb_terminals_get_no_bar(terminal, capsys, monkeypatch, is_terminal, variables) -> None:
    screen = terminal() if is_terminal else None
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with doing("starting"), progress("measuring", 2) as bar:
        bar.advance(2)
    assert (screen.text if screen else capsys.readouterr().err) == ""


def test_no_color_is_respected(terminal, monkeypatch) -> None:
    def bar() -> str:
        screen = terminal()
        with progress("measuring", 2) as shown:
            shown.advance(2)
        return screen.text

    assert COLOUR.search(bar())
    monkeypatch.setenv("NO_COLOR", "1")
    without = bar()
    assert "2/2" in without
    assert not COLOUR.search(without)


@dataclass
class Clock:
    """A clock that is set by hand."""

    now: float = 1000.0

    def __call__(self) -> float:
        return self.now


def test_a_long_run_without_a_terminal_prints_a_line_a_minute(capsys) -> None:
    clock = Clock()
    with progress("measuring", 1000, get_time=clock) as bar:
        for _ in range(300):
            clock.now += 0.5
            bar.advance()
    lines = capsys.readouterr().err.splitlines()
    assert lines == [
        "measuring: 120 of 1000 photos  2.0 photos/s  0:07:20 left",
        "measuring: 240 of 1000 photos  2.0 photos/s  0:06:20 left",
    ]


def test_the_pace_excludes_cached_photos_and_waits(capsys) -> None:
    clock = Clock()
    with progress("measuring", 1000, get_time=clock) as bar:
        for _ in range(500):
            clock.now += 0.001
            bar.advance(worked=False)
        with bar.waiting("loading CLIP"):
            clock.now += 40
        for _ in range(100):
            clock.now += 0.001
            bar.advance(worked=False)
        for _ in range(5):  # groups of two
            clock.now += 4
            bar.advance()
            bar.advance()
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("measuring: 609 of 1000 photos  0.4 photos/s  0:14:")


def test_the_pace_excludes_the_first_group_after_a_wait(terminal) -> None:
    """Freshly loaded models take ten times as long for it."""
    clock, screen = Clock(), terminal()
    with progress("measuring", 2000, get_time=clock) as bar:
        with bar.waiting("loading CLIP"):
            clock.now += 9
        for seconds in (3.3, *[0.37] * 10):
            clock.now += seconds
            for _ in range(2):
                clock.now += 0.001
                bar.advance()
    paces = re.findall(r"([\d.]+) photos/s  (\S+) left", CONTROL.sub("", screen.text))
    assert {pace for pace, _ in paces} <= {"5.4", "5.3"}
    assert {left[:4] for _, left in paces} == {"0:06"}


def test_a_bar_shows_what_it_waits_for(terminal) -> None:
    screen = terminal()
    with progress("measuring", 1) as bar:
        with bar.waiting("loading CLIP"), bar.waiting("loading BRISQUE"):
            pass
        bar.advance()
    shown = CONTROL.sub("", screen.text)
    order = [shown.index(text) for text in ("loading CLIP ", "loading BRISQUE ", "measuring ")]
    assert shown.rindex("loading") < shown.rindex("measuring ")
    assert order[0] < order[1]


def test_downloads_have_a_bar_or_a_line(terminal, capsys) -> None:
    with downloads() as show:
        show("model\x1b[2J.pt", 5_000_000, 10_000_000)
        show("model\x1b[2J.pt", 10_000_000, 10_000_000)
    assert capsys.readouterr().err == "model?[2J.pt: 10.0 MB\n"
    screen = terminal()
    with downloads() as show:
        show("model\x1b[2J.pt", 10_000_000, 10_000_000)
    assert "\x1b[2J" not in screen.text
    shown = CONTROL.sub("", screen.text)
    assert "looking for model weights" in shown
    assert "model?[2J.pt" in shown
    assert "10.0/10.0 MB" in shown


# --- the summary of a batch ---------------------------------------------------------------------------------------


def test_a_small_batch_is_listed_completely(project: Project, capsys) -> None:
    assert "zz.png: unreadable: " in project.ingested(3, "zz.png", prefix="photo [bold] ")
    assert main(PROCESS) == 0
    shown = capsys.readouterr().out
    assert "\x1b" not in shown
    rows = [line for line in shown.splitlines() if ".png" in line or "photo [b" in line]
    folded = [word for number in range(3) for word in ("photo", f"00{number}.png")]
    assert [row.split()[0] for row in rows] == ["zz.png", *folded]
    assert rows[0].split() == ["zz.png", "failed", "unreadable"]
    assert "4 photos in batch trip: 3 ok, 1 failed" in shown
    assert re.search(r"^\d+\.\d s, \d+\.\d photos/s; 0 of 4 photos", shown, re.MULTILINE)


EXTREME = re.compile(r"^(sharpness|exposure|noise|clip_iqa|brisque) +([^()]+) \((.+?) ([\d.]+)\) +(\S+)$", re.MULTILINE)


@pytest.mark.long
@pytest.mark.parametrize("command", [PROCESS, MATERIALIZE])
def test_a_large_batch_lists_extremes(project: Project, capsys, command) -> None:
    assert "bad11.png" in project.ingested(24, *(f"bad{number:02}.png" for number in range(12)))
    assert main(command) == 0
    shown = capsys.readouterr().out
    assert shown.index("failed: 12, the first 10\n") < shown.index("look at these first")
    assert shown.count(" failed ") == 10
    assert "All 36 photos" in shown
    found = EXTREME.findall(shown)
    assert [metric for metric, *_ in found] == [name for name in METRIC_NAMES for _ in range(3)]
    assert {cause for metric, cause, *_ in found if metric == "sharpness"} == {"least sharp"}
    if command is PROCESS:
        rows = pq.read_table(project.root / "data/features/trip.parquet").to_pylist()
        ranks = (("sharpness", "tenengrad", 1), ("noise", "noise_sigma", -1), ("clip_iqa", "clip_iqa", 1))
        for metric, name, worst in ranks:
            measured = [row for row in rows if row[name] is not None]
            ranked = sorted(measured, key=lambda row: worst * row[name])[:3]
            assert [row[4] for row in found if row[0] == metric] == [Path(row["original_uri"]).name for row in ranked]


def test_photos_of_several_folders_have_their_paths(project: Project, capsys) -> None:
    for number in range(2):
        project.photo(f"10{number}CANON/IMG_0001.png", number)
    long = "a very long folder name " * 4
    (project.root / "photos" / long).mkdir()
    project.ingested(0, f"{long}/x.png")
    assert main(PROCESS) == 0
    shown = capsys.readouterr().out
    rows = re.findall(r"^(10[01]CANON/IMG\S*) +ok .*\n(\S+) *$", shown, re.MULTILINE)
    assert sorted("".join(row) for row in rows) == ["100CANON/IMG_0001.png", "101CANON/IMG_0001.png"]
    assert re.search(r"^….*/x\.png +failed +unreadable$", shown, re.MULTILINE)


@pytest.mark.long
def test_labels_scores_and_files_are_summarised(project: Project, capsys) -> None:
    project.ingested(6)
    assert main(PROCESS) == 0
    shown = capsys.readouterr().out
    document = json.loads((project.root / "data/features/trip.json").read_bytes())
    first = [artifact["features"]["clip_labels"][0]["label"] for artifact in document["artifacts"]]
    for label in set(first):
        assert re.search(rf"^{label} +█+ +{first.count(label)}\b", shown, re.MULTILINE)
    sharpness = sorted(artifact["features"]["tech"]["sharpness"] for artifact in document["artifacts"])
    assert f"{(sharpness[2] + sharpness[3]) / 2:.3f}" in shown.split("median")[1]
    folder = project.root / "data" / "features"
    assert f"\n{folder / 'trip.json'}\n{folder / 'trip.parquet'}\n" in shown
    (folder / "trip.html").write_text("a page")
    assert main(PROCESS) == 0
    assert f"{folder / 'trip.html'}\n" in capsys.readouterr().out


@pytest.mark.long
@pytest.mark.parametrize("others", [0, 20])
def test_flags_are_listed_and_counted(project: Project, capsys, others: int) -> None:
    cat = Image.fromarray(bundled.chelsea())
    blurred = cat.filter(ImageFilter.GaussianBlur(4))
    photos = {"a sharp": cat, "blurred": blurred, "both": blurred.point(lambda level: level // 3)}
    (project.root / "photos").mkdir()
    for name, image in photos.items():
        image.save(project.root / "photos" / f"{name}.png")
    project.ingested(others, prefix="tiny ")
    assert main(PROCESS) == 0
    shown = capsys.readouterr().out
    flags = re.compile("^flags: 2 blurred, 1 dark(;|$)", re.MULTILINE)
    assert flags.search(shown), shown
    if others:
        listed = shown[shown.index("flagged: 2\n") : shown.index("look at these first")]
        for name, flag in (("blurred", "blurred"), ("both", "blurred"), ("", "dark")):
            assert re.search(rf"^{name}\S* +{flag}: \w.*, limit", listed, re.MULTILINE)
    else:
        rows = shown.splitlines()
        [place] = (number for number, line in enumerate(rows) if line.startswith("both.png"))
        assert [line.split() for line in rows[place + 1 : place + 3]] == [["blurred"], ["dark"]]
    assert max(len(line) for line in shown.splitlines() if not line.startswith(str(project.root))) <= 80
    assert main([*PROCESS, "--json"]) == 0
    counts = json.loads(capsys.readouterr().out)["flags"]
    assert {one["name"]: one["artifacts"] for one in counts if one["kind"] == "flag"} == {"blurred": 2, "dark": 1}
    assert main(["batches", "show", "trip"]) == 0
    assert flags.search(capsys.readouterr().out)
    assert main(["batches", "show", "trip", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["flags"] == counts


@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_a_summary_is_at_most_80_columns_wide(project, monkeypatch, encoding: str, tmp_path) -> None:
    project.ingested(3, prefix="ein sehr langer Name für ein Bild, das es gibt \u202e ")
    monkeypatch.delenv("COLUMNS", raising=False)
    with (tmp_path / "out").open("w", encoding=encoding) as file:
        monkeypatch.setattr(sys, "stdout", file)
        assert main(PROCESS) == 0
    lines = (tmp_path / "out").read_text(encoding).splitlines()
    assert [line for line in lines if len(line) > 80 and not line.startswith(str(project.root))] == []
    assert any("sharpness exposure noise clip_iqa brisque best label" in line for line in lines)
    assert not any("\u202e" in line for line in lines)


# --- for machines ---------------------------------------------------------------------------------------------------


def declared(capsys, command: list[str]) -> dict[str, str]:
    """The JSON fields in the help of a command, with their meaning."""
    with pytest.raises(SystemExit):
        main([*command, "--help"])
    listed = capsys.readouterr().out.split("with --json, one object on standard output:\n")[1]
    fields = dict(line.split(maxsplit=1) for line in listed.splitlines())
    del fields["error"]
    return {name: meaning for name, meaning in fields.items() if not meaning.startswith("with an engine: ")}


def inner_names(meaning: str) -> set[str]:
    """The names in the innermost braces of a meaning."""
    braces = re.search(r"\{([^{}]*)\}", meaning)
    return set(braces[1].split(", ")) if braces else set()


def inner_keys(meaning: str, value: Any) -> set[str]:
    """The keys of a value at the depth of the innermost braces of its meaning."""
    if isinstance(value, list):
        return set().union(*(inner_keys(meaning, item) for item in value))
    if re.match(r"\{\w+: \{", meaning):  # a mapping with any keys
        return set().union(*map(set, value.values()))
    return set(value)


@pytest.mark.long
@pytest.mark.parametrize(
    "command",
    ["ingest photos --batch-id new", "process trip", "process trip --output out.json", "materialize trip",
     "submit trip", "models list", "models status", "cache stats", "cache clear", "config show", "labels list",
     "labels check"],
)  # fmt: skip
def test_json_has_the_fields_of_the_help(project: Project, capsys, command: str) -> None:
    project.ingested(2)
    encode = project.clip.encode_images
    project.clip.encode_images = lambda batch: print("a library talks") or encode(batch)  # type: ignore[method-assign]
    arguments = command.split()
    assert main([*arguments, "--json"]) == 0
    shown = capsys.readouterr()
    [line] = shown.out.splitlines()
    fields = json.loads(line)
    meanings = declared(capsys, [word for word in arguments[:2] if word not in ("photos", "trip")])
    assert set(fields) == set(meanings)
    for name, meaning in meanings.items():
        if (names := inner_names(meaning)) and fields[name]:
            found = inner_keys(meaning, fields[name])
            assert found <= names if "--output" in arguments and name == "files" else found == names, name
    if arguments[0] in ("process", "materialize"):
        assert "a library talks" in shown.err
        assert (fields["artifacts"], fields["photos"], fields["cached"]) == (2, 2, 0)
        assert fields["statuses"] == {"ok": 2, "degraded": 0, "failed": 0}
        assert all(Path(path).exists() for path in fields["files"].values())
        assert set(fields["scores"]) == {"sharpness", "exposure", "noise", "clip_iqa", "brisque"}


def test_json_names_rejected_and_failed_photos(project: Project, capsys) -> None:
    project.ingested(1, "z [red].png")
    assert main(["ingest", "photos", "--batch-id", "trip", "--json"]) == 0
    [rejected] = json.loads(capsys.readouterr().out)["rejected"]
    assert rejected["path"].endswith("z [red].png")
    assert rejected["reason"].startswith("unreadable: ")
    assert main([*PROCESS, "--json"]) == 0
    fields = json.loads(capsys.readouterr().out)
    assert fields["statuses"] == {"ok": 1, "degraded": 0, "failed": 1}
    assert fields["errors"] == [{"stage": "photo", "reason": "unreadable", "artifacts": 1}]


# --- errors -----------------------------------------------------------------------------------------------------------


def raising(error: Exception) -> Callable[..., Any]:
    def broken(*_: Any) -> None:
        raise error

    return broken


@pytest.mark.parametrize("place", [["-v", *PROCESS], [*PROCESS, "-v"], [*PROCESS, "--verbose"], PROCESS])
def test_a_traceback_is_logged_only_with_verbose(
    project: Project, capsys, caplog, monkeypatch, place: list[str]
) -> None:
    project.ingested(1)
    monkeypatch.setattr(Models, "from_settings", raising(KeyError("a defect \x1b[2J")))
    assert main(place) == 1
    error = capsys.readouterr().err
    [line] = error.splitlines()
    assert "KeyError" in line
    assert "\x1b" not in error
    assert ("Traceback" in caplog.text) == (place != PROCESS)


@pytest.mark.parametrize(
    ("error", "kind", "named"),
    [
        (MemoryError(), "resource", "memory"),
        (PermissionError(13, "Permission denied", "/x/y"), "system", "Permission denied: '/x/y'"),
        (ZeroDivisionError("division by zero"), "internal", "ZeroDivisionError: division by zero"),
    ],
)
def test_an_unexpected_error_is_one_line(project: Project, capsys, monkeypatch, error, kind: str, named: str):
    project.ingested(1)
    monkeypatch.setattr(Models, "from_settings", raising(error))
    assert main([*PROCESS, "--json"]) == 1
    shown = capsys.readouterr()
    assert json.loads(shown.out)["error"]["kind"] == kind
    [line] = shown.err.splitlines()
    assert named in line


@pytest.mark.long
def test_a_defect_in_one_photo_is_logged_in_a_line(project: Project, monkeypatch) -> None:
    """In a separate process, because pytest captures the log here."""
    project.ingested(1)
    code = (
        "import sys\n"
        "from curation_features.cli import main\n"
        "from curation_features.photos.processes.isolation import Decoder\n"
        "def broken(*_, **__): raise RuntimeError('a defect')\n"
        "Decoder.decode = broken\n"
        "sys.exit(main(sys.argv[1:]))"
    )
    monkeypatch.setenv("CURATION_FEATURES_MODEL", "local-dir:nowhere")
    for model in ("CLIP_IQA", "BRISQUE"):
        monkeypatch.setenv(f"CURATION_FEATURES_{model}_WEIGHTS", "nowhere.pt")
    for verbose in ([], ["-v"]):
        command = [sys.executable, "-c", code, *PROCESS, "--allow-degraded", *verbose]
        ran = subprocess.run(command, capture_output=True, text=True, check=True)
        assert ("Traceback" in ran.stderr) == bool(verbose)
        assert "RuntimeError: a defect" in ran.stderr


@pytest.mark.long
@pytest.mark.parametrize("command", [PROCESS, MATERIALIZE])
def test_an_interruption_is_a_line_and_code_130(project: Project, capsys, command: list[str]) -> None:
    project.ingested(1)
    encode = project.clip.encode_texts

    def interrupted(prompts: Any) -> Any:
        signal.raise_signal(signal.SIGINT)
        return encode(prompts)

    project.clip.encode_texts = interrupted  # type: ignore[method-assign]
    inherited = signal.signal(signal.SIGINT, signal.default_int_handler)  # background jobs ignore SIGINT
    try:
        assert main([*command, "--json"]) == 130
        shown = capsys.readouterr()
        assert json.loads(shown.out)["error"]["kind"] == "interrupted"
        assert re.fullmatch("curation-features: interrupted.*\n", shown.err)
        project.clip.encode_texts = encode  # type: ignore[method-assign]
        assert main([*command, "--json"]) == 0
    finally:
        signal.signal(signal.SIGINT, inherited)
    assert json.loads(capsys.readouterr().out)["statuses"]["ok"] == 1


@pytest.mark.long
def test_a_failure_in_dagster_is_one_line(project: Project, capsys) -> None:
    project.ingested(1)
    project.clip.encode_texts = raising(RuntimeError("a defect"))  # type: ignore[method-assign]
    assert main(MATERIALIZE) == 1
    [line] = capsys.readouterr().err.splitlines()
    assert line.endswith("photo_features failed: trip: RuntimeError: a defect")


@pytest.mark.long
@pytest.mark.parametrize("arguments", [PROCESS, [*PROCESS, "--json"], [*PROCESS, "--output", "-"], ["process"]])
def test_a_closed_pipe_ends_a_command_quietly(project: Project, monkeypatch, capsys, arguments) -> None:
    project.ingested(1)
    with ExitStack() as pipes:
        for stream in ("stdout", "stderr") if arguments == ["process"] else ("stdout",):
            read, write = os.pipe()
            os.close(read)
            monkeypatch.setattr(sys, stream, pipes.enter_context(os.fdopen(write, "w")))
        assert main(arguments) == 141
        monkeypatch.undo()
    assert capsys.readouterr().err == ""


# --- config show ------------------------------------------------------------------------------------------------------


def test_settings_are_shown_with_their_origin(project: Project, capsys, monkeypatch) -> None:
    (project.root / "config").mkdir()
    (project.root / "config" / "settings.toml").write_text('workers = 3\nlabels_file = "a\\u001b[2J.json"\n')
    monkeypatch.setenv("CURATION_FEATURES_EVENT_WEBHOOK_TOKEN", "hidden")
    monkeypatch.setenv("COLUMNS", "100")
    assert main(["config", "show"]) == 0
    shown = capsys.readouterr().out
    rows = {line.split()[0]: line.split(maxsplit=1)[1].rstrip() for line in shown.splitlines() if len(line.split()) > 1}
    assert rows["workers"].split() == ["3", "config/settings.toml:1"]
    assert rows["device"].split() == ['"cpu"', "CURATION_FEATURES_DEVICE"]
    assert rows["precision"].split() == ['"auto"', "default"]
    assert rows["event_webhook_token"].startswith("(set)")
    assert rows["event_webhook"].split() == ["unset", "default"]
    assert "\x1b" not in shown
    assert main(["config", "show", "--all", "--json"]) == 0
    output = capsys.readouterr().out
    assert "hidden" not in shown + output
    settings = {setting["name"]: setting for setting in json.loads(output)["settings"]}
    assert settings["precision"]["recomputes"] == ["embedding", "clip_iqa", "labels"]
    assert settings["workers"]["origin"] == f"{project.root / 'config' / 'settings.toml'}:1"
    assert (settings["event_webhook_token"]["value"], settings["event_webhook"]["value"]) == ("(set)", None)


def test_a_named_setting_is_shown_with_its_details(project: Project, capsys) -> None:
    assert main(["config", "show", "device", "temperature"]) == 0
    shown = capsys.readouterr().out
    assert [line for line in shown.splitlines() if line[0] != " "] == ['device = "cpu"', "temperature = unset"]
    details = ("one of auto, mps, cuda, cpu", "embedding, labels", "CURATION_FEATURES_TEMPERATURE", "from: default")
    assert [detail for detail in details if detail not in shown] == []


def test_showing_settings_imports_no_large_library(project: Project) -> None:
    code = (
        "import sys; from curation_features.cli import main\nassert main(['config', 'show']) == 0\n"
        "print(sorted({'torch', 'dagster', 'pandas', 'cv2', 'pyarrow', 'numpy'} & sys.modules.keys()))"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.splitlines()[-1] == "[]"
