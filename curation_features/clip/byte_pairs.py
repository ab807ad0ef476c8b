"""CLIP's byte-pair encoding without open_clip, whose import loads torch (seconds).

Merges are read from the file that open_clip installs. Ids, as in CLIP's published vocabulary: 256 bytes, the same bytes
at the end of a word, one id per merge in the order of the file, start and end of a text.
"""

from __future__ import annotations

import gzip
import re
from collections.abc import Mapping
from functools import cache
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path

from curation_features.errors import MissingExtraError

_FILE = "bpe_simple_vocab_16e6.txt.gz"
_MERGES = 49152 - 256 - 2
_BYTES = 256
_END = "</w>"
START, STOP = 2 * _BYTES + _MERGES, 2 * _BYTES + _MERGES + 1
"""Ids of the start and the end of a text."""
_SPECIAL = {"<start_of_text>": START, "<end_of_text>": STOP}
_WORDS = r"<start_of_text>|<end_of_text>|'s|'t|'re|'ve|'m|'ll|'d|[{letters}]+|[{digits}]|[^\s{letters}{digits}]+"
_ASCII_WORDS = re.compile(_WORDS.format(letters="a-z", digits="0-9"))
_PRINTABLE = (*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1))


def encode(text: str, length: int = 77) -> tuple[list[int], bool]:
    """Return the ids of a text from start to end, without padding, and whether it was truncated to `length`.

    Equals open_clip's `SimpleTokenizer` with its default cleaning.

    Raises:
        MissingExtraError: open_clip is not installed.
    """
    ids = [START, *(number for word in _split(text) for number in _encode_word(word)), STOP]
    is_long = len(ids) > length
    return [*ids[: length - 1], STOP] if is_long else ids, is_long


def _split(text: str) -> list[str]:
    if text.isascii() and text.isprintable() and "&" not in text:  # ftfy and entities change nothing
        return _ASCII_WORDS.findall(text.lower())
    import html

    import ftfy
    import regex

    clean = " ".join(html.unescape(html.unescape(ftfy.fix_text(text))).split()).lower()
    pattern = _WORDS.format(letters=r"\p{L}", digits=r"\p{N}")
    return list(regex.findall(pattern, clean, regex.IGNORECASE))


def _encode_word(word: str) -> list[int]:
    if word in _SPECIAL:
        return [_SPECIAL[word]]
    symbols, merges = _symbols(), _merges()
    parts = [symbols[byte] for byte in word.encode()]
    parts[-1] += _END
    while len(parts) > 1:
        ranks = [merges.get(f"{first} {second}", _MERGES) for first, second in pairwise(parts)]
        best = min(ranks)
        if best == _MERGES:
            break
        merged, place = [], 0
        while place < len(parts):
            step = 2 if place < len(ranks) and ranks[place] == best else 1
            merged.append("".join(parts[place : place + step]))
            place += step
        parts = merged
    return [_ids()[part] for part in parts]


@cache
def _symbols() -> list[str]:
    """Return the character that represents each byte in the file: itself if printable, else one from U+0100."""
    others = (byte for byte in range(_BYTES) if byte not in _PRINTABLE)
    replaced = {byte: chr(_BYTES + place) for place, byte in enumerate(others)}
    return [replaced.get(byte, chr(byte)) for byte in range(_BYTES)]


@cache
def _merges() -> Mapping[str, int]:
    """Return the rank of each merge: lower ones come first."""
    package = find_spec("open_clip")  # does not import it
    if package is None or package.origin is None:
        raise MissingExtraError("open_clip", "clip")
    text = gzip.decompress(Path(package.origin).with_name(_FILE).read_bytes()).decode()
    return {merge: rank for rank, merge in enumerate(text.split("\n", _MERGES + 1)[1:-1])}


@cache
def _ids() -> Mapping[str, int]:
    symbols = _symbols()
    ordered = [*(symbols[byte] for byte in _PRINTABLE), *(symbols[b] for b in range(_BYTES) if b not in _PRINTABLE)]
    tokens = [*ordered, *(symbol + _END for symbol in ordered), *(merge.replace(" ", "") for merge in _merges())]
    return {token: number for number, token in enumerate(tokens)}
