from __future__ import annotations

import logging
import threading

import pytest

from curation_features.devices.selection import Device, announce, exclusive_on, is_available, select_device
from curation_features.errors import SettingsError
from curation_features.settings import Settings


@pytest.mark.parametrize(
    ("present", "expected", "line"),
    [
        ({"mps", "cuda"}, Device("mps", "fp16"), "Using MPS (Metal Performance Shaders) for acceleration"),
        ({"cuda"}, Device("cuda", "fp16"), "Using CUDA for acceleration"),
        (set(), Device("cpu", "fp32"), "Using CPU"),
    ],
)
def test_auto_takes_mps_then_cuda_then_the_cpu_and_says_so(settings, caplog, present, expected, line):
    with caplog.at_level(logging.INFO):
        device = select_device(settings, present.__contains__)
        announce(device)
    assert device == expected
    assert caplog.messages == [line]


def test_a_named_device_is_preferred_to_a_better_one(settings):
    assert select_device(settings.replace(device="cpu"), lambda _: True) == Device("cpu", "fp32")
    assert select_device(settings.replace(device="cuda"), lambda _: True) == Device("cuda", "fp16")


@pytest.mark.parametrize("name", ["mps", "cuda"])
def test_a_device_that_is_not_there_is_an_error_with_a_remedy(settings, name):
    with pytest.raises(SettingsError, match=f"device: '{name}' is not available.*CURATION_FEATURES_DEVICE=auto or cpu"):
        select_device(settings.replace(device=name), lambda _: False)


def test_a_precision_asked_for_by_name_holds_everywhere(settings):
    assert select_device(settings.replace(precision="fp32"), lambda _: True).precision == "fp32"
    assert select_device(settings.replace(precision="fp16", device="cpu")).precision == "fp16"


def test_the_real_probes_agree_with_torch():
    import torch

    assert is_available("cpu")
    assert is_available("cuda") == torch.cuda.is_available()
    assert is_available("mps") == torch.backends.mps.is_available()


def test_the_cpu_is_chosen_without_probing(settings: Settings):
    def refuse(name: str) -> bool:
        raise AssertionError(name)

    assert select_device(settings.replace(device="cpu"), refuse).name == "cpu"


def test_mps_runs_one_thread_at_a_time():
    order: list[str] = []

    def enter(device: str) -> None:
        with exclusive_on(device):
            order.append(device)

    for device in ("mps", "cuda", "cpu"):
        other = threading.Thread(target=enter, args=(device,))
        with exclusive_on(device), exclusive_on(device):  # again in the same thread
            other.start()
            other.join(0.2 if device == "mps" else 60)
            order.append(f"left {device}")
        other.join(60)
    assert order == ["left mps", "mps", "cuda", "left cuda", "cpu", "left cpu"]
