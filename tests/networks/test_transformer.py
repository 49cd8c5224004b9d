"""The transformer layer against PyTorch's own, and AdaLN-zero against its definition."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from dblocks.networks.transformer import Attention, Mlp, Modulation, NoiseEmbedding, TransformerLayer

WIDTH, HEADS = 24, 4


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def reference_layer(layer: TransformerLayer) -> nn.TransformerEncoderLayer:
    """PyTorch's pre-norm layer with the weights of ours."""
    theirs = nn.TransformerEncoderLayer(
        WIDTH, HEADS, 2 * WIDTH, dropout=0.0, activation="gelu", layer_norm_eps=1e-6, batch_first=True, norm_first=True
    ).double()
    ours = layer.state_dict()
    names = {
        "self_attn.in_proj_": "attention.qkv.",
        "self_attn.out_proj.": "attention.out.",
        "linear1.": "mlp.up.",
        "linear2.": "mlp.down.",
        "norm1.": "norm1.",
        "norm2.": "norm2.",
    }
    theirs.load_state_dict({t + k: ours[o + k] for t, o in names.items() for k in ("weight", "bias")})
    return theirs


def test_plain_layer_is_pytorchs_pre_norm_encoder_layer(awaken):
    layer = awaken(TransformerLayer(WIDTH, HEADS, 2.0).double())
    x = normal(3, 7, WIDTH).requires_grad_()
    ours, theirs = layer(x), reference_layer(layer).train()(x)
    assert torch.allclose(ours, theirs, atol=1e-10)
    # and so do their gradients
    weights = normal(3, 7, WIDTH, seed=1)
    gradients = [torch.autograd.grad((out * weights).sum(), x)[0] for out in (ours, theirs)]
    assert torch.allclose(*gradients, atol=1e-10)


