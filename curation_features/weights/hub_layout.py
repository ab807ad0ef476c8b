"""Files put into the Hugging Face hub's cache, in its own layout.

models--ORG--NAME/
    blobs/DIGEST                    sha256 of a large file; of a small one, the sha1 that git gives it
    snapshots/COMMIT/FILE           a link to its blob
    refs/REVISION                   the commit of a branch or a tag
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
from pathlib import Path

from filelock import FileLock, Timeout

from curation_features import atomic_files

SHA1 = "[0-9a-f]{40}"
SHA256 = "[0-9a-f]{64}"


def repository_folder(repo: str) -> Path:
    """Folder of a repository in the cache."""
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE) / folder_name(repo)


def folder_name(repo: str) -> str:
    """The name that the cache has for a repository."""
    return f"models--{repo.replace('/', '--')}"


def blob_name(path: Path, *, large: bool) -> str:
    """The name that the hub gives to the content of a file."""
    with path.open("rb") as file:
        if large:
            return hashlib.file_digest(file, "sha256").hexdigest()
        head = f"blob {path.stat().st_size}\0".encode()
        return hashlib.sha1(head + file.read(), usedforsecurity=False).hexdigest()


def difference(path: Path, blob: str) -> str | None:
    """In what a file is not the one that the hub calls `blob`; None where it is, or where the name is no digest."""
    if not re.fullmatch(f"{SHA1}|{SHA256}", blob):
        return None
    large = len(blob) == 64
    found = blob_name(path, large=large)
    return None if found == blob else f"has {'sha256' if large else 'git sha1'} {found} in place of {blob}"


def link(folder: Path, commit: str, name: str, blob: str) -> Path:
    """Make a blob of the repository in `folder` the file `name` of a commit; gives the file's path."""
    path = folder / "snapshots" / commit / name
    with atomic_files.replacing(path, durable=False) as temporary:
        try:
            temporary.symlink_to(os.path.relpath(folder / "blobs" / blob, path.parent))
        except (OSError, NotImplementedError):  # a file system without links
            shutil.copyfile(folder / "blobs" / blob, temporary)
    return path


def commit_of(folder: Path, revision: str) -> str:
    """The commit that a revision means; a commit means itself."""
    ref = folder / "refs" / revision
    return ref.read_text() if ref.is_file() else revision


def set_revision(folder: Path, revision: str, commit: str) -> None:
    """Make `revision` mean a commit."""
    if revision != commit:
        atomic_files.write_bytes(folder / "refs" / revision, commit.encode())


def sweep(folder: Path) -> None:
    """Delete what interrupted downloads of a repository have left, unless another process is still at it."""
    for pattern in ("blobs/*.part", "blobs/.*.tmp", "snapshots/**/.*.tmp", "refs/**/.*.tmp"):
        for path in folder.glob(pattern):  # of this package, of which one process at a time fetches
            path.unlink(missing_ok=True)
    for path in folder.glob("blobs/*.incomplete"):  # of the hub's client, which locks a blob while it downloads it
        lock = folder.parent / ".locks" / folder.name / f"{path.name.partition('.')[0]}.lock"
        lock.parent.mkdir(parents=True, exist_ok=True)
        try:
            with FileLock(lock, timeout=0):
                path.unlink(missing_ok=True)
        except Timeout:
            continue
