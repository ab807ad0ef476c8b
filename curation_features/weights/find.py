"""Find weights on this machine, check them by header and digest, and identify them. No network call."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from curation_features.errors import InvalidWeightsError, MissingWeightsError
from curation_features.settings import ENV_PREFIX, Settings
from curation_features.weights.catalog import KnownFile
from curation_features.weights.files import cached, damage, difference, digest, recorded_sha256
from curation_features.weights.sources import CHECKPOINT_FILES, CONFIG_FILE, FolderSource, HubSource, Source
from curation_features.weights.weights import ClipWeights, Weights

DEGRADE = "accept results without it (--allow-degraded, or CURATION_FEATURES_ON_MISSING_WEIGHTS=degrade)"
FETCH = f"run `curation-features models pull` (--from FOLDER imports files without a connection), or {DEGRADE}"
"""Remedy for missing weights."""

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
"""Possible files of a tokenizer of `transformers`. The last one is linked last: if it exists, all do."""

ENCODER_FILE = "config.json"
"""Configuration of a text encoder of `transformers`; its weights are in the CLIP checkpoint."""


def find_clip(settings: Settings, source: Source, *, again: bool = False) -> ClipWeights:
    """Find a CLIP model on this machine.

    Args:
        again: hash all files again, even if their digests are remembered.

    Raises:
        MissingWeightsError: a file is missing.
        InvalidWeightsError: a file is damaged, was altered or is not a checkpoint.
    """
    checkpoint = _find_checkpoint(source)
    published = source.published if isinstance(source, HubSource) else None
    remedy = "copy it there again" if isinstance(source, FolderSource) else FETCH
    expected = (published.sha256 if published else "") or recorded_sha256(checkpoint)
    sha256 = _verify_sha256(settings, f"CLIP {source.name}", checkpoint, expected, remedy, again)
    small_files = [checkpoint.parent / CONFIG_FILE]
    config, config_bytes = _read_config(source, small_files[0], remedy)
    content = hashlib.sha256(sha256.encode() + b"\n" + config_bytes)
    text = dict(config["model_cfg"].get("text_cfg") or {})
    tokenizer = None
    if text.get("hf_tokenizer_name"):
        tokenizer = _find_tokenizer(source, text["hf_tokenizer_name"])
        for path in [tokenizer / name for name in TOKENIZER_FILES]:
            content.update(path.read_bytes() if path.is_file() else b"\0")
            small_files.append(path)
    if text.get("hf_model_name"):
        encoder = _find_companion(source, text["hf_model_name"], ENCODER_FILE, "configuration")
        content.update(encoder.read_bytes())
        small_files.append(encoder)
        text["hf_model_name"] = str(encoder.parent)
        config = {**config, "model_cfg": {**config["model_cfg"], "text_cfg": text}}
    for path in filter(Path.is_file, small_files) if again else ():
        if problem := difference(path, path.resolve().name):  # the name of a blob is its digest
            raise InvalidWeightsError(f"CLIP {source.name}: {path} {problem}", FETCH)
    cosines = published.text_cosines if published else ()
    return ClipWeights(source.name, checkpoint, content.hexdigest(), config, tokenizer, cosines)


def find_known_file(settings: Settings, known: KnownFile, *, again: bool = False) -> Weights:
    """Find the file that `settings` name instead of `known`, or `known` itself.

    Raises:
        MissingWeightsError: the file does not exist.
        InvalidWeightsError: it is damaged, or its digest is not the published one.
    """
    given = getattr(settings, known.setting)
    variable = f"{ENV_PREFIX}{known.setting.upper()}"
    if given:
        path = settings.root / Path(given).expanduser()
        if not path.is_file():
            raise MissingWeightsError(
                f"{known.name}: {variable} names {path}, which does not exist",
                f"correct it, or unset it to use {known.url}, or {DEGRADE}",
            )
        sha256 = _verify_sha256(settings, known.name, path, None, f"replace it by {known.url}", again)
        return Weights(given, path, sha256)
    path = next((path for path in (known.path, known.elsewhere) if path.is_file()), known.path)
    if not path.is_file():
        raise MissingWeightsError(f"{known.name} is not on this machine (no {path})", FETCH)
    remedy = "`curation-features models pull` replaces it" if path == known.path else "delete it, and " + FETCH
    remedy += f"; or set {variable}={path} to use it as it is"
    return Weights(known.url, path, _verify_sha256(settings, known.name, path, known.sha256, remedy, again))


def _find_checkpoint(source: Source) -> Path:
    if isinstance(source, HubSource):
        path = cached(source.repo, source.revision, *source.checkpoints) or _find_at_main(source)
        if path is None:
            raise MissingWeightsError(f"CLIP {source.name} is not on this machine", FETCH)
        return path
    folder = source.folder
    how = f"put {CONFIG_FILE} and {CHECKPOINT_FILES[0]} there, or name another model in {ENV_PREFIX}MODEL, or {DEGRADE}"
    if not folder.is_dir():
        raise MissingWeightsError(f"CLIP {source.name}: {folder} is not a folder", how)
    if not (folder / CONFIG_FILE).is_file():
        raise MissingWeightsError(f"CLIP {source.name}: {folder} holds no {CONFIG_FILE}", how)
    path = next((folder / name for name in CHECKPOINT_FILES if (folder / name).is_file()), None)
    if path is None:
        raise MissingWeightsError(f"CLIP {source.name}: {folder} holds none of {', '.join(CHECKPOINT_FILES)}", how)
    return path


def _find_at_main(source: HubSource) -> Path | None:
    """Find the published checkpoint at `main`, for which open_clip itself fetches it."""
    path = cached(source.repo, "main", *source.checkpoints)
    is_published = path and source.published and source.published.sha256 == recorded_sha256(path)
    return path if is_published else None


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
    if isinstance(source, HubSource) and source.config is not None:
        return source.config, json.dumps(source.config, sort_keys=True).encode()
    if not path.is_file():
        raise MissingWeightsError(f"CLIP {source.name}: {CONFIG_FILE} is not on this machine", FETCH)
    data = path.read_bytes()
    return parse_config(data, str(path), remedy), data


def parse_config(data: bytes, name: str, remedy: str) -> Mapping[str, Any]:
    """Parse an `open_clip_config.json`. Raises InvalidWeightsError, with `name` and `remedy`, if it is not valid."""
    try:
        config = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise InvalidWeightsError(f"CLIP configuration {name} is not JSON: {error}", remedy) from error
    model = config.get("model_cfg") if isinstance(config, dict) else None
    if not isinstance(model, dict) or not isinstance(model.get("text_cfg") or {}, dict):
        raise InvalidWeightsError(f"CLIP configuration {name} has no model_cfg", remedy)
    return dict(config)


def _find_tokenizer(source: Source, repo: str) -> Path:
    """Find the folder of a model's tokenizer: the model's own folder, or a repository of the hub."""
    if isinstance(source, FolderSource):
        folder = source.folder
    else:
        folder = _find_companion(source, repo, TOKENIZER_FILES[-1], "tokenizer").parent
    has_vocabulary = any((folder / file).is_file() for file in VOCABULARY_FILES)
    if not has_vocabulary or not (folder / TOKENIZER_FILES[-1]).is_file():
        needed = f"{TOKENIZER_FILES[-1]} and one of {', '.join(VOCABULARY_FILES)}"
        raise MissingWeightsError(f"CLIP {source.name}: {folder} lacks its tokenizer ({needed})", FETCH)
    return folder


def _find_companion(source: Source, repo: str, name: str, kind: str) -> Path:
    path = cached(repo, _revision(source, repo), name)
    if path is None:
        raise MissingWeightsError(f"The {kind} {repo} of CLIP {source.name} is not on this machine", FETCH)
    return path


def _revision(source: Source, repo: str) -> str:
    """The revision of a repository that a model needs; the model's own repository has the model's revision."""
    return source.revision if isinstance(source, HubSource) and source.repo == repo else "main"


def companions(source: Source, config: Mapping[str, Any]) -> Sequence[tuple[str, str, tuple[str, ...]]]:
    """Other files of the hub that a model needs: (repository, revision, names), the last of which must exist."""
    text = config["model_cfg"].get("text_cfg") or {}
    needed: list[tuple[str, tuple[str, ...]]] = []
    if text.get("hf_model_name"):
        needed.append((text["hf_model_name"], (ENCODER_FILE,)))
    if text.get("hf_tokenizer_name") and not isinstance(source, FolderSource):
        needed.append((text["hf_tokenizer_name"], TOKENIZER_FILES))
    return [(repo, _revision(source, repo), names) for repo, names in needed]
