"""`batches list | show | rm` and `gc`: their output, and the files that they delete and keep."""

from __future__ import annotations

import io
import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any

import dagster as dg
import pyarrow.parquet as pq
import pytest
from libraries import OWN_OF_A, OWN_OF_B, SHARED, KilledError, Library, pixels, snapshot
from PIL import Image

from curation_features.cli import lifecycle, removals
from curation_features.inventory import UnreferencedFiles
from curation_features.manifest import parse_manifest, to_json
from curation_features.orchestration.partitions import DIMENSION
from curation_features.removal import collect
from curation_features.removal.files import DataFolder
from curation_features.schema import SIGNAL
from curation_features.storage.deletions import deletions, last_sequence, record_deletion
from curation_features.storage.tables import GROUP_COLUMNS, METADATA_KEY
from curation_features.verification import verify

pytestmark = pytest.mark.long

GONE = "holiday(?!-two)"
"""Matches the id of one batch, a prefix of the other's."""


def kills(library: Library, copy: Path, *arguments: str) -> Iterator[int]:
    """Kill a command before each file that it writes or deletes, each time with the same data; yields after a kill."""
    shutil.copytree(library.data, copy)
    for number in count():
        left = [number]

        def dying(action: Callable[..., Any], left: list[int] = left) -> Callable[..., Any]:
            def act(*arguments: Any, **options: Any) -> Any:
                if left[0] == 0:
                    raise KilledError
                left[0] -= 1
                return action(*arguments, **options)

            return act

        shutil.rmtree(library.data)
        shutil.copytree(copy, library.data)
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(Path, "replace", dying(Path.replace))
            patched.setattr(DataFolder, "delete", dying(DataFolder.delete))
            try:
                library.command(*arguments)
                return
            except KilledError:
                pass
        yield number


@contextmanager
def broken_dagster(library: Library) -> Iterator[None]:
    """Make Dagster's configuration invalid in the block."""
    configuration = library.data / "dagster/dagster.yaml"
    kept = configuration.read_text()
    configuration.write_text("storage: {sqlite: {base_dir: 7}}")
    yield
    configuration.write_text(kept)


def delete_manifests(library: Library, batch_id: str) -> None:
    for folder in ("batches", "manifests"):
        (library.data / folder / f"{batch_id}.json").unlink()


def ids_of_a(library: Library) -> list[str]:
    """The ids of the photos that only batch `holiday` has."""
    return [library.photo_id(seed) for seed in OWN_OF_A]


def files_of_other(library: Library) -> dict[str, bytes]:
    """The files of batch `holiday-two` and of its photos, with their content."""
    paths = [file["path"] for file in library.run_json("batches", "show", "holiday-two")["files"]]
    return {path: Path(path).read_bytes() for path in paths}


def is_unchanged(files: dict[str, bytes]) -> bool:
    return files == {path: Path(path).read_bytes() for path in files}


def latest_event(library: Library, batch_id: str) -> dict[str, Any]:
    event: dict[str, Any] = json.loads((library.data / f"events/latest/{batch_id}.json").read_bytes())
    return event


def observed_digest(instance: dg.DagsterInstance, batch_id: str) -> str:
    """Digest of the last manifest that Dagster observed."""
    wanted = dg.AssetRecordsFilter(dg.AssetKey("preprocess_batches"), asset_partitions=[batch_id])
    observed = instance.fetch_observations(wanted, limit=1).records[0].asset_observation
    return observed.tags["dagster/data_version"]


# --- list and show ---


def test_the_list_has_a_line_for_each_batch(library, monkeypatch) -> None:
    monkeypatch.setenv("COLUMNS", "82")  # nothing wraps
    library.ingest("nine-char", 7)
    assert library.command("batches", "list") == 0
    lines = [line.split() for line in library.output.splitlines()]
    assert lines[1] == ["nine-char", "ingested", "1", "-", "-", "-", lines[1][6], "kB", "not_accepted"]
    assert [line[0] for line in lines[2:4]] == ["holiday-two", "holiday"]  # the newest first
    assert (lines[-1][0], lines[-1][-2:]) == ("3", ["1", "stale"])
    assert library.command("batches", "list", "--last", "1") == 0
    assert "2 older ones" in library.output
    assert library.command("batches", "list", "--stale") == 0
    assert [line.split()[0] for line in library.output.splitlines()] == ["batch", "nine-char", "1"]


def test_files_by_kind_fit_a_narrow_terminal(library, monkeypatch) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    for command in (("batches", "rm", "holiday", "--dry-run"), ("gc", "--older-than", "0", "--dry-run")):
        assert library.command(*command) == 0
        lines = library.output.splitlines()
        assert max(map(len, lines[1:])) <= 60
        (copies,) = (line.split() for line in lines if line.startswith("copy "))
        kind = library.run_json(*command)["kinds"]["copy"]
        assert copies[:4] == ["copy", str(kind["files"]), f"{kind['bytes'] / 1e3:.1f}", "kB"]
        for folder in ("batches", "manifests", "features"):
            (library.data / folder / "holiday.json").unlink(missing_ok=True)


