"""`FeaturesService`: results, cache of each part, and faults of single photos."""

from __future__ import annotations

import json
import logging
import math
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from curation_features.errors import InvalidWeightsError, ManifestError, MissingWeightsError, SettingsError
from curation_features.schema import METRIC_NAMES, Embedding
from curation_features.service import FeaturesService
from curation_features.weights import LazyModel, Weights


def absent(name: str) -> LazyModel:
    def locate():
        raise MissingWeightsError(f"{name} is not here; fetch it")

    return LazyModel(locate, lambda _: None)


def features(document: dict) -> list[dict]:
    return [artifact["features"] for artifact in document["artifacts"]]


def reasons(record: dict) -> list[tuple[str, str]]:
    return [(error["stage"], error["reason"]) for error in record["errors"]]


@pytest.fixture
def batch(world) -> dict:
    return {"batch_id": "batch_1", "artifacts": [world.photo(f"{n}.png", n) for n in range(4)], "extra": {"z": 1}}


def test_the_output_has_the_specifications_fields(world, batch) -> None:
    result = FeaturesService(stages=world.stages()).process(batch)
    for record in features(result):
        assert list(record) == ["tech", "clip_labels", "status", "errors", "version"]
        assert tuple(record["tech"]) == METRIC_NAMES
        assert all(isinstance(value, float) and 0 <= value <= 1 for value in record["tech"].values())
        assert [list(label) for label in record["clip_labels"]] == [["label", "confidence", "cosine_score"]] * 5
        confidences = [label["confidence"] for label in record["clip_labels"]]
        assert confidences == sorted(confidences, reverse=True)
        assert record["status"] == "ok"
        assert record["errors"] == []


def test_all_other_fields_stay_unchanged(world, batch) -> None:
    given = json.dumps(batch)
    result = FeaturesService(stages=world.stages()).process(batch)
    for artifact in result["artifacts"]:
        del artifact["features"]
    assert json.dumps(result) == given == json.dumps(batch)


def test_a_second_run_computes_nothing(world, batch) -> None:
    first = FeaturesService(stages=world.stages()).process(batch)
    again = FeaturesService(stages=world.stages())
    results = []
    assert world.done_by(lambda: results.append(again.process(batch))) == {}
    assert results == [first]


def test_each_photo_is_decoded_once(world, batch) -> None:
    service = FeaturesService(stages=world.stages())
    assert world.done_by(lambda: service.process(batch))["decoded"] == 4


def test_new_labels_touch_neither_photos_nor_the_image_model(world, batch) -> None:
    FeaturesService(stages=world.stages()).process(batch)
    (world.root / "config").mkdir()
    labels = ["cat", "dog", "tree", "house", "car", "boat"]
    (world.root / "config" / "labels.json").write_text(json.dumps({"labels": labels}))
    results = []
    done = world.done_by(lambda: results.append(FeaturesService(stages=world.stages()).process(batch)))
    assert done == {"clip_texts": 6 * 6}
    assert {label["label"] for record in features(results[0]) for label in record["clip_labels"]} <= set(labels)


@pytest.mark.parametrize(
    ("change", "recomputed"),
    [
        ({"sharpness_scale": 1000.0}, {"decoded"}),
        ({"noise_sigma_max": 0.1}, {"decoded"}),
        ({"brisque_side": 512}, {"decoded", "brisque"}),
        ({"clip_iqa_side": 224}, {"decoded", "clip_iqa"}),
        ({"precision": "fp16"}, {"decoded", "clip_images", "clip_texts"}),
        ({"precision": "fp32"}, set()),  # what "auto" is on a CPU
        ({"temperature": 50.0}, set()),
        ({"workers": 3, "batch_size": 2}, set()),
    ],
)
def test_a_changed_constant_recomputes_its_part_only(world, batch, change, recomputed) -> None:
    before = FeaturesService(stages=world.stages()).process(batch)
    results = []
    service = FeaturesService(stages=world.stages(world.settings.replace(**change)))
    assert set(world.done_by(lambda: results.append(service.process(batch)))) == recomputed
    if "sharpness_scale" in change:
        for old, new in zip(features(before), features(results[0]), strict=True):
            ratio = math.atanh(new["tech"]["sharpness"]) / math.atanh(old["tech"]["sharpness"])
            assert ratio == pytest.approx(2, rel=1e-3)
            assert {**old["tech"], "sharpness": 0} == {**new["tech"], "sharpness": 0}
            assert old["version"]["technical"] != new["version"]["technical"]
            assert old["version"]["clip"] == new["version"]["clip"]


