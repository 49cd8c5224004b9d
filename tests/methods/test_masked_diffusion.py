"""Masked diffusion trained end to end and in blocks."""

import math

import pytest
import torch

from dblocks import seeds
from dblocks.build import build
from dblocks.masking import bound, mask_at
from dblocks.metrics.bits_per_character import bits_per_character
from dblocks.tasks.masked_text import MASK

CPU = torch.device("cpu")


@pytest.fixture
def method(austen, text_spec):
    return lambda name="diffusion_blocks", over=None: build(text_spec(name, over), austen, CPU)[0]


def test_a_step_trains_one_block_on_its_own_times(method, awaken):
    model = method()
    awaken(model.network)
    seen = set()
    for step in range(20):
        model.network.zero_grad(set_to_none=True)
        result = model.training_step(step)
        low, high = model.partition.training_interval(result.block)
        assert (result.sigma > low).all() and (result.sigma <= high).all()
        result.loss.backward()
        moved = {i for i, layer in enumerate(model.network.layers) if layer.mlp.up.weight.grad is not None}
        assert moved == {result.block}
        seen.add(result.block)
    assert seen == {0, 1, 2}


def test_the_loss_is_the_blocks_part_of_the_bound_in_nats_per_character(method, awaken):
    model = method("diffusion_blocks", {"method": {"overlap": 0.3}})
    awaken(model.network)
    result = model.training_step(3)
    tokens, t = model.task.batch(3), result.sigma
    low, high = model.partition.training_interval(result.block)
    totals = []
    for seed in range(200):
        noisy = mask_at(tokens, t, "linear", MASK, torch.Generator().manual_seed(seed))
        with torch.no_grad():
            logits = model.network.denoise(result.block, noisy, t)
        totals.append(bound(logits, tokens, noisy == MASK, t, "linear").mean() * (high - low) / 16)
    totals = torch.stack(totals)
    assert abs(totals.mean() - result.loss.item()) < 4 * totals.std()


def test_a_step_under_the_cosine_schedule_is_drawn_and_scored_as_written_out(method):
    """A fresh network is uniform over the 27 characters, so the loss has a closed form."""
    model = method("end_to_end", {"task": {"schedule": "cosine"}})
    drawn, tokens = model.draw(5), model.task.batch(5)
    draws = seeds.generator("cpu", 0, "noise", 5)
    t = (torch.arange(8) + 1 - torch.rand(1, generator=draws, dtype=torch.float64)) / 8
    uniform = torch.rand(8, 16, generator=draws, dtype=torch.float64)
    masked = uniform < (math.pi / 2 * (1 - t)).cos()[:, None]
    for found, expected in zip(drawn.tensors, (tokens, tokens.masked_fill(masked, MASK), t), strict=True):
        assert torch.equal(found, expected)
    weight = math.pi / 2 * (math.pi / 2 * (1 - t)).tan()
    expected = (weight * masked.sum(dim=1)).mean() * math.log(27) / 16
    assert model.loss(drawn).item() == pytest.approx(expected.item(), rel=1e-5)


def test_end_to_end_is_one_block_of_all_layers_over_all_times(method):
    model = method("end_to_end")
    assert model.partition.training_interval(0) == (0, 1)
    assert list(model.partition.layers(0)) == [0, 1, 2]
    assert model.training_step(0).block is None
    assert model.evaluations_per_block() is None


def test_block_wise_bits_equal_end_to_end_bits_when_all_blocks_hold_the_same_layers(method, awaken):
    """Every block one layer, all of the same weights, against that one layer over all times."""
    whole = method("end_to_end", {"network": {"layers": 1}})
    awaken(whole.network, deviation=0.1)
    parts = method("diffusion_blocks", {"network": {"layers": 3}})
    weights = whole.network.state_dict()
    copied = {
        name: weights[f"layers.0.{name.split('.', 2)[2]}" if name.startswith("layers") else name]
        for name in parts.network.state_dict()
    }
    parts.network.load_state_dict(copied)
    windows = whole.task.evaluation_windows().long()
    found = []
    for model in (whole, parts):
        draws = torch.Generator().manual_seed(0)
        with torch.no_grad():
            found.append(bits_per_character(model.network.denoise, windows, model.partition, MASK, 16, draws))
    assert found[1].value == pytest.approx(found[0].value, abs=1e-5)
    assert found[1].standard_error == pytest.approx(found[0].standard_error, abs=1e-5)
    assert all(found[1].evaluations)


def test_training_lowers_the_bits_below_those_of_a_uniform_predictor(method):
    model = method("end_to_end")
    optimizer = torch.optim.AdamW(model.network.parameters(), lr=1e-2)
    for step in range(40):
        optimizer.zero_grad()
        model.training_step(step).loss.backward()
        optimizer.step()
    metrics = {m.name: m.value for m in model.task.evaluate(model.predictors())}
    assert metrics["bpc"] < 4.6


@pytest.mark.parametrize("embedders", ["own", "frozen"])
def test_isolated_blocks_share_no_trained_weight(method, awaken, embedders):
    model = method("diffusion_blocks", {"method": {"embedders": embedders, "target_table": "frozen"}})
    touched = {}
    awaken(model.network)
    for step in range(20):
        model.network.zero_grad(set_to_none=True)
        result = model.training_step(step)
        result.loss.backward()
        names = {name for name, p in model.network.named_parameters() if p.grad is not None}
        assert touched.setdefault(result.block, names) == names
    assert not touched[0] & touched[1] and not touched[1] & touched[2]
