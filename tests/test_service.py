"""`FeaturesService`: results, cache of each part, and faults of single photos."""

from __future__ import annotations

import json
import logging
import math
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


def reasons(record: dict) -> list[tuple[str, str]]:
    return [(error["stage"], error["reason"]) for error in record["errors"]]


@pytest.fixture
def batch(world) -> dict:
    return {"batch_id": "batch_1", "artifacts": [world.photo(f"{n}.png", n) for n in range(4)], "extra": {"z": 1}}


@pytest.fixture
def lenient(world):
    """Settings that permit degraded runs."""
    return world.settings.replace(on_missing_weights="degrade")


def test_the_output_has_the_specifications_fields(world, batch) -> None:
    found, _ = world.run(batch)
    for record in found:
        assert list(record) == [
            "tech",
            "clip_labels",
            "status",
            "errors",
            "version",
            "signals",
            "flags",
            "embedding_norm",
            "group",
        ]
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
    first, _ = world.run(batch)
    assert world.run(batch) == (first, {})


def test_new_labels_touch_neither_photos_nor_the_image_model(world, batch) -> None:
    world.run(batch)
    (world.root / "config").mkdir()
    labels = ["cat", "dog", "tree", "house", "car", "boat"]
    (world.root / "config" / "labels.json").write_text(json.dumps({"labels": labels}))
    found, done = world.run(batch)
    assert done == {"clip_texts": 6 * 6}
    assert {label["label"] for record in found for label in record["clip_labels"]} <= set(labels)


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
    before, _ = world.run(batch)
    after, done = world.run(batch, world.settings.replace(**change))
    assert set(done) == recomputed
    if "sharpness_scale" in change:
        for old, new in zip(before, after, strict=True):
            ratio = math.atanh(new["tech"]["sharpness"]) / math.atanh(old["tech"]["sharpness"])
            assert ratio == pytest.approx(2, rel=1e-3)
            assert {**old["tech"], "sharpness": 0} == {**new["tech"], "sharpness": 0}
            assert old["version"]["technical"] != new["version"]["technical"]
            assert old["version"]["clip"] == new["version"]["clip"]


def test_a_bad_photo_fails_alone(world, batch) -> None:
    good, _ = world.run(batch)
    path = world.root / "photos" / "1.png"
    path.write_bytes(path.read_bytes()[:-2000])
    batch["artifacts"][2]["original_uri"] = "../elsewhere.png"
    batch["artifacts"].append({"photo_id": "x", "original_uri": "./photos/none.png"})
    result, _ = world.run(batch)
    assert [record["status"] for record in result] == ["ok", "failed", "failed", "ok", "failed"]
    assert reasons(result[1]) == [("photo", "truncated")]
    assert reasons(result[2]) == [("photo", "forbidden_path")]
    assert reasons(result[4]) == [("photo", "missing")]
    assert (result[0], result[3]) == (good[0], good[3])
    assert result[1]["tech"] == {"sharpness": 0, "exposure": 0, "noise": 1, "clip_iqa": 0, "brisque": 0}
    labels = ["photography", "landscape", "nature", "outdoor", "scenic"]
    assert [label["label"] for label in result[1]["clip_labels"]] == labels


def unread(uri: object, **fields: str) -> dict:
    """The artifact of a photo that ingest could not read."""
    error = {"reason": "truncated", "message": "the file ends early; copy it again", **fields}
    return {"photo_id": f"id of {uri}", "original_uri": str(uri), "ingest_error": error}


def test_the_ingest_error_counts_for_forbidden_originals(world, tmp_path_factory) -> None:
    outside = tmp_path_factory.mktemp("outside") / "cut.jpg"
    Image.new("RGB", (64, 48)).save(outside)  # repaired meanwhile, but not readable for the run
    artifacts = [unread(outside), unread("s3://bucket/a.jpg"), unread(outside)]
    found, _ = world.run({"batch_id": "b", "artifacts": artifacts})
    assert [record["status"] for record in found] == ["failed"] * 3
    assert [reasons(record) for record in found] == [[("photo", "truncated")]] * 3
    message = "the file ends early; copy it again; ingest the folder again once it is repaired"
    assert {error["message"] for record in found for error in record["errors"]} == {message}
    assert world.decoded == []


def test_the_error_of_the_run_counts_for_allowed_originals(world) -> None:
    repaired = world.photo("repaired.png")
    (world.root / "photos" / "empty.png").touch()
    uris = (repaired["original_uri"], "./photos/empty.png", "./photos/gone.png")
    (first, *others), _ = world.run({"batch_id": "b", "artifacts": [unread(uri) for uri in uris]})
    assert first["status"] == "ok"
    assert [reasons(record) for record in others] == [[("photo", "unreadable")], [("photo", "missing")]]


