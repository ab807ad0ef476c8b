"""Weights out of a folder that was carried in by hand, put where downloads lie. No network call.

The folder may hold a copy of `HF_HOME` or of the hub's cache, repositories as `git clone` or `hf download --local-dir`
leave them (in `NAME`, in `ORG/NAME`, or as the folder itself), and single files.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from curation_features import atomic_files
from curation_features.errors import InvalidWeightsError, MissingWeightsError
from curation_features.weights.download import Progress
from curation_features.weights.fetch import alone, needs_the_hub, wrong, wrong_blob
from curation_features.weights.find import DEGRADE, TOKENIZER_FILES, companions, configuration
from curation_features.weights.hub_layout import (
    SHA1,
    SHA256,
    blob_name,
    commit_of,
    folder_name,
    link,
    repository_folder,
    set_revision,
    sweep,
)
from curation_features.weights.known_files import KnownFile
from curation_features.weights.sources import CONFIG_FILE, FolderSource, HubSource, Source

LARGE_SUFFIXES = (".safetensors", ".bin", ".pt", ".pth", ".model")
LARGE_BYTES = 10_000_000
"""The hub names weights, and any file larger than this, by their sha256."""

COPY_BYTES = 1 << 22
AGAIN = "copy it there again"


@dataclass(frozen=True, slots=True)
class _Repository:
    """A repository of the hub in the folder that was carried in.

    Attributes:
        folder: its files.
        commit: where that is known.
        names: the files that are wanted of it.
    """

    folder: Path
    commit: str = ""
    names: list[str] = field(default_factory=list)

    def holds(self, names: Iterable[str]) -> list[str]:
        """Those of `names` that are there."""
        return [name for name in names if (self.folder / name).is_file()]

    def blob(self, name: str) -> str:
        """What the hub calls the content of a file: as the copy has recorded it, or else by what is in it."""
        path = self.folder / name
        recorded = path.readlink().name if path.is_symlink() else _downloaded(self.folder, name)[1]
        if re.fullmatch(f"{SHA1}|{SHA256}", recorded):
            return recorded
        return blob_name(path, large=path.suffix in LARGE_SUFFIXES or path.stat().st_size > LARGE_BYTES)


def carry_clip(source: Source, folder: Path, progress: Progress, *, flat: bool) -> None:
    """Put what `folder` holds of a CLIP model into the hub's cache.

    Args:
        flat: `folder` may be the model's repository itself.

    Raises:
        MissingWeightsError: the folder lacks a file; says which, and how to get it there.
        InvalidWeightsError: a file in it is damaged, or not the one that its name or record says.
    """
    if isinstance(source, FolderSource) and not needs_the_hub(source):
        return
    carried: dict[tuple[str, str], _Repository] = {}
    if isinstance(source, HubSource):
        own = carried[source.repo, source.revision] = _own(source, folder, [folder] if flat else [])
        home, places = own.folder, [own.folder]
    else:
        home, places = source.folder, []
    for repo, revision, names in companions(source, configuration(source, home / CONFIG_FILE, AGAIN)[0]):
        last = names[-1]
        more = places if names == TOKENIZER_FILES else []
        found = carried.get((repo, revision)) or _repository(folder, repo, revision, [last], more)
        if found is None or not found.holds([last]):
            raise _lacking(folder, last, repo)
        carried[repo, revision] = found
        found.names.extend(found.holds(names))
    with alone():
        for (repo, revision), repository in carried.items():
            _put(repository, repo, revision, progress)


def carry_known_file(known: KnownFile, folder: Path, progress: Progress) -> None:
    """Put `known` from anywhere in `folder` to its place.

    Raises:
        MissingWeightsError: the folder does not hold it.
        InvalidWeightsError: what has its name is damaged or another file.
    """
    found = {path: wrong(known, path) for path in sorted(folder.rglob(known.file_name)) if path.is_file()}
    if not found:
        raise MissingWeightsError(
            f"{known.name}: {folder} holds no {known.file_name}", f"put {known.url} there, or {DEGRADE}"
        )
    path = next((path for path, problem in found.items() if problem is None), next(iter(found)))
    if found[path] is not None:
        raise InvalidWeightsError(f"{known.name}: {path} {found[path]}", f"copy {known.url} there again")
    with alone(), atomic_files.replacing(known.path) as temporary:
        _copy(path, temporary, known.file_name, progress)
        _refuse(path, wrong(known, temporary))
    progress(known.file_name, path.stat().st_size, path.stat().st_size)


def _own(source: HubSource, folder: Path, more: Iterable[Path]) -> _Repository:
    """The repository of a model, with its checkpoint and its configuration among the wanted files."""
    published = source.published.sha256 if source.published else ""
    own = _repository(folder, source.repo, source.revision, source.checkpoints, more, published)
    if own is None:
        raise _lacking(folder, " or ".join(source.checkpoints), source.repo)
    own.names.extend(own.holds(source.checkpoints)[:1])
    if source.config is None:
        if not own.holds([CONFIG_FILE]):
            raise _lacking(folder, CONFIG_FILE, source.repo)
        own.names.append(CONFIG_FILE)
    return own


def _repository(
    folder: Path, repo: str, revision: str, names: Iterable[str], more: Iterable[Path], sha256: str = ""
) -> _Repository | None:
    """A repository anywhere in `folder` that holds one of `names`.

    Args:
        more: folders without its name that may be it.
        sha256: digest of the file that is wanted, which is it at any commit; empty: the revision decides.
    """
    wanted = list(names)
    plain = (folder / repo, folder / repo.rpartition("/")[2], *more)
    candidates = [
        *_snapshots(folder, repo, "" if sha256 else revision),
        *(_Repository(path, _downloaded(path, wanted[0])[0]) for path in plain),
    ]

    def fits(found: _Repository) -> bool:
        here = found.holds(wanted)[:1]
        return bool(here) and (found.blob(here[0]) == sha256 if sha256 else _is_of(found, revision))

    return next(filter(fits, candidates), None)


def _snapshots(folder: Path, repo: str, revision: str) -> Iterator[_Repository]:
    """The snapshots of a revision, or all where it is empty, in copies of the hub's cache."""
    name = folder_name(repo)
    for cache in [folder] if folder.name == name else sorted(folder.rglob(name)):
        commits = sorted(path.name for path in cache.glob("snapshots/*"))
        wanted = commit_of(cache, revision).strip() if revision else ""
        if wanted in commits:
            commits = [wanted]
        elif revision and ((cache / "refs").is_dir() or len(commits) > 1):  # which of them it is, nothing tells
            continue
        for commit in commits:
            yield _Repository(cache / "snapshots" / commit, commit)


