"""The inventory of the data folder: batches, their files, staleness, unreferenced files."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from hypothesis import given as given_any
from hypothesis import settings as examples
from hypothesis import strategies as st
from libraries import KilledError, Library

from curation_features.errors import MissingWeightsError, StoreError
from curation_features.inventory import batch_files, list_batches, show_batch
from curation_features.inventory.unreferenced import UnreferencedFiles
from curation_features.manifest import batch_from
from curation_features.schema import PhotoInfo, PhotoRecord
from curation_features.settings import Settings, load_settings
from curation_features.storage import places
from curation_features.storage.artifacts import ArtifactStore
from curation_features.storage.cache import FeatureCache
from curation_features.storage.tables import METADATA_KEY, read_metadata
from curation_features.weights import LazyModel


def reasons(library: Library, batch_id: str = "holiday", given: Settings | None = None) -> list[str]:
    """The reasons why a batch is stale; the list and the single batch must agree."""
    given = given or library.settings
    (listed,) = (entry for entry in list_batches(given) if entry.batch_id == batch_id)
    shown, _ = show_batch(given, batch_id)
    assert listed == replace(shown, stale=listed.stale)
    assert [stale.reason for stale in listed.stale] == [stale.reason for stale in shown.stale]
    return [stale.reason for stale in shown.stale]


def killed(*_: object, **__: object) -> None:
    raise KilledError


def later(path: Path) -> None:
    """Make a file newer than all others, at any clock resolution."""
    found = path.stat()
    os.utime(path, ns=(found.st_atime_ns, found.st_mtime_ns + 10**9))


def accept(library: Library, batch_id: str, *seeds: int) -> None:
    """Accept a manifest that is newer than all other files."""
    document = json.loads(library.ingest(batch_id, *seeds).read_bytes())
    library.store.put_manifest(batch_from(document))
    later(library.store.manifest_path(batch_id))


# --- the list ---


def test_the_list_has_the_state_of_each_batch(library) -> None:
    library.ingest("c", 7)
    accept(library, "d", 8)
    found = {entry.batch_id: entry for entry in list_batches(library.settings)}
    assert {batch_id: entry.state for batch_id, entry in found.items()} == {
        "holiday": "finished", "holiday-two": "finished", "c": "ingested", "d": "accepted",
    }  # fmt: skip
    photos = {batch_id: entry.photos for batch_id, entry in found.items()}
    assert photos == {"holiday": 3, "holiday-two": 2, "c": 1, "d": 1}
    assert found["holiday"].statuses == {"ok": 3, "degraded": 0, "failed": 0}
    assert found["c"].statuses is None
    assert found["holiday"].finished.timestamp() == pytest.approx(
        (library.data / "features/holiday.json").stat().st_mtime, abs=1e-3
    )
    folders = ("batches", "manifests", "stages", "features")
    files = [path for folder in folders for path in (library.data / folder).rglob("holiday.*")]
    assert len(files) == 9
    assert found["holiday"].bytes == sum(path.stat().st_size for path in files)


def test_without_events_the_table_gives_the_same(library) -> None:
    with_events = list(list_batches(library.settings))
    shutil.rmtree(library.data / "events")
    assert list(list_batches(library.settings)) == with_events


def test_the_last_event_is_taken_from_its_copy(library, monkeypatch) -> None:
    """Neither the journal nor a manifest is read."""
    read: list[str] = []

    def listened(path: Path) -> bytes:
        read.append(path.relative_to(library.data).as_posix())
        return path.read_bytes()

    monkeypatch.setattr("curation_features.storage.places.read_regular", listened)
    found = list(list_batches(library.settings))
    assert [entry.photos for entry in found] == [3, 2]
    assert read == ["events/latest/holiday.json", "events/latest/holiday-two.json"]


def test_a_manifest_that_cannot_be_read_costs_its_batch_only(library) -> None:
    (library.data / "manifests/broken.json").write_text("{")
    found = {entry.batch_id: entry for entry in list_batches(library.settings)}
    assert found["broken"].photos is None
    assert found["broken"].state == "accepted"
    assert len(found) == 3


def test_what_a_killed_deletion_left_can_be_shown(library) -> None:
    """Tables are left, but neither a manifest nor features."""
    for folder in ("batches", "manifests", "features"):
        (library.data / folder / "holiday.json").unlink()
    entry, files = show_batch(library.settings, "holiday")
    assert (entry.photos, entry.statuses) == (None, None)
    assert {file.kind for file in files} >= {"table", "embeddings"}


# --- staleness ---


@pytest.mark.parametrize(("batch_id", "reason"), [("d", "never_finished"), ("holiday", "newer_manifest")])
def test_a_batch_that_process_accepted_and_left(library, monkeypatch, batch_id, reason) -> None:
    monkeypatch.setattr("curation_features.processing.process_batch", killed)
    with pytest.raises(KilledError):
        library.command("process", str(library.ingest(batch_id, 8)))
    later(library.store.manifest_path(batch_id))
    assert reasons(library, batch_id) == [reason]


def test_features_without_an_event_are_read_from_the_table(library, monkeypatch) -> None:
    """The run was killed before the announcement: the latest event is of the previous features."""
    monkeypatch.setattr("curation_features.events.outbox.Outbox.announce", killed)
    with pytest.raises(KilledError):
        library.command("process", str(library.ingest("holiday", 1)))
    later(library.data / "features/holiday.json")
    assert reasons(library) == []
    (entry, _) = list_batches(library.settings)
    assert entry.statuses == {"ok": 1, "degraded": 0, "failed": 0}


def test_an_accepted_manifest_is_compared_with_the_features(library) -> None:
    for _ in range(2):
        accept(library, "holiday", 1, 2)
        assert reasons(library) == ["newer_manifest"]
        accept(library, "holiday", 1, 2, 3)  # the origin of the features
        assert reasons(library) == []
        shutil.rmtree(library.data / "events", ignore_errors=True)  # then artifacts are compared


def test_a_batch_that_was_ingested_again(library) -> None:
    library.ingest("holiday", 1, 2)
    later(library.data / "batches/holiday.json")
    assert reasons(library) == ["not_accepted"]
    library.ingest("c", 7)
    assert reasons(library, "c") == ["not_accepted"]


@pytest.mark.parametrize("name", ["holiday.parquet", "embeddings/holiday.parquet", "holiday.html"])
def test_a_file_that_is_missing(library, name) -> None:
    (library.data / "features" / name).unlink()
    assert reasons(library) == ["files_missing"]
    without_page = reasons(library, given=library.settings.replace(contact_sheet=False))
    assert without_page == ([] if name == "holiday.html" else ["files_missing"])


def test_other_constants_labels_and_models(library) -> None:
    assert reasons(library) == []
    assert reasons(library, given=library.settings.replace(noise_sigma_max=0.1)) == ["technical"]
    assert reasons(library, given=library.settings.replace(limit_dark=9.0)) == ["signals"]
    (library.root / "config").mkdir()
    (library.root / "config/labels.json").write_text(json.dumps({"labels": ["cat", "dog", "owl", "fox", "bee"]}))
    assert reasons(library) == ["labels"]
    models = library.project.models
    library.project.models = replace(models, clip=LazyModel.ready(models.clip.get(), "another"))
    assert reasons(library) == ["model"]


def test_after_a_changed_limit_only_flags_are_computed(library, monkeypatch) -> None:
    before = [artifact["features"] for artifact in library.features("holiday")["artifacts"]]
    monkeypatch.setenv("CURATION_FEATURES_LIMIT_DARK", "0.001")
    listed = library.run_json("batches", "list", "--stale")["batches"]
    reason = "a signal, or a limit of the flags, has changed, or is new"
    assert {entry["batch_id"]: entry["stale"] for entry in listed} == {
        batch_id: [{"reason": "signals", "message": reason}] for batch_id in ("holiday", "holiday-two")
    }
    monkeypatch.setattr("curation_features.photos.processes.isolation.Decoder.decode", killed)
    result = library.run_json("process", "holiday")
    assert (result["photos"], result["cached"]) == (3, 3)
    after = [artifact["features"] for artifact in library.features("holiday")["artifacts"]]
    assert reasons(library, given=library.settings.replace(limit_dark=0.001)) == []
    for old, new in zip(before, after, strict=True):
        changed = {name for name in old if old[name] != new[name]}
        assert changed == {"version"}  # photos under 96 px have no flags
        assert {name for name in old["version"] if old["version"][name] != new["version"][name]} == {"signals"}


def test_features_of_an_earlier_release_lack_signals(library) -> None:
    """Both without and with an event."""
    table = library.data / "features/holiday.parquet"
    metadata = read_metadata(table)
    del metadata["version"]["signals"]
    stored = pq.read_table(table)
    pq.write_table(stored.replace_schema_metadata({METADATA_KEY: json.dumps(metadata).encode()}), table)
    path = library.data / "events/latest/holiday.json"
    event = json.loads(path.read_bytes())
    del event["data"]["version"]["signals"]
    path.write_text(json.dumps(event))
    assert reasons(library) == ["signals"]
    shutil.rmtree(library.data / "events")
    assert reasons(library) == ["signals"]


def test_without_weights_versions_are_unknown(library) -> None:
    def missing() -> None:
        raise MissingWeightsError("not here")

    gone = LazyModel(missing, lambda _: None)
    library.project.models = replace(library.project.models, clip=gone, brisque=gone)
    assert reasons(library) == ["unknown"]


def test_labels_of_a_named_vocabulary(library) -> None:
    folder = library.root / "config/vocabularies"
    folder.mkdir(parents=True)
    (folder / "zoo.json").write_text(json.dumps({"labels": ["cat", "dog", "owl", "fox", "bee"]}))
    assert reasons(library) == []
    manifest = library.ingest("zoo", 8)
    manifest.write_text(json.dumps({**json.loads(manifest.read_bytes()), "vocabulary": "zoo"}))
    assert library.command("process", str(manifest)) == 0
    assert reasons(library, "zoo") == []
    (folder / "zoo.json").write_text(json.dumps({"labels": ["cat", "dog", "owl", "fox", "ant"]}))
    assert reasons(library, "zoo") == ["labels"]
    (folder / "zoo.json").rename(folder / "other.json")
    assert reasons(library, "zoo") == ["unknown"]


def test_photos_that_may_succeed_now(library) -> None:
    manifest = library.ingest("c", 7, 8)
    first = json.loads(manifest.read_bytes())["artifacts"][0]
    copy = library.root / first["std_uri"]
    kept = copy.read_bytes()
    copy.unlink()
    assert library.command("process", str(manifest)) == 0
    assert reasons(library, "c") == ["retryable"]
    shutil.rmtree(library.data / "events")  # then the table is read
    assert reasons(library, "c") == ["retryable"]
    copy.write_bytes(kept[: len(kept) // 2])  # permanently damaged
    assert library.command("process", str(manifest)) == 0
    assert reasons(library, "c") == []


def test_the_list_downloads_nothing(finished_library: Path, monkeypatch) -> None:
    asked: list[bool] = []

    def locate(model, given, *, fetch, progress):
        asked.append(fetch)
        raise MissingWeightsError("not here")

    for module in ("clip.engine", "technical.clip_iqa", "technical.brisque.loading"):
        monkeypatch.setattr(f"curation_features.{module}.locate", locate)
    found = list(list_batches(load_settings(finished_library)))
    assert [stale.reason for stale in found[0].stale] == ["unknown"]
    assert asked == [False, False]  # BRISQUE is in the package


# --- the files of a batch ---


def names(library: Library, batch_id: str) -> set[tuple[str, str]]:
    found = batch_files(library.settings, batch_id)
    assert all(file.bytes == file.path.stat().st_size for file in found)
    return {(file.kind, file.path.relative_to(library.data).as_posix()) for file in found}


def test_every_file_of_a_batch_is_found(library) -> None:
    """In every place; batch `holiday-two` has a file in each of them, too."""
    data = library.data
    (event,) = (data / "events/features.completed").glob("holiday-????????????.json")
    (other,) = (data / "events/features.completed").glob("holiday-two-*.json")
    digest, other_digest = event.stem[-12:], other.stem[-12:]
    expected = set(names(library, "holiday"))
    assert expected == {
        ("ingested_manifest", "batches/holiday.json"),
        ("accepted_manifest", "manifests/holiday.json"),
        ("technical_metrics", "stages/technical_metrics/holiday.parquet"),
        ("image_embeddings", "stages/image_embeddings/holiday.parquet"),
        ("clip_labels", "stages/clip_labels/holiday.parquet"),
        ("latest_event", "events/latest/holiday.json"),
        ("adoption", "adoptions/holiday.json"),
        ("features", "features/holiday.json"),
        ("table", "features/holiday.parquet"),
        ("page", "features/holiday.html"),
        ("embeddings", "features/embeddings/holiday.parquet"),
        ("event", f"events/features.completed/holiday-{digest}.json"),
    }
    manifest = (data / "batches/holiday.json").read_text()
    for batch_id, text in (("holiday", manifest), ("holiday-two", (data / "batches/holiday-two.json").read_text())):
        wrapped = json.dumps({"specversion": "1.0", "type": "preprocess.completed", "data": json.loads(text)})
        published = event if batch_id == "holiday" else other
        tail = published.stem[-12:]
        files = {
            ("event", f"events/features.completed/{batch_id}-{tail}-2.json"): published.read_text(),
            ("pending_event", f"events/pending/{1:020d}-{batch_id}-{tail}.json"): published.read_text(),
            ("pending_event", f"events/pending/{2:020d}-{batch_id}-{tail}.refused.json"): published.read_text(),
            ("pending_event", f"events/pending/{3:020d}-{batch_id}-{tail}.damaged"): "{",
            ("incoming", f"incoming/dropped {batch_id}.json"): wrapped,
            ("incoming", f"incoming/.claimed/{4:020d}-0123abcd.new.{batch_id}.json"): text,
            ("incoming", f"incoming/accepted/{batch_id}-{tail}.json"): text,
            ("quarantined", f"quarantine/bad {batch_id}.json"): text[:-20],
            ("quarantine_reason", f"quarantine/bad {batch_id}.reason.json"): "{}",
        }
        for (_, name), content in files.items():
            (data / name).parent.mkdir(parents=True, exist_ok=True)
            (data / name).write_text(content)
        if batch_id == "holiday":
            expected |= files.keys()
    assert names(library, "holiday") == expected
    assert not names(library, "holiday") & names(library, "holiday-two")
    assert len(names(library, "holiday")) == len(names(library, "holiday-two"))
    assert digest != other_digest


def test_manifests_that_wait_in_other_folders_are_found(library, tmp_path: Path) -> None:
    given = library.settings.replace(incoming_dirs=("drop", str(tmp_path / "elsewhere")))
    for folder in (library.root / "drop", tmp_path / "elsewhere"):
        folder.mkdir()
        shutil.copy(library.data / "batches/holiday.json", folder / "x.json")
    found = [file.path for file in batch_files(given, "holiday") if file.kind == "incoming"]
    assert found == [library.root / "drop/x.json", tmp_path / "elsewhere/x.json"]


def test_pipes_and_folders_are_skipped(library) -> None:
    for name in ("incoming", "quarantine", "events/pending", "manifests"):
        (library.data / name).mkdir(parents=True, exist_ok=True)
        (library.data / name / "holiday.json").unlink(missing_ok=True)
        os.mkfifo(library.data / name / "holiday.json")
        (library.data / name / "b.json").mkdir()
    assert ("features", "features/holiday.json") in names(library, "holiday")
    assert len(list(list_batches(library.settings))) == 2


# --- unreferenced files ---

IDS = [f"{number:064x}" for number in range(6)]
BATCHES = ("x", "y", "z")


@st.composite
def _references(draw: st.DrawFn) -> dict[tuple[str, str], list[str]]:
    """The photos that each document of each batch refers to."""
    documents = ("batches", "manifests", "claimed", "accepted", "technical_metrics")
    keys = draw(st.lists(st.tuples(st.sampled_from(BATCHES), st.sampled_from(documents)), unique=True))
    return {key: draw(st.lists(st.sampled_from(IDS), unique=True)) for key in keys}


def _write(root: Path, references: dict[tuple[str, str], list[str]]) -> Settings:
    """A data folder with these documents, and with files of every photo."""
    given, store = Settings(root=root), ArtifactStore(root / "data")
    folders = {"batches": "batches", "manifests": "manifests", "claimed": "incoming/.claimed"}
    for (batch_id, document), photos in references.items():
        artifacts = [
            {"photo_id": photo_id, "std_uri": f"./data/rankingInput/{photo_id}_1024.jpg"} for photo_id in photos
        ]
        batch = batch_from({"batch_id": batch_id, "artifacts": artifacts})
        if document == "technical_metrics":
            records = [PhotoRecord(photo_id, "", PhotoInfo(photo_id, "JPEG", 1, 1)) for photo_id in photos]
            store.write_stages(batch, records, {document: {}})
            continue
        name = f"{batch_id}-{batch.digest[:12]}" if document == "accepted" else batch_id
        path = root / "data" / folders.get(document, "incoming/accepted") / f"{name}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(batch.document))
    for folder in ("rankingInput", "cache/features", "cache/thumbnails"):
        (root / "data" / folder).mkdir(parents=True)
    for photo_id in IDS:
        (root / f"data/rankingInput/{photo_id}_1024.jpg").write_text("copy")
        (root / f"data/cache/thumbnails/{photo_id}-72.jpeg").write_text("thumbnail")
        FeatureCache(given.cache_path).path(photo_id).write_text("entry")
    return given


@pytest.mark.long
@examples(max_examples=60)
@given_any(_references())
def test_referenced_files_are_never_unreferenced(references) -> None:
    """Copies are named by manifests, cache entries by ids in any document, thumbnails by digests in tables."""
    root = Path(tempfile.mkdtemp())
    try:
        given = _write(root, references)
        found = UnreferencedFiles(given, 0).find()
        alive = {batch_id for batch_id, document in references if document != "technical_metrics"}
        manifests, tables = set(), set()
        for (batch_id, document), photos in references.items():
            if document != "technical_metrics":
                manifests.update(photos)
            elif batch_id in alive:  # otherwise the table is deleted, too
                tables.update(photos)
        cache = {FeatureCache(given.cache_path).path(photo_id).name: photo_id for photo_id in IDS}
        kept = {"copy": {*IDS}, "cache": {*IDS}, "thumbnail": {*IDS}}
        for file in found:
            if file.kind in kept:
                kept[file.kind].remove(cache.get(file.path.name, file.path.name[:64]))
        assert kept == {"copy": manifests, "cache": manifests | tables, "thumbnail": tables}
        orphans = {file.path.stem for file in found if file.kind == "technical_metrics"}
        assert orphans == {batch_id for batch_id, document in references if document == "technical_metrics"} - alive
    finally:
        shutil.rmtree(root)


def test_a_manifest_that_cannot_be_read_stops_the_search(library) -> None:
    for name in ("batches/c.json", "manifests/c.json", "incoming/c.json", "incoming/accepted/c-0123456789ab.json"):
        path = library.data / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text('{"batch_id": "c", "artifacts": [{"photo_id"')
        with pytest.raises(StoreError, match=rf"{name}: cannot be read"):
            UnreferencedFiles(library.settings, 0).find()
        path.unlink()
    assert UnreferencedFiles(library.settings, 0).find() == []


def test_invalid_ids_are_skipped(library) -> None:
    (library.data / "incoming").mkdir()
    manifest = {"batch_id": "c", "artifacts": [{"photo_id": "\ud800", "std_uri": "\ud800\0"}, 5, {"photo_id": 7}]}
    (library.data / "incoming/c.json").write_text(json.dumps(manifest))
    assert UnreferencedFiles(library.settings, 0).find() == []


def test_a_batch_that_arrives_during_the_search_is_in_use(library, monkeypatch: pytest.MonkeyPatch) -> None:
    """The sensor accepts one manifest meanwhile, and `ingest` writes another."""
    waiting, list_places = library.data / "incoming/c.json", places.list_places
    waiting.parent.mkdir()
    library.ingest("c", 7).rename(waiting)

    def list_before_arrivals(data_path: Path) -> places.Listing:
        listing = list_places(data_path)
        if waiting.exists():
            waiting.rename(library.data / "manifests/c.json")
            library.ingest("d", 8)
        return listing

    monkeypatch.setattr(places, "list_places", list_before_arrivals)
    assert UnreferencedFiles(library.settings, 0).find() == []
    assert not waiting.exists()


@pytest.mark.parametrize(
    ("folder", "end"), [("/where/it/was/data", "_1024.jpg"), ("file://{}", "%5F1024.jpg")], ids=["moved", "encoded"]
)
def test_copies_in_use_are_known_by_any_uri(library, folder, end) -> None:
    """Absolute paths from before a project was moved are invalid, but end with the same names."""
    uri = f"{folder.format(library.data)}/rankingInput"
    for name in ("batches", "manifests"):
        manifest = library.data / name / "holiday.json"
        text = manifest.read_text().replace("./data/rankingInput", uri)
        manifest.write_text(text.replace("_1024.jpg", end))
    shutil.rmtree(library.data / "features")
    kinds = {file.kind for file in UnreferencedFiles(library.settings, 0).find()}
    assert "copy" not in kinds


def test_files_that_ingest_did_not_make_are_not_candidates(library) -> None:
    (library.data / "rankingInput/IMG_1.jpg").write_text("of another service")
    (library.data / "cache/features/notes.json").write_text("of another program")
    assert UnreferencedFiles(library.settings, 0).find() == []
