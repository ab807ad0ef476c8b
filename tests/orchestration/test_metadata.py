"""Metadata in Dagster: plain numbers, escaped text, small images, and no EXIF."""

from __future__ import annotations

import base64
import html
import json
import math
import re
from collections.abc import Mapping
from io import BytesIO
from pathlib import Path
from typing import Any

import dagster as dg
import numpy as np
import pytest
from dagster_shared.serdes import serialize_value
from markdown_it import MarkdownIt
from PIL import Image
from records import SETTINGS, signals

from curation_features.manifest import batch_from
from curation_features.orchestration.metadata import (
    FEATURE_SCHEMA,
    artifact_links,
    feature_metadata,
    missing_metadata,
    stage_metadata,
)
from curation_features.photos.thumbnail import ICON
from curation_features.photos.thumbnails import Thumbnails
from curation_features.pipeline import EnrichedBatch, Plan, RunStats, merge
from curation_features.schema import (
    METRIC_NAMES,
    FeatureError,
    LabelPrediction,
    LabelScore,
    Measurement,
    PhotoInfo,
    PhotoRecord,
)
from curation_features.service import FeaturesService
from curation_features.storage.artifacts import FeatureArtifact, StageArtifact
from curation_features.storage.tables import FEATURE_COLUMNS

HOSTILE = "<img src=x onerror=alert(1)>|`a|b`**c**_d_~~e~~[f](http:x)![g](h)&amp;\\|#\x1b[31m\u202e\n=1+1.jpg"
LABELS = tuple("abcdef")


def features_of(world, *artifacts: Mapping[str, Any]) -> EnrichedBatch:
    return FeaturesService(stages=world.stages()).run(world.batch(artifacts))


RAW = {"sharpness": {"tenengrad": 900.0}, "noise": {"noise_sigma": 0.01}, "brisque": {"brisque_raw": 30.0}}


def measured(name: str, score: float, labels: tuple[LabelScore, ...] = (LabelScore("a", 0.9, 0.3),)) -> PhotoRecord:
    return PhotoRecord(
        name,
        f"{name}.jpg",
        PhotoInfo(name, "JPEG", 3, 2),
        measurements={
            metric: Measurement(1 - score if metric == "noise" else score, RAW.get(metric, {}))
            for metric in METRIC_NAMES
        },
        signals=signals(),
        prediction=LabelPrediction(labels, (0.3,) * 6, 0.5),
    )


def merged_of(records: list[PhotoRecord], **fields: Any) -> EnrichedBatch:
    artifacts = [{"photo_id": record.photo_id, "original_uri": record.image_uri, **fields} for record in records]
    batch = batch_from({"batch_id": "b", "artifacts": artifacts})
    return merge(batch, records, {"technical": "t1", "clip": "c1", "signals": "s1"}, LABELS, SETTINGS)


def stored(metadata: Mapping[str, Any]) -> str:
    """All stored metadata, as text."""
    return serialize_value(dg.AssetMaterialization("features", metadata=metadata))


def numbers(metadata: Mapping[str, Any]) -> dict[str, Any]:
    entries = dg.AssetMaterialization("features", metadata=metadata).metadata
    return {
        name: entry.value
        for name, entry in entries.items()
        if isinstance(entry, (dg.IntMetadataValue, dg.FloatMetadataValue))
    }


def records_of(metadata: Mapping[str, Any], name: str) -> list[dict[str, Any]]:
    return [dict(record.data) for record in metadata[name].records]


def rendered(markdown: str) -> str:
    """Render Markdown with tables to HTML, by another renderer than Dagster's."""
    return MarkdownIt("commonmark").enable(["table", "strikethrough"]).render(markdown)


def cells(markdown: str) -> list[list[str]]:
    rows = re.findall(r"<tr>(.*?)</tr>", rendered(markdown), re.DOTALL)
    return [[html.unescape(cell) for cell in re.findall(r"<td>(.*?)</td>", row, re.DOTALL)] for row in rows[1:]]


# Features


