"""A batch manifest: parse it, check it, digest it, and write it back without losing a field.

A manifest is one JSON object, bare or as the `data` of a CloudEvents 1.0 event of type `preprocess.completed`. What
is not known here is kept as it is, at every level. Numbers are what Python's `json` makes of them: integers of any
size and IEEE 754 doubles, all finite.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from curation_features.atomic_files import open_regular
from curation_features.errors import ManifestError
from curation_features.schema import PHOTO_REASONS, FeatureError

URI_FIELDS = ("std_uri", "ranking_uri", "original_uri")
"""Where an artifact's image may lie; the first that is present is analysed."""

EVENT_TYPE = "preprocess.completed"
MAX_PHOTO_ID = 512  # characters
MAX_DEPTH = 100  # levels; far under Python's recursion limit, so that what was read can also be written

VOCABULARY_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
"""What a vocabulary may be called: it becomes the name of a file."""

MAX_INGEST_MESSAGE = 400  # characters

_BATCH_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_JSON_MEDIA_TYPE = re.compile(r"(application/json|[^/;\s]+/[^/;\s]+\+json)\s*(;.*)?", re.IGNORECASE)

_Steps = tuple[str | int, ...]


@dataclass(frozen=True, slots=True)
class Artifact:
    """One photo of a batch.

    Attributes:
        position: its place in `artifacts`, from 0.
        photo_id: any text; never a path.
        image_uri: the image that is analysed.
        ingest_error: why ingest could not read the photo, of which there is only the original then:
            `"ingest_error": {"reason": one of PHOTO_REASONS, "message": at most 400 characters}`. It comes from outside
            and decides nothing: a run that may not read the original tells it in place of its own failure. What is not
            of that form is ignored.
    """

    position: int
    photo_id: str
    image_uri: str
    ingest_error: FeatureError | None = None


@dataclass(frozen=True, slots=True)
class Batch:
    """A manifest that has been checked.

    Attributes:
        batch_id: safe as a file name and as a partition key.
        artifacts: its photos, in order; there may be none, and one photo may be there more than once.
        document: the bare manifest with every field of the input, not shared with the caller.
        digest: sha256 (hex) of `document` as compact JSON in its own key order; the same for a bare manifest and
            for an event that carries it.
        vocabulary: name of the vocabulary that its photos are to be labelled with; None: the project's.
    """

    batch_id: str
    artifacts: tuple[Artifact, ...]
    document: Mapping[str, Any]
    digest: str
    vocabulary: str | None = None


def read_manifest(path: Path) -> Batch:
    """The batch in the file at `path`.

    Raises:
        ManifestError: the file cannot be read or holds no valid manifest; the message begins with its path.
    """
    try:
        with open_regular(path) as file:
            return parse_manifest(file.read())
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        reason = getattr(error, "strerror", None) or error
        raise ManifestError("", f"{_printable(str(path))}: cannot be read: {reason}") from error
    except ManifestError as error:
        error.args = (f"{_printable(str(path))}: {error}",)
        raise


def parse_manifest(data: bytes | str) -> Batch:
    """The batch in a JSON text (UTF-8, with or without a byte order mark).

    Raises:
        ManifestError: no valid JSON (RFC 8259: no `NaN`, no key twice in one object), or no valid manifest.
    """
    try:
        text = data.decode() if isinstance(data, bytes) else data
        document = json.loads(text.removeprefix("\ufeff"), object_pairs_hook=_object)
    except UnicodeDecodeError as error:
        raise ManifestError("", f"is not UTF-8 text: byte {error.start} is {data[error.start]:#04x}") from error
    except RecursionError as error:
        raise ManifestError("", f"is nested deeper than {MAX_DEPTH} levels") from error
    except ValueError as error:  # malformed, or an integer with more digits than Python converts
        raise ManifestError("", f"is not valid JSON: {error}") from error
    return batch_from(document)


