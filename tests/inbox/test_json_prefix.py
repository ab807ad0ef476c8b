"""A truncated JSON text is distinguished from a malformed one."""

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
    """A valid manifest in one of several notations."""
    fields = {"batch_id": "b1", "artifacts": [{"photo_id": "é", "std_uri": '"\\/\n\u2028🏔'}], "more": draw(VALUES)}
    text = json.dumps(fields, ensure_ascii=draw(st.booleans()), indent=draw(st.sampled_from([None, 1, "\t"])))
    mark, end = draw(st.sampled_from([b"", codecs.BOM_UTF8])), draw(st.sampled_from(["\n", "\r\n"]))
    return mark + text.replace("\n", end).encode()


@quickly
@given(documents())
@example(b'{"a": [-0.5e+10, 1E-7, true, false, null, "\\u00e9\\ud83c\\udfd4 \xf0\x9f\x8f\x94"], "b": {"": []}}')
@example(b'{"a": "\\ud800", "b": "\\\\ud800\\udfffx"}')
def test_only_a_proper_prefix_is_incomplete(data: bytes) -> None:
    assert [cut for cut in range(len(data)) if not is_incomplete(data[:cut])] == []
    assert not is_incomplete(data)
    assert not is_incomplete(data + b"\n")


MALFORMED = [
    b'{"a": 1}}', b'{"a": 1} {', b'[{"a": 1,}', b"[[1,]", b'{"a": 1]', b'{"a" 1', b'{"a": 1 2', b"{'a", b"{1", b"{,",
    b"[,", b"]", b'{"a": 01', b'{"a": 1.e', b'{"a": +', b'{"a": .', b'{"a": --', b'{"a": nulL', b'{"a": truefalse',
    b'{"a": N', b'{"a": NaN, "b"', b'{"a": -I', b'{"a": "\n', b'{"a": "\\x', b'{"a": "\\u12g456', b'{"a": "\0',
    b'{"a": 1\0', b'{"a": 1\xc3', b'{"a": "\\\xc3', b'{"a": "\xff', b'{"a": "\xed\xa0', b"\xef\xbb{",
    codecs.BOM_UTF8 * 2, b"\xff\xfe{", "{\u00a0".encode(), '{"a": \u0661'.encode(), b"[" * 500, b"hello", b"\0" * 10,
]  # fmt: skip


@pytest.mark.parametrize("data", MALFORMED, ids=ascii)
def test_malformed_text_is_not_incomplete(data: bytes) -> None:
    assert not is_incomplete(data)


@pytest.mark.long
@settings(quickly, max_examples=150)
@given(documents(), st.data())
def test_damage_is_judged_as_by_pythons_decoder(data: bytes, draw: st.DataObject) -> None:
    at = draw.draw(st.integers(0, len(data) - 1))
    inserted = draw.draw(st.sampled_from([b"", *(bytes([byte]) for byte in b'{}[]",:\\0-.eutfN \n\x00')]))
    damaged = data[:at] + inserted + data[at + draw.draw(st.integers(0, 2)) :]
    try:
        text = damaged[: draw.draw(st.integers(0, len(damaged)))].decode().removeprefix("\ufeff")
        json.loads(text)
    except UnicodeDecodeError:
        assume(False)
    except json.JSONDecodeError as error:
        is_open_string = error.msg.startswith("Unterminated string")
        assume(is_open_string or error.pos < len(text) - 8)  # nearer to the end, it may be a token that is cut
        assert is_incomplete(text.encode()) == is_open_string
    else:
        assert not is_incomplete(text.encode())


def test_time_is_linear_in_a_long_string_of_escapes() -> None:
    assert is_incomplete(b'{"a": "' + b"\\n" * 2_000_000)
    assert not is_incomplete(b'{"a": "' + b"\\n" * 2_000_000 + b"\n")
