"""Fingerprints of many photos by number, in a temporary file once they are large."""

from __future__ import annotations

from tempfile import SpooledTemporaryFile, gettempdir
from types import TracebackType
from typing import IO, TYPE_CHECKING

import numpy as np

from curation_features.errors import ResourceError
from curation_features.fingerprints.encoding import from_bytes, hashes_of
from curation_features.fingerprints.fingerprint import ORIENTATIONS, Fingerprint

if TYPE_CHECKING:
    from numpy.typing import NDArray

_IN_MEMORY = 64 * 2**20  # bytes; more are in a temporary file
_NO_HASHES = bytes(ORIENTATIONS * 32)


class FingerprintSpool:
    """Keeps the hashes of photos in memory, and the rest of their fingerprints in a temporary file.

    A context manager: the file is deleted at the end.
    """

    def __init__(self) -> None:
        self._file: IO[bytes] = SpooledTemporaryFile(_IN_MEMORY)  # noqa: SIM115 (closed by `__exit__`)
        self._spans: list[tuple[int, int]] = []
        self._hashes = bytearray()

    def __enter__(self) -> FingerprintSpool:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def __len__(self) -> int:
        return len(self._spans)

    def add(self, data: bytes | None) -> None:
        """Add the fingerprint of the next photo; None: it has none.

        Raises:
            ResourceError: the temporary folder is full, or cannot be written.
        """
        start = self._spans[-1][1] if self._spans else 0
        self._spans.append((start, start + len(data or b"")))
        self._hashes += _NO_HASHES if data is None else hashes_of(data).tobytes()
        if data:
            try:
                self._file.seek(start)
                self._file.write(data)
            except OSError as error:
                raise ResourceError(
                    f"fingerprints of a large batch do not fit into the temporary folder {gettempdir()} "
                    f"({error.strerror}): free space there, or set TMPDIR to another folder"
                ) from error

    def read(self, number: int) -> Fingerprint | None:
        """Return the fingerprint of a photo, or None if it has none."""
        start, end = self._spans[number]
        if start == end:
            return None
        self._file.seek(start)
        return from_bytes(self._file.read(end - start))

    def hashes(self) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
        """Return the hashes, (N, `ORIENTATIONS`, 32) of uint8, and whether a photo has some, (N,)."""
        hashes = np.frombuffer(bytes(self._hashes), np.uint8).reshape(-1, ORIENTATIONS, 32)
        return hashes, np.array([end > start for start, end in self._spans], bool)
