"""Where model weights come from: found, fetched, identified, and loaded once.

No module here imports torch before a model is really loaded, so that a run in which everything is cached never does.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import threading
import time
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

from curation_features import files
from curation_features.errors import (
    CurationError,
    InvalidWeightsError,
    MissingWeightsError,
    SettingsError,
    WeightsError,
)
from curation_features.settings import ENV_PREFIX, Settings

S = TypeVar("S")
T = TypeVar("T")

logger = logging.getLogger(__name__)

RETRY_AFTER_S = 60


@dataclass(frozen=True, slots=True)
class Weights:
    """Weights on this machine.

    Attributes:
        source: what was asked for, as in the settings (`hf-hub:...`, `local-dir:...`, a URL or a file).
        path: the weights file.
        sha256: digest of everything that decides the model's numbers (the file, and its configuration if it has one).
    """

    source: str
    path: Path
    sha256: str

    @property
    def identity(self) -> str:
        """Names these very weights; part of the version of every result that they make."""
        return f"{self.source}@{self.sha256[:16]}"


class LazyModel(Generic[T]):
    """A model that is located when its identity is asked for, and loaded on first use, once for all threads.

    A failure is remembered for a minute, so that a batch without weights does not try again for every photo, and a
    service that runs on finds them once they are there.

    Args:
        locate: finds or fetches the weights; raises `WeightsError`. Must not import torch.
        load: makes the model out of them.
    """

    def __init__(self, locate: Callable[[], Weights], load: Callable[[Weights], T]) -> None:
        self._locate = locate
        self._load = load
        self._lock = threading.RLock()
        self._weights: Weights | None = None
        self._model: T | None = None
        self._failure: WeightsError | None = None
        self._failed_at = 0.0

    @classmethod
    def ready(cls, model: T, identity: str) -> LazyModel[T]:
        """Wrap a model that exists already (a fake in a test, or an engine of one's own)."""
        return cls(lambda: Weights(identity, Path(), ""), lambda _: model)

    @property
    def identity(self) -> str:
        """Name and digest of the weights, without loading them. Raises `WeightsError` where there are none."""
        return self._located().identity

    def get(self) -> T:
        """The model, loaded on the first call. Raises `WeightsError` where it cannot be."""
        with self._lock:
            if self._model is None:
                weights = self._located()
                self._model = self._tried(lambda: self._load(weights))
            return self._model

    def _located(self) -> Weights:
        with self._lock:
            if self._weights is None:
                self._weights = self._tried(self._locate)
            return self._weights

    def _tried(self, step: Callable[[], S]) -> S:
        if self._failure is not None and time.monotonic() - self._failed_at < RETRY_AFTER_S:
            raise self._failure.with_traceback(None)  # else each raise would make its traceback longer
        try:
            return step()
        except WeightsError as error:
            self._failure, self._failed_at = error, time.monotonic()
            raise
        except CurationError:
            raise
        except Exception as error:
            summary = f"a model cannot be loaded ({type(error).__name__}: {error})"
            self._failure = WeightsError(
                "load_failed", f"{summary}; free memory, or see the error it comes from", summary
            )
            self._failed_at = time.monotonic()
            raise self._failure from error


CLIP_CONFIG = "open_clip_config.json"
CLIP_CHECKPOINTS = (
    "open_clip_model.safetensors",
    "open_clip_pytorch_model.safetensors",
    "open_clip_pytorch_model.bin",
)
"""Names of a CLIP checkpoint, in the order in which open_clip takes them from a folder."""

DOWNLOAD_TIMEOUT_S = (10, 60)
"""Seconds to wait for a connection, and between two packets."""

_LARGEST_HEADER_BYTES = 100_000_000  # the format's own limit

_DEGRADE = "accept results without it: --allow-degraded or CURATION_FEATURES_ON_MISSING_WEIGHTS=degrade"


@dataclass(frozen=True, slots=True)
class KnownFile:
    """A weights file with a well-known download.

    Attributes:
        name: what it is, for messages.
        url: where it is published.
        path: where the libraries that use it keep it.
        setting: the setting that names another file in its place.
        sha256: digest of the published file, where one is known.
    """

    name: str
    url: str
    path: Path
    setting: str
    sha256: str | None = None


@dataclass(frozen=True, slots=True)
class ModelStatus:
    """What is on this machine of one model.

    Attributes:
        name: `clip`, `clip_iqa` or `brisque`.
        source: where its weights come from, as in the settings, or a URL.
        path: the weights file; None where there is none that can be used.
        sha256: as in `Weights`.
        bytes: size of the weights file; 0 where there is none.
        problem: why it cannot be used; None where it can.
        without_it: what a degraded run does without it.
    """

    name: str
    source: str
    path: Path | None
    sha256: str | None
    bytes: int
    problem: str | None
    without_it: str


def locate_clip(settings: Settings, *, fetch: bool = True) -> Weights:
    """The CLIP checkpoint that `settings.model` names; its folder also holds `open_clip_config.json`.

    A checkpoint of the Hugging Face hub is taken from that library's cache without any network call, and downloaded
    by its own client where it is not there (`HF_HOME`, `HF_ENDPOINT`, `HF_TOKEN` and `HF_HUB_OFFLINE` hold).
    The digest covers the weights and the configuration.

    Args:
        fetch: download what is missing.

    Raises:
        SettingsError: the model is neither `hf-hub:ORG/REPO[@REVISION]` nor `local-dir:FOLDER`.
        MissingWeightsError: there is no checkpoint, and it could not be fetched.
        InvalidWeightsError: a file is damaged or is not a checkpoint.
    """
    hub = re.fullmatch(r"hf-hub:([\w.-]+/[\w.-]+)(?:@([\w./-]+))?", settings.model)
    if hub:
        return _clip_on_hub(settings, hub[1], hub[2] or "main", fetch)
    kind, _, folder = settings.model.partition(":")
    if kind == "local-dir" and folder:
        return _clip_in_folder(settings, settings.root / Path(folder).expanduser())
    raise SettingsError(
        f"model: {settings.model!r} is neither hf-hub:ORG/REPO[@REVISION] (a model of the Hugging Face hub) "
        "nor local-dir:FOLDER (a folder with open_clip_config.json and its weights)"
    )


def locate_clip_iqa(settings: Settings, *, fetch: bool = True) -> Weights:
    """OpenAI's RN50 for CLIP-IQA: `settings.clip_iqa_weights`, or the file that piq and OpenAI's clip use.

    The latter is downloaded where it is missing, and its digest must be the one that OpenAI published.

    Raises:
        MissingWeightsError: there is no such file, and it could not be fetched.
        InvalidWeightsError: the file is damaged or is another one.
    """
    return locate_known_file(settings, clip_iqa_file(), fetch=fetch)


def locate_brisque(settings: Settings, *, fetch: bool = True) -> Weights:
    """BRISQUE's regressor: `settings.brisque_weights`, or the file that piq uses, downloaded where it is missing.

    No digest of it is published: whoever loads it checks what is in it.

    Raises:
        MissingWeightsError: there is no such file, and it could not be fetched.
        InvalidWeightsError: the file is damaged.
    """
    return locate_known_file(settings, brisque_file(), fetch=fetch)


def clip_iqa_file() -> KnownFile:
    """OpenAI's RN50, where piq and OpenAI's clip keep it."""
    sha256 = "afeb0e10f9e5a86da6080e35cf09123aca3b358a0c3e3b6c78a7b63bc04b6762"
    return KnownFile(
        "CLIP-IQA's RN50",
        f"https://openaipublic.azureedge.net/clip/models/{sha256}/RN50.pt",
        Path("~/.cache/clip/RN50.pt").expanduser(),
        "clip_iqa_weights",
        sha256,
    )


def brisque_file() -> KnownFile:
    """The copy of the LIVE regressor that piq publishes, where torch's hub keeps it."""
    cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    home = Path(os.environ.get("TORCH_HOME") or f"{cache}/torch").expanduser()
    return KnownFile(
        "BRISQUE's regressor",
        "https://github.com/photosynthesis-team/piq/releases/download/v0.4.0/brisque_svm_weights.pt",
        home / "hub" / "checkpoints" / "brisque_svm_weights.pt",
        "brisque_weights",
    )


def model_status(settings: Settings) -> list[ModelStatus]:
    """What is on this machine of each model. Downloads nothing."""
    parts: tuple[tuple[str, str, Callable[..., Weights], str], ...] = (
        ("clip", settings.model, locate_clip, "fallback labels at confidence 0, and no image embeddings"),
        ("clip_iqa", settings.clip_iqa_weights or clip_iqa_file().url, locate_clip_iqa, "clip_iqa is 0, its worst"),
        ("brisque", settings.brisque_weights or brisque_file().url, locate_brisque, "brisque is 0, its worst"),
    )
    return [_status(settings, *part) for part in parts]


def _status(settings: Settings, name: str, source: str, locate: Callable[..., Weights], without_it: str) -> ModelStatus:
    try:
        weights = locate(settings, fetch=False)
        return ModelStatus(name, source, weights.path, weights.sha256, weights.path.stat().st_size, None, without_it)
    except (WeightsError, SettingsError, OSError) as error:
        return ModelStatus(name, source, None, None, 0, str(error), without_it)


def locate_known_file(settings: Settings, known: KnownFile, *, fetch: bool = True) -> Weights:
    """The file that `settings` name in place of `known`, or `known` itself, downloaded where it is missing.

    Raises:
        MissingWeightsError: there is no such file, and it could not be fetched.
        InvalidWeightsError: it is damaged, or its digest is not the published one.
    """
    given = getattr(settings, known.setting)
    path = settings.root / Path(given).expanduser() if given else known.path
    variable = f"{ENV_PREFIX}{known.setting.upper()}"
    if not path.is_file():
        if given:
            raise MissingWeightsError(
                f"{known.name}: {variable} names {path}, and there is no such file; correct it, or unset it to use "
                f"{known.url}, or {_DEGRADE}"
            )
        _download(known, variable, fetch)
    _check_torch_file(path, known.name, f"replace it by {known.url}, or delete it and run again with a connection")
    sha256 = _digest(settings, path)
    if not given and known.sha256 not in (None, sha256):
        raise InvalidWeightsError(
            f"{known.name}: {path} has sha256 {sha256}, and the published file has {known.sha256}; delete it and run "
            f"again with a connection, or set {variable}={path} to use it as it is"
        )
    return Weights(given or known.url, path, sha256)


def _download(known: KnownFile, variable: str, fetch: bool) -> None:
    """Fetch `known` to its place, whole and with the right digest, or not at all."""
    import pooch

    how = (
        f"connect to the network once and run again, or copy the file there from a machine that has it, "
        f"or set {variable} to a copy of it, or {_DEGRADE}"
    )
    try:
        _refuse_when_offline(fetch)
        logger.info("Downloading %s from %s", known.name, known.url)
        pooch.get_logger().setLevel("WARNING")
        pooch.retrieve(
            known.url,
            f"sha256:{known.sha256}" if known.sha256 else None,
            fname=known.path.name,
            path=known.path.parent,
            downloader=pooch.HTTPDownloader(timeout=DOWNLOAD_TIMEOUT_S, chunk_size=1 << 20),
        )
        problem = _torch_file_problem(known.path)
        if problem:
            known.path.unlink()
            raise OSError(f"what the server sent {problem}")
    except (OSError, ValueError) as error:  # requests' errors are OSError; a wrong digest is ValueError
        raise MissingWeightsError(
            f"{known.name} is not on this machine. Tried {known.path} and {known.url}: {_cause(error)}. "
            f"To get it, {how}",
            f"{known.name} is not on this machine ({_cause(error)})",
        ) from error


def _refuse_when_offline(fetch: bool) -> None:
    """Raise OSError where nothing may be downloaded."""
    if not fetch:
        raise OSError("not downloaded yet, a run with a connection does it")
    if os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE"):
        raise OSError("HF_HUB_OFFLINE is set, so that nothing is downloaded")


def _clip_in_folder(settings: Settings, folder: Path) -> Weights:
    """The checkpoint in a folder of one's own."""
    how = f"put {CLIP_CONFIG} and {CLIP_CHECKPOINTS[0]} there, or name another in {ENV_PREFIX}MODEL, or {_DEGRADE}"
    if not folder.is_dir():
        raise MissingWeightsError(f"CLIP {settings.model}: {folder} is not a folder; {how}")
    checkpoint = _checkpoint_in(folder)
    if not (folder / CLIP_CONFIG).is_file():
        raise MissingWeightsError(f"CLIP {settings.model}: {folder} holds no {CLIP_CONFIG}; {how}")
    if checkpoint is None:
        raise MissingWeightsError(f"CLIP {settings.model}: {folder} holds none of {', '.join(CLIP_CHECKPOINTS)}; {how}")
    remedy = "copy it there again"
    _check_checkpoint(checkpoint, remedy)
    return _clip_weights(settings, checkpoint, _digest(settings, checkpoint), remedy)


def _clip_on_hub(settings: Settings, repo: str, revision: str, fetch: bool) -> Weights:
    """The checkpoint in the hub's cache, downloaded first where it is not there."""
    from huggingface_hub import constants

    checkpoint = _in_hub_cache(repo, revision)
    if checkpoint is None:
        try:
            _refuse_when_offline(fetch)
            _download_from_hub(repo, revision)
            checkpoint = _in_hub_cache(repo, revision)
            if checkpoint is None:
                raise OSError("the model changed on the hub during the download")
        except Exception as error:  # the client's errors have no base in common
            command = f"hf download {repo} {CLIP_CONFIG} {CLIP_CHECKPOINTS[0]}"
            raise MissingWeightsError(
                f"CLIP {settings.model} is not on this machine. Tried the cache {constants.HF_HUB_CACHE} and "
                f"{constants.ENDPOINT}/{repo}: {_cause(error)}. To get it, connect to the network once and run again, "
                f"or run `{command}` on a connected machine and copy its HF_HOME folder to {constants.HF_HOME}, "
                f"or set {ENV_PREFIX}MODEL=local-dir:FOLDER, or {_DEGRADE}",
                f"CLIP {settings.model} is not on this machine ({_cause(error)})",
            ) from error
    remedy = f"run `hf download {repo} {checkpoint.name} {CLIP_CONFIG} --revision {revision} --force-download`"
    _check_checkpoint(checkpoint, remedy)
    # The cache names a large file's blob by its sha256, so that gigabytes need not be read again.
    blob = checkpoint.resolve().name
    sha256 = blob if re.fullmatch("[0-9a-f]{64}", blob) else _digest(settings, checkpoint)
    return _clip_weights(settings, checkpoint, sha256, remedy)


def _in_hub_cache(repo: str, revision: str) -> Path | None:
    """The checkpoint in the hub's cache, if its configuration is there too. No network call."""
    from huggingface_hub import try_to_load_from_cache

    config = try_to_load_from_cache(repo, CLIP_CONFIG, revision=revision)
    return _checkpoint_in(Path(config).parent) if isinstance(config, str) else None


def _download_from_hub(repo: str, revision: str) -> None:
    from huggingface_hub import get_hf_file_metadata, hf_hub_download, hf_hub_url
    from huggingface_hub.errors import RemoteEntryNotFoundError

    # Asked for by itself, metadata fails at once where there is no connection; within a download it is tried for 25 s.
    get_hf_file_metadata(hf_hub_url(repo, CLIP_CONFIG, revision=revision), timeout=DOWNLOAD_TIMEOUT_S[0])
    logger.info("Downloading CLIP model %s", repo)
    hf_hub_download(repo, CLIP_CONFIG, revision=revision)
    for name in CLIP_CHECKPOINTS:
        try:
            hf_hub_download(repo, name, revision=revision)
            return
        except RemoteEntryNotFoundError:
            continue
    raise OSError(f"the repository holds none of {', '.join(CLIP_CHECKPOINTS)}")


def _checkpoint_in(folder: Path) -> Path | None:
    return next((folder / name for name in CLIP_CHECKPOINTS if (folder / name).is_file()), None)


def _clip_weights(settings: Settings, checkpoint: Path, sha256: str, remedy: str) -> Weights:
    """Check the configuration beside a checkpoint, and put its bytes into the digest."""
    path = checkpoint.parent / CLIP_CONFIG
    data = path.read_bytes()
    try:
        config = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise InvalidWeightsError(f"CLIP configuration {path} is not JSON: {error}; {remedy}") from error
    if not isinstance(config, dict) or not isinstance(config.get("model_cfg"), dict):
        raise InvalidWeightsError(f"CLIP configuration {path} has no model_cfg; {remedy}")
    return Weights(settings.model, checkpoint, hashlib.sha256(sha256.encode() + b"\n" + data).hexdigest())


def _check_checkpoint(path: Path, remedy: str) -> None:
    """Raise InvalidWeightsError where a checkpoint is plainly damaged. Reads only its header."""
    if path.suffix != ".safetensors":
        return _check_torch_file(path, "CLIP checkpoint", remedy)
    problem = _safetensors_problem(path)
    if problem:
        raise InvalidWeightsError(f"CLIP checkpoint {path} {problem}; {remedy}")
    return None


def _safetensors_problem(path: Path) -> str | None:
    """What is wrong with a safetensors file: 8 bytes of header length, a JSON header, then the tensors' bytes."""
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(8)
        length = int.from_bytes(start, "little")
        if size < 8 or length > _LARGEST_HEADER_BYTES:
            return f"is not a safetensors file (it begins with {start!r})"
        try:
            tensors = {name: entry for name, entry in json.loads(file.read(length)).items() if name != "__metadata__"}
            expected = 8 + length + max(int(entry["data_offsets"][1]) for entry in tensors.values())
        except (ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError):
            return "is truncated" if size < 8 + length else "has a damaged header"
    return None if size == expected else f"is truncated or damaged ({size} bytes in place of {expected})"


def _check_torch_file(path: Path, name: str, remedy: str) -> None:
    problem = _torch_file_problem(path)
    if problem:
        raise InvalidWeightsError(f"{name}: {path} {problem}; {remedy}")


def _torch_file_problem(path: Path) -> str | None:
    """What is wrong with a file of `torch.save` or `torch.jit.save`: a zip archive, or (before torch 1.6) a pickle."""
    with path.open("rb") as file:
        start = file.read(16)
    if start.startswith(b"PK"):
        return None if zipfile.is_zipfile(path) else "is truncated (a zip archive without its directory)"
    return None if start.startswith(b"\x80") else f"is not a PyTorch file (it begins with {start!r})"


def _digest(settings: Settings, path: Path) -> str:
    """sha256 of a file, remembered for as long as its size and modification time stay."""
    memo = settings.data_path / "cache" / "weights.json"
    stat = path.stat()
    key = f"{path.resolve()}|{stat.st_size}|{stat.st_mtime_ns}"
    known = _read_memo(memo)
    if key not in known:
        with path.open("rb") as file:
            known[key] = hashlib.file_digest(file, "sha256").hexdigest()
        try:
            files.write_bytes(memo, json.dumps(known, indent=1).encode(), durable=False)
        except OSError as error:
            logger.warning("%s cannot be written (%s): weights are hashed again by the next run", memo, error)
    return known[key]


def _read_memo(path: Path) -> dict[str, str]:
    """The remembered digests; none where the file is missing or is not what it should be."""
    try:
        memo = json.loads(path.read_bytes())
        return {key: value for key, value in memo.items() if re.fullmatch("[0-9a-f]{64}", value)}
    except (OSError, ValueError, TypeError, AttributeError, RecursionError):
        return {}


def _cause(error: BaseException) -> str:
    """The first cause of an error, in one line."""
    while inner := _inner(error):
        error = inner
    lines = str(error).splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


def _inner(error: BaseException) -> BaseException | None:
    """The error behind an error: its cause, or what requests and urllib3 wrap."""
    wrapped = (error.__cause__, getattr(error, "reason", None), *error.args)
    return next((candidate for candidate in wrapped if isinstance(candidate, BaseException)), None)
