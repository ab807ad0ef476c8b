"""Correct files pass every check; each kind of damage fails its check."""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
import os
import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import scipy.stats
from PIL import Image
from worlds import World

from curation_features.manifest import Batch, batch_from
from curation_features.schema import METRIC_NAMES
from curation_features.service import FeaturesService
from curation_features.settings import Settings
from curation_features.storage import tables
from curation_features.storage.artifacts import ArtifactStore
from curation_features.verification import CHECKS, cached_share, degraded_share, files, flag_shift, label_shift, verify

COMPLETE, UNCHANGED, IN_RANGE, FINITE = "artifacts_complete", "metadata_unchanged", "schema_and_ranges", "values_finite"
Damages = dict[str, tuple[Callable[[Any], Any], set[str], str]]
"""A change to the document or the table, the checks that fail, and a part of a problem; by name."""

NUMBERS = {"c": -0.0, "n": np.float64(0.5), "big": 10**30}
NESTED = {"a": [1, {"b": True, "z": None, "y": 1.0}], **NUMBERS, "": "", "<i>|`x`": "é\u202e"}


@dataclass
class Finished:
    """A finished batch on disk, and methods to damage its files."""

    batch: Batch
    json_path: Path
    table_path: Path
    embeddings_path: Path

    def problems(self) -> dict[str, list[str]]:
        """The problems of each failed check."""
        found = verify(self.batch, self.json_path, self.table_path, self.embeddings_path)
        return {name: texts for name, texts in found.items() if texts}

    @property
    def document(self) -> dict[str, Any]:
        return json.loads(self.json_path.read_text())

    def edit_json(self, change: Callable[[Any], object]) -> None:
        """Change the document in place."""
        document = self.document
        change(document)
        self.json_path.write_text(json.dumps(document))

    def edit_table(self, change: Callable[[pa.Table], pa.Table], path: Path | None = None) -> None:
        path = path or self.table_path
        pq.write_table(change(pq.read_table(path)), path)

    def copy_to(self, folder: Path) -> Finished:
        """The same batch with its files in another folder."""
        paths = (self.json_path, self.table_path, self.embeddings_path)
        copies = [folder / path.parent.name / path.name for path in paths]
        for path, copied in zip(paths, copies, strict=True):
            copied.parent.mkdir(exist_ok=True)
            shutil.copy(path, copied)
        return Finished(self.batch, *copies)


def finish(world: World, batch: Batch) -> Finished:
    store = ArtifactStore(world.root / "data")
    with store.embeddings(batch.batch_id, "version", "model") as vectors:
        merged = FeaturesService(stages=world.stages()).run(batch, vectors.add)
        artifact = store.write_features(merged.document, merged.rows(), merged.version, ["label"], vectors)
    return Finished(batch, artifact.json_path, artifact.table_path, artifact.embeddings_path)


@pytest.fixture(scope="module")
def original(tmp_path_factory) -> Finished:
    """Photos 0, 1, 5: ok; 2: degraded (flat); 3: failed; 4: like 0, other metadata."""
    world = World(tmp_path_factory.mktemp("original"))
    Image.new("RGB", (64, 48), "gray").save(world.root / "flat.png")
    first, second, last = (world.photo(f"{n}.png", n) for n in range(3))
    artifacts = [
        {**first, "nested": NESTED, "features": {"from": "elsewhere"}},
        {**second, "exif": {"iso": 64, "camera": "X", "lens": "35", "datetime": "2024:02:29 10:00:00"}},
        {"photo_id": "flat", "original_uri": "flat.png", "exif": {"iso": 64}},
        {"photo_id": "<b>gone</b> and more than is shown", "original_uri": "no\ud800.jpg", "exif": {"iso": 64}},
        {**first, "exif": {"iso": 100}, "features": None},
        last,
    ]
    document = {"note": {"x": [1.5, None]}, "batch_id": "mixed", "artifacts": artifacts, "extra": NESTED}
    return finish(world, batch_from(document))


@pytest.fixture
def finished(original, tmp_path) -> Finished:
    return original.copy_to(tmp_path)


def at(document: Any, *steps: str | int) -> Any:
    for step in steps:
        document = document[step]
    return document


def put(value: Any, *steps: str | int) -> Callable[[Any], None]:
    """Set the value at `steps` of the document."""

    def change(document: Any) -> None:
        at(document, *steps[:-1])[steps[-1]] = value

    return change