def test_an_invalid_ingest_error_hides_no_failure(world) -> None:
    artifacts = [unread("/etc/hostname", reason="fine"), unread("/etc/hosts", message="")]
    found, _ = world.run({"batch_id": "b", "artifacts": artifacts})
    assert [reasons(record) for record in found] == [[("photo", "forbidden_path")]] * 2


def test_a_flat_photo_is_degraded_and_its_error_is_cached(world) -> None:
    Image.new("RGB", (64, 48), "gray").save(world.root / "flat.png")
    batch = {"batch_id": "b", "artifacts": [{"photo_id": "flat", "original_uri": "flat.png"}]}
    [record], _ = world.run(batch)
    assert record["status"] == "degraded"
    assert ("noise", "flat_image") in reasons(record)
    assert record["tech"]["noise"] == 1.0
    assert world.run(batch) == ([record], {})


def test_missing_weights_stop_a_run_before_any_photo_is_read(world, batch) -> None:
    with pytest.raises(MissingWeightsError, match=r"(?s)(CLIP is not here.*BRISQUE is not here|BRISQUE.*CLIP)"):
        world.run(batch, clip=absent("CLIP"), brisque=absent("BRISQUE"))
    assert world.counts()["decoded"] == 0


def test_a_degraded_run_measures_the_rest_and_heals_later(world, batch, lenient, caplog) -> None:
    with caplog.at_level(logging.WARNING):
        degraded, _ = world.run(batch, lenient, clip=absent("CLIP"))
    assert caplog.text.count("CLIP is not here") == 1
    for record in degraded:
        assert record["status"] == "degraded"
        assert reasons(record) == [("image_embedding", "missing_weights")]
        assert all(label["confidence"] == 0.0 for label in record["clip_labels"])
    assert world.run(batch, lenient, clip=absent("CLIP")) == (degraded, {})
    healed, done = world.run(batch)
    assert done == {"decoded": 4, "clip_images": 4, "clip_texts": 300}
    assert [record["status"] for record in healed] == ["ok"] * 4


@pytest.mark.parametrize("size", [1, 2, 3, 64])
def test_the_batch_size_changes_nothing(world, batch, size) -> None:
    expected, _ = world.run(batch)
    world.stages().cache.clear()
    assert world.run(batch, world.settings.replace(batch_size=size))[0] == expected


def test_the_order_of_a_batch_changes_nothing(world, batch) -> None:
    expected, _ = world.run(batch)
    world.stages().cache.clear()
    assert world.run({**batch, "artifacts": batch["artifacts"][::-1]})[0] == expected[::-1]


def test_a_repeated_photo_is_computed_once(world, batch) -> None:
    batch["artifacts"].append({**batch["artifacts"][0], "note": "again"})
    found, done = world.run(batch)
    assert done["decoded"] == 4
    assert found[0] == found[4]


def test_one_id_for_two_images_is_an_error(world, batch) -> None:
    batch["artifacts"][3]["photo_id"] = batch["artifacts"][0]["photo_id"]
    with pytest.raises(ManifestError, match=r"^artifacts\[3\]\.photo_id: "):
        world.run(batch)


def test_one_id_for_copies_of_an_image_some_missing_is_fine(world, batch) -> None:
    copy = world.root / "photos" / "copy.png"
    copy.write_bytes((world.root / "photos" / "0.png").read_bytes())
    batch["artifacts"][3] = {**batch["artifacts"][0], "original_uri": "./photos/copy.png"}
    found, done = world.run(batch)
    without_group = [{**features, "group": None} for features in found]
    assert without_group[0] == without_group[3]
    assert [features["group"]["rank"] for features in (found[0], found[3])] == [1, 2]
    assert done["decoded"] == done["clip_images"] == 3
    copy.unlink()
    found, _ = world.run(batch)
    assert [reasons(features) for features in found] == [[], [], [], [("photo", "missing")]]


def test_an_empty_batch_is_a_batch(world) -> None:
    empty = {"batch_id": "b", "artifacts": []}
    assert FeaturesService(stages=world.stages()).process(empty) == empty


