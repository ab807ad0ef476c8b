from __future__ import annotations

import logging
import platform
import threading
from pathlib import Path

import pytest

from curation_features.devices import processor
from curation_features.devices.processor import computes_bf16
from curation_features.devices.selection import (
    Device,
    announce,
    exclusive_on,
    is_available,
    select_device,
    select_quality_device,
)
from curation_features.errors import SettingsError


@pytest.mark.parametrize(
    ("named", "present", "expected"),
    [
        ({}, {"mps", "cuda"}, Device("mps", "fp16")),
        ({}, {"cuda"}, Device("cuda", "fp16")),
        ({}, set(), Device("cpu", "fp32")),
        ({"device": "cuda"}, {"mps", "cuda"}, Device("cuda", "fp16")),
        ({"device": "cpu"}, {"mps", "cuda"}, Device("cpu", "fp32")),
        ({"precision": "fp32"}, {"mps"}, Device("mps", "fp32")),
        ({"precision": "fp16", "device": "cpu"}, set(), Device("cpu", "fp16")),
    ],
)
def test_a_named_device_is_preferred_to_the_best_one(settings, named, present, expected):
    assert select_device(settings.replace(**named), present.__contains__) == expected


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("mps", "Using MPS (Metal Performance Shaders) for acceleration"),
        ("cuda", "Using CUDA for acceleration"),
        ("cpu", "Using CPU"),
    ],
)
def test_the_device_is_logged(caplog, name, line):
    caplog.set_level(logging.INFO)
    announce(Device(name, "fp32"))
    assert caplog.messages == [line]


@pytest.mark.parametrize("name", ["mps", "cuda"])
def test_a_device_that_is_not_there_is_an_error_with_a_remedy(settings, name):
    with pytest.raises(SettingsError, match=f"device: '{name}' is not available.*CURATION_FEATURES_DEVICE=auto or cpu"):
        select_device(settings.replace(device=name), lambda _: False)


@pytest.mark.parametrize("precision", ["int8", "bf16"])
def test_int8_and_bf16_are_for_the_cpu(settings, precision):
    named = settings.replace(precision=precision)
    for device in ("auto", "cpu"):
        selected = select_device(named.replace(device=device), lambda name: name == "cpu", lambda: True)
        assert selected == Device("cpu", precision)
    with pytest.raises(SettingsError, match=f"{precision} runs only on the CPU, but the device is cuda"):
        select_device(named, lambda name: name == "cuda", lambda: True)


def test_bf16_is_refused_where_it_would_be_slow(settings):
    with pytest.raises(SettingsError, match=r"does not compute in bf16.*CURATION_FEATURES_PRECISION=int8 or fp32"):
        select_device(settings.replace(device="cpu", precision="bf16"), has_bf16=lambda: False)


@pytest.mark.parametrize(
    ("precision", "has_bf16", "expected"),
    [
        ("fp32", True, Device("cpu", "fp32")),
        ("bf16", True, Device("cpu", "bf16")),
        ("int8", True, Device("cpu", "bf16")),
        ("int8", False, Device("cpu", "fp32")),
        ("fp16", True, Device("cpu", "fp32")),
    ],
)
def test_clip_iqa_has_a_precision_of_its_own(settings, precision, has_bf16, expected):
    named = settings.replace(device="cpu", precision=precision)
    assert select_quality_device(named, has_bf16=lambda: has_bf16) == expected
    on_gpu = settings.replace(precision="auto")
    assert select_quality_device(on_gpu, lambda name: name == "cuda", lambda: True) == Device("cuda", "fp32")


def test_bf16_is_what_the_processor_says():
    """The kernel lists the instructions."""
    flags = Path("/proc/cpuinfo").read_text().split() if Path("/proc/cpuinfo").exists() else []
    if platform.machine() != "x86_64" or not flags:
        pytest.skip("only x86 on Linux lists its instructions so")
    assert computes_bf16() == any(flag in flags for flag in ("avx512_bf16", "amx_tile"))


def test_the_vendor_is_what_the_system_says(monkeypatch, tmp_path):
    monkeypatch.setattr(processor, "_LINUX", tmp_path / "cpuinfo")
    monkeypatch.setattr(platform, "processor", lambda: "AMD64 Family 25 Model 1 Stepping 1, AuthenticAMD")
    monkeypatch.setattr("torch.cpu._is_avx512_supported", lambda: True)
    assert processor.is_avx512_amd()
    for text, expected in (("vendor_id\t: AuthenticAMD\n", True), ("vendor_id\t: GenuineIntel\n", False), ("", False)):
        (tmp_path / "cpuinfo").write_text(text)
        assert processor.is_avx512_amd() == expected
    (tmp_path / "cpuinfo").write_text("vendor_id\t: AuthenticAMD\n")
    monkeypatch.setattr("torch.cpu._is_avx512_supported", lambda: False)
    assert not processor.is_avx512_amd()


def test_the_real_probes_agree_with_torch():
    import torch

    assert is_available("cpu")
    assert is_available("cuda") == torch.cuda.is_available()
    assert is_available("mps") == torch.backends.mps.is_available()


def test_the_cpu_is_chosen_without_probing(settings):
    assert select_device(settings.replace(device="cpu"), None).name == "cpu"


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
