"""Reasons of errors that occur when photo files and objects are read."""

from __future__ import annotations

import errno
from collections.abc import Mapping

_BY_ERRNO: Mapping[int, str] = {
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
_BY_CLASS: Mapping[type[Exception], str] = {  # fsspec raises them without an errno
    FileNotFoundError: "missing",
    NotADirectoryError: "missing",
    IsADirectoryError: "not_a_file",
    PermissionError: "permission_denied",
    TimeoutError: "timed_out",
}
_BY_NAME: Mapping[str, str] = {  # of botocore, google-auth and azure-core, which are not imported for it
    "NoCredentialsError": "permission_denied",
    "PartialCredentialsError": "permission_denied",
    "CredentialRetrievalError": "permission_denied",
    "DefaultCredentialsError": "permission_denied",
    "RefreshError": "permission_denied",
    "ClientAuthenticationError": "permission_denied",
    "ProfileNotFound": "permission_denied",
    "ParamValidationError": "not_a_file",  # a bucket without a key
    "ConnectTimeoutError": "timed_out",
    "ReadTimeoutError": "timed_out",
}
_BY_STATUS: Mapping[int, str] = {
    401: "permission_denied",
    403: "permission_denied",
    404: "missing",
    408: "timed_out",
    410: "missing",
    504: "timed_out",
}
_STATUS_NAMES = ("status", "status_code", "code")  # of aiohttp, azure-core, gcsfs


def local_reason(error: OSError) -> str:
    """Return the reason of an error of a local file."""
    return _BY_ERRNO.get(error.errno or 0) or _by_class(error) or "unreadable"


def remote_reason(error: Exception) -> str:
    """Return the reason of an error of an object store. Unknown errors are failed connections."""
    return (
        _BY_STATUS.get(http_status(error) or 0)
        or _BY_ERRNO.get(getattr(error, "errno", None) or 0)
        or _by_class(error)
        or _BY_NAME.get(type(error).__name__)
        or "io_error"
    )


def http_status(error: BaseException) -> int | None:
    """Return the HTTP status behind an error of any fsspec backend; None if there is none."""
    cause: BaseException | None = error
    while cause is not None:
        response = getattr(cause, "response", None)
        if isinstance(response, dict):  # of botocore
            found = response.get("ResponseMetadata", {}).get("HTTPStatusCode")
            if isinstance(found, int):
                return found
        for name in _STATUS_NAMES:
            found = getattr(cause, name, None)
            if isinstance(found, int) and 100 <= found < 600:
                return found
        cause = cause.__cause__
    return None


def _by_class(error: Exception) -> str | None:
    return next((reason for kind, reason in _BY_CLASS.items() if isinstance(error, kind)), None)
