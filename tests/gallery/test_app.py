"""The requests of the library page: the same photos and counts as pandas gives, and files of the tables only."""

from __future__ import annotations

import hashlib
import io
import json
import os
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from asgi import Answer, request
from finished_batches import write_batch
from PIL import Image

from curation_features.errors import MissingWeightsError
from curation_features.gallery import app
from curation_features.gallery.app import LibraryApp
from curation_features.gallery.asking import Asked, parse
from curation_features.gallery.current import QUERY_S, CurrentTables
from curation_features.search.finding import Found, Hit
from curation_features.search.query import Query
from curation_features.search.tables import Tables
from curation_features.settings import Settings
from curation_features.storage.frames import read_features

pytest.importorskip("duckdb")

HOSTILE = ["'; DROP TABLE x; --", '"><img src=x onerror=alert(1)>', "a\u202eb", "50%_", "\U0001f469 \u65e5\u672c"]
COUNT = 40


class Searching:
    """A stand-in for the search: it finds photos in a fixed order."""

    def __init__(self) -> None:
        self.asked: list[Any] = []

    def find(self, texts: Sequence[str], **more: Any) -> Found:
        self.asked.append((tuple(texts), more))
        if "weights" in texts:
            raise MissingWeightsError("no weights", "fetch them")
        hits = [("two", "two-1"), ("one", "one-3"), ("gone", "x"), ("one", "one-0")]
        made = tuple(Hit(batch, photo, "s", "p", 0.3 - n / 10, 4.0 - n, n) for n, (batch, photo) in enumerate(hits))
        return Found(Query.parse(["beach"], [], []), made, 3, COUNT, 0)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """A project with the batches `one` and `two`."""
    settings = Settings(root=tmp_path)
    for seed, batch_id in enumerate(("one", "two")):
        rows = [row_of(batch_id, number, seed) for number in range(COUNT)]
        write_batch(settings, batch_id, {row["photo_id"]: None for row in rows}, rows)
    return settings


def row_of(batch_id: str, number: int, seed: int) -> dict[str, Any]:
    taken = datetime(2024, 1, 5) + timedelta(days=9 * number, seconds=seed) if number % 7 else None
    label = [*HOSTILE, None][number % 6]
    kind = "set" if batch_id == "two" and number >= 4 else "burst"
    group = {"group_id": f"{batch_id}{number // 4}", "group_kind": kind, "group_rank": number % 4 + 1}
    facts = {"group_size": 4, "group_similarity": 0.9, "group_reason": "sharper"}
    return {
        "photo_id": f"{batch_id}-{number}",
        "taken": taken,
        "label": label,
        "camera": HOSTILE[number % 5],
        "sharpness": None if number % 9 == 4 else (number * 7 % COUNT) / COUNT,
        "status": "degraded" if number % 9 == 4 else "ok",
        "errors": [{"stage": "sharpness", "reason": "flat_image", "message": "m"}] if number % 9 == 4 else [],
        "flags": ["blurred"] if number % 3 == 0 else [],
        "hints": ["soft"] if number % 6 == 0 else [],
        "original_uri": f"photos/{HOSTILE[number % 5]}/{batch_id}-{number}.jpg",
        "width": 30,
        "height": 20,
        **({**group, **facts} if number < 8 else {}),
    }


class Page:
    """Asks the application."""

    def __init__(self, settings: Settings) -> None:
        self.searching = Searching()
        self.library = LibraryApp(settings, lambda: self.searching)
        self._app = self.library.at("/p")

    def ask(self, path: str, headers: Sequence[tuple[str, str]] = (), **given: Any) -> Answer:
        return request(self._app, f"/p/{path}", given, list(headers))

    def ids(self, **given: Any) -> list[str]:
        answer = self.ask("api/photos", count=100, **given)
        assert answer.status == 200, answer.body
        found = answer.json
        assert found["count"] == len(found["photos"])
        return [photo["id"] for photo in found["photos"]]


