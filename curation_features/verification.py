"""Checks of a finished batch: is what lies on disk right, and is it what batches usually look like?

The blocking checks read both artifacts back as a consumer would and hold them against the manifest (`verify`). The
others are numbers that are worth a warning beyond a threshold of the settings.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from curation_features.errors import StoreError
from curation_features.manifest import Artifact, Batch
from curation_features.schema import LABELS_PER_PHOTO, METRIC_NAMES, METRICS
from curation_features.tables import FEATURE_COLUMNS, ROWS_PER_GROUP, arrow_schema, taken_columns

if TYPE_CHECKING:
    import pyarrow as pa

PROBLEMS_SHOWN = 20  # of each check
MIN_PHOTOS = 10  # with labels, for a comparison of labels
MIN_HISTORY = 30


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that is checked of every batch.

    Attributes:
        blocking: whether a batch that fails it must go no further; otherwise it is worth a warning.
    """

    name: str
    description: str
    blocking: bool


COMPLETE = Check(
    "artifacts_complete",
    "Every photo of the manifest is in the JSON and in the table, once, in the manifest's order.",
    blocking=True,
)
UNCHANGED = Check(
    "metadata_unchanged",
    "Every field of the manifest came out with the same value, type and place; nothing but `features` was added.",
    blocking=True,
)
IN_RANGE = Check(
    "schema_and_ranges",
    "Features have their fields and columns, scores lie in [0, 1], defaults are marked, and both files agree.",
    blocking=True,
)
FINITE = Check("values_finite", "No number in the JSON or the table is NaN or infinite.", blocking=True)

CHECKS: tuple[Check, ...] = (
    COMPLETE,
    UNCHANGED,
    IN_RANGE,
    FINITE,
    Check("few_degraded", "Few photos of the batch are degraded or failed (`warn_degraded_share`).", blocking=False),
    Check("labels_as_usual", "Labels are shared out as in the last batches (`warn_label_shift`).", blocking=False),
    Check("cache_effective", "Photos that were measured before came out of the cache (`warn_cached_share`).", False),
)

Key = tuple[str, int]
"""A photo_id, and how many artifacts before this one have the same."""

_Steps = tuple[str | int, ...]


def verify(batch: Batch, json_path: Path, table_path: Path) -> dict[str, list[str]]:
    """Hold the finished artifacts of a batch against its manifest.

    Never raises for what lies on disk: a file that is missing or cannot be read is a problem of every check, because
    none of them could look. Numbers that are no JSON (`NaN`) are problems with a place, not an unreadable file.

    Args:
        batch: the accepted manifest.
        json_path: the enriched batch.
        table_path: the same as a table; it is read a row group at a time.

    Returns:
        for each blocking check, by name, what is wrong; empty where nothing is. At most `PROBLEMS_SHOWN` texts and
        one that counts the others. They name position, photo and field, quote no metadata, and are
        printable and without markup.
    """
    report = _Report()
    sound: dict[Key, Mapping[str, Any]] = {}
    accepted = json.dumps(batch.document, separators=(",", ":")).encode()
    if hashlib.sha256(accepted).hexdigest() != batch.digest:
        report.add(UNCHANGED, "manifest", "was changed after it was accepted: its digest is another")
    try:
        sound = _verify_document(batch, _read_document(json_path), report)
    except StoreError as error:
        report.unreadable(error)
    try:
        _verify_table(batch, sound, table_path, report)
    except StoreError as error:
        report.unreadable(error)
    return report.texts()


def degraded_share(statuses: Mapping[str, int]) -> float:
    """Share of a batch's photos that are `degraded` or `failed`, 0 to 1; 0 for a batch without photos.

    Args:
        statuses: how many photos are `ok`, `degraded` and `failed`.
    """
    return (statuses.get("degraded", 0) + statuses.get("failed", 0)) / max(sum(statuses.values()), 1)