def test_one_structured_line_per_batch(world, batch, caplog) -> None:
    with caplog.at_level(logging.INFO, logger="curation_features"):
        world.run(batch)
    [record] = [record for record in caplog.records if "Features extracted for batch" in record.getMessage()]
    fields = record.curation_features
    assert fields["batch_id"] == "batch_1"
    assert (fields["photos"], fields["ok"], fields["cached"]) == (4, 4, 0)
    assert fields["flagged"] == 4  # faint noise: dark
    assert fields["seconds_decode"] > 0


def test_an_event_is_processed_like_its_manifest(world, batch) -> None:
    event = {"specversion": "1.0", "type": "preprocess.completed", "id": "1", "source": "/preprocess", "data": batch}
    service = FeaturesService(stages=world.stages())
    assert service.process(event) == service.process(batch)


def unloadable(error: Exception) -> tuple[LazyModel, list[int]]:
    """A model that fails to load, and a list with an item per attempt."""
    tries: list[int] = []

    def load(_: Weights) -> None:
        tries.append(1)
        raise error

    return LazyModel(lambda: Weights("broken", Path(), "0" * 64), load), tries


def test_a_missing_device_or_any_fault_of_a_strict_run_stops_it(world, batch, lenient) -> None:
    for error, given in (
        (SettingsError("device: 'cuda' is not available"), lenient),
        (InvalidWeightsError("the checkpoint is damaged"), world.settings),
    ):
        with pytest.raises(type(error), match=str(error)):
            world.run(batch, given, clip=unloadable(error)[0])


@pytest.mark.parametrize("error", [InvalidWeightsError("damaged", "damaged"), MemoryError("too big")])
@pytest.mark.parametrize("part", ["clip", "clip_iqa", "brisque"])
def test_an_unloadable_model_is_tried_once_and_degrades(world, batch, lenient, part, error) -> None:
    model, tries = unloadable(error)
    found, _ = world.run(batch, lenient, **{part: model})
    reason = "invalid_weights" if isinstance(error, InvalidWeightsError) else "load_failed"
    stage = "image_embedding" if part == "clip" else part
    assert [reasons(record) for record in found] == [[(stage, reason)]] * 4
    assert len(tries) == 1


def test_new_labels_with_a_model_that_cannot_be_loaded_degrade(world, batch, lenient) -> None:
    model, _ = unloadable(InvalidWeightsError("damaged"))
    world.run(batch, lenient, clip=LazyModel(lambda: Weights("broken", Path(), "0" * 64), lambda _: world.clip))
    world.stages().cache.label_embeddings.unlink()
    found, _ = world.run(batch, lenient.replace(temperature=3.0), clip=model)
    assert [reasons(record) for record in found] == [[("clip_labels", "invalid_weights")]] * 4


def test_the_pixel_limit_holds_for_cached_photos_too(world, batch) -> None:
    world.run(batch)
    found, _ = world.run(batch, world.settings.replace(max_pixels=10))
    assert [reasons(record) for record in found] == [[("photo", "too_large")]] * 4


def test_a_stored_vector_of_another_length_harms_no_neighbour(world, batch) -> None:
    expected, _ = world.run(batch)
    first = batch["artifacts"][0]["photo_id"]
    entry = world.stages().cache.load(first, first)
    entry.embedding = Embedding(np.full(4, 0.5, np.float32))
    del entry.versions["labels"]
    entry.prediction = None
    world.stages().cache.save(first, entry)
    found, _ = world.run(batch)
    assert reasons(found[0]) == [("clip_labels", "invalid_embedding")]
    assert found[1:] == expected[1:]


def test_norms_are_measured_with_their_vectors_only(world, batch) -> None:
    """An entry of an earlier release keeps its vector and labels; its norm stays unknown."""
    pixels = [np.asarray(Image.open(world.root / one["original_uri"])) for one in batch["artifacts"]]
    norms = world.clip.embed_images(np.stack([world.clip.preprocess(rgb) for rgb in pixels])).norms
    sound, _ = world.run(batch)
    assert [record["embedding_norm"] for record in sound] == pytest.approx(norms, abs=5e-7)
    first, cache = batch["artifacts"][0]["photo_id"], world.stages().cache
    entry = cache.load(first, first)
    entry.embedding = Embedding(entry.embedding.vector)
    cache.save(first, entry)
    found, done = world.run(batch)
    assert done == {}
    assert found == [sound[0] | {"embedding_norm": None}, *sound[1:]]
    (world.root / "photos" / "1.png").write_bytes(b"")
    assert world.run(batch)[0][1]["embedding_norm"] is None


def test_settings_and_stages_are_not_mixed(world) -> None:
    with pytest.raises(ValueError, match="not both"):
        FeaturesService(world.settings, stages=world.stages())
