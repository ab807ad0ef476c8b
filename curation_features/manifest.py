"""Batch manifests: parse, check, digest, and write back without losing a field.

A manifest is one JSON object, bare or as the `data` of a CloudEvents 1.0 event of type `preprocess.completed`. Unknown
fields are kept at every level. Numbers are those of Python's `json`: integers of any size and IEEE 754 doubles, all
finite.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from curation_features.atomic_files import open_regular
from curation_features.errors import ManifestError
from curation_features.schema import PHOTO_REASONS, FeatureError
from curation_features.text import escape_unprintable, printable, shorten

URI_FIELDS = ("std_uri", "ranking_uri", "original_uri")
"""Fields that may name an artifact's image; the first one present is analysed."""

EVENT_TYPE = "preprocess.completed"
MAX_PHOTO_ID = 512  # characters
MAX_DEPTH = 100  # levels; far below Python's recursion limit, so that every accepted manifest can also be written

VOCABULARY_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
"""Legal names of vocabularies; a name becomes a file name."""

MAX_INGEST_MESSAGE = 400  # characters

_BATCH_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_JSON_MEDIA_TYPE = re.compile(r"(application/json|[^/;\s]+/[^/;\s]+\+json)\s*(;.*)?", re.IGNORECASE)
_SURROGATE = re.compile(r"[\ud800-\udfff]")  # always a lone one; Python joins pairs

_Steps = tuple[str | int, ...]


@dataclass(frozen=True, slots=True)
class Artifact:
    """One photo of a batch.

    Attributes:
        position: index in `artifacts`, from 0.
        photo_id: any text; never used as a path.
        image_uri: the image that is analysed.
        ingest_error: why ingest could not read the photo, set only if `original_uri` is the only image:
            `"ingest_error": {"reason": one of PHOTO_REASONS, "message": at most 400 characters}`. Any other form is
            ignored. The field is untrusted and decides nothing: a run that is not allowed to read the original reports
            it instead of the error of the file.
    """

    position: int
    photo_id: str
    image_uri: str
    ingest_error: FeatureError | None = None


@dataclass(frozen=True, slots=True)
class Batch:
    """A checked manifest.

    Attributes:
        batch_id: safe as a file name and as a partition key.
        artifacts: the photos, in order; may be empty, and may contain one photo several times.
        document: the bare manifest with every field of the input; a copy.
        digest: sha256 (hex) of `document` as compact JSON with its keys in their order; equal for a bare manifest and
            for an event with the same manifest.
        vocabulary: name of the vocabulary for labelling; None: the project's default.
    """

    batch_id: str
    artifacts: tuple[Artifact, ...]
    document: Mapping[str, Any]
    digest: str
    vocabulary: str | None = None


def read_manifest(path: Path) -> Batch:
    """Read the manifest file at `path`.

    Raises:
        ManifestError: the file cannot be read or is not a valid manifest; the message begins with its path.
    """
    try:
        with open_regular(path) as file:
            return parse_manifest(file.read())
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        reason = getattr(error, "strerror", None) or error
        raise ManifestError("", f"{escape_unprintable(str(path))}: cannot be read: {reason}") from error
    except ManifestError as error:
        error.args = (f"{escape_unprintable(str(path))}: {error}",)
        raise


def parse_manifest(data: bytes | str) -> Batch:
    """Parse a manifest from JSON text (UTF-8, optional byte order mark).

    Raises:
        ManifestError: invalid JSON (RFC 8259: no `NaN`, no repeated key in an object), or an invalid manifest.
    """
    try:
        text = data.decode() if isinstance(data, bytes) else data
        document = parse_json(text.removeprefix("\ufeff"), _RepeatedKey)
    except UnicodeDecodeError as error:
        raise ManifestError("", f"is not UTF-8 text: byte {error.start} is {data[error.start]:#04x}") from error
    except RecursionError as error:
        raise ManifestError("", f"is nested deeper than {MAX_DEPTH} levels") from error
    except ValueError as error:  # malformed, or an integer with too many digits for Python
        raise ManifestError("", f"is not valid JSON: {error}") from error
    return batch_from(document)


def parse_json(text: str, repeated: Callable[[str], Any] | None = None) -> Any:
    """Parse JSON without repeated keys; `NaN` and infinities are accepted.

    Args:
        repeated: makes the value that replaces an object with a repeated key.

    Raises:
        ValueError: invalid JSON, or a repeated key if `repeated` is not given.
    """

    def build(pairs: list[tuple[str, Any]]) -> Any:
        members = dict(pairs)
        if len(members) == len(pairs):
            return members
        key = next(key for key, count in Counter(key for key, _ in pairs).items() if count > 1)
        if repeated is None:
            raise ValueError(f"the key {key} occurs more than once in one object")
        return repeated(key)

    return json.loads(text, object_pairs_hook=build)


