from __future__ import annotations

import hashlib
import logging
import pickle
import shutil
import sys
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants
from safetensors.torch import load_file, save_file

from curation_features.weights.assembly import MismatchError
from curation_features.weights.copies import Copies

KEY = "model-1-0123"


class Original:
    """A checkpoint that counts how often it is read."""

    def __init__(self) -> None:
        self.reads = 0
        # One storage for both, as checkpoints have it, and one of them transposed.
        values = torch.arange(12.0)
        self.tensors = {"a": values[:6].view(2, 3).T, "b": values[6:], "count": torch.tensor(7)}

    def __call__(self) -> dict[str, torch.Tensor]:
        self.reads += 1
        return dict(self.tensors)

    def equals(self, tensors: dict[str, torch.Tensor]) -> bool:
        return tensors.keys() == self.tensors.keys() and all(
            torch.equal(tensors[name], tensor) for name, tensor in self.tensors.items()
        )


@pytest.fixture
def original() -> Original:
    return Original()


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    monkeypatch.setattr(constants, "HF_ASSETS_CACHE", str(tmp_path / "assets"))
    return tmp_path / "assets" / "curation-features" / "weights" / "prepared"


@pytest.fixture
def copies(settings, folder) -> Copies:
    return Copies(settings)


@pytest.fixture
def copy(folder) -> Path:
    return folder / f"{KEY}.safetensors"


def record(path: Path) -> None:
    """Record the digest of a copy as it is now."""
    path.with_suffix(".sha256").write_text(f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}\n")


def test_the_original_is_read_once(settings, folder, copies, copy, original, caplog):
    assert original.equals(copies.tensors(KEY, original))
    assert original.equals(Copies(settings).tensors(KEY, original))
    assert original.reads == 1
    assert sorted(path.name for path in folder.iterdir()) == [f"{KEY}.safetensors", f"{KEY}.sha256"]
    recorded = copy.with_suffix(".sha256").read_text()
    record(copy)
    assert recorded == copy.with_suffix(".sha256").read_text()
    assert caplog.messages == []


def test_each_key_has_its_own_copy(copies, original):
    copies.tensors(KEY, original)
    other = {"a": torch.ones(1)}
    assert torch.equal(copies.tensors("model-1-4567", lambda: other)["a"], other["a"])
    assert original.equals(copies.tensors(KEY, original))


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_copy_is_mapped_and_not_read(copies, copy, original):
    original.tensors["large"] = torch.rand(1 << 20)
    for tensors in (copies.tensors(KEY, original), copies.tensors(KEY, original)):
        mapped = [line.split() for line in Path("/proc/self/maps").read_text().splitlines() if str(copy) in line]
        ranges = [tuple(int(end, 16) for end in fields[0].split("-")) for fields in mapped]
        for tensor in tensors.values():
            assert any(start <= tensor.data_ptr() < end for start, end in ranges)


def test_a_model_is_built_of_the_copys_tensors(copies, original):
    for _ in range(2):
        assert copies.load(KEY, original, lambda tensors: tensors["b"].sum().item()) == 51
    assert original.reads == 1


@pytest.mark.parametrize("name", [f"{KEY}.safetensors", f"{KEY}.sha256"])
def test_a_copy_without_its_digest_or_a_digest_without_its_copy_is_none(copies, folder, original, name, caplog):
    copies.tensors(KEY, original)
    (folder / name).unlink()
    assert original.equals(copies.tensors(KEY, original))
    assert original.equals(copies.tensors(KEY, original))
    assert original.reads == 2
    assert caplog.messages == []


def test_an_altered_copy_is_made_anew(copies, copy, original, caplog):
    copies.tensors(KEY, original)
    data = copy.read_bytes()
    copy.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    assert original.equals(copies.tensors(KEY, original))
    assert caplog.messages == [f"{copy} was altered and is made anew"]
    assert copy.read_bytes() == data
    copies.tensors(KEY, original)
    assert original.reads == 2


class Bomb:
    """Writes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return Path.write_text, (self.path, "executed")


@pytest.mark.parametrize("content", ["pickle", "torch", "html", "empty", "truncated"])
def test_a_copy_of_another_format_is_made_anew_whatever_its_digest(copies, copy, original, content, tmp_path, caplog):
    copies.tensors(KEY, original)
    data = copy.read_bytes()
    bomb = tmp_path / "bomb"
    if content == "torch":
        torch.save({"a": Bomb(bomb)}, copy)
    else:
        written = {
            "pickle": pickle.dumps({"a": Bomb(bomb)}),
            "html": b"<!DOCTYPE html><p>Not found</p>",
            "empty": b"",
            "truncated": data[:-3],
        }
        copy.write_bytes(written[content])
    record(copy)
    assert original.equals(copies.tensors(KEY, original))
    assert not bomb.exists()
    (message,) = caplog.messages
    assert f"{copy} cannot be used (" in message
    assert "is made anew" in message
    assert copy.read_bytes() == data


def test_the_bomb_goes_off_where_it_is_unpickled(tmp_path):
    pickle.loads(pickle.dumps(Bomb(tmp_path / "bomb")))
    assert (tmp_path / "bomb").exists()


def test_a_copy_that_does_not_fit_is_made_anew_whatever_its_digest(copies, copy, original, caplog):
    def build(tensors):
        if not original.equals(tensors):
            raise MismatchError("it holds something else")
        return "built"

    copies.load(KEY, original, build)
    save_file({"a": torch.ones(1)}, copy)
    record(copy)
    assert copies.load(KEY, original, build) == "built"
    assert caplog.messages == [f"{copy} cannot be used (it holds something else) and is made anew"]
    assert original.equals(load_file(copy))


def test_no_copy_stays_of_an_original_that_does_not_fit(copies, copy, original, caplog):
    def build(tensors):
        raise MismatchError("it is another model")

    for _ in range(2):
        with pytest.raises(MismatchError, match="it is another model"):
            copies.load(KEY, original, build)
        assert not copy.exists()
    assert caplog.messages == []


def test_an_original_that_cannot_be_read_leaves_nothing(copies, folder):
    def make():
        raise MismatchError("it cannot be read")

    with pytest.raises(MismatchError, match="it cannot be read"):
        copies.tensors(KEY, make)
    assert not folder.exists()


def test_a_copy_that_cannot_be_kept_costs_nothing_but_time(copies, folder, original, caplog):
    folder.parent.mkdir(parents=True)
    folder.write_text("a file in place of the folder")
    for _ in range(2):
        assert original.equals(copies.tensors(KEY, original))
    assert original.reads == 2
    assert len(caplog.messages) == 2
    assert all("the next run reads the original again" in message for message in caplog.messages)


def test_a_write_that_fails_leaves_no_half_copy(copies, folder, original, monkeypatch, caplog):
    def fill_the_disk(tensors, path):
        Path(path).write_bytes(b"half")
        raise OSError("No space left on device")

    monkeypatch.setattr("safetensors.torch.save_file", fill_the_disk)
    assert original.equals(copies.tensors(KEY, original))
    assert list(folder.iterdir()) == []
    assert "No space left on device" in caplog.text


def test_the_folder_may_be_deleted_while_a_copy_is_in_use(copies, folder, original, caplog):
    caplog.set_level(logging.WARNING)
    tensors = copies.tensors(KEY, original)
    shutil.rmtree(folder)
    assert original.equals(tensors)
    assert original.equals(copies.tensors(KEY, original))
    assert caplog.messages == []
