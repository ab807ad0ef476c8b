"""Where models run, and in which precision."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

from curation_features.errors import SettingsError
from curation_features.settings import Settings

logger = logging.getLogger(__name__)

DeviceName = Literal["mps", "cuda", "cpu"]
Precision = Literal["fp32", "fp16", "int8"]

DEVICES: tuple[DeviceName, ...] = ("mps", "cuda", "cpu")
"""Every device, best first."""

BATCH_SIZES: Mapping[DeviceName, int] = MappingProxyType({"mps": 32, "cuda": 64, "cpu": 2})
"""Photos that go through CLIP together.

On a CPU two gain half of what any number gains, and mostly give the bits of one at a time. From some 1,024 tokens on
(four photos of ViT-L/14) matrix products are split in another way, and a photo's last bits depend on its neighbours.
"""

_LOG_LINE = MappingProxyType(
    {
        "mps": "Using MPS (Metal Performance Shaders) for acceleration",
        "cuda": "Using CUDA for acceleration",
        "cpu": "Using CPU",
    }
)

_ON_MPS = threading.RLock()


@dataclass(frozen=True, slots=True)
class Device:
    """Where a model runs, and the precision of its weights and activations there (int8: of an image tower's)."""

    name: DeviceName
    precision: Precision


def is_available(name: str) -> bool:
    """Whether torch can compute on this device, here and now. Imports torch."""
    import torch

    if name == "mps":
        return torch.backends.mps.is_available()
    if name == "cuda":
        return torch.cuda.is_available()
    return True


def select_device(settings: Settings, available: Callable[[str], bool] = is_available) -> Device:
    """The device that `settings` ask for; `auto` takes MPS, or else CUDA, or else the CPU.

    The precision `auto` is fp16 on MPS and CUDA and fp32 on the CPU, where fp16 is many times slower; int8 is for the
    CPU alone.

    Args:
        available: tells whether a device is there.

    Raises:
        SettingsError: the device that was asked for by name is not there, or int8 is asked for on a GPU.
    """
    candidates = [name for name in DEVICES if settings.device in ("auto", name)]
    name = next((name for name in candidates if name == "cpu" or available(name)), None)
    if name is None:
        raise SettingsError(
            f"device: {settings.device!r} is not available on this machine (no such hardware, or a torch built without "
            "it); set CURATION_FEATURES_DEVICE=auto or cpu"
        )
    if settings.precision == "int8":
        if name != "cpu":
            raise SettingsError(
                f"precision: int8 is for the CPU, and the device is {name}; set device to cpu, or use fp16"
            )
        return Device("cpu", "int8")
    fp16 = settings.precision == "fp16" or (settings.precision == "auto" and name != "cpu")
    return Device(name, "fp16" if fp16 else "fp32")


def announce(device: Device) -> None:
    """Say in the log which device is used."""
    logger.info(_LOG_LINE[device.name])


def alone_on(name: str) -> AbstractContextManager[object]:
    """Keeps other threads of this process off a device that does not survive two at once.

    That is MPS: torch 2.14 ends the process, without an exception, when two threads compute there
    (pytorch/pytorch#197805).
    """
    return _ON_MPS if name == "mps" else nullcontext()
