"""The contact sheet of a batch, made from the table of its features, one row group at a time.

    data/features/{batch_id}.html    the page, in one file

A run and the command `report` make the same page. Of EXIF it shows only the fields of `TEXTS` and `EXPOSURE`: no
position, owner, serial number or comment.
"""

from __future__ import annotations

import base64
import hashlib
import json
import logging
import os
import re
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import asdict
from functools import cache, partial
from pathlib import Path
from typing import Any
from urllib.parse import quote

from curation_features.atomic_files import FEATURES_AGAIN, cannot_write, reading, replacing
from curation_features.concurrency import bounded_map, worker_count
from curation_features.errors import PhotoError
from curation_features.photos.formats import SUFFIXES
from curation_features.photos.reader import is_remote, local_path
from curation_features.photos.thumbnail import MIME, PREVIEW, thumbnail_size
from curation_features.photos.thumbnails import Thumbnails
from curation_features.report import groups, signals
from curation_features.report.page import render
from curation_features.report.text import Folders, common_folders, file_name, one_line, path_within
from curation_features.schema import METRICS, PhotoRecord
from curation_features.settings import Settings
from curation_features.signals.flags import FLAGS, HINTS
from curation_features.storage.artifacts import FeatureArtifact
from curation_features.storage.tables import STAGE_TABLES, Row, read_metadata, read_rows, record_of, row_count

TEXTS = {"Taken": "datetime", "Camera": "camera", "Lens": "lens"}
EXPOSURE = {"shutter_speed": "{} s", "aperture": "f/{}", "iso": "ISO {}", "focal_length": "{}mm"}
"""With `TEXTS`: the fields of `exif` on a page. Plain numbers get a unit."""

_FACT_LENGTH, _MESSAGE_LENGTH = 60, 400  # characters
_LINKED = frozenset(suffix for suffixes in SUFFIXES.values() for suffix in suffixes)
_DATE = re.compile(r"^(\d{4}):(\d\d):(\d\d) ")
_NUMBER = re.compile(r"[0-9]+([./][0-9]+)?")
COLUMNS = (
    *("position", "photo_id", "original_uri", "image_uri", "sha256", "format", "width", "height", "taken", "iso"),
    *("status", "errors"),
    *(metric.name for metric in METRICS),
    *(raw.name for metric in METRICS for raw in metric.raw),
    *signals.COLUMNS,
    *groups.COLUMNS,
    *("clip_labels", "label_margin", "artifact"),
)
"""The columns of a table that a page shows."""

log = logging.getLogger(__name__)


# The file ------------------------------------------------------------------------------------------------------------


def sheet_path(table: Path) -> Path:
    """The path of the contact sheet, next to the table."""
    return table.with_suffix(".html")


def refresh(
    features: FeatureArtifact, settings: Settings, progress: Callable[[int], None] | None = None
) -> Path | None:
    """Bring the contact sheet up to date with features that were just written.

    An up-to-date page is kept. A stale one is deleted before the new one is written, and is not replaced if
    `settings.contact_sheet` is off. If a page cannot be made, a warning is logged.

    Args:
        progress: called with 1 for each photo on a new page.

    Returns:
        The page; None if there is none.
    """
    page = sheet_path(features.table_path)
    try:
        if _ends_with(page, _mark(features.digest)):
            return page
        page.unlink(missing_ok=True)
        if not settings.contact_sheet:
            return None
        write_sheet(page, features.table_path, features.digest, settings, progress)
    except Exception as error:
        log.warning("No contact sheet of batch %s: %s", features.table_path.stem, one_line(str(error)))
        return None
    return page


def write_sheet(
    page: Path, table: Path, digest: str, settings: Settings, progress: Callable[[int], None] | None = None
) -> None:
    """Write the contact sheet of finished features atomically, with memory independent of the number of photos.

    Args:
        page: the file to write.
        table: the features, as `ArtifactStore` writes them.
        digest: of these features.
        progress: called with 1 for each photo on the page.

    Raises:
        StoreError: the table cannot be read, or the page cannot be written; names the file.
    """
    folder = Path(os.path.abspath(page)).parent  # noqa: PTH100 (a link keeps its own name)
    sheet = contents(table, digest, settings, folder)
    with closing(sheet["photos"]) as photos:
        try:
            with replacing(page, durable=False) as temporary, temporary.open("wb") as file:
                file.writelines(render({**sheet, "photos": _count_photos(photos, progress) if progress else photos}))
                file.write(_mark(digest))
        except OSError as error:
            raise cannot_write(page, error) from error