def test_attention_is_softmax_of_scaled_products_over_all_tokens(awaken):
    attention, x = awaken(Attention(WIDTH, HEADS).double()), normal(2, 5, WIDTH)
    q, k, v = (normal_part.unflatten(-1, (HEADS, -1)) for normal_part in attention.qkv(x).chunk(3, dim=-1))
    weights = (torch.einsum("nihd,njhd->nhij", q, k) / math.sqrt(WIDTH // HEADS)).softmax(dim=-1)
    expected = attention.out(torch.einsum("nhij,njhd->nihd", weights, v).flatten(2))
    assert torch.allclose(attention(x), expected, atol=1e-12)


@pytest.mark.parametrize("adaln", [None, "dit", "official"])
def test_layer_is_equivariant_to_the_order_of_tokens_and_samples(awaken, adaln):
    layer = awaken(TransformerLayer(WIDTH, HEADS, 2.0, adaln=adaln).double())
    x, condition = normal(3, 7, WIDTH), normal(3, WIDTH, seed=1) if adaln else None
    tokens, samples = torch.randperm(7, generator=torch.Generator().manual_seed(0)), torch.tensor([2, 0, 1])
    out = layer(x, condition)
    assert torch.allclose(layer(x[:, tokens], condition), out[:, tokens], atol=1e-12)
    assert torch.allclose(layer(x[samples], None if condition is None else condition[samples]), out[samples])


@pytest.mark.parametrize("adaln", ["dit", "official"])
def test_adaln_layer_is_the_identity_at_initialisation_and_can_leave_it(adaln):
    layer = TransformerLayer(WIDTH, HEADS, 2.0, dropout=0.5, adaln=adaln).double()
    x, condition = normal(3, 7, WIDTH), normal(3, WIDTH, seed=1)
    out = layer(x, condition)
    assert torch.equal(out, x)
    (out * normal(3, 7, WIDTH, seed=2)).sum().backward()
    assert layer.modulation.linear.weight.grad.abs().max() > 0


@pytest.mark.parametrize("adaln", ["dit", "official"])
def test_adaln_layer_shifts_scales_and_gates_both_branches(awaken, adaln):
    layer = awaken(TransformerLayer(WIDTH, HEADS, 2.0, adaln=adaln).double())
    x, condition = normal(3, 7, WIDTH), normal(3, WIDTH, seed=1)
    linear, silu = layer.modulation.linear, nn.functional.silu
    vectors = linear(silu(condition)) if adaln == "dit" else silu(linear(silu(condition)))
    shift1, scale1, gate1, shift2, scale2, gate2 = vectors[:, None].split(WIDTH, dim=-1)

    def norm(t: torch.Tensor, affine: nn.LayerNorm) -> torch.Tensor:
        t = (t - t.mean(-1, keepdim=True)) / (t.var(-1, correction=0, keepdim=True) + 1e-6).sqrt()
        return t if adaln == "dit" else t * affine.weight + affine.bias

    h = x + gate1 * layer.attention(norm(x, layer.norm1) * (1 + scale1) + shift1)
    expected = h + gate2 * layer.mlp(norm(h, layer.norm2) * (1 + scale2) + shift2)
    assert torch.allclose(layer(x, condition), expected, atol=1e-10)


def test_adaln_conditions_samples_one_by_one(awaken):
    layer = awaken(TransformerLayer(WIDTH, HEADS, 2.0, adaln="dit").double())
    x, condition = normal(3, 7, WIDTH), normal(3, WIDTH, seed=1)
    changed = condition.clone()
    changed[1] += 1
    differs = (layer(x, condition) != layer(x, changed)).flatten(1).any(dim=1)
    assert differs.tolist() == [False, True, False]


def test_silu_stands_before_the_modulation_and_in_the_official_code_after_it_too(awaken):
    condition = normal(4, WIDTH)
    dit, official = (awaken(Modulation(WIDTH, 2, adaln).double()) for adaln in ("dit", "official"))
    linear = dit.linear
    assert torch.allclose(torch.cat(dit(condition), -1)[:, 0], linear(condition * condition.sigmoid()))
    late = linear(condition * condition.sigmoid())
    assert torch.allclose(torch.cat(official(condition), -1)[:, 0], late * late.sigmoid())


def test_dropout_works_in_training_only(awaken):
    for adaln in (None, "dit"):
        layer = awaken(TransformerLayer(WIDTH, HEADS, 2.0, dropout=0.3, adaln=adaln).double())
        without = awaken(TransformerLayer(WIDTH, HEADS, 2.0, dropout=0.0, adaln=adaln).double())
        x, condition = normal(3, 7, WIDTH), normal(3, WIDTH, seed=1)
        assert not torch.equal(layer.train()(x, condition), layer(x, condition))
        assert torch.equal(layer.eval()(x, condition), without(x, condition))


@pytest.mark.parametrize("part", [Attention(WIDTH, HEADS, 0.5), Mlp(WIDTH, 48, 0.5)])
def test_each_branch_drops_out_on_its_own(part):
    x = normal(2, 5, WIDTH).float()
    assert not torch.equal(part.train()(x), part(x))
    assert torch.equal(part.eval()(x), part(x))


@pytest.mark.parametrize("scale", [1.0, 1000.0])
def test_noise_embedding_is_dits_sinusoid_of_the_scaled_level(scale):
    embedding = NoiseEmbedding(WIDTH, scale, frequencies=8)
    embedding.mlp = nn.Identity()
    levels = torch.tensor([-1.55, 0.0, 1.095])
    angles = [[scale * c * 10000 ** (-k / 4) for k in range(4)] for c in levels.tolist()]
    expected = [[*map(math.cos, row), *map(math.sin, row)] for row in angles]
    assert torch.allclose(embedding(levels), torch.tensor(expected), atol=2e-4)


def test_noise_embedding_tells_levels_apart(awaken):
    embedding = awaken(NoiseEmbedding(WIDTH))
    out = embedding(torch.linspace(-1.55, 1.1, 8))
    assert out.shape == (8, WIDTH)
    assert torch.pdist(out).min() > 1e-3


@pytest.mark.parametrize("adaln", ["dit", "official"])
def test_two_conditions_modulate_a_half_each_as_one_condition_a_token_does(adaln):
    """Also where a half has one condition for all its tokens; and so do all gradients."""
    layer = TransformerLayer(8, 2, adaln=adaln, gated_hidden=12).double()
    draws = torch.Generator().manual_seed(0)
    for parameter in layer.parameters():
        torch.nn.init.normal_(parameter, generator=draws)
    x, noisy, clean = (
        torch.randn(*shape, 8, generator=draws, dtype=torch.float64) for shape in ((3, 10), (3, 5), (1, 1))
    )
    whole = torch.cat([noisy, clean.expand(3, 5, -1)], dim=1)
    outputs, gradients = [], []
    for condition in ((noisy, clean), whole):
        given = x.clone().requires_grad_()
        output = layer(given, condition)
        outputs.append(output)
        gradients.append(torch.autograd.grad(output.square().sum(), [given, *layer.parameters()]))
    torch.testing.assert_close(*outputs)
    for pair in zip(*gradients, strict=True):
        torch.testing.assert_close(*pair)
