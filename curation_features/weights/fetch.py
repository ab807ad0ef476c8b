"""Fetch weights from their publishers or import them from a folder: each file complete and verified, or not at all.

An import makes no network call. It looks for a repository in a hub cache (the folder itself, or `hub/` of a copy of
`HF_HOME`) and in the folder `REPO`, and for a single file in the folder itself.
"""

from __future__ import annotations

import errno
import hashlib
import logging
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from filelock import FileLock, Timeout

from curation_features import atomic_files
from curation_features.errors import CurationError, InvalidWeightsError, MissingWeightsError
from curation_features.weights.catalog import KnownFile
from curation_features.weights.download import TIMEOUT_S, Check, Progress, download, no_progress, parts
from curation_features.weights.files import (
    SHA1,
    SHA256,
    commit_of,
    damage,
    difference,
    git_sha1_of,
    link,
    repository_folder,
    sha256_of,
    weights_folder,
)
from curation_features.weights.sources import (
    CONFIG_FILE,
    DEGRADE,
    FETCH,
    Companion,
    FolderSource,
    HubSource,
    Source,
    companions,
    parse_config,
)

logger = logging.getLogger(__name__)

CHECKPOINT_SUFFIXES = (".safetensors", ".bin", ".pt", ".pth")
LARGE_BYTES = 10_000_000
"""The hub names weights, and any larger file, by their sha256; other files by git's sha1."""

COPY_BYTES = 1 << 22


def fetch_clip(source: Source, progress: Progress = no_progress, folder: Path | None = None) -> None:
    """Fetch the missing or damaged files of a CLIP model: checkpoint, configuration, tokenizer and encoder config.

    All files of a repository are of one commit. They are linked at the end, so that a model that was complete before
    stays complete. For a user-supplied folder, only the configuration of its text encoder is fetched.

    Args:
        folder: import the files from here, not from the network.
    """
    needed: list[Companion] = []
    if isinstance(source, FolderSource):
        path = source.folder / CONFIG_FILE
        if path.is_file():
            needed = companions(source, parse_config(path.read_bytes(), str(path), FETCH))
            needed = [companion for companion in needed if companion.kind != "tokenizer"]
        if not needed:
            return
    with fetching(f"CLIP {source.name}") if folder is None else alone():
        repositories: dict[tuple[str, str], _Repository] = {}
        if isinstance(source, HubSource):
            sha256 = source.published.sha256 if source.published else ""
            own = _Repository(source.repo, source.revision, progress, folder, source.checkpoints, sha256)
            repositories[source.repo, source.revision] = own
            config = source.config
            if config is None:
                data = own.fetch_first(CONFIG_FILE).read_bytes()
                config = parse_config(data, f"{CONFIG_FILE} of {source.repo}", FETCH)
            own.fetch_first(*source.checkpoints)
            needed = companions(source, config)
        for _, repo, revision, names in needed:
            repository = repositories.get((repo, revision)) or _Repository(repo, revision, progress, folder, names[-1:])
            repositories[repo, revision] = repository
            for name in names[:-1]:
                repository.fetch(name)
            repository.fetch_first(names[-1])
        for repository in repositories.values():
            repository.finish()


def fetch_known_file(known: KnownFile, progress: Progress = no_progress, folder: Path | None = None) -> None:
    """Fetch `known` to its path, unless the right file is there; or import it from `folder` or its weights folder."""
    name = known.path.name
    check = partial(_problem, name, known.sha256)
    if folder is None:
        with fetching(known.name):
            if not known.path.is_file() or check(known.path):
                logger.info("Downloading %s from %s", known.name, known.url)
                download(known.url, known.path, check, name=name, progress=progress)
        return
    copies = (folder / name, folder / "assets" / "curation-features" / "weights" / name)
    copy = next(filter(Path.is_file, copies), None)
    if copy is None:
        raise MissingWeightsError(f"{known.name}: {folder} holds no {name}", f"put {known.url} there, or {DEGRADE}")
    with alone():
        _copy(copy, known.path, check, name, progress)
        for leftover in parts(known.path):
            leftover.unlink()


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
    """Wait until no other process fetches weights on this machine."""
    lock = weights_folder() / "fetch.lock"
    lock.parent.mkdir(parents=True, exist_ok=True)
    atomic_files.sweep(lock.parent)
    try:
        held = FileLock(lock).acquire(timeout=0)
    except Timeout:
        logger.warning("Waiting for another process that fetches weights (it holds %s)", lock)
        held = FileLock(lock).acquire()
    with held:
        yield


