"""Labels and prompt templates: read from their files and checked before any model loads."""

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
    """What photos are labelled with.

    Attributes:
        labels: distinct to the model (see `prompts.words`); at least `schema.LABELS_PER_PHOTO`. Their order settles
            ties.
        templates: distinct to the model; each with one `{}`, where the label goes.
    """

    labels: tuple[str, ...]
    templates: tuple[str, ...]

    def prompts(self) -> tuple[str, ...]:
        """Every label in every template: all prompts of the first label, then all of the second, and so on."""
        return tuple(template.replace("{}", label) for label in self.labels for template in self.templates)

    @property
    def fingerprint(self) -> str:
        """SHA-256 (hex) of the labels and templates in their order."""
        return hashlib.sha256(json.dumps([self.labels, self.templates]).encode()).hexdigest()


def load_vocabulary(settings: Settings) -> Vocabulary:
    """The labels and templates that `settings` name: the vocabulary of every batch that asks for no other.

    A file that is absent is replaced by the one that comes with the package, if the setting has its default value.

    Raises:
        SettingsError: a file or an entry that cannot be used, by name and position, with the remedy.
    """
    return _checked(*_project_labels(settings), *_project_templates(settings))


def named_vocabulary(settings: Settings, name: str) -> Vocabulary:
    """The vocabulary `{vocabularies_dir}/{name}.json`: `{"labels": [...], "templates": [...]}`.

    Without templates it has those of the project.

    Raises:
        SettingsError: there is none of that name, with the nearest one, or it cannot be used.
    """
    path = _folder(settings) / f"{name}.json"
    if not VOCABULARY_NAME.fullmatch(name) or not path.is_file():
        known = vocabulary_names(settings)
        others = f"there are {', '.join(known)}" if known else "there are none yet"
        raise SettingsError(
            f"no vocabulary is called {name!r}{nearest(name, known)}; {others}: write {path}, or correct the name"
        )
    return _from_file(settings, path)


def chosen_vocabulary(settings: Settings, name_or_file: str) -> Vocabulary:
    """The vocabulary of this name, or else in the file at this path, which is like that of a named one.

    Raises:
        SettingsError: there is neither, or it cannot be used.
    """
    is_name = VOCABULARY_NAME.fullmatch(name_or_file) is not None
    if Path(name_or_file).is_file() and not (is_name and (_folder(settings) / f"{name_or_file}.json").is_file()):
        return _from_file(settings, Path(name_or_file))
    if is_name:
        return named_vocabulary(settings, name_or_file)
    raise SettingsError(f"no vocabulary: there is no file {name_or_file!r}, and it is not the name of one")


def vocabulary_of(
    settings: Settings, labels: Sequence[str] | None = None, templates: Sequence[str] | None = None
) -> Vocabulary:
    """A vocabulary of one's own labels, templates or both; what is not given is the project's.

    Raises:
        SettingsError: an entry that cannot be used, by position.
    """
    if labels is None and templates is None:
        return load_vocabulary(settings)
    named = _project_labels(settings) if labels is None else _given("labels", labels)
    return _checked(*named, *(_project_templates(settings) if templates is None else _given("templates", templates)))


def vocabulary_names(settings: Settings) -> list[str]:
    """The names of the named vocabularies, sorted, whether or not they can be used."""
    folder = _folder(settings)
    paths = folder.glob("*.json") if folder.is_dir() else ()
    return sorted(path.stem for path in paths if VOCABULARY_NAME.fullmatch(path.stem))


def _folder(settings: Settings) -> Path:
    return settings.root / Path(settings.vocabularies_dir).expanduser()


def _from_file(settings: Settings, path: Path) -> Vocabulary:
    """The vocabulary in one file, which holds labels and may hold templates."""
    content = _object(path)
    for key in content:
        if key not in _KEYS:
            raise SettingsError(f"{path}: unknown key {key!r}{nearest(key, _KEYS)}; it takes {' and '.join(_KEYS)}")
    labels = _strings(path, "labels")
    templates = _strings(path, "templates") if "templates" in content else _project_templates(settings)
    return _checked(*labels, *templates)