def on(change: Callable[[Any], object], *steps: str | int) -> Callable[[Any], object]:
    """Change the value at `steps` of the document in place."""
    return lambda document: change(at(document, *steps))


def tech(number: int, name: str, value: Any) -> Callable[[Any], None]:
    return put(value, "artifacts", number, "features", "tech", name)


def label(number: int, index: int, name: str, value: Any) -> Callable[[Any], None]:
    return put(value, "artifacts", number, "features", "clip_labels", index, name)


def features(number: int, name: str, value: Any) -> Callable[[Any], None]:
    return put(value, "artifacts", number, "features", name)


def reorder(members: dict[str, Any]) -> None:
    name = next(iter(members))
    members[name] = members.pop(name)


def leaves(value: Any, steps: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for step, item in items:
        yield from leaves(item, (*steps, step)) if isinstance(item, (dict, list)) else [(*steps, step)]


# --- Correct files ---


def test_correct_files_pass_every_check(finished) -> None:
    statuses = [artifact["features"]["status"] for artifact in finished.document["artifacts"]]
    assert statuses == ["ok", "ok", "degraded", "failed", "ok", "ok"]
    assert verify(finished.batch, finished.json_path, finished.table_path, finished.embeddings_path) == {
        check.name: [] for check in CHECKS if check.blocking
    }


@pytest.mark.parametrize("artifacts", [[], [{"photo_id": "gone", "original_uri": "gone.jpg"}]])
def test_a_batch_without_photos_or_vectors_passes(world, artifacts) -> None:
    finished = finish(world, world.batch(artifacts))
    assert finished.problems() == {}
    assert pq.read_table(finished.embeddings_path).column("embedding").to_pylist() == [None] * len(artifacts)
    finished.edit_json(on(lambda artifacts: artifacts.append({"photo_id": "x"}), "artifacts"))
    assert set(finished.problems()) == {COMPLETE}


def test_rows_are_counted_over_row_groups(finished, monkeypatch) -> None:
    monkeypatch.setattr(files, "ROWS_PER_GROUP", 2)
    monkeypatch.setattr(tables, "ROWS_READ", 2)
    assert finished.problems() == {}
    finished.edit_table(lambda table: with_value(table, "noise", 5, math.inf))
    assert set(finished.problems()) == {FINITE, IN_RANGE}
    assert all(text.startswith("row 5 (") for [text] in finished.problems().values())


def test_the_checks_and_which_of_them_block() -> None:
    assert {check.name: check.blocking for check in CHECKS} == {
        **dict.fromkeys((COMPLETE, UNCHANGED, IN_RANGE, FINITE), True),
        **dict.fromkeys(("few_degraded", "labels_as_usual", "flags_as_usual", "cache_effective"), False),
    }
    assert all(check.description for check in CHECKS)


# --- The JSON ---

LABELS = ("artifacts", 1, "features", "clip_labels")
GROUP = {
    "id": "g", "kind": "copy", "what": "", "rank": 1, "size": 2, "similarity": 0.5, "copy_of": None,
    "copy_of_path": None, "reason": "r",
}  # fmt: skip
JSON_DAMAGE: Damages = {
    "an artifact dropped": (on(lambda all: all.pop(1), "artifacts"), {COMPLETE}, "artifacts[1] (photo "),
    "all artifacts dropped": (put([], "artifacts"), {COMPLETE}, "is missing"),
    "two artifacts swapped": (
        on(lambda all: all.insert(1, all.pop(2)), "artifacts"), {COMPLETE}, "artifacts[1] (photo flat): is out of",
    ),
    "an artifact twice": (on(lambda all: all.append(all[1]), "artifacts"), {COMPLETE}, "artifacts[6]"),
    "a foreign artifact": (on(lambda all: all.append({"photo_id": "z"}), "artifacts"), {COMPLETE}, "(photo z): is not"),
    "an artifact that is null": (put(None, "artifacts", 2), {COMPLETE}, "artifacts[2] (no photo_id)"),
    "metadata of twins swapped": (
        on(lambda all: all.insert(0, all.pop(4)), "artifacts"), {COMPLETE, UNCHANGED}, "exif.iso: has another value",
    ),
    "a deep value": (put(2, "artifacts", 0, "nested", "a", 0), {UNCHANGED}, "nested.a[0]: has another value"),
    "1 becomes 1.0": (put(1.0, "artifacts", 0, "nested", "a", 0), {UNCHANGED}, "is float instead of int"),
    "1 becomes true": (put(True, "artifacts", 0, "nested", "a", 0), {UNCHANGED}, "is bool instead of int"),
    "-0.0 becomes 0.0": (put(0.0, "artifacts", 0, "nested", "c"), {UNCHANGED}, "nested.c: has another value"),
    "a large integer": (put(10**30 + 1, "extra", "big"), {UNCHANGED}, "top level: extra.big: has another value"),
    "a large integer as a float": (put(1e30, "extra", "big"), {UNCHANGED}, "extra.big: is float"),
    "a list cut": (on(lambda items: items.pop(), "note", "x"), {UNCHANGED}, "note.x[1]: is missing"),
    "a field gone": (on(lambda all: all.pop("exif"), "artifacts", 1), {UNCHANGED}, "exif: is missing"),
    "a field more": (put(1, "artifacts", 1, "more"), {UNCHANGED}, "more: is new"),
    "fields in another order": (on(reorder, "artifacts", 1), {UNCHANGED}, "photo_id: has another position"),
    "deep fields in another order": (on(reorder, "artifacts", 0, "nested", "a", 1), {UNCHANGED}, "nested.a[1].b: has"),
    "top fields in another order": (reorder, {UNCHANGED}, "top level: note: has another position"),
    "a top field more": (put(1, "features"), {UNCHANGED}, "features: is new"),
    "a field of features more": (features(1, "more", 1), {IN_RANGE}, "features: needs exactly"),
    "no tech": (features(1, "tech", None), {IN_RANGE}, "features.tech"),
    "a score gone": (on(lambda all: all.pop("noise"), "artifacts", 1, "features", "tech"), {IN_RANGE}, "features.tech"),
    "a score above 1": (tech(1, "noise", 1.2), {IN_RANGE}, "features.tech.noise: 1.2"),
    "a score below 0": (tech(1, "noise", -1e-9), {IN_RANGE}, "features.tech.noise"),
    "a score that is an integer": (tech(1, "noise", 1), {IN_RANGE}, "features.tech.noise"),
    "another score than in the table": (tech(1, "noise", 0.123456), {IN_RANGE}, "should be 0.123456 by the JSON"),
    "a NaN score": (tech(1, "noise", math.nan), {IN_RANGE, FINITE}, "features.tech.noise: is not finite"),
    "a NaN in the metadata": (
        put(math.nan, "artifacts", 1, "exif", "iso"), {UNCHANGED, FINITE}, "exif.iso: is not finite",
    ),
    "an infinity at the top": (put(-math.inf, "note", "x", 0), {UNCHANGED, FINITE}, "top level: note.x[0]: is not"),
    "a default that is not the worst": (tech(2, "noise", 0.0), {IN_RANGE}, "should be the default 1.0"),
    "labels out of order": (on(lambda labels: labels.reverse(), *LABELS), {IN_RANGE}, "descending"),
    "four labels": (on(lambda labels: labels.pop(), *LABELS), {IN_RANGE}, "list of 5"),
    "a label twice": (on(lambda labels: labels[1].update(label=labels[0]["label"]), *LABELS), {IN_RANGE}, "more than"),
    "a negative cosine": (label(1, 4, "cosine_score", -0.1), {IN_RANGE}, "clip_labels[4]"),
    "a label that is null": (label(1, 4, "label", None), {IN_RANGE}, "clip_labels[4]"),
    "a field of a label more": (label(1, 4, "rank", 5), {IN_RANGE}, "clip_labels[4]"),
    "default labels with a confidence": (label(3, 0, "confidence", 0.5), {IN_RANGE}, "should be the default 0.0"),
    "default labels with a cosine": (label(3, 0, "cosine_score", 0.5), {IN_RANGE}, "should be the default 0.0"),
    "ok with errors": (features(2, "status", "ok"), {IN_RANGE}, "features.status: is ok, should be degraded"),
    "failed with values": (features(2, "status", "failed"), {IN_RANGE}, "should be degraded"),
    "degraded without values": (features(3, "status", "degraded"), {IN_RANGE}, "should be failed"),
    "degraded without errors": (features(1, "status", "degraded"), {IN_RANGE}, "should be ok"),
    "errors gone": (features(2, "errors", []), {IN_RANGE}, "features.status: is degraded, should be ok"),
    "errors and status gone": (
        on(lambda found: found.update(errors=[], status="ok"), "artifacts", 2, "features"), {IN_RANGE}, "noise: is",
    ),
    "an error too many": (
        features(1, "errors", [{"stage": "noise", "reason": "r", "message": ""}]), {IN_RANGE}, "features.tech.noise",
    ),
    "errors that are null": (features(1, "errors", None), {IN_RANGE}, "features.errors: is not a list"),
    "an error of no stage": (
        features(1, "errors", [{"stage": "weather", "reason": "", "message": ""}]), {IN_RANGE}, "weather is none of",
    ),
    "an error without a message": (features(1, "errors", [{"stage": "noise", "reason": "r"}]), {IN_RANGE}, "errors[0]"),
    "a negative norm": (features(1, "embedding_norm", -1.0), {IN_RANGE}, "features.embedding_norm: -1.0 is neither"),
    "a norm of no vector": (features(3, "embedding_norm", 9.0), {IN_RANGE}, "embedding_norm: has an error, so it"),
    "a group that is a text": (features(1, "group", "g"), {IN_RANGE}, "features.group: needs exactly"),
    "a group without a photo": (features(1, "group", GROUP), {IN_RANGE}, "group_id: is None, should be g by the JSON"),
    "a group of one": (features(0, "group", {**GROUP, "size": 1}), {IN_RANGE}, "features.group.size: is 1"),
    "a rank below all": (features(0, "group", {**GROUP, "rank": 3}), {IN_RANGE}, "features.group.rank: is 3 of 2"),
    "rank 0": (features(0, "group", {**GROUP, "rank": 0}), {IN_RANGE}, "features.group.rank: 0 is less than 1"),
    "another kind": (features(0, "group", {**GROUP, "kind": "pile"}), {IN_RANGE}, "pile is none of copy, burst, set"),
    "a group of a failed photo": (features(3, "group", GROUP), {IN_RANGE}, "group: has an error, so it should be null"),
    "a version that is a number": (features(1, "version", {"technical": "t", "clip": 1}), {IN_RANGE}, "version"),
}  # fmt: skip


def test_files_of_an_earlier_release_have_no_norms(finished) -> None:
    finished.edit_json(lambda found: [artifact["features"].pop("embedding_norm") for artifact in found["artifacts"]])
    finished.edit_table(lambda table: table.drop_columns("embedding_norm"), finished.embeddings_path)
    found = finished.problems()[IN_RANGE]
    assert len(found) == 5  # of the table, which has norms that the JSON has not
    finished.edit_table(lambda table: table.drop_columns("embedding_norm"))
    assert finished.problems() == {}


@pytest.mark.long
def test_every_changed_value_is_found(finished) -> None:
    whole = finished.document
    for steps in leaves(whole):
        if steps[:2] in (("artifacts", 4), ("artifacts", 5)):  # like 0 and 1
            continue
        finished.json_path.write_text(json.dumps(whole))
        finished.edit_json(put("changed", *steps))
        found = set(finished.problems())
        if steps[-1] == "photo_id":  # it may be matched with another artifact of that photo
            assert COMPLETE in found, steps
        elif steps[-1] == "label" and steps[1] == 3:  # the choice of default labels is stored nowhere else
            assert found == set(), steps
        else:
            assert found == {IN_RANGE if "features" in steps else UNCHANGED}, steps


def test_a_changed_manifest_is_found(finished) -> None:
    finished.batch = dataclasses.replace(finished.batch, digest="0" * 64)
    [text] = finished.problems()[UNCHANGED]
    assert text.startswith("manifest: ")


def test_artifacts_are_matched_by_photo_after_a_loss(finished) -> None:
    def change(document) -> None:
        del document["artifacts"][1]
        document["artifacts"][1]["exif"]["iso"] = 65

    finished.edit_json(change)
    [lost], [changed] = finished.problems()[COMPLETE], finished.problems()[UNCHANGED]
    assert lost.startswith("artifacts[1] (photo ")
    assert changed == "artifacts[1] (photo flat): exif.iso: has another value"


# --- The table ---


def with_value(table: pa.Table, name: str, row: int, value: Any) -> pa.Table:
    """Replace one value of the table."""
    values = table.column(name).to_pylist()
    values[row] = value
    return with_column(table, name, pa.array(values, table.schema.field(name).type))


def with_column(table: pa.Table, name: str, column: Any) -> pa.Table:
    return table.set_column(table.column_names.index(name), name, column)


def cell(name: str, row: int, value: Any) -> Callable[[pa.Table], pa.Table]:
    return lambda table: with_value(table, name, row, value)


def cast(name: str, kind: pa.DataType) -> Callable[[pa.Table], pa.Table]:
    return lambda table: with_column(table, name, table.column(name).cast(kind))


def rows(*order: int) -> Callable[[pa.Table], pa.Table]:
    return lambda table: table.take(list(order))


NO_LABELS = [{"label": str(n), "confidence": 0.0, "cosine_score": 0.0} for n in range(5)]
TABLE_DAMAGE: Damages = {
    "a row dropped": (rows(0, 1, 3, 4, 5), {COMPLETE}, "row 2 (photo flat): is missing"),
    "two rows swapped": (rows(0, 2, 1, 3, 4, 5), {COMPLETE}, "row 1 (photo flat): is out of order"),
    "a row twice": (rows(0, 1, 2, 2, 3, 4, 5), {COMPLETE}, "row 3 (photo flat)"),
    "an artifact that is no JSON": (cell("artifact", 1, "{"), {UNCHANGED}, "artifact: is not valid JSON"),
    "an artifact that is nested without end": (cell("artifact", 1, "[" * 200_000), {UNCHANGED}, "is not valid JSON"),
    "a score where null is": (cell("noise", 2, 1.0), {IN_RANGE}, "noise: is 1.0, should be None"),
    "a score of a photo that failed": (cell("exposure", 3, 0.0), {IN_RANGE}, "exposure: is 0.0, should be None"),
    "labels of a photo that failed": (cell("clip_labels", 3, NO_LABELS), {IN_RANGE}, "clip_labels: is a list"),
    "inf in a raw measurement": (cell("tenengrad", 1, math.inf), {FINITE}, "tenengrad: is not finite"),
    "NaN in a list": (cell("label_cosines", 1, [0.1, math.nan]), {FINITE}, "label_cosines[1]: is not finite"),
    "NaN in a score": (cell("noise", 1, math.nan), {FINITE, IN_RANGE}, "noise: is not finite"),
    "NaN deep in a list": (
        cell("clip_labels", 1, [{**NO_LABELS[0], "confidence": math.nan}]), {FINITE, IN_RANGE},
        "clip_labels[0].confidence: is not finite",
    ),
    "a column missing": (lambda table: table.drop_columns("noise"), {IN_RANGE}, "table.noise: column is missing"),
    "the ids missing": (lambda table: table.drop_columns("photo_id"), {IN_RANGE, COMPLETE}, "rows cannot be checked"),
    "a column more": (
        lambda table: table.append_column("mo|re", table.column("noise")), {IN_RANGE}, "table.mo?re: column is not",
    ),
    "a column twice": (
        lambda table: table.append_column("noise", table.column("noise")), {IN_RANGE}, "noise: column occurs more",
    ),
    "columns in another order": (
        lambda table: table.select(table.column_names[::-1]), {IN_RANGE}, "its columns are in another order",
    ),
    "scores as float32": (cast("noise", pa.float32()), {IN_RANGE}, "column is of type float, not double"),
    "ids as bytes": (cast("photo_id", pa.binary()), {IN_RANGE, COMPLETE}, "table.photo_id"),
}  # fmt: skip


ANOTHER: dict[str, dict[str, Any]] = {  # other values of the columns that are compared, by check
    COMPLETE: {"photo_id": "z", "position": 4, "batch_id": "b", "image_uri": "b"},
    UNCHANGED: {
        **{"original_uri": "y", "taken": datetime(2024, 2, 29, 10, 0, 1), "camera": "Y", "lens": "Y", "iso": 65},
        "artifact": "{}",
    },
    IN_RANGE: {
        **dict.fromkeys((*METRIC_NAMES, "confidence", "embedding_norm"), 0.5),
        **dict.fromkeys(("status", "label", "version_technical", "version_clip"), "x"),
        "errors": [{"stage": "noise", "reason": "r", "message": ""}],
        "clip_labels": NO_LABELS,
    },
}


@pytest.mark.parametrize(("check", "name"), [(check, name) for check, values in ANOTHER.items() for name in values])
def test_each_column_is_compared_with_manifest_and_json(finished, check, name) -> None:
    for value in (ANOTHER[check][name], None):
        finished.edit_table(cell(name, 1, value))
        [*problems] = finished.problems().items()
        assert [found for found, _ in problems] == [check]
        assert re.match(rf"row 1 \((no photo_id|photo .+)\): ({name}: |is not in)", problems[0][1][-1])


def test_a_lone_surrogate_is_compared_as_the_table_stores_it(finished) -> None:
    errors = finished.document["artifacts"][3]["features"]["errors"]
    finished.edit_json(features(3, "errors", [errors[0] | {"message": "no file \ud800"}]))
    assert set(finished.problems()) == {IN_RANGE}
    finished.edit_table(cell("errors", 3, [errors[0] | {"message": "no file ?"}]))
    assert finished.problems() == {}


# --- The embeddings: of 0, 1, 2 and 5, then none of 3 ---


def scaled(factor: float) -> Callable[[pa.Table], pa.Table]:
    return lambda table: with_value(table, "embedding", 1, [factor * value for value in vector_of(table, 1)])


def vector_of(table: pa.Table, row: int) -> list[float]:
    return table.column("embedding")[row].as_py()


EMBEDDINGS_DAMAGE: Damages = {
    "a row dropped": (rows(0, 1, 3, 4), {COMPLETE}, "(photo flat): is missing"),
    "two rows swapped": (rows(0, 2, 1, 3, 4), {COMPLETE}, "embeddings, row 1 (photo flat): is out of order"),
    "a row twice": (rows(0, 1, 2, 2, 3, 4), {COMPLETE}, "embeddings, row 3 (photo flat)"),
    "another photo_id": (cell("photo_id", 1, "z"), {COMPLETE}, "embeddings, row 1 (photo z)"),
    "another batch": (cell("batch_id", 1, "b"), {COMPLETE}, "row 1 (photo "),
    "a vector lost": (cell("embedding", 0, None), {COMPLETE, IN_RANGE}, "row 0 ("),
    "a vector too long": (scaled(1.01), {IN_RANGE}, "embedding: has norm 1.01"),
    "a vector of another model": (cell("embedding", 2, [0.6, 0.8]), {IN_RANGE}, "row 2 (photo flat): embedding: has 2"),
    "NaN in a vector": (cell("embedding", 2, [math.nan] * 8), {FINITE, IN_RANGE}, "embedding: is not finite"),
    "infinity in a vector": (scaled(math.inf), {FINITE}, "embedding: is not finite"),
    "a negative norm": (cell("embedding_norm", 1, -1.0), {IN_RANGE}, "embedding_norm: is -1, which is negative"),
    "a norm without a vector": (cell("embedding_norm", 4, 1.0), {IN_RANGE}, "embedding_norm: belongs to no vector"),
    "a norm that is not finite": (cell("embedding_norm", 1, math.nan), {FINITE}, "embedding_norm: is not finite"),
    "the ids missing": (lambda table: table.drop_columns("photo_id"), {IN_RANGE, COMPLETE}, "rows cannot be checked"),
    "the vectors missing": (lambda table: table.drop_columns("embedding"), {IN_RANGE, COMPLETE}, "rows cannot be"),
    "vectors in double precision": (cast("embedding", pa.list_(pa.float64())), {IN_RANGE, COMPLETE}, "of type list"),
}  # fmt: skip


DAMAGES = {"json_path": JSON_DAMAGE, "table_path": TABLE_DAMAGE, "embeddings_path": EMBEDDINGS_DAMAGE}


@pytest.mark.parametrize(("name", "damage"), [(name, damage) for name, all in DAMAGES.items() for damage in all])
def test_damage_is_found_by_its_check(finished, name, damage) -> None:
    change, checks, text = DAMAGES[name][damage]
    if name == "json_path":
        finished.edit_json(change)
    else:
        finished.edit_table(change, getattr(finished, name))
    found = finished.problems()
    assert set(found) == checks
    assert text in "\n".join(itertools.chain(*found.values()))


def test_a_vector_with_a_hole_cannot_be_read(finished) -> None:
    finished.edit_table(
        lambda table: with_value(table, "embedding", 1, [None, *vector_of(table, 1)[1:]]), finished.embeddings_path
    )
    assert "null" in unreadable(finished, finished.embeddings_path)


# --- Files that cannot be read ---


def unreadable(finished: Finished, path: Path) -> str:
    """Assert that every check reports a file as unreadable; return the cause."""
    found = finished.problems()
    assert set(found) == {COMPLETE, UNCHANGED, IN_RANGE, FINITE}
    cause = found[COMPLETE][0]
    assert cause.startswith(f"{path.parent.name}/{path.name}: cannot be read (")
    assert cause.endswith("materialize features again")
    assert all(found[name][0] == f"could not check: {cause}" for name in found if name != COMPLETE)
    return cause


FILE_DAMAGE: dict[str, Callable[[Path], object]] = {
    "missing": Path.unlink,
    "cut in the middle": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "noise": lambda path: path.write_bytes(bytes(range(256)) * 9),
    "zeros in its data": lambda path: path.write_bytes(path.read_bytes()[:4] + bytes(596) + path.read_bytes()[600:]),
    "a folder": lambda path: (path.unlink(), path.mkdir()),
    "a FIFO": lambda path: (path.unlink(), os.mkfifo(path)),
    "a link to itself": lambda path: (path.unlink(), path.symlink_to(path.name)),
}


@pytest.mark.parametrize("damage", FILE_DAMAGE)
@pytest.mark.parametrize("name", ["json_path", "table_path", "embeddings_path"])
def test_an_unreadable_file_is_a_problem_of_every_check(finished, name, damage) -> None:
    path = getattr(finished, name)
    FILE_DAMAGE[damage](path)
    unreadable(finished, path)
    assert [len(texts) for texts in finished.problems().values()] == [1] * 4


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        (b"\xff\xfe{}", "utf-8"),
        (b"\xef\xbb\xbf{}", "BOM"),
        (b"[]", "not a JSON object"),
        (b'{"artifacts": {}}', "list of artifacts"),
        (b'{"artifacts": [], "a": {"<b>": 1, "c": 2, "<b>": 3}}', "the key ?b? occurs more than once"),
        (b'{"artifacts": ' + b"[" * 200_000, "recursion"),
        (b'{"artifacts": [], "n": ' + b"9" * 5000 + b"}", "digits"),
    ],
)
def test_a_json_file_is_read_as_a_strict_consumer_would(finished, text, cause) -> None:
    finished.json_path.write_bytes(text)
    assert cause in unreadable(finished, finished.json_path)