def batch_from(document: Mapping[str, Any]) -> Batch:
    """Check and copy a manifest (or event) given as a Python object.

    Raises:
        ManifestError: a field is missing or wrong, or a value does not exist in JSON.
    """
    manifest = _copy_checked(_unwrap(document), ())
    batch_id = _require(manifest, "batch_id", ())
    rule = "1 to 128 letters, digits, '.', '_' or '-' (first a letter or digit; no '..')"
    _check(is_batch_id(batch_id), rule, batch_id, "batch_id")
    vocabulary = manifest.get("vocabulary")
    is_name = vocabulary is None or (isinstance(vocabulary, str) and VOCABULARY_NAME.fullmatch(vocabulary))
    rule = "the name of a vocabulary (1 to 64 letters, digits, '_' or '-'; no path)"
    _check(is_name, rule, vocabulary, "vocabulary")
    artifacts = _require(manifest, "artifacts", ())
    _check(isinstance(artifacts, list), "a list", artifacts, "artifacts")
    return Batch(
        batch_id=batch_id,
        artifacts=tuple(_parse_artifact(position, fields) for position, fields in enumerate(artifacts)),
        document=manifest,
        digest=document_digest(manifest),
        vocabulary=vocabulary,
    )


def is_batch_id(value: Any) -> bool:
    """Whether a value is a legal batch id; ids name files and partitions."""
    return isinstance(value, str) and _BATCH_ID.fullmatch(value) is not None and ".." not in value


def document_digest(document: Mapping[str, Any]) -> str:
    """Compute `Batch.digest` of a bare manifest. Raises `ValueError` for NaN and infinities."""
    return hashlib.sha256(json.dumps(document, separators=(",", ":"), allow_nan=False).encode()).hexdigest()


def distinct_photos(batch: Batch) -> dict[tuple[str, str], list[int]]:
    """Positions of each distinct (photo_id, image_uri), in order of first appearance.

    One id with two URIs makes two entries: only reading the images shows whether they differ.
    """
    positions: dict[tuple[str, str], list[int]] = {}
    for artifact in batch.artifacts:
        positions.setdefault((artifact.photo_id, artifact.image_uri), []).append(artifact.position)
    return positions


