"""`flags list` and `flags calibrate`: what they print, and that they change nothing."""

from __future__ import annotations

import hashlib
import io
import json
import os
import tomllib
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from libraries import snapshot
from records import batch, failed, measured, signals, write_features

from curation_features.cli import main
from curation_features.schema import PhotoInfo, PhotoRecord
from curation_features.settings import Settings
from curation_features.storage.artifacts import ArtifactStore
from curation_features.storage.tables import METADATA_KEY, read_metadata


def photo(name: str, **values: float | bool | None) -> PhotoRecord:
    """A photo with these signals; without flags and hints from the others."""
    record = measured(name)
    record.info = PhotoInfo(hashlib.sha256(name.encode()).hexdigest(), "JPEG", 800, 600)
    record.signals = signals(**{"clipped_centre": 0.0, **values})
    return record


def write(settings: Settings, batch_id: str, *records: PhotoRecord) -> None:
    manifest = batch(*(record.photo_id for record in records), batch_id=batch_id)
    write_features(ArtifactStore(settings.data_path), records, manifest)


def make_old(settings: Settings, batch_id: str) -> None:
    """Turn the table of a batch into that of an earlier release."""
    path = settings.data_path / "features" / f"{batch_id}.parquet"
    metadata = read_metadata(path)
    del metadata["version"]["signals"]
    names = [*signals()["edges"].values, *signals()["tones"].values, "flags", "hints", "flag_reasons", "noise_luma"]
    table = pq.read_table(path).drop_columns([*names, "version_signals"])
    pq.write_table(table.replace_schema_metadata({METADATA_KEY: json.dumps(metadata).encode()}), path)


