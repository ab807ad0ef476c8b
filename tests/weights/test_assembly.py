from __future__ import annotations

import hashlib
import pickle
import shutil
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants
from safetensors.torch import load_file, save_file

from curation_features.weights.assembly import Copies, MismatchError, check_fit, check_values, place, without_parameters


class Net(torch.nn.Module):
    """Parameters, buffers in and out of the checkpoint, and a plain tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.BatchNorm1d(2))
        self.scale = torch.nn.Parameter(torch.tensor(2.0))
        self.register_buffer("mask", torch.tensor([1.0, 0.0]), persistent=False)
        self.plain = torch.arange(3)


@pytest.fixture
def tensors() -> dict[str, torch.Tensor]:
    return {name: tensor.detach() for name, tensor in Net().state_dict().items()}


def empty() -> Net:
    with without_parameters():
        return Net()


def devices(model: Net) -> set[str]:
    return {parameter.device.type for parameter in model.parameters()}


def test_only_parameters_have_no_storage():
    model = empty()
    assert devices(model) == {"meta"}
    assert not any(parameter.requires_grad for parameter in model.parameters())
    assert torch.equal(model.mask, torch.tensor([1.0, 0.0]))
    assert torch.equal(model.plain, torch.arange(3))
    assert torch.equal(model.layers[1].running_var, torch.ones(2))


def test_models_are_complete_across_threads_and_failures():
    with without_parameters(), ThreadPoolExecutor(1) as pool:
        assert devices(pool.submit(Net).result()) == {"cpu"}
    with pytest.raises(TypeError), without_parameters():
        torch.nn.Linear("three", 2)
    assert devices(Net()) == {"cpu"}


def test_a_model_holds_the_very_tensors_in_its_dtype(tensors):
    model = empty().eval()
    check_fit(model, tensors)
    for name, tensor in tensors.items():
        place(model, name, tensor, "cpu")
    assert {name: tensor.data_ptr() for name, tensor in model.state_dict().items()} == {
        name: tensor.data_ptr() for name, tensor in tensors.items()
    }
    assert not any(parameter.requires_grad for parameter in model.parameters())
    reference = Net().eval()
    reference.load_state_dict(tensors)
    assert torch.equal(model.layers(torch.ones(1, 3)), reference.layers(torch.ones(1, 3)))
    half = empty().half()
    place(half, "layers.0.weight", tensors["layers.0.weight"], "cpu")
    assert torch.equal(half.layers[0].weight, tensors["layers.0.weight"].half())


@pytest.mark.parametrize(
    ("change", "cause"),
    [
        (lambda tensors: tensors.pop("scale"), "lacks scale"),
        (lambda tensors: tensors.pop("layers.1.running_mean"), "lacks layers.1.running_mean"),
        (lambda tensors: tensors.update(more=torch.ones(1)), "holds more"),
        (lambda tensors: tensors.update({"layers.0.weight": torch.ones(2, 4)}), r"layers.0.weight .*\(2, 4\).*\(2, 3"),
        (lambda tensors: tensors.clear(), "lacks scale; it lacks .*, and 5 more"),
    ],
    ids=["parameter", "buffer", "more", "shape", "nothing"],
)
def test_names_and_shapes_must_be_those_of_the_model(tensors, change, cause):
    change(tensors)
    with pytest.raises(MismatchError, match=cause):
        check_fit(empty(), tensors)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_values_must_be_finite(value, dtype):
    tensor = torch.ones(5, 5, dtype=dtype)
    check_values({"a": tensor})
    tensor[3, 2] = value
    with pytest.raises(MismatchError, match="not finite, in b"):
        check_values({"a": torch.ones(2), "b": tensor})


def test_not_all_values_may_be_zero():
    zeros = {"a": torch.zeros(2, 2), "count": torch.tensor(0), "none": torch.empty(0)}
    with pytest.raises(MismatchError, match="zeros"):
        check_values(zeros)
    check_values({**zeros, "b": torch.tensor(-1)})


# --- copies ---

KEY = "model-1-0123"


class Original:
    """A checkpoint that counts its reads."""

    def __init__(self) -> None:
        self.reads = 0
        # One storage for both, as in checkpoints, and one of them transposed.
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
def copy(tmp_path, monkeypatch) -> Path:
    """The copy that `copies` keeps of the original."""
    monkeypatch.setattr(constants, "HF_ASSETS_CACHE", str(tmp_path / "assets"))
    return tmp_path / "assets" / "curation-features" / "weights" / "prepared" / f"{KEY}.safetensors"


@pytest.fixture
def copies(settings, copy) -> Copies:
    return Copies(settings)


def record(path: Path) -> None:
    """Record the digest of a copy as it is now."""
    path.with_suffix(".sha256").write_text(f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}\n")


def test_the_original_is_read_once(settings, copies, copy, original, caplog):
    assert original.equals(copies.load(KEY, original, dict))
    assert original.equals(Copies(settings).load(KEY, original, dict))
    assert copies.load(KEY, original, lambda tensors: tensors["b"].sum().item()) == 51
    assert original.reads == 1
    assert sorted(path.name for path in copy.parent.iterdir()) == [f"{KEY}.safetensors", f"{KEY}.sha256"]
    recorded = copy.with_suffix(".sha256").read_text()
    record(copy)
    assert recorded == copy.with_suffix(".sha256").read_text()
    other = {"a": torch.ones(1)}
    assert torch.equal(copies.load("model-1-4567", lambda: other, dict)["a"], other["a"])
    assert original.equals(copies.load(KEY, original, dict))
    assert caplog.messages == []


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_copy_is_mapped_and_not_read(copies, copy, original):
    original.tensors["large"] = torch.rand(1 << 20)
    for tensors in (copies.load(KEY, original, dict), copies.load(KEY, original, dict)):
        mapped = [line.split() for line in Path("/proc/self/maps").read_text().splitlines() if str(copy) in line]
        ranges = [tuple(int(end, 16) for end in fields[0].split("-")) for fields in mapped]
        for tensor in tensors.values():
            assert any(start <= tensor.data_ptr() < end for start, end in ranges)


@pytest.mark.parametrize("suffix", [".safetensors", ".sha256"])
def test_a_copy_needs_its_digest(copies, copy, original, suffix, caplog):
    copies.load(KEY, original, dict)
    copy.with_suffix(suffix).unlink()
    for _ in range(2):
        assert original.equals(copies.load(KEY, original, dict))
    assert original.reads == 2
    assert caplog.messages == []


class Bomb:
    """Writes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return Path.write_text, (self.path, "executed")


