"""The beginning of a JSON text is told from what can never become one."""

from __future__ import annotations

import codecs
import json

import pytest
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st

from curation_features.inbox.json_prefix import is_incomplete

quickly = settings(max_examples=40, derandomize=True, deadline=None, suppress_health_check=list(HealthCheck))

TEXT = st.text(max_size=6)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=8,
)


@st.composite
def documents(draw: st.DrawFn) -> bytes:
    """A valid manifest in one of the ways in which it may be written."""
    fields = {"batch_id": "b1", "artifacts": [{"photo_id": "é", "std_uri": '"\\/\n\u2028🏔'}], "more": draw(VALUES)}
    text = json.dumps(fields, ensure_ascii=draw(st.booleans()), indent=draw(st.sampled_from([None, 1, "\t"])))
    return (
        draw(st.sampled_from([b"", codecs.BOM_UTF8]))
        + text.replace("\n", draw(st.sampled_from(["\n", "\r\n"]))).encode()
    )


@quickly
@given(documents())
@example(b'{"a": [-0.5e+10, 1E-7, true, false, null, "\\u00e9\\ud83c\\udfd4 \xf0\x9f\x8f\x94"], "b": {"": []}}')
def test_every_proper_prefix_is_incomplete_and_the_whole_is_not(data: bytes) -> None:
    assert [cut for cut in range(len(data)) if not is_incomplete(data[:cut])] == []
    assert not is_incomplete(data)
    assert not is_incomplete(data + b"\n")


@pytest.mark.parametrize(
    "data",
    [
        b'{"a": 1}}',
        b'{"a": 1} {',
        b'[{"a": 1,}',
        b"[[1,]",
        b'{"a": 1]',
        b'{"a" 1',
        b'{"a": 1 2',
        b'{"a": 01',
        b'{"a": 1.e',
        b'{"a": +',
        b'{"a": .',
        b'{"a": --',
        b'{"a": nulL',
        b'{"a": truefalse',
        b'{"a": N',
        b'{"a": NaN, "b"',
        b'{"a": -I',
        b"{'a",
        b"{1",
        b"{,",
        b"[,",
        b"]",
        b'{"a": "\n',
        b'{"a": "\\x',
        b'{"a": "\\u12"',
        b'{"a": "\\u12g',
        b'{"a": "\0',
        b'{"a": 1\0',
        b'{"a": 1\xc3',
        b'{"a": "\\\xc3',
        b'{"a": "\xff',
        b'{"a": "\xed\xa0',
        b"\xef\xbb{",
        codecs.BOM_UTF8 * 2,
        b"\xff\xfe{",
        "{\u00a0".encode(),
        '{"a": \u0661'.encode(),
        b"[" * 500,
        b"hello",
        b"\0" * 10,
    ],
    ids=ascii,
)
def test_what_cannot_become_json_is_not_incomplete(data: bytes) -> None:
    assert not is_incomplete(data)


def valid(text: str) -> bool:
    def refuse(constant: str) -> None:
        raise ValueError(constant)

    try:
        json.loads(text, parse_constant=refuse)
    except ValueError:
        return False
    return True


def can_be_completed(text: str) -> bool:
    """Whether Python's decoder accepts the text with some ending: of a token, of a member, of all that is open."""
    opened, in_string, escaped = [], False, False
    for character in text:
        if in_string:
            in_string, escaped = escaped or character != '"', character == "\\" and not escaped
        elif character in "{[":
            opened.append("}" if character == "{" else "]")
        elif character in "}]" and opened:
            opened.pop()
        else:
            in_string = character == '"'
    closing = "".join(reversed(opened))
    tokens = [
        "",
        "0",
        '"',
        'n"',
        'u0000"',
        '0000"',
        '000"',
        '00"',
        '0"',
        "rue",
        "ue",
        "e",
        "alse",
        "lse",
        "se",
        "ull",
        "ll",
        "l",
    ]
    return any(valid(text + token + rest + closing) for token in tokens for rest in ("", ":0", "0", '"":0'))


def can_be_continued(data: bytes) -> bool:
    for continuation in (b"", b"\x80", b"\x80\x80", b"\x80\x80\x80", b"\xa0\x80", b"\x90\x80\x80"):
        try:
            text = (data + continuation).decode()
        except UnicodeDecodeError:
            continue
        if can_be_completed(text.removeprefix("\ufeff")):
            return True
    return codecs.BOM_UTF8.startswith(data)


@settings(quickly, max_examples=150)
@given(documents(), st.data())
def test_damage_is_judged_as_the_json_decoder_would(data: bytes, draw: st.DataObject) -> None:
    at = draw.draw(st.integers(0, len(data) - 1))
    inserted = draw.draw(st.sampled_from([b"", *(bytes([byte]) for byte in b'{}[]",:\\0-.eutfN \n\x00\xc3\xa9')]))
    cut = draw.draw(st.integers(0, len(data)))
    damaged = (data[:at] + inserted + data[at + draw.draw(st.integers(0, 2)) :])[:cut]
    try:
        complete = valid(damaged.decode().removeprefix("\ufeff"))
    except UnicodeDecodeError:
        complete = False
    assume(not complete)
    assert is_incomplete(damaged) == can_be_continued(damaged)


def test_a_long_string_of_escapes_is_judged_like_a_short_one() -> None:
    assert is_incomplete(b'{"a": "' + b"\\n" * 2_000_000)
    assert not is_incomplete(b'{"a": "' + b"\\n" * 2_000_000 + b"\n")
