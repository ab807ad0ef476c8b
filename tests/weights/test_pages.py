"""Memory of mapped tensors, as the kernel counts it."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from curation_features.weights.pages import MappedPages

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells and takes back pages")
MIB = 2**20


def resident_bytes_of_files() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("RssFile")).split()[1]) * 1024


@pytest.fixture
def written(tmp_path) -> dict[str, torch.Tensor]:
    tensors = {name: torch.rand(2 * MIB, generator=torch.Generator().manual_seed(ord(name))) for name in "ab"}
    save_file(tensors, tmp_path / "weights.safetensors")
    return tensors


def test_pages_leave_memory_and_come_back(tmp_path, written):
    mapped = load_file(tmp_path / "weights.safetensors")
    assert all(torch.equal(mapped[name], written[name]) for name in "ab")  # reads every page
    before = resident_bytes_of_files()
    released = MappedPages().release(mapped["a"])
    assert released > 7 * MIB
    assert before - resident_bytes_of_files() == pytest.approx(released, abs=MIB / 2)
    assert all(torch.equal(mapped[name], written[name]) for name in "ab")


def test_memory_that_is_no_file_is_left_alone(written):
    """The kernel would fill it with zeros."""
    expected = written["a"].clone()
    assert MappedPages().release(written["a"]) == 0
    assert MappedPages().release(torch.empty(0)) == 0
    assert torch.equal(written["a"], expected)


def test_a_part_of_a_page_stays(tmp_path):
    tensors = {"a": torch.ones(10), "b": torch.ones(10)}
    save_file(tensors, tmp_path / "weights.safetensors")
    assert MappedPages().release(load_file(tmp_path / "weights.safetensors")["a"]) == 0


def test_without_a_list_of_mappings_nothing_is_released(tmp_path, written, monkeypatch):
    monkeypatch.setattr("curation_features.weights.pages._MAPS", tmp_path / "none")
    assert MappedPages().release(load_file(tmp_path / "weights.safetensors")["a"]) == 0
