"""Vocabularies: labels and prompt templates, read and checked before any model loads."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from curation_features.clip.words import words
from curation_features.errors import SettingsError
from curation_features.manifest import VOCABULARY_NAME
from curation_features.schema import LABELS_PER_PHOTO
from curation_features.settings import Settings, nearest, packaged_file

_KEYS = ("labels", "templates")


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """Labels and prompt templates.

    Attributes:
        labels: distinct for the model (see `words.words`); at least `schema.LABELS_PER_PHOTO`. Their order decides
            ties.
        templates: distinct for the model; each with one `{}` for the label.
    """

    labels: tuple[str, ...]
    templates: tuple[str, ...]

    def prompts(self) -> tuple[str, ...]:
        """Return every label in every template, label by label."""
        return tuple(template.replace("{}", label) for label in self.labels for template in self.templates)

    @property
    def fingerprint(self) -> str:
        """SHA-256 (hex) of the labels and templates in their order."""
        return hashlib.sha256(json.dumps([self.labels, self.templates]).encode()).hexdigest()


class _Entries(NamedTuple):
    """Labels or templates, and their file or argument for error messages."""

    source: str
    entries: tuple[str, ...]


def load_vocabulary(
    settings: Settings, labels: Sequence[str] | None = None, templates: Sequence[str] | None = None
) -> Vocabulary:
    """Return the project's vocabulary, the default of every batch, or one of user-supplied labels and templates.

    If a setting has its default value and the file does not exist, the package's own file is read.

    Raises:
        SettingsError: names the unusable file or entry, its position and the remedy.
    """
    return _combine(
        _from_project(settings, "labels") if labels is None else _from_caller("labels", labels),
        _from_project(settings, "templates") if templates is None else _from_caller("templates", templates),
    )


def named_vocabulary(settings: Settings, name: str) -> Vocabulary:
    """Read `{vocabularies_dir}/{name}.json`: `{"labels": [...], "templates": [...]}`.

    `templates` is optional; by default the project's.

    Raises:
        SettingsError: the name is unknown (the message has the nearest one), or the vocabulary is unusable.
    """
    path, known = _folder(settings) / f"{name}.json", vocabulary_names(settings)
    if name not in known:
        others = f"known: {', '.join(known)}" if known else "none is known"
        raise SettingsError(
            f"no vocabulary has the name {name!r}{nearest(name, known)}; {others}: write {path}, or correct the name"
        )
    return _from_file(settings, path)


def chosen_vocabulary(settings: Settings, name_or_file: str) -> Vocabulary:
    """Read the vocabulary of this name, or else of the file at this path.

    Raises:
        SettingsError: neither exists, or the vocabulary is unusable.
    """
    if name_or_file not in vocabulary_names(settings) and Path(name_or_file).is_file():
        return _from_file(settings, Path(name_or_file))
    if VOCABULARY_NAME.fullmatch(name_or_file):
        return named_vocabulary(settings, name_or_file)
    raise SettingsError(f"unknown vocabulary {name_or_file!r}: neither a file nor a valid name")


def vocabulary_names(settings: Settings) -> list[str]:
    """Return the sorted names of all named vocabularies, usable or not."""
    return sorted(path.stem for path in _folder(settings).glob("*.json") if VOCABULARY_NAME.fullmatch(path.stem))


def _folder(settings: Settings) -> Path:
    return settings.root / settings.vocabularies_dir


def _from_file(settings: Settings, path: Path) -> Vocabulary:
    """Read a vocabulary from one file with `labels` and optional `templates`."""
    content = _read_object(path)
    for key in content:
        if key not in _KEYS:
            raise SettingsError(f"{path}: unknown key {key!r}{nearest(key, _KEYS)}; valid keys: {' and '.join(_KEYS)}")
    labels = _check_entries(str(path), "labels", content.get("labels"))
    if "templates" not in content:
        return _combine(labels, _from_project(settings, "templates"))
    return _combine(labels, _check_entries(str(path), "templates", content["templates"]))


def _from_project(settings: Settings, key: str) -> _Entries:
    """Read the labels or templates of the project; the package's file replaces a missing file of the default name."""
    setting = f"{key}_file"
    name: str = getattr(settings, setting)
    path = settings.root / name
    if not path.exists() and name == Settings.__dataclass_fields__[setting].default:
        path = packaged_file(Path(name).name)
    return _check_entries(str(path), key, _read_object(path, f"{setting}: ").get(key))


def _from_caller(key: str, entries: Sequence[str]) -> _Entries:
    if isinstance(entries, str):
        raise SettingsError(f"{key}: expected a list of strings, not {entries!r}")
    return _check_entries(key, key, list(entries))


def _read_object(path: Path, setting: str = "") -> dict[str, Any]:
    """Read a JSON object; return an empty one for any other JSON value."""
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        raise SettingsError(f"{setting}{path} cannot be read as JSON in UTF-8: {error}") from error
    return content if isinstance(content, dict) else {}


def _combine(labels: _Entries, templates: _Entries) -> Vocabulary:
    """Check the number of labels and the templates; return the vocabulary."""
    if len(labels.entries) < LABELS_PER_PHOTO:
        raise SettingsError(f"{labels.source}: {len(labels.entries)} labels; at least {LABELS_PER_PHOTO} are needed")
    if not templates.entries:
        raise SettingsError(f"{templates.source}: templates is empty; add at least one, such as 'a photo of {{}}'")
    for position, template in enumerate(templates.entries):
        if template.count("{}") != 1 or set("{}") & set(template.replace("{}", "")):
            raise SettingsError(
                f"{templates.source}: templates[{position}] is {template!r}; it must have one {{}} (for the label) and "
                "no other brace"
            )
    return Vocabulary(labels.entries, templates.entries)


def _check_entries(source: str, key: str, entries: object) -> _Entries:
    """Check that `entries` is a list of strings that are distinct for the model."""
    if not isinstance(entries, list):
        raise SettingsError(f"{source}: expected an object with a list of strings, {{{key!r}: [...]}}")
    seen: dict[str, int] = {}
    for position, entry in enumerate(entries):
        problem = _find_problem(entry)
        if problem:
            raise SettingsError(f"{source}: {key}[{position}] ({entry!r}) {problem}")
        first = seen.setdefault(_words(entry), position)
        if first < position:
            raise SettingsError(f"{source}: {_describe_twins(key, first, entries[first], position, entry)}; remove one")
    return _Entries(source, tuple(entries))


def _find_problem(entry: object) -> str | None:
    if not isinstance(entry, str):
        return "is not a string"
    if any(0xD800 <= ord(character) <= 0xDFFF for character in entry):
        return "is not valid Unicode (unpaired surrogate)"
    if not _words(entry):
        return "is blank"
    return "has white space around it" if entry != entry.strip() else None


def _words(entry: str) -> str:
    return words(entry.replace("{}", "x"))  # most labels begin and end with a letter


def _describe_twins(key: str, first: int, one: str, second: int, other: str) -> str:
    if one == other:
        return f"{key}[{second}] ({other!r}) is a duplicate of [{first}]"
    return (
        f"{key}[{first}] {one!r} and {key}[{second}] {other!r} are the same to the model, which ignores case, "
        "white space, Unicode forms and HTML entities"
    )
