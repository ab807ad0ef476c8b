"""Weights that are on this machine: found, checked by their headers and digests, and identified. No network call."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from curation_features.errors import InvalidWeightsError, MissingWeightsError
from curation_features.settings import ENV_PREFIX, Settings
from curation_features.weights.digests import digest
from curation_features.weights.formats import damage
from curation_features.weights.hub_cache import cached, first_cached, recorded_sha256
from curation_features.weights.known_files import KnownFile
from curation_features.weights.sources import (
    CHECKPOINT_FILES,
    CONFIG_FILE,
    FolderSource,
    HubSource,
    Source,
)
from curation_features.weights.weights import ClipWeights, Weights

DEGRADE = "accept results without it (--allow-degraded, or CURATION_FEATURES_ON_MISSING_WEIGHTS=degrade)"
FETCH = f"run `curation-features models pull` (with --from FOLDER for files carried in by hand), or {DEGRADE}"
"""What to do about weights that are not here."""

VOCABULARY_FILES = (
    "tokenizer.json",
    "spiece.model",
    "sentencepiece.bpe.model",
    "vocab.json",
    "vocab.txt",
)
TOKENIZER_FILES = (
    *VOCABULARY_FILES,
    "merges.txt",
    "special_tokens_map.json",
    "added_tokens.json",
    "tokenizer_config.json",
)
"""What a tokenizer of `transformers` may consist of. The last of them is also fetched last: where it is, all are."""

ENCODER_FILE = "config.json"
"""The configuration of a text encoder of `transformers`; its weights are in the CLIP checkpoint."""


def find_clip(settings: Settings, source: Source, *, again: bool = False) -> ClipWeights:
    """A CLIP model on this machine.

    Args:
        again: read its files again, even where their digests are remembered.

    Raises:
        MissingWeightsError: it is not here, or not all of it.
        InvalidWeightsError: a file is damaged, was altered or is not a checkpoint.
    """
    checkpoint = _checkpoint(source)
    remedy = "copy it there again" if isinstance(source, FolderSource) else FETCH
    expected = _published_sha256(source, checkpoint) or recorded_sha256(checkpoint)
    sha256 = _checked(settings, f"CLIP {source.name}", checkpoint, expected, remedy, again)
    config, config_bytes = configuration(source, checkpoint, remedy)
    content = hashlib.sha256(sha256.encode() + b"\n" + config_bytes)
    text = dict(config["model_cfg"].get("text_cfg") or {})
    tokenizer = None
    if text.get("hf_tokenizer_name"):
        tokenizer = _tokenizer(source, text["hf_tokenizer_name"])
        for name in TOKENIZER_FILES:
            content.update((tokenizer / name).read_bytes() if (tokenizer / name).is_file() else b"\0")
    if text.get("hf_model_name"):
        encoder = _encoder(source, text["hf_model_name"])
        content.update(encoder.read_bytes())
        text["hf_model_name"] = str(encoder.parent)
        config = {**config, "model_cfg": {**config["model_cfg"], "text_cfg": text}}
    published = source.published if isinstance(source, HubSource) else None
    cosines = published.text_cosines if published else ()
    return ClipWeights(source.name, checkpoint, content.hexdigest(), config, tokenizer, cosines)


def find_known_file(settings: Settings, known: KnownFile, *, again: bool = False) -> Weights:
    """The file that `settings` name in place of `known`, or `known` itself.

    Raises:
        MissingWeightsError: there is no such file.
        InvalidWeightsError: it is damaged, or its digest is not the published one.
    """
    given = getattr(settings, known.setting)
    variable = f"{ENV_PREFIX}{known.setting.upper()}"
    if given:
        path = settings.root / Path(given).expanduser()
        if not path.is_file():
            raise MissingWeightsError(
                f"{known.name}: {variable} names {path}, and there is no such file",
                f"correct it, or unset it to use {known.url}, or {DEGRADE}",
            )
        sha256 = _checked(settings, known.name, path, None, f"replace it by {known.url}", again)
        return Weights(given, path, sha256)
    path = next((path for path in (known.path, known.elsewhere) if path.is_file()), known.path)
    if not path.is_file():
        raise MissingWeightsError(f"{known.name} is not on this machine (no {path})", FETCH)
    remedy = "`curation-features models pull` replaces it" if path == known.path else "delete it, and " + FETCH
    remedy += f"; or set {variable}={path} to use it as it is"
    return Weights(known.url, path, _checked(settings, known.name, path, known.sha256, remedy, again))


def _checkpoint(source: Source) -> Path:
    if isinstance(source, HubSource):
        path = first_cached(source.repo, source.revision, source.checkpoints) or _same_elsewhere(source)
        if path is None:
            raise MissingWeightsError(f"CLIP {source.name} is not on this machine", FETCH)
        return path
    folder = source.folder
    how = f"put {CONFIG_FILE} and {CHECKPOINT_FILES[0]} there, or name another model in {ENV_PREFIX}MODEL, or {DEGRADE}"
    if not folder.is_dir():
        raise MissingWeightsError(f"CLIP {source.name}: {folder} is not a folder", how)
    found = next((folder / name for name in CHECKPOINT_FILES if (folder / name).is_file()), None)
    if not (folder / CONFIG_FILE).is_file():
        raise MissingWeightsError(f"CLIP {source.name}: {folder} holds no {CONFIG_FILE}", how)
    if found is None:
        raise MissingWeightsError(f"CLIP {source.name}: {folder} holds none of {', '.join(CHECKPOINT_FILES)}", how)
    return found


def _same_elsewhere(source: HubSource) -> Path | None:
    """The published checkpoint as open_clip itself has fetched it, at another revision of the same repository."""
    path = first_cached(source.repo, "main", source.checkpoints)
    sha256 = path and _published_sha256(source, path)
    return path if sha256 and path and recorded_sha256(path) == sha256 else None


def _published_sha256(source: Source, checkpoint: Path) -> str:
    """Digest of a checkpoint in the table of models; empty where it is not in it."""
    published = source.published if isinstance(source, HubSource) else None
    return published.sha256 if published and published.file == checkpoint.name else ""


def _checked(settings: Settings, name: str, path: Path, expected: str | None, remedy: str, again: bool) -> str:
    """sha256 of a weights file. Raises InvalidWeightsError where it is damaged, or not the one that is expected.

    Args:
        expected: its sha256, or how that begins; None or empty where it is not known.
    """
    problem = damage(path)
    if problem:
        raise InvalidWeightsError(f"{name}: {path} {problem}", remedy)
    sha256 = digest(settings, path, again=again)
    if expected and not sha256.startswith(expected):
        raise InvalidWeightsError(f"{name}: {path} has sha256 {sha256}, and the published file has {expected}", remedy)
    return sha256


def configuration(source: Source, checkpoint: Path, remedy: str) -> tuple[Mapping[str, Any], bytes]:
    """A model's configuration, which lies beside its checkpoint, and the bytes that stand for it in the digest.

    Raises:
        MissingWeightsError: there is none.
        InvalidWeightsError: it is none; `remedy` says what to do.
    """
    if not isinstance(source, FolderSource) and source.config is not None:
        return source.config, json.dumps(source.config, sort_keys=True).encode()
    path = checkpoint.parent / CONFIG_FILE
    if not path.is_file():
        raise MissingWeightsError(f"CLIP {source.name}: {CONFIG_FILE} is not on this machine", FETCH)
    data = path.read_bytes()
    try:
        config = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise InvalidWeightsError(f"CLIP configuration {path} is not JSON: {error}", remedy) from error
    model = config.get("model_cfg") if isinstance(config, dict) else None
    if not isinstance(model, dict) or not isinstance(model.get("text_cfg") or {}, dict):
        raise InvalidWeightsError(f"CLIP configuration {path} has no model_cfg", remedy)
    return config, data


def _tokenizer(source: Source, repo: str) -> Path:
    """Folder of a model's tokenizer: that of the model itself, or a repository of the hub."""
    if isinstance(source, FolderSource):
        return _whole_tokenizer(source.name, source.folder)
    path = cached(repo, _revision(source, repo), TOKENIZER_FILES[-1])
    if path is None:
        raise MissingWeightsError(f"The tokenizer {repo} of CLIP {source.name} is not on this machine", FETCH)
    return _whole_tokenizer(source.name, path.parent)