def test_a_bad_photo_fails_alone(world, batch) -> None:
    good = features(FeaturesService(stages=world.stages()).process(batch))
    path = world.root / "photos" / "1.png"
    path.write_bytes(path.read_bytes()[:-2000])
    batch["artifacts"][2]["original_uri"] = "../elsewhere.png"
    batch["artifacts"].append({"photo_id": "x", "original_uri": "./photos/none.png"})
    result = features(FeaturesService(stages=world.stages()).process(batch))
    assert [record["status"] for record in result] == ["ok", "failed", "failed", "ok", "failed"]
    assert reasons(result[1]) == [("photo", "truncated")]
    assert reasons(result[2]) == [("photo", "forbidden_path")]
    assert reasons(result[4]) == [("photo", "missing")]
    assert (result[0], result[3]) == (good[0], good[3])
    assert result[1]["tech"] == {"sharpness": 0, "exposure": 0, "noise": 1, "clip_iqa": 0, "brisque": 0}
    assert [label["label"] for label in result[1]["clip_labels"]] == [
        "photography", "landscape", "nature", "outdoor", "scenic",
    ]  # fmt: skip


def unread(uri: str, **fields: str) -> dict:
    """The artifact of a photo that ingest could not read."""
    error = {"reason": "truncated", "message": "the file ends early; copy it again", **fields}
    return {"photo_id": f"id of {uri}", "original_uri": uri, "ingest_error": error}


def test_the_ingest_error_counts_for_forbidden_originals(world, tmp_path_factory) -> None:
    outside = tmp_path_factory.mktemp("outside") / "cut.jpg"
    world.photo("whole.png")
    outside.write_bytes(
        (world.root / "photos" / "whole.png").read_bytes()
    )  # repaired meanwhile, but not readable for the run
    batch = {
        "batch_id": "b",
        "artifacts": [
            unread(str(outside)),
            unread("s3://bucket/a.jpg"),
            unread(str(outside)),
        ],
    }
    [*local, remote, _] = found = features(FeaturesService(stages=world.stages()).process(batch))
    assert [record["status"] for record in found] == ["failed"] * 3
    assert [record["errors"] for record in (*local, remote)] == [
        [
            {
                "stage": "photo",
                "reason": "truncated",
                "message": "the file ends early; copy it again; ingest the folder again once it is repaired",
            }
        ]
    ] * 2
    assert found[2] == found[0]
    assert world.decoded == []


def test_the_error_of_the_run_counts_for_allowed_originals(world) -> None:
    repaired = world.photo("repaired.png")
    (world.root / "photos" / "empty.png").touch()
    uris = (repaired["original_uri"], "./photos/empty.png", "./photos/gone.png")
    batch = {"batch_id": "b", "artifacts": [unread(uri) for uri in uris]}
    first, *others = features(FeaturesService(stages=world.stages()).process(batch))
    assert first["status"] == "ok"
    assert [reasons(record) for record in others] == [[("photo", "unreadable")], [("photo", "missing")]]


def test_an_invalid_ingest_error_hides_no_failure(world) -> None:
    batch = {
        "batch_id": "b",
        "artifacts": [
            unread("/etc/hostname", reason="fine"),
            unread("/etc/hosts", message=""),
        ],
    }
    found = features(FeaturesService(stages=world.stages()).process(batch))
    assert [reasons(record) for record in found] == [[("photo", "forbidden_path")]] * 2


