"""Reads photo files from allowed places: roots, URIs and the size limit.

The bytes that are hashed are the bytes that `decode` gets: a photo replaced in between is never mixed up.
"""

from __future__ import annotations

import hashlib
import os
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import unquote, unquote_to_bytes

from curation_features.atomic_files import open_regular
from curation_features.errors import TOO_MANY_FILES, PhotoError, ResourceError, too_many_files
from curation_features.photos.object_stores import ObjectStores, quote
from curation_features.photos.read_errors import local_reason
from curation_features.text import mask_secrets

if TYPE_CHECKING:
    from curation_features.settings import Settings

RANKING_FOLDER = "rankingInput"
"""Folder in `Settings.data_dir` with reduced and standardised photos; reading it is always allowed."""

INGEST_RECORDS = "cache/ingest"
"""Folder in `Settings.data_dir` with what `ingest` knows of a photo, as `{photo_id}.json` (see `ingest.images`)."""


@dataclass(frozen=True, slots=True)
class PhotoFile:
    """Bytes of a photo file and their SHA-256 (hex)."""

    data: bytes
    sha256: str


_REMOTE = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://(.*)", re.DOTALL)
_PERCENT_DECODED = ("file", "local", "http", "https")
"""Schemes whose paths are percent-encoded; in an object store's key, as in a plain path, `%` is a character."""

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_PASSWORD = re.compile(r"[^/:@]+:(?!\d+/)[^@]+@.*", re.DOTALL)  # before a host; a port has digits only


class PhotoReader:
    """Reads whole photo files from allowed places. Safe for use by several threads.

    A URI is a path (relative to `settings.root`), a `file://` URI, or an fsspec URI such as `s3://...`. A local file
    must be, after symbolic links are resolved, in one of `settings.photo_roots` (by default `settings.root`) or among
    the pipeline's standardised photos. A remote file must be under a prefix in `settings.photo_roots` with the same
    scheme; by default nothing is fetched.
    """

    def __init__(self, settings: Settings) -> None:
        self._base = os.path.realpath(settings.root)
        self._max_bytes = settings.max_file_bytes
        roots = settings.photo_roots or (self._base,)
        local = (*(root for root in roots if not is_remote(root)), str(settings.data_path / RANKING_FOLDER))
        self._folders = tuple(self._resolve(root) for root in local)
        self._inside = tuple(os.path.join(folder, "") for folder in self._folders)  # noqa: PTH118 (adds a slash)
        self._prefixes = tuple(root for root in roots if is_remote(root))
        self._stores = ObjectStores(settings)

    def read(self, uri: str) -> PhotoFile:
        """Read one photo.

        Raises:
            PhotoError: the URI is invalid, not allowed or of an unknown scheme; or the file is missing, not a regular
                file, not permitted, empty, or larger than `settings.max_file_bytes`; or a store does not answer.
            ResourceError: the process has too many open files, which is not the photo's fault.
        """
        scheme = _REMOTE.fullmatch(uri)
        if _CONTROL.search(unquote(uri) if scheme and scheme[1].lower() in _PERCENT_DECODED else uri):
            raise PhotoError("forbidden_path", f"{_quote(uri)} contains control characters; rename the file")
        try:
            if is_remote(uri):
                self._check_remote(uri)
                data = self._stores.read(uri)
            else:
                data = self._read_local(uri)
        except OSError as error:
            if too_many_files(error):
                raise ResourceError(f"{_quote(uri)} cannot be opened: {error.strerror}; {TOO_MANY_FILES}") from error
            raise PhotoError(local_reason(error), f"{_quote(uri)} cannot be read: {error.strerror or error}") from error
        except ValueError as error:  # such as a lone surrogate
            raise PhotoError(
                "forbidden_path", f"{_quote(uri)} is not a legal path: {mask_secrets(str(error))}"
            ) from error
        if not data:
            raise PhotoError("unreadable", f"{_quote(uri)} is empty; copy it again")
        if len(data) > self._max_bytes:
            raise PhotoError("too_large", f"{_quote(uri)} has more than max_file_bytes ({self._max_bytes}) bytes")
        return PhotoFile(data, hashlib.sha256(data).hexdigest())

    def _resolve(self, uri: str) -> str:
        """Return the absolute path of a local URI, with symbolic links resolved."""
        return os.path.realpath(os.path.join(self._base, local_path(uri)))  # noqa: PTH118 (Path would drop "..")

    def _read_local(self, uri: str) -> bytes:
        path = self._resolve(uri)
        if not f"{path}{os.sep}".startswith(self._inside):
            folders = ", ".join(self._folders)
            raise PhotoError(
                "forbidden_path", f"{_quote(uri)} is outside {folders}; add its folder to photo_roots to allow it"
            )
        with open_regular(path, follow_links=False) as file:
            return file.read(min(os.fstat(file.fileno()).st_size, self._max_bytes) + 1)

    def _check_remote(self, uri: str) -> None:
        """Raise `PhotoError` unless a remote URI may be read."""
        from fsspec import available_protocols

        scheme, _, path = uri.partition("://")
        if scheme.lower() not in available_protocols():
            raise PhotoError("unsupported_uri", f"{_quote(uri)}: no file system for {scheme}://")
        if _PASSWORD.fullmatch(path):
            raise PhotoError(
                "forbidden_path", f"{_quote(uri)} has a password; remove it, and give credentials in the environment"
            )
        if not any(_is_under(uri, prefix) for prefix in self._prefixes):
            raise PhotoError(
                "forbidden_path",
                f"{_quote(uri)} is outside the {scheme}:// prefixes in photo_roots; add a prefix to allow it",
            )


def is_remote(uri: str) -> bool:
    """Return whether a URI names a file on another machine."""
    scheme = _REMOTE.fullmatch(uri)
    return scheme is not None and scheme[1].lower() not in ("file", "local")


def local_path(uri: str) -> str:
    """Return the path of a local URI. A plain path is not percent-decoded.

    Raises:
        PhotoError: the URI names another machine.
    """
    scheme = _REMOTE.fullmatch(uri)
    if scheme is None:
        return uri
    host, slash, path = scheme[2].partition("/")
    if host.lower() not in ("", "localhost") or not slash:
        raise PhotoError("unsupported_uri", f"{_quote(uri)} names another machine; write file:///absolute/path")
    return os.fsdecode(unquote_to_bytes(slash + path))


def _is_under(uri: str, prefix: str) -> bool:
    """Return whether a remote URI is under a prefix, by component."""
    scheme, _, path = uri.partition("://")
    root_scheme, _, root = prefix.partition("://")
    parts, root_parts = path.split("/"), root.rstrip("/").split("/")
    if ".." in unquote(path).split("/") or "::" in uri:  # "::" chains file systems in fsspec
        return False
    return scheme.lower() == root_scheme.lower() and (root_parts == [""] or parts[: len(root_parts)] == root_parts)


def _quote(uri: str) -> str:
    if is_remote(uri):
        return quote(uri)
    return repr(uri if len(uri) <= 200 else f"{uri[:200]}...")
