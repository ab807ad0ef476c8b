"""Every error that the package raises on purpose.

    CurationError
    ├── SettingsError            settings, labels or templates that cannot be used
    │   └── MissingExtraError    a library that only an extra of this package installs
    ├── InputError               a folder of photos that cannot be used
    ├── ManifestError            a manifest that can never be processed
    ├── PhotoError               one photo that cannot be read
    ├── UndefinedMetricError     a metric that has no value for one image
    ├── WeightsError             a model that cannot be used
    │   ├── MissingWeightsError  its weights are not on this machine and cannot be fetched
    │   └── InvalidWeightsError  its weights are not what they should be
    ├── ResourceError            the machine has run out of something
    ├── StorageAwayError         photos whose storage is away
    ├── StoreError               an artifact that could not be written or read back
    │   ├── SupersededError      features that are older than what was accepted meanwhile
    │   └── BusyError            a batch that another process is making
    └── EventError               an event that a sink did not take

`PhotoError` and `UndefinedMetricError` never leave a batch: they become an entry in the `errors` of that
photo's features; an `EventError` never leaves the outbox, where the event waits. The others stop the run and say
which file or field is at fault, why, and what to do.
"""

from __future__ import annotations

import errno
from collections.abc import Mapping
from importlib.util import find_spec

EXTRAS: Mapping[str, tuple[str, ...]] = {
    "clip": ("torch", "torchvision", "open_clip", "piq", "safetensors", "huggingface_hub"),
    "dagster": ("dagster",),
    "samples": ("skimage",),
}
"""Modules that only an extra of this package installs, by extra."""


class CurationError(Exception):
    """Base of the errors that this package raises on purpose."""


class SettingsError(CurationError):
    """A setting, a label or a template that cannot be used; the message names it and the remedy."""


class MissingExtraError(SettingsError, ImportError):
    """A library that only an extra installs is not there; the message gives the command that installs it."""

    def __init__(self, module: str, extra: str) -> None:
        super().__init__(f"{module} is not installed; run `pip install 'curation-features[{extra}]'`", name=module)
        self.extra = extra


def require_extra(extra: str) -> None:
    """Raise `MissingExtraError` unless all modules of an extra are installed; imports none of them."""
    for module in EXTRAS[extra]:
        if find_spec(module) is None:
            raise MissingExtraError(module, extra)


class InputError(CurationError):
    """A folder of photos that is not there, cannot be listed, or holds no photo."""


class ManifestError(CurationError):
    """A manifest that can never be processed.

    Attributes:
        field: where it is wrong, as a path from the top of the manifest: `artifacts[3].photo_id`.
    """

    def __init__(self, field: str, message: str) -> None:
        super().__init__(f"{field}: {message}" if field else message)
        self.field = field


class ReasonedError(CurationError):
    """An error with a short machine-readable reason beside its message."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class PhotoError(ReasonedError):
    """One photo that cannot be read. `reason` is one of `schema.PHOTO_REASONS`."""


class UndefinedMetricError(ReasonedError):
    """A metric that has no value for an image (a flat image has no noise estimate, say)."""


class WeightsError(ReasonedError):
    """A model that cannot be used.

    Attributes:
        summary: what is wrong, in one line; it goes on every photo that lacks a value for it.
        remedy: what to do about it. The message is both.
    """

    def __init__(self, reason: str, summary: str, remedy: str = "") -> None:
        super().__init__(reason, f"{summary}; {remedy}" if remedy else summary)
        self.summary = summary
        self.remedy = remedy


class MissingWeightsError(WeightsError):
    """Weights that are not on this machine and cannot be fetched; the message says how to get them."""

    def __init__(self, summary: str, remedy: str = "") -> None:
        super().__init__("missing_weights", summary, remedy)


class InvalidWeightsError(WeightsError):
    """Weights that are damaged, incomplete or not those that were asked for."""

    def __init__(self, summary: str, remedy: str = "") -> None:
        super().__init__("invalid_weights", summary, remedy)


class ResourceError(CurationError):
    """The machine has run out of something that every photo needs: nothing is said of any of them, and nothing kept."""


TOO_MANY_FILES = "allow the process more open files (`ulimit -n`)"
"""What to do where `too_many_files`."""


def too_many_files(error: BaseException) -> bool:
    """Whether a file could not be opened because too many are open; it may be as good as any other."""
    return isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE)


class StoreError(CurationError):
    """An artifact that could not be written or read back; the file that was there before is intact."""


class StorageAwayError(CurationError):
    """A batch of which no photo could be read, each for a reason that may pass; nothing was written or announced."""


class SupersededError(StoreError):
    """Features of a manifest that is not the accepted one any more; nothing was written or announced."""


class BusyError(StoreError):
    """A batch that another process is making now."""


class EventError(CurationError):
    """An event that a sink did not take; the message holds no secret of the sink's address.

    Attributes:
        retry: True: the sink is down, and takes no other event either until it is back. False: it refuses this one.
    """

    def __init__(self, message: str, *, retry: bool) -> None:
        super().__init__(message)
        self.retry = retry