@pytest.fixture
def page(settings: Settings) -> Iterator[Page]:
    page = Page(settings)
    yield page
    page.library.close()


@pytest.fixture
def frame(settings: Settings) -> pd.DataFrame:
    return read_features(settings=settings)


def ordered(frame: pd.DataFrame, by: str = "taken", ascending: bool = False) -> list[str]:
    found = frame.sort_values([by, "batch_id", "position"], ascending=[ascending, False, True], na_position="last")
    return [*found.photo_id]


@pytest.fixture(params=["files", "memory"])
def any_page(page: Page, request: pytest.FixtureRequest) -> Page:
    """A page whose server reads files, or has loaded them into memory for the counts."""
    if request.param == "memory":
        assert page.ask("api/counts").json["loaded"] == 1
    return page


def test_photos_come_newest_first_in_windows(any_page: Page, frame: pd.DataFrame) -> None:
    page, expected = any_page, ordered(frame)
    assert page.ids() == expected
    window = page.ask("api/photos", start=30, count=20).json
    assert [photo["id"] for photo in window["photos"]] == expected[30:50]
    assert (window["count"], window["start"]) == (2 * COUNT, 30)
    assert page.ids(sort="sharpness") == ordered(frame, "sharpness")
    assert page.ids(sort="sharpness", turned=1) == ordered(frame, "sharpness", ascending=True)
    [first] = page.ask("api/photos", count=1, name="one-1.jpg").json["photos"]
    row = frame[frame.photo_id == "one-1"].iloc[0]
    assert (first["batch"], first["taken"], first["scores"][0]) == ("one", str(row.taken), row.sharpness)


def test_facets_and_filters_choose_the_same_as_pandas(any_page: Page, frame: pd.DataFrame) -> None:
    page = any_page
    for value in HOSTILE:
        chosen = frame[(frame.camera == value) & (frame.batch_id == "two")]
        assert page.ids(camera=value, batch="two") == ordered(chosen)
        assert page.ids(name=value.split(" ")[0].upper()) == ordered(
            frame[frame.original_uri.str.lower().str.contains(value.split(" ")[0].lower(), regex=False)]
        )
    none_or_first = frame[frame.label.isna() | (frame.label == HOSTILE[0])]
    assert page.ids(label=["", HOSTILE[0]]) == ordered(none_or_first)
    assert page.ids(month=["2024-02", ""]) == ordered(frame[frame.taken.isna() | (frame.taken.dt.month == 2)])
    flags = [{*row.flags, *row.hints} for row in frame.itertuples()]
    assert page.ids(flag=["soft", ""]) == ordered(frame[["soft" in one or not one for one in flags]])
    assert page.ids(reason="sharpness: flat_image") == ordered(frame[frame.status == "degraded"])
    assert page.ids(best=1) == ordered(frame[~(frame.group_kind == "burst") | (frame.group_rank == 1)])
    assert page.ids(where="sharpness > 0.5 -- a comment", status="ok") == ordered(frame[frame.sharpness > 0.5])
    assert page.ids(where="sharpness > 0.9 or true", camera=HOSTILE[0]) == page.ids(camera=HOSTILE[0])


def test_counts_are_those_of_pandas(page: Page, frame: pd.DataFrame) -> None:
    found = page.ask("api/counts").json
    assert dict(found["label"]) == Counter(frame.label.astype(object).fillna(""))
    assert dict(found["month"]) == Counter(frame.taken.dt.strftime("%Y-%m").fillna(""))
    assert dict(found["kind"]) == Counter(frame.group_kind.astype(object).fillna(""))
    assert dict(found["flag"]) == Counter(
        flag for row in frame.itertuples() for flag in ([*row.flags, *row.hints] or [""])
    )
    assert dict(found["reason"])["sharpness: flat_image"] == (frame.status == "degraded").sum()
    chosen = page.ask("api/counts", status="degraded", camera=HOSTILE[1]).json
    assert dict(chosen["status"]) == Counter(frame[frame.camera == HOSTILE[1]].status)  # its own choice is free
    both = frame[(frame.camera == HOSTILE[1]) & (frame.status == "degraded")]
    assert dict(chosen["label"]) == Counter(both.label.astype(object).fillna(""))
    small = page.ask("api/counts", where="photo_id LIKE 'one%' AND width = 30", status="ok").json  # ids are not loaded
    assert dict(small["status"]) == Counter(frame[frame.batch_id == "one"].status)
    assert dict(small["camera"]) == Counter(frame[(frame.batch_id == "one") & (frame.status == "ok")].camera)


