"""Linear layers of CPUs through oneDNN, in float32 with packed weights, and in bfloat16.

In float32 torch uses its BLAS, which is MKL on x86. MKL runs at half of a core's speed on AMD processors with AVX-512;
oneDNN, which torch has, too, does not. Packed weights have the order in which oneDNN's product reads them.
"""

from __future__ import annotations

import logging
from functools import cache
from typing import TYPE_CHECKING

import torch
from torch.nn.functional import linear

from curation_features.devices.processor import is_avx512_amd

if TYPE_CHECKING:
    from torch import Tensor

logger = logging.getLogger(__name__)

ROUNDING = 1e-5
"""Largest difference between both products, as a fraction of the largest value."""

_TOKENS, _WIDTH = 257, 1024  # a photo and the smallest product of ViT-L/14


class PackedLinear(torch.nn.Module):
    """A linear layer in float32 with weights packed for oneDNN.

    Args:
        weight: (out, in), float32.
        bias: (out,), or None.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        self.weight = torch.ops.mkldnn._reorder_linear_weight(weight.detach())  # open_clip reads its dtype
        self.bias = None if bias is None else bias.detach().clone()

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., in) to (..., out)."""
        output: Tensor = torch.ops.mkldnn._linear_pointwise(x, self.weight, self.bias, "none", [], "")
        return output


class Bf16Linear(torch.nn.Module):
    """A linear layer in bfloat16, from float32 to float32: sums are in float32, and rounded to bfloat16 once.

    Args:
        weight: (out, in).
        bias: (out,), or None.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        self.weight = weight.detach().to(torch.bfloat16)
        self.bias = None if bias is None else bias.detach().to(torch.bfloat16)

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., in) to (..., out)."""
        return linear(x.to(torch.bfloat16), self.weight, self.bias).float()


@cache
def packed_linear() -> type[PackedLinear] | None:
    """Return the packed layer if oneDNN's product is faster than torch's own on this processor, else None.

    The processor decides, not a comparison by time: the last bits of both products differ, so that two processes of one
    machine would give other vectors if another program disturbed the comparison of one. On AMD's processors with
    AVX-512 oneDNN is twice as fast; on others both are about as fast (AVX2: 1.04 to 1.2 times for one product, 0.99
    for all of ViT-L/14), and packing would take longer than it saves.

    None, too, if torch has another oneDNN operator than expected, or none, or if its results differ.
    """
    if not is_avx512_amd():
        return None
    try:
        _check_product()
    except (AttributeError, RuntimeError, TypeError, ArithmeticError) as error:  # a private operator of torch
        logger.debug("oneDNN's packed product is not used: %s", error)
        return None
    return PackedLinear


def _check_product() -> None:
    """Raise ArithmeticError if the packed product differs from torch's."""
    draw = torch.Generator().manual_seed(0)
    x, weight, bias = (torch.randn(shape, generator=draw) for shape in ((_TOKENS, _WIDTH), (_WIDTH, _WIDTH), (_WIDTH,)))
    with torch.inference_mode():
        expected, found = linear(x, weight, bias), PackedLinear(weight, bias)(x)
    if not (found - expected).abs().max() <= ROUNDING * expected.abs().max():
        raise ArithmeticError("its results differ from torch's")
