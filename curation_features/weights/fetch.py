"""Fetch weights from their publishers or import them from a folder: each file complete and verified, or not at all.

An import makes no network call. It looks in three places of its folder: a hub cache (the folder itself, or `hub/` of a
copy of `HF_HOME`), the folder `REPO` of a repository, and the files in the folder itself.
"""

from __future__ import annotations

import errno
import hashlib
import logging
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from curation_features import atomic_files
from curation_features.errors import CurationError, InvalidWeightsError, MissingWeightsError
from curation_features.weights.catalog import KnownFile
from curation_features.weights.download import TIMEOUT_S, Progress, download, no_progress
from curation_features.weights.files import (
    SHA1,
    SHA256,
    blob_name,
    commit_of,
    damage,
    difference,
    link,
    repository_folder,
    set_revision,
    sweep,
    weights_folder,
)
from curation_features.weights.find import DEGRADE, ENCODER_FILE, FETCH, companions, parse_config
from curation_features.weights.sources import CONFIG_FILE, FolderSource, HubSource, Source

logger = logging.getLogger(__name__)

CHECKPOINT_SUFFIXES = (".safetensors", ".bin", ".pt", ".pth")
LARGE_SUFFIXES = (*CHECKPOINT_SUFFIXES, ".model")
LARGE_BYTES = 10_000_000
"""The hub names weights, and any larger file, by their sha256."""

COPY_BYTES = 1 << 22


def fetch_clip(
    source: Source, progress: Progress = no_progress, folder: Path | None = None, *, flat: bool = False
) -> None:
    """Fetch the missing or damaged files of a CLIP model: checkpoint, configuration, tokenizer and encoder config.

    All files of a repository are of one commit. They are linked at the end, so that a model that was complete before
    stays complete. For a user-supplied folder, only the configuration of its text encoder is fetched.

    Args:
        folder: import the files from here, not from the network.
        flat: the files may be in `folder` itself.

    Raises:
        MissingWeightsError: a file could not be fetched; the message names it, the cause and the remedy.
        InvalidWeightsError: the configuration is not valid, or a file in `folder` is damaged.
    """
    config: Mapping[str, Any] = {}
    if isinstance(source, FolderSource):
        path = source.folder / CONFIG_FILE
        if path.is_file():
            config = parse_config(path.read_bytes(), str(path), FETCH)
        if not config or not companions(source, config):
            return
    with fetching(f"CLIP {source.name}") if folder is None else alone():
        repositories: dict[tuple[str, str], _Repository] = {}
        if isinstance(source, HubSource):
            sha256 = source.published.sha256 if source.published else ""
            own = _Repository(source.repo, source.revision, progress, folder, source.checkpoints, flat, sha256)
            repositories[source.repo, source.revision] = own
            if source.config is None:
                own.fetch_first(CONFIG_FILE)
            config = source.config or parse_config(own.read(CONFIG_FILE), f"{CONFIG_FILE} of {source.repo}", FETCH)
            own.fetch_first(*source.checkpoints)
        for repo, revision, names in companions(source, config):
            repository = repositories.get((repo, revision))
            if repository is None:
                is_flat = flat and names[-1] != ENCODER_FILE  # in the folder, this would be the model's own
                repository = _Repository(repo, revision, progress, folder, names[-1:], is_flat)
                repositories[repo, revision] = repository
            for name in names[:-1]:
                repository.fetch(name)
            repository.fetch_first(names[-1])
        for repository in repositories.values():
            repository.finish()


def fetch_known_file(known: KnownFile, progress: Progress = no_progress, folder: Path | None = None) -> None:
    """Fetch `known` to its path, unless the right file is there.

    Args:
        folder: import the file from here, or from the weights folder of a copy of `HF_HOME`, not from the network.

    Raises:
        MissingWeightsError: it could not be fetched, or `folder` does not hold it.
        InvalidWeightsError: the file in `folder` is damaged or another one.
    """
    check = partial(_known_problem, known)
    if folder is None:
        with fetching(known.name):
            if not known.path.is_file() or check(known.path):
                logger.info("Downloading %s from %s", known.name, known.url)
                download(known.url, known.path, check, name=known.file_name, progress=progress)
        return
    candidates = [folder / known.file_name, folder / "assets" / "curation-features" / "weights" / known.file_name]
    path = next(filter(Path.is_file, candidates), None)
    if path is None:
        raise MissingWeightsError(
            f"{known.name}: {folder} holds no {known.file_name}", f"put {known.url} there, or {DEGRADE}"
        )
    with alone():
        _copy(path, known.path, check, known.file_name, progress)