@pytest.mark.parametrize("content", ["altered", "pickle", "torch", "html", "empty", "truncated", "other tensors"])
def test_a_damaged_copy_is_replaced(copies, copy, original, content, tmp_path, caplog):
    """All but the first have the recorded digest; nothing in them is executed."""

    def build(tensors):
        if not original.equals(tensors):
            raise MismatchError("it holds something else")
        return tensors

    copies.load(KEY, original, build)
    data, bomb = copy.read_bytes(), tmp_path / "bomb"
    damage = {
        "altered": lambda: copy.write_bytes(data[:-1] + bytes([data[-1] ^ 1])),
        "pickle": lambda: copy.write_bytes(pickle.dumps({"a": Bomb(bomb)})),
        "torch": lambda: torch.save({"a": Bomb(bomb)}, copy),
        "html": lambda: copy.write_bytes(b"<!DOCTYPE html><p>Not found</p>"),
        "empty": lambda: copy.write_bytes(b""),
        "truncated": lambda: copy.write_bytes(data[:-3]),
        "other tensors": lambda: save_file({"a": torch.ones(1)}, copy),
    }
    damage[content]()
    if content != "altered":
        record(copy)
    assert original.equals(copies.load(KEY, original, build))
    assert not bomb.exists()
    (message,) = caplog.messages
    assert str(copy) in message
    assert ("was altered" if content == "altered" else "cannot be used (") in message
    assert copy.read_bytes() == data
    assert original.equals(load_file(copy))
    pickle.loads(pickle.dumps(Bomb(bomb)))
    assert bomb.exists()


@pytest.mark.parametrize("step", ["make", "build"])
def test_no_copy_is_kept_of_an_original_that_does_not_fit(copies, copy, original, step, caplog):
    def refuse(*tensors):
        raise MismatchError("it is another model")

    for _ in range(2):
        with pytest.raises(MismatchError, match="it is another model"):
            copies.load(KEY, refuse if step == "make" else original, refuse)
        assert not copy.exists()
    assert caplog.messages == []


def test_a_copy_that_cannot_be_written_loses_no_result(copies, copy, original, caplog):
    copy.parent.parent.mkdir(parents=True)
    copy.parent.write_text("a file instead of the folder")
    for _ in range(2):
        assert original.equals(copies.load(KEY, original, dict))
    assert original.reads == len(caplog.messages) == 2
    assert all("cannot be written" in message for message in caplog.messages)


def test_a_copy_in_use_may_be_deleted(copies, copy, original, caplog):
    tensors = copies.load(KEY, original, dict)
    shutil.rmtree(copy.parent)
    assert original.equals(tensors)
    assert original.equals(copies.load(KEY, original, dict))
    assert caplog.messages == []
