"""The weights of the three models of a run: locate them, pull them, and report their status."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from curation_features.errors import (
    CurationError,
    InputError,
    InvalidWeightsError,
    MissingExtraError,
    MissingWeightsError,
    ReasonedError,
    WeightsError,
    require_extra,
)
from curation_features.settings import ENV_PREFIX, Settings
from curation_features.weights.catalog import BundledFile, KnownFile, brisque_file, clip_iqa_file
from curation_features.weights.download import Progress, no_progress
from curation_features.weights.fetch import fetch_clip, fetch_known_file
from curation_features.weights.files import (
    cached,
    damage,
    difference,
    digest,
    recorded_sha256,
    remembered_digests,
    sha256_of,
    weights_folder,
)
from curation_features.weights.sources import (
    CHECKPOINT_FILES,
    CONFIG_FILE,
    DEGRADE,
    FETCH,
    FETCH_LATER,
    VOCABULARY_FILES,
    Companion,
    FolderSource,
    HubSource,
    Source,
    companions,
    model_source,
    parse_config,
)
from curation_features.weights.weights import ClipWeights, Weights, identity_of

MODELS = {
    "clip": "fallback labels at confidence 0, and no image embeddings",
    "clip_iqa": "clip_iqa is 0, its worst",
    "brisque": "brisque is 0, its worst",
}
"""The models of a run, and the result of a degraded run without each."""

_SINGLE_FILES: Mapping[str, Callable[[], KnownFile | BundledFile]] = {
    "clip_iqa": clip_iqa_file,
    "brisque": brisque_file,
}

_EARLIER_BRISQUE = re.compile(r"(curation-features.weights|hub.checkpoints).brisque_svm_weights\.pt$")
"""End of the path at which an earlier version found its download of BRISQUE's regressor."""


def locate(model: str, settings: Settings, *, fetch: bool = True, progress: Progress = no_progress) -> Weights:
    """Locate the weights of a model, with configuration and tokenizer for `clip` (`ClipWeights`).

    A model of the Hugging Face hub is read from the hub's cache without a network call, or downloaded if it is missing
    (`HF_HOME`, `HF_ENDPOINT`, `HF_TOKEN` and `HF_HUB_OFFLINE` apply). Its digest covers checkpoint, configuration and
    tokenizer. CLIP-IQA has the file that settings name, or the published one; BRISQUE the file that settings name, or
    the one in this package.

    Args:
        model: `clip`, `clip_iqa` or `brisque`.
        fetch: download missing files.
        progress: called for each download.

    Raises:
        SettingsError: the settings do not name a model (see `model_source`).
        MissingWeightsError: a file is missing and could not be fetched.
        InvalidWeightsError: a file is damaged, was altered or is not a checkpoint.
    """
    try:
        require_extra("clip")
    except MissingExtraError as error:  # weights are of no use without torch
        raise MissingWeightsError(str(error), f"or {DEGRADE}") from error
    try:
        return _find(model, settings)
    except MissingWeightsError:
        if not fetch:
            raise
    _fetch(model, settings, progress)
    return _find(model, settings)


@dataclass(frozen=True, slots=True)
class ModelStatus:
    """State of one model's weights on this machine.

    Attributes:
        name: `clip`, `clip_iqa` or `brisque`.
        source: name of the weights in the settings, or a URL.
        path: the weights file; None if there is none, or if it cannot be used.
        sha256: as in `Weights`.
        bytes: size of the weights file; 0 without one.
        origin: where the file comes from; empty without one.
        problem: why it cannot be used; None if it can.
        remedy: what to do about that.
        reason: `problem` as a code: `missing_weights`, `invalid_weights`, `load_failed` or `settings`.
        without_it: the result of a degraded run without it.
        licence: of the weights; empty if unknown.
    """

    name: str
    source: str
    path: Path | None = None
    sha256: str | None = None
    bytes: int = 0
    origin: str = ""
    problem: str | None = None
    remedy: str = ""
    reason: str | None = None
    without_it: str = ""
    licence: str = ""


def model_status(settings: Settings) -> list[ModelStatus]:
    """Report the state of each model's weights. Downloads nothing."""
    return [_describe(model, settings, _find) for model in MODELS]


def pull(settings: Settings, *, progress: Progress = no_progress, folder: Path | None = None) -> list[ModelStatus]:
    """Fetch the missing or damaged weights of every model, and verify all of them.

    User-supplied files are verified and never fetched. A model that cannot be fetched does not stop the others. After
    an interruption at any moment, another call uses or removes all leftovers.

    Args:
        progress: called for each file that is fetched.
        folder: import the files from here, not from the network.

    Returns:
        The status of each model, with its `problem` if it cannot be used.

    Raises:
        InputError: `folder` is not a folder.
    """
    if folder is not None and not folder.is_dir():
        raise InputError(f"{folder} is not a folder; name the one that holds the weights")

    def pull_one(model: str, settings: Settings) -> Weights:
        try:
            return _find(model, settings, again=True)
        except (MissingWeightsError, InvalidWeightsError):
            _fetch(model, settings, progress, folder)
            return _find(model, settings, again=True)

    statuses = [_describe(model, settings, pull_one) for model in MODELS]
    return [replace(status, remedy=status.remedy.replace(FETCH, FETCH_LATER)) for status in statuses]


