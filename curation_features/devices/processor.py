"""Instructions of the processor."""

from __future__ import annotations

import platform
from pathlib import Path

_LINUX = Path("/proc/cpuinfo")


def computes_bf16() -> bool:
    """Whether the processor multiplies in bfloat16 (AVX512-BF16, AMX, or Arm's BF16). Imports torch.

    Others emulate bfloat16, which is several times slower than float32.
    """
    import torch

    if platform.machine().lower() in ("aarch64", "arm64"):
        return _has(torch.ops.mkldnn, "_is_mkldnn_bf16_supported")  # on x86 it includes processors that emulate
    return any(_has(torch.cpu, name) for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"))


def is_avx512_amd() -> bool:
    """Whether the processor is one of AMD with AVX-512; False if the system does not tell (Linux and Windows do).

    Imports torch.
    """
    import torch

    try:
        text = _LINUX.read_text() if _LINUX.exists() else platform.processor()
    except OSError:
        return False
    return "AuthenticAMD" in text and _has(torch.cpu, "_is_avx512_supported")


def _has(namespace: object, name: str) -> bool:
    """Whether a private function of torch exists and returns True."""
    test = getattr(namespace, name, None)
    return bool(test is not None and test())