@pytest.mark.parametrize(
    ("arguments", "fields"),
    [
        (("batches", "list"), lifecycle.LIST_FIELDS),
        (("batches", "show", "holiday"), lifecycle.SHOW_FIELDS),
        (("batches", "rm", "holiday", "--dry-run"), removals.RM_FIELDS),
        (("gc", "--dry-run"), removals.GC_FIELDS),
    ],
)
def test_json_has_the_fields_that_help_names(library, arguments, fields) -> None:
    assert library.run_json(*arguments).keys() == fields.keys()


def test_an_empty_project_has_no_batches(tmp_path: Path, library) -> None:
    (tmp_path / "empty").mkdir()
    empty = ("--root", str(tmp_path / "empty"), "batches", "list")
    assert library.command(*empty) == 0
    assert library.output == f"no batches in {tmp_path}/empty/data; make one: curation-features run FOLDER\n"
    assert library.command(*empty, "--stale") == 0
    assert library.output == f"no stale batches in {tmp_path}/empty/data\n"
    assert library.run_json(*empty) == {"batches": [], "count": 0, "bytes": 0}


def test_show_lists_every_file(library) -> None:
    found = library.run_json("batches", "show", "holiday")
    paths = {Path(file["path"]).relative_to(library.data).as_posix(): file["bytes"] for file in found["files"]}
    assert all((library.data / name).stat().st_size == size for name, size in paths.items())
    others = {name for name in snapshot(library.data) if name not in paths}
    own = {library.photo_id(seed) for seed in OWN_OF_B}
    assert {name for name in others if "holiday-two" not in name and not any(i in name for i in own)} == {
        "cache/features/label_embeddings.pt",
        *(name for name in others if name.startswith(("cache/features", "cache/thumbnails", "input"))),
    }
    assert sum(name.startswith("cache/features/") for name in paths) == 3
    assert library.command("batches", "show", "holiday") == 0
    assert "finished, 3 photos: 3 ok" in library.output
    assert "data/features/holiday.parquet" in library.output


@pytest.mark.parametrize("command", [("show",), ("rm", "--yes")])
def test_an_unknown_batch(library, command) -> None:
    before = snapshot(library.root)
    similar = ["data/batches/holiday.json", "../holiday"]
    for name in (*similar, "b", "a\x1b[2J", "nowhere"):
        assert library.command("batches", *command, name) == 2
        assert "\x1b" not in library.output
        assert ("did you mean 'holiday'?" in library.output) == (name in similar)
    assert snapshot(library.root) == before


# --- rm BATCH ---


def test_a_deleted_batch_leaves_no_trace(library) -> None:
    kept = files_of_other(library)
    originals = snapshot(library.root / "photos")
    assert library.command("batches", "rm", "holiday", "--yes") == 0
    assert library.traces(GONE, *ids_of_a(library)) == []
    assert is_unchanged(kept)
    assert set(snapshot(library.data)) - {"cache/features/label_embeddings.pt"} == {
        Path(path).relative_to(library.data).as_posix() for path in kept
    }
    assert snapshot(library.root / "photos") == originals
    assert library.run_json("gc", "--older-than", "0", "--dry-run")["files"] == 0


def test_a_file_with_two_names_counts_once(library) -> None:
    library.ingest("c", 7, 8)
    names = [library.data / f"rankingInput/{library.photo_id(seed)}.jpg" for seed in (7, 8)]
    assert [path.stat().st_nlink for path in names] == [2, 2]
    copies = library.run_json("batches", "rm", "c", "--dry-run")["kinds"]["copy"]
    assert (copies["files"], copies["bytes"]) == (4, sum(path.stat().st_size for path in names))


def test_shared_photos_are_deleted_with_the_last_batch(library) -> None:
    fields = library.run_json("batches", "rm", "holiday", "holiday-two", "--yes")
    assert [(batch["batch_id"], batch["photos"], batch["shared"]) for batch in fields["batches"]] == [
        ("holiday", 3, 1),
        ("holiday-two", 2, 0),
    ]
    assert list(snapshot(library.data)) == ["cache/features/label_embeddings.pt"]


@pytest.mark.timeout(900)
def test_a_batch_is_deleted_with_its_partition(library) -> None:
    """Two batches made by real runs; an accepted manifest, a waiting one, and one in quarantine."""
    for batch_id in ("holiday", "holiday-two"):
        assert library.command("materialize", str(library.data / f"batches/{batch_id}.json")) == 0
    manifest = (library.data / "batches/holiday.json").read_text()
    library.project.tick({"taken": manifest})
    library.project.tick({"broken": '{"batch_id": "holiday", "artifacts": 5}', "waits": manifest})
    kept = files_of_other(library)
    own = ids_of_a(library)
    assert {name.split("/")[0] for name in library.traces(GONE, *own)} >= {
        "batches", "manifests", "incoming", "quarantine", "stages", "features", "events", "cache", "rankingInput",
    }  # fmt: skip
    fields = library.run_json("batches", "rm", "holiday", "--yes")
    assert [batch["partition"] for batch in fields["batches"]] == ["deleted"]
    assert library.traces(GONE, *own) == []
    assert is_unchanged(kept)
    with library.project.instance() as instance:
        assert instance.get_dynamic_partitions(DIMENSION) == ["holiday-two"]
    library.make("holiday", *OWN_OF_A, SHARED, command="materialize")  # it can be made again
    with library.project.instance() as instance:
        assert instance.get_dynamic_partitions(DIMENSION) == ["holiday-two", "holiday"]


