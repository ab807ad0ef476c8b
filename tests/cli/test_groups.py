"""`groups`: the table on the terminal, JSON, and what a deletion leaves."""

from __future__ import annotations

import pyarrow.parquet as pq
import pytest
from libraries import Library, pixels
from PIL import Image

from curation_features.manifest import to_json

pytestmark = pytest.mark.long


@pytest.fixture
def copies(library: Library) -> Library:
    """Batches `one` and `two`: photos 5 and 6, and equal files of 5 under other names. Photo 3 has two files, too."""
    for name, seed in (("five", 5), ("six", 6), ("[bold]five", 5)):
        Image.fromarray(pixels(seed)).save(library.root / f"{name}.png")
    batches = {"one": ("five", "six"), "two": ("[bold]five",)}
    for batch_id, names in batches.items():
        artifacts = [{"photo_id": f"id of {name}", "original_uri": f"{name}.png"} for name in names]
        path = library.root / f"{batch_id}.json"
        path.write_bytes(to_json({"batch_id": batch_id, "artifacts": artifacts}))
        assert library.command("process", str(path)) == 0, library.output
    return library


def test_groups_of_all_batches_are_listed(copies: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "110")
    found = copies.run_json("groups")
    assert {name: found[name] for name in ("batches", "photos", "grouped", "changed", "counts")} == {
        "batches": 4, "photos": 8, "grouped": 4, "changed": True, "counts": {"copy": 2},
    }  # fmt: skip
    group, equal = sorted(found["groups"], key=lambda group: len(group["photos"][0]["photo_id"]))
    assert {photo["photo_id"] for photo in equal["photos"]} == {copies.photo_id(3)}
    assert [photo["batches"] for photo in equal["photos"]] == [["holiday"], ["holiday-two"]]
    assert [photo["copy_of_path"] for photo in equal["photos"]] == [None, equal["photos"][0]["path"]]
    assert (group["kind"], group["size"], group["similarity"]) == ("copy", 2, 1.0)
    best, worse = group["photos"]
    assert (best["rank"], best["copy_of"], worse["copy_of"]) == (1, None, best["photo_id"])
    assert {photo["path"]: photo["batches"] for photo in group["photos"]} == {
        "five.png": ["one"], "[bold]five.png": ["two"],
    }  # fmt: skip
    assert pq.read_table(found["file"]).num_rows == 4
    assert copies.command("groups") == 0
    lines = copies.output.splitlines()
    assert lines[0].split() == ["kind", "photos", "alike", "best", "why"]
    assert ["copy", "2", "1.00", best["path"]] in [line.split()[:4] for line in lines]
    assert "groups: 2 copies: 4 of 8 photos of 4 batches" in copies.output
    assert "nothing has changed" in copies.output
    assert copies.run_json("groups", "holiday")["groups"] == [equal]
    assert len(copies.run_json("groups", "two")["groups"]) == 1
    assert copies.run_json("groups", "--kind", "set")["groups"] == []
    error = copies.run_json("groups", "tow", code=2)["error"]
    assert "two" in error["message"]


def test_a_deletion_reconciles_the_groups(copies: Library) -> None:
    assert copies.command("groups") == 0
    gone = "id of five"
    assert copies.command("batches", "rm", "--photo", gone, "--yes") == 0, copies.output
    rows = pq.read_table(copies.data / "groups/photos.parquet").to_pylist()
    assert gone not in {row["photo_id"] for row in rows}
    found = copies.run_json("groups")
    assert (found["photos"], found["counts"], found["compared"]) == (7, {"copy": 1}, 0)
    assert copies.command("batches", "rm", "one", "--yes") == 0
    assert "one" not in pq.read_table(copies.data / "groups/photos.parquet")["batch_id"].to_pylist()


def test_a_batch_shows_its_groups(copies: Library) -> None:
    artifacts = [{"photo_id": name, "original_uri": "five.png"} for name in "ab"]
    path = copies.root / "three.json"
    path.write_bytes(to_json({"batch_id": "three", "artifacts": artifacts}))
    assert copies.command("process", str(path)) == 0
    assert "groups: 1 copy" in copies.output
    assert copies.run_json("process", str(path))["groups"] == {"copy": 1}
