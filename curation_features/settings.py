"""Typed settings: defaults, then `config/settings.toml`, then the environment (`CURATION_FEATURES_<NAME>`).

Every setting that changes numbers names the affected parts of a result (`affects`); it is part of their versions.
Settings of folders and speed affect nothing.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
import os
import re
import sys
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

from curation_features.errors import SettingsError
from curation_features.schema import LABELS_PER_PHOTO
from curation_features.text import shorten

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
    above: float = -math.inf,
    minimum: float = -math.inf,
    secret: bool = False,
    is_path: bool = False,
) -> Any:
    """Declare a setting with its default, meaning, effect and legal values.

    Args:
        affects: the parts of a result that depend on its value.
        through: the parts that depend on what it names, as the content of a file.
        is_path: a path or paths: a leading `~` or `~user` is that home folder.
    """
    limits = {"choices": choices, "above": above, "minimum": minimum}
    metadata = {"help": help, "affects": affects, "through": through, "secret": secret, "is_path": is_path, **limits}
    return field(default=default, repr=not secret, metadata=metadata)


def _limit(default: float, help: str) -> Any:
    """Declare the limit of a signal from which a photo has a flag."""
    return _setting(default, help, affects=("flags",), minimum=0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """All settings of a run. Relative paths are relative to `root`; `~` and `~user` are home folders."""

    root: Path = field(default_factory=Path.cwd)

    data_dir: str = _setting("data", "folder for inputs, caches, artifacts and events", is_path=True)
    labels_file: str = _setting(
        "config/labels.json", "the labels, as {'labels': [...]}", through=("labels",), is_path=True
    )
    templates_file: str = _setting(
        "config/templates.json", "the prompt templates, as {'templates': [...]}", through=("labels",), is_path=True
    )
    vocabularies_dir: str = _setting(
        "config/vocabularies",
        "vocabularies that batches can select by name, as NAME.json",
        through=("labels",),
        is_path=True,
    )
    photo_roots: tuple[str, ...] = _setting(
        (), "folders and URI prefixes of readable photos; empty: the project's root", is_path=True
    )
    incoming_dirs: tuple[str, ...] = _setting(
        (), "further folders for new manifests, besides data/incoming", is_path=True
    )
    event_webhook: str = _setting("", "URL to post events to, in addition to their files; empty: none", secret=True)
    event_webhook_token: str = _setting(
        "", "bearer token of the webhook; prefer the environment to this file", secret=True
    )

    watch_folders: tuple[str, ...] = _setting(
        (), "folders of photos to watch, with their subfolders: new photos become batches", is_path=True
    )
    watch_batches: str = _setting(
        "folder-day",
        "new photos that become one batch: those of a folder and day, of a folder, or of a session",
        choices=("folder-day", "folder", "session"),
    )
    watch_batch_photos: int = _setting(2000, "most photos in a batch of watched folders; more are split", minimum=1)
    watch_settle_seconds: float = _setting(
        30.0, "a new photo is taken after its size and time have not changed for so long", minimum=0
    )
    watch_session_hours: float = _setting(
        4.0, "a session ends if the next photo was taken so much later (watch_batches = session)", above=0
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
        "auto: fp16 on MPS and CUDA, fp32 on CPU; for CPUs also bf16 and int8: faster, nearly the same labels",
        choices=("auto", "fp16", "fp32", "bf16", "int8"),
        affects=("embedding",),
        through=("clip_iqa",),
    )
    on_missing_weights: str = _setting(
        "fail", "fail: stop; degrade: skip the values that need missing weights", choices=("fail", "degrade")
    )
    clip_iqa_weights: str = _setting(
        "", "CLIP-IQA's RN50: a file or hf-hub:ORG/REPO; empty: OpenAI's", through=("clip_iqa",), is_path=True
    )
    brisque_weights: str = _setting(
        "",
        "file with another regressor for BRISQUE; empty: LIVE's, in this package",
        through=("brisque",),
        is_path=True,
    )
    temperature: float | None = _setting(
        None, "softmax scale over labels; unset: the model's learned scale", affects=("labels",), above=0
    )
    fallback_labels: tuple[str, ...] = _setting(
        (), "labels of a photo that could not be labelled; empty: the first five of the vocabulary"
    )

    max_pixels: int = _setting(250_000_000, "photos with more pixels are refused", minimum=1)
    max_file_bytes: int = _setting(1_000_000_000, "photo files with more bytes are refused", minimum=1)
    downloads_at_once: int = _setting(
        16, "photos of object stores that are downloaded, or wait in memory, at once in a process", minimum=1
    )
    download_attempts: int = _setting(5, "attempts to download a photo if its store fails temporarily", minimum=1)
    max_download_seconds: float = _setting(
        120.0, "photos that take longer to download, with all attempts, fail for now", above=0
    )
    max_decode_seconds: float = _setting(60.0, "photos that take more work to decode are refused", above=0)
    isolate_decoders: bool = _setting(
        True, "decode in child processes, so that a crash or a hang of a decoder costs one photo"
    )
    batch_size: int = _setting(0, "photos per forward pass; 0: 2 or 1 on CPU, 32 on MPS, 64 on CUDA", minimum=0)
    workers: int = _setting(0, "threads that read, decode and measure; 0: one per core, at most 16", minimum=0)

    contact_sheet: bool = _setting(True, "write a contact sheet, data/features/{batch_id}.html, for each batch")
    search_index: bool = _setting(True, "keep the index for searches up to date when batches finish")

    warn_degraded_share: float = _setting(0.1, "warn if a larger fraction of a batch's photos is degraded", minimum=0)
    warn_label_shift: float = _setting(
        0.4, "warn if the distance of a batch's labels from those of the last batches (0 to 1) is larger", minimum=0
    )
    warn_flag_shift: float = _setting(
        0.2, "warn if the share of flagged photos differs by more from that of the last batches", minimum=0
    )
    warn_cached_share: float = _setting(
        0.9, "warn if a smaller fraction of photos comes from the cache although all could", minimum=0
    )

    preview_side: int = _setting(
        512, "long side of the preview, px", affects=("sharpness", "exposure", "noise"), minimum=1
    )
    sharpness_scale: float = _setting(2000.0, "Tenengrad energy K of tanh(T / K)", affects=("sharpness",), above=0)
    clip_low: int = _setting(2, "gray levels at or below this are clipped", affects=("exposure",), minimum=0)
    clip_high: int = _setting(253, "gray levels at or above this are clipped", affects=("exposure",), minimum=0)
    noise_sigma_max: float = _setting(0.08, "noise sigma that scores 1", affects=("noise",), above=0)
    clip_iqa_side: int = _setting(336, "side of CLIP-IQA's square input, px", affects=("clip_iqa",), minimum=32)
    brisque_side: int = _setting(1024, "long side of BRISQUE's reduced input, px", affects=("brisque",), minimum=16)

    limit_blurred: float = _limit(0.85, "a photo is blurred if blur_px is higher")
    limit_shaken_blur: float = _limit(
        0.6, "a photo is blurred and shaken if blur_px is higher, and streak than limit_shaken_streak"
    )
    limit_shaken_streak: float = _limit(
        1.5, "a photo is blurred and shaken if streak is higher, and blur_px than limit_shaken_blur"
    )
    limit_noisy_luma: float = _limit(4.0, "a photo is noisy if noise_luma is higher")
    limit_noisy_chroma: float = _limit(1.3, "a photo is noisy if noise_chroma is higher")
    limit_dark: float = _limit(1.4, "a photo is dark if headroom_ev is higher")
    limit_soft: float = _limit(0.6, "hint soft if blur_px is higher and the photo is not blurred")
    limit_bright: float = _limit(0.28, "hint bright if clipped_centre is higher")
    limit_blocky: float = _limit(1.7, "hint blocky if blocks is higher")

    def __post_init__(self) -> None:
        if not isinstance(self.root, Path):
            raise SettingsError(f"root: expected a path, not {self.root!r}")
        for spec in SPECS.values():
            _check(spec, getattr(self, spec.name))
            if spec.metadata["is_path"]:
                value = getattr(self, spec.name)
                expanded = expand_home(value) if isinstance(value, str) else tuple(map(expand_home, value))
                object.__setattr__(self, spec.name, expanded)
        if (count := len(self.fallback_labels)) not in (0, LABELS_PER_PHOTO):
            raise SettingsError(f"fallback_labels: give {LABELS_PER_PHOTO} labels or none, not {count}")
        if len(set(self.fallback_labels)) < count:
            raise SettingsError("fallback_labels: a label occurs twice")
        if self.clip_low >= self.clip_high:
            raise SettingsError(f"clip_low ({self.clip_low}) must be less than clip_high ({self.clip_high})")

    @property
    def data_path(self) -> Path:
        """The data folder, absolute."""
        return self.root / self.data_dir

    @property
    def cache_path(self) -> Path:
        """Folder of the per-photo cache and the label embeddings, absolute."""
        return self.data_path / "cache" / "features"

    def constants(self, part: str) -> dict[str, Any]:
        """The settings that change `part`: a metric, `embedding`, `labels` or `flags`."""
        names = [name for name, spec in SPECS.items() if part in spec.metadata["affects"]]
        values = {name: getattr(self, name) for name in names}
        # With an automatic device it stays `auto`: results of all devices agree to about 1e-3 and count as equal,
        # because selecting the device would load torch in a run that does not need it.
        if values.get("precision") == "auto" and self.device != "auto":
            values["precision"] = "fp32" if self.device == "cpu" else "fp16"
        if values.get("precision") == "int8":
            values["precision"] = "int8 per row"  # before, one scale for all rows
        if part == "clip_iqa" and self.precision in ("bf16", "int8"):
            values["precision"] = "bf16"  # fp32 if the CPU lacks bf16; both agree to about 0.01
        return values

    def replace(self, **changes: Any) -> Settings:
        """Copy the settings with `changes`, and check them."""
        return dataclasses.replace(self, **changes)


SPECS = MappingProxyType({spec.name: spec for spec in dataclasses.fields(Settings) if spec.name != "root"})
"""Every setting by name, with its default, and the arguments of `_setting` as metadata."""

_KINDS: Mapping[type, tuple[str, tuple[type, ...]]] = {
    str: ("text", (str,)),
    int: ("a whole number", (int,)),
    bool: ("true or false", (bool,)),
    float: ("a number", (float, int)),
    type(None): ("a number", (float, int, type(None))),
    tuple: ("a list of texts", (tuple,)),
}
"""Description and legal types of a setting, by the type of its default."""

_BOOLEANS = {"true": True, "1": True, "false": False, "0": False}
_PATH_LISTS = ("photo_roots", "incoming_dirs", "watch_folders")  # separated as in PATH
_NOT_SETTINGS = (_ROOT, f"{ENV_PREFIX}SHARED_DATA")  # the latter is for tests


@dataclass(frozen=True, slots=True)
class LoadedSettings:
    """Settings with their origins.

    Attributes:
        origins: `FILE:LINE` or the environment variable of each setting that is not a default. `root` is
            `CURATION_FEATURES_ROOT`, or absent.
        file: the settings file; may be missing.
    """

    settings: Settings
    origins: Mapping[str, str]
    file: Path


def load_settings(root: Path | str | None = None, environ: Mapping[str, str] | None = None) -> Settings:
    """Load the settings of the project at `root`: defaults, `config/settings.toml`, environment.

    Args:
        root: the project's root; by default `CURATION_FEATURES_ROOT`, else the current directory.
        environ: the environment; by default that of the process.

    Raises:
        SettingsError: an unknown name, an illegal value, or a root that is not a folder; names its origin.
    """
    return load_with_origins(root, environ).settings


def load_with_origins(root: Path | str | None = None, environ: Mapping[str, str] | None = None) -> LoadedSettings:
    """Load settings like `load_settings`, with the origin of each value."""
    environ = os.environ if environ is None else environ
    base = Path(expand_home(str(root or environ.get(_ROOT) or Path.cwd()))).resolve()
    file = base / "config" / "settings.toml"
    values: dict[str, Any] = {}
    origins = {} if root or not environ.get(_ROOT) else {"root": _ROOT}
    if not base.is_dir():
        source = origins.get("root", "root")
        raise SettingsError(f"{source}: {base} is not a folder; give the project's root, the parent of data/")
    for name, value, origin in (*_from_toml(file), *_from_environ(environ)):
        try:
            if name not in SPECS:
                table = f"table [{name}]: write each setting on a line outside of tables: device = 'cpu'"
                unknown = table if isinstance(value, dict) else f"setting {name!r}{nearest(name, SPECS)}"
                raise SettingsError(f"unknown {unknown}")
            values[name] = _parse(SPECS[name], value)
            _check(SPECS[name], values[name])
        except SettingsError as error:
            raise SettingsError(f"{origin}: {error}") from error
        origins[name] = origin
    return LoadedSettings(Settings(root=base, **values), origins, file)


def expand_home(path: str) -> str:
    """Expand a leading `~` or `~user`; the name of an unknown user stays as it is."""
    return os.path.expanduser(path)  # noqa: PTH111 (`Path.expanduser` raises for an unknown user)


def legal_values(spec: dataclasses.Field[Any]) -> str:
    """Describe the legal values of a setting."""
    limits = spec.metadata
    if limits["choices"]:
        return f"one of {', '.join(limits['choices'])}"
    kind, _ = _KINDS[type(spec.default)]
    if limits["above"] > -math.inf:
        return f"{kind} greater than {limits['above']:g}"
    if limits["minimum"] > -math.inf:
        return f"{kind} of at least {limits['minimum']:g}"
    return kind if spec.default in ("", ()) or kind != "text" else f"{kind}, not empty"


def recomputed(spec: dataclasses.Field[Any]) -> tuple[str, ...]:
    """The parts that a change of a setting recomputes: metrics, `embedding`, `labels`, `flags`."""
    parts: tuple[str, ...] = (*spec.metadata["affects"], *spec.metadata["through"])
    return (*parts, "labels") if "embedding" in parts else parts


def nearest(name: str, known: Iterable[str]) -> str:
    """Suggest the known name nearest to an unknown one; empty if none."""
    close = difflib.get_close_matches(name, list(known), n=1)
    return f"; did you mean {close[0]!r}?" if close else ""


def packaged_file(name: str) -> Path:
    """Path of a default configuration file, in the installed package or the checkout."""
    package = Path(__file__).parent
    carried = package / "defaults" / name
    return carried if carried.exists() else package.parent / "config" / name


def _from_toml(path: Path) -> Iterator[tuple[str, Any, str]]:
    """Name, value and `FILE:LINE` of each setting in a file."""
    try:
        text = path.read_bytes().decode()
        values = tomllib.loads(text)
    except FileNotFoundError:
        return
    except (OSError, ValueError, RecursionError) as error:  # ValueError: not TOML, or not UTF-8
        remedy = '; text needs quotes: device = "cpu"' if "Invalid value" in str(error) else ""
        raise SettingsError(f"{path}: cannot be read as TOML: {error}{remedy}") from error
    for name, value in values.items():
        key = re.compile(rf"""[\s\[]*["']?{re.escape(name)}["']?\s*[=.\]]""")
        lines = (number for number, line in enumerate(text.splitlines(), 1) if key.match(line))
        yield name, value, f"{path}:{next(lines, 1)}"


def _from_environ(environ: Mapping[str, str]) -> Iterator[tuple[str, Any, str]]:
    """Name, value and variable of each setting in the environment."""
    for variable, value in environ.items():
        if variable.startswith(ENV_PREFIX) and variable not in _NOT_SETTINGS:
            yield variable.removeprefix(ENV_PREFIX).lower(), value, variable


def _parse(spec: dataclasses.Field[Any], value: Any) -> Any:
    """Convert a TOML value or a variable; unchanged if illegal, for `_check`."""
    kind = type(spec.default)
    try:
        if kind is tuple and isinstance(value, str):
            items = re.split(rf"{os.pathsep}(?!//)", value) if spec.name in _PATH_LISTS else value.split(",")
            return tuple(item if spec.name in _PATH_LISTS else item.strip() for item in items if item.strip())
        if kind is tuple and isinstance(value, list) and all(isinstance(item, str) for item in value):
            return tuple(value)
        if kind in (int, bool) and isinstance(value, str):
            return _BOOLEANS[value.lower()] if kind is bool else int(value)
        if kind in (float, type(None)) and (isinstance(value, str) or type(value) is int):
            return float(value)
    except (KeyError, ValueError, OverflowError):
        pass
    return value


def _check(spec: dataclasses.Field[Any], value: Any) -> None:
    """Refuse a value of the wrong type or out of range."""
    if not _is_legal(spec, value):
        given = "a value of another type" if spec.metadata["secret"] else shorten(repr(value), 80)
        raise SettingsError(f"{spec.name}: expected {legal_values(spec)}, not {given}")


def _is_legal(spec: dataclasses.Field[Any], value: Any) -> bool:
    limits, (_, types) = spec.metadata, _KINDS[type(spec.default)]
    if not isinstance(value, types) or (isinstance(value, bool) and bool not in types):
        return False
    if limits["choices"]:
        return value in limits["choices"]
    if isinstance(value, (int, float)):
        return bool(limits["above"] < value <= sys.float_info.max and value >= limits["minimum"])
    return value != "" or spec.default == ""
