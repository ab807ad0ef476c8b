"""Manifests: accepted and refused ones, named fields, and lossless round trips."""

from __future__ import annotations

import copy
import hashlib
import json
import os
import re
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from specification import EXAMPLE as SPECIFICATION_EXAMPLE

from curation_features.errors import ManifestError
from curation_features.manifest import (
    MAX_DEPTH,
    Artifact,
    batch_from,
    distinct_photos,
    enrich,
    parse_manifest,
    read_manifest,
    to_json,
)
from curation_features.schema import FeatureError


def manifest(*artifacts: Any, **fields: Any) -> dict[str, Any]:
    return {"batch_id": "b1", "artifacts": list(artifacts), **fields}


def photo(photo_id: Any = "p", **fields: Any) -> dict[str, Any]:
    return {"photo_id": photo_id, "std_uri": "p.jpg", **fields}


def event(data: Any, **attributes: Any) -> dict[str, Any]:
    attributes = {"specversion": "1.0", "type": "preprocess.completed", "id": "1", "source": "/x", **attributes}
    return {name: value for name, value in {**attributes, "data": data}.items() if value is not ...}


def refused(document: Any) -> ManifestError:
    """The error for a manifest given as an object or as JSON text."""
    read = parse_manifest if isinstance(document, (bytes, str)) else batch_from
    with pytest.raises(ManifestError) as caught:
        read(document)
    return caught.value


# --- accepted -----------------------------------------------------------------------------------------------------


def test_the_specification_example() -> None:
    batch = parse_manifest(SPECIFICATION_EXAMPLE)
    name = "48f6cf1e6e10e5367e229aabc3bffcf1c3bb3adac74365665fa9d6d1d1ed0541"
    assert batch.batch_id == "batch_20251017_105804"
    assert batch.artifacts == (Artifact(0, name, f"./data/rankingInput/{name}_1024.jpg"),)


@pytest.mark.parametrize(
    ("uris", "analysed"),
    [
        ({"original_uri": "o", "ranking_uri": "r", "std_uri": "s"}, "s"),
        ({"original_uri": "o", "ranking_uri": "r"}, "r"),
        ({"original_uri": "o"}, "o"),
        ({"original_uri": "o", "ranking_uri": "r", "std_uri": None}, "r"),
    ],
)
def test_the_first_present_uri_is_analysed(uris: dict[str, Any], analysed: str) -> None:
    assert batch_from(manifest({"photo_id": "p", **uris})).artifacts[0].image_uri == analysed


def test_an_event_is_the_manifest_that_it_carries() -> None:
    bare = parse_manifest(SPECIFICATION_EXAMPLE)
    carried = parse_manifest(json.dumps(event(json.loads(SPECIFICATION_EXAMPLE)), indent=7))
    assert carried == bare
    assert "specversion" not in carried.document


@pytest.mark.parametrize(
    "media_type", ["application/json", "Application/JSON; charset=utf-8", "application/x+json", None]
)
def test_an_event_may_name_its_json_media_type(media_type: str | None) -> None:
    assert batch_from(event(manifest(), datacontenttype=media_type)).batch_id == "b1"


def test_the_digest_is_that_of_the_compact_bare_manifest() -> None:
    compact = b'{"batch_id":"b1","artifacts":[],"z":1,"a":[1.0,"\\u00e9"]}'
    assert parse_manifest(compact).digest == hashlib.sha256(compact).hexdigest()


@pytest.mark.parametrize("other", [{"z": 1, "a": 1.0}, {"z": 1, "a": True}, {"a": 1, "z": 1}, {"z": 1}])
def test_the_digest_tells_values_types_and_order_apart(other: dict[str, Any]) -> None:
    assert batch_from(manifest(**other)).digest != batch_from(manifest(z=1, a=1)).digest


@pytest.mark.parametrize(
    "data",
    [
        b"\xef\xbb\xbf" + SPECIFICATION_EXAMPLE.encode(),
        "\ufeff" + SPECIFICATION_EXAMPLE,
        SPECIFICATION_EXAMPLE.replace("\n", "\r\n").encode(),
    ],
)
def test_a_byte_order_mark_and_crlf_change_nothing(data: bytes | str) -> None:
    assert parse_manifest(data) == parse_manifest(SPECIFICATION_EXAMPLE)


@pytest.mark.parametrize("photo_id", ["a/b", "../../etc/passwd", "a b", "🏔️", "x" * 512, "\0", "-", " "])
def test_a_photo_id_is_any_text(photo_id: str) -> None:
    assert batch_from(manifest(photo(photo_id))).artifacts[0].photo_id == photo_id