@pytest.mark.parametrize(
    ("given", "cause"),
    [
        ({"where": "sharpnes > 1"}, "did you mean 'sharpness'"),
        ({"where": "1 = 1) OR (1 = 1"}, "syntax error"),
        ({"where": "true /* and"}, "cannot be used"),
        ({"sort": "taken; DROP TABLE x"}, "there is not an order"),
    ],
)
def test_a_wrong_request_is_explained(any_page: Page, given: dict[str, str], cause: str) -> None:
    page = any_page
    answer = page.ask("api/photos", **given)
    assert answer.status == 400
    assert cause in answer.json["error"]["message"]
    assert page.ask("api/photos", count="-1").status == 200


def test_other_requests_are_answered_while_columns_load(
    page: Page, frame: pd.DataFrame, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(app, "_LOADING_S", -1)
    load = Tables.load
    monkeypatch.setattr(Tables, "load", lambda tables, columns: load(tables, columns, 1))  # one of two batches
    assert page.ask("api/counts").json == {"loaded": 0.5}
    assert page.ids() == ordered(frame)
    found = page.ask("api/counts").json
    assert (found["loaded"], found["photos"]) == (1, 2 * COUNT)


def test_a_slow_filter_is_stopped(settings: Settings) -> None:
    tables = CurrentTables(settings.data_path, query_s=0.2)
    slow = "(SELECT max(a.range * b.range) FROM range(100000) AS a, range(100000) AS b) > 1"
    began = time.monotonic()
    with pytest.raises(Exception, match=r"takes longer than 0\.2 s"):
        tables.answer(lambda opened: opened.tables.count(slow))
    assert time.monotonic() - began < 20
    assert tables.answer(lambda opened: opened.tables.count()) == 2 * COUNT
    tables.close()


def test_a_new_batch_appears_and_a_deleted_one_is_gone(
    page: Page, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("curation_features.gallery.current._LISTING_S", 0.0)
    before = page.ask("api/photos").json
    write_batch(settings, "three", {"three-0": None})
    after = page.ask("api/photos").json
    assert (after["count"], after["version"] == before["version"]) == (before["count"] + 1, False)
    for name in ("two.json", "two.parquet"):
        (settings.data_path / "features" / name).unlink()
    assert page.ask("api/photos").json["count"] == COUNT + 1
    assert page.ask("api/photo", batch="two", photo="two-1").status == 404


def test_details_and_groups(page: Page) -> None:
    found = page.ask("api/photo", batch="one", photo="one-2").json
    assert [(one["id"], one["group"]["rank"]) for one in found["members"]] == [(f"one-{n}", n + 1) for n in range(4)]
    assert found["errors"] == []
    groups = page.ask("api/groups", kind="burst", count=3).json
    assert (groups["count"], len(groups["groups"])) == (3, 3)
    assert [photo["id"] for photo in groups["groups"][0]["photos"]] == [f"one-{n}" for n in range(4, 8)]  # the newest
    assert page.ask("api/groups", kind="'; --").json["count"] == 4
    assert page.ask("api/groups", kind="set").json["count"] == 1


def test_batches_have_their_state(page: Page) -> None:
    found = page.ask("api/batches").json["batches"]
    assert [(one["batch_id"], one["state"], one["photos"]) for one in found] == [
        ("one", "finished", COUNT), ("two", "finished", COUNT),
    ]  # fmt: skip


# Search


@pytest.mark.parametrize(
    ("text", "texts", "without"),
    [
        ("two parrots", ["two parrots"], []),
        (" beach ,2:golden  hour, -people,- dog,, ", ["beach", "2:golden hour"], ["people", "dog"]),
        ('"salt, pepper", 2:"a, b", -"x, y"', ["salt, pepper", "2:a, b"], ["x, y"]),
        ("a well-known place, -0.5:x", ["a well-known place"], ["0.5:x"]),
        ('a "red, blue" kite, 5" lens, "-5 degrees"', ["a red, blue kite", '5" lens', "-5 degrees"], []),
        ('beach, "sand', ["beach", '"sand'], []),
        (",", [], []),
        (" " * 50_000 + '"a', ['"a'], []),
        ('a"' * 20_001, ['a"' * 20_001], []),
    ],
)
def test_the_search_box_is_parsed(text: str, texts: list[str], without: list[str]) -> None:
    assert parse(text) == Asked(tuple(texts), tuple(without))


def test_results_keep_their_order_and_line(page: Page) -> None:
    found = page.ask("api/search", text="beach, -dog", where="iso > 1", status="ok", top=9).json
    shown = [(one["batch"], one["id"], one["copies"]) for one in found["photos"]]
    assert shown == [("two", "two-1", 0), ("one", "one-3", 1), ("one", "one-0", 3)]  # a deleted photo is skipped
    assert found["likely"] == 2
    [(texts, more)] = page.searching.asked
    assert (texts, more["without"], more["like"], more["top"]) == (("beach",), ("dog",), [], 9)
    assert more["seconds"] == QUERY_S
    assert "iso > 1" in more["where"]
    assert "status IN ('ok')" in more["where"]
    page.ask("api/search", of="one", photo="one-3")
    assert page.searching.asked[-1][1]["like"] == [("one-3", "bytes of one-3")]
    assert page.searching.asked[-1][1]["where"] is None


def test_a_search_that_cannot_be_made_says_why(page: Page) -> None:
    asked: list[tuple[dict[str, str], int, str]] = [
        ({"text": "weights"}, 503, "no weights; fetch them"),
        ({"text": "  "}, 400, "what to look for"),
        ({"text": "x", "where": "nonsense > 1"}, 400, "'nonsense > 1'"),
        ({"of": "one", "photo": "../../etc/passwd"}, 400, "what to look for"),
    ]
    for given, status, message in asked:
        answer = page.ask("api/search", **given)
        assert (answer.status, message in answer.json["error"]["message"]) == (status, True)


# Pictures


def photos_on_disk(settings: Settings, **uris: str) -> None:
    rows = [{"photo_id": name, "original_uri": uri, "image_uri": uri} for name, uri in uris.items()]
    write_batch(settings, "files", dict.fromkeys(uris), rows)


def test_a_jpeg_is_sent_as_it_is_and_cached_by_digest(page: Page, settings: Settings) -> None:
    path = settings.root / "a.jpg"
    Image.effect_noise((64, 48), 40).convert("RGB").save(path, exif=Image.Exif())
    photos_on_disk(settings, a="a.jpg")
    answer = page.ask("full", batch="files", photo="a")
    assert (answer.body, answer.header("content-type")) == (path.read_bytes(), "image/jpeg")
    assert "sandbox" in str(answer.header("content-security-policy"))
    again = page.ask("full", [("if-none-match", str(answer.header("etag")))], batch="files", photo="a")
    assert (again.status, again.body) == (304, b"")


def test_a_tiff_becomes_an_upright_jpeg_in_srgb(page: Page, settings: Settings) -> None:
    pixels = np.zeros((40, 60, 3), np.uint8)
    pixels[:, :30] = (200, 40, 40)  # red on the left
    exif = Image.Exif()
    exif[0x0112] = 6  # the top is on the right
    Image.fromarray(pixels).save(settings.root / "b.tif", exif=exif)
    photos_on_disk(settings, b="b.tif")
    answer = page.ask("full", batch="files", photo="b")
    assert answer.header("content-type") == "image/jpeg"
    with Image.open(io.BytesIO(answer.body)) as shown:
        assert (shown.format, shown.size, shown.getexif().get(0x0112)) == ("JPEG", (40, 60), None)
        found = np.asarray(shown)
    assert np.abs(found[:28].astype(int) - (200, 40, 40)).max() < 6  # red is at the top
    assert found[32:].max() < 6


def test_only_files_of_the_tables_in_allowed_folders_are_sent(
    page: Page, settings: Settings, tmp_path_factory: pytest.TempPathFactory
) -> None:
    outside = tmp_path_factory.mktemp("outside") / "secret.jpg"
    Image.new("RGB", (8, 8)).save(outside)
    (settings.root / "link.jpg").symlink_to(outside)
    (settings.root / "text.jpg").write_text("<script>alert(1)</script>")
    os.mkfifo(settings.root / "pipe.jpg")
    uris = {"link": "link.jpg", "text": "text.jpg", "pipe": "pipe.jpg", "up": f"../{outside.parent.name}/secret.jpg"}
    photos_on_disk(settings, absolute=str(outside), remote="http://127.0.0.1:9/a.jpg", **uris)
    reasons = {}
    for name in ("absolute", "remote", *uris):
        answer = page.ask("full", batch="files", photo=name)
        reasons[name] = (answer.status, json.loads(answer.body)["error"]["kind"])
        assert page.ask("thumbnail", batch="files", photo=name).status == 404
    assert set(reasons.values()) == {
        (404, "forbidden_path"), (404, "unreadable"), (404, "not_a_file"),
    }, reasons  # fmt: skip
    assert {name for name, (_, kind) in reasons.items() if kind == "forbidden_path"} == {
        "absolute", "remote", "link", "up",
    }  # fmt: skip
    for name in ("../a.jpg", str(outside), "a\0", "", "'; --"):
        for path in ("full", "thumbnail", "api/photo"):
            assert page.ask(path, batch="files", photo=name).status == 404
            assert page.ask(path, batch=name, photo="text").status == 404
    assert page.ask("..%2f..%2fetc/passwd").status == 404


def test_files_of_equal_bytes_are_told_apart(page: Page, settings: Settings) -> None:
    Image.new("RGB", (8, 8)).save(settings.root / "b.png")
    rows = [{"photo_id": "same", "original_uri": name, "image_uri": name} for name in ("a.png", "b.png")]
    write_batch(settings, "files", {"same": None}, rows)
    given = {"batch": "files", "photo": "same"}
    assert [page.ask("api/photo", **given, position=n).json["path"] for n in (0, 1, 7)] == ["a.png", "b.png", "a.png"]
    assert [page.ask("full", **given, position=n).status for n in (0, 1)] == [404, 200]


def test_a_thumbnail_is_made_and_cached_by_digest(page: Page, settings: Settings) -> None:
    path = settings.root / "c.png"
    Image.effect_noise((600, 400), 40).convert("RGB").save(path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    facts = {"format": "PNG", "width": 600, "height": 400, "original_uri": "c.png", "image_uri": "c.png"}
    write_batch(settings, "files", {"c": None}, [{"photo_id": "c", "sha256": digest, **facts}])
    answer = page.ask("thumbnail", batch="files", photo="c", sha256=digest)
    with Image.open(io.BytesIO(answer.body)) as shown:
        assert (shown.format, shown.size) == ("JPEG", (256, 171))
    assert "immutable" in str(answer.header("cache-control"))
    assert page.ask("thumbnail", batch="files", photo="c", sha256="0" * 64).header("cache-control") == "no-store"
    path.unlink()
    assert page.ask("thumbnail", batch="files", photo="c").body == answer.body  # from the cache