@pytest.mark.parametrize("has_manifest", [True, False])
def test_a_deletion_that_is_killed_is_completed_by_the_next(library, tmp_path: Path, has_manifest: bool) -> None:
    """At every file. In between, the batch is still known, and the other batch complete.

    Without manifests only the tables name the photos, so that they must be deleted last.
    """
    if has_manifest:
        for folder in ("incoming", "quarantine"):
            (library.data / folder).mkdir()
            shutil.copy(library.data / "batches/holiday.json", library.data / folder / "x.json")
        (library.data / "quarantine/x.reason.json").write_text("{}")
    else:
        delete_manifests(library, "holiday")
    own = ids_of_a(library)
    kept, before = files_of_other(library), snapshot(library.data)
    for number in kills(library, tmp_path / "before", "batches", "rm", "holiday", "--yes"):
        assert not has_manifest or library.run_json("batches", "show", "holiday")["batch_id"] == "holiday"
        assert library.command("batches", "rm", "holiday", "--yes") == 0, library.output
        assert library.traces(GONE, *own) == [], number
        assert is_unchanged(kept)
    assert number >= len(before) - len(snapshot(library.data)) - 1  # also the files of the index


def test_a_batch_that_is_being_made_stays(library) -> None:
    before = snapshot(library.data)
    with library.store.exclusive("holiday"):
        fields = library.run_json("batches", "rm", "holiday", "--yes", code=1)
    assert fields["batches"] == []
    assert [failure["batch_id"] for failure in fields["failed"]] == ["holiday"]
    assert "another process works on batch" in fields["error"]["message"]
    assert snapshot(library.data) == before


@pytest.mark.parametrize("tags", [{"dagster/partition": "holiday"}, "range"])
def test_a_batch_with_a_run_in_progress_stays(library, tags) -> None:
    keys = ["first", "holiday", "last"]
    if tags == "range":
        tags = {"dagster/asset_partition_range_start": "first", "dagster/asset_partition_range_end": "last"}
    with library.project.instance() as instance:
        instance.add_dynamic_partitions(DIMENSION, keys)
        run = dg.DagsterRun("extract_features", status=dg.DagsterRunStatus.STARTED, tags=tags)
        instance.add_run(run)
    before = snapshot(library.data)
    assert library.command("batches", "rm", "holiday", "--yes") == 1
    assert run.run_id in library.output
    assert snapshot(library.data) == before
    assert library.command("batches", "rm", "holiday-two", "--yes") == 0


def test_without_dagster_the_partition_stays(library) -> None:
    with library.project.instance() as instance:
        instance.add_dynamic_partitions(DIMENSION, ["holiday", "gone"])
    with broken_dagster(library):
        assert library.run_json("batches", "rm", "holiday", "--yes", code=1)["batches"][0]["partition"] == "unknown"
    assert library.traces(GONE) == []
    assert library.run_json("batches", "rm", "holiday", "gone", "--yes")["batches"][0]["partition"] == "deleted"
    with library.project.instance() as instance:
        assert instance.get_dynamic_partitions(DIMENSION) == []


@pytest.mark.parametrize(("answer", "code"), [("y\n", 0), ("yes\n", 0), ("n\n", 1), ("", 1)])
def test_the_user_is_asked(library, monkeypatch, answer, code) -> None:
    terminal = io.StringIO(answer)
    monkeypatch.setattr(terminal, "isatty", lambda: True)
    monkeypatch.setattr(sys, "stdin", terminal)
    before = snapshot(library.data)
    assert library.command("batches", "rm", "holiday") == code
    assert "holiday (3 photos, " in library.output
    assert (snapshot(library.data) == before) == bool(code)


def test_wrong_usage_deletes_nothing(library) -> None:
    before = snapshot(library.data)
    for given in ("holiday", "", "holiday --photo x --yes", "holiday --batch b --yes"):
        assert library.command("batches", "rm", *given.split()) == 2, given
    for hours in ("-1", "x", "inf", "nan"):
        assert library.command("gc", f"--older-than={hours}") == 2, hours
    assert snapshot(library.data) == before


@pytest.mark.parametrize("arguments", [("batches", "rm", "holiday"), ("batches", "rm", "--photo", "{}"), ("gc",)])
def test_a_dry_run_deletes_nothing(library, arguments) -> None:
    delete_manifests(library, "holiday-two")
    shutil.rmtree(library.data / "features")
    before = snapshot(library.root, without=())
    given = [argument.format(library.photo_id(OWN_OF_A[0])) for argument in arguments]
    more = ["--older-than", "0"] if arguments == ("gc",) else []
    fields = library.run_json(*given, *more, "--dry-run")
    assert fields["dry_run"] is True
    assert sum(kind["files"] for kind in fields["kinds"].values()) > 2
    assert snapshot(library.root, without=()) == before