@contextmanager
def fetching(name: str) -> Iterator[None]:
    """Lock this machine's caches for a fetch, and turn any failure into a `MissingWeightsError` of `name`."""
    try:
        if os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE"):
            raise OSError("HF_HUB_OFFLINE is set, so that nothing is downloaded")
        with alone():
            yield
    except CurationError:
        raise
    except Exception as error:  # the client's errors have no common base
        raise MissingWeightsError(f"{name} is not on this machine ({_cause(error)})", _remedy(error)) from error


@contextmanager
def alone() -> Iterator[None]:
    """Wait until no other process fetches or deletes weights on this machine."""
    lock = weights_folder() / "fetch.lock"
    lock.parent.mkdir(parents=True, exist_ok=True)
    held = FileLock(lock)
    try:
        held.acquire(timeout=0)
    except Timeout:
        logger.warning("Waiting for another process that fetches weights (it holds %s)", lock)
        held.acquire()
    try:
        yield
    finally:
        held.release()


class _Repository:
    """A repository, of the hub or in a folder, whose files are copied to the cache: first contents, then names.

    Args:
        root: the folder to search for it; None: it is on the hub.
        names: files of which it must hold one.
        flat: its files may be in `root` itself.
        sha256: digest of the first of `names` that it holds; it decides instead of the revision. Empty: unknown.

    Raises:
        MissingWeightsError: `root` does not hold it.
    """

    def __init__(
        self,
        repo: str,
        revision: str,
        progress: Progress,
        root: Path | None,
        names: Sequence[str],
        flat: bool,
        sha256: str = "",
    ) -> None:
        self._repo, self._revision, self._progress, self._root = repo, revision, progress, root
        self._cache = repository_folder(repo)
        self._files = Path()
        self._commit = ""
        self._blobs: dict[str, str] = {}
        if root is None:
            return
        is_commit = re.fullmatch(SHA1, revision)
        for files, commit in self._candidates(root, flat, every_commit=bool(sha256)):
            self._files = files
            name = next((name for name in names if (files / name).is_file()), None)
            if name is None:
                continue
            commit = commit or _recorded(files, name)[0]
            is_right = self._folder_blob(name) == sha256 if sha256 else not is_commit or commit in ("", revision)
            if is_right:
                self._commit = revision if is_commit else commit
                return
        raise self._missing(names)

    def fetch(self, name: str) -> bool:
        """Store the content of a file, unless it is there and right. False if the repository has no such file."""
        blob = self._folder_blob(name) if self._root else self._hub_blob(name)
        if blob is None:
            return False
        path = self._cache / "blobs" / blob
        check = partial(_blob_problem, name, blob)
        if not path.is_file() or check(path):
            if self._root:
                _copy(self._files / name, path, check, name, self._progress)
            else:
                self._download(name, path, check)
        self._blobs[name] = blob
        return True

    def fetch_first(self, *names: str) -> None:
        """Fetch the first of `names` that the repository has. Raises an error if it has none of them."""
        if not any(map(self.fetch, names)):
            raise self._missing(names)

    def read(self, name: str) -> bytes:
        """Read a file that was fetched."""
        return (self._cache / "blobs" / self._blobs[name]).read_bytes()

    def finish(self) -> None:
        """Link the fetched files, and set the revision to their commit (if unknown, a digest of the contents)."""
        content = repr(sorted(self._blobs.items())).encode()
        commit = self._commit or hashlib.sha1(content, usedforsecurity=False).hexdigest()
        for name, blob in self._blobs.items():
            link(self._cache, commit, name, blob)
        sweep(self._cache)
        set_revision(self._cache, self._revision, commit)

    def _hub_blob(self, name: str) -> str | None:
        from huggingface_hub import constants, get_hf_file_metadata, hf_hub_url
        from huggingface_hub.errors import RemoteEntryNotFoundError

        url = hf_hub_url(self._repo, name, revision=self._commit or self._revision)
        try:
            # This call does not use the client's retries: it fails at once without a connection.
            metadata = get_hf_file_metadata(url, timeout=TIMEOUT_S[0])
        except RemoteEntryNotFoundError:
            return None
        if not re.fullmatch(SHA1, metadata.commit_hash or "") or not re.fullmatch(r"[\w-]+", metadata.etag or ""):
            raise OSError(f"{constants.ENDPOINT} does not answer like a hub: a network's sign-in page, or a proxy?")
        self._commit = self._commit or str(metadata.commit_hash)
        return str(metadata.etag)

    def _download(self, name: str, path: Path, check: Callable[[Path], str | None]) -> None:
        from huggingface_hub import hf_hub_url
        from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]

        logger.info("Downloading %s of %s", name, self._repo)
        url = hf_hub_url(self._repo, name, revision=self._commit)
        download(url, path, check, name=name, headers=build_hf_headers(), progress=self._progress)

    def _candidates(self, root: Path, flat: bool, every_commit: bool) -> Iterator[tuple[Path, str]]:
        """Folders in `root` that may hold the repository's files, with their commit (empty: unknown)."""
        for cache in (repository_folder(self._repo, root / name) for name in ("hub", "")):
            commits = [path.name for path in sorted(cache.glob("snapshots/*"))]
            for commit in commits if every_commit else [commit_of(cache, self._revision)]:
                yield cache / "snapshots" / commit, commit
        yield root / self._repo.rpartition("/")[2], ""
        if flat:
            yield root, ""

    def _folder_blob(self, name: str) -> str | None:
        path = self._files / name
        if not path.is_file():
            return None
        recorded = path.readlink().name if path.is_symlink() else _recorded(self._files, name)[1]
        if re.fullmatch(f"{SHA1}|{SHA256}", recorded):
            return recorded
        return blob_name(path, large=path.suffix in LARGE_SUFFIXES or path.stat().st_size > LARGE_BYTES)

    def _missing(self, names: Sequence[str]) -> Exception:
        if self._root is None:
            return OSError(f"the repository {self._repo} holds none of {', '.join(names)}")
        folder = self._cache.name
        return MissingWeightsError(
            f"{self._root} holds no {' or '.join(names)} of {self._repo} "
            f"(looked in hub/{folder}, {folder} and {self._repo.rpartition('/')[2]})",
            f"`HF_HOME={self._root} curation-features models pull` fetches it on a connected machine; or {DEGRADE}",
        )


