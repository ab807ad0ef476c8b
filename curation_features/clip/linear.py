"""Replace the linear layers of a transformer by other implementations of the same product."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeAlias

import torch
from torch.nn.functional import scaled_dot_product_attention

if TYPE_CHECKING:
    from torch import Tensor

LinearLayer: TypeAlias = "Callable[[Tensor, Tensor | None], torch.nn.Module]"
"""Makes a layer that maps (..., in) to (..., out), from a weight (out, in) and a bias (out,) or None."""


class SelfAttention(torch.nn.Module):
    """`torch.nn.MultiheadAttention` as self-attention, batch first, with other projections.

    Args:
        attention: batch first, with one weight for query, key and value.
        linear: makes the projections.
    """

    def __init__(self, attention: torch.nn.MultiheadAttention, linear: LinearLayer) -> None:
        super().__init__()
        self._heads = attention.num_heads
        self._inputs = linear(attention.in_proj_weight, attention.in_proj_bias)
        self._output = linear(attention.out_proj.weight, attention.out_proj.bias)

    def forward(
        self, query: Tensor, key: Tensor, value: Tensor, *, need_weights: bool = False, attn_mask: Tensor | None = None
    ) -> tuple[Tensor, None]:
        """Map (N, tokens, D) to (N, tokens, D); `key` and `value` must be `query`.

        Args:
            attn_mask: added to the scores: (tokens, tokens), or (N * heads, tokens, tokens).
        """
        if key is not query or value is not query or need_weights:
            raise RuntimeError("only self-attention without weights is supported")
        count, tokens, width = query.shape
        heads = self._inputs(query).view(count, tokens, 3, self._heads, width // self._heads).permute(2, 0, 3, 1, 4)
        if attn_mask is not None and attn_mask.ndim == 3:
            attn_mask = attn_mask.view(count, self._heads, tokens, tokens)
        mixed = scaled_dot_product_attention(heads[0], heads[1], heads[2], attn_mask=attn_mask)
        return self._output(mixed.transpose(1, 2).reshape(count, tokens, width)), None


def replace_linear(module: torch.nn.Module, linear: LinearLayer) -> int:
    """Replace the linear layers and self-attentions of a module in place; return their number.

    Each layer is freed before the next is made, so that memory holds at most one layer twice.
    """
    count = 0
    for name, child in list(module.named_children()):
        if isinstance(child, torch.nn.MultiheadAttention):
            if child.batch_first and child.in_proj_weight is not None and child.bias_k is None:
                setattr(module, name, SelfAttention(child, linear))
                count += 1
        elif isinstance(child, torch.nn.Linear) and type(child).forward is torch.nn.Linear.forward:
            setattr(module, name, linear(child.weight, child.bias))
            count += 1
        else:
            count += replace_linear(child, linear)
    return count


def transformer_of(tower: Any) -> torch.nn.Module | None:
    """The transformer of an image or text tower of open_clip, timm or `transformers`; None if it has none."""
    blocks = getattr(tower, "transformer", None) or getattr(tower, "trunk", None)
    return blocks if isinstance(blocks, torch.nn.Module) else None
