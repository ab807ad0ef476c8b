"""The page of the contact sheet: one self-contained HTML file that makes no requests.

    page.html    the frame, a template with $names
    page.css     the style
    parts.js     words and elements, which the library page has as well; texts are inserted only as `textContent`
    page.js      sorts, filters and marks photos

The Content-Security-Policy names the digests of the style and the script; a browser runs and applies nothing else.
Photos are JSON with escaped `<`, `>` and `&`. Pictures come last, so that the page is usable before they are loaded.
"""

from __future__ import annotations

import hashlib
import json
import re
from base64 import b64encode
from collections.abc import Iterator, Mapping
from html import escape
from importlib.resources import files
from string import Template
from tempfile import SpooledTemporaryFile
from typing import IO, Any

from curation_features.text import printable

REASONS: Mapping[str, str] = {
    "missing": "the file does not exist",
    "not_a_file": "not a regular file",
    "permission_denied": "no permission to read the file",
    "io_error": "the disk or the network failed",
    "timed_out": "the storage did not answer in time",
    "forbidden_path": "the file is outside the allowed folders",
    "unsupported_uri": "no reader for this URI scheme",
    "unsupported_format": "unsupported image format",
    "too_large": "larger than the limits",
    "too_slow": "decoding exceeded the work limit",
    "truncated": "the file ends before the image does",
    "unreadable": "damaged, empty or not an image",
    "flat_image": "undefined for a flat image",
    "too_small": "the image is too small",
    "undefined_statistics": "undefined for this image",
    "missing_weights": "the model's weights are missing",
    "invalid_weights": "the model's weights are damaged",
    "load_failed": "the model could not be loaded",
    "model_error": "the model failed",
    "out_of_memory": "out of memory",
    "not_finite": "the result was not a number",
    "out_of_range": "the result was out of range",
    "not_computed": "not computed in this run",
    "photo_changed": "the photo changed during the run",
    "invalid_embedding": "the cached embedding does not fit the model",
    "internal_error": "an unexpected error",
}
"""Text of each `FeatureError.reason`; the page shows other reasons unchanged."""

_PULL = "`curation-features models pull`"
REMEDIES: Mapping[str, str] = {
    "missing_weights": f"Fetch them with {_PULL}, then process the batch again.",
    "invalid_weights": f"Fetch them again with {_PULL}, then process the batch again.",
    "not_computed": "Process the batch again.",
}
"""Remedies for a value that all photos of a batch lack, by `FeatureError.reason`; backticks enclose code."""

_IN_MEMORY = 4 * 2**20  # bytes of pictures; more are buffered in a temporary file
_LOCAL_LINK = re.compile(r"(?!/)[A-Za-z0-9._~!$&'()*+,;=@%/-]+")  # excludes scheme, host, query and space


def render(sheet: Mapping[str, Any]) -> Iterator[bytes]:
    """Render the HTML file in pieces, with memory independent of the number of photos.

    Args:
        sheet: the batch, from `report.sheet.contents`, with untrusted texts. `sheet["photos"]` is iterated once.

    Raises:
        ValueError: a number is not finite.
        OSError: the temporary file for pictures cannot be written.
    """
    style, script = _read_part("page.css"), _read_part("parts.js") + _read_part("page.js")
    head, middle, end = re.split(r"\$(?:photos|pictures)", _read_part("page.html"))
    batch = {name: value for name, value in sheet.items() if name != "photos"}
    data = _json({**batch, "reasons": dict(REASONS), "remedies": dict(REMEDIES)})
    title = escape(printable(str(sheet["batch_id"]), "\ufffd"))
    yield Template(head).substitute(policy=policy(style, script), title=title, style=style, sheet=data).encode()
    with SpooledTemporaryFile(_IN_MEMORY) as pictures:
        yield from _render_photos(sheet["photos"], pictures)
        yield Template(middle).substitute(script=script).encode()
        pictures.seek(0)
        yield from pictures
    yield end.encode()


def policy(style: str, script: str) -> str:
    """The Content-Security-Policy: this style, this script and `data:` pictures only."""
    return (
        f"default-src 'none'; img-src data:; style-src {_digest(style)}; script-src {_digest(script)}; "
        "base-uri 'none'; form-action 'none'"
    )


def _render_photos(photos: Any, pictures: IO[bytes]) -> Iterator[bytes]:
    """Yield the photos as items of a JSON array, and write their pictures to a file, one block each."""
    for number, photo in enumerate(photos):
        mime, text, width, height = photo["thumbnail"] or (None, None, None, None)
        if mime:
            block = f'<script type="application/json" id="t{number}">{_json([mime, text])}</script>\n'
            pictures.write(block.encode())
        links = {name: photo[name] for name in ("href", "original")}
        shown = {
            **photo,
            **{name: link if link and _LOCAL_LINK.fullmatch(link) else None for name, link in links.items()},
            "thumbnail": [width, height] if mime else None,
        }
        yield f"{',' if number else ''}\n{_json(shown)}".encode()


def _json(value: Any) -> str:
    """ASCII JSON that is safe inside a `<script>` element."""
    text = json.dumps(value, allow_nan=False, separators=(",", ":"))
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


def _digest(text: str) -> str:
    return f"'sha256-{b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _read_part(name: str) -> str:
    return files(__package__).joinpath(name).read_text("utf-8")
