"""The page of the contact sheet: one HTML file that needs nothing beside it and asks nobody for anything.

    page.html    the frame, with $names where the rest goes
    page.css     how it looks
    page.js      sorts, filters, marks and shows; makes every text with `textContent`, and none of it is ever HTML

A browser may run and apply those two files and nothing else: the page's policy names them by their digests. What is
known of the photos is JSON that no text can end. The pictures stand behind it, so that the page is in use before
the browser has read them.
"""

from __future__ import annotations

import hashlib
import json
import re
from base64 import b64encode
from collections.abc import Iterator, Mapping
from functools import partial
from html import escape
from importlib.resources import files
from string import Template
from tempfile import SpooledTemporaryFile
from typing import IO, Any

from curation_features.text import printable

REASONS: Mapping[str, str] = {
    "missing": "the file is not there",
    "not_a_file": "that is no file",
    "permission_denied": "the file may not be read",
    "io_error": "the disk or the network failed",
    "timed_out": "the storage did not answer in time",
    "forbidden_path": "the file is outside the folders that may be read",
    "unsupported_uri": "nothing here opens such an address",
    "unsupported_format": "not an image format that is read",
    "too_large": "larger than the limits allow",
    "too_slow": "decoding took more work than the limit",
    "truncated": "the file ends before the image does",
    "unreadable": "damaged, empty or no image",
    "flat_image": "nothing to measure in an even picture",
    "too_small": "the picture is too small to measure",
    "undefined_statistics": "has no value for such a picture",
    "missing_weights": "the model's weights are missing",
    "invalid_weights": "the model's weights are damaged",
    "load_failed": "the model could not be loaded",
    "model_error": "the model failed",
    "out_of_memory": "memory ran out",
    "not_finite": "the result was not a number",
    "out_of_range": "the result was out of range",
    "not_computed": "was not computed in this run",
    "photo_changed": "the photo changed meanwhile",
    "invalid_embedding": "the kept image vector does not fit the model",
    "internal_error": "an unexpected error",
}
"""Why a value is missing, by `FeatureError.reason`, in plain words; the page shows other reasons as they are."""

_PULL = "`curation-features models pull`"
REMEDIES: Mapping[str, str] = {
    "missing_weights": f"{_PULL} fetches them; process the batch again after that.",
    "invalid_weights": f"{_PULL} fetches them again; process the batch again after that.",
    "not_computed": "Process the batch again.",
}
"""What to do about a value that all photos of a batch lack, by `FeatureError.reason`; `code` between backticks."""

_IN_MEMORY = 4 * 2**20  # bytes of pictures that wait for their turn; more of them wait in a file
_PIECE = 2**18
_LOCAL_LINK = re.compile(r"(?!/)[A-Za-z0-9._~!$&'()*+,;=@%/-]+")  # no scheme, host, query or space can be in it


def render(sheet: Mapping[str, Any]) -> Iterator[bytes]:
    """The HTML file in pieces, so that memory does not grow with the photos.

    Args:
        sheet: the batch as `report.sheet` makes it. Its texts are not trusted. `sheet["photos"]` may be any iterable;
            it is consumed once.

    Raises:
        ValueError: a number is not finite, which JSON cannot hold.
        OSError: the pictures of a large batch wait in a temporary file, which could not be written.
    """
    style, script = _part("page.css"), _part("page.js")
    head, middle, end = re.split(r"\$(?:photos|pictures)", _part("page.html"))
    known = {name: value for name, value in sheet.items() if name != "photos"} | {
        "reasons": dict(REASONS),
        "remedies": dict(REMEDIES),
    }
    yield (
        Template(head)
        .substitute(
            policy=policy(style, script),
            title=escape(printable(str(sheet["batch_id"]), "\ufffd")),
            style=style,
            sheet=_json(known),
        )
        .encode()
    )
    with SpooledTemporaryFile(_IN_MEMORY) as pictures:
        yield from _photos(sheet["photos"], pictures)
        yield Template(middle).substitute(script=script).encode()
        pictures.seek(0)
        yield from iter(partial(pictures.read, _PIECE), b"")
    yield end.encode()


def policy(style: str, script: str) -> str:
    """The Content-Security-Policy of a page: that style, that script and `data:` pictures, and nothing else."""
    return (
        f"default-src 'none'; img-src data:; style-src {_digest(style)}; script-src {_digest(script)}; "
        "base-uri 'none'; form-action 'none'"
    )


def _photos(photos: Any, pictures: IO[bytes]) -> Iterator[bytes]:
    """The photos as the items of a JSON array; their pictures go to a file, each in a block of its own."""
    for number, photo in enumerate(photos):
        mime, text, width, height = photo["thumbnail"] or (None, None, None, None)
        if mime:
            block = f'<script type="application/json" id="t{number}">{_json([mime, text])}</script>\n'
            pictures.write(block.encode())
        href = photo["href"]
        shown = {
            **photo,
            "href": href if href and _LOCAL_LINK.fullmatch(href) else None,
            "thumbnail": [width, height] if mime else None,
        }
        yield f"{',' if number else ''}\n{_json(shown)}".encode()


def _json(value: Any) -> str:
    """JSON in ASCII that stays inside of a `<script>` element, whatever texts are in it."""
    text = json.dumps(value, allow_nan=False, separators=(",", ":"))
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


def _digest(text: str) -> str:
    return f"'sha256-{b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _part(name: str) -> str:
    return files(__package__).joinpath(name).read_text("utf-8")