@pytest.fixture
def project(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """Batches `a`, of 150 photos, `b`, of 150 and one of `a` again, and `old`, without signals."""
    monkeypatch.setenv("COLUMNS", "100")
    radii = [round(0.3 + n / 1000, 3) for n in range(300)]
    photos = [photo(f"p{n}", blur_px=radius, blocks=None) for n, radius in enumerate(radii)]
    write(settings, "a", *photos[:150])
    write(settings, "b", *photos[150:], photo("p0", blur_px=0.9, blocks=None), failed("gone"))
    write(settings, "old", photo("x", blur_px=5.0))
    make_old(settings, "old")
    for moment, batch_id in enumerate(("a", "b")):
        os.utime(settings.data_path / "features" / f"{batch_id}.json", (moment, moment))
    return settings


def run(settings: Settings, *arguments: str, code: int = 0) -> str:
    """The output of a command, which writes no file."""
    before, output = snapshot(settings.root), io.StringIO()
    with redirect_stdout(output):
        assert main(["--root", str(settings.root), "flags", *arguments]) == code
    assert snapshot(settings.root) == before
    return output.getvalue()


def run_json(settings: Settings, *arguments: str, code: int = 0) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(run(settings, *arguments, "--json", code=code))
    return found


def test_each_photo_counts_once_as_in_its_newest_batch(project) -> None:
    found = run_json(project, "calibrate")
    assert (found["batches"], found["photos"]) == (["a", "b"], 300)
    assert found["skipped"] == [{"batch_id": "old", "remedy": "compute them: curation-features process old"}]
    blurred = found["limits"][0]
    values = [*(round(0.3 + n / 1000, 3) for n in range(1, 300)), 0.9]
    offer = round(np.percentile(values, 99), 3)
    assert blurred == {
        "setting": "limit_blurred", "flags": ["blurred"], "signal": "blur_px", "value": 0.85, "origin": "default",
        "measured": 300, "flagged": 1, "share": 0.0033, "percentile": 99.0, "offer": offer,
        "would_flag": sum(value > offer for value in values), "would_share": 0.01, "few": False,
    }  # fmt: skip
    assert found["flagged"] == 1
    assert found["would_flag"] == 3
    blocky = found["limits"][-1]
    assert (blocky["measured"], blocky["share"], blocky["offer"], blocky["few"]) == (0, None, None, True)
    assert run_json(project, "calibrate", "a")["limits"][0]["flagged"] == 0


def test_the_offered_lines_are_valid_and_give_what_was_told(project, monkeypatch) -> None:
    found = run_json(project, "calibrate")
    text = "\n".join(found["settings"])
    offers = {one["setting"]: one["offer"] for one in found["limits"] if one["offer"] is not None}
    assert tomllib.loads(text) == offers
    path = Path(found["file"])
    path.parent.mkdir()
    path.write_text(text)
    again = run_json(project, "calibrate")
    assert again["flagged"] == found["would_flag"]
    assert again["settings"] == []
    blurred = again["limits"][0]
    assert (blurred["value"], blurred["origin"]) == (offers["limit_blurred"], f"{path}:1")
    assert blurred["flagged"] == found["limits"][0]["would_flag"]
    monkeypatch.setenv("CURATION_FEATURES_LIMIT_DARK", "3")
    assert "The environment overrides the file: limit_dark" in run(project, "calibrate")


def test_the_table_is_for_readers(project) -> None:
    text = run(project, "calibrate")
    lines = [line.split() for line in text.splitlines()]
    assert ["blurred", "blur_px", "0.85", "default", "300", "1", "(0.3%)", "0.597", "3", "(1.0%)"] in lines
    assert ["blocky", "blocks", "1.7", "default", "0", "0", "-", "-"] in lines
    assert "skipped: old, of an earlier release" in text
    assert "300 photos in 2 batches: 1 flagged now, 3 with all offers" in text
    assert "limit_blurred = 0.597" in text.splitlines()
    assert "Fewer than 200 photos" not in text
    assert "Fewer than 200 photos: one or two of them decide a 99th percentile" in run(project, "calibrate", "a")


@pytest.mark.parametrize("command", ["calibrate", "list"])
@pytest.mark.parametrize(
    ("batch_id", "named"),
    [("aa", "did you mean 'a'?"), ("old", "curation-features process old"), ("zzzzz", "curation-features process M")],
)
def test_a_batch_without_signals_is_refused(project, command, batch_id, named) -> None:
    error = run_json(project, command, batch_id, code=2)["error"]
    assert error["kind"] == "input"
    assert named in error["message"]


def test_a_project_without_batches_is_refused(settings) -> None:
    assert "no batch in" in run_json(settings, "calibrate", code=2)["error"]["message"]


def test_flagged_photos_are_listed_with_their_reasons(settings, monkeypatch) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    photos = [photo("soft", blur_px=0.7), photo("fine"), photo("both", blur_px=0.9, headroom_ev=2.0), failed("gone")]
    write(settings, "trip", *photos)
    found = run_json(settings, "list", "trip")
    blurred = "edges 0.90 px wide at 512 px, limit 0.85"
    dark = "could be 2.00 EV brighter before highlights clip, limit 1.4"
    assert found == {
        "batch_id": "trip",
        "artifacts": 4,
        "flagged": 1,
        "photos": [
            {
                "position": 0, "photo_id": "soft", "photo": "soft.jpg", "flags": [], "hints": ["soft"],
                "flag_reasons": ["soft: edges 0.70 px wide at 512 px, limit 0.6"],
            },
            {
                "position": 2, "photo_id": "both", "photo": "both.jpg", "flags": ["blurred", "dark"], "hints": [],
                "flag_reasons": [f"blurred: {blurred}", f"dark: {dark}"],
            },
        ],
    }  # fmt: skip
    lines = [line.rstrip().split(maxsplit=1) for line in run(settings, "list", "trip").rstrip().splitlines()]
    assert [line[0] for line in lines] == ["photo", "both.jpg", "dark", "soft.jpg", "1"]
    assert lines[1][1] == f"blurred {blurred}"
    assert lines[-1] == ["1", "of 4 artifacts flagged, and 1 more with hints"]
