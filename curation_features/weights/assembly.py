"""Build a model from its class and the tensors of a checkpoint, without initialising or copying parameters.

A class initialises a new model at random, which takes longer than reading the checkpoint. Here its parameters get no
storage, and the tensors (usually mapped from a file) are assigned:

    with without_parameters():
        model = Model(...)
    check_fit(model, tensors)
    check_values(tensors)
    for name, tensor in tensors.items():
        place(model, name, tensor, device)

`Copies` converts checkpoints that cannot be mapped to safetensors, once.
"""

from __future__ import annotations

import logging
import math
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from curation_features import atomic_files
from curation_features.settings import Settings
from curation_features.weights.files import digest, weights_folder

if TYPE_CHECKING:
    import torch

logger = logging.getLogger(__name__)

T = TypeVar("T")


class MismatchError(ValueError):
    """The checkpoint does not fit the model. The message is a clause about it: "it lacks ..."."""


@contextmanager
def without_parameters() -> Iterator[None]:
    """Give the parameters of modules that this thread builds no storage (`meta`).

    Buffers and plain tensors stay real: a mask or position table that is not in the checkpoint keeps the values of its
    constructor. Other threads are not affected.
    """
    import torch
    from torch.nn.modules.module import register_module_parameter_registration_hook

    owner = threading.get_ident()

    def empty(module: torch.nn.Module, name: str, parameter: torch.nn.Parameter) -> torch.nn.Parameter | None:
        if threading.get_ident() != owner:
            return None
        return torch.nn.Parameter(parameter.detach().to("meta"), requires_grad=False)

    handle = register_module_parameter_registration_hook(empty)  # type: ignore[arg-type]  # typed to return nothing
    try:
        yield
    finally:
        handle.remove()


def check_fit(model: torch.nn.Module, tensors: Mapping[str, torch.Tensor]) -> None:
    """Raise MismatchError unless names and shapes equal those of the model's parameters and buffers."""
    expected = model.state_dict()
    problems = [
        *(f"lacks {name}" for name in expected if name not in tensors),
        *(f"holds {name}, which the model has not" for name in tensors if name not in expected),
        *(
            f"has {name} as {tuple(tensors[name].shape)} instead of {tuple(tensor.shape)}"
            for name, tensor in expected.items()
            if name in tensors and tensors[name].shape != tensor.shape
        ),
    ]
    if problems:
        more = f", and {len(problems) - 3} more" if len(problems) > 3 else ""
        raise MismatchError(f"it {'; it '.join(problems[:3])}{more}")


def check_values(tensors: Mapping[str, torch.Tensor]) -> None:
    """Raise MismatchError if a value is not finite, or if all are 0. Reads each byte once, without a copy."""
    import torch

    # aminmax propagates NaN.
    ranges = {name: [float(end) for end in torch.aminmax(tensor)] for name, tensor in tensors.items() if tensor.numel()}
    broken = [name for name, ends in ranges.items() if not all(map(math.isfinite, ends))]
    if broken:
        raise MismatchError(f"it holds values that are not finite, in {broken[0]}")
    if not any(map(any, ranges.values())):
        raise MismatchError("it holds nothing but zeros")


def place(model: torch.nn.Module, name: str, tensor: torch.Tensor, device: str) -> None:
    """Assign a tensor to a model, in the model's dtype for it. Copies only to change dtype or device.

    Args:
        name: the parameter or buffer, as in `state_dict`.
        device: the device of the model.
    """
    import torch

    owner, _, leaf = name.rpartition(".")
    module = model.get_submodule(owner)
    current = getattr(module, leaf)
    tensor = tensor.to(device, current.dtype)
    is_parameter = isinstance(current, torch.nn.Parameter)
    setattr(module, leaf, torch.nn.Parameter(tensor, requires_grad=False) if is_parameter else tensor)


class Copies:
    """Safetensors copies of checkpoints in other formats, written once and then mapped.

    They are in `prepared/` of the weights folder, which may be deleted at any time. The sha256 of each is stored next
    to it, in the format of `sha256sum`: an altered copy is detected and replaced.

    Args:
        settings: of the project that remembers digests.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._folder = weights_folder() / "prepared"

    def load(
        self,
        key: str,
        make: Callable[[], Mapping[str, torch.Tensor]],
        build: Callable[[dict[str, torch.Tensor]], T],
    ) -> T:
        """Return the result of `build` for the tensors of a copy, mapped from its file.

        An unusable copy is replaced, and without space for a copy the original's tensors are used; both log a warning.

        Args:
            key: name of the copy, with the digest of the original.
            make: reads the original.
            build: raises `MismatchError` if the tensors do not fit.

        Raises:
            MismatchError: from `make` or `build` for the original; no copy of it is kept.
        """
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        path = self._folder / f"{key}.safetensors"
        if self._is_intact(path):
            try:
                return build(load_file(path))
            except (MismatchError, SafetensorError) as error:
                logger.warning("%s cannot be used (%s) and is replaced", path, error)
        try:
            return build(self._write_and_map(path, make()))
        except MismatchError:
            with suppress(OSError):
                path.unlink()
            raise

    def _is_intact(self, path: Path) -> bool:
        try:
            is_intact = path.with_suffix(".sha256").read_text().split()[:1] == [digest(self._settings, path)]
        except (OSError, ValueError):
            return False
        if not is_intact:
            logger.warning("%s was altered and is replaced", path)
        return is_intact

    def _write_and_map(self, path: Path, original: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Write a copy and map it. If that fails, return the original tensors."""
        from safetensors.torch import load_file, save_file

        # safetensors requires tensors whose storage holds nothing else.
        tensors = {name: tensor.detach().contiguous() for name, tensor in original.items()}
        for name, tensor in tensors.items():
            if tensor.untyped_storage().nbytes() != tensor.nbytes:
                tensors[name] = tensor.clone()
        try:
            atomic_files.sweep(self._folder)
            with atomic_files.replacing(path) as temporary:
                save_file(tensors, temporary)
            record = f"{digest(self._settings, path)}  {path.name}\n"
            atomic_files.write_bytes(path.with_suffix(".sha256"), record.encode())
            return load_file(path)
        except Exception as error:  # safetensors has its own error for a full disk
            logger.warning("%s cannot be written (%s): the next run reads the original again", path, error)
            return tensors
