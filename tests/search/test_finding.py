"""Search: the same photos as brute force, in the right order, filtered, with copies folded."""

from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from finished_batches import DIMENSION, engine, unit, write_batch
from numpy.typing import NDArray

from curation_features.clip import label_embeddings
from curation_features.clip.vocabulary import load_vocabulary
from curation_features.errors import MissingWeightsError, QueryError, StoreError
from curation_features.search import finding
from curation_features.search.cutoff import count_likely, noise_limit
from curation_features.search.finding import Finder
from curation_features.search.library import Library
from curation_features.search.query import Query, Term
from curation_features.search.ranking import best_places, directions
from curation_features.settings import Settings
from curation_features.testing import FakeClipEngine
from curation_features.versions import text_version
from curation_features.weights import LazyModel

pytest.importorskip("duckdb")
pytest.importorskip("simsimd")

Vector = NDArray[np.float32]
COUNT = 300


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(root=tmp_path)


def names(batch_id: str) -> list[str]:
    return [f"{batch_id}-{number}" for number in range(COUNT)]


@pytest.fixture
def vectors(settings: Settings) -> dict[str, Vector]:
    """The vectors of two batches, by photo, which are written to disk."""
    found: dict[str, Vector] = {}
    for seed, batch_id in enumerate(("one", "two")):
        made = unit(np.random.default_rng(seed).standard_normal((COUNT, DIMENSION)) + 1)
        vectors = dict(zip(names(batch_id), made, strict=True))
        rows = [{"photo_id": name, "height": place, "camera": batch_id} for place, name in enumerate(vectors)]
        write_batch(settings, batch_id, vectors, rows)
        found |= vectors
    return found


@pytest.fixture
def library(settings: Settings, vectors: dict[str, Vector]) -> Library:
    return Library(settings, engine=engine())


def encoded(*texts: str) -> NDArray[np.float64]:
    return FakeClipEngine(DIMENSION).encode_texts(texts).astype(np.float64)


def nearest(vectors: dict[str, Vector], direction: NDArray[np.float64], count: int = 20) -> list[str]:
    cosines = {name: float(vector.astype(np.float64) @ direction) for name, vector in vectors.items()}
    return sorted(cosines, key=lambda name: -cosines[name])[:count]


def test_words_find_the_nearest_photos(library: Library, vectors: dict[str, Vector]) -> None:
    found = library.find(["two parrots"], top=20)
    [text] = encoded("two parrots")
    assert [hit.photo_id for hit in found.hits] == nearest(vectors, text)
    assert found.searched == 2 * COUNT
    first = found.hits[0]
    assert (first.batch_id, first.path) == (first.photo_id[:3], f"photos/{first.photo_id}.jpg")
    cosines = np.stack([*vectors.values()]).astype(np.float64) @ text
    assert first.cosine == pytest.approx(cosines.max(), abs=1e-3)
    assert first.standard == pytest.approx((cosines.max() - cosines.mean()) / cosines.std(), abs=1e-2)


