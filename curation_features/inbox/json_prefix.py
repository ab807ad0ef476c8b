"""Is a text the beginning of JSON? Tells a file that is still being written from one that can never be valid."""

from __future__ import annotations

import codecs
import re
from collections.abc import Mapping

from curation_features.manifest import MAX_DEPTH

_STRING = r'"(?:[^"\\\x00-\x1f]++|\\(?:["\\/bfnrt]|u[0-9A-Fa-f]{4}))*+'
_INTEGER = r"-?(?:0|[1-9][0-9]*)"
_JSON_TOKEN = re.compile(
    rf'[ \t\n\r]*(?:[{{}}\[\],:]|(?P<string>{_STRING}")|'
    rf"(?P<scalar>true|false|null|{_INTEGER}(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?(?![0-9.eE])))"
)
_CUT_TOKEN = re.compile(
    rf"[ \t\n\r]*(?:(?P<string>{_STRING}(?:\\(?:u[0-9A-Fa-f]{{0,3}})?)?)|"
    rf"(?P<scalar>t|tr|tru|f|fa|fal|fals|n|nu|nul|-|{_INTEGER}(?:\.|(?:\.[0-9]+)?[eE][+-]?)))?"
)

_VALUE = {"string": "", "scalar": "", "{": "first key", "[": "first item"}
_GRAMMAR: Mapping[str, Mapping[str, str]] = {
    "value": _VALUE,
    "first item": {**_VALUE, "]": ""},
    "first key": {"string": "colon", "}": ""},
    "key": {"string": "colon"},
    "colon": {":": "value"},
    "after {": {",": "key", "}": ""},
    "after [": {",": "value", "]": ""},
    "after ": {},
}
"""What may come next in each state, and the state after it; "" is the end of a value, in what is open there."""


def is_incomplete(data: bytes) -> bool:
    """Whether `data` is the beginning of a JSON text (RFC 8259, UTF-8) and more has to follow.

    Only the grammar is looked at, not repeated keys or wrong types. Time is linear in the size.
    """
    if codecs.BOM_UTF8.startswith(data):
        return True
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        if error.reason != "unexpected end of data":
            return False
        text = data[: error.start].decode() + "\ufffd"  # for the character that was cut; it must stand in a string
    text = text.removeprefix("\ufeff")
    position, state, opened = 0, "value", [""]
    while token := _JSON_TOKEN.match(text, position):
        kind = token.lastgroup or token[0][-1]
        if kind not in _GRAMMAR[state] or len(opened) > MAX_DEPTH + 1:  # an event adds a level
            return False
        if kind in ("{", "["):
            opened.append(kind)
        elif kind in ("}", "]"):
            opened.pop()
        state = _GRAMMAR[state][kind] or f"after {opened[-1]}"
        position = token.end()
    cut = _CUT_TOKEN.fullmatch(text, position)
    if cut is None:
        return False
    return cut.lastgroup in _GRAMMAR[state] if cut.lastgroup else state != "after "
