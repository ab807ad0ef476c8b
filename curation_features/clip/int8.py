"""Int8 quantisation of an image tower for CPUs (opt-in): about half the time, slightly different embeddings.

Weights are quantised once, to 8 bits per output channel. Inputs are quantised dynamically, to 7 bits per tensor: with 8
bits, sums of AVX2's 16-bit products may overflow. torch's fbgemm multiplies. Everything except linear layers
(attention, normalisation, convolutions) stays in float32.
"""

from __future__ import annotations

import threading
import warnings
from typing import TYPE_CHECKING, Any

import torch
from torch.nn.functional import scaled_dot_product_attention

if TYPE_CHECKING:
    from torch import Tensor

_PACKING = threading.Lock()


class Int8Linear(torch.nn.Module):
    """A linear layer with 8-bit weights.

    Args:
        weight: (out, in).
        bias: (out,), or None.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        weight = weight.detach()
        scale = (weight.abs().amax(1).double() / 127).clamp_min(torch.finfo(torch.float32).tiny)
        zeros = torch.zeros(len(weight), dtype=torch.long)
        # torch warns that quantised dtypes are deprecated. Warning filters are global, hence the lock.
        with _PACKING, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            rounded = torch.quantize_per_channel(weight, scale, zeros, 0, torch.qint8)
            self._packed = torch.ops.quantized.linear_prepack(rounded, None if bias is None else bias.detach())

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., in) to (..., out)."""
        output: Tensor = torch.ops.quantized.linear_dynamic(x, self._packed, reduce_range=True)
        return output


class Int8SelfAttention(torch.nn.Module):
    """`torch.nn.MultiheadAttention` as self-attention, batch first, with 8-bit projections."""

    def __init__(self, attention: torch.nn.MultiheadAttention) -> None:
        super().__init__()
        self._heads = attention.num_heads
        self._inputs = Int8Linear(attention.in_proj_weight, attention.in_proj_bias)
        self._output = Int8Linear(attention.out_proj.weight, attention.out_proj.bias)

    def forward(
        self, query: Tensor, key: Tensor, value: Tensor, *, need_weights: bool = False, attn_mask: Tensor | None = None
    ) -> tuple[Tensor, None]:
        """Map (N, tokens, D) to (N, tokens, D); `key` and `value` must be `query`."""
        if key is not query or value is not query or need_weights:
            raise RuntimeError("int8 supports self-attention only")
        count, tokens, width = query.shape
        heads = self._inputs(query).view(count, tokens, 3, self._heads, width // self._heads).permute(2, 0, 3, 1, 4)
        mixed = scaled_dot_product_attention(heads[0], heads[1], heads[2], attn_mask=attn_mask)
        return self._output(mixed.transpose(1, 2).reshape(count, tokens, width)), None


def tower_to_int8(visual: Any) -> bool:
    """Replace the linear layers of an open_clip (or timm) image tower by 8-bit layers, in place.

    Returns:
        Whether the tower has any; a ResNet has convolutions and stays unchanged.
    """
    blocks = getattr(visual, "transformer", None) or getattr(visual, "trunk", None)
    return blocks is not None and to_int8(blocks) > 0


def to_int8(module: torch.nn.Module) -> int:
    """Replace linear layers by 8-bit layers in place; return their number."""
    count = 0
    for name, child in list(module.named_children()):
        if isinstance(child, torch.nn.MultiheadAttention):
            if child.batch_first and child.in_proj_weight is not None:
                setattr(module, name, Int8SelfAttention(child))
                count += 1
        elif isinstance(child, torch.nn.Linear):
            setattr(module, name, Int8Linear(child.weight, child.bias))
            count += 1
        else:
            count += to_int8(child)
    return count
