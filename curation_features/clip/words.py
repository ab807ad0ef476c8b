"""Word split of CLIP's tokenizer."""

from __future__ import annotations

import re

_WORDS = re.compile(r"'s|'t|'re|'ve|'m|'ll|'d|[^\W\d_]+|\d|(?:[^\s\w]|_)+")


def words(text: str) -> str:
    """Split a text into words like CLIP's tokenizer, joined by single spaces; equal for equivalent texts.

    The tokenizer is open_clip's `SimpleTokenizer`, used by the default model and all models of OpenAI, LAION and
    DataComp. It normalises the text (ftfy: Unicode NFC, straight quotes, full-width letters), resolves HTML entities
    twice and converts to lower case; white space matters only between two letters. Tokenizers of `transformers`, such
    as SigLIP's, may be case-sensitive; labels that differ only in case count as one label for them, too.

    ASCII text takes microseconds. Other text imports ftfy (0.1 s); torch is never imported.
    """
    if not (text.isascii() and text.isprintable()) or "&" in text:
        import html

        import ftfy

        text = html.unescape(html.unescape(ftfy.fix_text(text)))
    return " ".join(_WORDS.findall(text.lower()))