def label_shift(counts: Mapping[str, int], history: Sequence[Mapping[str, int]]) -> float | None:
    """How far a batch's first labels are from those of the last batches: 0 (the same shares) to 1 (none in common).

    The total variation distance, half the sum of absolute differences of shares, less the distance that a batch of
    this size has by chance alone (the mean absolute deviation of each share, by the normal approximation). None for
    fewer than `MIN_PHOTOS` photos with labels in the batch or `MIN_HISTORY` before it, which say too little.

    Args:
        counts: how many photos of the batch have each first label.
        history: the same of the last batches; they are pooled, so that large batches count for more.
    """
    before: Counter[str] = Counter()
    for batch in history:
        before.update(batch)
    photos, pooled = sum(counts.values()), before.total()
    if photos < MIN_PHOTOS or pooled < MIN_HISTORY:
        return None
    labels = sorted({*counts, *before})
    distance = sum(abs(counts.get(label, 0) / photos - before[label] / pooled) for label in labels) / 2
    shares = ((counts.get(label, 0) + before[label]) / (photos + pooled) for label in labels)
    variances = (share * (1 - share) * (1 / photos + 1 / pooled) for share in shares)
    return max(0.0, distance - sum(math.sqrt(2 / math.pi * variance) for variance in variances) / 2)


def cached_share(cached: int, photos: int, comparable: bool) -> float | None:
    """Share of a batch's photos that came out of the cache, 0 to 1; None where that says nothing.

    Args:
        cached: photos for which nothing was computed.
        photos: all photos of the batch.
        comparable: whether all of them could come out of the cache: not the first time, nor under new versions.
    """
    return cached / photos if comparable and photos else None


class _Report:
    """What is wrong, by check: the first problems as texts, the others as a number."""

    def __init__(self) -> None:
        self._texts: dict[str, list[str]] = {check.name: [] for check in CHECKS if check.blocking}
        self._more: Counter[str] = Counter()

    def add(self, check: Check, place: str, problem: str) -> None:
        texts = self._texts[check.name]
        if len(texts) < PROBLEMS_SHOWN:
            texts.append(f"{place}: {problem}")
        else:
            self._more[check.name] += 1

    def unreadable(self, error: StoreError) -> None:
        for name, texts in self._texts.items():
            texts.insert(0, str(error) if name == COMPLETE.name else f"could not look: {error}")

    def texts(self) -> dict[str, list[str]]:
        return {
            name: [*texts[:PROBLEMS_SHOWN], *([f"... and {more} more"] if more > 0 else [])]
            for name, texts in self._texts.items()
            for more in [self._more[name] + len(texts) - PROBLEMS_SHOWN]
        }


# --- The JSON ---


def _read_document(path: Path) -> Mapping[str, Any]:
    """The enriched batch. Raises `StoreError` where a consumer could not read it."""
    with _reading(path):
        document = _parsed(path.read_bytes().decode())
        if not isinstance(document, dict) or not isinstance(document.get("artifacts"), list):
            raise ValueError("is no JSON object with a list of artifacts")
        return document


def _verify_document(batch: Batch, document: Mapping[str, Any], report: _Report) -> dict[Key, Mapping[str, Any]]:
    """Check the JSON; returns the features that are as they should be."""
    sound: dict[Key, Mapping[str, Any]] = {}
    keys = _keys(artifact.photo_id for artifact in batch.artifacts)
    manifest = dict(zip(keys, batch.document["artifacts"], strict=True))
    found = _keys(
        artifact.get("photo_id") if isinstance(artifact, dict) else None for artifact in document["artifacts"]
    )
    for key, index, problem in _sequence_problems(keys, found):
        report.add(COMPLETE, f"artifacts[{index}] ({_photo(key)})", problem)
    for field, problem in _differences({**batch.document, "artifacts": None}, {**document, "artifacts": None}):
        report.add(UNCHANGED, "top level", f"{field}{problem}")
    for position, (key, artifact) in enumerate(zip(found, document["artifacts"], strict=True)):
        if key not in manifest:
            continue
        place = f"artifacts[{position}] ({_photo(key)})"
        for field, problem in _differences(_metadata(manifest[key]), _metadata(artifact)):
            report.add(UNCHANGED, place, f"{field}{problem}")
        problems = list(_feature_problems(artifact.get("features")))
        for problem in problems:
            report.add(IN_RANGE, place, problem)
        if not problems:
            sound[key] = artifact["features"]
    for steps in _non_finite(document):
        report.add(FINITE, *_placed(steps, found))
    return sound