def test_deep_nesting_is_an_ordinary_change(finished) -> None:
    deep: Any = []
    for _ in range(400):
        deep = [deep]
    finished.edit_json(put(deep, "artifacts", 1, "exif"))
    assert set(finished.problems()) == {UNCHANGED}


def test_the_table_is_checked_even_if_the_json_is_missing(finished) -> None:
    finished.json_path.unlink()
    finished.edit_table(cell("tenengrad", 1, math.inf))
    finished.edit_table(rows(0, 1, 2, 3, 4))
    found = finished.problems()
    assert found[FINITE][1].endswith("tenengrad: is not finite")
    assert found[COMPLETE][1].endswith("is missing")


# --- Texts of problems ---


def test_many_problems_are_counted_and_not_listed(world) -> None:
    artifact = world.photo("a.png")
    finished = finish(world, world.batch([{**artifact, "number": number} for number in range(50)]))

    def change(document: Any) -> None:
        for number, artifact in enumerate(document["artifacts"]):
            artifact["number"] = -1 if number < changed else number

    changed = 50
    finished.edit_json(change)
    texts = finished.problems()[UNCHANGED]
    assert len(texts) == 21
    assert texts[-1] == "... and 30 more"
    changed = 20
    finished.edit_json(change)
    assert len(finished.problems()[UNCHANGED]) == 20
    finished.table_path.unlink()
    assert finished.problems()[UNCHANGED][0].startswith("could not check")
    assert finished.problems()[UNCHANGED][20:] == ["... and 1 more"]