def photo_count(table: Path) -> int:
    """The number of photos in a table of features. Raises `StoreError`: it cannot be read."""
    with reading(table, FEATURES_AGAIN):
        return row_count(table)


def _mark(digest: str) -> bytes:
    """The last line of a page: the digest of the features and of the code."""
    return f"\n<!-- features {digest} page {_page_version()} -->\n".encode()


@cache
def _page_version() -> str:
    """The digest of the code of this package."""
    digest = hashlib.sha256(repr(PREVIEW).encode())
    for path in sorted(Path(__file__).parent.glob("*.*")):
        if path.suffix in (".py", ".html", ".css", ".js"):
            digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()[:16]


def _ends_with(path: Path, end: bytes) -> bool:
    """Whether a regular file ends with `end`; a FIFO is not opened."""
    if not path.is_file() or path.stat().st_size < len(end):
        return False
    with path.open("rb") as file:
        file.seek(-len(end), os.SEEK_END)
        return file.read() == end


# The content of the page ---------------------------------------------------------------------------------------------


def contents(table: Path, digest: str, settings: Settings, folder: Path) -> dict[str, Any]:
    """The content of a page in `folder`, for `page.render`; photos are a lazy iterator.

    Raises:
        StoreError: the table cannot be read, now or during the iteration.
    """
    with reading(table, FEATURES_AGAIN):
        metadata = read_metadata(table)
        version, labels = dict(metadata["version"]), list(metadata["labels"])
        folders = common_folders(map(_uri, read_rows(table, ("original_uri", "image_uri"))))
    head = {"batch_id": table.stem, "version": version, "labels": labels, "digest": digest, "search": None}
    with_photos = {"photos": _read_photos(table, folders, folder, settings)}
    return {**head, **_CONSTANTS, **with_photos}


_CONSTANTS: Mapping[str, Any] = {
    "metrics": [asdict(metric) for metric in METRICS],
    "signals": list(signals.SHOWN),
    "flags": list(FLAGS),
    "hints": list(HINTS),
}


def write_results(
    page: Path, title: str, rows: Sequence[Row], matches: Sequence[str], likely: int | None, settings: Settings
) -> None:
    """Write a page of photos of any batches, in the order of a search.

    Args:
        page: the file to write.
        title: the search, in words.
        rows: of the tables, with `COLUMNS`; the best first.
        matches: how well each matches, in words.
        likely: number of rows above the line between likely and unlikely results; None: without a line.

    Raises:
        StoreError: the page cannot be written.
    """
    folder, root = (Path(os.path.abspath(path)) for path in (page.parent, settings.root))  # noqa: PTH100 (see below)
    folders = common_folders(map(_uri, rows))
    thumbnails = Thumbnails(settings, PREVIEW)
    photos = []
    for place, (row, match) in enumerate(zip(rows, matches, strict=True)):
        photo = _photo(row, folders, thumbnails, folder, root)
        shown = [["Match", match], ["Batch", row["batch_id"]], *photo["facts"]]
        photos.append(
            {**photo, "position": place, "facts": shown, "group": None}
        )  # a group has photos that are not here
    head = {"batch_id": title, "version": {"technical": "", "clip": ""}, "labels": [], "digest": ""}
    sheet = {**head, **_CONSTANTS, "search": {"likely": likely}, "photos": photos}
    try:
        with replacing(page, durable=False) as temporary, temporary.open("wb") as file:
            file.writelines(render(sheet))
    except OSError as error:
        raise cannot_write(page, error) from error


def _uri(row: Row) -> str:
    """The URI of the original photo, or else of the analysed image."""
    return str(row["original_uri"] or row["image_uri"])


def _read_photos(table: Path, folders: Folders, folder: Path, settings: Settings) -> Generator[dict[str, Any]]:
    workers = worker_count(settings.workers)
    root = Path(os.path.abspath(settings.root))  # noqa: PTH100 (a link keeps its own name)
    describe = partial(_photo, folders=folders, thumbnails=Thumbnails(settings, PREVIEW), folder=folder, root=root)
    with reading(table, FEATURES_AGAIN):
        yield from bounded_map(describe, read_rows(table, COLUMNS), workers=workers, ahead=2 * workers)


def _count_photos(photos: Iterable[dict[str, Any]], progress: Callable[[int], None]) -> Iterator[dict[str, Any]]:
    for photo in photos:
        yield photo
        progress(1)


