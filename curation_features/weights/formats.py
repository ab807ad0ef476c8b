"""What is wrong with a weights file, told by its header: safetensors, `torch.save` and `torch.jit.save`."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

LARGEST_HEADER_BYTES = 100_000_000
"""Of a safetensors file; the format's own limit."""


def damage(path: Path, suffix: str | None = None) -> str | None:
    """What is wrong with a weights file; None where nothing is. Reads its header only.

    A web page saved under its name, a file that was cut off and one without any tensor are all found.

    Args:
        suffix: of its name, where the file has another one for the time being.
    """
    return _safetensors_damage(path) if (suffix or path.suffix) == ".safetensors" else _torch_damage(path)


def _safetensors_damage(path: Path) -> str | None:
    """Of a safetensors file: 8 bytes of header length, a JSON header, then the tensors' bytes."""
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(8)
        length = int.from_bytes(start, "little")
        if size < 8 or length > LARGEST_HEADER_BYTES:
            return f"is not a safetensors file (it begins with {start!r})"
        try:
            tensors = {name: entry for name, entry in json.loads(file.read(length)).items() if name != "__metadata__"}
            expected = 8 + length + max((int(entry["data_offsets"][1]) for entry in tensors.values()), default=0)
        except (ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError):
            return "is truncated" if size < 8 + length else "has a damaged header"
    if not tensors:
        return "holds no weights"
    return None if size == expected else f"is truncated or damaged ({size} bytes in place of {expected})"


def _torch_damage(path: Path) -> str | None:
    """Of a file of `torch.save` or `torch.jit.save`: a zip archive, or (before torch 1.6) a pickle."""
    with path.open("rb") as file:
        start = file.read(16)
    if start.startswith(b"PK"):
        return None if zipfile.is_zipfile(path) else "is truncated (a zip archive without its directory)"
    return None if start.startswith(b"\x80") else f"is not a PyTorch file (it begins with {start!r})"
