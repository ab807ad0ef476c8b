"""Every error that the package raises deliberately.

    CurationError
    ├── SettingsError            a setting, label or template is invalid
    │   └── MissingExtraError    a library that only an extra of this package installs
    ├── InputError               a folder of photos is missing, unreadable or empty
    ├── ManifestError            a manifest is invalid
    ├── ReasonedError            an error with a machine-readable reason
    │   ├── PhotoError               one photo cannot be read
    │   ├── UndefinedMetricError     a metric is undefined for one image
    │   └── WeightsError             a model cannot be used
    │       ├── MissingWeightsError      its weights are not on this machine and cannot be fetched
    │       └── InvalidWeightsError      its weights are damaged, incomplete or the wrong ones
    ├── ResourceError            the machine ran out of memory, disk or file descriptors
    ├── StorageAwayError         the storage of a batch's photos is not available
    ├── StoreError               an artifact cannot be written or read
    │   ├── SupersededError          a newer manifest of the batch was accepted meanwhile
    │   └── BusyError                another process is working on the batch
    └── EventError               a sink did not accept an event

`PhotoError` and `UndefinedMetricError` never leave a batch: they become an entry in the `errors` of the photo's
features. An `EventError` never leaves the outbox, where the event waits. The others stop the run; their message names
the file or field, the cause and the remedy.
"""

from __future__ import annotations

import errno
from collections.abc import Mapping
from importlib.util import find_spec

EXTRAS: Mapping[str, tuple[str, ...]] = {
    "clip": ("torch", "torchvision", "open_clip", "piq", "safetensors", "huggingface_hub"),
    "dagster": ("dagster",),
    "samples": ("skimage",),
    "heic": ("pillow_heif",),
    "jxl": ("pylibjxl",),
    "raw": ("rawpy",),
    "pipes": ("dagster_pipes",),
    "ray": ("ray",),
    "search": ("duckdb", "simsimd", "starlette", "threadpoolctl", "uvicorn"),
}
"""Modules that only an extra of this package installs, by extra."""


class CurationError(Exception):
    """Base class of the errors that this package raises deliberately."""


class SettingsError(CurationError):
    """A setting, label or template is invalid; the message names the remedy."""


class MissingExtraError(SettingsError, ImportError):
    """A library of an extra is not installed; the message gives the command that installs it."""

    def __init__(self, module: str, extra: str) -> None:
        super().__init__(f"{module} is not installed; run `pip install 'curation-features[{extra}]'`", name=module)
        self.extra = extra


def require_extra(extra: str) -> None:
    """Raise `MissingExtraError` unless all modules of an extra are installed; imports none of them."""
    for module in EXTRAS[extra]:
        if find_spec(module) is None:
            raise MissingExtraError(module, extra)


class InputError(CurationError):
    """A folder of photos is missing, unreadable or without photos."""


class QueryError(CurationError):
    """A search or a filter cannot be understood; the message has the cause."""


class ManifestError(CurationError):
    """A manifest is invalid; retrying does not help.

    Attributes:
        field: path of the invalid field from the top of the manifest, as in `artifacts[3].photo_id`.
    """

    def __init__(self, field: str, message: str) -> None:
        super().__init__(f"{field}: {message}" if field else message)
        self.field = field


class ReasonedError(CurationError):
    """An error with a short machine-readable reason in addition to its message."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class PhotoError(ReasonedError):
    """One photo cannot be read; `reason` is one of `schema.PHOTO_REASONS`."""


class UndefinedMetricError(ReasonedError):
    """A metric is undefined for an image, such as noise for a flat image."""


class WeightsError(ReasonedError):
    """A model cannot be used. The message is summary and remedy.

    Attributes:
        summary: the problem in one line; becomes the error of every photo that lacks a value because of it.
        remedy: what to do about it.
    """

    def __init__(self, reason: str, summary: str, remedy: str = "") -> None:
        super().__init__(reason, f"{summary}; {remedy}" if remedy else summary)
        self.summary = summary
        self.remedy = remedy


class MissingWeightsError(WeightsError):
    """Weights are missing and cannot be fetched; the message names the remedy."""

    def __init__(self, summary: str, remedy: str = "") -> None:
        super().__init__("missing_weights", summary, remedy)


class InvalidWeightsError(WeightsError):
    """Weights are damaged, incomplete or not the requested ones."""

    def __init__(self, summary: str, remedy: str = "") -> None:
        super().__init__("invalid_weights", summary, remedy)


class ResourceError(CurationError):
    """The machine ran out of memory, disk or file descriptors.

    The batch stops. No photo is marked as failed, and nothing is cached.
    """


TOO_MANY_FILES = "allow the process more open files (`ulimit -n`)"
"""The remedy if `too_many_files`."""


def too_many_files(error: BaseException) -> bool:
    """Whether too many files were open; the file itself may be fine."""
    return isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE)


class StoreError(CurationError):
    """An artifact cannot be written or read; an existing file stays intact."""


class StorageAwayError(CurationError):
    """The storage of a batch's photos is not available.

    No photo could be read, each for one of `schema.STORAGE_REASONS`. Nothing was written or announced.
    """


class SupersededError(StoreError):
    """A newer manifest was accepted meanwhile; nothing was written or announced."""


class BusyError(StoreError):
    """Another process is working on the batch."""


class EventError(CurationError):
    """A sink did not accept an event; the message contains no secrets.

    Attributes:
        retry: True: the sink is down and accepts no event at the moment. False: it refuses this event.
    """

    def __init__(self, message: str, *, retry: bool) -> None:
        super().__init__(message)
        self.retry = retry
