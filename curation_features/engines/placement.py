"""How many processes a machine takes, and which device and threads each of them gets."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from curation_features.concurrency import available_cores
from curation_features.settings import Settings

CORES_PER_PROCESS = 4
"""On a CPU. Fewer cores leave a forward pass slower; with more, Python's lock lets the cores wait."""

_BASE_BYTES = 700_000_000  # Python, torch, photos in flight, and the decoder processes
_COPIES = 1.1  # peak memory with a photo : size of the weights (benchmarks/README.md)
_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "OPENCV_FOR_THREADS_NUM")
_MEMINFO, _CGROUP = Path("/proc/meminfo"), Path("/sys/fs/cgroup")


@dataclass(frozen=True, slots=True)
class Machine:
    """Resources of a machine.

    Attributes:
        cores: number of processor cores that this process may use.
        free_bytes: memory that processes can still take; None: unknown.
        gpus: CUDA devices, as in CUDA_VISIBLE_DEVICES.
        has_mps: whether models run on Apple's GPU, which all processes share.
    """

    cores: int
    free_bytes: int | None = None
    gpus: tuple[str, ...] = ()
    has_mps: bool = False


@dataclass(frozen=True, slots=True)
class Slot:
    """The place of one process.

    Attributes:
        threads: number of its threads.
        environ: variables of its environment.
    """

    threads: int
    environ: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Placement:
    """The places of all processes, and a line that describes them."""

    slots: tuple[Slot, ...]
    description: str


def place(machine: Machine, requested: int | None, weights_bytes: int) -> Placement:
    """Place processes on a machine.

    By default one per CUDA device, one on MPS, and one per `CORES_PER_PROCESS` cores on a CPU. Cores are divided among
    the processes. Free memory bounds their number, also a requested one; at least one is placed.

    Args:
        requested: number of processes; None: the default.
        weights_bytes: size of the weights that each process loads.
    """
    usual = len(machine.gpus) or (1 if machine.has_mps else max(1, machine.cores // CORES_PER_PROCESS))
    wanted = requested or usual
    needed = _BASE_BYTES + int(_COPIES * weights_bytes)
    fitting = wanted if machine.free_bytes is None else max(1, machine.free_bytes // needed)
    count = min(wanted, fitting)
    threads = max(1, machine.cores // count)
    gpus = [machine.gpus[number % len(machine.gpus)] if machine.gpus else "" for number in range(count)]
    slots = tuple(
        Slot(threads, {**dict.fromkeys(_THREADS, str(threads)), **({"CUDA_VISIBLE_DEVICES": gpu} if gpu else {})})
        for gpu in gpus
    )
    where = (
        f"CUDA devices {', '.join(machine.gpus[:count])}" if machine.gpus else "MPS" if machine.has_mps else "the CPU"
    )
    text = f"{_count(count, 'process', 'processes')} with {_count(threads, 'thread', 'threads')} each, on {where}"
    if count < wanted and machine.free_bytes is not None:
        free = f"{machine.free_bytes / 1e9:.1f} GB are free, and a process needs {needed / 1e9:.1f} GB"
        text += f"; not {wanted}, because {free}"
    return Placement(slots, text)


def this_machine(settings: Settings) -> Machine:
    """Measure this machine. torch is imported only if the machine may have a CUDA device."""
    is_mac = sys.platform == "darwin" and platform.machine() == "arm64"
    has_mps = is_mac and settings.device in ("auto", "mps")
    gpus = cuda_devices() if settings.device in ("auto", "cuda") and not has_mps else ()
    return Machine(available_cores(), free_memory(), gpus, has_mps)


def cuda_devices() -> tuple[str, ...]:
    """Return the CUDA devices that this process may use, as in CUDA_VISIBLE_DEVICES."""
    if not any(Path("/dev").glob("nvidia[0-9]*")) and not Path("/dev/dxg").exists():  # the latter in WSL
        return ()
    with suppress(ImportError):
        import torch

        named = [name.strip() for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name.strip()]
        count = torch.cuda.device_count()
        return tuple(named[:count] if len(named) >= count else map(str, range(count)))
    return ()


def free_memory(meminfo: Path = _MEMINFO, cgroup: Path = _CGROUP) -> int | None:
    """Return the memory that processes can still take, bytes: of the machine or its container; None if unknown.

    Args:
        meminfo: Linux' table of memory.
        cgroup: folder of this container's control group, version 2 (Linux, "Memory Interface Files").
    """
    known = []
    with suppress(OSError, StopIteration, ValueError, IndexError):
        lines = meminfo.read_text().splitlines()
        known.append(1024 * int(next(line for line in lines if line.startswith("MemAvailable:")).split()[1]))
    with suppress(OSError, ValueError):  # ValueError: "max", without a limit
        limit, used = (int((cgroup / f"memory.{name}").read_text()) for name in ("max", "current"))
        lines = (cgroup / "memory.stat").read_text().splitlines()
        cached = sum(int(line.split()[1]) for line in lines if line.startswith("inactive_file "))
        known.append(max(0, limit - used + cached))
    return min(known, default=None)


def _count(number: int, one: str, many: str) -> str:
    return f"{number} {one if number == 1 else many}"