def test_a_batch_shows_counts_scores_labels_and_errors(world) -> None:
    merged = features_of(world, *(world.photo(f"{n}.png", n) for n in range(3)), {"photo_id": "x", "std_uri": "x.jpg"})
    shown = feature_metadata(merged)
    assert {name: shown[name] for name in ("artifacts", "artifacts_ok", "artifacts_degraded", "artifacts_failed")} == {
        "artifacts": 4, "artifacts_ok": 3, "artifacts_degraded": 0, "artifacts_failed": 1,
    }  # fmt: skip
    assert shown["dagster/partition_row_count"] == 4
    assert shown["labels"].data == merged.label_counts()
    names = ("technical", "clip", "signals", "groups")
    assert {name: shown[f"{name}_version"] for name in names} == merged.version
    assert [row["score"] for row in records_of(shown, "scores")] == list(METRIC_NAMES)
    assert [(row["stage"], row["reason"], row["artifacts"]) for row in records_of(shown, "errors")] == [
        ("photo", "missing", 1)
    ]
    assert records_of(shown, "failed_photos") == [{"photo": "x.jpg", "reason": "missing", "photo_id": "x"}]
    assert sum(row["artifacts"] for row in records_of(shown, "label_distribution")) == 3


def test_percentiles_are_flat_numbers_of_measured_scores() -> None:
    records = [measured(str(n), n / 4) for n in range(5)]
    for record in records:
        record.measurements["brisque"] = Measurement(error=FeatureError("brisque", "missing_weights", "no weights"))
    shown = numbers(feature_metadata(merged_of(records)))
    assert (shown["sharpness_p05"], shown["sharpness_p50"], shown["sharpness_p95"]) == (0.05, 0.5, 0.95)
    assert shown["noise_p95"] == 0.95
    assert not any(name.startswith("brisque") for name in shown)


def test_numbers_are_pythons_own_and_finite() -> None:
    records = [measured(str(n), 0.5) for n in range(3)]
    records[0].measurements["exposure"] = Measurement(float("nan"))
    records[1].measurements["sharpness"] = Measurement(np.float64(0.25))
    shown = feature_metadata(merged_of(records))
    assert "exposure_p50" not in shown
    assert shown["sharpness_p05"] < 0.5
    plain = numbers(shown)
    assert len(plain) == 4 + 1 + 4 * 3 + 1 + 3 + 4 + 4 * 3 + 3  # groups by kind
    assert all(type(value) in (int, float) and math.isfinite(value) for value in plain.values())


def test_flags_and_signals_are_numbers_to_plot() -> None:
    records = [measured(str(n), 0.5) for n in range(5)]
    for n, record in enumerate(records):
        record.signals = signals(blur_px=n / 4, headroom_ev=2.0 if n > 2 else 0.0, clipped_centre=0.0, focus_px=None)
    shown = feature_metadata(merged_of(records))
    plain = numbers(shown)
    flags = {name: value for name, value in plain.items() if name.startswith(("flag", "hint_"))}
    assert flags == {
        "flagged": 2, "flag_blurred": 1, "flag_noisy": 0, "flag_dark": 2,
        "hint_shaken": 0, "hint_soft": 1, "hint_bright": 0, "hint_blocky": 0,
    }  # fmt: skip
    assert (plain["blur_px_p05"], plain["blur_px_p50"], plain["blur_px_p95"]) == (0.05, 0.5, 0.95)
    assert not any(name.startswith("focus_px") for name in shown)
    assert [(row["signal"], row["unit"], row["p50"], row["measured"]) for row in records_of(shown, "signals")] == [
        ("blur_px", "px at 512 px", "0.500", 5),
        ("noise_luma", "gray level at 1024 px", "0.500", 5),
        ("headroom_ev", "EV", "0.000", 5),
    ]


def test_an_empty_batch_and_one_that_failed_can_be_shown() -> None:
    assert feature_metadata(merged_of([]))["artifacts"] == 0
    gone = PhotoRecord("x", "x.jpg", failure=FeatureError("photo", "missing", "no such file"))
    shown = feature_metadata(merged_of([gone]))
    assert shown["labels"].data == {}
    assert not {"extremes", "extremes_in_pictures"} & shown.keys()
    assert stored(shown)


