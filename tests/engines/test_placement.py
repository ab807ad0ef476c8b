"""The number of processes, their threads and devices."""

from __future__ import annotations

from pathlib import Path

import pytest

from curation_features.engines import EngineOptions, create_engine
from curation_features.engines.placement import Machine, free_memory, place
from curation_features.errors import SettingsError
from curation_features.settings import Settings

GB = 10**9


@pytest.mark.parametrize(
    ("machine", "requested", "weights", "threads", "said"),
    [
        (Machine(16), None, 0, [4] * 4, "4 processes with 4 threads each, on the CPU"),
        (Machine(2), None, 0, [2], "1 process with 2 threads each, on the CPU"),
        (Machine(2), 2, 0, [1, 1], "2 processes with 1 thread each"),
        (Machine(2), 3, 0, [1, 1, 1], "3 processes with 1 thread each"),
        (Machine(1), None, 0, [1], "1 process with 1 thread"),
        # 0.7 GB and 1.1 times the weights for each process
        (Machine(16, 6 * GB), None, 2 * GB, [8, 8], "not 4, because 6.0 GB are free, and a process needs 2.9 GB"),
        (Machine(16, 6 * GB), 3, 2 * GB, [8, 8], "not 3, because 6.0 GB are free"),
        (Machine(16, 9 * GB), 3, 2 * GB, [5, 5, 5], "3 processes"),
        (Machine(16, GB), None, 2 * GB, [16], "1 process with 16 threads each, on the CPU; not 4"),
        (Machine(16, None), 2, 2 * GB, [8, 8], "2 processes"),
        (Machine(8, has_mps=True), None, 0, [8], "on MPS"),
        (Machine(8, has_mps=True), 2, 0, [4, 4], "on MPS"),
    ],
)
def test_cores_and_memory_bound_processes(
    machine: Machine, requested: int | None, weights: int, threads: list[int], said: str
) -> None:
    found = place(machine, requested, weights)
    assert [slot.threads for slot in found.slots] == threads
    assert said in found.description
    for slot in found.slots:
        assert slot.environ["OMP_NUM_THREADS"] == str(slot.threads)
        assert "CUDA_VISIBLE_DEVICES" not in slot.environ


@pytest.mark.parametrize(("requested", "devices"), [(None, "0 MIG-7"), (1, "0"), (3, "0 MIG-7 0")])
def test_each_process_has_a_gpu(requested: int | None, devices: str) -> None:
    found = place(Machine(12, gpus=("0", "MIG-7")), requested, 0)
    assert [slot.environ["CUDA_VISIBLE_DEVICES"] for slot in found.slots] == devices.split()
    assert "CUDA devices 0" in found.description


def test_free_memory_is_that_of_the_machine_or_the_container(tmp_path: Path) -> None:
    meminfo = tmp_path / "meminfo"
    assert free_memory(meminfo, tmp_path) is None
    meminfo.write_text("MemTotal:       24683656 kB\nMemAvailable:   2000000 kB\n")
    assert free_memory(meminfo, tmp_path) == 2_048_000_000
    limits = {"max": "max\n", "current": "700000000\n", "stat": "anon 5\ninactive_file 200000000\n"}
    for name, text in limits.items():
        (tmp_path / f"memory.{name}").write_text(text)
    assert free_memory(meminfo, tmp_path) == 2_048_000_000
    (tmp_path / "memory.max").write_text("1000000000\n")
    assert free_memory(meminfo, tmp_path) == 500_000_000


def test_an_engine_is_chosen_by_name(settings: Settings) -> None:
    options = EngineOptions(settings.replace(device="cpu"), processes=1)
    assert create_engine("local", options).description.startswith("1 process with")
    with pytest.raises(SettingsError, match=r"unknown engine 'locl'; did you mean 'local'\?; there are: local"):
        create_engine("locl", options)