def test_a_flat_photo_is_degraded_and_its_error_is_cached(world) -> None:
    Image.new("RGB", (64, 48), "gray").save(world.root / "flat.png")
    batch = {"batch_id": "b", "artifacts": [{"photo_id": "flat", "original_uri": "flat.png"}]}
    [record] = features(FeaturesService(stages=world.stages()).process(batch))
    assert record["status"] == "degraded"
    assert ("noise", "flat_image") in reasons(record)
    assert record["tech"]["noise"] == 1.0
    assert world.done_by(lambda: FeaturesService(stages=world.stages()).process(batch)) == {}


def test_missing_weights_stop_a_run_before_any_photo_is_read(world, batch) -> None:
    stages = world.stages(clip=absent("CLIP"), brisque=absent("BRISQUE"))
    with pytest.raises(MissingWeightsError, match=r"(?s)(CLIP is not here.*BRISQUE is not here|BRISQUE.*CLIP)"):
        FeaturesService(stages=stages).process(batch)
    assert world.counts()["decoded"] == 0


def test_a_degraded_run_measures_the_rest_and_heals_later(world, batch, caplog) -> None:
    lenient = world.settings.replace(on_missing_weights="degrade")
    with caplog.at_level(logging.WARNING):
        degraded = FeaturesService(stages=world.stages(lenient, clip=absent("CLIP"))).process(batch)
    assert caplog.text.count("CLIP is not here") == 1
    for record in features(degraded):
        assert record["status"] == "degraded"
        assert reasons(record) == [("image_embedding", "missing_weights")]
        assert all(label["confidence"] == 0.0 for label in record["clip_labels"])
    results = []
    done = world.done_by(lambda: results.append(FeaturesService(stages=world.stages()).process(batch)))
    assert done == {"decoded": 4, "clip_images": 4, "clip_texts": 300}
    assert [record["status"] for record in features(results[0])] == ["ok"] * 4


def test_a_degraded_run_is_served_from_the_cache_too(world, batch) -> None:
    lenient = world.settings.replace(on_missing_weights="degrade")
    missing = {"clip": absent("CLIP"), "clip_iqa": absent("IQA")}
    FeaturesService(stages=world.stages(lenient, **missing)).process(batch)
    assert world.done_by(lambda: FeaturesService(stages=world.stages(lenient, **missing)).process(batch)) == {}


def test_a_model_that_fails_on_one_photo_fails_on_that_photo(world, batch, caplog) -> None:
    encode = world.clip.encode_images

    def bad(inputs):
        if any(abs(float(image.mean()) - brightness) < 1e-6 for image in inputs):
            raise RuntimeError("CUDA out of memory")
        return encode(inputs)

    with Image.open(world.root / "photos" / "2.png") as image:
        brightness = float(world.clip.preprocess(np.asarray(image)).mean())
    world.clip.encode_images = bad
    stages = world.stages(world.settings.replace(batch_size=4))
    result = features(FeaturesService(stages=stages).process(batch))
    assert [record["status"] for record in result] == ["ok", "ok", "degraded", "ok"]
    assert reasons(result[2]) == [("image_embedding", "out_of_memory")]


def test_nan_from_a_model_is_a_default_with_a_reason(world, batch) -> None:
    world.clip.encode_images = lambda inputs: np.full((len(inputs), 16), np.nan, np.float32)
    world.clip_iqa.score = lambda inputs: np.full(len(inputs), np.inf)
    world.brisque.score = lambda rgb: math.nan
    result = FeaturesService(stages=world.stages()).process(batch)
    json.dumps(result, allow_nan=False)
    for record in features(result):
        assert dict(reasons(record)) == dict.fromkeys(("clip_iqa", "brisque", "image_embedding"), "not_finite")


@pytest.mark.parametrize("size", [1, 2, 3, 64])
def test_the_batch_size_changes_nothing(world, batch, size) -> None:
    expected = FeaturesService(stages=world.stages()).process(batch)
    world.stages().cache.clear()
    stages = world.stages(world.settings.replace(batch_size=size))
    assert FeaturesService(stages=stages).process(batch) == expected


