"""Device and precision of the models."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

from curation_features.devices.processor import computes_bf16
from curation_features.errors import SettingsError
from curation_features.settings import Settings

logger = logging.getLogger(__name__)

DeviceName = Literal["mps", "cuda", "cpu"]
Precision = Literal["fp32", "fp16", "bf16", "int8"]

BATCH_SIZES: Mapping[DeviceName, int] = MappingProxyType({"mps": 32, "cuda": 64, "cpu": 2})
"""Photos per forward pass of CLIP, for every device, the best first.

On a CPU, two photos give half of the speed-up of any larger batch, and mostly the same bits as one photo alone. From
about 1,024 tokens (four photos of ViT-L/14) the BLAS splits matrix products differently, and the last bits of a photo's
embedding depend on the other photos in the batch.
"""

_ON_MPS = threading.RLock()


@dataclass(frozen=True, slots=True)
class Device:
    """A device, and the precision of weights and activations (bf16, int8: only of linear layers of image towers)."""

    name: DeviceName
    precision: Precision

    def __str__(self) -> str:
        return f"{self.name} in {self.precision}"


def is_available(name: str) -> bool:
    """Whether torch can compute on this device now. Imports torch."""
    import torch

    if name == "mps":
        return torch.backends.mps.is_available()
    if name == "cuda":
        return torch.cuda.is_available()
    return True


def select_device(
    settings: Settings,
    available: Callable[[str], bool] = is_available,
    has_bf16: Callable[[], bool] = computes_bf16,
) -> Device:
    """Return the device that `settings` select; `auto` prefers MPS, then CUDA, then the CPU.

    The precision `auto` is fp16 on MPS and CUDA, and fp32 on the CPU, where fp16 is many times slower. Only the CPU
    supports int8, and only some CPUs bf16.

    Args:
        available: returns whether a device is available.
        has_bf16: returns whether the CPU computes in bfloat16.

    Raises:
        SettingsError: the named device is not available, int8 or bf16 is set for a GPU, or bf16 for a CPU without it.
    """
    candidates = [name for name in BATCH_SIZES if settings.device in ("auto", name)]
    name = next((name for name in candidates if name == "cpu" or available(name)), None)
    if name is None:
        raise SettingsError(
            f"device: {settings.device!r} is not available on this machine (no such hardware, or a torch built without "
            "it); set CURATION_FEATURES_DEVICE=auto or cpu"
        )
    if settings.precision in ("int8", "bf16"):
        if name != "cpu":
            raise SettingsError(
                f"precision: {settings.precision} runs only on the CPU, but the device is {name}; set device to cpu, "
                "or use fp16"
            )
        if settings.precision == "bf16" and not has_bf16():
            raise SettingsError(
                "precision: this processor does not compute in bf16 (AVX512-BF16, AMX or Arm's BF16 is needed), which "
                "would be several times slower than fp32; set CURATION_FEATURES_PRECISION=int8 or fp32"
            )
        return Device("cpu", "int8" if settings.precision == "int8" else "bf16")
    fp16 = settings.precision == "fp16" or (settings.precision == "auto" and name != "cpu")
    return Device(name, "fp16" if fp16 else "fp32")


def select_quality_device(
    settings: Settings,
    available: Callable[[str], bool] = is_available,
    has_bf16: Callable[[], bool] = computes_bf16,
) -> Device:
    """Return the device of CLIP-IQA: that of CLIP, in fp32, or with int8 and bf16 in bf16 if the CPU computes in it.

    Raises:
        SettingsError: like `select_device`.
    """
    device = select_device(settings, available, has_bf16)
    in_bf16 = device.precision == "bf16" or (device.precision == "int8" and has_bf16())
    return Device(device.name, "bf16" if in_bf16 else "fp32")


def announce(device: Device) -> None:
    """Log which device is used."""
    names = {"mps": "MPS (Metal Performance Shaders) for acceleration", "cuda": "CUDA for acceleration", "cpu": "CPU"}
    logger.info("Using %s", names[device.name])


def exclusive_on(name: str) -> AbstractContextManager[object]:
    """Return a lock that keeps other threads off a device that is not thread-safe.

    Only MPS needs it: torch 2.14 kills the process, without an exception, if two threads compute on MPS
    (pytorch/pytorch#197805).
    """
    return _ON_MPS if name == "mps" else nullcontext()
