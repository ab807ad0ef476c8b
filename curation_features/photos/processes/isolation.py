"""`Decoder`: decodes photos in child processes, so that a crash, a hang or a memory blow-up costs one photo.

The decoders are imported with the first photo: a run whose photos are all cached needs neither OpenCV nor Pillow.
"""

from __future__ import annotations

import threading
from contextlib import ExitStack
from dataclasses import asdict, replace
from functools import cache
from typing import TYPE_CHECKING, Any

from curation_features.photos.formats import identify
from curation_features.photos.processes.pool import Answer, DecoderProcesses, Task
from curation_features.photos.reader import PhotoFile
from curation_features.photos.thumbnail import ThumbnailKind
from curation_features.settings import Settings

if TYPE_CHECKING:
    from curation_features.photos.copies import Copies
    from curation_features.photos.decode import Photo
    from curation_features.photos.limits import DecodeLimits

_CHANNELS = 3
_COPIES_BYTES = 40_000_000  # 2048 x 2048 and 1024 x 1024 px at 4 bytes, and more than JPEG's worst case


class Decoder:
    """Decodes photos, by default in child processes (see `processes.worker`). Safe for use by several threads.

    All decoders of a process share its child processes. They start with the first photo and end when they are idle for
    a minute.

    Args:
        settings: `isolate_decoders = false` decodes in this process, without limits of the operating system.
    """

    def __init__(self, settings: Settings) -> None:
        self._max_pixels = settings.max_pixels
        self._max_seconds = settings.max_decode_seconds
        self._isolated = settings.isolate_decoders

    def decode(self, file: PhotoFile) -> Photo:
        """Decode a photo; see `photos.decode.decode`.

        Raises:
            PhotoError: `too_large`, `too_slow`, `truncated`, `unsupported_format` or `unreadable`.
            ResourceError: too many open files, or no process can be started.
        """
        from curation_features.photos.decode import decode
        from curation_features.photos.processes.tasks import photo_from

        if not self._isolated:
            with ExitStack() as large:
                return decode(file, self._in_process(large))
        return photo_from(*self._run("decode", file, _CHANNELS * self._max_pixels))

    def make_copies(self, file: PhotoFile) -> Copies:
        """Make the reduced copies of a photo; see `photos.copies.make_copies`. Raises as `decode`."""
        from curation_features.photos.copies import make_copies
        from curation_features.photos.processes.tasks import copies_from

        if not self._isolated:
            with ExitStack() as large:
                return make_copies(file, self._in_process(large))
        return copies_from(*self._run("make_copies", file, _COPIES_BYTES))

    def read_exif(self, file: PhotoFile) -> dict[str, Any]:
        """Read the EXIF fields of a photo; see `photos.exif.read_exif`."""
        from curation_features.photos.exif.fields import read_exif
        from curation_features.photos.processes.tasks import exif_from

        if not self._isolated or identify(file.data) != "JXL":  # Brotli unpacks its EXIF; the rest is Python
            return read_exif(file.data)
        return exif_from(*self._run("read_exif", file, 0))

    def make_thumbnail(self, file: PhotoFile, kind: ThumbnailKind) -> bytes | None:
        """Make a thumbnail; see `photos.thumbnail.make_thumbnail`."""
        from curation_features.photos.processes.tasks import thumbnail_from
        from curation_features.photos.thumbnail import make_thumbnail

        if not self._isolated:
            with ExitStack() as large:
                return make_thumbnail(file, kind, self._in_process(large))
        return thumbnail_from(*self._run("make_thumbnail", file, kind.max_bytes, kind=asdict(kind)))

    def _limits(self) -> DecodeLimits:
        from curation_features.photos.limits import DecodeLimits

        return DecodeLimits(self._max_pixels, self._max_seconds)

    def _in_process(self, large: ExitStack) -> DecodeLimits:
        """Return limits under which one thread at a time decodes a large photo."""
        return replace(self._limits(), wait_for_turn=cache(lambda: large.enter_context(_turn())))

    def _run(self, name: str, file: PhotoFile, result_bytes: int, **arguments: Any) -> Answer:
        task = Task(name, file, arguments, self._max_pixels, self._max_seconds, result_bytes)
        return _processes().run(task)


@cache
def _processes() -> DecoderProcesses:
    """Return the pool of this process."""
    return DecoderProcesses()


@cache
def _turn() -> threading.Lock:
    """Return the lock of large photos that are decoded in this process."""
    return threading.Lock()