def test_the_order_of_a_batch_changes_nothing(world, batch) -> None:
    expected = FeaturesService(stages=world.stages()).process(batch)
    world.stages().cache.clear()
    turned = {**batch, "artifacts": batch["artifacts"][::-1]}
    result = FeaturesService(stages=world.stages()).process(turned)
    assert result["artifacts"] == expected["artifacts"][::-1]


def test_a_photo_replaced_under_its_id_is_measured_again(world, batch) -> None:
    before = features(FeaturesService(stages=world.stages()).process(batch))
    world.photo("0.png", seed=99)
    after = features(FeaturesService(stages=world.stages()).process(batch))
    assert before[0]["tech"] != after[0]["tech"]
    assert before[1:] == after[1:]


def test_a_repeated_photo_is_computed_once(world, batch) -> None:
    batch["artifacts"].append({**batch["artifacts"][0], "note": "again"})
    done = world.done_by(lambda: batch.update(FeaturesService(stages=world.stages()).process(batch)))
    assert done["decoded"] == 4
    assert batch["artifacts"][0]["features"] == batch["artifacts"][4]["features"]
    assert batch["artifacts"][4]["note"] == "again"


def test_one_id_for_two_images_is_an_error(world, batch) -> None:
    batch["artifacts"][3]["photo_id"] = batch["artifacts"][0]["photo_id"]
    with pytest.raises(ManifestError, match=r"^artifacts\[3\]\.photo_id: "):
        FeaturesService(stages=world.stages()).process(batch)


def test_one_id_for_two_copies_of_an_image_is_fine(world, batch) -> None:
    copy = world.root / "photos" / "copy.png"
    copy.write_bytes((world.root / "photos" / "0.png").read_bytes())
    batch["artifacts"][3] = {**batch["artifacts"][0], "original_uri": "./photos/copy.png"}
    results = []
    done = world.done_by(lambda: results.extend(features(FeaturesService(stages=world.stages()).process(batch))))
    assert results[0] == results[3]
    assert done["decoded"] == done["clip_images"] == 3


def test_an_id_never_becomes_a_path(world) -> None:
    artifact = world.photo("0.png")
    odd = ["../../etc/passwd", "a/b", "🦆 duck", " ", "CON"]
    batch = {"batch_id": "b", "artifacts": [{**artifact, "photo_id": name} for name in odd]}
    result = FeaturesService(stages=world.stages()).process(batch)
    assert [record["status"] for record in features(result)] == ["ok"] * 5
    written = {path.name for path in world.settings.cache_path.iterdir()} - {"label_embeddings.pt"}
    assert all(Path(name).stem.isalnum() and len(Path(name).stem) == 32 for name in written)


def test_threads_share_one_service(world, batch) -> None:
    expected = FeaturesService(stages=world.stages()).process(batch)
    world.stages().cache.clear()
    service = FeaturesService(stages=world.stages())
    barrier = threading.Barrier(4)

    def process(_: int) -> dict:
        barrier.wait()
        return service.process(batch)

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(process, range(4))) == [expected] * 4


def test_an_empty_batch_is_a_batch(world) -> None:
    assert FeaturesService(stages=world.stages()).process({"batch_id": "b", "artifacts": []}) == {
        "batch_id": "b",
        "artifacts": [],
    }


def test_one_structured_line_per_batch(world, batch, caplog) -> None:
    with caplog.at_level(logging.INFO, logger="curation_features"):
        FeaturesService(stages=world.stages()).process(batch)
    [record] = [record for record in caplog.records if "Features extracted for batch" in record.getMessage()]
    fields = record.curation_features
    assert fields["batch_id"] == "batch_1"
    assert (fields["photos"], fields["ok"], fields["cached"]) == (4, 4, 0)
    assert fields["seconds_decode"] > 0


def test_an_event_is_processed_like_its_manifest(world, batch) -> None:
    event = {"specversion": "1.0", "type": "preprocess.completed", "id": "1", "source": "/preprocess", "data": batch}
    service = FeaturesService(stages=world.stages())
    assert service.process(event) == service.process(batch)


