"""Give back the memory of mapped tensors that are no longer needed, while other tensors of the file still are."""

from __future__ import annotations

import bisect
import ctypes
import mmap
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

_MAPS = Path("/proc/self/maps")
_DONT_NEED = 4  # MADV_DONTNEED, which Python's mmap module offers for its own mappings only


class MappedPages:
    """The pages of files that this process has mapped now. On systems other than Linux, it knows of none."""

    def __init__(self) -> None:
        self._ranges = sorted(_file_ranges(_MAPS.read_text())) if _MAPS.exists() else []

    def release(self, tensor: torch.Tensor) -> int:
        """Remove a tensor's whole pages from memory; return their bytes.

        The tensor stays valid: a page that is read again comes from the file. Tensors that are not mapped from a file
        are left alone.

        Args:
            tensor: contiguous, and never written to.
        """
        page = mmap.PAGESIZE
        start = -(-tensor.data_ptr() // page) * page
        end = (tensor.data_ptr() + tensor.nbytes) // page * page
        index = bisect.bisect_right(self._ranges, (start, 2**64)) - 1
        if end <= start or index < 0 or end > self._ranges[index][1]:
            return 0
        failed = ctypes.CDLL(None).madvise(ctypes.c_void_p(start), ctypes.c_size_t(end - start), _DONT_NEED)
        return 0 if failed else end - start


def _file_ranges(maps: str) -> list[tuple[int, int]]:
    """Return the address ranges of files in the text of `/proc/PID/maps` (see proc(5))."""
    ranges = []
    for line in maps.splitlines():
        addresses, _, _, _, inode, *_ = line.split()
        if inode != "0":
            start, _, end = addresses.partition("-")
            ranges.append((int(start, 16), int(end, 16)))
    return ranges