def _whole_tokenizer(name: str, folder: Path) -> Path:
    missing = not any((folder / file).is_file() for file in VOCABULARY_FILES)
    if missing or not (folder / TOKENIZER_FILES[-1]).is_file():
        wanted = f"{TOKENIZER_FILES[-1]} and one of {', '.join(VOCABULARY_FILES)}"
        raise MissingWeightsError(f"CLIP {name}: {folder} lacks its tokenizer ({wanted})", FETCH)
    return folder


def _encoder(source: Source, repo: str) -> Path:
    path = cached(repo, _revision(source, repo), ENCODER_FILE)
    if path is None:
        raise MissingWeightsError(f"The configuration of {repo}, for CLIP {source.name}, is not on this machine", FETCH)
    return path


def _revision(source: Source, repo: str) -> str:
    """The revision of a repository that a model names; its own repository is read at its own revision."""
    return source.revision if isinstance(source, HubSource) and source.repo == repo else "main"


def companions(source: Source, config: Mapping[str, Any]) -> Sequence[tuple[str, str, tuple[str, ...]]]:
    """What else of the hub a model needs: (repository, revision, files that may be there), in the order of fetching."""
    text = config["model_cfg"].get("text_cfg") or {}
    wanted: list[tuple[str, tuple[str, ...]]] = []
    if text.get("hf_model_name"):
        wanted.append((text["hf_model_name"], (ENCODER_FILE,)))
    if text.get("hf_tokenizer_name") and not isinstance(source, FolderSource):
        wanted.append((text["hf_tokenizer_name"], TOKENIZER_FILES))
    return [(repo, _revision(source, repo), files) for repo, files in wanted]
