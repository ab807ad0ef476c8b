"""Labels and prompt templates: read from their files and checked before any model loads."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

from curation_features.errors import SettingsError
from curation_features.schema import LABELS_PER_PHOTO
from curation_features.settings import Settings

_PACKAGE = Path(__file__).resolve().parent.parent


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """What photos are labelled with.

    Attributes:
        labels: distinct; at least `schema.LABELS_PER_PHOTO`. Their order settles ties.
        templates: distinct; each with one `{}`, where the label goes.
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
    """The labels and templates that `settings` name.

    A file that is absent is replaced by the one that comes with the package, if the setting has its default value.

    Raises:
        SettingsError: a file or an entry that cannot be used, by name and position, with the remedy.
    """
    labels_file, labels = _read(settings, "labels_file", "labels")
    templates_file, templates = _read(settings, "templates_file", "templates")
    if len(labels) < LABELS_PER_PHOTO:
        raise SettingsError(f"{labels_file}: {len(labels)} labels; a photo gets {LABELS_PER_PHOTO}, so give as many")
    if not templates:
        raise SettingsError(f"{templates_file}: templates is empty; give at least one, such as 'a photo of {{}}'")
    for position, template in enumerate(templates):
        if template.count("{}") != 1 or set("{}") & set(template.replace("{}", "")):
            raise SettingsError(
                f"{templates_file}: templates[{position}] is {template!r}; it must have one {{}} (where the label "
                "goes) and no other brace"
            )
    return Vocabulary(labels, templates)


def _read(settings: Settings, setting: str, key: str) -> tuple[Path, tuple[str, ...]]:
    """The distinct strings under `key` of the JSON file that a setting names, and that file."""
    path = _find(settings, setting)
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        raise SettingsError(f"{setting}: {path} cannot be read as JSON in UTF-8: {error}") from error
    entries = content.get(key) if isinstance(content, dict) else None
    if not isinstance(entries, list):
        raise SettingsError(f"{path}: expected an object with a list of strings, {{{key!r}: [...]}}")
    for position, entry in enumerate(entries):
        problem = _problem(entry, entries[:position])
        if problem:
            raise SettingsError(f"{path}: {key}[{position}] ({entry!r}) {problem}")
    return path, tuple(entries)


def _problem(entry: object, before: list[str]) -> str | None:
    if not isinstance(entry, str):
        return "is not a string"
    if not entry.strip():
        return "is blank"
    if entry != entry.strip():
        return "has white space around it; remove that"
    if any(0xD800 <= ord(character) <= 0xDFFF for character in entry):
        return "is not Unicode text (it has half of a surrogate pair)"
    return f"is there twice, first as [{before.index(entry)}]; remove one" if entry in before else None


def _find(settings: Settings, setting: str) -> Path:
    """The file that a setting names, or the package's own copy of the default one."""
    name: str = getattr(settings, setting)
    path = settings.root / Path(name).expanduser()
    default = next(spec.default for spec in dataclasses.fields(Settings) if spec.name == setting)
    if path.exists() or name != default:
        return path
    copies = (_PACKAGE / "defaults" / Path(name).name, _PACKAGE.parent / name)  # in a wheel; in a checkout
    return next((copy for copy in copies if copy.is_file()), path)