def _recorded(folder: Path, name: str) -> tuple[str, str]:
    """Commit and blob of a file as `hf download --local-dir` records them; empty if it did not."""
    try:
        lines = (folder / ".cache" / "huggingface" / "download" / f"{name}.metadata").read_text().splitlines()
        commit, blob = lines[0].strip(), lines[1].strip()
    except (OSError, ValueError, IndexError):
        return "", ""
    return (commit if re.fullmatch(SHA1, commit) else ""), blob


def _copy(source: Path, target: Path, check: Callable[[Path], str | None], name: str, progress: Progress) -> None:
    """Copy a file to `target`. Raises InvalidWeightsError if `check` finds a problem with the copy."""
    done, total = 0, source.stat().st_size
    with atomic_files.replacing(target) as temporary:
        with atomic_files.named(temporary), source.open("rb") as reader, temporary.open("wb") as writer:
            while data := reader.read(COPY_BYTES):
                writer.write(data)
                done += len(data)
                if done < total:
                    progress(name, done, total)
        if problem := check(temporary):
            raise InvalidWeightsError(f"{source} {problem}", "copy it there again")
    progress(name, total, total)


def _known_problem(known: KnownFile, path: Path) -> str | None:
    """Describe how a file differs from `known`; None if it does not."""
    if problem := damage(path, Path(known.file_name).suffix):
        return problem
    sha256 = blob_name(path, large=True)
    return None if known.sha256 in ("", sha256) else f"has sha256 {sha256} instead of {known.sha256}"


def _blob_problem(name: str, blob: str, path: Path) -> str | None:
    """Describe why a file cannot be the content `blob` of the file `name`; None if it can."""
    suffix = Path(name).suffix
    return (damage(path, suffix) if suffix in CHECKPOINT_SUFFIXES else None) or difference(path, blob)


def _remedy(error: Exception) -> str:
    from huggingface_hub import constants
    from huggingface_hub.errors import RepositoryNotFoundError

    if isinstance(error, RepositoryNotFoundError):  # a gated one too
        return (
            f"check the name; if {constants.ENDPOINT} asks for it, accept the terms of the model and set HF_TOKEN; "
            f"then {FETCH}"
        )
    full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
    return f"free space there, then {FETCH}" if full else FETCH


def _cause(error: BaseException) -> str:
    """The innermost cause of an error, in one line."""
    kind = type(error).__name__
    while inner := _inner(error):
        error = inner
    lines = str(error).splitlines()
    kind = kind if "Repo" in kind else type(error).__name__  # a repository's error has the answer only in its name
    if kind == "OSError" and lines:
        return lines[0]
    return f"{kind}: {lines[0]}" if lines else kind


def _inner(error: BaseException) -> BaseException | None:
    """The error behind an error: its cause, or one that requests or urllib3 wraps."""
    wrapped = (error.__cause__, getattr(error, "reason", None), *error.args)
    return next((candidate for candidate in wrapped if isinstance(candidate, BaseException)), None)