def test_an_unwritable_cache_does_not_change_results(world, batch) -> None:
    expected = FeaturesService(stages=world.stages()).process(batch)
    world.stages().cache.clear(label_embeddings=True)
    folder = world.settings.cache_path
    folder.rmdir()
    folder.write_text("a file where the cache should be")
    assert FeaturesService(stages=world.stages()).process(batch) == expected


def unloadable(error: Exception) -> tuple[LazyModel, list[int]]:
    """A model that fails to load, and a list with an item per attempt."""
    tries: list[int] = []

    def load(_: Weights) -> None:
        tries.append(1)
        raise error

    return LazyModel(lambda: Weights("broken", Path(), "0" * 64), load), tries


def test_a_missing_device_stops_the_run(world, batch) -> None:
    model, _ = unloadable(SettingsError("device: 'cuda' is not available"))
    stages = world.stages(world.settings.replace(on_missing_weights="degrade"), clip=model)
    with pytest.raises(SettingsError, match="not available"):
        FeaturesService(stages=stages).process(batch)


@pytest.mark.parametrize("error", [InvalidWeightsError("damaged", "damaged"), MemoryError("too big")])
@pytest.mark.parametrize("part", ["clip", "clip_iqa", "brisque"])
def test_an_unloadable_model_is_tried_once_and_degrades(world, batch, part, error) -> None:
    model, tries = unloadable(error)
    lenient = world.settings.replace(on_missing_weights="degrade")
    result = features(FeaturesService(stages=world.stages(lenient, **{part: model})).process(batch))
    reason = "invalid_weights" if isinstance(error, InvalidWeightsError) else "load_failed"
    stage = "image_embedding" if part == "clip" else part
    assert [reasons(record) for record in result] == [[(stage, reason)]] * 4
    assert len(tries) == 1


def test_a_model_that_cannot_be_loaded_stops_a_strict_run(world, batch) -> None:
    model, _ = unloadable(InvalidWeightsError("the checkpoint is damaged"))
    with pytest.raises(InvalidWeightsError, match="damaged"):
        FeaturesService(stages=world.stages(clip=model)).process(batch)


def test_new_labels_with_a_model_that_cannot_be_loaded_degrade(world, batch) -> None:
    model, _ = unloadable(InvalidWeightsError("damaged"))
    lenient = world.settings.replace(on_missing_weights="degrade")
    good = LazyModel(lambda: Weights("broken", Path(), "0" * 64), lambda _: world.clip)
    FeaturesService(stages=world.stages(lenient, clip=good)).process(batch)
    world.stages().cache.label_embeddings.unlink()
    relabelled = lenient.replace(temperature=3.0)
    result = features(FeaturesService(stages=world.stages(relabelled, clip=model)).process(batch))
    assert [reasons(record) for record in result] == [[("clip_labels", "invalid_weights")]] * 4


def test_the_pixel_limit_holds_for_cached_photos_too(world, batch) -> None:
    FeaturesService(stages=world.stages()).process(batch)
    strict = world.stages(world.settings.replace(max_pixels=10))
    result = features(FeaturesService(stages=strict).process(batch))
    assert [reasons(record) for record in result] == [[("photo", "too_large")]] * 4


def test_a_stored_vector_of_another_length_harms_no_neighbour(world, batch) -> None:
    expected = features(FeaturesService(stages=world.stages()).process(batch))
    stages = world.stages()
    first = batch["artifacts"][0]["photo_id"]
    entry = stages.cache.load(first, first)
    entry.embedding = Embedding(np.full(4, 0.5, np.float32))
    del entry.versions["labels"]
    entry.prediction = None
    stages.cache.save(first, entry)
    result = features(FeaturesService(stages=stages).process(batch))
    assert reasons(result[0]) == [("clip_labels", "invalid_embedding")]
    assert result[1:] == expected[1:]


def test_settings_and_stages_are_not_mixed(world) -> None:
    with pytest.raises(ValueError, match="not both"):
        FeaturesService(world.settings, stages=world.stages())