def test_labels_are_shown_most_frequent_first_with_their_share() -> None:
    records = [measured(str(n), 0.5, (LabelScore("beach" if n else "night", 0.8, 0.3),)) for n in range(5)]
    rows = records_of(feature_metadata(merged_of(records)), "label_distribution")
    assert [(row["label"], row["artifacts"], row["share"], len(row[""])) for row in rows] == [
        ("beach", 4, "80.0%", 20), ("night", 1, "20.0%", 5),
    ]  # fmt: skip


# What to look at first


def test_extremes_are_a_table_with_causes(world) -> None:
    shown = feature_metadata(features_of(world, *(world.photo(f"{n}.png", n) for n in range(4))))
    rows = records_of(shown, "extremes")
    assert [row["score"] for row in rows] == [name for name in METRIC_NAMES for _ in range(3)]
    causes = {row["score"]: row["why"] for row in rows}
    assert re.fullmatch(r"least sharp \(tenengrad [\d.]+\)", causes["sharpness"])
    assert re.fullmatch(r"little contrast \(p99 - p1 0\.0?\d+\)", causes["exposure"])
    assert all(re.fullmatch(r"[0-3]\.png", row["photo"]) and len(row["photo_id"]) == 12 for row in rows)
    assert not any("best" in name or "worst" in name for name in shown)


def test_extremes_are_shown_with_their_image_scores_and_labels(world) -> None:
    artifacts = [world.photo(f"{n}.png", n, size=(96, 64) if n else (64, 96)) for n in range(4)]
    shown = feature_metadata(features_of(world, *artifacts), Thumbnails(world.settings))
    rows = cells(shown["extremes_in_pictures"].value)
    why = {name: [row["why"] for row in records_of(shown, "extremes") if row["photo"] == name] for _, name, *_ in rows}
    assert sum(map(len, why.values())) == 15
    for row in rows:
        uri = re.fullmatch(r'<img src="data:image/jpeg;base64,([^"]+)" alt="" />', row[0])
        assert uri is not None
        size = Image.open(BytesIO(base64.b64decode(uri[1]))).size
        assert size == ((48, 72) if row[1] == "0.png" else (72, 48))
        assert row[2] == ", ".join(why[row[1]])
        assert all(0 <= float(score) <= 1 for score in row[3:8])
        assert re.fullmatch(r"(\w[\w ]*\xa0\d\.\d\d(, )?){3}", row[8])


def test_a_photo_without_a_thumbnail_or_a_score_is_shown() -> None:
    record = measured("a", 0.5)
    record.measurements["noise"] = Measurement(error=FeatureError("noise", "flat_image", "flat"))
    [row] = cells(feature_metadata(merged_of([record]), lambda _: None)["extremes_in_pictures"].value)
    assert row == ["", "a.jpg", "least sharp (tenengrad 900), a bad photo to CLIP (clip_iqa 0.5), least natural "
                   "(brisque_raw 30)", "0.500", "0.500", "-", "0.500", "0.500", "a\xa00.90"]  # fmt: skip


def test_photos_of_one_name_are_shown_with_their_folders() -> None:
    records = [measured(str(n), n / 2) for n in range(2)]
    for record, folder in zip(records, ("100CANON", "101CANON"), strict=True):
        record.image_uri = f"/home/jane/photos/{folder}/IMG_0001.JPG"
    gone = PhotoRecord("x", "/home/jane/photos/x.jpg", failure=FeatureError("photo", "missing", "no such file"))
    shown = feature_metadata(merged_of([*records, gone]))
    assert {row["photo"] for row in records_of(shown, "extremes")} == {
        "100CANON/IMG_0001.JPG", "101CANON/IMG_0001.JPG",
    }  # fmt: skip
    assert [row["photo"] for row in records_of(shown, "failed_photos")] == ["x.jpg"]
    assert "jane" not in stored(shown)


@pytest.mark.parametrize(
    ("fields", "name"),
    [
        ({"original_uri": "a/b/cat photo.jpg", "std_uri": "data/rankingInput/123.jpg"}, "cat photo.jpg"),
        ({"original_uri": "file:///home/jane%20owner/cat%20photo.jpg"}, "cat photo.jpg"),
        ({"original_uri": "s3://bucket/cat.jpg?X-Signature=secret"}, "cat.jpg"),
        ({"original_uri": None, "std_uri": "what?.jpg"}, "what?.jpg"),
        ({"original_uri": "a/"}, "a"),
        ({"original_uri": "/"}, "the-id"),
        ({"original_uri": "x" * 100 + ".jpg"}, "…" + "x" * 35 + ".jpg"),
    ],
)
def test_a_photo_goes_by_the_name_of_its_file(fields, name) -> None:
    record = measured("the-id", 0.5)
    record.image_uri = fields.get("std_uri") or fields["original_uri"]
    shown = feature_metadata(merged_of([record], **{"std_uri": record.image_uri, **fields}))
    assert cells(shown["extremes_in_pictures"].value)[0][1] == name
    assert records_of(shown, "extremes")[0]["photo"] == name


