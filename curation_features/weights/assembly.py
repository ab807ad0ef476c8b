"""A model put together from its own class and the tensors of a checkpoint, without filling it first or copying them.

A class fills a new model with random numbers, which takes longer than to read the checkpoint that replaces them. Here
it is built without storage for its parameters, and the tensors (mapped from a file, as a rule) are put in their place:

    with without_parameters():
        model = Model(...)
    check_fit(model, tensors)
    check_values(tensors)
    for name, tensor in tensors.items():
        place(model, name, tensor, device)
"""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


class MismatchError(ValueError):
    """Tensors that a model cannot be made of. The message goes on after "cannot be used: "."""


@contextmanager
def without_parameters() -> Iterator[None]:
    """Give parameters that this thread registers in a module no storage (`meta`).

    Buffers and plain tensors stay real: a mask or a table of positions that is not in the checkpoint is as its
    constructor computes it. Other threads are not concerned.
    """
    import torch
    from torch.nn.modules.module import register_module_parameter_registration_hook

    owner = threading.get_ident()

    def empty(module: torch.nn.Module, name: str, parameter: torch.nn.Parameter) -> torch.nn.Parameter | None:
        if threading.get_ident() != owner:
            return None
        return torch.nn.Parameter(parameter.detach().to("meta"), requires_grad=False)

    handle = register_module_parameter_registration_hook(empty)  # type: ignore[arg-type]  # said to return nothing
    try:
        yield
    finally:
        handle.remove()


def check_fit(model: torch.nn.Module, tensors: Mapping[str, torch.Tensor]) -> None:
    """Raise MismatchError unless names and shapes are exactly those of a model's parameters and buffers."""
    wanted = model.state_dict()
    problems = [
        *(f"lacks {name}" for name in wanted if name not in tensors),
        *(f"holds {name}, which the model has not" for name in tensors if name not in wanted),
        *(
            f"has {name} as {tuple(tensors[name].shape)} in place of {tuple(tensor.shape)}"
            for name, tensor in wanted.items()
            if name in tensors and tensors[name].shape != tensor.shape
        ),
    ]
    if problems:
        more = f", and {len(problems) - 3} more" if len(problems) > 3 else ""
        raise MismatchError(f"it {'; it '.join(problems[:3])}{more}")


def check_values(tensors: Mapping[str, torch.Tensor]) -> None:
    """Raise MismatchError where numbers are not finite, or all are 0. Reads each byte once, and makes no copy."""
    import torch

    # NaN is the least and the greatest of whatever it is in.
    ranges = {name: [float(end) for end in torch.aminmax(tensor)] for name, tensor in tensors.items() if tensor.numel()}
    broken = [name for name, ends in ranges.items() if not all(map(math.isfinite, ends))]
    if broken:
        raise MismatchError(f"it holds values that are not finite, in {broken[0]}")
    if not any(map(any, ranges.values())):
        raise MismatchError("it holds nothing but zeros")


def place(model: torch.nn.Module, name: str, tensor: torch.Tensor, device: str) -> None:
    """Put a tensor into a model, in the type that the model has for it. Where nothing changes, nothing is copied.

    Args:
        name: of the parameter or buffer, as in `state_dict`.
        device: where the model will run.
    """
    import torch

    owner, _, leaf = name.rpartition(".")
    module = model.get_submodule(owner)
    wanted = getattr(module, leaf)
    tensor = tensor.to(device, wanted.dtype)
    is_parameter = isinstance(wanted, torch.nn.Parameter)
    setattr(module, leaf, torch.nn.Parameter(tensor, requires_grad=False) if is_parameter else tensor)
