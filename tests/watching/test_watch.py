"""Watched folders with real files, and a clock that the test moves."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import closing
from datetime import datetime
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from permissions import as_nobody
from PIL import Image

from curation_features.errors import BusyError, InputError, StorageAwayError, StoreError
from curation_features.ingest.folder import ingest
from curation_features.settings import Settings
from curation_features.watching import Looked, Watch

TAKEN = 1_790_000_000  # in September 2026; long before `now`


class Card:
    """A watched folder in a project, and the time of the next look."""

    def __init__(self, root: Path, **settings: object) -> None:
        self.root = root
        self.folder = root / "card"
        self.folder.mkdir(exist_ok=True)
        self.settings = Settings(root=root, watch_folders=("card",), isolate_decoders=False, **settings)
        self.watch = Watch(self.settings)
        self.now = 2_000_000_000.0

    def photo(self, name: str, shade: int, taken: float = TAKEN) -> Path:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (40, 30), (shade * 25, 90, 10)).save(path)
        os.utime(path, (taken, taken))
        return path

    def look(self, after: float = 31.0, **options: object) -> Looked:
        self.now += after
        return self.watch.look(now=self.now, **options)

    def batches(self, looks: int = 2) -> dict[str, list[str]]:
        """Look twice, and ingest what was planned: the new batches with the names of their photos."""
        for _ in range(looks):
            looked = self.look()
        found = {}
        for batch in self.watch.due(looked):
            result = self.watch.ingest(batch)
            self.watch.finish(batch)
            if result:
                uris = [artifact["original_uri"] for artifact in json.loads(result.path.read_bytes())["artifacts"]]
                found[batch.batch_id] = [uri.removeprefix("./card/") for uri in uris]
        return found

    @property
    def journal(self) -> Path:
        return self.settings.data_path / "watch" / "journal.sqlite"

    def manifest_path(self, batch_id: str) -> Path:
        return self.settings.data_path / "batches" / f"{batch_id}.json"

    def manifest(self, batch_id: str) -> list[dict]:
        return json.loads(self.manifest_path(batch_id).read_bytes())["artifacts"]

    def again(self) -> Watch:
        """A new process."""
        self.watch.close()
        self.watch = Watch(self.settings)
        return self.watch


@pytest.fixture
def card(tmp_path: Path) -> Iterator[Card]:
    found = Card(tmp_path)
    with closing(found.watch):
        yield found
    found.watch.close()


def test_photos_at_rest_are_ingested_like_by_hand(card: Card, tmp_path: Path) -> None:
    photo = card.photo("DCIM/IMG_1.JPG", 1)
    for name in ("IMG_1.CR3", "IMG_1.XMP", ".IMG_2.JPG.x7a", ".IMG_2.JPG", "~IMG_2.JPG", "IMG_2.JPG.part", "jpg"):
        (card.folder / "DCIM" / name).write_bytes(b"x")
    day = datetime.fromtimestamp(TAKEN).date()  # the camera's file time, not the day of the copy
    assert card.batches() == {f"{day}-card-DCIM": ["DCIM/IMG_1.JPG"]}
    [artifact] = card.manifest(f"{day}-card-DCIM")
    assert artifact["photo_id"] == hashlib.sha256(photo.read_bytes()).hexdigest()
    by_hand = ingest([photo], card.settings.replace(data_dir=str(tmp_path / "other")), batch_id="x").manifest
    images = ("ranking_uri", "std_uri")  # in another data folder
    assert {**artifact, **dict.fromkeys(images)} == {**by_hand["artifacts"][0], **dict.fromkeys(images)}
    assert [companion["kind"] for companion in artifact["companions"]] == ["raw", "sidecar"]
    assert card.batches() == {}
    assert card.look().waiting == 0


def test_a_half_copied_file_waits_and_others_with_it(card: Card) -> None:
    card.photo("IMG_1.JPG", 1)
    copy = card.folder / "IMG_2.JPG"
    whole = card.photo("IMG_3.JPG", 3).read_bytes()
    for end in (0, 100, 200, len(whole)):
        copy.write_bytes(whole[:end])
        assert card.look(after=31).planned == ()
    assert card.look(after=29).planned == ()
    assert [batch.photos for batch in card.look(after=2).planned] == [2, 1]  # the copy has today's time


def test_late_photos_join_a_new_batch(card: Card) -> None:
    card.photo("a.jpg", 1)
    [first] = card.batches()
    manifest = card.manifest_path(first).read_bytes()
    card.photo("b.jpg", 2)
    assert card.batches() == {f"{first}-2": ["b.jpg"]}
    assert card.manifest_path(first).read_bytes() == manifest


def test_a_known_photo_is_not_new_and_a_changed_one_is(card: Card) -> None:
    by_hand, known = card.photo("hand/a.jpg", 1), card.photo("b.jpg", 2)
    ingest([by_hand], card.settings, batch_id="trip")
    card.look()
    assert [batch.photos for batch in card.look().planned] == [1]  # without reading `by_hand`
    assert list(card.batches().values()) == [["b.jpg"]]
    shutil.copy(by_hand, card.folder / "copy of a.jpg")
    shutil.copy(known, card.folder / "copy of b.jpg")
    os.utime(by_hand, (TAKEN + 9, TAKEN + 9))
    assert card.batches() == {}
    card.watch.close()
    card.journal.unlink()
    card.again()
    assert card.batches() == {}  # the manifests tell
    edited = card.photo("new.jpg", 3, TAKEN + 60)
    edited.replace(known)
    assert list(card.batches().values()) == [["b.jpg"]]


def test_a_file_written_in_place_is_found(card: Card) -> None:
    path = card.photo("a.jpg", 1)
    assert len(card.batches()) == 1
    other = card.photo("b.jpg", 2).read_bytes()
    (card.folder / "b.jpg").unlink()
    for wait in (60.0, 90_000.0):  # young files are compared at each look, old ones once an hour
        card.look(after=wait)
        folder = card.folder.stat()
        path.write_bytes(other + b"end" * int(wait))
        os.utime(card.folder, ns=(folder.st_atime_ns, folder.st_mtime_ns))
        assert card.look(after=3601.0 if wait > 60 else 31.0).waiting == 1
        assert len(card.batches()) == 1


@pytest.mark.parametrize("rule", ["folder", "session"])
def test_a_large_dump_is_split(tmp_path: Path, rule: str) -> None:
    card = Card(tmp_path, watch_batches=rule, watch_batch_photos=2)
    with closing(card.watch):
        for number in range(5):
            card.photo(f"{number}.jpg", number)
        (card.folder / "late.jpg").write_bytes(b"half")
        card.look()
        (card.folder / "late.jpg").write_bytes(b"half of it")
        assert [batch.photos for batch in card.look().planned] == [2, 2]  # full ones need not wait
        names = [batch.batch_id for batch in card.watch.due(card.look())]
        assert len(set(names)) == {"folder": 3, "session": 4}[rule]


def test_a_deleted_file_changes_nothing(card: Card) -> None:
    kept, deleted = card.photo("a.jpg", 1), card.photo("b.jpg", 2)
    card.look()
    [batch] = card.watch.due(card.look())
    content = deleted.read_bytes()
    deleted.unlink()
    assert len(card.watch.ingest(batch).manifest["artifacts"]) == 1
    card.watch.finish(batch)
    kept.unlink()
    assert card.batches() == {}
    deleted.write_bytes(content)  # it was in no batch
    os.utime(deleted, (TAKEN, TAKEN))
    assert list(card.batches().values()) == [["b.jpg"]]


@pytest.mark.parametrize("state", ["missing", "empty mount point", "a file"])
def test_a_folder_that_is_away_is_reported_once(card: Card, state: str) -> None:
    card.photo("sub/a.jpg", 1)
    assert len(card.batches()) == 1
    card.photo("sub/b.jpg", 2)
    card.look()
    [batch] = card.watch.due(card.look())
    away = card.folder.rename(card.root / "away")
    if state == "empty mount point":
        card.folder.mkdir()
    elif state == "a file":
        card.folder.touch()
    first, second = card.look(), card.look()
    with pytest.raises(StorageAwayError, match="card"):
        card.watch.ingest(batch)
    assert list(first.appeared) == list(first.problems) == [str(card.folder)]
    assert (second.appeared, second.problems, second.planned) == ({}, first.problems, ())
    assert card.watch.due(second) == []
    if state == "empty mount point":
        card.folder.rmdir()
    elif state == "a file":
        card.folder.unlink()
    away.rename(card.folder)
    assert card.look().recovered == (str(card.folder),)
    assert list(card.batches().values()) == [["sub/b.jpg"]]  # nothing else is new


def test_an_unreadable_subfolder_is_reported_once() -> None:
    with TemporaryDirectory() as name:  # pytest's folders are closed to other users
        card = Card(Path(name))
        with closing(card.watch):
            card.photo("open/a.jpg", 1)
            closed = card.photo("closed/b.jpg", 2).parent
            card.look()
            closed.chmod(0)
            for path in (card.root, card.settings.data_path, *card.settings.data_path.rglob("*")):
                path.chmod(0o777)
            with as_nobody():
                first, second = card.look(), card.look()
            assert "allow this user" in first.appeared[str(closed)]
            assert (second.appeared, len(first.planned)) == ({}, 1)
            closed.chmod(0o755)
            assert card.look().recovered == (str(closed),)


def test_a_look_ends_in_time_and_the_next_continues(card: Card) -> None:
    for number in range(4):
        card.photo(f"{number}/a.jpg", number)
    looks = [card.look(after=31.0, seconds=0.0) for _ in range(9)]
    assert not looks[0].is_complete
    planned = [batch.photos for looked in looks for batch in looked.planned]
    assert planned == [1, 1, 1, 1]


def test_a_planned_batch_survives_a_crash(card: Card, monkeypatch: pytest.MonkeyPatch) -> None:
    card.photo("a.jpg", 1)
    card.look()
    [batch] = card.watch.due(card.look())
    card.watch.ingest(batch)  # and dies before `finish`
    before = card.manifest_path(batch.batch_id).read_bytes()
    card.again()
    assert card.batches() == {batch.batch_id: ["a.jpg"]}
    assert card.manifest_path(batch.batch_id).read_bytes() == before
    assert card.batches() == {}


def test_a_failed_batch_is_due_after_growing_pauses(card: Card) -> None:
    card.photo("a.jpg", 1)
    card.now = time.time()
    card.look()
    [batch] = card.watch.due(card.look())
    for pause in (60, 120, 240):
        before = time.time()
        card.watch.postpone(card.watch.find(batch.batch_id), "disk full")
        found = card.watch.find(batch.batch_id)
        assert pause <= found.due - before < pause + 30
        assert found.problem == "disk full"


@pytest.mark.parametrize("years", [-1, 20])
def test_a_clock_that_was_wrong_delays_no_batch(card: Card, years: int) -> None:
    card.photo("a.jpg", 1)
    card.look()
    [batch] = card.watch.due(card.look())
    card.now -= years * 365 * 24 * 3600
    assert card.watch.due(card.look()) == [batch]


def test_only_one_process_watches(card: Card) -> None:
    with closing(Watch(card.settings)) as other, card.watch.exclusive(), pytest.raises(BusyError, match="stop it"):
        other.exclusive().__enter__()


def test_unusable_folders_and_journals_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="name one"):
        Watch(Settings(root=tmp_path))
    with pytest.raises(InputError, match="only local"):
        Watch(Settings(root=tmp_path, watch_folders=("s3://bucket/photos",)))
    (tmp_path / "data" / "watch").mkdir(parents=True)
    (tmp_path / "data" / "watch" / "journal.sqlite").write_bytes(b"no database" * 99)
    with pytest.raises(StoreError, match="delete it"):
        Watch(Settings(root=tmp_path, watch_folders=(".",)))


def test_own_files_and_nested_folders_are_skipped(tmp_path: Path) -> None:
    card = Card(tmp_path)
    card.watch.close()
    card.settings = card.settings.replace(watch_folders=(".", "card", "card/sub"))
    with closing(card.again()):
        card.photo("sub/a.jpg", 1)
        card.photo("@eaDir/a.jpg", 2)
        assert card.watch.folders == (tmp_path,)
        assert len(card.batches()) == 1
        assert card.batches() == {}  # nor the copies in data/rankingInput
