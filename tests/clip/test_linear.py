"""Other linear layers in a transformer, compared with torch's own modules."""

from __future__ import annotations

import pytest
import torch
from torch.nn import Linear, MultiheadAttention, TransformerEncoderLayer

from curation_features.clip.int8 import Int8Linear
from curation_features.clip.linear import SelfAttention, replace_linear, transformer_of
from curation_features.clip.onednn import Bf16Linear, PackedLinear

TOLERANCE = {PackedLinear: 1e-6, Bf16Linear: 0.02, Int8Linear: 0.05}


@pytest.fixture
def random() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def masks(count: int, heads: int, tokens: int) -> dict[str, torch.Tensor | None]:
    causal = torch.full((tokens, tokens), -torch.inf).triu(1)
    of_each_head = torch.randn((count * heads, tokens, tokens), generator=torch.Generator().manual_seed(1))
    return {"none": None, "causal": causal, "of each head": of_each_head}


@pytest.mark.parametrize("layer", TOLERANCE)
@pytest.mark.parametrize("mask", ["none", "causal", "of each head"])
def test_attention_is_torchs(random, layer, mask):
    torch.manual_seed(0)
    theirs = MultiheadAttention(64, 4, batch_first=True).eval()
    torch.nn.init.normal_(theirs.in_proj_bias)
    x = torch.randn((2, 7, 64), generator=random)
    added = masks(2, 4, 7)[mask]
    with torch.inference_mode():
        found, _ = SelfAttention(theirs, layer)(x, x, x, need_weights=False, attn_mask=added)
        expected, _ = theirs(x, x, x, need_weights=False, attn_mask=added)
    torch.testing.assert_close(found, expected, atol=TOLERANCE[layer], rtol=0)
    with pytest.raises(RuntimeError, match="self-attention"):
        SelfAttention(theirs, layer)(x, x.clone(), x)


@pytest.mark.parametrize("layer", TOLERANCE)
@pytest.mark.parametrize("bias", [True, False])
def test_a_layer_is_torchs(random, layer, bias):
    torch.manual_seed(0)
    theirs = Linear(64, 48, bias=bias)
    x = torch.randn((3, 5, 64), generator=random)
    with torch.inference_mode():
        ours = layer(theirs.weight, theirs.bias)
        assert ours(x).dtype == torch.float32
        torch.testing.assert_close(ours(x), theirs(x), atol=TOLERANCE[layer], rtol=0)
        assert ours(x[:0]).shape == (0, 5, 48)


def test_only_layers_with_the_same_meaning_are_replaced():
    class Halved(Linear):
        def forward(self, x):
            return super().forward(x) / 2

    batch_second = MultiheadAttention(8, 2)
    other_keys = MultiheadAttention(8, 2, kdim=4, vdim=4, batch_first=True)
    extra_key = MultiheadAttention(8, 2, add_bias_kv=True, batch_first=True)
    halved = Halved(8, 8)
    inner = torch.nn.Sequential(Linear(8, 8), torch.nn.GELU())
    module = torch.nn.Sequential(
        MultiheadAttention(8, 2, batch_first=True), inner, batch_second, other_keys, extra_key, halved
    )
    assert replace_linear(module, PackedLinear) == 2
    assert isinstance(module[0], SelfAttention)
    assert isinstance(inner[0], PackedLinear)
    assert [*module][2:] == [batch_second, other_keys, extra_key, halved]


def test_a_tower_without_a_transformer_has_none():
    assert transformer_of(torch.nn.Conv2d(3, 8, 3)) is None
    tower = torch.nn.Module()
    tower.trunk = TransformerEncoderLayer(8, 2)
    assert transformer_of(tower) is tower.trunk