def test_problems_are_short_and_inert_and_quote_no_metadata(finished) -> None:
    hostile = "<script>\x1b[31m\n\u202e" + "x" * 5000

    def change(document) -> None:
        document["artifacts"].append({"photo_id": hostile})
        document["artifacts"][0]["exif"] = {hostile: 1}
        document["artifacts"][1]["exif"] = json.loads(300 * "[" + "NaN" + 300 * "]")
        document["artifacts"][2]["exif"]["iso"] = "48.8584 N"
        document["artifacts"][3]["features"]["status"] = hostile
        document["artifacts"][4]["features"]["errors"] = [{"stage": hostile, "reason": "", "message": ""}]

    finished.edit_json(change)
    finished.edit_table(lambda table: table.append_column(hostile, table.column("noise")))
    texts = list(itertools.chain(*finished.problems().values()))
    assert len(texts) >= 6
    assert all(text.isprintable() and not set(text) & set("<>&`|") and len(text) < 400 for text in texts)
    assert "48.8584" not in "\n".join(texts)


# --- Numbers that cause warnings ---


@pytest.mark.parametrize(
    ("statuses", "share"),
    [
        ({"ok": 6, "degraded": 3, "failed": 1}, 0.4),
        ({"ok": 5, "degraded": 0, "failed": 0}, 0.0),
        ({"failed": 2}, 1.0),
        ({"ok": 0, "degraded": 0, "failed": 0}, 0.0),
        ({}, 0.0),
    ],
)
def test_the_share_of_degraded_photos(statuses, share) -> None:
    assert degraded_share(statuses) == share