@pytest.mark.parametrize("batch_id", ["a", "0", "A.b_c-d", "x" * 128, "a.", "a-"])
def test_legal_batch_ids(batch_id: str) -> None:
    batch = batch_from(manifest(batch_id=batch_id))
    assert (batch.batch_id, batch.artifacts) == (batch_id, ())


def test_unknown_fields_are_kept() -> None:
    document = manifest(photo(), schema_version="9.9", later={f"k{i}": "x" * 1000 for i in range(10_000)})
    batch = parse_manifest(json.dumps(document))
    assert batch.document == document


def test_distinct_photos_are_in_order_of_first_appearance() -> None:
    batch = batch_from(manifest(photo("b"), photo("a"), photo("b"), photo("a", std_uri="other.jpg")))
    assert list(distinct_photos(batch).items()) == [
        (("b", "p.jpg"), [0, 2]),
        (("a", "p.jpg"), [1]),
        (("a", "other.jpg"), [3]),
    ]


TRUNCATED = {"reason": "truncated", "message": "ends early"}


def ingest_error(value: Any, **uris: Any) -> FeatureError | None:
    document = manifest({"photo_id": "p", "original_uri": "/elsewhere/p.jpg", **uris, "ingest_error": value})
    batch = batch_from(document)
    assert batch.document == document
    return batch.artifacts[0].ingest_error


def test_the_ingest_error_is_kept() -> None:
    assert ingest_error(TRUNCATED) == FeatureError("photo", "truncated", "ends early")
    assert ingest_error({**TRUNCATED, "message": "x" * 400}).message == "x" * 400
    assert ingest_error({**TRUNCATED, "message": "a\x1b[2J\nb\u202e"}).message == "a?[2J?b?"
    assert ingest_error({**TRUNCATED, "message": "\ud800"}).message == "?"


@pytest.mark.parametrize(
    "value",
    [
        None,
        "truncated",
        ["truncated", "ends early"],
        {"reason": "truncated"},
        {"message": "ends early"},
        *({**TRUNCATED, "reason": reason} for reason in ("ok", "TRUNCATED", "", None, 1, [], {}, "internal_error")),
        *({**TRUNCATED, "message": message} for message in ("", None, 1, [], {}, "x" * 401)),
    ],
)
def test_an_ingest_error_of_another_form_is_ignored(value: Any) -> None:
    assert ingest_error(value) is None


def test_an_ingest_error_of_a_photo_with_an_image_is_ignored() -> None:
    assert ingest_error(TRUNCATED, std_uri="s.jpg") is None
    assert ingest_error(TRUNCATED, ranking_uri="r.jpg") is None
    assert ingest_error(TRUNCATED, std_uri=None) is not None


# --- refused, with the field --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "batch_id",
    ["", "/", "a/b", "..", "...", "a..b", ".a", "-a", "_a", "a\n", "a b", "é", "٣", "x" * 129, None, 1, ["a"]],
)
def test_an_illegal_batch_id_is_refused(batch_id: Any) -> None:
    assert refused(manifest(batch_id=batch_id)).field == "batch_id"


@pytest.mark.parametrize("photo_id", ["", "x" * 513, "x" * 10_000, None, 7, ["p"], "\ud800"])
def test_an_illegal_photo_id_is_named_with_its_position(photo_id: Any) -> None:
    error = refused(manifest(photo(), photo(), photo(photo_id)))
    assert error.field == "artifacts[2].photo_id"
    assert str(error).startswith("artifacts[2].photo_id: ")
    assert len(str(error)) < 200


@pytest.mark.parametrize(
    ("document", "field"),
    [
        ([], ""),
        (None, ""),
        ({}, "batch_id"),
        ({"batch_id": "b"}, "artifacts"),
        ({"batch_id": "b", "artifacts": {}}, "artifacts"),
        (manifest(photo(), None), "artifacts[1]"),
        (manifest({"std_uri": "p.jpg"}), "artifacts[0].photo_id"),
        (manifest({"photo_id": "p", "std_uri": None}), "artifacts[0]"),
        (manifest(photo(std_uri="")), "artifacts[0].std_uri"),
        (manifest(photo(ranking_uri=["r.jpg"])), "artifacts[0].ranking_uri"),
        (event(...), "data"),
        (event([]), "data"),
        (event(manifest(photo("")), dataschema="x"), "artifacts[0].photo_id"),
        (event(manifest(), specversion="0.3"), "specversion"),
        (event(manifest(), specversion=1.0), "specversion"),
        (event(manifest(), type="features.completed"), "type"),
        (event(manifest(), type=...), "type"),
        (event(manifest(), datacontenttype="application/xml"), "datacontenttype"),
        (event(manifest(), datacontenttype=["application/json"]), "datacontenttype"),
        (event(..., data_base64="e30="), "data_base64"),
    ],
)
def test_a_wrong_shape_is_named_by_its_field(document: Any, field: str) -> None:
    text = json.dumps(document)
    assert refused(text).field == field
    if isinstance(document, dict):
        assert refused(document).field == field