# What comes from outside


def test_names_and_labels_have_no_meaning_in_markdown() -> None:
    record = measured("a", 0.5, (LabelScore(HOSTILE, 0.9, 0.3),))
    record.image_uri = "<img src=x onerror=alert(1)>|`a|b`**c**"
    markdown = feature_metadata(merged_of([record]))["extremes_in_pictures"].value
    assert set(re.findall(r"<(\w+)", rendered(markdown))) == {"table", "thead", "tbody", "tr", "th", "td"}
    [row] = cells(markdown)
    assert row[1] == record.image_uri
    assert row[8] == "<img src=x onerror=alert(1)>|`a|b`**c**…\xa00.90"
    assert len(row) == 9


@pytest.mark.parametrize("address", ["www.evil.example", "a@evil.example", "HTTPS://evil.example"])
def test_an_address_does_not_become_a_link(address) -> None:
    # Dagster links every address, escaped or not; a zero-width character prevents it.
    merged = merged_of([measured("a", 0.5, (LabelScore(address, 0.9, 0.3),))])
    text = cells(feature_metadata(merged)["extremes_in_pictures"].value)[0][8]
    assert not re.search(r"(https?://|www\.)\w|\w@\w", text, re.IGNORECASE)
    assert text.replace("\u2060", "").startswith(address)


def test_tables_hold_no_control_characters_and_no_signatures() -> None:
    message = f"'s3://bucket/a.jpg?X-Signature=secret&b=1' {HOSTILE}" + "x" * 1000
    gone = PhotoRecord("\x1b[0mid", "a\nb.jpg", failure=FeatureError("photo", "missing", message))
    labelled = measured("a", 0.5, (LabelScore("a\x1b[31m\u202eb", 0.9, 0.3),))
    shown = feature_metadata(merged_of([gone, labelled]))
    names = ("extremes", "errors", "failed_photos", "label_distribution")
    rows = [row for name in names for row in records_of(shown, name)]
    texts = [value for row in rows for value in row.values() if isinstance(value, str)]
    assert all(text.isprintable() and len(text) <= 160 for text in texts)
    assert any("s3://bucket/a.jpg?..." in text for text in texts)
    assert "secret" not in stored(shown)


def test_nothing_of_the_exif_is_shown(world) -> None:
    exif = {"gps": {"latitude": 48.2081743}, "serial": "SN-12345", "owner": "Jane Owner", "camera": "Fuji X100"}
    artifact = {**world.photo("0.png"), "exif": exif, "location": "48.2081743", "note": "Jane Owner"}
    text = stored(feature_metadata(features_of(world, artifact), Thumbnails(world.settings)))
    assert not any(secret in text for secret in ("48.208", "SN-12345", "Jane", "Fuji"))


@pytest.mark.long
def test_metadata_stays_small() -> None:
    wide = "😀|<&" * 128
    records = [measured(f"{n}{wide}"[:512], n / 2000, (LabelScore(f"{n} {wide}", 0.5, 0.3),) * 5) for n in range(2000)]
    for n, record in enumerate(records):
        record.image_uri = f"{n}{wide}.jpg"
        if n % 2:
            record.measurements["noise"] = Measurement(error=FeatureError("noise", f"{n}{wide}", wide * 9))
        if n % 5 == 0:
            records[n] = PhotoRecord(record.photo_id, record.image_uri, failure=FeatureError("photo", wide, wide))
    shown = feature_metadata(merged_of(records), lambda _: b"\xff" * ICON.max_bytes)
    assert len(stored(shown)) < 65_000
    assert records_of(shown, "label_distribution")[-1]["label"].endswith("more")
    assert sum(row["artifacts"] for row in records_of(shown, "label_distribution")) == 1600
    assert records_of(shown, "failed_photos")[-1]["photo"] == "390 more"