def test_label_shift_is_the_total_variation_distance() -> None:
    rng = np.random.default_rng(1)
    now, before = np.array([0.6, 0.15, 0.25, 0]), np.array([0.25, 0.5, 0.125, 0.125])
    sets = itertools.chain(*(itertools.combinations(range(4), size) for size in range(5)))
    largest = max(abs(sum(now[label] - before[label] for label in chosen)) for chosen in sets)
    counts, history = (dict(enumerate(rng.multinomial(100_000, shares).tolist())) for shares in (now, before))
    assert label_shift(counts, [history]) == pytest.approx(largest, abs=0.01)


@pytest.mark.parametrize(("photos", "labels"), [(10, 10), (20, 50), (200, 50)])
def test_label_shift_of_a_usual_batch_is_near_0(photos: int, labels: int) -> None:
    rng = np.random.default_rng(2)
    shares = rng.dirichlet(np.ones(labels))
    history = [dict(enumerate(rng.multinomial(2000, shares).tolist()))]
    shifts = [label_shift(dict(enumerate(rng.multinomial(photos, shares).tolist())), history) for _ in range(200)]
    assert np.mean(shifts) < 0.05
    assert max(shifts) < 0.25


@pytest.mark.parametrize(
    ("counts", "history", "shift"),
    [
        ({"cat": 10}, [{"cat": 20}, {"cat": 10}], 0.0),
        ({"cat": 10, "dog": 10}, [{"cat": 50, "dog": 50}], 0.0),
        ({"cat": 30}, [{"cat": 30}, {"dog": 90}], label_shift({"cat": 30}, [{"cat": 30, "dog": 90}])),  # pooled
        ({"cat": 9}, [{"cat": 30}], None),
        ({"cat": 10}, [{"cat": 20}, {"cat": 9}], None),
        ({}, [], None),
    ],
)
def test_label_shift_of_few_photos_or_batches(counts, history, shift) -> None:
    assert label_shift(counts, history) == shift