BARE = '{"batch_id": "b", "artifacts": [], '
PHOTO = '{"batch_id": "b", "artifacts": [{"photo_id": "p", "std_uri": "u", '
EVENT = '{"specversion": "1.0", "type": "preprocess.completed", '


@pytest.mark.parametrize(
    ("text", "field"),
    [
        (BARE + '"batch_id": "b"}', "batch_id"),
        (BARE + '"odd key": [{"": 1, "": 2}]}', '["odd key"][0][""]'),
        ('{"specversion": "1.0", "specversion": "1.0"}', "specversion"),
        (EVENT + '"data": {"artifacts": [], "artifacts": []}}', "artifacts"),
        (EVENT + '"data": {}, "ext": {"a": 1, "a": 1}}', "ext.a"),
        (BARE + '"x": {"y": NaN}}', "x.y"),
        (BARE + '"x": [0, -Infinity]}', "x[1]"),
        (BARE + '"x": 1e999}', "x"),
        (PHOTO + '"exif": {"iso": 1, "iso": 1}}]}', "artifacts[0].exif.iso"),
        (PHOTO + '"iso": NaN}]}', "artifacts[0].iso"),
    ],
)
def test_repeated_keys_and_nan_are_named_by_their_path(text: str, field: str) -> None:
    assert refused(text).field == field


WHOLE = SPECIFICATION_EXAMPLE.strip().encode()


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b" ",
        b"\0",
        b"{",
        WHOLE + b"}",
        WHOLE + WHOLE,
        b"\xff\xfe" + SPECIFICATION_EXAMPLE.encode("utf-16-le"),
        WHOLE.replace(b"Apple", b"\xe9"),
        b"[" * 100_000,
        b'{"a":' * 100_000,
        BARE.encode() + b'"x": ' + b"[" * 500 + b"]" * 500 + b"}",
        BARE.encode() + b'"x": ' + b"9" * 10_000 + b"}",
        b"{'batch_id': 'b'}",
        BARE.encode() + b"}",
        b'{"batch_id": "b\n", "artifacts": []}',
    ],
    ids=lambda data: ascii(data[:20]),
)
def test_invalid_json_is_refused(data: bytes) -> None:
    assert refused(data)


def test_text_that_is_not_utf8_is_refused() -> None:
    assert str(refused(b'{"\xe9": 1}')) == "is not UTF-8 text: byte 2 is 0xe9"


@pytest.mark.parametrize(
    "value",
    [{1, 2}, b"bytes", (1, 2), object(), float("nan"), float("inf"), np.int64(1), Path("p"), 10**5000],
    ids=lambda value: type(value).__name__,
)
def test_a_non_json_value_is_named_by_its_path(value: Any) -> None:
    assert refused(manifest(photo(exif={"list": [0, value]}))).field == "artifacts[0].exif.list[1]"


@pytest.mark.parametrize("key", [None, 1, True, 1.5, (1,)])
def test_a_key_that_is_not_a_string_is_refused(key: Any) -> None:
    assert refused(manifest(photo(exif={key: 1}))).field == "artifacts[0].exif"


def nested(levels: int) -> dict[str, Any]:
    """A manifest whose field `x` is nested `levels` deep."""
    value: Any = 0
    for _ in range(levels):
        value = [value]
    return manifest(photo(), x=value)


def test_the_deepest_allowed_manifest_can_be_written() -> None:
    deepest = nested(MAX_DEPTH - 1)
    assert json.loads(to_json(enrich(batch_from(deepest), [{}])))["x"] == deepest["x"]
    assert refused(nested(MAX_DEPTH)).field == "x[0][0]"
    deepest["self"] = deepest
    assert "nested deeper" in str(refused(deepest))


# --- files --------------------------------------------------------------------------------------------------------


def test_a_file_is_read_and_its_error_begins_with_its_path(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = Path("sub/batch.json")
    path.parent.mkdir()
    path.write_text(SPECIFICATION_EXAMPLE)
    assert read_manifest(path) == parse_manifest(SPECIFICATION_EXAMPLE)
    path.write_text(json.dumps(manifest(photo(""))))
    with pytest.raises(ManifestError, match=r"^sub/batch\.json: artifacts\[0\]\.photo_id: must be") as caught:
        read_manifest(path)
    assert caught.value.field == "artifacts[0].photo_id"


@pytest.mark.parametrize("name", ["absent.json", "folder", "pipe", "link", "nul\0.json", "\x1b[2J\n.json"])
def test_an_unreadable_file_is_refused_by_name(tmp_path: Path, name: str) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to("link")
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ManifestError, match=re.escape(str(tmp_path / name.split("\0")[0].split("\x1b")[0]))) as caught:
        read_manifest(tmp_path / name)
    assert str(caught.value).isprintable()