class _Repository:
    """A repository, of the hub or in a folder, whose files are copied to the cache: first contents, then names.

    Args:
        root: the folder to search for it; None: it is on the hub.
        names: files of which it must hold one.
        sha256: digest of the first of `names` that it holds; it decides instead of the revision. Empty: unknown.

    Raises:
        MissingWeightsError: `root` does not hold it.
    """

    def __init__(
        self, repo: str, revision: str, progress: Progress, root: Path | None, names: Sequence[str], sha256: str = ""
    ) -> None:
        self._repo, self._revision, self._progress, self._root = repo, revision, progress, root
        self._cache = repository_folder(repo)
        self._files, self._commit = self._search(root, names, sha256) if root else (Path(), "")
        self._blobs: dict[str, str] = {}

    def fetch(self, name: str) -> Path | None:
        """Store the content of a file, unless it is there and right. None if the repository has no such file."""
        if self._root is None:
            blob = self._look_up(name)
        else:
            blob = _blob_of(self._files / name) if (self._files / name).is_file() else None
        if blob is None:
            return None
        path = self._cache / "blobs" / blob
        check = partial(_problem, name, blob)
        if not path.is_file() or check(path):
            if self._root:
                _copy(self._files / name, path, check, name, self._progress)
            else:
                self._download(name, path, check)
        self._blobs[name] = blob
        return path

    def fetch_first(self, *names: str) -> Path:
        """Fetch the first of `names` that the repository has. Raises an error if it has none of them."""
        for name in names:
            if path := self.fetch(name):
                return path
        raise self._missing(names)

    def finish(self) -> None:
        """Link the fetched files, and set the revision to their commit (if unknown, a digest of the contents).

        Nothing is left to resume, so leftovers of interrupted fetches are deleted first.
        """
        for pattern in ("blobs/*.part", "**/.*.tmp"):
            for leftover in self._cache.glob(pattern):
                leftover.unlink(missing_ok=True)
        content = repr(sorted(self._blobs.items())).encode()
        commit = self._commit or hashlib.sha1(content, usedforsecurity=False).hexdigest()
        for name, blob in self._blobs.items():
            link(self._cache, commit, name, blob)
        if self._revision != commit:
            atomic_files.write_bytes(self._cache / "refs" / self._revision, commit.encode())

    def _look_up(self, name: str) -> str | None:
        """Ask the hub for the blob of a file; the first answer decides the commit."""
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

    def _download(self, name: str, path: Path, check: Check) -> None:
        from huggingface_hub import hf_hub_url
        from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]

        logger.info("Downloading %s of %s", name, self._repo)
        url = hf_hub_url(self._repo, name, revision=self._commit)
        download(url, path, check, name=name, headers=build_hf_headers(), progress=self._progress)

    def _search(self, root: Path, names: Sequence[str], sha256: str) -> tuple[Path, str]:
        """Find the folder in `root` that holds the repository's files, and their commit (empty: unknown)."""
        is_commit = bool(re.fullmatch(SHA1, self._revision))
        caches = [repository_folder(self._repo, root / name) for name in ("hub", "")]
        snapshots = [path for cache in caches for path in sorted(cache.glob("snapshots/*"))]
        folder = root / self._repo.rpartition("/")[2]
        for files in (*snapshots, folder):
            name = next((name for name in names if (files / name).is_file()), None)
            if name is None:
                continue
            if files == folder:
                commit = _recorded(files / name)[0]
                is_right = not is_commit or commit in ("", self._revision)
            else:
                commit = files.name
                is_right = commit == commit_of(files.parents[1], self._revision)
            if _blob_of(files / name) == sha256 if sha256 else is_right:
                return files, self._revision if is_commit else commit
        raise self._missing(names)

    def _missing(self, names: Sequence[str]) -> Exception:
        if self._root is None:
            return OSError(f"the repository {self._repo} holds none of {', '.join(names)}")
        folder = self._cache.name
        return MissingWeightsError(
            f"{self._root} holds no {' or '.join(names)} of {self._repo} "
            f"(looked in hub/{folder}, {folder} and {self._repo.rpartition('/')[2]})",
            f"`HF_HOME={self._root} curation-features models pull` fetches it on a connected machine; or {DEGRADE}",
        )


def _blob_of(path: Path) -> str:
    """The blob that a file in a folder was downloaded from, or the name that the hub gives to its content."""
    recorded = path.readlink().name if path.is_symlink() else _recorded(path)[1]
    if re.fullmatch(f"{SHA1}|{SHA256}", recorded):
        return recorded
    is_large = path.suffix in (*CHECKPOINT_SUFFIXES, ".model") or path.stat().st_size > LARGE_BYTES
    return sha256_of(path) if is_large else git_sha1_of(path)


def _recorded(path: Path) -> tuple[str, str]:
    """Commit and blob of a file as `hf download --local-dir` records them; empty if it did not."""
    try:
        record = path.parent / ".cache" / "huggingface" / "download" / f"{path.name}.metadata"
        commit, blob, *_ = map(str.strip, record.read_text().splitlines())
    except (OSError, ValueError):
        return "", ""
    return (commit if re.fullmatch(SHA1, commit) else ""), blob


def _copy(source: Path, target: Path, check: Check, name: str, progress: Progress) -> None:
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


def _problem(name: str, digest: str, path: Path) -> str | None:
    """Describe why a file cannot be `name` with this digest (sha256 or blob; empty: unknown); None if it can."""
    suffix = Path(name).suffix
    return (damage(path, suffix) if suffix in CHECKPOINT_SUFFIXES else None) or difference(path, digest)


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
    inner: BaseException | None = error
    while inner:  # requests and urllib3 wrap errors
        error = inner
        wrapped = (error.__cause__, getattr(error, "reason", None), *error.args)
        inner = next((candidate for candidate in wrapped if isinstance(candidate, BaseException)), None)
    lines = str(error).splitlines()
    kind = kind if "Repo" in kind else type(error).__name__  # a repository's error has the answer only in its name
    if kind == "OSError" and lines:
        return lines[0]
    return f"{kind}: {lines[0]}" if lines else kind