def _is_of(repository: _Repository, revision: str) -> bool:
    """Whether a repository may be at a revision: one that is a commit has to be its own."""
    return not (repository.commit and re.fullmatch(SHA1, revision)) or repository.commit == revision


def _downloaded(folder: Path, name: str) -> tuple[str, str]:
    """Commit and blob of a file, as `hf download --local-dir` notes them beside it; empty where it did not."""
    try:
        lines = (folder / ".cache" / "huggingface" / "download" / f"{name}.metadata").read_text().splitlines()
        commit, blob = lines[0].strip(), lines[1].strip()
    except (OSError, ValueError, IndexError):
        return "", ""
    return (commit if re.fullmatch(SHA1, commit) else ""), blob


def _put(carried: _Repository, repo: str, revision: str, progress: Progress) -> None:
    """Put the wanted files of a repository into the hub's cache."""
    folder = repository_folder(repo)
    blobs = {name: carried.blob(name) for name in dict.fromkeys(carried.names)}
    content = hashlib.sha1(repr(sorted(blobs.items())).encode(), usedforsecurity=False).hexdigest()
    commit = revision if re.fullmatch(SHA1, revision) else carried.commit or content
    for name, blob in blobs.items():
        source, target, check = carried.folder / name, folder / "blobs" / blob, partial(wrong_blob, name, blob)
        if not target.is_file() or check(target):
            with atomic_files.replacing(target) as temporary:
                _copy(source, temporary, name, progress)
                _refuse(source, check(temporary))
            progress(name, target.stat().st_size, target.stat().st_size)
    for name, blob in blobs.items():
        link(folder, commit, name, blob)
    sweep(folder)
    set_revision(folder, revision, commit)


def _copy(source: Path, target: Path, name: str, progress: Progress) -> None:
    done, total = 0, source.stat().st_size
    with atomic_files.named(target), source.open("rb") as reader, target.open("wb") as writer:
        while data := reader.read(COPY_BYTES):
            writer.write(data)
            done += len(data)
            if done < total:
                progress(name, done, total)


def _refuse(source: Path, problem: str | None) -> None:
    """Raise InvalidWeightsError where there is a problem with what was copied from `source`."""
    if problem:
        raise InvalidWeightsError(f"{source} {problem}", AGAIN)


def _lacking(folder: Path, name: str, repo: str) -> MissingWeightsError:
    return MissingWeightsError(
        f"{folder} holds no {name} of {repo} (looked in {folder_name(repo)}, {repo} and {repo.rpartition('/')[2]})",
        f"`HF_HOME={folder} curation-features models pull` fills it on a machine with a connection; or {DEGRADE}",
    )