def test_a_common_batch_keeps_all_its_labels() -> None:
    records = [measured(str(n), 0.5, (LabelScore(f"label number {n}", 0.9, 0.3),)) for n in range(300)]
    assert len(feature_metadata(merged_of(records))["labels"].data) == 300


# Stages


def stage(path: Path) -> StageArtifact:
    return StageArtifact(path, "digest", {"manifest": "abc", "versions": {"noise": "1-x"}})


def test_a_stage_is_shown_with_its_counts_timings_and_versions(world) -> None:
    stats, stages = RunStats(), world.stages()
    plan = stages.plan(frozenset({"noise"}))
    batch = world.batch([world.photo("0.png"), world.photo("1.png", 1), {"photo_id": "x", "std_uri": "x.jpg"}])
    records = [*stats.counted(stages.measure(batch, plan, stats))]
    assert len(records) == 3
    shown = stage_metadata(stage(world.root / "noise 1.parquet"), stats, plan)
    plain = numbers(shown)
    assert {"seconds", "photos_per_second", "seconds_read", "seconds_decode", "seconds_cpu_metrics"} <= plain.keys()
    assert all(type(value) in (int, float) and math.isfinite(value) and value >= 0 for value in plain.values())
    assert {name: plain[name] for name in ("photos", "cached", "cached_share", "unreadable")} == {
        "photos": 3, "cached": 0, "cached_share": 0.0, "unreadable": 1,
    }  # fmt: skip
    assert plain["dagster/partition_row_count"] == 3
    assert (shown["manifest"], shown["versions"].data) == ("abc", {"noise": "1-x"})
    assert shown["path"].value == str(world.root / "noise 1.parquet")
    assert shown["dagster/uri"] == (world.root / "noise 1.parquet").as_uri()


def test_the_cached_share_is_of_all_photos(tmp_path) -> None:
    stats = RunStats()
    list(stats.counted(PhotoRecord(str(n), "x.jpg", cached=n < 3) for n in range(4)))
    assert stage_metadata(stage(tmp_path / "a"), stats, Plan())["cached_share"] == 0.75
    assert "cached_share" not in stage_metadata(stage(tmp_path / "a"), RunStats(), Plan())


def test_timings_are_converted_to_finite_plain_numbers(tmp_path) -> None:
    stats = RunStats()
    stats.seconds.update({"gpu": np.float32(1.5), "broken": math.nan, "endless": math.inf})
    shown = stage_metadata(stage(tmp_path / "a"), stats, Plan())
    assert shown["seconds_gpu"] == 1.5
    assert type(shown["seconds_gpu"]) is float
    assert not {"seconds_broken", "seconds_endless"} & shown.keys()


def test_what_is_missing_is_shown_with_its_reason(tmp_path) -> None:
    plan = Plan(missing={"embedding": FeatureError("image_embedding", "missing_weights", "CLIP is\x1b[0m not here")})
    assert missing_metadata(plan)["missing"].data == {"embedding": "CLIP is [0m not here"}
    assert stage_metadata(stage(tmp_path / "a"), RunStats(), plan)["missing"].data.keys() == {"embedding"}
    assert missing_metadata(Plan()) == {}
    assert "missing" not in stage_metadata(stage(tmp_path / "a"), RunStats(), Plan())


def test_links_lead_to_the_files(tmp_path) -> None:
    paths = {name: tmp_path / f"a b.{name}" for name in ("json", "parquet", "embeddings", "contact_sheet")}
    *written, page = paths.values()
    shown = artifact_links(FeatureArtifact(*written, "digest"), page)
    assert {name: shown[name].value for name in paths} == {name: str(path) for name, path in paths.items()}
    assert shown["dagster/uri"] == (tmp_path / "a b.json").as_uri()
    assert stored(shown)


def test_the_column_schema_describes_every_column() -> None:
    assert [column.name for column in FEATURE_SCHEMA.columns] == list(FEATURE_COLUMNS)
    assert all(column.description for column in FEATURE_SCHEMA.columns)
    assert json.loads(serialize_value(FEATURE_SCHEMA))