def test_files_outside_the_data_folder_stay(library) -> None:
    drop = library.root / "drop"
    drop.mkdir()
    shutil.copy(library.data / "batches/holiday.json", drop / "x.json")
    (library.root / "config").mkdir()
    (library.root / "config/settings.toml").write_text('incoming_dirs = ["drop"]\n')
    fields = library.run_json("batches", "rm", "holiday", "--yes")
    assert fields["batches"][0]["kept"] == [str(drop / "x.json")]
    assert (drop / "x.json").exists()


def test_companions_stay_like_the_original(library) -> None:
    folder = library.data / "input" / "trip"
    folder.mkdir(parents=True)
    Image.new("RGB", (40, 30)).save(folder / "a.png")
    for name in ("a.dng", "a.xmp", "a.mov"):
        (folder / name).touch()
    originals = snapshot(folder)
    assert library.command("ingest", str(folder)) == 0
    [artifact] = json.loads((library.data / "batches/trip.json").read_bytes())["artifacts"]
    assert len(artifact["companions"]) == 3
    assert library.command("batches", "rm", "--photo", artifact["photo_id"], "--yes") == 0
    assert "a.xmp" not in (library.data / "batches/trip.json").read_text()
    assert library.command("gc", "--older-than", "0") == 0
    assert snapshot(folder) == originals


def test_a_manifest_cannot_name_other_files_to_be_deleted(library) -> None:
    """Copies are only files in the folder of copies that are not originals."""
    secret = library.root / "secret.jpg"
    secret.write_text("mine")
    original = library.data / "rankingInput/original.jpg"
    original.write_text("mine, too")
    uris = [
        str(secret), "./secret.jpg", "./data/rankingInput/../../secret.jpg", f"file://{secret}",
        "./data/rankingInput/original.jpg", "./data/features/holiday-two.json", "\0",
        "./data/rankingInput/../features/holiday-two.html",
        "s3://bucket/data/rankingInput/x.jpg", "./data/rankingInput", "",
    ]  # fmt: skip
    artifacts = [{"photo_id": f"{n}", "std_uri": uri, "original_uri": uri} for n, uri in enumerate(uris)]
    artifacts += [{"photo_id": "/../../secret.jpg", "ranking_uri": uri} for uri in uris[:4]]
    (library.data / "batches/evil.json").write_text(json.dumps({"batch_id": "evil", "artifacts": artifacts}))
    before = snapshot(library.root)
    assert library.command("batches", "rm", "evil", "--yes") == 0
    del before["data/batches/evil.json"]
    after = snapshot(library.root)
    assert {name for name in before if "/locks/" not in name and name not in after} == set()


