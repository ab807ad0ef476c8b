"""Weights fetched from where they are published, each file whole and with the right digest, or not at all."""

from __future__ import annotations

import errno
import logging
import os
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from filelock import FileLock, Timeout

from curation_features.errors import CurationError, MissingWeightsError
from curation_features.weights.download import TIMEOUT_S, Progress, download, no_progress
from curation_features.weights.find import FETCH, companions, configuration
from curation_features.weights.formats import damage
from curation_features.weights.hub_layout import (
    SHA1,
    blob_name,
    difference,
    link,
    repository_folder,
    set_revision,
    sweep,
)
from curation_features.weights.known_files import KnownFile, weights_folder
from curation_features.weights.sources import CONFIG_FILE, FolderSource, HubSource, Source

logger = logging.getLogger(__name__)

CHECKPOINT_SUFFIXES = (".safetensors", ".bin", ".pt", ".pth")


def fetch_clip(source: Source, progress: Progress = no_progress) -> None:
    """Fetch what is missing or damaged of a CLIP model: its checkpoint, its configuration and its tokenizer.

    All files of a repository are of one commit, and a branch or a tag is set to it at the end: a model that was
    complete before stays so until then. Of a folder of one's own, only what its model needs of the hub is fetched.

    Raises:
        MissingWeightsError: a file could not be fetched; says which, why, and what to do.
        InvalidWeightsError: the configuration is not one.
    """
    if isinstance(source, FolderSource) and not needs_the_hub(source):
        return
    with fetching(f"CLIP {source.name}"):
        repositories: dict[tuple[str, str], _Repository] = {}
        config_file = Path()
        if isinstance(source, HubSource):
            own = repositories[source.repo, source.revision] = _Repository(source.repo, source.revision, progress)
            if source.config is None:
                config_file = own.fetch(CONFIG_FILE)
            own.fetch_first(source.checkpoints)
        else:
            config_file = source.folder / CONFIG_FILE
        for repo, revision, names in companions(source, configuration(source, config_file, FETCH)[0]):
            repository = repositories.setdefault((repo, revision), _Repository(repo, revision, progress))
            repository.fetch_those_there(names)
        for repository in repositories.values():
            repository.finish()


def fetch_known_file(known: KnownFile, progress: Progress = no_progress) -> None:
    """Fetch `known` to its place, unless the right file is there.

    Raises:
        MissingWeightsError: it could not be fetched.
    """
    with fetching(known.name):
        if not known.path.is_file() or wrong(known, known.path):
            logger.info("Downloading %s from %s", known.name, known.url)
            download(known.url, known.path, partial(wrong, known), name=known.file_name, progress=progress)


def wrong(known: KnownFile, path: Path) -> str | None:
    """In what a file is not `known`; None where it is."""
    if problem := damage(path, Path(known.file_name).suffix):
        return problem
    sha256 = blob_name(path, large=True)
    return None if sha256.startswith(known.sha256) else f"has sha256 {sha256} in place of {known.sha256}"


@contextmanager
def fetching(name: str) -> Iterator[None]:
    """Let one process at a time fetch into this machine's caches; any failure is a `MissingWeightsError` of `name`."""
    try:
        if os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE"):
            raise OSError("HF_HUB_OFFLINE is set, so that nothing is downloaded")
        with alone():
            yield
    except CurationError:
        raise
    except Exception as error:  # the client's errors have no base in common
        raise MissingWeightsError(f"{name} is not on this machine ({_cause(error)})", _remedy(error)) from error