@pytest.mark.parametrize(
    ("flagged", "photos", "history", "shift"),
    [
        (30_000, 100_000, [(10_000, 100_000)], 0.2),
        (10_000, 100_000, [(30_000, 100_000)], 0.2),  # fewer than usual
        (50_000, 100_000, [(100_000, 100_000), (0, 300_000)], 0.25),  # pooled
        (0, 1000, [(0, 1000)], 0.0),
        (4, 20, [(20, 100)], 0.0),
        (9, 9, [(0, 100)], None),
        (10, 10, [(0, 20), (0, 9)], None),
        (10, 10, [], None),
        (0, 0, [(0, 100)], None),
    ],
)
def test_flag_shift_is_the_difference_of_shares(flagged, photos, history, shift) -> None:
    assert flag_shift(flagged, photos, history) == (shift if shift is None else pytest.approx(shift, abs=0.005))


@pytest.mark.parametrize(("photos", "share"), [(10, 0.1), (10, 0.3), (20, 0.1), (200, 0.5)])
def test_flag_shift_seldom_warns_of_a_usual_batch(photos: int, share: float) -> None:
    counts = np.arange(photos + 1)
    chances = scipy.stats.binom.pmf(counts, photos, share)
    shifts = np.array([flag_shift(count, photos, [(round(2000 * share), 2000)]) for count in counts.tolist()])
    assert chances @ shifts < 0.05
    assert chances[shifts > Settings().warn_flag_shift].sum() < 0.02


@pytest.mark.parametrize(
    ("cached", "photos", "comparable", "share"),
    [(3, 4, True, 0.75), (0, 4, True, 0.0), (4, 4, True, 1.0), (4, 4, False, None), (0, 0, True, None)],
)
def test_the_share_of_cached_photos(cached, photos, comparable, share) -> None:
    assert cached_share(cached, photos, comparable) == share