def _placed(steps: _Steps, found: Sequence[Key]) -> tuple[str, str]:
    """Where a number that is not finite lies, and that it is one."""
    if len(steps) > 1 and steps[0] == "artifacts" and isinstance(steps[1], int):
        return f"artifacts[{steps[1]}] ({_photo(found[steps[1]])})", f"{_path(steps[2:])}is not finite"
    return "top level", f"{_path(steps)}is not finite"


def _metadata(artifact: Mapping[str, Any]) -> dict[str, Any]:
    """An artifact without what this package adds."""
    return {name: value for name, value in artifact.items() if name != "features"}


# --- The table ---

_ORIGIN = ("original_uri", "taken", "camera", "lens", "iso")
_COMPARED = (
    "batch_id", "position", "photo_id", "image_uri", *_ORIGIN, "status", "errors", *METRIC_NAMES, "label", "confidence",
    "clip_labels", "version_technical", "version_clip", "artifact",
)  # fmt: skip


def _verify_table(batch: Batch, sound: Mapping[Key, Mapping[str, Any]], path: Path, report: _Report) -> None:
    usable = _usable_columns(path, report)
    if "photo_id" not in usable:
        report.add(COMPLETE, "table", "without its column photo_id no row can be checked")
        return
    keys = _keys(artifact.photo_id for artifact in batch.artifacts)
    artifacts = dict(zip(keys, batch.artifacts, strict=True))
    found: list[Key] = []
    seen: Counter[str] = Counter()
    for columns, non_finite in _chunks(path, usable):
        start = len(found)
        found += _keys(columns["photo_id"], seen)
        for row, steps in non_finite:
            report.add(FINITE, f"row {start + row} ({_photo(found[start + row])})", f"{_path(steps)}is not finite")
        for row, key in enumerate(found[start:]):
            if key in artifacts:
                values = {name: column[row] for name, column in columns.items()}
                for check, problem in _row_problems(values, batch, artifacts[key], sound.get(key)):
                    report.add(check, f"row {start + row} ({_photo(key)})", problem)
    for key, row, problem in _sequence_problems(keys, found):
        report.add(COMPLETE, f"row {row} ({_photo(key)})", problem)


def _row_problems(
    row: Mapping[str, Any], batch: Batch, artifact: Artifact, features: Mapping[str, Any] | None
) -> Iterator[tuple[Check, str]]:
    """What is wrong with one row; a column that is not in `row` is passed over.

    Args:
        features: those in the JSON, if they are as they should be.
    """
    identity = {"batch_id": batch.batch_id, "position": artifact.position, "image_uri": _stored(artifact.image_uri)}
    for name, value in identity.items():
        if row.get(name, value) != value:
            yield COMPLETE, f"{name}: is not that of the manifest"
    for name, value in _feature_columns(features).items() if features else ():
        if row.get(name, value) != value:
            yield IN_RANGE, f"{name}: is {_shown(row[name])}, and should be {_shown(value)} by the JSON"
    accepted = batch.document["artifacts"][artifact.position]
    for name, value in taken_columns(accepted).items():
        value = _stored(value) if isinstance(value, str) else value
        if row.get(name, value) != value:
            yield UNCHANGED, f"{name}: is not that of the manifest"
    if "artifact" in row:
        try:
            found = _parsed(row["artifact"] or "")
        except (ValueError, RecursionError):
            yield UNCHANGED, "artifact: is not valid JSON"
            return
        for field, problem in _differences(_metadata(accepted), found):
            yield UNCHANGED, f"artifact: {field}{problem}"


def _feature_columns(features: Mapping[str, Any]) -> dict[str, Any]:
    """What the table must hold of one photo's features: null where they are defaults."""
    defaults = _defaults(features["errors"])
    labels = None if "clip_labels" in defaults else features["clip_labels"]
    return {
        "status": features["status"],
        "errors": [{name: _stored(text) for name, text in error.items()} for error in features["errors"]],
        **{name: None if name in defaults else features["tech"][name] for name in METRIC_NAMES},
        "label": labels and _stored(labels[0]["label"]),
        "confidence": labels and labels[0]["confidence"],
        "clip_labels": labels and [{**label, "label": _stored(label["label"])} for label in labels],
        "version_technical": features["version"]["technical"],
        "version_clip": features["version"]["clip"],
    }


