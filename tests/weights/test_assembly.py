from __future__ import annotations

import threading

import pytest
import torch

from curation_features.weights.assembly import (
    MismatchError,
    check_fit,
    check_values,
    place,
    without_parameters,
)


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


def test_parameters_have_no_storage_and_everything_else_is_real():
    model = empty()
    assert {parameter.device.type for parameter in model.parameters()} == {"meta"}
    assert not any(parameter.requires_grad for parameter in model.parameters())
    assert torch.equal(model.mask, torch.tensor([1.0, 0.0]))
    assert torch.equal(model.plain, torch.arange(3))
    assert torch.equal(model.layers[1].running_var, torch.ones(2))


def test_models_of_other_threads_are_whole():
    built: list[Net] = []
    with without_parameters():
        thread = threading.Thread(target=lambda: built.append(Net()))
        thread.start()
        thread.join()
    assert {parameter.device.type for parameter in built[0].parameters()} == {"cpu"}


def test_models_that_are_built_afterwards_are_whole_even_if_one_could_not_be_built():
    with pytest.raises(TypeError), without_parameters():
        torch.nn.Linear("three", 2)
    assert {parameter.device.type for parameter in Net().parameters()} == {"cpu"}
    assert {parameter.device.type for parameter in empty().parameters()} == {"meta"}


def test_a_model_is_made_of_the_very_tensors(tensors):
    model = empty().eval()
    check_fit(model, tensors)
    for name, tensor in tensors.items():
        place(model, name, tensor, "cpu")
    assert {name: tensor.data_ptr() for name, tensor in model.state_dict().items()} == {
        name: tensor.data_ptr() for name, tensor in tensors.items()
    }
    assert not any(parameter.requires_grad for parameter in model.parameters())
    whole = Net().eval()
    whole.load_state_dict(tensors)
    assert torch.equal(model.layers(torch.ones(1, 3)), whole.layers(torch.ones(1, 3)))


def test_a_tensor_takes_the_type_that_the_model_has(tensors):
    model = empty().half()
    place(model, "layers.0.weight", tensors["layers.0.weight"], "cpu")
    assert torch.equal(model.layers[0].weight, tensors["layers.0.weight"].half())


@pytest.mark.parametrize(
    ("change", "cause"),
    [
        (lambda tensors: tensors.pop("scale"), "it lacks scale"),
        (lambda tensors: tensors.pop("layers.1.running_mean"), "it lacks layers.1.running_mean"),
        (lambda tensors: tensors.update(more=torch.ones(1)), "it holds more, which the model has not"),
        (
            lambda tensors: tensors.update({"layers.0.weight": torch.ones(2, 4)}),
            r"it has layers.0.weight as \(2, 4\) in place of \(2, 3\)",
        ),
        (lambda tensors: tensors.clear(), "it lacks scale; it lacks .*, and 5 more"),
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
    with pytest.raises(MismatchError, match="nothing but zeros"):
        check_values(zeros)
    check_values({**zeros, "b": torch.tensor(-1)})