@contextmanager
def alone() -> Iterator[None]:
    """Wait until no other process fetches or cleans up weights of this machine."""
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
    """A repository of the hub, at the commit that its first file comes from."""

    def __init__(self, repo: str, revision: str, progress: Progress) -> None:
        self._repo, self._revision, self._progress = repo, revision, progress
        self._folder = repository_folder(repo)
        self._commit = ""

    def fetch(self, name: str) -> Path:
        """Fetch a file, unless it is here and right.

        Raises:
            RemoteEntryNotFoundError: the repository has no such file.
            OSError, HTTPError: it cannot be fetched.
        """
        from huggingface_hub import hf_hub_url
        from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]

        blob, commit = self._published(name)
        path = self._folder / "blobs" / blob
        check = partial(wrong_blob, name, blob)
        if not path.is_file() or check(path):
            logger.info("Downloading %s of %s", name, self._repo)
            url = hf_hub_url(self._repo, name, revision=commit)
            download(url, path, check, name=name, headers=build_hf_headers(), progress=self._progress)
        return link(self._folder, commit, name, blob)

    def fetch_first(self, names: Iterable[str]) -> None:
        """Fetch the first of `names` that the repository has."""
        from huggingface_hub.errors import RemoteEntryNotFoundError

        for name in names:
            try:
                self.fetch(name)
                return
            except RemoteEntryNotFoundError:
                continue
        raise OSError(f"the repository {self._repo} holds none of {', '.join(names)}")

    def fetch_those_there(self, names: Iterable[str]) -> None:
        """Fetch those of `names` that the repository has, in their order."""
        from huggingface_hub.errors import RemoteEntryNotFoundError

        for name in names:
            try:
                self.fetch(name)
            except RemoteEntryNotFoundError:
                continue

    def finish(self) -> None:
        """Make what was fetched the content of the revision."""
        if self._commit:
            sweep(self._folder)
            set_revision(self._folder, self._revision, self._commit)

    def _published(self, name: str) -> tuple[str, str]:
        """The name of a file's blob, and the commit."""
        from huggingface_hub import constants, get_hf_file_metadata, hf_hub_url

        url = hf_hub_url(self._repo, name, revision=self._commit or self._revision)
        # Asked for without the client's retries: where there is no connection, that is known at once.
        found = get_hf_file_metadata(url, timeout=TIMEOUT_S[0])
        if not re.fullmatch(SHA1, found.commit_hash or "") or not re.fullmatch(r"[\w-]+", found.etag or ""):
            raise OSError(f"{constants.ENDPOINT} does not answer as a hub does; a network's sign-in page, or a proxy?")
        self._commit = self._commit or str(found.commit_hash)
        return str(found.etag), self._commit


def wrong_blob(name: str, blob: str, path: Path) -> str | None:
    """In what a file is not the one that the hub calls `blob`, or not usable as `name`; None where it is both."""
    suffix = Path(name).suffix
    return (damage(path, suffix) if suffix in CHECKPOINT_SUFFIXES else None) or difference(path, blob)


def needs_the_hub(source: FolderSource) -> bool:
    """Whether the model in a folder needs more than the folder holds: the configuration of a text encoder."""
    config_file = source.folder / CONFIG_FILE
    return config_file.is_file() and bool(companions(source, configuration(source, config_file, FETCH)[0]))


def _remedy(error: Exception) -> str:
    from huggingface_hub import constants
    from huggingface_hub.errors import RepositoryNotFoundError

    if isinstance(error, RepositoryNotFoundError):  # a gated one too
        return (
            f"check the name; where {constants.ENDPOINT} asks for it, accept its terms and set HF_TOKEN; then {FETCH}"
        )
    full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
    return f"free space there, then {FETCH}" if full else FETCH


def _cause(error: BaseException) -> str:
    """The first cause of an error, in one line."""
    kind = type(error).__name__
    while inner := _inner(error):
        error = inner
    lines = str(error).splitlines()
    kind = kind if "Repo" in kind else type(error).__name__  # what the hub says of a repository is in no message
    if kind == "OSError" and lines:
        return lines[0]
    return f"{kind}: {lines[0]}" if lines else kind


def _inner(error: BaseException) -> BaseException | None:
    """The error behind an error: its cause, or what requests and urllib3 wrap."""
    wrapped = (error.__cause__, getattr(error, "reason", None), *error.args)
    return next((candidate for candidate in wrapped if isinstance(candidate, BaseException)), None)
