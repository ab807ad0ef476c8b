"""Typed settings: defaults, then `config/settings.toml`, then the environment (`CURATION_FEATURES_<NAME>`).

Every setting that changes a number names the results it changes (`affects`), and these make up the version of a
cached result. Settings that change only where files lie or how fast the work goes affect nothing.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
import os
import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

from curation_features.errors import SettingsError
from curation_features.schema import LABELS_PER_PHOTO

ENV_PREFIX = "CURATION_FEATURES_"
_ROOT = f"{ENV_PREFIX}ROOT"
DEFAULT_MODEL = "hf-hub:laion/CLIP-ViT-L-14-DataComp.XL-s13B-b90K"


def _setting(
    default: Any,
    help: str,
    *,
    affects: tuple[str, ...] = (),
    through: tuple[str, ...] = (),
    choices: tuple[str, ...] = (),
    above: float | None = None,
    minimum: float | None = None,
    secret: bool = False,
) -> Any:
    """Declare a setting: its default, what it means, what it changes, and which values are legal.

    Args:
        affects: the parts of a result that its value is a constant of.
        through: the parts that it changes by what it names (a file's content, say), not by its value.
    """
    return field(
        default=default,
        repr=not secret,
        metadata={
            "help": help,
            "affects": affects,
            "through": through,
            "choices": choices,
            "above": above,
            "minimum": minimum,
            "secret": secret,
        },
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """All settings of a run. Relative paths are relative to `root`."""

    root: Path = field(default_factory=Path.cwd, metadata={"help": "the project's root", "affects": ()})

    data_dir: str = _setting("data", "folder for inputs, caches, artifacts and events")
    labels_file: str = _setting("config/labels.json", "the labels, as {'labels': [...]}", through=("labels",))
    templates_file: str = _setting(
        "config/templates.json", "the prompt templates, as {'templates': [...]}", through=("labels",)
    )
    vocabularies_dir: str = _setting(
        "config/vocabularies", "named vocabularies that batches may ask for, as NAME.json", through=("labels",)
    )
    photo_roots: tuple[str, ...] = _setting(
        (), "folders and URI prefixes that photos may be read from; empty: the project's root"
    )
    incoming_dirs: tuple[str, ...] = _setting((), "more folders, beside data/incoming, that the sensor empties")
    event_webhook: str = _setting("", "URL that events are posted to, beside their files; empty: none", secret=True)
    event_webhook_token: str = _setting(
        "", "bearer token for it; better kept in the environment than in this file", secret=True
    )

    model: str = _setting(
        DEFAULT_MODEL, "CLIP model: hf-hub:ORG/REPO, local-dir:FOLDER or NAME/TAG", affects=("embedding",)
    )
    device: str = _setting(
        "auto",
        "where models run; auto: MPS, else CUDA, else CPU",
        through=("embedding",),
        choices=("auto", "mps", "cuda", "cpu"),
    )
    precision: str = _setting(
        "auto",
        "auto: fp16 on MPS and CUDA, fp32 on CPU; int8: the CPU in half the time, nearly the same labels",
        choices=("auto", "fp16", "fp32", "int8"),
        affects=("embedding",),
    )
    on_missing_weights: str = _setting(
        "fail", "fail: stop; degrade: measure what can be measured", choices=("fail", "degrade")
    )
    clip_iqa_weights: str = _setting(
        "", "CLIP-IQA's RN50: a file or hf-hub:ORG/REPO; empty: OpenAI's own", through=("clip_iqa",)
    )
    brisque_weights: str = _setting(
        "", "file with BRISQUE's regressor; empty: the known download", through=("brisque",)
    )
    temperature: float | None = _setting(
        None, "softmax scale over labels; unset: the model's learned scale", affects=("labels",), above=0
    )
    fallback_labels: tuple[str, ...] = _setting(
        (), "labels of a photo that could not be labelled; empty: the first five of the vocabulary"
    )

    max_pixels: int = _setting(150_000_000, "photos with more pixels are refused", minimum=1)
    max_file_bytes: int = _setting(1_000_000_000, "photo files with more bytes are refused", minimum=1)
    max_decode_seconds: float = _setting(60.0, "photos that take more work to decode are refused", above=0)
    batch_size: int = _setting(0, "photos per forward pass; 0: 2 or 1 on CPU, 32 on MPS, 64 on CUDA", minimum=0)
    workers: int = _setting(0, "threads that read, decode and measure; 0: one per core, at most 16", minimum=0)

    contact_sheet: bool = _setting(True, "make data/features/{batch_id}.html, a page to look at, for each batch")

    warn_degraded_share: float = _setting(0.1, "share of degraded photos of a batch that is worth a warning", minimum=0)
    warn_label_shift: float = _setting(
        0.4, "distance of a batch's labels from those of the last batches, 0 to 1, that is worth a warning", minimum=0
    )
    warn_cached_share: float = _setting(
        0.9, "share of cached photos, where all could be, under which a warning is due", minimum=0
    )

    preview_side: int = _setting(
        512, "long side of the preview, px", affects=("sharpness", "exposure", "noise"), minimum=1
    )
    sharpness_scale: float = _setting(2000.0, "Tenengrad energy K of tanh(T / K)", affects=("sharpness",), above=0)
    clip_low: int = _setting(2, "gray levels at or under this are clipped", affects=("exposure",), minimum=0)
    clip_high: int = _setting(253, "gray levels at or over this are clipped", affects=("exposure",), minimum=0)
    noise_sigma_max: float = _setting(0.08, "noise sigma that scores 1", affects=("noise",), above=0)
    clip_iqa_side: int = _setting(336, "side of CLIP-IQA's square input, px", affects=("clip_iqa",), minimum=32)
    brisque_side: int = _setting(
        1024, "long side to which BRISQUE's input is reduced, px", affects=("brisque",), minimum=16
    )

    def __post_init__(self) -> None:
        for spec in dataclasses.fields(self):
            _check(spec, getattr(self, spec.name))
        if len(self.fallback_labels) not in (0, LABELS_PER_PHOTO):
            given = len(self.fallback_labels)
            raise SettingsError(f"fallback_labels: give {LABELS_PER_PHOTO} labels, or none; not {given}")
        if len(set(self.fallback_labels)) < len(self.fallback_labels):
            raise SettingsError("fallback_labels: a label is there twice")
        if self.clip_low >= self.clip_high:
            raise SettingsError(f"clip_low ({self.clip_low}) must be smaller than clip_high ({self.clip_high})")

    @property
    def data_path(self) -> Path:
        """The data folder, absolute."""
        return self.root / self.data_dir

    @property
    def cache_path(self) -> Path:
        """Folder of the per-photo cache and the label embeddings, absolute."""
        return self.data_path / "cache" / "features"

    def constants(self, part: str) -> dict[str, Any]:
        """The settings that change the numbers of `part` (a metric's name, `embedding` or `labels`)."""
        found = {
            spec.name: getattr(self, spec.name)
            for spec in dataclasses.fields(self)
            if part in spec.metadata.get("affects", ())
        }
        return found | {"precision": self._told_precision} if "precision" in found else found

    @property
    def _told_precision(self) -> str:
        """The precision as far as settings tell it. Where the device is automatic too, results of all devices count as
        equal: they agree to about 1e-3, and finding the device out would load torch in a run that needs none.
        """
        if self.precision != "auto" or self.device == "auto":
            return self.precision
        return "fp32" if self.device == "cpu" else "fp16"

    def replace(self, **changes: Any) -> Settings:
        """A copy with `changes`, checked like any other settings."""
        return dataclasses.replace(self, **changes)


SPECS = MappingProxyType({spec.name: spec for spec in dataclasses.fields(Settings) if spec.name != "root"})
"""Every setting by name, with its default and, as metadata, what `_setting` was told of it."""

_KINDS: dict[str, tuple[tuple[type, ...], str]] = {  # annotations are strings here -> types, and what people call them
    "Path": ((Path,), "a path"),
    "str": ((str,), "text"),
    "int": ((int,), "a whole number"),
    "bool": ((bool,), "true or false"),
    "float": ((int, float), "a number"),
    "float | None": ((int, float, type(None)), "a number"),
    "tuple[str, ...]": ((tuple,), "a list of texts"),
}


@dataclass(frozen=True, slots=True)
class LoadedSettings:
    """Settings, with where they came from.

    Attributes:
        origins: for each setting that was given `FILE:LINE` or the name of an environment variable; the others are
            defaults. `root` is `CURATION_FEATURES_ROOT`, or absent.
        file: the settings file, which need not be there.
    """

    settings: Settings
    origins: Mapping[str, str]
    file: Path


def load_settings(root: Path | str | None = None, environ: Mapping[str, str] | None = None) -> Settings:
    """Settings of the project at `root`: defaults, then its `config/settings.toml`, then the environment.

    Args:
        root: the project's root; by default `CURATION_FEATURES_ROOT`, or else the current directory.
        environ: the environment; by default the process's own.

    Raises:
        SettingsError: an unknown name, a value that is not legal, or a root that is no folder; says where it came from.
    """
    return load_with_origins(root, environ).settings


def load_with_origins(root: Path | str | None = None, environ: Mapping[str, str] | None = None) -> LoadedSettings:
    """Like `load_settings`, and also tells where each value came from."""
    environ = os.environ if environ is None else environ
    base = Path(root or environ.get(_ROOT) or Path.cwd()).resolve()
    file = base / "config" / "settings.toml"
    values: dict[str, Any] = {}
    origins = {} if root or not environ.get(_ROOT) else {"root": _ROOT}
    if not base.is_dir():
        source = origins.get("root", "root")
        raise SettingsError(f"{source}: {base} is not a folder; name the project's, in which data/ is to be")
    for given in (*_from_toml(file), *_from_environ(environ)):
        spec = SPECS.get(given.name)
        if spec is None:
            raise SettingsError(f"{given.origin}: {_unknown(given)}")
        try:
            values[given.name] = _convert(spec, given.value)
            _check(spec, values[given.name])
        except SettingsError as error:
            raise SettingsError(f"{given.origin}: {error}") from error
        origins[given.name] = given.origin
    return LoadedSettings(Settings(root=base, **values), origins, file)


def legal_values(spec: dataclasses.Field[Any]) -> str:
    """The values that a setting may have, in words."""
    limits = spec.metadata
    if limits["choices"]:
        return f"one of {', '.join(limits['choices'])}"
    kind = _KINDS[str(spec.type)][1]
    if limits["above"] is not None:
        return f"{kind} greater than {limits['above']:g}"
    if limits["minimum"] is not None:
        return f"{kind} of at least {limits['minimum']:g}"
    return kind if spec.default in ("", ()) or kind != "text" else f"{kind}, not empty"


def recomputed(spec: dataclasses.Field[Any]) -> tuple[str, ...]:
    """The parts of a result that a change of a setting makes anew: metrics, `embedding`, `labels`."""
    parts: tuple[str, ...] = (*spec.metadata["affects"], *spec.metadata["through"])
    return (*parts, "labels") if "embedding" in parts else parts


def nearest(name: str, known: Iterable[str]) -> str:
    """A hint at the known name that is nearest to an unknown one; empty where none is near."""
    close = difflib.get_close_matches(name, list(known), n=1)
    return f"; did you mean {close[0]!r}?" if close else ""


def packaged_file(name: str) -> Path:
    """A default configuration file: as the wheel carries it, or in the checkout that this package is imported from."""
    package = Path(__file__).parent
    carried = package / "defaults" / name
    return carried if carried.exists() else package.parent / "config" / name


@dataclass(frozen=True, slots=True)
class _Given:
    """A value that was given; `origin` is where: `FILE:LINE`, or the name of an environment variable."""

    name: str
    value: Any
    origin: str


def _from_toml(path: Path) -> Iterator[_Given]:
    try:
        text = path.read_bytes().decode()
        found = tomllib.loads(text)
    except FileNotFoundError:
        return
    except (OSError, ValueError, RecursionError) as error:  # ValueError: no TOML, or no UTF-8
        raise SettingsError(f"{path}: cannot be read as TOML: {error}") from error
    for name, value in found.items():
        key = re.compile(rf"""[\s\[]*["']?{re.escape(name)}["']?\s*[=.\]]""")
        lines = (number for number, line in enumerate(text.splitlines(), 1) if key.match(line))
        yield _Given(name, value, f"{path}:{next(lines, 1)}")


def _from_environ(environ: Mapping[str, str]) -> Iterator[_Given]:
    for variable, value in environ.items():
        if variable.startswith(ENV_PREFIX) and variable not in (_ROOT, f"{ENV_PREFIX}SHARED_DATA"):
            yield _Given(variable[len(ENV_PREFIX) :].lower(), value, variable)


def _unknown(given: _Given) -> str:
    if isinstance(given.value, dict):
        return f"unknown table [{given.name}]: settings stand in no table, each on a line of its own: device = 'cpu'"
    return f"unknown setting {given.name!r}{nearest(given.name, SPECS)}"


def _convert(spec: dataclasses.Field[Any], value: Any) -> Any:
    """A TOML or environment value as the type that the setting has (annotations are strings here)."""
    kind = str(spec.type)
    if kind.startswith("tuple"):
        if isinstance(value, str):
            return tuple(_split_roots(value) if spec.name in _PATHS else _split_list(value))
        if isinstance(value, list) and all(isinstance(item, str) for item in value):
            return tuple(value)
        raise SettingsError(f"{spec.name}: expected a list of texts, not {value!r}")
    if kind == "bool" and isinstance(value, str):
        if value.lower() not in _TRUTHS:
            raise SettingsError(f"{spec.name}: expected true or false, not {value!r}")
        return _TRUTHS[value.lower()]
    number = int if kind.startswith("int") else float if kind.startswith("float") else None
    if number and (isinstance(value, str) or (number is float and type(value) is int)):
        try:
            return number(value)
        except (ValueError, OverflowError):
            raise SettingsError(f"{spec.name}: expected a number, not {value!r}") from None
    return value


_TRUTHS = {"true": True, "1": True, "false": False, "0": False}
_PATHS = ("photo_roots", "incoming_dirs")


def _split_list(value: str) -> list[str]:
    return [item.strip() for item in value.split(",") if item.strip()]


def _split_roots(value: str) -> list[str]:
    """Split as in `PATH`, but keep the colon of a URI scheme (`s3://bucket`)."""
    roots: list[str] = []
    for piece in value.split(os.pathsep):
        if roots and piece.startswith("//") and os.pathsep == ":":
            roots[-1] += ":" + piece
        elif piece:
            roots.append(piece)
    return roots


def _check(spec: dataclasses.Field[Any], value: Any) -> None:
    """Refuse a value of the wrong type or out of its range."""
    types, words = _KINDS[str(spec.type)]
    if not isinstance(value, types) or (isinstance(value, bool) and spec.type != "bool"):
        given = "a value of another type" if spec.metadata.get("secret") else repr(value)
        raise SettingsError(f"{spec.name}: expected {words}, not {given}")
    if value == "" and spec.default != "":
        raise SettingsError(f"{spec.name}: must not be empty")
    choices = spec.metadata.get("choices")
    if choices and value not in choices:
        raise SettingsError(f"{spec.name}: {value!r} is not one of {', '.join(choices)}")
    if isinstance(value, (int, float)):
        above, minimum = spec.metadata.get("above"), spec.metadata.get("minimum")
        if isinstance(value, float) and not math.isfinite(value):
            raise SettingsError(f"{spec.name}: {value!r} is not finite")
        if above is not None and value <= above:
            raise SettingsError(f"{spec.name}: {value!r} must be greater than {above}")
        if minimum is not None and value < minimum:
            raise SettingsError(f"{spec.name}: {value!r} must be at least {minimum}")