def _describe(model: str, settings: Settings, find: Callable[[str, Settings], Weights]) -> ModelStatus:
    """The status of the weights that `find` returns, or of its error."""
    given = _given(model, settings)
    name = given or (_SINGLE_FILES[model]().url if model in _SINGLE_FILES else "")
    status = ModelStatus(model, name, without_it=MODELS[model])
    try:
        weights = find(model, settings)
        size, source = weights.path.stat().st_size, _source(model, settings)
    except CurationError as error:
        reason = error.reason if isinstance(error, ReasonedError) else "settings"
        problem, remedy = (error.summary, error.remedy) if isinstance(error, WeightsError) else (str(error), "")
        return replace(status, problem=problem, remedy=remedy, reason=reason)
    except OSError as error:
        remedy = "free space or permissions, then try again"
        return replace(status, problem=str(error), remedy=remedy, reason="invalid_weights")
    if isinstance(source, (HubSource, FolderSource)):
        licence = source.published.licence if source.published else ""
    else:
        licence = "" if given else source.licence
    origin = _describe_origin(weights)
    return replace(status, path=weights.path, sha256=weights.sha256, bytes=size, origin=origin, licence=licence)


def _describe_origin(weights: Weights) -> str:
    commit = weights.path.parent
    if commit.parent.name == "snapshots":
        return f"commit {commit.name} in the hub's cache"
    if "://" not in weights.source:
        return "a user-supplied file"
    if weights.path == brisque_file().path:
        return "this package"
    return "the weights folder" if weights.path.is_relative_to(weights_folder()) else "a download of another library"


def _given(model: str, settings: Settings) -> str:
    """Name of a model's weights in the settings; empty for the default file of CLIP-IQA or BRISQUE."""
    return str(getattr(settings, "model" if model == "clip" else f"{model}_weights"))


def _source(model: str, settings: Settings) -> Source | KnownFile | BundledFile:
    """The parsed source of a model's weights, or the file that settings may replace. Raises SettingsError."""
    given = _given(model, settings)
    if model == "clip" or (model == "clip_iqa" and given.startswith("hf-hub:")):
        return model_source(settings.replace(model=given))
    return _SINGLE_FILES[model]()


def _fetch(model: str, settings: Settings, progress: Progress, folder: Path | None = None) -> None:
    """Fetch missing or damaged files from the network, or from `folder`; no user-supplied file."""
    source = _source(model, settings)
    if isinstance(source, (HubSource, FolderSource)):
        fetch_clip(source, progress, folder)
    elif isinstance(source, KnownFile) and not _given(model, settings):
        fetch_known_file(source, progress, folder)


# --- on this machine, without a network call ---


def _find(model: str, settings: Settings, *, again: bool = False) -> Weights:
    """Find the weights of a model; raises like `locate`.

    Args:
        again: hash all files again, even if their digests are remembered.
    """
    source = _source(model, settings)
    if isinstance(source, (HubSource, FolderSource)):
        return _find_clip(settings, source, again)
    if _given(model, settings):
        return _find_given_file(settings, source, again)
    if isinstance(source, BundledFile):
        return _find_bundled_file(settings, source)
    return _find_known_file(settings, source, again)


def _find_clip(settings: Settings, source: Source, again: bool) -> ClipWeights:
    checkpoint = _find_checkpoint(source)
    published = source.published
    remedy = "copy it there again" if isinstance(source, FolderSource) else FETCH
    expected = (published.sha256 if published else "") or recorded_sha256(checkpoint)
    sha256 = _verify_sha256(settings, f"CLIP {source.name}", checkpoint, expected, remedy, again)
    small_files = [checkpoint.parent / CONFIG_FILE]
    config, config_bytes = _read_config(source, small_files[0], remedy)
    content = hashlib.sha256(sha256.encode() + b"\n" + config_bytes)
    tokenizer = None
    for companion in companions(source, config):
        folder = _find_companion(source, companion)
        for path in [folder / name for name in companion.names]:
            content.update(path.read_bytes() if path.is_file() else b"\0")
            small_files.append(path)
        if companion.kind == "tokenizer":
            tokenizer = folder
        else:
            text = {**config["model_cfg"]["text_cfg"], "hf_model_name": str(folder)}
            config = {**config, "model_cfg": {**config["model_cfg"], "text_cfg": text}}
    for path in filter(Path.is_file, small_files) if again else ():
        if problem := difference(path, path.resolve().name):  # the name of a blob is its digest
            raise InvalidWeightsError(f"CLIP {source.name}: {path} {problem}", FETCH)
    cosines = published.text_cosines if published else ()
    return ClipWeights(source.name, checkpoint, content.hexdigest(), config, tokenizer, cosines)