def _usable_columns(path: Path, report: _Report) -> frozenset[str]:
    """Hold the table's columns against `FEATURE_COLUMNS`; returns those that are there, once, with their type."""
    import pyarrow.parquet as pq

    with _reading(path):
        found = pq.read_schema(path)
    expected = arrow_schema(FEATURE_COLUMNS)
    wrong = {name: "column is missing" for name in expected.names if name not in found.names}
    for name, count in Counter(found.names).items():
        if name not in FEATURE_COLUMNS:
            wrong[name] = "no such column is expected"
        elif count > 1:
            wrong[name] = "column is there more than once"
        elif found.field(name).type != expected.field(name).type:
            wrong[name] = f"column is of type {_inert(found.field(name).type)}, not {expected.field(name).type}"
    for name, problem in wrong.items():
        report.add(IN_RANGE, f"table.{_inert(name)}", problem)
    if not wrong and found.names != expected.names:
        report.add(IN_RANGE, "table", "its columns stand in another order")
    return frozenset(_COMPARED) - wrong.keys()


_Chunk = tuple[dict[str, list[Any]], list[tuple[int, _Steps]]]


def _chunks(path: Path, usable: frozenset[str]) -> Iterator[_Chunk]:
    """The table, a row group at a time: its usable columns, and where a number is not finite (row, then steps).

    Raises:
        StoreError: the table cannot be read, or not to its end.
    """
    import pyarrow.parquet as pq

    with _reading(path), pq.ParquetFile(path) as file:
        for batch in file.iter_batches(ROWS_PER_GROUP):
            named = list(zip(batch.schema.names, batch.columns, strict=True))
            yield (
                {name: column.to_pylist() for name, column in named if name in usable},
                [found for name, column in named for found in _non_finite_rows(name, column)],
            )


