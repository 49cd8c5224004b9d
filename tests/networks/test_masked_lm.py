"""The masked language model: shapes, positions, blocks, and the mask that is never a prediction."""

import pytest
import torch

from dblocks.masking import mask_partition
from dblocks.networks.masked_lm import MaskedLM
from dblocks.networks.transformer import RotaryPositions, TransformerLayer, rotate
from dblocks.spec import MaskedLMSpec

SPEC = MaskedLMSpec(layers=3, width=16, heads=2, mlp_ratio=2.0, dropout=0.0)


def network(blocks: tuple[int, ...] = (3,), **options) -> MaskedLM:
    return MaskedLM(SPEC, mask_partition("linear", blocks), 27, **options)


def inputs(n: int = 2, length: int = 8) -> tuple[torch.Tensor, torch.Tensor]:
    draws = torch.Generator().manual_seed(0)
    return torch.randint(28, (n, length), generator=draws), torch.rand(n, generator=draws, dtype=torch.float64)


def test_logits_are_of_the_characters_alone_and_uniform_before_training():
    logits = network().denoise(0, *inputs())
    assert logits.shape == (2, 8, 27)
    assert (logits == 0).all()


def test_the_papers_size_has_twelve_layers_of_width_768():
    with torch.device("meta"):
        model = MaskedLM(MaskedLMSpec(), mask_partition("linear", (12,)), 27)
    attention_and_mlp = 12 * 12 * 768**2
    modulation = 12 * 6 * 768**2
    total = sum(p.numel() for p in model.parameters())
    assert attention_and_mlp + modulation < total < 1.03 * (attention_and_mlp + modulation)


def test_a_block_runs_its_own_layers_and_no_other(awaken):
    model = awaken(network((1, 1, 1)))
    tokens, t = inputs()
    for block in range(3):
        model.zero_grad(set_to_none=True)
        model.denoise(block, tokens, t).sum().backward()
        moved = [i for i, layer in enumerate(model.layers) if any(p.grad is not None for p in layer.parameters())]
        assert moved == [block]


def test_the_time_and_every_character_matter_to_every_position(awaken):
    model = awaken(network())
    tokens, t = inputs()
    before = model.denoise(0, tokens, t)
    assert not torch.allclose(before, model.denoise(0, tokens, t / 2))
    changed = tokens.clone()
    changed[:, 3] = (changed[:, 3] + 1) % 27
    assert ((model.denoise(0, changed, t) - before).abs().amax(dim=-1) > 0).all()


@torch.no_grad()
def test_the_time_conditions_by_sinusoids_of_t_times_the_scale_of_the_spec():
    spec, t = SPEC.model_copy(update={"time_scale": 30.0}), torch.tensor([0.0, 0.3, 1.0])
    embed = MaskedLM(spec, mask_partition("linear", (3,)), 27).embedders[0].time
    angles = 30 * t[:, None] * 10_000 ** (-torch.arange(128) / 128)
    assert torch.allclose(embed(t), embed.mlp(torch.cat([angles.cos(), angles.sin()], dim=1)), atol=1e-4)


def test_rotary_positions_have_the_base_of_the_spec():
    spec = SPEC.model_copy(update={"rotary_base": 100.0})
    rates = MaskedLM(spec, mask_partition("linear", (3,)), 27).rotary.rates
    assert torch.allclose(rates, torch.tensor([1.0, 100 ** -(2 / 8), 100 ** -(4 / 8), 100 ** -(6 / 8)]))


@pytest.mark.parametrize(("embedders", "copies", "heads"), [("shared", 1, 1), ("own", 3, 3), ("frozen", 1, 3)])
def test_embedders_are_shared_own_or_frozen(embedders, copies, heads):
    model = network((1, 1, 1), embedders=embedders)
    assert (len(model.embedders), len(model.heads)) == (copies, heads)
    assert all(p.requires_grad == (embedders != "frozen") for p in model.embedders.parameters())


def test_rotary_scores_depend_on_distance_alone_and_keep_lengths():
    cosines, sines = RotaryPositions(8)(20, torch.device("cpu"))
    assert cosines.shape == (20, 4)
    q, k = torch.randn(2, 8, generator=torch.Generator().manual_seed(0))
    scores = rotate(q.expand(20, 8), cosines, sines) @ rotate(k.expand(20, 8), cosines, sines).T
    for distance in (-7, 0, 3):
        diagonal = scores.diagonal(distance)
        torch.testing.assert_close(diagonal, diagonal[:1].expand_as(diagonal), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(scores[0, 0], q @ k)
    assert scores[0, 5].item() != pytest.approx(scores[5, 0].item())
    torch.testing.assert_close(rotate(q.expand(20, 8), cosines, sines).norm(dim=-1), q.norm().expand(20))


def test_without_rotation_the_layer_does_not_know_the_order_of_its_tokens_and_with_it_does(awaken):
    layer = awaken(TransformerLayer(16, 2, 2.0))
    x = torch.randn(1, 6, 16, generator=torch.Generator().manual_seed(1))
    order = torch.tensor([3, 1, 0, 5, 4, 2])
    torch.testing.assert_close(layer(x[:, order]), layer(x)[:, order])
    rotation = RotaryPositions(8)(6, torch.device("cpu"))
    assert not torch.allclose(layer(x[:, order], None, rotation), layer(x, None, rotation)[:, order])
