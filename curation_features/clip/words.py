"""The words that CLIP's tokenizer makes of a text."""

from __future__ import annotations

import re

_WORDS = re.compile(r"'s|'t|'re|'ve|'m|'ll|'d|[^\W\d_]+|\d|(?:[^\s\w]|_)+")


def words(text: str) -> str:
    """The words that CLIP's tokenizer makes of a text, one space between them: equal for texts that it reads as one.

    That is open_clip's `SimpleTokenizer`, which the default model and all others of OpenAI, LAION and DataComp have. It
    mends a text (ftfy: Unicode's form NFC, straight quotes, full-width letters), resolves HTML entities twice, and
    makes letters small; white space counts between two letters only. Tokenizers of `transformers`, such as SigLIP's,
    may tell case apart; labels that differ in nothing else are no two labels for them either.

    Plain ASCII takes microseconds. Other text loads ftfy, a tenth of a second; torch is never loaded.
    """
    if not (text.isascii() and text.isprintable()) or "&" in text:
        import html

        import ftfy

        text = html.unescape(html.unescape(ftfy.fix_text(text)))
    return " ".join(_WORDS.findall(text.lower()))
