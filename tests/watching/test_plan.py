"""Pure planning: which files are at rest, and how photos are cut into batches."""

from __future__ import annotations

import time

import pytest

from curation_features.watching.plan import Waiting, cut, is_quiet, ready_photos, unique_id

NOON = 1_795_953_600  # 2026-11-29 12:00 UTC
HOUR = 3600.0


@pytest.fixture(autouse=True)
def utc(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


def file(path: str, *, size: int = 9, taken: float = NOON, since: float = 0.0) -> Waiting:
    return Waiting("/m/card", f"/m/card/{path}", size, int(taken * 1e9), since)


@pytest.mark.parametrize(
    ("files", "ready", "quiet"),
    [
        ([file("a.jpg")], ["a.jpg"], True),
        ([file("a.jpg", since=90)], [], False),
        ([file("a.jpg"), file("b.jpg", since=90)], ["a.jpg"], False),  # b is being copied
        ([file("a.jpg"), file("a.cr3", since=90)], [], False),  # its raw file is being copied
        ([file("a.jpg"), file("A.XMP", since=90), file("b.jpg")], ["b.jpg"], False),
        ([file("a.jpg"), file("b.jpg", size=0)], ["a.jpg"], False),  # b has no content yet
        ([file("a.jpg", since=-501), file("b.jpg", since=90)], ["a.jpg"], True),  # a has waited for 20 times 30 s
        ([file("a.jpg"), file("b.jpg", size=0, since=-501)], ["a.jpg"], True),
    ],
)
def test_photos_wait_for_their_shot_and_folder(files: list[Waiting], ready: list[str], quiet: bool) -> None:
    photos = {one.path for one in files if one.path.endswith(".jpg")}
    assert [one.path.rpartition("/")[2] for one in ready_photos(files, photos, 100.0, 30.0)] == ready
    assert is_quiet(files, 100.0, 30.0) is quiet


DAYS = [file("b.jpg"), file("a.jpg"), file("DCIM/100/c.jpg"), file("d.jpg", taken=NOON + 13 * HOUR)]


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        (
            "folder-day",
            {"2026-11-29-card": "ab", "2026-11-30-card": "d", "2026-11-29-card-DCIM-100": "c"},
        ),
        ("folder", {"card": "abd", "card-DCIM-100": "c"}),
        ("session", {"2026-11-29-1200-card": "cab", "2026-11-30-0100-card": "d"}),
    ],
)
def test_batches_follow_the_rule(rule, expected: dict[str, str]) -> None:
    drafts = cut(DAYS, rule, limit=100, gap=4 * HOUR)
    found = {draft.name: "".join(sorted(path[-5] for path in draft.photos)) for draft in drafts}
    assert found == {name: "".join(sorted(photos)) for name, photos in expected.items()}


def test_a_large_dump_is_cut_by_name() -> None:
    files = [file(f"{number}.jpg") for number in (4, 2, 0, 1, 3)]
    sizes = [[path[-5] for path in draft.photos] for draft in cut(files, "folder", 2, HOUR)]
    assert sizes == [["0", "1"], ["2", "3"], ["4"]]
    assert len(cut(files, "folder", 2, HOUR, only_full=True)) == 2


@pytest.mark.parametrize(
    ("folder", "rule", "expected"),
    [
        ("Fête d'été", "folder", "card-Fete-d-ete"),
        ("x" * 300, "folder-day", "2026-11-29-" + "x" * 84),
        ("写真", "folder-day", "2026-11-29-card"),
    ],
)
def test_ids_are_legal_and_short(folder: str, rule, expected: str) -> None:
    [draft] = cut([file(f"{folder}/a.jpg")], rule, 9, HOUR)
    assert draft.name == expected


def test_a_senseless_time_is_the_day_of_arrival() -> None:
    [draft] = cut([file("a.jpg", taken=9e9 * 1e3, since=float(NOON))], "folder-day", 9, HOUR)
    assert draft.name == "2026-11-29-card"


def test_a_taken_id_gets_a_number() -> None:
    assert unique_id("a", {"a", "a-2"}.__contains__) == "a-3"