def test_nothing_is_deleted_through_a_link(library, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    (library.data / "rankingInput").rename(outside)
    (library.data / "rankingInput").symlink_to(outside)
    before = snapshot(library.data), snapshot(outside)
    assert library.command("batches", "rm", "holiday", "--yes") == 1
    assert "symbolic link" in library.output
    assert (snapshot(library.data), snapshot(outside)) == before
    (library.data / "rankingInput").unlink()
    outside.rename(library.data / "rankingInput")
    kept = tmp_path / "kept.parquet"
    (library.data / "features/holiday.parquet").rename(kept)
    (library.data / "features/holiday.parquet").symlink_to(kept)
    assert library.command("batches", "rm", "holiday", "--yes") == 0
    assert kept.exists()  # the link itself is gone
    assert not (library.data / "features/holiday.parquet").is_symlink()


def test_the_data_folder_may_be_a_link(library, tmp_path: Path) -> None:
    library.data.rename(tmp_path / "disk")
    library.data.symlink_to(tmp_path / "disk")
    assert library.command("batches", "rm", "holiday", "holiday-two", "--yes") == 0
    assert list(snapshot(library.data)) == ["cache/features/label_embeddings.pt"]


def test_ids_and_paths_cannot_control_the_terminal(library) -> None:
    evil = "\x1b]0;owned\x07[red]\u202e"
    (library.data / f"rankingInput/{evil}.jpg").write_text("copy")
    artifact = {"photo_id": evil, "original_uri": f"./photos/{evil}.png", "std_uri": f"./data/rankingInput/{evil}.jpg"}
    manifest = {"batch_id": "evil", "artifacts": [artifact]}
    (library.data / "batches/evil.json").write_text(json.dumps(manifest))
    for command in (["list"], ["show", "evil"], ["rm", "evil", "--dry-run"], ["rm", "--photo", evil, "--yes"]):
        assert library.command("batches", *command) == 0
        assert not {"\x1b", "\x07", "\u202e"} & {*library.output}
    for photo_id in (evil, "\udcff", ""):
        assert library.command("batches", "rm", "--photo", photo_id, "--yes") == 2
        assert "\x1b" not in library.output


# --- the log ---


def test_each_deletion_has_a_line_in_the_log(library) -> None:
    photo_id = library.photo_id(SHARED)
    (event,) = (library.data / "events/features.completed").glob("holiday-????????????.json")
    content = json.loads(event.read_text())
    content["data"]["sequence"] = 7
    for path in (event, library.data / "events/latest/holiday.json"):
        path.write_bytes(to_json(content))
    assert library.command("batches", "rm", "--photo", photo_id, "--yes") == 0
    assert library.command("batches", "rm", "holiday", "--yes") == 0
    assert library.command("batches", "rm", "holiday-two", "--yes") == 0
    first, second, third = deletions(library.data)
    assert (first["photo_id"], first["batches"]) == (photo_id, ["holiday", "holiday-two"])
    assert {key: second[key] for key in ("batch_id", "photos", "sequence")} == {
        "batch_id": "holiday", "photos": 2, "sequence": 8,
    }  # fmt: skip
    assert third["sequence"] == 2  # each batch announced that it lost the photo
    assert last_sequence(library.data, "holiday") == 8
    assert last_sequence(library.data, "holiday-two") == 2
    assert last_sequence(library.data, "never") is None


def test_a_batch_made_again_continues_its_sequence(library) -> None:
    assert library.command("batches", "rm", "holiday", "--yes") == 0
    library.make("holiday", *OWN_OF_A, SHARED)
    again = latest_event(library, "holiday")
    assert (again["data"]["sequence"], again["data"]["supersedes"]) == (2, None)
    assert library.command("batches", "rm", "--photo", library.photo_id(1), "--yes") == 0
    shorter = latest_event(library, "holiday")
    assert (shorter["data"]["sequence"], shorter["data"]["supersedes"]) == (3, again["id"])


def test_the_sequence_survives_a_batch_without_events(library) -> None:
    record_deletion(library.data, batch_id="holiday", photos=3, sequence=9)
    shutil.rmtree(library.data / "events")
    assert library.command("batches", "rm", "holiday", "--yes") == 0
    assert [line["sequence"] for line in deletions(library.data)] == [9, 9]


def test_a_cut_line_damages_no_other(tmp_path: Path) -> None:
    record_deletion(tmp_path, batch_id="holiday", sequence=1)
    with (tmp_path / "deleted.jsonl").open("a") as log:
        log.write('{"batch_id": "b", "sequ')
    record_deletion(tmp_path, batch_id="c", sequence=3)
    assert [line["batch_id"] for line in deletions(tmp_path)] == ["holiday", "c"]


def test_lines_of_many_writers_stay_whole(tmp_path: Path) -> None:
    with ThreadPoolExecutor(4) as writers:
        for number in range(80):
            writers.submit(record_deletion, tmp_path, batch_id=f"{number}" * 50)
    assert len(list(deletions(tmp_path))) == 80


# --- rm --photo ---


@pytest.mark.parametrize("known", [False, True])
def test_dagster_registers_only_the_shorter_batch(library, known) -> None:
    """`process` has left adoptions for Dagster of features with the photo."""
    if known:
        with library.project.instance() as instance:
            instance.add_dynamic_partitions(DIMENSION, ["holiday"])
    assert library.command("batches", "rm", "--photo", library.photo_id(1), "--yes") == 0
    assert library.traces(library.photo_id(1)) == []
    shutil.rmtree(library.data / "batches")
    library.project.tick({})
    with library.project.instance() as instance:
        assert sorted(instance.get_dynamic_partitions(DIMENSION)) == ["holiday", "holiday-two"]
        assert observed_digest(instance, "holiday") == library.store.manifest("holiday").digest
        wanted = dg.AssetRecordsFilter(dg.AssetKey("features"), asset_partitions=["holiday", "holiday-two"])
        reported = [record.partition_key for record in instance.fetch_materializations(wanted, limit=9).records]
    assert reported == ["holiday-two"]


def test_an_unavailable_dagster_is_notified_later(library) -> None:
    with library.project.instance() as instance:
        instance.add_dynamic_partitions(DIMENSION, ["holiday"])
    (library.data / "adoptions/holiday.json").unlink()  # the batch is registered already
    with broken_dagster(library):
        assert library.command("batches", "rm", "--photo", library.photo_id(1), "--yes") == 0
    library.project.tick({})
    with library.project.instance() as instance:
        assert observed_digest(instance, "holiday") == library.store.manifest("holiday").digest


def table(library: Library, batch_id: str, folder: str = "features") -> list[dict[str, Any]]:
    return pq.read_table(library.data / folder / f"{batch_id}.parquet").to_pylist()


def test_a_deleted_photo_leaves_the_others_their_exact_values(library) -> None:
    gone = library.photo_id(1)
    document, rows = library.features("holiday"), table(library, "holiday")
    vectors = table(library, "holiday", "features/embeddings")
    others = files_of_other(library)
    assert library.command("batches", "rm", "--photo", gone, "--yes") == 0
    kept = [artifact for artifact in document["artifacts"] if artifact["photo_id"] != gone]
    assert library.features("holiday") == {**document, "artifacts": kept}
    kept_rows = [row for row in rows if row["photo_id"] != gone]
    assert table(library, "holiday") == [{**row, "position": position} for position, row in enumerate(kept_rows)]
    assert table(library, "holiday", "features/embeddings") == [row for row in vectors if row["photo_id"] != gone]
    assert len(kept) == len(kept_rows) == 2
    schema = pq.read_schema(library.data / "features/embeddings/holiday.parquet").metadata[b"curation_features"]
    assert json.loads(schema)["dimension"] == len(vectors[0]["embedding"])
    assert library.traces(gone) == []
    assert (library.root / "photos").is_dir()
    assert len(list((library.root / "photos").rglob("1.png"))) == 1
    assert is_unchanged(others)


def test_a_photo_leaves_a_batch_of_an_earlier_release(library) -> None:
    """Its files have no signals, flags, norms and groups, which stay unknown."""
    document, gone = library.features("holiday"), library.photo_id(1)
    for artifact in document["artifacts"]:
        features = artifact["features"]
        for name in ("embedding_norm", "signals", "flags", "group"):
            del features[name]
        del features["version"]["signals"], features["version"]["groups"]
    (library.data / "features/holiday.json").write_bytes(to_json(document))
    folders = ("features", "features/embeddings", "stages/image_embeddings")
    added = {"embedding_norm", "version_signals", "flags", "hints", "flag_reasons", *SIGNAL}
    added |= {"version_groups", *GROUP_COLUMNS}
    for path in (library.data / folder / "holiday.parquet" for folder in folders):
        frame = pq.read_table(path)
        metadata = {**frame.schema.metadata}
        metadata[METADATA_KEY] = (
            metadata[METADATA_KEY].replace(b'"signals"', b'"later"').replace(b'"groups"', b'"newer"')
        )
        frame = frame.drop_columns([name for name in frame.column_names if name in added])
        pq.write_table(frame.replace_schema_metadata(metadata), path)
    assert library.command("batches", "rm", "--photo", gone, "--yes") == 0  # the rest is verified and announced
    kept = [artifact for artifact in document["artifacts"] if artifact["photo_id"] != gone]
    for old, new in zip(kept, library.features("holiday")["artifacts"], strict=True):
        assert {*new["features"].pop("signals").values()} == {None}
        assert (new["features"].pop("flags"), new["features"].pop("embedding_norm")) == ([], None)
        assert new["features"].pop("group") is None
        del new["features"]["version"]["signals"], new["features"]["version"]["groups"]
        assert new == old
    for folder in folders[:2]:
        assert [row["embedding_norm"] for row in table(library, "holiday", folder)] == [None, None]
    assert all(row["embedding"] for row in table(library, "holiday", "features/embeddings"))
    assert "embedding_norm" not in table(library, "holiday", folders[2])[0]


def test_a_deleted_photo_changes_its_group_only(library) -> None:
    """Of three equal files two stay a group, and the group of two others stays as it is."""
    for seed in (5, 6):
        Image.fromarray(pixels(seed)).save(library.root / f"{seed}.png")
    names = ("5-a", "6-a", "5-b", "6-b", "5-c")
    artifacts = [{"photo_id": name, "original_uri": f"{name[0]}.png"} for name in names]
    (library.root / "equal.json").write_bytes(to_json({"batch_id": "equal", "artifacts": artifacts}))
    assert library.command("process", str(library.root / "equal.json")) == 0, library.output

    def groups() -> dict[str, Any]:
        found = {item["photo_id"]: item["features"]["group"] for item in library.features("equal")["artifacts"]}
        assert {row["photo_id"]: row["group_id"] for row in table(library, "equal")} == {
            name: group and group["id"] for name, group in found.items()
        }
        return found

    before = groups()
    best = next(name for name in names if name[0] == "5" and before[name]["copy_of"] is None)
    assert library.command("batches", "rm", "--photo", best, "--yes") == 0, library.output  # verified, too
    after = groups()
    left = [after[name] for name in names if name[0] == "5" and name != best]
    assert [(group["size"], group["id"] == left[0]["id"]) for group in left] == [(2, True)] * 2
    assert best not in {group["copy_of"] for group in left}
    assert {name: after[name] for name in ("6-a", "6-b")} == {name: before[name] for name in ("6-a", "6-b")}
    assert library.command("batches", "rm", "--photo", "6-a", "--yes") == 0
    assert {name: group for name, group in groups().items() if name[0] == "6"} == {"6-b": None}


def test_a_batch_without_a_photo_is_announced_and_verified(library) -> None:
    sent = library.data / "events/features.completed"
    before, before_it = set(sent.iterdir()), latest_event(library, "holiday")
    assert library.command("batches", "rm", "--photo", library.photo_id(1), "--yes") == 0
    (path,) = set(sent.iterdir()) - before
    event = json.loads(path.read_bytes())
    assert event == latest_event(library, "holiday")
    assert (event["data"]["sequence"], event["data"]["supersedes"]) == (2, before_it["id"])
    batch = library.store
    paths = (*batch.feature_paths("holiday"), batch.embeddings_path("holiday"))
    manifest = parse_manifest((library.data / "batches/holiday.json").read_bytes())
    assert event["data"]["manifest"] == manifest.digest
    assert event["data"]["statuses"] == {"ok": 2, "degraded": 0, "failed": 0}
    assert not any(verify(manifest, *paths).values())
    assert (library.data / "features/holiday.html").read_bytes().count(b"1.png") == 0


@pytest.mark.timeout(900)
def test_a_photo_is_deleted_through_dagster(library) -> None:
    """From every batch that has it; nothing is computed, and the next run uses the cache."""
    for batch_id in ("holiday", "holiday-two"):
        assert library.command("materialize", str(library.data / f"batches/{batch_id}.json")) == 0
    manifest = json.loads((library.data / "batches/holiday.json").read_bytes())
    for name in ("incoming", "quarantine"):
        (library.data / name).mkdir(exist_ok=True)
    event = {"specversion": "1.0", "type": "preprocess.completed", "id": "1", "data": manifest}
    (library.data / "incoming/waits.json").write_text(json.dumps(event))
    (library.data / "quarantine/bad.json").write_text(json.dumps(manifest)[:-5])
    (library.data / "quarantine/bad.reason.json").write_text("{}")
    gone = library.photo_id(SHARED)
    stages = {name: table(library, "holiday", f"stages/{name}") for name in ("technical_metrics", "clip_labels")}
    assert library.command("batches", "rm", "--photo", gone, "--yes") == 0
    assert library.traces(gone) == []
    for name, rows in stages.items():
        assert table(library, "holiday", f"stages/{name}") == [row for row in rows if row["photo_id"] != gone]
    waiting = json.loads((library.data / "incoming/waits.json").read_bytes())
    assert waiting == {**event, "data": {**manifest, "artifacts": manifest["artifacts"][:2]}}
    for batch_id in ("holiday", "holiday-two"):
        assert library.store.stage_metadata("technical_metrics", library.store.manifest(batch_id))
    with library.project.instance() as instance:
        assert observed_digest(instance, "holiday") == library.store.manifest("holiday").digest
    shown = library.run_json("batches", "show", "holiday")
    assert (shown["photos"], shown["stale"]) == (2, [])
    before = library.features("holiday")
    assert library.run_json("materialize", str(library.store.manifest_path("holiday")))["cached"] == 2
    assert library.features("holiday") == before


def test_a_photo_can_be_deleted_from_one_batch(library) -> None:
    shared = library.photo_id(SHARED)
    others = files_of_other(library)
    fields = library.run_json("batches", "rm", "--photo", shared, "--batch", "holiday", "--yes")
    assert fields["photo"] == {"photo_id": shared, "batches": ["holiday"], "others": ["holiday-two"], "kept": []}
    assert is_unchanged(others)
    expected = ("cache/", "index/")  # of the other batch
    assert all("holiday-two" in name or shared in name or name.startswith(expected) for name in library.traces(shared))
    assert library.command("batches", "rm", "--photo", shared, "--batch", "holiday", "--yes") == 2
    assert "has no photo" in library.output


def test_unfinished_features_are_deleted_with_a_photo(library) -> None:
    """Tables without their JSON file, as after a killed run."""
    (library.data / "features/holiday.json").unlink()
    assert library.command("batches", "rm", "--photo", library.photo_id(1), "--yes") == 0
    assert library.traces(library.photo_id(1)) == []
    (library.data / "batches/holiday.json").unlink()
    assert not list((library.data / "features").rglob("holiday.*"))


def test_without_its_last_photo_a_batch_is_empty(library) -> None:
    for seed in (*OWN_OF_A, SHARED):
        assert library.command("batches", "rm", "--photo", library.photo_id(seed), "--yes") == 0
    assert library.features("holiday")["artifacts"] == []
    assert table(library, "holiday") == []
    entries = {entry["batch_id"]: entry["photos"] for entry in library.run_json("batches", "list")["batches"]}
    assert entries == {"holiday": 0, "holiday-two": 1}


def test_a_removal_of_a_photo_that_is_killed_is_completed(library, tmp_path: Path) -> None:
    """Of batches with and without manifests."""
    delete_manifests(library, "holiday-two")
    gone, results = library.photo_id(SHARED), []
    for number in kills(library, tmp_path / "before", "batches", "rm", "--photo", gone, "--yes"):
        assert library.command("batches", "rm", "--photo", gone, "--yes") in (0, 2)
        assert library.traces(gone) == [], number
        results.append(snapshot(library.data))
    assert len(results) > 12
    assert [result == snapshot(library.data) for result in results] == [True] * len(results)


def test_a_copy_that_another_photo_uses_now_stays(library) -> None:
    """The log of an earlier deletion of the same photo names it."""
    gone = library.photo_id(1)
    copy = library.data / f"rankingInput/{gone}_1024.jpg"
    assert library.command("batches", "rm", "--photo", gone, "--yes") == 0
    assert not copy.exists()
    library.ingest("c", 1)
    artifact = {"photo_id": "other", "std_uri": f"./data/rankingInput/{copy.name}"}
    (library.data / "batches/d.json").write_text(json.dumps({"batch_id": "d", "artifacts": [artifact]}))
    assert library.command("batches", "rm", "--photo", gone, "--yes") == 0
    assert copy.exists()
    assert not copy.with_name(f"{gone}.jpg").exists()


def test_a_photo_of_a_batch_that_is_being_made_stays(library) -> None:
    gone = library.photo_id(SHARED)
    with library.store.exclusive("holiday-two"):
        assert library.command("batches", "rm", "--photo", gone, "--yes") == 1
    assert "another process works on batch" in library.output
    assert f"rankingInput/{gone}.jpg" in library.traces(gone)  # the other batch still has it
    assert library.command("batches", "rm", "--photo", gone, "--yes") == 0
    assert library.traces(gone) == []


def test_values_that_are_missing_stay_missing(library) -> None:
    """A failed photo, and a flat one that has labels and no noise: nulls in the table, defaults and reasons in JSON."""
    manifest = library.ingest("c", 7, 8, 9)
    document = json.loads(manifest.read_bytes())
    failed, flat, _ = (library.root / artifact["std_uri"] for artifact in document["artifacts"])
    failed.unlink()
    Image.new("RGB", (64, 48), (90, 120, 60)).save(flat)
    assert library.command("process", str(manifest)) == 0
    rows, features = table(library, "c"), library.features("c")
    assert [row["status"] for row in rows] == ["failed", "degraded", "ok"]
    assert rows[1]["label"] is not None
    assert library.command("batches", "rm", "--photo", library.photo_id(9), "--yes") == 0
    assert table(library, "c") == rows[:2]
    assert library.features("c")["artifacts"] == features["artifacts"][:2]


# --- gc ---


def test_gc_deletes_only_unreferenced_files(library) -> None:
    kept = files_of_other(library)
    for name in ("batches/holiday.json", "manifests/holiday.json", "features/holiday.json"):
        (library.data / name).unlink()
    (library.data / "events/latest/holiday.json").write_text('{"subject": "holiday", "data": {"sequence": 4}}')
    leftover = library.data / "features/.a.json.00000000.1.0123abcd.tmp"
    leftover.write_text("half")
    os.utime(leftover, (0, 0))  # of another machine, and old
    fields = library.run_json("gc", "--older-than", "0")
    assert {kind: found["files"] for kind, found in fields["kinds"].items()} == {
        "copy": 4, "cache": 4, "thumbnail": 2, "table": 1, "page": 1, "embeddings": 1, "technical_metrics": 1,
        "image_embeddings": 1, "clip_labels": 1, "adoption": 1, "latest_event": 1, "leftover": 1,
    }  # fmt: skip
    assert is_unchanged(kept)
    assert library.traces(*ids_of_a(library)) == []
    assert [name.rpartition("/")[0] for name in library.traces(GONE)] == ["events/features.completed"]
    assert last_sequence(library.data, "holiday") == 4
    assert library.run_json("gc", "--older-than", "0")["files"] == 0


def test_gc_keeps_young_files(library) -> None:
    for folder in ("features", "batches", "manifests"):
        shutil.rmtree(library.data / folder)
    assert library.run_json("gc")["files"] == 0
    copies = list((library.data / "rankingInput").iterdir())
    for path in copies:
        os.utime(path, (0, 0))  # as after a copy of a folder; the ctime is new
    assert library.run_json("gc")["files"] == 0
    assert library.run_json("gc", "--older-than", "0")["kinds"]["copy"]["files"] == len(copies)


def test_an_ingest_that_uses_an_old_copy_makes_it_young(library) -> None:
    (library.data / "batches/holiday.json").unlink()
    copies = sorted((library.data / "rankingInput").iterdir())
    for path in copies:
        os.utime(path, (0, 0))
    library.ingest("holiday", *OWN_OF_A, SHARED)
    assert sum(path.stat().st_mtime > 0 for path in copies) == 6


def test_gc_keeps_files_of_a_batch_that_is_being_made(library) -> None:
    for folder in ("batches", "manifests", "features"):
        (library.data / folder / "holiday.json").unlink()
    with library.store.exclusive("holiday"):
        assert "table" not in library.run_json("gc", "--older-than", "0")["kinds"]
    assert library.run_json("gc", "--older-than", "0")["kinds"]["table"]["files"] == 1


def test_gc_keeps_a_batch_that_came_back(library) -> None:
    manifests = [library.data / folder / "holiday.json" for folder in ("batches", "manifests")]
    kept = [path.rename(library.root / f"kept-{path.parent.name}.json") for path in manifests]
    (library.data / "features/holiday.json").unlink()
    found = UnreferencedFiles(library.settings, 0).find()
    for path, manifest in zip(kept, manifests, strict=True):
        path.rename(manifest)
    gone = {file.kind for file in collect(library.settings, found, 0)}
    left = {file.kind for file in found} - gone
    assert {"table", "embeddings", "page", "technical_metrics", "latest_event", "adoption"} <= left
    assert all(file.path.exists() for file in found if file.path.stem == "holiday")


def test_gc_stops_at_a_manifest_that_cannot_be_read(library) -> None:
    (library.data / "batches/holiday.json").write_text("{")
    before = snapshot(library.data)
    assert library.command("gc", "--older-than", "0") == 1
    assert "batches/holiday.json" in library.output
    assert snapshot(library.data) == before
    assert library.command("batches", "rm", "holiday-two", "--yes") == 1  # it may share photos
    assert snapshot(library.data) == before
    assert library.command("batches", "rm", "holiday", "--yes") == 0  # it can be deleted itself
    assert library.traces(GONE, *ids_of_a(library)) == []