def test_threads_share_the_rows(
    settings: Settings, vectors: dict[str, Vector], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(finding, "_FEWEST_ROWS", 70)
    alone, shared = (Library(settings.replace(workers=workers), engine=engine()) for workers in (1, 3))
    found = shared.find(["two parrots"], top=2 * COUNT)
    assert [hit.photo_id for hit in found.hits[:20]] == nearest(vectors, encoded("two parrots")[0])
    assert found == alone.find(["two parrots"], top=2 * COUNT)
    assert shared.find(["dog"], batches=["two"]) == alone.find(["dog"], batches=["two"])


@pytest.mark.usefixtures("vectors")
def test_a_search_leaves_the_threads_of_torch(settings: Settings) -> None:
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        Library(settings.replace(workers=1), engine=engine()).find(["dog"])
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("count", [1, 7, 700])
@pytest.mark.parametrize("size", [0, 63, 64, 129, 5000])
def test_the_best_scores_are_found_with_ties(size: int, count: int) -> None:
    scores = np.random.default_rng(size).integers(0, 1 + size // 9, size).astype(np.float32)
    scores[::3] = -np.inf  # do not meet a condition
    expected = [place for place in sorted(range(size), key=lambda place: (-scores[place], place)) if place % 3]
    places = best_places(scores, count).tolist()
    assert places == expected[: len(places)]
    assert len(places) >= min(count, len(expected))


def test_weights_and_words_that_are_not_wanted(library: Library, vectors: dict[str, Vector]) -> None:
    dog, beach, cage = encoded("dog", "beach", "cage")
    wanted = dog + 2.5 * beach
    wanted /= np.linalg.norm(wanted)
    without = wanted - (wanted @ cage) * cage
    found = library.find(["dog", "2.5: beach"], without=["cage"], top=20)
    assert [hit.photo_id for hit in found.hits] == nearest(vectors, without)


def test_words_and_a_picture_have_equal_say(library: Library, vectors: dict[str, Vector]) -> None:
    photo = "one-7"
    found = library.find(["dog"], like=[(photo, f"bytes of {photo}")], top=20)
    matrix = np.stack([*vectors.values()]).astype(np.float64)
    cosines = matrix @ np.stack([encoded("dog")[0], vectors[photo].astype(np.float64)]).T
    scores = ((cosines - cosines.mean(axis=0)) / cosines.std(axis=0)).sum(axis=1) / np.sqrt(2)
    order = [name for _, name in sorted(zip(-scores, vectors, strict=True)) if name != photo]
    assert [hit.photo_id for hit in found.hits] == order[:20]
    assert found.hits[0].standard == pytest.approx(-sorted(-scores)[1 if scores.argmax() == 7 else 0], abs=1e-2)


def test_a_photo_is_not_like_itself(library: Library, vectors: dict[str, Vector]) -> None:
    frame = library.similar(("two-3", "bytes of two-3"), top=5, columns=["photo_id", "batch_id"])
    assert [*frame["photo_id"]] == nearest(vectors, vectors["two-3"].astype(np.float64), 6)[1:]
    assert [*frame.columns] == ["cosine", "standard", "copies", "is_likely", "photo_id", "batch_id"]


def test_only_rows_that_meet_the_condition_are_found(library: Library, vectors: dict[str, Vector]) -> None:
    allowed = {name: vector for name, vector in vectors.items() if name in names("two")[:40]}
    found = library.find(["dog"], where="height < 40 AND camera = 'two'", top=1000)
    assert [hit.photo_id for hit in found.hits] == nearest(allowed, encoded("dog")[0], 1000)
    assert [hit.batch_id for hit in library.find(["dog"], batches=["one"], top=9).hits] == ["one"] * 9
    assert len(library.where("height < 40", batches=["two"])) == 40
    assert library.search("dog", where="height < 0").empty


def test_a_slow_condition_is_stopped_if_wanted(settings: Settings, vectors: dict[str, Vector]) -> None:
    slow = "(SELECT max(a.range * b.range) FROM range(100000) AS a, range(100000) AS b) > 1"
    finder = Finder(settings, engine())
    with pytest.raises(QueryError, match=r"takes longer than 0\.2 s"):
        finder.find(["two parrots"], where=slow, seconds=0.2)
    assert finder.find(["two parrots"], where="camera = 'one'", seconds=60).hits


def test_copies_are_folded_and_counted(settings: Settings, library: Library) -> None:
    near = encoded("dog")[0]
    same = {name: unit(near + 0.01 * np.eye(DIMENSION)[place]) for place, name in enumerate(("a", "b", "c", "far"))}
    grouped = {"group_id": "g", "group_kind": "copy"}
    rows = [
        {"photo_id": "a", **grouped, "group_rank": 1},
        {"photo_id": "a", "original_uri": "elsewhere/a.jpg"},
        *({"photo_id": name, **grouped, "group_rank": 2, "group_copy_of": "a"} for name in "bc"),
        {"photo_id": "far"},
    ]
    write_batch(settings, "three", same, rows)
    write_batch(settings, "four", {"a": same["a"]})
    hits = library.find(["dog"], top=2).hits
    assert sorted((hit.photo_id in "abc", hit.copies) for hit in hits) in (
        [(False, 0), (True, 2)],
        [(False, 0), (True, 3)],
    )


def test_vectors_of_another_model_are_not_compared(settings: Settings, library: Library) -> None:
    write_batch(settings, "other", {"x": unit(encoded("dog")[0])}, of="1-of another model")
    found = library.find(["dog"])
    assert "x" not in {hit.photo_id for hit in found.hits}
    assert found.other_versions == 1
    other = Library(settings, engine=LazyModel.ready(FakeClipEngine(DIMENSION), "third"))
    with pytest.raises(StoreError, match="of another version than those of the model in the settings"):
        other.find(["dog"])


def test_photos_of_the_library_need_no_weights(settings: Settings, vectors: dict[str, Vector]) -> None:
    def missing() -> None:
        raise MissingWeightsError("no weights", "fetch them")

    library = Library(settings, engine=LazyModel(missing, missing))  # type: ignore[arg-type]
    assert len(library.find(like=[("one-1", "bytes of one-1")], top=3).hits) == 3
    with pytest.raises(MissingWeightsError):
        library.find(["dog"])


def test_vectors_of_words_are_kept(settings: Settings, vectors: dict[str, Vector]) -> None:
    model = engine()
    for _ in range(2):
        Library(settings, engine=model).find(["dog", "2:cat"])
    assert model.get().texts_encoded == 2
    [damaged, _] = (settings.cache_path / "queries").iterdir()
    damaged.write_bytes(b"1234")
    Library(settings, engine=model).find(["dog", "cat"])
    assert model.get().texts_encoded == 3


def test_a_label_is_a_query_for_free(settings: Settings, vectors: dict[str, Vector]) -> None:
    vocabulary = load_vocabulary(settings)
    stored = unit(np.random.default_rng(9).standard_normal((len(vocabulary.labels), DIMENSION)))
    version = label_embeddings.label_version(text_version(settings, engine().identity), vocabulary)
    header = {"version": version, "labels": len(stored), "logit_scale": 100.0}
    array = io.BytesIO()
    np.save(array, stored)
    settings.cache_path.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(settings.cache_path / label_embeddings.FILE_NAME, "w") as archive:
        archive.writestr("labels/version.json", json.dumps(header))
        archive.writestr("labels/embeddings.npy", array.getvalue())
    model = engine()
    found = Library(settings, engine=model).find([vocabulary.labels[2].upper()], top=20)
    assert [hit.photo_id for hit in found.hits] == nearest(vectors, stored[2].astype(np.float64))
    assert model.get().texts_encoded == 0


def test_a_search_repairs_a_damaged_index(settings: Settings, library: Library) -> None:
    before = library.find(["dog"])
    for path in (settings.data_path / "index").glob("*.rows"):
        path.write_bytes(b"")
    assert Library(settings, engine=engine()).find(["dog"]) == before
    (settings.data_path / "index" / "index.json").write_text(json.dumps({"format": 0}))
    assert Library(settings, engine=engine()).find(["dog"]) == before


@pytest.mark.parametrize(
    ("texts", "options", "cause"),
    [
        ([], {}, "needs words or a picture"),
        (["  "], {}, "is empty"),
        (["2:"], {}, "is empty"),
        (["0:dog"], {}, "is 0"),
        ([], {"without": ["dog"]}, "needs words or a picture"),
        (["dog"], {"without": ["dog"]}, "are the same"),
        ([], {"like": ["nowhere.jpg"]}, "neither a file nor the id"),
        ([], {"like": [("one-1", "other bytes")]}, "no vector of this version"),
        (["dog"], {"where": "heigth > 1"}, "did you mean 'height'"),
    ],
)
def test_a_query_without_meaning_is_refused(
    library: Library, texts: list[str], options: dict[str, object], cause: str
) -> None:
    with pytest.raises(QueryError, match=cause):
        library.find(texts, **options)  # type: ignore[arg-type]


def test_an_unknown_batch_is_refused(library: Library) -> None:
    with pytest.raises(StoreError, match="no finished batch 'ones'; did you mean 'one'"):
        library.find(["dog"], batches=["ones"])


def test_a_time_is_not_a_weight_without_words_after_it() -> None:
    assert Query.parse(["2:golden hour", "at 10:30"]).terms == (Term("golden hour", 2.0), Term("at 10:30"))


def test_a_file_named_like_a_weight_is_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "12:30.jpg").touch()
    like = ["12:30.jpg", "2:12:30.jpg", "2:30.jpg"]
    assert Query.parse([], like).terms == (
        Term("12:30.jpg", 1.0, is_picture=True), Term("12:30.jpg", 2.0, is_picture=True),
        Term("30.jpg", 2.0, is_picture=True),
    )  # fmt: skip


def test_unwanted_words_alone_count_against_a_picture() -> None:
    made = directions([Term("p", is_picture=True), Term("snow", is_wanted=False)], np.eye(2, 4, dtype=np.float32))
    assert made.weights.tolist() == [-1, 1]
    assert made.main.tolist() == [1, 0, 0, 0]


@pytest.mark.parametrize("matches", [0, 1, 12, 40])
def test_the_line_is_between_matches_and_noise(matches: int) -> None:
    rng = np.random.default_rng(matches)
    noise, good = rng.normal(0.15, 0.03, 5000).clip(max=0.24), rng.uniform(0.3, 0.34, matches)
    scores = np.concatenate([noise, good])
    likely = count_likely(-np.sort(-scores), noise_limit(scores))
    assert likely == matches or matches == 0


def test_equal_photos_have_no_spread(settings: Settings) -> None:
    same = unit(encoded("beach")[0])
    write_batch(settings, "one", {"a": same, "b": same})
    found = Library(settings, engine=engine()).find(["dog"])
    assert found.likely is None
    assert [abs(hit.standard) < 1 for hit in found.hits] == [True, True]


def test_an_empty_library_says_what_to_do(settings: Settings) -> None:
    with pytest.raises(StoreError, match="models pull"):
        Library(settings, engine=engine()).find(["dog"])


def test_the_line_of_many_photos_is_that_of_all_scores() -> None:
    scores = np.random.default_rng(0).normal(0.15, 0.03, 600_000).astype(np.float32)
    scores.sort()  # the worst order for a part of them
    lower = scores[: len(scores) // 2]
    low, middle, high = np.quantile(lower, [0.25, 0.5, 0.75])
    limit = noise_limit(scores)
    assert limit is not None
    assert (limit - middle - 4.5 * (high - low)) / 0.03 == pytest.approx(0, abs=0.01)


def test_few_photos_have_no_line() -> None:
    assert count_likely(np.ones(3), noise_limit(np.ones(3))) is None


def test_equal_scores_are_all_noise() -> None:
    assert count_likely(np.full(30, 0.5), noise_limit(np.full(30, 0.5))) == 0
