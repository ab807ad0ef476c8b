"""Reads photo files from allowed places: roots, URIs and the size limit.

The bytes that are hashed are the bytes that `decode` gets: a photo replaced in between is never mixed up.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast
from urllib.parse import unquote, unquote_to_bytes

from curation_features.atomic_files import open_regular
from curation_features.errors import TOO_MANY_FILES, PhotoError, ResourceError, too_many_files

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
_EXTRAS = {"s3": "s3", "s3a": "s3", "gs": "gcs", "gcs": "gcs"}  # scheme -> extra of this package
_ERRNO_REASONS = {
    errno.ENOENT: "missing",
    errno.ENOTDIR: "missing",
    errno.EISDIR: "not_a_file",
    errno.ENXIO: "not_a_file",  # a socket
    errno.ENODEV: "not_a_file",  # a folder, FIFO or device (`open_regular`)
    errno.EACCES: "permission_denied",
    errno.EPERM: "permission_denied",
    errno.ELOOP: "forbidden_path",  # a loop of links, or a link created after the path was checked
    errno.ENAMETOOLONG: "forbidden_path",
    errno.EIO: "io_error",
    errno.ENOTCONN: "io_error",  # a FUSE file system whose process has ended
    errno.ESTALE: "io_error",  # NFS
    errno.EHOSTDOWN: "io_error",
    errno.EHOSTUNREACH: "io_error",
    errno.ENETDOWN: "io_error",
    errno.ENETUNREACH: "io_error",
    errno.ECONNREFUSED: "io_error",
    errno.ECONNRESET: "io_error",
    errno.ECONNABORTED: "io_error",
    errno.ETIMEDOUT: "timed_out",
}
_CLASS_REASONS: dict[type[OSError], str] = {  # fsspec raises them without an errno
    FileNotFoundError: "missing",
    NotADirectoryError: "missing",
    IsADirectoryError: "not_a_file",
    PermissionError: "permission_denied",
    TimeoutError: "timed_out",
}


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

    def read(self, uri: str) -> PhotoFile:
        """Read one photo.

        Raises:
            PhotoError: the URI is invalid, not allowed or of an unknown scheme; or the file is missing, not a regular
                file, not permitted, empty, or larger than `settings.max_file_bytes`.
            ResourceError: the process has too many open files, which is not the photo's fault.
        """
        scheme = _REMOTE.fullmatch(uri)
        if _CONTROL.search(unquote(uri) if scheme and scheme[1].lower() in _PERCENT_DECODED else uri):
            raise PhotoError("forbidden_path", f"{_quote(uri)} contains control characters; rename the file")
        try:
            data = self._read_remote(uri) if is_remote(uri) else self._read_local(uri)
        except OSError as error:
            if too_many_files(error):
                raise ResourceError(f"{_quote(uri)} cannot be opened: {error.strerror}; {TOO_MANY_FILES}") from error
            raise PhotoError(
                _classify(error, uri), f"{_quote(uri)} cannot be read: {error.strerror or error}"
            ) from error
        except ValueError as error:  # such as a lone surrogate
            raise PhotoError("forbidden_path", f"{_quote(uri)} is not a legal path: {error}") from error
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

    def _read_remote(self, uri: str) -> bytes:
        import fsspec

        scheme = uri.partition("://")[0]
        if scheme.lower() not in fsspec.available_protocols():
            raise PhotoError("unsupported_uri", f"{_quote(uri)}: no file system for {scheme}://")
        if not any(_is_under(uri, prefix) for prefix in self._prefixes):
            raise PhotoError(
                "forbidden_path",
                f"{_quote(uri)} is outside the {scheme}:// prefixes in photo_roots; add a prefix to allow it",
            )
        try:
            filesystem, path = fsspec.url_to_fs(uri)
            return cast("bytes", filesystem.cat_file(path, start=0, end=self._max_bytes + 1))
        except ImportError as error:
            extra = _EXTRAS.get(scheme.lower())
            remedy = f'pip install "curation-features[{extra}]"' if extra else str(error)
            raise PhotoError("unsupported_uri", f"{_quote(uri)}: {scheme}:// needs a package: {remedy}") from error
        except (OSError, ValueError):
            raise
        except Exception as error:  # each backend has its own exceptions, all about the connection
            raise PhotoError("io_error", f"{_quote(uri)} cannot be read: {error}") from error


def _classify(error: OSError, uri: str) -> str:
    """Return the reason of a read error. Unknown errors of remote files are connection failures."""
    by_class = next((reason for kind, reason in _CLASS_REASONS.items() if isinstance(error, kind)), None)
    return _ERRNO_REASONS.get(error.errno or 0) or by_class or ("io_error" if is_remote(uri) else "unreadable")


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
    return repr(uri if len(uri) <= 200 else f"{uri[:200]}...")