def _all_finite(column: pa.Array) -> bool:
    """Whether a column holds no NaN and no infinity, in its lists and structures neither."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if pa.types.is_floating(column.type):
        return pc.all(pc.is_finite(column)).as_py() is not False  # None: all are null
    if pa.types.is_list(column.type):
        return _all_finite(column.flatten())
    return not pa.types.is_struct(column.type) or all(_all_finite(part) for part in column.flatten())


def _non_finite_rows(name: str, column: pa.Array) -> Iterator[tuple[int, _Steps]]:
    for row, value in enumerate(() if _all_finite(column) else column.to_pylist()):
        for steps in _non_finite(value):
            yield row, (name, *steps)


# --- The feature record ---

_FEATURES = ("tech", "clip_labels", "status", "errors", "version")
_LABEL = ("label", "confidence", "cosine_score")
_ERROR = ("stage", "reason", "message")
_VALUES_OF_STAGE: Mapping[str, tuple[str, ...]] = {
    "photo": (*METRIC_NAMES, "clip_labels"),
    **{name: (name,) for name in METRIC_NAMES},
    "image_embedding": ("clip_labels",),
    "clip_labels": ("clip_labels",),
}


def _defaults(errors: Iterable[Mapping[str, str]]) -> frozenset[str]:
    """The values that are defaults, because `errors` say so: names of metrics, and `clip_labels`."""
    return frozenset(name for error in errors for name in _VALUES_OF_STAGE[error["stage"]])


def _feature_problems(features: Any) -> Iterator[str]:
    """What is wrong with one feature record: the field, and why."""
    if not _has_fields(features, _FEATURES):
        yield f"features: needs exactly the fields {', '.join(_FEATURES)}"
        return
    errors = list(_error_problems(features["errors"]))
    yield from errors
    defaults = frozenset() if errors else _defaults(features["errors"])
    yield from _tech_problems(features["tech"], defaults)
    yield from _label_problems(features["clip_labels"], "clip_labels" in defaults)
    status = "ok" if not defaults else "failed" if len(defaults) == len(_VALUES_OF_STAGE["photo"]) else "degraded"
    if features["status"] != status and not errors:
        yield f"features.status: is {_shown(features['status'])}, and should be {status} by the errors"
    version = features["version"]
    if not _has_fields(version, ("technical", "clip")) or not all(isinstance(text, str) for text in version.values()):
        yield "features.version: needs exactly the texts technical and clip"


def _error_problems(errors: Any) -> Iterator[str]:
    if not isinstance(errors, list):
        yield "features.errors: is not a list"
        return
    for index, error in enumerate(errors):
        where = f"features.errors[{index}]"
        if not _has_fields(error, _ERROR):
            yield f"{where}: needs exactly the fields {', '.join(_ERROR)}"
        elif not all(isinstance(text, str) for text in error.values()):
            yield f"{where}: its fields are not all text"
        elif error["stage"] not in _VALUES_OF_STAGE:
            yield f"{where}.stage: {_shown(error['stage'])} is none of {', '.join(_VALUES_OF_STAGE)}"


def _tech_problems(tech: Any, defaults: frozenset[str]) -> Iterator[str]:
    if not _has_fields(tech, METRIC_NAMES):
        yield f"features.tech: needs exactly the scores {', '.join(METRIC_NAMES)}"
        return
    for metric in METRICS:
        score = tech[metric.name]
        if not _is_share(score):
            yield f"features.tech.{metric.name}: {_shown(score)} is no float in [0, 1]"
        elif metric.name in defaults and score != metric.default:
            yield f"features.tech.{metric.name}: {score} has an error, so it should be the default {metric.default}"


def _label_problems(labels: Any, default: bool) -> Iterator[str]:
    if not isinstance(labels, list) or len(labels) != LABELS_PER_PHOTO:
        yield f"features.clip_labels: is not a list of {LABELS_PER_PHOTO}"
        return
    wrong = [index for index, label in enumerate(labels) if not _is_label(label)]
    for index in wrong:
        yield f"features.clip_labels[{index}]: needs exactly {', '.join(_LABEL)}: a text and two floats in [0, 1]"
    if wrong:
        return
    if len({label["label"] for label in labels}) < len(labels):
        yield "features.clip_labels: a label is there more than once"
    confidences = [label["confidence"] for label in labels]
    if confidences != sorted(confidences, reverse=True):
        yield "features.clip_labels: are not by confidence, descending"
    if default and any(label["confidence"] or label["cosine_score"] for label in labels):
        yield "features.clip_labels: have an error, so they should be defaults at 0.0"


def _is_label(label: Any) -> bool:
    return (
        _has_fields(label, _LABEL)
        and isinstance(label["label"], str)
        and _is_share(label["confidence"])
        and _is_share(label["cosine_score"])
    )


def _has_fields(value: Any, names: Sequence[str]) -> bool:
    return isinstance(value, dict) and value.keys() == set(names)


def _is_share(value: Any) -> bool:
    """Whether it is a float in [0, 1]; NaN is in no range."""
    return isinstance(value, float) and 0.0 <= value <= 1.0


# --- Matching, comparing, reading ---


def _keys(photo_ids: Iterable[Any], seen: Counter[str] | None = None) -> list[Key]:
    """A key for each photo_id; what is no photo_id gets one that no photo has."""
    seen = Counter() if seen is None else seen
    keys = []
    for photo_id in photo_ids:
        name = photo_id if isinstance(photo_id, str) else ""
        keys.append((name, seen[name]))
        seen[name] += 1
    return keys


def _sequence_problems(expected: Sequence[Key], found: Sequence[Key]) -> Iterator[tuple[Key, int, str]]:
    """Keys that are missing, too many or out of order, each with a place: its own, or where it belongs."""
    if expected == found:
        return
    wanted, present = set(expected), set(found)
    for place, key in enumerate(expected):
        if key not in present:
            yield key, place, "is missing"
    for place, key in enumerate(found):
        if key not in wanted:
            yield key, place, "is not in the manifest, or more often than there"
    order = iter(key for key in expected if key in present)
    for place, key in enumerate(found):
        if key in wanted and key != next(order):
            yield key, place, "is not in its place"


def _differences(expected: Any, found: Any, steps: _Steps = ()) -> Iterator[tuple[str, str]]:
    """Where two JSON values differ in value, type or order of fields: the field, and how. Shows no value."""
    if type(expected) is not type(found) and _kind(expected) != _kind(found):
        yield _path(steps), f"is {_kind(found)}, and was {_kind(expected)}"
    elif isinstance(expected, dict):
        for name, value in expected.items():
            if name in found:
                yield from _differences(value, found[name], (*steps, name))
            else:
                yield _path((*steps, name)), "is missing"
        for name in (name for name in found if name not in expected):
            yield _path((*steps, name)), "is new"
        if found.keys() == expected.keys() and list(found) != list(expected):
            yield _path(steps), "has its fields in another order"
    elif isinstance(expected, list):
        if len(expected) != len(found):
            yield _path(steps), f"has {len(found)} entries, and had {len(expected)}"
        for index, values in enumerate(zip(expected, found, strict=False)):
            yield from _differences(*values, (*steps, index))
    elif expected != found or (isinstance(expected, float) and math.copysign(1, expected) != math.copysign(1, found)):
        yield _path(steps), "has another value"


_KINDS = {str: "a string", bool: "a boolean", int: "an integer", float: "a float", dict: "an object", list: "a list"}


def _kind(value: Any) -> str:
    """What a value is in JSON; numbers with and without a fraction are told apart."""
    return next((name for kind, name in _KINDS.items() if isinstance(value, kind)), "null")


def _non_finite(value: Any) -> Iterator[_Steps]:
    """Where NaN and infinities lie in a JSON value. Not recursive: what is checked may be nested deeply."""
    waiting: list[tuple[_Steps, Any]] = [((), value)]
    while waiting:
        steps, value = waiting.pop()
        if isinstance(value, float):
            if not math.isfinite(value):
                yield steps
        elif isinstance(value, dict):
            waiting += [((*steps, name), item) for name, item in reversed(value.items()) if not isinstance(item, str)]
        elif isinstance(value, list):
            waiting += [((*steps, index), item) for index, item in reversed(list(enumerate(value)))]


def _parsed(text: str) -> Any:
    """A JSON value. Raises `ValueError` for a key that is twice in one object; `NaN` is read, to be found later."""
    return json.loads(text, object_pairs_hook=_object)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) < len(pairs):
        [(name, _)] = Counter(name for name, _ in pairs).most_common(1)
        raise ValueError(f"the field {name} is there more than once in one object")
    return members


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Turn whatever keeps a file from being read into a `StoreError` that names it."""
    try:
        if path.exists() and not path.is_file():  # opening a FIFO would wait for ever
            raise ValueError("is not a regular file")
        yield
    except (OSError, ValueError, RuntimeError) as error:  # RuntimeError: nested too deeply, or unknown to pyarrow
        cause = getattr(error, "strerror", None) or error
        raise StoreError(
            f"{_inert(path.name)}: cannot be read ({_inert(cause)}); materialize features again"
        ) from error


# --- Text that is safe to show ---

_MARKUP = frozenset("<>&`|*[]\\")


def _inert(text: object, limit: int = 200) -> str:
    """Text from outside, short, printable and without markup."""
    kept = "".join(
        letter if letter.isprintable() and letter not in _MARKUP else "?" for letter in str(text)[: limit + 1]
    )
    return _short(kept, limit)


def _short(text: str, limit: int) -> str:
    return text if len(text) <= limit else f"{text[:limit]}..."


def _photo(key: Key) -> str:
    return f"photo {_inert(key[0], 12)}" if key[0] else "no photo_id"


def _path(steps: _Steps) -> str:
    """Steps as people write them, with a colon after them, or nothing for no steps: `exif.gps[1]: `."""
    text = "".join(f"[{step}]" if isinstance(step, int) else f".{_inert(step, 64)}" for step in steps)
    return f"{_short(text.removeprefix('.'), 200)}: " if text else ""


def _shown(value: Any) -> str:
    """A value of a feature record."""
    return f"a {type(value).__name__}" if isinstance(value, (dict, list)) else _inert(value, 32)


def _stored(text: str) -> str:
    """Text as a table holds it, which has no lone surrogates."""
    return text.encode("utf-8", "replace").decode()
