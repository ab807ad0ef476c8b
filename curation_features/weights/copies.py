"""Safetensors copies of checkpoints in other formats: written once, and mapped instead of read from then on."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from curation_features import atomic_files
from curation_features.settings import Settings
from curation_features.weights.assembly import MismatchError
from curation_features.weights.digests import digest
from curation_features.weights.known_files import weights_folder

if TYPE_CHECKING:
    import torch

logger = logging.getLogger(__name__)

T = TypeVar("T")


class Copies:
    """The copies in `prepared/` of the weights folder, which may be deleted at any time.

    Beside each lies its sha256, as `sha256sum` writes it, so that one that was altered is told and made anew.

    Args:
        settings: of the project that remembers digests.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._folder = weights_folder() / "prepared"

    def tensors(self, key: str, make: Callable[[], Mapping[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
        """The tensors of a copy, mapped from its file. See `load`."""
        return self.load(key, make, lambda tensors: tensors)

    def load(
        self,
        key: str,
        make: Callable[[], Mapping[str, torch.Tensor]],
        build: Callable[[dict[str, torch.Tensor]], T],
    ) -> T:
        """What `build` makes of the tensors of a copy, mapped from its file.

        Where the copy cannot be used, it is made anew; where it cannot be kept, what was made is used. Either way a
        warning is logged.

        Args:
            key: names what is copied, with the digest of the original in it.
            make: reads the original.
            build: raises `MismatchError` where the tensors are not what they should be.

        Raises:
            MismatchError: by `make` or `build` of the original; no copy of it stays.
        """
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        path = self._folder / f"{key}.safetensors"
        if self._is_whole(path):
            try:
                return build(load_file(path))
            except (MismatchError, SafetensorError) as error:
                logger.warning("%s cannot be used (%s) and is made anew", path, error)
        try:
            return build(self._kept(path, make()))
        except MismatchError:
            with suppress(OSError):
                path.unlink()
            raise

    def _is_whole(self, path: Path) -> bool:
        try:
            recorded = path.with_suffix(".sha256").read_text().split()[:1]
            whole = recorded == [digest(self._settings, path)]
        except (OSError, ValueError):
            return False
        if not whole:
            logger.warning("%s was altered and is made anew", path)
        return whole

    def _kept(self, path: Path, original: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Write a copy and map it. Where that fails, the tensors as they are."""
        from safetensors.torch import load_file

        tensors = {name: _alone(tensor) for name, tensor in original.items()}
        try:
            self._write(path, tensors)
            return load_file(path)
        except Exception as error:  # safetensors has an error of its own for a full disk
            logger.warning("%s cannot be written (%s): the next run reads the original again", path, error)
            return tensors

    def _write(self, path: Path, tensors: dict[str, torch.Tensor]) -> None:
        from safetensors.torch import save_file

        atomic_files.sweep(self._folder)
        with atomic_files.replacing(path) as temporary:
            save_file(tensors, temporary)
        atomic_files.write_bytes(path.with_suffix(".sha256"), f"{digest(self._settings, path)}  {path.name}\n".encode())


def _alone(tensor: torch.Tensor) -> torch.Tensor:
    """A tensor whose storage holds nothing else, as safetensors wants it."""
    tensor = tensor.detach().contiguous()
    return tensor if tensor.untyped_storage().nbytes() == tensor.nbytes else tensor.clone()
