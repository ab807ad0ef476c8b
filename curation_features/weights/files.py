"""Weights files on disk: header checks, digests, the weights folder, and the Hugging Face hub's cache.

The cache keeps a repository as follows; everything here reads and writes it without a network call.

models--ORG--NAME/
    blobs/DIGEST                    sha256 of a large file; git's sha1 of a small one
    snapshots/COMMIT/FILE           a link to its blob
    refs/REVISION                   the commit of a branch or tag
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import shutil
import zipfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from curation_features import atomic_files
from curation_features.settings import Settings

logger = logging.getLogger(__name__)

SHA1 = "[0-9a-f]{40}"
SHA256 = "[0-9a-f]{64}"


def weights_folder() -> Path:
    """Folder for weights that are not from the hub: an assets folder in `HF_HOME`, like the hub's cache."""
    from huggingface_hub import constants

    return Path(constants.HF_ASSETS_CACHE) / "curation-features" / "weights"


# --- headers ---


def damage(path: Path, suffix: str | None = None) -> str | None:
    """Describe the damage that a weights file's header shows; None if it shows none.

    Detects a web page saved under the file's name, a truncated file, and a file without tensors. A PyTorch file is a
    zip archive or, before torch 1.6, a pickle.

    Args:
        suffix: suffix of the final name, if the file has a temporary one.
    """
    from safetensors import SafetensorError, safe_open

    with path.open("rb") as file:
        start = file.read(16)
    if (suffix or path.suffix) == ".safetensors":
        try:
            with safe_open(path, "np") as tensors:
                return None if tensors.keys() else "holds no weights"
        except SafetensorError as error:
            return f"is not a complete safetensors file ({error}; it begins with {start!r})"
    if start.startswith(b"PK"):
        return None if zipfile.is_zipfile(path) else "is truncated (a zip archive without its directory)"
    return None if start.startswith(b"\x80") else f"is not a PyTorch file (it begins with {start!r})"


# --- digests ---


def sha256_of(path: Path) -> str:
    """Compute the sha256 of a file (hex)."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def git_sha1_of(path: Path) -> str:
    """Compute git's sha1 of a file (hex)."""
    content = path.read_bytes()
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


def digest(settings: Settings, path: Path, *, again: bool = False) -> str:
    """Return the sha256 of a file (hex), remembered while its size and times stay the same.

    The times include `ctime`, which changes even if a copy keeps the modification time.

    Args:
        again: read the file even if its digest is remembered.
    """
    stat = path.stat()
    key = f"{path.resolve()}|{stat.st_size}|{stat.st_mtime_ns}|{stat.st_ctime_ns}"
    return str(remember(_memo(settings), key, partial(sha256_of, path), _is_digest, again=again))


def remembered_digests(settings: Settings) -> list[tuple[str, str]]:
    """Return the path and sha256 of each file that the project has used, also of files that are gone; oldest first."""
    return [(key.rsplit("|", 3)[0], str(sha256)) for key, sha256 in _read_memo(_memo(settings), _is_digest).items()]


def _memo(settings: Settings) -> Path:
    """File that holds the digests."""
    return settings.data_path / "cache" / "weights.json"


def _is_digest(value: Any) -> bool:
    return bool(re.fullmatch(SHA256, value))


def remember(
    memo: Path, key: str, compute: Callable[[], Any], is_valid: Callable[[Any], object], *, again: bool = False
) -> Any:
    """Return the value of `key` in the JSON file `memo`, or compute and record it.

    Args:
        is_valid: tells valid values; others, and a damaged file, are ignored.
        again: compute it even if it is recorded.
    """
    known = _read_memo(memo, is_valid)
    if again or key not in known:
        known[key] = compute()
        try:
            atomic_files.write_bytes(memo, json.dumps(known, indent=1).encode(), durable=False)
        except OSError as error:
            logger.warning("%s cannot be written (%s): the next run computes its content again", memo, error)
    return known[key]


def _read_memo(memo: Path, is_valid: Callable[[Any], object]) -> dict[str, Any]:
    try:
        return {name: value for name, value in json.loads(memo.read_bytes()).items() if is_valid(value)}
    except (OSError, ValueError, TypeError, AttributeError, KeyError, RecursionError):
        return {}


# --- the hub's cache ---


def repository_folder(repo: str, cache: Path | None = None) -> Path:
    """Folder of a repository in this machine's cache, or in another one."""
    from huggingface_hub import constants

    return (cache or Path(constants.HF_HUB_CACHE)) / f"models--{repo.replace('/', '--')}"


def cached(repo: str, revision: str, *names: str) -> Path | None:
    """Find the first of some files of a repository in the cache.

    `huggingface_hub.try_to_load_from_cache` does the same, but its import would delay each run.
    """
    folder = repository_folder(repo)
    snapshot = folder / "snapshots" / commit_of(folder, revision)
    return next((snapshot / name for name in names if (snapshot / name).is_file()), None)


def recorded_sha256(path: Path) -> str | None:
    """The sha256 in the name of a large file's blob; None for a small file and outside of the cache."""
    blob = path.resolve().name
    return blob if re.fullmatch(SHA256, blob) else None


def difference(path: Path, blob: str) -> str | None:
    """Describe how a file differs from a blob of the hub; None if it is equal, or if the name is not a digest."""
    for pattern, kind, compute in ((SHA256, "sha256", sha256_of), (SHA1, "git sha1", git_sha1_of)):
        if re.fullmatch(pattern, blob):
            actual = compute(path)
            return None if actual == blob else f"has {kind} {actual} instead of {blob}"
    return None


def link(folder: Path, commit: str, name: str, blob: str) -> None:
    """Give a blob of the repository in `folder` its file name in a commit."""
    path = folder / "snapshots" / commit / name
    with atomic_files.replacing(path, durable=False) as temporary:
        try:
            temporary.symlink_to(os.path.relpath(folder / "blobs" / blob, path.parent))
        except (OSError, NotImplementedError):  # a file system without links
            shutil.copyfile(folder / "blobs" / blob, temporary)


def commit_of(folder: Path, revision: str) -> str:
    """The commit of a branch or tag; a commit is returned as it is."""
    ref = folder / "refs" / revision
    return ref.read_text().strip() if ref.is_file() else revision