def _find_given_file(settings: Settings, default: KnownFile | BundledFile, again: bool) -> Weights:
    """Find the file that `settings` name instead of `default`."""
    given = getattr(settings, default.setting)
    path = settings.root / given
    variable = f"{ENV_PREFIX}{default.setting.upper()}"
    remedy = f"correct it, or unset it to use {default.description}"
    if not path.is_file():
        problem = f"{default.name}: {variable} names {path}, which does not exist"
        raise MissingWeightsError(problem, f"{remedy}, or {DEGRADE}")
    return Weights(given, path, _verify_sha256(settings, default.name, path, None, remedy, again))


def _find_bundled_file(settings: Settings, bundled: BundledFile) -> Weights:
    """Find the file in this package. Results of the download that it replaces stay valid."""
    if not bundled.path.is_file() or sha256_of(bundled.path) != bundled.sha256:
        problem = f"{bundled.name}: {bundled.path} is missing or was altered"
        raise InvalidWeightsError(problem, "install curation-features again")
    earlier = [sha256 for path, sha256 in remembered_digests(settings) if _EARLIER_BRISQUE.search(path)]
    replaces = identity_of(bundled.replaces, earlier[-1]) if earlier else ""
    return Weights(bundled.url, bundled.path, bundled.sha256, replaces=replaces)


def _find_known_file(settings: Settings, known: KnownFile, again: bool) -> Weights:
    path = next((path for path in (known.path, known.elsewhere) if path.is_file()), known.path)
    if not path.is_file():
        raise MissingWeightsError(f"{known.name} is not on this machine (no {path})", FETCH)
    remedy = "`curation-features models pull` replaces it" if path == known.path else "delete it, and " + FETCH
    remedy += f"; or set {ENV_PREFIX}{known.setting.upper()}={path} to use it as it is"
    return Weights(known.url, path, _verify_sha256(settings, known.name, path, known.sha256, remedy, again))


def _find_checkpoint(source: Source) -> Path:
    if isinstance(source, HubSource):
        path = cached(source.repo, source.revision, *source.checkpoints)
        if path is None and source.published:  # open_clip itself fetches it at `main`
            path = cached(source.repo, "main", *source.checkpoints)
            path = path if path and recorded_sha256(path) == source.published.sha256 else None
        if path is None:
            raise MissingWeightsError(f"CLIP {source.name} is not on this machine", FETCH)
        return path
    folder = source.folder
    path = next((folder / name for name in CHECKPOINT_FILES if (folder / name).is_file()), None)
    if not folder.is_dir():
        problem = "is not a folder"
    elif not (folder / CONFIG_FILE).is_file():
        problem = f"holds no {CONFIG_FILE}"
    elif path is None:
        problem = f"holds none of {', '.join(CHECKPOINT_FILES)}"
    else:
        return path
    how = f"put {CONFIG_FILE} and {CHECKPOINT_FILES[0]} there, or name another model in {ENV_PREFIX}MODEL, or {DEGRADE}"
    raise MissingWeightsError(f"CLIP {source.name}: {folder} {problem}", how)


def _verify_sha256(settings: Settings, name: str, path: Path, expected: str | None, remedy: str, again: bool) -> str:
    """Return the sha256 of a weights file. Raises InvalidWeightsError if it is damaged or not the expected one.

    Args:
        expected: its sha256; None or empty if unknown.
    """
    problem = damage(path)
    if problem:
        raise InvalidWeightsError(f"{name}: {path} {problem}", remedy)
    sha256 = digest(settings, path, again=again)
    if expected and sha256 != expected:
        raise InvalidWeightsError(f"{name}: {path} has sha256 {sha256}, and the published file has {expected}", remedy)
    return sha256


def _read_config(source: Source, path: Path, remedy: str) -> tuple[Mapping[str, Any], bytes]:
    """A model's configuration, and its bytes for the digest. Raises as `parse_config`."""
    if source.config is not None:
        return source.config, json.dumps(source.config, sort_keys=True).encode()
    if not path.is_file():
        raise MissingWeightsError(f"CLIP {source.name}: {CONFIG_FILE} is not on this machine", FETCH)
    data = path.read_bytes()
    return parse_config(data, str(path), remedy), data


def _find_companion(source: Source, companion: Companion) -> Path:
    """Find the folder of a companion's files. A user-supplied folder holds its tokenizer."""
    kind, repo, revision, names = companion
    if kind == "tokenizer" and isinstance(source, FolderSource):
        folder = source.folder
    elif path := cached(repo, revision, names[-1]):
        folder = path.parent
    else:
        raise MissingWeightsError(f"The {kind} {repo} of CLIP {source.name} is not on this machine", FETCH)
    has_vocabulary = any((folder / name).is_file() for name in VOCABULARY_FILES)
    if kind == "tokenizer" and not (has_vocabulary and (folder / names[-1]).is_file()):
        needed = f"{names[-1]} and one of {', '.join(VOCABULARY_FILES)}"
        raise MissingWeightsError(f"CLIP {source.name}: {folder} lacks its tokenizer ({needed})", FETCH)
    return folder
