"""Distinguish a truncated JSON file, which may still grow, from a malformed one."""

from __future__ import annotations

import codecs
import re

_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F][0-9a-fA-F]{2}")


def is_incomplete(data: bytes) -> bool:
    """Return whether `data` is a truncated JSON text (RFC 8259, UTF-8).

    Only the grammar counts, not repeated keys or wrong types. Time is linear in the size.
    """
    from pydantic_core import from_json  # imported here, so that the command line starts without it

    if codecs.BOM_UTF8.startswith(data):
        return True
    text = _SURROGATE.sub(rb"\\u0041", data)  # lone surrogates are valid in a manifest, but not to this parser
    try:
        text.decode()
    except UnicodeDecodeError as error:
        if error.reason != "unexpected end of data":
            return False
    try:
        from_json(text.removeprefix(codecs.BOM_UTF8), allow_inf_nan=False)
    except ValueError as error:
        return str(error).startswith("EOF while parsing")
    return False
