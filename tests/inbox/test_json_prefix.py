"""A truncated JSON text is distinguished from a malformed one."""

from __future__ import annotations

import codecs

import pytest
from specification import EXAMPLE

from curation_features.inbox.json_prefix import is_incomplete


@pytest.mark.parametrize(
    "data",
    [
        EXAMPLE.encode(),
        codecs.BOM_UTF8 + EXAMPLE.replace("\n", "\r\n").encode(),
        b'{"a": [-0.5e+10, 1E-7, true, false, null, "\\u00e9\\ud83c\\udfd4 \xf0\x9f\x8f\x94"], "b": {"": []}}',
        b'{"a": "\\ud800", "b": "\\\\ud800\\udfffx"}',
    ],
    ids=len,
)
def test_only_a_proper_prefix_is_incomplete(data: bytes) -> None:
    data = data.strip()
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


def test_time_is_linear_in_a_long_string_of_escapes() -> None:
    assert is_incomplete(b'{"a": "' + b"\\n" * 2_000_000)
    assert not is_incomplete(b'{"a": "' + b"\\n" * 2_000_000 + b"\n")
