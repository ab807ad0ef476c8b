"""The processor of this machine: model, and the instruction sets on which the speed of a model depends."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path

INSTRUCTIONS = {
    "avx2": ("avx2",),
    "avx512": ("avx512f",),
    "vnni": ("avx512_vnni", "avx_vnni"),
    "bf16": ("avx512_bf16", "amx_bf16"),
    "amx": ("amx_tile",),
}
"""Flags of Linux's `/proc/cpuinfo` that show an instruction set; any is enough."""


@dataclass(frozen=True)
class Processor:
    """Model and instruction sets of a processor.

    Attributes:
        model: as the system names it.
        instructions: keys of `INSTRUCTIONS`; none if the system does not report them.
    """

    model: str
    instructions: frozenset[str] = frozenset()

    @property
    def is_avx512_amd(self) -> bool:
        """Whether it is AMD's and has AVX-512: MKL does not use AVX-512 there."""
        return "AMD" in self.model and "avx512" in self.instructions

    def __str__(self) -> str:
        return ", ".join([self.model, *sorted(self.instructions)])


@cache
def this_processor() -> Processor:
    """Describe this machine's processor without torch, whose import raises the peak memory of child processes."""
    model, flags = platform.processor() or platform.machine(), set[str]()
    with suppress(OSError, subprocess.CalledProcessError):
        if sys.platform == "darwin":
            model = subprocess.check_output(["/usr/sbin/sysctl", "-n", "machdep.cpu.brand_string"], text=True).strip()
        elif sys.platform == "linux":
            lines = (line.partition(":") for line in Path("/proc/cpuinfo").read_text().splitlines())
            entries = {key.strip(): value.strip() for key, _, value in lines}
            model, flags = entries.get("model name", model), set(entries.get("flags", "").split())
    return Processor(model, frozenset(name for name, any_of in INSTRUCTIONS.items() if flags.intersection(any_of)))


def cores() -> int:
    """Count the cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def load() -> list[float]:
    """Return the system's load averages of 1, 5 and 15 minutes; none on Windows."""
    return [round(value, 1) for value in os.getloadavg()] if hasattr(os, "getloadavg") else []
