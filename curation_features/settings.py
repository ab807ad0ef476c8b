"""Typed settings: defaults, then `config/settings.toml`, then the environment (`CURATION_FEATURES_<NAME>`).

Every setting that changes a number names the results it changes (`affects`), and these make up the version of a
cached result. Settings that change only where files lie or how fast the work goes affect nothing.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from curation_features.errors import SettingsError
from curation_features.schema import LABELS_PER_PHOTO

ENV_PREFIX = "CURATION_FEATURES_"
DEFAULT_MODEL = "hf-hub:laion/CLIP-ViT-L-14-DataComp.XL-s13B-b90K"


def _setting(
    default: Any,
    help: str,
    *,
    affects: tuple[str, ...] = (),
    choices: tuple[str, ...] = (),
    above: float | None = None,
    minimum: float | None = None,
    secret: bool = False,
) -> Any:
    """Declare a setting: its default, what it means, what it changes, and which values are legal."""
    return field(
        default=default,
        repr=not secret,
        metadata={"help": help, "affects": affects, "choices": choices, "above": above, "minimum": minimum},
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """All settings of a run. Relative paths are relative to `root`."""

    root: Path = field(default_factory=Path.cwd, metadata={"help": "the project's root", "affects": ()})

    data_dir: str = _setting("data", "folder for inputs, caches, artifacts and events")
    labels_file: str = _setting("config/labels.json", "the labels, as {'labels': [...]}")
    templates_file: str = _setting("config/templates.json", "the prompt templates, as {'templates': [...]}")
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
    device: str = _setting("auto", "where models run", choices=("auto", "mps", "cuda", "cpu"))
    precision: str = _setting(
        "auto",
        "auto: fp16 on MPS and CUDA, fp32 on CPU; int8: the CPU in half the time, nearly the same labels",
        choices=("auto", "fp16", "fp32", "int8"),
        affects=("embedding",),
    )
    on_missing_weights: str = _setting(
        "fail", "fail: stop; degrade: measure what can be measured", choices=("fail", "degrade")
    )
    clip_iqa_weights: str = _setting("", "CLIP-IQA's RN50: a file or hf-hub:ORG/REPO; empty: OpenAI's own")
    brisque_weights: str = _setting("", "file with BRISQUE's regressor; empty: the known download")
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


def load_settings(root: Path | str | None = None, environ: Mapping[str, str] | None = None) -> Settings:
    """Settings of the project at `root`: defaults, then its `config/settings.toml`, then the environment.

    Args:
        root: the project's root; by default `CURATION_FEATURES_ROOT`, or else the current directory.
        environ: the environment; by default the process's own.

    Raises:
        SettingsError: an unknown name, or a value that is not legal; says where it came from.
    """
    environ = os.environ if environ is None else environ
    base = Path(root or environ.get(f"{ENV_PREFIX}ROOT") or Path.cwd()).resolve()
    specs = {spec.name: spec for spec in dataclasses.fields(Settings) if spec.name != "root"}
    values: dict[str, Any] = {}
    for source, given in (
        (str(base / "config" / "settings.toml"), _read_toml(base / "config" / "settings.toml")),
        ("environment", _from_environ(environ)),
    ):
        for name, value in given.items():
            if name not in specs:
                raise SettingsError(f"{source}: unknown setting {name!r}{_nearest(name, specs)}")
            try:
                values[name] = _convert(specs[name], value)
                _check(specs[name], values[name])
            except SettingsError as error:
                raise SettingsError(f"{source}: {error}") from error
    return Settings(root=base, **values)


def packaged_file(name: str) -> Path:
    """A default configuration file: as the wheel carries it, or in the checkout that this package is imported from."""
    package = Path(__file__).parent
    carried = package / "defaults" / name
    return carried if carried.exists() else package.parent / "config" / name


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            return tomllib.load(file)
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, RecursionError) as error:  # ValueError: no TOML, or no UTF-8
        raise SettingsError(f"{path}: cannot be read as TOML: {error}") from error


def _from_environ(environ: Mapping[str, str]) -> dict[str, str]:
    return {
        name[len(ENV_PREFIX) :].lower(): value
        for name, value in environ.items()
        if name.startswith(ENV_PREFIX) and name not in (f"{ENV_PREFIX}ROOT", f"{ENV_PREFIX}SHARED_DATA")
    }


def _nearest(name: str, known: Mapping[str, Any]) -> str:
    close = difflib.get_close_matches(name, known, n=1)
    return f"; did you mean {close[0]!r}?" if close else ""


def _convert(spec: dataclasses.Field[Any], value: Any) -> Any:
    """A TOML or environment value as the type that the setting has (annotations are strings here)."""
    kind = str(spec.type)
    if kind.startswith("tuple"):
        if isinstance(value, str):
            return tuple(_split_roots(value) if spec.name in _PATHS else _split_list(value))
        if isinstance(value, list) and all(isinstance(item, str) for item in value):
            return tuple(value)
        raise SettingsError(f"{spec.name}: expected a list of strings, not {value!r}")
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


_TYPES: dict[str, tuple[type, ...]] = {
    "Path": (Path,),
    "str": (str,),
    "int": (int,),
    "bool": (bool,),
    "float": (int, float),
    "float | None": (int, float, type(None)),
    "tuple[str, ...]": (tuple,),
}


def _check(spec: dataclasses.Field[Any], value: Any) -> None:
    """Refuse a value of the wrong type or out of its range."""
    if not isinstance(value, _TYPES[str(spec.type)]) or (isinstance(value, bool) and spec.type != "bool"):
        raise SettingsError(f"{spec.name}: expected {spec.type}, not {value!r}")
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
