"""Make untrusted text safe for terminals, Markdown, HTML and file names."""

from __future__ import annotations

import re

_MARKUP = re.compile(r"[<>&`|*\[\]\\]")
_URL_QUERY = re.compile(r"(://[^\s?]*\?)[^\s'\"]+")  # may hold a signature
_URL_USER = re.compile(r"(://)(?:[^\s/?#@'\"]+@|[^\s/?#:@'\"]+:[^\s@?'\"]*@)")  # may hold a password
_AUTOMATIC_LINK = re.compile(r"(:(?=//)|www(?=\.)|@)", re.IGNORECASE)
_WORD_JOINER = "\u2060"


def printable(text: str, replacement: str = "?") -> str:
    """Replace every control character and other unprintable character."""
    return "".join(character if character.isprintable() else replacement for character in text)


def shorten(text: str, length: int, ellipsis: str = "…") -> str:
    """Cut text to at most `length` characters; a shortened text ends with `ellipsis`."""
    return text if len(text) <= length else f"{text[: length - len(ellipsis)]}{ellipsis}"


def mask_secrets(text: str) -> str:
    """Replace users, passwords and queries of the URLs in a text, which may grant access, by dots."""
    return _URL_QUERY.sub(r"\1...", _URL_USER.sub(r"\1...@", text))


def one_line(text: str, length: int | None = 160) -> str:
    """Join text to one printable line, without secrets of URLs; `length` in characters."""
    line = " ".join(printable(mask_secrets(text), " ").split())
    return line if length is None else shorten(line, length)


def inert(text: object, length: int = 200) -> str:
    """Replace unprintable characters and markup of Markdown and HTML, and shorten."""
    return shorten(_MARKUP.sub("?", printable(str(text)[: length + 1])), length, "...")


def escape_markdown(text: str) -> str:
    """Escape text for Markdown and HTML; addresses do not become links."""
    return "".join(
        character if character.isalnum() or character in " ,-" or not character.isascii() else f"&#{ord(character)};"
        for character in _AUTOMATIC_LINK.sub(rf"\1{_WORD_JOINER}", text)
    )


def escape_unprintable(text: str) -> str:
    """Convert text to a Python literal if it has unprintable characters."""
    return text if text.isprintable() else ascii(text)


def file_stem(text: str, size: int) -> str:
    """Make a printable file name of at most `size` bytes, without suffix."""
    return printable(text, "_").encode()[:size].decode(errors="ignore")