def _photo(row: Row, folders: Folders, thumbnails: Thumbnails, folder: Path, root: Path) -> dict[str, Any]:
    """One photo of the page: its position, measurements, and public facts of its file."""
    record = record_of(row)
    STAGE_TABLES["technical_metrics"].restore(record, row)
    artifact = json.loads(row["artifact"])
    original, place = artifact.get("original_uri"), signals.place_of(row)
    href = _link((record.image_uri, original), folder, root)
    full_size = _link((original,), folder, root) if place else None
    return {
        "name": file_name(artifact, record),
        "path": path_within(_uri(row), folders),
        "id": row["photo_id"],
        "position": row["position"],
        "status": row["status"],
        "scores": [row[metric.name] for metric in METRICS],
        "raw": {name: value for metric in METRICS for name, value in record.measurements[metric.name].raw.items()},
        "signals": signals.signals_of(row),
        "flags": signals.flags_of(row, "flags"),
        "hints": signals.flags_of(row, "hints"),
        "focus": place,
        "group": groups.group_of(row, folders),
        "labels": [[found["label"], found["confidence"], found["cosine_score"]] for found in row["clip_labels"] or ()],
        "margin": row["label_margin"],
        "errors": [
            [error["stage"], error["reason"], one_line(error["message"], _MESSAGE_LENGTH)] for error in row["errors"]
        ],
        "width": row["width"],
        "height": row["height"],
        "format": row["format"],
        "facts": facts(artifact),
        "taken": row["taken"] and row["taken"].isoformat(" "),
        "iso": row["iso"],
        "href": href,
        "original": full_size if full_size != href else None,
        "thumbnail": _encode_picture(record, thumbnails),
    }


def _encode_picture(record: PhotoRecord, thumbnails: Thumbnails) -> list[Any] | None:
    data = thumbnails(record)
    size = thumbnail_size(data, PREVIEW) if data else None
    return [MIME, base64.b64encode(data).decode(), *size] if data and size else None


def _link(uris: Iterable[Any], folder: Path, root: Path) -> str | None:
    """A relative link from a page in `folder` to the first existing file, if both are in the project's `root`.

    Only names with the suffix of an image are linked: a browser might open others as pages and run their scripts.
    """
    for uri in uris:
        if not folder.is_relative_to(root) or not isinstance(uri, str) or is_remote(uri):
            continue
        with suppress(PhotoError, OSError, ValueError):  # URI of another machine; NUL; name too long
            path = Path(os.path.abspath(root / local_path(uri)))  # noqa: PTH100 (a link keeps its own name)
            if path.is_relative_to(root) and path.suffix.lower() in _LINKED and path.is_file():
                return quote(os.fsencode(Path(os.path.relpath(path, folder)).as_posix()))
    return None


# Facts ---------------------------------------------------------------------------------------------------------------


def facts(artifact: Mapping[str, Any]) -> list[list[str]]:
    """The public facts of how a photo was taken, as title and text.

    Services format EXIF differently: values other than short texts and finite numbers are skipped.
    """
    exif = artifact.get("exif")
    known = exif if isinstance(exif, Mapping) else {}
    lines = {title: _format_fact(known.get(name)) for title, name in TEXTS.items()}
    lines["Taken"] = _DATE.sub(r"\1-\2-\3 ", lines["Taken"])
    exposure = ((_format_fact(known.get(name)), unit) for name, unit in EXPOSURE.items())
    parts = (unit.format(text) if _NUMBER.fullmatch(text) else text for text, unit in exposure)
    lines["Exposure"] = ", ".join(filter(None, parts))
    lines["Original"] = _original_size(artifact)
    return [[title, text] for title, text in lines.items() if text]


def _format_fact(value: Any) -> str:
    """Format a field as text; empty if it has no usable value."""
    if isinstance(value, (int, float)) and not isinstance(value, bool) and 0 < value < 1e9:  # NaN fails, too
        value = f"{value:g}" if value < 1e6 else str(round(value))
    text = one_line(value, _FACT_LENGTH) if isinstance(value, str) else ""
    return "" if text.lower() == "unknown" else text


def _original_size(artifact: Mapping[str, Any]) -> str:
    processing = artifact.get("processing_metadata")
    size = processing.get("original_size") if isinstance(processing, Mapping) else None
    if isinstance(size, list) and len(size) == 2 and all(type(side) is int and 0 < side < 10**6 for side in size):
        return f"{size[0]:,} \u00d7 {size[1]:,} px"
    return ""
