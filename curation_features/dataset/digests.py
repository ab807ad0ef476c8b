"""A set of SHA-256 digests in little memory."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

_WORDS = 2  # of 64 bits: the first half of a digest. Two of 10 million photos share it by chance once in 10^24 times
_FULL = 0.75  # share of used slots at which the table doubles; linear probing then takes 2.5 steps on average
_CHUNK = 1 << 18

Digests = NDArray[np.uint64]


def parse_digests(texts: Sequence[str]) -> Digests:
    """Return the first half of digests in hex, as rows of 64-bit words. Raises `ValueError` for other texts."""
    if any(len(text) != 64 for text in texts):
        raise ValueError("a SHA-256 digest has 64 hex digits")
    words = np.frombuffer(bytes.fromhex("".join(texts)), np.uint64).reshape(-1, 4)
    return words[:, :_WORDS]


class DigestSet:
    """A set of digests: a hash table with linear probing (Knuth, The Art of Computer Programming 3, 6.4).

    10 million digests take 256 MiB, and twice that for a moment while the table grows; a set of Python's takes 1 GB.
    """

    def __init__(self) -> None:
        self._slots: Digests = np.zeros((1 << 12, _WORDS), np.uint64)  # zeros: empty
        self._count = 0

    def add(self, digests: Digests) -> NDArray[np.bool_]:
        """Add digests, and return which were new; of equal ones only the first is."""
        is_new = np.zeros(len(digests), bool)
        for start in range(0, len(digests), _CHUNK):
            chunk = digests[start : start + _CHUNK].copy()
            chunk[:, 1] |= np.uint64(1)  # so that no digest is zero
            while self._count + len(chunk) > _FULL * len(self._slots):
                self._grow()
            is_new[start : start + _CHUNK] = self._insert(chunk)
        return is_new

    def _insert(self, digests: Digests) -> NDArray[np.bool_]:
        is_new = np.zeros(len(digests), bool)
        mask = len(self._slots) - 1
        waiting = np.arange(len(digests))
        slots = (digests[:, 0] & np.uint64(mask)).astype(np.int64)
        while waiting.size:
            is_empty = ~self._slots[slots].any(axis=1)
            taken, first = np.unique(slots[is_empty], return_index=True)  # the first of those that want the same slot
            winners = waiting[is_empty][first]
            self._slots[taken] = digests[winners]
            is_new[winners] = True
            is_other = (self._slots[slots] != digests[waiting]).any(axis=1)
            waiting, slots = waiting[is_other], (slots[is_other] + 1) & mask
        self._count += int(is_new.sum())
        return is_new

    def _grow(self) -> None:
        old, self._count = self._slots, 0
        self._slots = np.zeros((2 * len(old), _WORDS), np.uint64)
        for start in range(0, len(old), _CHUNK):
            chunk = old[start : start + _CHUNK]
            self._insert(chunk[chunk.any(axis=1)])