# --- nothing is lost ----------------------------------------------------------------------------------------------

LONE_SURROGATE = st.just("\ud83d")
TEXT = st.text(max_size=8) | LONE_SURROGATE
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(min_value=10**100, max_value=10**600)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.sampled_from([0, 1, 0.0, -0.0, 1.0, 5e-324, 1e308])
    | TEXT
)
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3), max_leaves=8
)


@st.composite
def objects(draw: st.DrawFn, required: dict[str, st.SearchStrategy[Any]]) -> dict[str, Any]:
    """An object with its required fields and any others, in any order."""
    members = {**draw(st.dictionaries(TEXT, VALUES, max_size=3)), **{k: draw(v) for k, v in required.items()}}
    return {key: members[key] for key in draw(st.permutations(list(members)))}


FIELD_NAMES = st.just("features") | TEXT
ARTIFACTS = objects({"photo_id": st.text(min_size=1, max_size=20), "original_uri": st.text(min_size=1)}).flatmap(
    lambda fields: st.builds(lambda extra: {**extra, **fields}, st.dictionaries(FIELD_NAMES, VALUES, max_size=1))
)
MANIFESTS = objects({"batch_id": st.just("b1"), "artifacts": st.lists(ARTIFACTS, max_size=3)}).filter(
    lambda document: (
        "specversion" not in document
        and not any({"std_uri", "ranking_uri"} & fields.keys() for fields in document["artifacts"])
    )
)


def exactly(value: Any) -> str:
    """A text that also differs by type, sign of zero and key order."""
    return repr(value)


@pytest.mark.long
@given(MANIFESTS)
@example(json.loads(SPECIFICATION_EXAMPLE))
@example(manifest(photo(features={"old": 1}, after=1), features="not ours"))
def test_enriching_adds_features_and_changes_nothing_else(document: dict[str, Any]) -> None:
    before = exactly(document)
    records = [{"tech": {"noise": position / 7}} for position in range(len(document["artifacts"]))]
    enriched = enrich(batch_from(document), records)

    assert exactly(document) == before
    for read in (enriched, json.loads(to_json(enriched))):
        artifacts = read["artifacts"]
        assert all(list(fields)[-1] == "features" for fields in artifacts)
        assert [fields.pop("features") for fields in artifacts] == records
        expected = copy.deepcopy(document)
        for fields in expected["artifacts"]:
            fields.pop("features", None)
        assert exactly(read) == exactly(expected)

    batch = batch_from(document)  # written and parsed, it is the same batch
    assert exactly(parse_manifest(to_json(document))) == exactly(batch)
    assert exactly(parse_manifest(to_json(event(document)))) == exactly(batch)


@pytest.mark.long
@settings(max_examples=300)
@given(st.binary() | VALUES.map(to_json) | objects({"batch_id": VALUES, "artifacts": VALUES}).map(to_json))
@example(b"\xed\xa0\xbd")
def test_any_bytes_are_a_batch_or_a_manifest_error(data: bytes) -> None:
    message = ""
    try:
        parse_manifest(data)
    except ManifestError as error:
        message = str(error)
    assert message.isprintable()


def test_input_and_result_share_nothing() -> None:
    document = manifest(photo(exif={"list": [1]}))
    record = {"errors": [{"stage": "noise"}]}
    batch = batch_from(document)
    enriched = enrich(batch, [MappingProxyType(record)])
    kept, digest = copy.deepcopy(enriched), batch.digest

    document["artifacts"][0]["exif"]["list"].append(2)
    record["errors"][0]["stage"] = "changed"
    assert enriched == kept

    enriched["artifacts"][0]["exif"]["list"].clear()
    assert enrich(batch, [{}])["artifacts"][0]["exif"] == {"list": [1]}
    assert batch_from(batch.document).digest == digest


def test_features_and_artifacts_must_be_as_many() -> None:
    with pytest.raises(ValueError, match="zip"):
        enrich(batch_from(manifest(photo(), photo())), [{}])


def test_json_is_readable_utf8_with_a_final_newline() -> None:
    assert to_json({"a": ["é", 1.0]}) == '{\n  "a": [\n    "é",\n    1.0\n  ]\n}\n'.encode()
    assert to_json({"a": "é\ud800"}) == b'{\n  "a": "\\u00e9\\ud800"\n}\n'  # UTF-8 cannot encode a lone surrogate


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_nan_is_never_written(value: float) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        to_json({"a": value})