def batch_from(document: Mapping[str, Any]) -> Batch:
    """The batch in a manifest, or an event, that is a Python object already. It is copied.

    Raises:
        ManifestError: a field that is missing or wrong, or a value that JSON does not have.
    """
    manifest = _plain(_unwrapped(document), ())
    batch_id = _required(manifest, "batch_id", ())
    if not is_batch_id(batch_id):
        raise ManifestError(
            "batch_id",
            "must be 1 to 128 letters, digits, '.', '_' or '-', begin with a letter or a digit, and hold no '..'; "
            f"not {_shown(batch_id)}",
        )
    vocabulary = manifest.get("vocabulary")
    if vocabulary is not None and not (isinstance(vocabulary, str) and VOCABULARY_NAME.fullmatch(vocabulary)):
        raise ManifestError(
            "vocabulary",
            "must be the name of a vocabulary, 1 to 64 letters, digits, '_' or '-', and never a path; "
            f"not {_shown(vocabulary)}",
        )
    artifacts = _required(manifest, "artifacts", ())
    if not isinstance(artifacts, list):
        raise ManifestError("artifacts", f"must be a list, not {_shown(artifacts)}")
    return Batch(
        batch_id=batch_id,
        artifacts=tuple(_artifact(position, fields) for position, fields in enumerate(artifacts)),
        document=manifest,
        digest=document_digest(manifest),
        vocabulary=vocabulary,
    )


def is_batch_id(value: Any) -> bool:
    """Whether a batch may have this id: it names files and a partition."""
    return isinstance(value, str) and _BATCH_ID.fullmatch(value) is not None and ".." not in value


def document_digest(document: Mapping[str, Any]) -> str:
    """`Batch.digest` of a bare manifest. Raises `ValueError`: it holds NaN or an infinity."""
    return hashlib.sha256(json.dumps(document, separators=(",", ":"), allow_nan=False).encode()).hexdigest()


def distinct_photos(batch: Batch) -> dict[tuple[str, str], list[int]]:
    """Positions of each (photo_id, image_uri), in order of first appearance.

    One id with two URIs makes two entries: whether these are different images is known only once they are read.
    """
    positions: dict[tuple[str, str], list[int]] = {}
    for artifact in batch.artifacts:
        positions.setdefault((artifact.photo_id, artifact.image_uri), []).append(artifact.position)
    return positions


def enrich(batch: Batch, features: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """A new manifest: every field of the input in its order, and `features` as the last field of each artifact.

    Args:
        batch: it is not changed, and shares nothing with the result.
        features: one record per artifact, in order; each stands in place of any `features` in the input.

    Raises:
        ValueError: not one record per artifact.
    """
    enriched: dict[str, Any] = _copied(batch.document)
    for artifact, record in zip(enriched["artifacts"], features, strict=True):
        artifact.pop("features", None)
        artifact["features"] = _copied(record)
    return enriched


def to_json(document: Mapping[str, Any]) -> bytes:
    """`document` as UTF-8 JSON, indented by two, with a final newline.

    Only a document with a lone surrogate, which UTF-8 cannot hold, is written with ASCII escapes.

    Raises:
        ValueError: it holds NaN or an infinity.
        TypeError: it holds something that JSON does not have.
    """
    text = json.dumps(document, indent=2, allow_nan=False, ensure_ascii=False) + "\n"
    try:
        return text.encode()
    except UnicodeEncodeError:
        return (json.dumps(document, indent=2, allow_nan=False) + "\n").encode()


def _unwrapped(document: Any) -> Mapping[str, Any]:
    """The manifest itself, out of its event if it came in one. The event's other attributes are not kept."""
    if not _is_object(document, ()):
        raise ManifestError("", f"a manifest must be a JSON object, not {_shown(document)}")
    if "specversion" not in document:
        return dict(document)
    event = _plain({name: value for name, value in document.items() if name != "data"}, ())
    for name, expected in (("specversion", "1.0"), ("type", EVENT_TYPE)):
        if event.get(name) != expected:
            raise ManifestError(name, f"must be {expected!r}, not {_shown(event.get(name))}")
    if "data_base64" in event:
        raise ManifestError("data_base64", "is not supported: give the manifest as JSON in `data`")
    media_type = event.get("datacontenttype")
    if media_type is not None and not (isinstance(media_type, str) and _JSON_MEDIA_TYPE.fullmatch(media_type)):
        raise ManifestError("datacontenttype", f"must be a JSON media type, not {_shown(media_type)}")
    data = _required(document, "data", ())
    if not _is_object(data, ()):
        raise ManifestError("data", f"must be a JSON object, not {_shown(data)}")
    return dict(data)


def _artifact(position: int, fields: Any) -> Artifact:
    steps: _Steps = ("artifacts", position)
    if not isinstance(fields, dict):
        raise ManifestError(_path(steps), f"must be a JSON object, not {_shown(fields)}")
    photo_id = _required(fields, "photo_id", steps)
    if not isinstance(photo_id, str) or not 0 < len(photo_id) <= MAX_PHOTO_ID:
        wrong = f"{len(photo_id)} characters" if isinstance(photo_id, str) else _shown(photo_id)
        raise ManifestError(_path((*steps, "photo_id")), f"must be a string of 1 to {MAX_PHOTO_ID} characters: {wrong}")
    try:
        photo_id.encode()
    except UnicodeEncodeError:
        raise ManifestError(_path((*steps, "photo_id")), f"holds a lone surrogate: {_shown(photo_id)}") from None
    uris = {name: fields[name] for name in URI_FIELDS if fields.get(name) is not None}
    for name, uri in uris.items():
        if not isinstance(uri, str) or not uri:
            raise ManifestError(_path((*steps, name)), f"must be a non-empty string, not {_shown(uri)}")
    if not uris:
        raise ManifestError(_path(steps), f"needs an image: one of {', '.join(URI_FIELDS)}")
    error = _ingest_error(fields.get("ingest_error")) if [*uris] == ["original_uri"] else None
    return Artifact(position, photo_id, next(iter(uris.values())), error)


def _ingest_error(value: Any) -> FeatureError | None:
    if not isinstance(value, dict) or value.get("reason") not in PHOTO_REASONS:
        return None
    message = value.get("message")
    if not isinstance(message, str) or not 0 < len(message) <= MAX_INGEST_MESSAGE:
        return None
    return FeatureError("photo", value["reason"], "".join(c if c.isprintable() else "?" for c in message))


def _required(fields: Mapping[str, Any], name: str, steps: _Steps) -> Any:
    if name not in fields:
        raise ManifestError(_path((*steps, name)), "is missing")
    return fields[name]


@dataclass(frozen=True, slots=True)
class _RepeatedKey:
    """Stands for a JSON object with a key that occurs twice, until the check that knows where it lies."""

    key: str


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any] | _RepeatedKey:
    members = dict(pairs)
    if len(members) == len(pairs):
        return members
    occurrences = Counter(key for key, _ in pairs)
    return _RepeatedKey(next(key for key, count in occurrences.items() if count > 1))


