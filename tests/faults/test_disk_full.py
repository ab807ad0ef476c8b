"""Full and read-only disks, simulated by small file systems on single folders. File descriptors; memory."""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
import subprocess
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import constants
from interpreters import run_python

from curation_features.cli import main
from curation_features.errors import MissingWeightsError
from curation_features.photos.processes.isolation import Decoder
from curation_features.pipeline import Models
from curation_features.service import FeaturesService
from curation_features.weights import Copies, KnownFile
from curation_features.weights.fetch import fetch_known_file

STATES = ("full", "read-only")


class Disk:
    """A file system of 4 MB, mounted on a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        try:
            self._mount("-t", "tmpfs", "-o", "size=4m", "tmpfs", str(folder))
        except FileNotFoundError:
            pytest.skip("no mount command here")
        except subprocess.CalledProcessError as error:
            pytest.skip(
                f"may not mount a file system here ({error.stderr.strip()}); try `unshare -rm python -m pytest`"
            )

    @staticmethod
    def _mount(*arguments: str) -> None:
        subprocess.run(["mount", *arguments], capture_output=True, text=True, check=True)

    def spoil(self, state: str, *, leaving: int = 0) -> None:
        """Fill it, leaving some bytes, or make it read-only."""
        if state == "read-only":
            self._mount("-o", "remount,ro", str(self.folder))  # fails if a run has left a file open
            return
        with (self.folder / "filler").open("wb", buffering=0) as file:
            with suppress(OSError):
                while True:
                    file.write(bytes(4096))
            file.truncate(file.tell() - leaving)

    def heal(self) -> None:
        """Make it writable, and free space."""
        self._mount("-o", "remount,rw", str(self.folder))
        (self.folder / "filler").unlink(missing_ok=True)

    def names(self) -> list[str]:
        return sorted(str(path.relative_to(self.folder)) for path in self.folder.rglob("*") if path.name != "filler")


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Callable[[str], Disk]]:
    """Mounts a small file system on a folder of the project."""
    mounted: list[Disk] = []

    def mount(folder: str) -> Disk:
        mounted.append(Disk(tmp_path / folder))
        return mounted[-1]

    yield mount
    for found in reversed(mounted):
        subprocess.run(["umount", "-l", str(found.folder)], check=True)


@pytest.fixture
def project(world, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A project with fake models and two versions of a batch; it is the current folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DAGSTER_HOME", raising=False)
    monkeypatch.setattr(Models, "from_settings", lambda *_: world.models())
    artifacts = [world.photo(f"{number}.png", number, (64, 48)) for number in range(3)]
    for name, count in (("old", 2), ("new", 3)):
        (tmp_path / f"{name}.json").write_text(json.dumps({"batch_id": "trip", "artifacts": artifacts[:count]}))
    return tmp_path


# --- outputs ----------------------------------------------------------------------------------------------------------

OUTPUTS = ("data/locks", "data/manifests", "data/stages", "data/features", "data/events", "data/dagster")
FAULTS = {  # events come last, after the new features are written
    "process": [
        ("data/locks", "read-only"),
        *(("data/features", state) for state in STATES),
        *(("data/events", state) for state in STATES),
    ],
    "materialize": [
        ("data/manifests", "full"),
        ("data/stages", "full"),
        *(("data/dagster", state) for state in STATES),
        ("data/events", "full"),
    ],
}


@pytest.mark.long
@pytest.mark.parametrize("command", FAULTS)
def test_an_unwritable_output_fails_and_leaves_the_old_files(
    project: Path, disk, command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    disks = {name: disk(name) for name in OUTPUTS}
    assert main([command, "old.json"]) == 0
    old = features(project)
    for name, state in FAULTS[command]:
        before = [disks[folder].names() for folder in OUTPUTS[:5]]
        disks[name].spoil(state)
        capsys.readouterr()
        assert main([command, "new.json"]) == 1, (name, state)
        said = capsys.readouterr().err
        assert "Traceback" not in said
        assert str(project / name) in said
        assert "free space or permissions" in said
        assert "No space left" in said or "Read-only" in said or "disk I/O error" in said
        assert name == "data/events" or features(project) == old
        assert [event["data"]["features"] for event in events(project)] == [digest(old)]
        disks[name].heal()
        assert [disks[folder].names() for folder in OUTPUTS[:5]] == before, (name, state)
    assert main([command, "new.json"]) == 0
    assert {event["data"]["features"] for event in events(project)} == {digest(old), digest(features(project))}
    (project / "elsewhere").mkdir()
    assert main(["process", "new.json", "--output", "elsewhere/new.json"]) == 0
    assert (project / "elsewhere/new.json").read_bytes() == features(project)[0]


def test_table_and_json_are_replaced_together(project: Path, disk) -> None:
    """With space for the table only."""
    place = disk("data/features")
    assert main(["process", "old.json"]) == 0
    old = features(project)
    document = json.loads((project / "new.json").read_text())
    (project / "new.json").write_text(json.dumps({**document, "note": "x" * 100_000}))  # only in the JSON file
    place.spoil("full", leaving=65536)
    assert main(["process", "new.json"]) == 1
    assert features(project) == old
    assert place.names() == ["embeddings", "embeddings/trip.parquet", "trip.html", "trip.json", "trip.parquet"]


def features(project: Path) -> tuple[bytes, ...]:
    names = ("trip.json", "trip.parquet", "embeddings/trip.parquet")
    return tuple((project / "data" / "features" / name).read_bytes() for name in names)


def digest(files: tuple[bytes, ...]) -> str:
    return hashlib.sha256(files[0]).hexdigest()


def events(project: Path) -> list[Any]:
    return [json.loads(path.read_bytes()) for path in project.glob("data/events/features.completed/*.json")]


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize(
    ("arguments", "folder"),
    [
        (["submit", "old.json"], "data/incoming"),
        (["ingest", "photos", "--batch-id", "new"], "data/rankingInput"),
        (["ingest", "photos", "--batch-id", "new"], "data/batches"),
        (["ingest", "--samples"], "data/input"),
        (["process", "new.json", "--output", "elsewhere/new.json"], "elsewhere"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else value,
)
def test_other_commands_report_it_in_a_line(
    project: Path, disk, arguments: list[str], folder: str, state: str, capsys: pytest.CaptureFixture[str]
) -> None:
    place = disk(folder)
    (place.folder / "older.json").write_text("{}")
    place.spoil(state)
    assert main(arguments) == 1
    said = capsys.readouterr().err
    assert folder in said
    assert "cannot be written (No space left" in said or "cannot be written (Read-only" in said
    place.heal()
    assert [name for name in place.names() if "." in name] == ["older.json"]
    if folder != "data/input":  # too slow
        assert main(arguments) == 0


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("name", ["all", "all.parquet"])
def test_a_dataset_without_space_leaves_the_old_one(
    project: Path, disk, state: str, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    place = disk("elsewhere")
    assert main(["process", "old.json"]) == 0
    assert main(["gather", f"elsewhere/{name}"]) == 0
    old = {path: (place.folder / path).read_bytes() for path in place.names() if "." in path}
    assert main(["process", "new.json"]) == 0
    place.spoil(state, leaving=20_000)
    capsys.readouterr()
    assert main(["gather", f"elsewhere/{name}"]) == 1
    said = capsys.readouterr().err
    assert f"{place.folder}/{name}" in said
    assert "cannot be written (No space left" in said or "cannot be written (Read-only" in said
    assert "free space or permissions, then run again" in said
    place.heal()
    assert {path: (place.folder / path).read_bytes() for path in place.names() if "." in path} == old
    assert main(["gather", f"elsewhere/{name}"]) == 0


def test_a_cache_that_cannot_be_cleared_says_so(project: Path, disk, capsys: pytest.CaptureFixture[str]) -> None:
    place = disk("data/cache")
    assert main(["process", "old.json"]) == 0
    place.spoil("read-only")
    assert main(["cache", "clear"]) == 1
    assert "Read-only" in capsys.readouterr().err
    place.heal()
    assert main(["cache", "clear", "--all"]) == 0


# --- caches -----------------------------------------------------------------------------------------------------------


@pytest.mark.long
@pytest.mark.parametrize("state", STATES)
def test_an_unwritable_cache_is_a_warning(project: Path, disk, state: str, caplog: pytest.LogCaptureFixture) -> None:
    assert main(["process", "new.json"]) == 0
    expected = features(project)
    shutil.rmtree(project / "data")
    place = disk("data/cache")
    place.spoil(state)
    command = "materialize" if state == "full" else "process"  # the former writes thumbnails, too
    with caplog.at_level(logging.WARNING):
        assert main([command, "new.json"]) == 0
    assert features(project) == expected
    warnings = [record for record in caplog.records if record.name.startswith("curation_features")]
    assert sorted(record.name for record in warnings) == [
        "curation_features.clip.label_embeddings",
        "curation_features.storage.cache",
    ]
    place.heal()
    assert [name for name in place.names() if "." in name] == []
    assert main(["process", "new.json"]) == 0
    entries = [name for name in place.names() if name.startswith("features/")]
    assert len(entries) == 3 + 1  # photos, and the label embeddings
    assert features(project) == expected


# --- weights ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def weights(disk, monkeypatch: pytest.MonkeyPatch) -> Disk:
    """A disk for downloads and copies of weights."""
    place = disk("assets")
    monkeypatch.setattr(constants, "HF_ASSETS_CACHE", str(place.folder))
    return place


def test_a_download_continues_when_there_is_space(hub, weights: Disk) -> None:
    content = b"\x80\x02" + bytes(1_000_000)
    hub.plain["x.pt"] = content
    known = KnownFile("x", f"{hub.url}/files/x.pt", Path(), "x", hashlib.sha256(content).hexdigest())
    known.path.parent.mkdir(parents=True)
    weights.spoil("full", leaving=500_000)
    with pytest.raises(MissingWeightsError) as caught:
        fetch_known_file(known)
    for part in ("No space left", str(weights.folder), "free space there", "models pull"):
        assert part in str(caught.value)
    assert not known.path.exists()
    weights.heal()
    hub.requests.clear()
    fetch_known_file(known)
    assert known.path.read_bytes() == content
    assert [request.range is None for request in hub.gets("x.pt")] == [False]


def test_imported_weights_without_space_leave_nothing(
    project: Path, weights: Disk, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (project / "stick").mkdir()
    (project / "stick" / "RN50.pt").write_bytes(b"\x80\x02" + bytes(1_000_000))
    weights.spoil("full", leaving=500_000)
    assert main(["models", "pull", "--from", "stick"]) == 1
    said = capsys.readouterr().out
    [problem] = [line for line in said.splitlines() if "No space left" in line]
    assert str(weights.folder) in problem
    assert "free space" in said
    assert [name for name in weights.names() if "RN50" in name] == []


def test_a_weights_copy_without_space_is_a_warning(settings, weights: Disk, caplog: pytest.LogCaptureFixture) -> None:
    import torch

    tensors = {"a": torch.ones(100_000)}
    weights.spoil("full", leaving=100_000)
    assert Copies(settings).load("key", lambda: tensors, dict)["a"].equal(tensors["a"])
    assert "the next run reads the original again" in caplog.text
    assert [name for name in weights.names() if "." in name] == []
    weights.heal()
    Copies(settings).load("key", lambda: tensors, dict)
    assert [name.rpartition("/")[2] for name in weights.names() if "." in name] == ["key.safetensors", "key.sha256"]


# --- file descriptors -------------------------------------------------------------------------------------------------

WITHOUT_DESCRIPTORS = """
import json, os, resource, sys
from pathlib import Path
from curation_features.errors import CurationError
from curation_features.photos.decode import decode
from curation_features.photos.limits import DecodeLimits
from curation_features.photos.reader import PhotoReader
from curation_features.service import FeaturesService
from worlds import World