def enrich(batch: Batch, features: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Copy the manifest, with `features` as the last field of each artifact.

    Args:
        batch: is not changed, and shares nothing with the result.
        features: one record per artifact, in order; replaces any `features` of the input.

    Raises:
        ValueError: the number of records is not the number of artifacts.
    """
    enriched: dict[str, Any] = json.loads(json.dumps(batch.document))
    for artifact, record in zip(enriched["artifacts"], features, strict=True):
        artifact.pop("features", None)
        artifact["features"] = json.loads(json.dumps(dict(record)))
    return enriched


def to_json(document: Mapping[str, Any]) -> bytes:
    """Encode `document` as UTF-8 JSON, indented by two, with a final newline.

    A document with a lone surrogate, which UTF-8 cannot encode, is written with ASCII escapes.

    Raises:
        ValueError: it contains NaN or an infinity.
        TypeError: it contains a value that JSON does not have.
    """
    text = json.dumps(document, indent=2, allow_nan=False, ensure_ascii=False) + "\n"
    try:
        return text.encode()
    except UnicodeEncodeError:
        return (json.dumps(document, indent=2, allow_nan=False) + "\n").encode()


def _unwrap(document: Any) -> Mapping[str, Any]:
    """Extract the manifest from its event, if any; other attributes are dropped."""
    _check(_is_object(document, ()), "a JSON object", document)
    if "specversion" not in document:
        return dict(document)
    event = _copy_checked({name: value for name, value in document.items() if name != "data"}, ())
    for name, expected in (("specversion", "1.0"), ("type", EVENT_TYPE)):
        _check(event.get(name) == expected, repr(expected), event.get(name), name)
    if "data_base64" in event:
        raise ManifestError("data_base64", "is not supported: give the manifest as JSON in `data`")
    kind = event.get("datacontenttype", "application/json")
    is_json = kind is None or (isinstance(kind, str) and _JSON_MEDIA_TYPE.fullmatch(kind))
    _check(is_json, "a JSON media type", kind, "datacontenttype")
    data = _require(document, "data", ())
    _check(_is_object(data, ()), "a JSON object", data, "data")
    return dict(data)


def _parse_artifact(position: int, fields: Any) -> Artifact:
    steps: _Steps = ("artifacts", position)
    _check(isinstance(fields, dict), "a JSON object", fields, *steps)
    photo_id = _require(fields, "photo_id", steps)
    is_id = isinstance(photo_id, str) and 0 < len(photo_id) <= MAX_PHOTO_ID and not _SURROGATE.search(photo_id)
    _check(is_id, f"a string of 1 to {MAX_PHOTO_ID} characters without lone surrogates", photo_id, *steps, "photo_id")
    uris = {name: fields[name] for name in URI_FIELDS if fields.get(name) is not None}
    for name, uri in uris.items():
        _check(isinstance(uri, str) and uri, "a non-empty string", uri, *steps, name)
    if not uris:
        raise ManifestError(_format_path(steps), f"needs an image: one of {', '.join(URI_FIELDS)}")
    error = _parse_ingest_error(fields.get("ingest_error")) if [*uris] == ["original_uri"] else None
    return Artifact(position, photo_id, next(iter(uris.values())), error)


def _parse_ingest_error(value: Any) -> FeatureError | None:
    if not isinstance(value, dict) or value.get("reason") not in PHOTO_REASONS:
        return None
    message = value.get("message")
    if not isinstance(message, str) or not 0 < len(message) <= MAX_INGEST_MESSAGE:
        return None
    return FeatureError("photo", value["reason"], printable(message))


def _require(fields: Mapping[str, Any], name: str, steps: _Steps) -> Any:
    if name not in fields:
        raise ManifestError(_format_path((*steps, name)), "is missing")
    return fields[name]


def _check(is_valid: object, rule: str, value: Any, *steps: str | int) -> None:
    """Raise `ManifestError` for an invalid value: what it must be, and what it is."""
    if not is_valid:
        raise ManifestError(_format_path(steps), f"must be {rule}, not {_describe(value)}")


@dataclass(frozen=True, slots=True)
class _RepeatedKey:
    """Replaces an object with a repeated key until its path is known."""

    key: str


def _is_object(value: Any, steps: _Steps) -> bool:
    if isinstance(value, _RepeatedKey):
        raise ManifestError(_format_path((*steps, value.key)), "occurs more than once in one object")
    return isinstance(value, Mapping)


def _copy_checked(value: Any, steps: _Steps) -> Any:
    """Copy a JSON value; an error names the path of an illegal value."""
    if value is None or isinstance(value, (str, bool)):
        return value
    if isinstance(value, float):
        if not math.isfinite(value):
            raise ManifestError(_format_path(steps), "must be a finite number, or null")
        return value
    if isinstance(value, int):
        try:
            int.__repr__(value)
        except ValueError as error:
            raise ManifestError(_format_path(steps), f"is too large an integer: {error}") from None
        return value
    if len(steps) >= MAX_DEPTH:
        raise ManifestError(_format_path(steps[:3]), f"is nested deeper than {MAX_DEPTH} levels")
    if isinstance(value, list):
        return [_copy_checked(item, (*steps, index)) for index, item in enumerate(value)]
    if isinstance(value, dict):
        for key in value:
            if not isinstance(key, str):
                raise ManifestError(_format_path(steps), f"has the key {_describe(key)}, which is not a string")
        return {key: _copy_checked(item, (*steps, key)) for key, item in value.items()}
    _is_object(value, steps)
    raise ManifestError(_format_path(steps), f"is {_describe(value)}, which JSON does not have")


def _format_path(steps: _Steps) -> str:
    """Format steps from the top, as in `artifacts[3].photo_id` or `["odd key"]`."""
    return "".join(_step(step) for step in steps).removeprefix(".")


def _step(step: str | int) -> str:
    if isinstance(step, int):
        return f"[{step}]"
    return f".{step}" if step.isidentifier() and len(step) <= 64 else f"[{shorten(json.dumps(step), 64, '...')}]"


_JSON_TYPES = {bool: "true or false", int: "a number", float: "a number", list: "a list", dict: "an object"}


def _describe(value: Any) -> str:
    """Describe a value in a few printable characters."""
    if value is None:
        return "null"
    if isinstance(value, str):
        return shorten(ascii(value), 64, "...")
    return _JSON_TYPES.get(type(value), f"a Python {type(value).__name__}")
