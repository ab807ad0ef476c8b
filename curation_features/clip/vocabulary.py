"""Vocabularies: labels and prompt templates, read and checked before any model loads."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from curation_features.clip.words import words
from curation_features.errors import SettingsError
from curation_features.manifest import VOCABULARY_NAME
from curation_features.schema import LABELS_PER_PHOTO
from curation_features.settings import Settings, nearest

_KEYS = ("labels", "templates")
_PACKAGE = Path(__file__).resolve().parent.parent


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


def load_vocabulary(settings: Settings) -> Vocabulary:
    """Read the project's vocabulary, the default of every batch.

    If a setting has its default value and the file does not exist, the package's own file is read.

    Raises:
        SettingsError: names the unusable file or entry, its position and the remedy.
    """
    return _check(*_project_labels(settings), *_project_templates(settings))


def named_vocabulary(settings: Settings, name: str) -> Vocabulary:
    """Read `{vocabularies_dir}/{name}.json`: `{"labels": [...], "templates": [...]}`.

    `templates` is optional; by default the project's.

    Raises:
        SettingsError: the name is unknown (the message has the nearest one), or the vocabulary is unusable.
    """
    path = _folder(settings) / f"{name}.json"
    if not VOCABULARY_NAME.fullmatch(name) or not path.is_file():
        known = vocabulary_names(settings)
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
    is_name = VOCABULARY_NAME.fullmatch(name_or_file) is not None
    if Path(name_or_file).is_file() and not (is_name and (_folder(settings) / f"{name_or_file}.json").is_file()):
        return _from_file(settings, Path(name_or_file))
    if is_name:
        return named_vocabulary(settings, name_or_file)
    raise SettingsError(f"unknown vocabulary {name_or_file!r}: neither a file nor a valid name")


def vocabulary_of(
    settings: Settings, labels: Sequence[str] | None = None, templates: Sequence[str] | None = None
) -> Vocabulary:
    """Build a vocabulary of user-supplied labels and templates; by default the project's.

    Raises:
        SettingsError: names the position of the unusable entry.
    """
    if labels is None and templates is None:
        return load_vocabulary(settings)
    named = _project_labels(settings) if labels is None else _check_list("labels", labels)
    return _check(*named, *(_project_templates(settings) if templates is None else _check_list("templates", templates)))


def vocabulary_names(settings: Settings) -> list[str]:
    """Return the sorted names of all named vocabularies, usable or not."""
    folder = _folder(settings)
    paths = folder.glob("*.json") if folder.is_dir() else ()
    return sorted(path.stem for path in paths if VOCABULARY_NAME.fullmatch(path.stem))


def _folder(settings: Settings) -> Path:
    return settings.root / Path(settings.vocabularies_dir).expanduser()


def _from_file(settings: Settings, path: Path) -> Vocabulary:
    """Read a vocabulary from one file with `labels` and optional `templates`."""
    content = _read_object(path)
    for key in content:
        if key not in _KEYS:
            raise SettingsError(f"{path}: unknown key {key!r}{nearest(key, _KEYS)}; valid keys: {' and '.join(_KEYS)}")
    labels = _strings(path, "labels")
    templates = _strings(path, "templates") if "templates" in content else _project_templates(settings)
    return _check(*labels, *templates)


def _project_labels(settings: Settings) -> tuple[str, tuple[str, ...]]:
    return _strings(_find(settings, "labels_file"), "labels", "labels_file: ")


def _project_templates(settings: Settings) -> tuple[str, tuple[str, ...]]:
    return _strings(_find(settings, "templates_file"), "templates", "templates_file: ")


def _check(labels_from: str, labels: tuple[str, ...], templates_from: str, templates: tuple[str, ...]) -> Vocabulary:
    """Check the number of labels and the templates; return the vocabulary."""
    if len(labels) < LABELS_PER_PHOTO:
        raise SettingsError(f"{labels_from}: {len(labels)} labels; at least {LABELS_PER_PHOTO} are needed")
    if not templates:
        raise SettingsError(f"{templates_from}: templates is empty; add at least one, such as 'a photo of {{}}'")
    for position, template in enumerate(templates):
        if template.count("{}") != 1 or set("{}") & set(template.replace("{}", "")):
            raise SettingsError(
                f"{templates_from}: templates[{position}] is {template!r}; it must have one {{}} (for the label) and "
                "no other brace"
            )
    return Vocabulary(labels, templates)


def _read_object(path: Path, setting: str = "") -> dict[str, Any]:
    """Read a JSON object; return an empty one for any other JSON value."""
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        raise SettingsError(f"{setting}{path} cannot be read as JSON in UTF-8: {error}") from error
    return content if isinstance(content, dict) else {}


def _strings(path: Path, key: str, setting: str = "") -> tuple[str, tuple[str, ...]]:
    """Read the distinct strings under `key`; return their source (for errors) and the strings."""
    return str(path), _check_distinct(str(path), _read_object(path, setting).get(key), key)


def _check_list(key: str, entries: Sequence[str]) -> tuple[str, tuple[str, ...]]:
    """Like `_strings`, for entries given in code."""
    if isinstance(entries, str):
        raise SettingsError(f"{key}: expected a list of strings, not {entries!r}")
    return key, _check_distinct(key, list(entries), key)


def _check_distinct(source: str, entries: object, key: str) -> tuple[str, ...]:
    if not isinstance(entries, list):
        raise SettingsError(f"{source}: expected an object with a list of strings, {{{key!r}: [...]}}")
    seen: dict[str, int] = {}
    for position, entry in enumerate(entries):
        problem = _find_problem(entry)
        if problem:
            raise SettingsError(f"{source}: {key}[{position}] ({entry!r}) {problem}")
        text = words(entry.replace("{}", "x"))  # x: most labels begin and end with a letter
        if not text:
            raise SettingsError(f"{source}: {key}[{position}] ({entry!r}) is blank")
        first = seen.setdefault(text, position)
        if first < position:
            raise SettingsError(f"{source}: {_describe_twins(key, first, entries[first], position, entry)}; remove one")
    return tuple(entries)


def _describe_twins(key: str, first: int, one: str, second: int, other: str) -> str:
    if one == other:
        return f"{key}[{second}] ({other!r}) is a duplicate of [{first}]"
    return (
        f"{key}[{first}] {one!r} and {key}[{second}] {other!r} are the same to the model, which ignores case, "
        "white space, Unicode forms and HTML entities"
    )


def _find_problem(entry: object) -> str | None:
    if not isinstance(entry, str):
        return "is not a string"
    if not entry.strip():
        return "is blank"
    if entry != entry.strip():
        return "has white space around it"
    if any(0xD800 <= ord(character) <= 0xDFFF for character in entry):
        return "is not valid Unicode (unpaired surrogate)"
    return None


def _find(settings: Settings, setting: str) -> Path:
    """Return the file that a setting names, or the package's copy of the default file."""
    name: str = getattr(settings, setting)
    path = settings.root / Path(name).expanduser()
    default = next(spec.default for spec in dataclasses.fields(Settings) if spec.name == setting)
    if path.exists() or name != default:
        return path
    copies = (_PACKAGE / "defaults" / Path(name).name, _PACKAGE.parent / name)  # of a wheel; of a checkout
    return next((copy for copy in copies if copy.is_file()), path)