def _project_labels(settings: Settings) -> tuple[str, tuple[str, ...]]:
    return _strings(_find(settings, "labels_file"), "labels", "labels_file: ")


def _project_templates(settings: Settings) -> tuple[str, tuple[str, ...]]:
    return _strings(_find(settings, "templates_file"), "templates", "templates_file: ")


def _checked(labels_from: str, labels: tuple[str, ...], templates_from: str, templates: tuple[str, ...]) -> Vocabulary:
    """The vocabulary, if there is enough in it and every template has its place for a label."""
    if len(labels) < LABELS_PER_PHOTO:
        raise SettingsError(f"{labels_from}: {len(labels)} labels; a photo gets {LABELS_PER_PHOTO}, so give as many")
    if not templates:
        raise SettingsError(f"{templates_from}: templates is empty; give at least one, such as 'a photo of {{}}'")
    for position, template in enumerate(templates):
        if template.count("{}") != 1 or set("{}") & set(template.replace("{}", "")):
            raise SettingsError(
                f"{templates_from}: templates[{position}] is {template!r}; it must have one {{}} (where the label "
                "goes) and no other brace"
            )
    return Vocabulary(labels, templates)


def _object(path: Path, setting: str = "") -> dict[str, Any]:
    """The JSON object in a file; empty where it holds something else."""
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        raise SettingsError(f"{setting}{path} cannot be read as JSON in UTF-8: {error}") from error
    return content if isinstance(content, dict) else {}


def _strings(path: Path, key: str, setting: str = "") -> tuple[str, tuple[str, ...]]:
    """Where the strings under `key` of a JSON file come from, as errors say it, and these strings, distinct."""
    return str(path), _distinct(str(path), _object(path, setting).get(key), key)


def _given(key: str, entries: Sequence[str]) -> tuple[str, tuple[str, ...]]:
    """Like `_strings`, of entries that are given in code."""
    if isinstance(entries, str):
        raise SettingsError(f"{key}: expected a list of strings, not {entries!r}")
    return key, _distinct(key, list(entries), key)


def _distinct(where: str, entries: object, key: str) -> tuple[str, ...]:
    if not isinstance(entries, list):
        raise SettingsError(f"{where}: expected an object with a list of strings, {{{key!r}: [...]}}")
    seen: dict[str, int] = {}
    for position, entry in enumerate(entries):
        problem = _problem(entry)
        if problem:
            raise SettingsError(f"{where}: {key}[{position}] ({entry!r}) {problem}")
        read = words(entry.replace("{}", "x"))  # as if a label stood there: most begin and end with a letter
        if not read:
            raise SettingsError(f"{where}: {key}[{position}] ({entry!r}) is blank")
        first = seen.setdefault(read, position)
        if first < position:
            raise SettingsError(f"{where}: {_twins(key, first, entries[first], position, entry)}; remove one")
    return tuple(entries)


def _twins(key: str, first: int, one: str, second: int, other: str) -> str:
    if one == other:
        return f"{key}[{second}] ({other!r}) is there twice, first as [{first}]"
    return (
        f"{key}[{first}] {one!r} and {key}[{second}] {other!r} are the same to the model, which does not tell apart "
        "case, white space, Unicode forms and HTML entities"
    )


def _problem(entry: object) -> str | None:
    if not isinstance(entry, str):
        return "is not a string"
    if not entry.strip():
        return "is blank"
    if entry != entry.strip():
        return "has white space around it; remove that"
    if any(0xD800 <= ord(character) <= 0xDFFF for character in entry):
        return "is not Unicode text (it has half of a surrogate pair)"
    return None


def _find(settings: Settings, setting: str) -> Path:
    """The file that a setting names, or the package's own copy of the default one."""
    name: str = getattr(settings, setting)
    path = settings.root / Path(name).expanduser()
    default = next(spec.default for spec in dataclasses.fields(Settings) if spec.name == setting)
    if path.exists() or name != default:
        return path
    copies = (_PACKAGE / "defaults" / Path(name).name, _PACKAGE.parent / name)  # in a wheel; in a checkout
    return next((copy for copy in copies if copy.is_file()), path)