world = World(Path(sys.argv[1]))
batch = json.loads((world.root / "new.json").read_text())

def exhaust(left):
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
    held = []
    try:
        while True:
            held.append(os.open(os.devnull, os.O_RDONLY))
    except OSError:
        for descriptor in held[:left]:
            os.close(descriptor)

def process(left):
    service = FeaturesService(stages=world.stages(world.settings.replace(workers=4)))
    if left is not None:
        exhaust(left)
    return [artifact["features"] for artifact in service.process(batch)["artifacts"]]

def decoded(_):
    file = PhotoReader(world.settings).read(batch["artifacts"][0]["original_uri"])
    exhaust(0)
    return decode(file, DecodeLimits(10**6)).info.format

def outcome(what, left):
    reader, writer = os.pipe()
    if not os.fork():
        try:
            found = what(left)
        except CurationError as error:
            found = f"{type(error).__name__}: {error}"
        os.write(writer, json.dumps(found).encode())
        os._exit(0)
    os.wait()
    return json.loads(os.read(reader, 1 << 16))

outcomes = [outcome(process, left) for left in (0, 1, 1, 2, 3)]
print(json.dumps([outcome(decoded, 0), outcomes, outcome(process, None)]))
"""


@pytest.mark.long
def test_without_file_descriptors_no_photo_is_blamed(project: Path) -> None:
    decoded, outcomes, healed = json.loads(run_python("-c", WITHOUT_DESCRIPTORS, project))
    assert [features["status"] for features in healed] == ["ok"] * 3
    assert decoded.startswith("ResourceError:")
    assert outcomes[0].startswith("ResourceError: './photos/")
    assert "Too many open files" in outcomes[0]
    assert "ulimit -n" in outcomes[0]
    for outcome in outcomes:  # the run has failed, or was not harmed
        assert outcome == healed or outcome.startswith("ResourceError:")


# --- memory -----------------------------------------------------------------------------------------------------------


@pytest.mark.long
def test_the_pixels_of_a_long_batch_are_not_kept(world, monkeypatch: pytest.MonkeyPatch) -> None:
    """As many images at once for 120 photos as for 40."""
    alive: list[int] = []
    lock = threading.Lock()
    counted = Decoder.decode
    now = 0

    def tracked(decoder: Decoder, file: Any) -> Any:
        nonlocal now
        photo = counted(decoder, file)

        def gone() -> None:
            nonlocal now
            with lock:
                now -= 1

        with lock:
            now += 1
            alive.append(now)
        weakref.finalize(photo.rgb, gone)
        return photo

    monkeypatch.setattr(Decoder, "decode", tracked)
    settings = world.settings.replace(workers=2, batch_size=4)
    photo = world.photo("a.png", size=(32, 32))
    for count in (40, 120):
        artifacts = [{**photo, "photo_id": f"{count} {number}"} for number in range(count)]
        merged = FeaturesService(stages=world.stages(settings)).run(world.batch(artifacts))
        assert {record.failure for record in merged.records} == {None}
        assert {record.embedding.vector for record in merged.records} == {None}
    assert len(alive) == 160
    assert max(alive) <= 4 * settings.workers + settings.batch_size