def _is_object(value: Any, steps: _Steps) -> bool:
    if isinstance(value, _RepeatedKey):
        raise ManifestError(_path((*steps, value.key)), "occurs more than once in one object")
    return isinstance(value, Mapping)


def _plain(value: Any, steps: _Steps) -> Any:
    """A copy of `value` as JSON has it, or an error that says where something lies that JSON does not have."""
    if value is None or isinstance(value, (str, bool)):
        return value
    if isinstance(value, float):
        if not math.isfinite(value):
            raise ManifestError(_path(steps), "must be a finite number, or null")
        return value
    if isinstance(value, int):
        _check_digits(value, steps)
        return value
    if len(steps) >= MAX_DEPTH:
        raise ManifestError(_path(steps[:3]), f"is nested deeper than {MAX_DEPTH} levels")
    if isinstance(value, list):
        return [_plain(item, (*steps, index)) for index, item in enumerate(value)]
    if isinstance(value, dict):
        for key in value:
            if not isinstance(key, str):
                raise ManifestError(_path(steps), f"has the key {_shown(key)}, which is no string")
        return {key: _plain(item, (*steps, key)) for key, item in value.items()}
    _is_object(value, steps)
    raise ManifestError(_path(steps), f"is {_shown(value)}, which JSON does not have")


def _check_digits(value: int, steps: _Steps) -> None:
    try:
        int.__repr__(value)
    except ValueError as error:
        raise ManifestError(_path(steps), f"is too large an integer: {error}") from None


def _copied(value: Any) -> Any:
    if value is None or isinstance(value, (str, int, float)):  # nearly all; to ask for a Mapping takes longer
        return value
    if isinstance(value, Mapping):
        return {key: _copied(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_copied(item) for item in value]
    return value


def _path(steps: _Steps) -> str:
    """Steps from the top as people write them: `artifacts[3].photo_id`, or `["odd key"]`."""
    return "".join(_step(step) for step in steps).removeprefix(".")


def _step(step: str | int) -> str:
    if isinstance(step, int):
        return f"[{step}]"
    return f".{step}" if step.isidentifier() and len(step) <= 64 else f"[{_short(json.dumps(step))}]"


_JSON_TYPES = {bool: "true or false", int: "a number", float: "a number", list: "a list", dict: "an object"}


def _shown(value: Any) -> str:
    """What was found, short and printable."""
    if value is None:
        return "null"
    if isinstance(value, str):
        return _short(ascii(value))
    return _JSON_TYPES.get(type(value), f"a Python {type(value).__name__}")


def _short(text: str) -> str:
    return text if len(text) <= 64 else f"{text[:61]}..."


def _printable(name: str) -> str:
    return name if name.isprintable() else ascii(name)
