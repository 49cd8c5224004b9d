"""Block-wise training through the real loop: one step moves one block, and which one is drawn how."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats

from dblocks import seeds
from dblocks.methods.diffusion_blocks import block_of_step
from dblocks.methods.method import Drawn
from dblocks.training import Trainer

SIZES = {"network": {"layers": 6}, "training": {"weight_decay": 0.1}}
LAYERS = {"layers_per_block": (1, 2, 3)}
OWN = {**LAYERS, "embedders": "own", "target_table": "frozen"}
FROZEN = {**LAYERS, "embedders": "frozen", "target_table": "frozen"}


def state(trainer: Trainer) -> dict[str, torch.Tensor]:
    """Every weight, moment and moving average by name, copied."""
    weights = dict(trainer.network.named_parameters())
    everything = {f"weight {name}": p for name, p in weights.items()}
    for name, parameter in weights.items():
        for key, value in trainer.optimizer.state.get(parameter, {}).items():
            everything[f"{key} {name}"] = value
    everything |= {f"ema {name}": value for name, value in (trainer.ema.shadow if trainer.ema else {}).items()}
    return {name: value.detach().clone() for name, value in everything.items()}


@pytest.fixture
def steps(built, tiny_spec, tmp_path):
    """steps(method fields, n): for each of n real training steps (block, names that changed, names there are)."""

    def run(fields: dict[str, Any], count: int, **training) -> Iterator[tuple[int, set[str], set[str]]]:
        over = {**SIZES, "method": fields, "training": {**SIZES["training"], "ema_half_life": 64, **training}}
        spec = tiny_spec("diffusion_blocks", over)
        trainer = Trainer(spec, built(spec), count, tmp_path, torch.device("cpu"))
        for step in range(count):
            before = state(trainer)
            trainer.train_step(step)
            after = state(trainer)
            changed = {name for name in after if name not in before or not torch.equal(before[name], after[name])}
            yield block_of_step(spec.method.block_order, 0, step, 3), changed, set(after)

    return run


def of_block(names: set[str], block: int) -> set[str]:
    """The names of a block's layers, cut as [1, 2, 3]."""
    prefixes = tuple(f"layers.{i}." for i in ((0,), (1, 2), (3, 4, 5))[block])
    return {name for name in names if name.split(" ")[1].startswith(prefixes)}


@pytest.mark.parametrize("fields", [LAYERS, OWN, FROZEN], ids=["shared", "own", "frozen"])
@pytest.mark.parametrize("order", ["iid", "rounds"])
def test_a_step_moves_its_blocks_weights_moments_and_averages_and_no_other_blocks(steps, fields, order):
    seen = set()
    for block, changed, names in steps({**fields, "block_order": order}, 12):
        others = set().union(*(of_block(names, other) for other in range(3) if other != block))
        assert changed.isdisjoint(others)
        own = of_block(changed, block)
        assert {name.split(" ")[0] for name in own} == {"weight", "exp_avg", "exp_avg_sq", "step", "ema"}
        layers = {name.split(" ")[1].split(".")[1] for name in own if name.startswith("weight")}
        assert len(layers) == block + 1, "each of its layers moves"
        seen.add(block)
    assert seen == {0, 1, 2}


@pytest.mark.parametrize("clip", [None, 0.01])
def test_with_own_embedders_nothing_outside_the_block_moves_at_all(steps, clip):
    for block, changed, names in steps(OWN, 9, grad_clip=clip):
        prefixes = (f"embedders.{block}.", f"heads.{block}.")
        own = of_block(names, block) | {name for name in names if name.split(" ")[1].startswith(prefixes)}
        assert changed <= own
        for prefix in prefixes:
            assert any(name.startswith(f"weight {prefix}") for name in changed)


@pytest.mark.parametrize("clip", [None, 0.01])
def test_with_frozen_embedders_nothing_but_the_block_and_its_head_moves(steps, clip):
    for block, changed, names in steps(FROZEN, 9, grad_clip=clip):
        own = of_block(names, block) | {name for name in names if name.split(" ")[1].startswith(f"heads.{block}.")}
        assert changed <= own
        assert any(name.startswith(f"weight heads.{block}.") for name in changed)


def test_shared_embedders_heads_and_the_target_table_learn_from_every_block(steps):
    for _, changed, _ in steps(LAYERS, 6):
        for shared in ("table.weight", "embedders.0.patches.project.weight", "heads.0.linear.weight"):
            assert f"weight {shared}" in changed


def test_the_training_step_is_the_papers_algorithm(built, tiny_spec):
    spec = tiny_spec("diffusion_blocks", {**SIZES, "method": {"overlap": 0.1, "weighting": "paper"}})
    method, shares = built(spec), []
    for step in range(6):
        result = method.training_step(step)
        low, high = method.model.partition.training_interval(result.block)
        assert result.block == block_of_step("iid", 0, step, 3)
        assert result.sigma.shape == (16,)
        assert low * (1 - 1e-6) <= result.sigma.min() and result.sigma.max() <= high * (1 + 1e-6)
        # no noise is drawn twice: its share of the interval's mass differs in every step
        masses = [method.model.noise.mass_below(sigma) for sigma in (low, high, *result.sigma.tolist())]
        shares.append([round((mass - masses[0]) / (masses[1] - masses[0]), 4) for mass in masses[2:]])
    assert len({share for step_shares in shares for share in step_shares}) > 6 * 16 - 5


def test_the_noise_of_a_step_is_drawn_in_float64_from_its_seed(built, tiny_spec):
    method = built(tiny_spec("diffusion_blocks", {"method": {"overlap": 0.1}}))
    noise = method.model.noise
    for step in (0, 4, 5):
        draws = seeds.generator("cpu", 0, "noise", step)
        uniform = torch.rand(16, generator=draws, dtype=torch.float64).tolist()
        epsilon = torch.randn(16, 16, generator=draws)
        ends = method.model.partition.training_interval(block_of_step("iid", 0, step, 3))
        low, high = (noise.mass_below(sigma) for sigma in ends)
        _, _, sigma, found = method.draw(step).tensors
        assert sigma.tolist() == pytest.approx([noise.quantile(low + u * (high - low)) for u in uniform], rel=1e-6)
        assert torch.equal(found, epsilon)


def test_training_and_prediction_are_functions_of_seed_and_step(built, tiny_spec):
    one, again, other = (built(tiny_spec("diffusion_blocks", {"seed": seed})) for seed in (0, 0, 1))
    losses = [made.training_step(step).loss.item() for made in (one, again, other) for step in (0, 1, 0)]
    assert losses[:3] == losses[3:6] and losses[0] == losses[2]
    assert len({*losses[:2], *losses[6:8]}) == 4
    images = one.task.batch(0).inputs
    for name in ("", "sigma_max_"):
        scores = [
            made.predictors()[name].scores(images, torch.Generator().manual_seed(seed))
            for made, seed in ((one, 5), (again, 5), (one, 6))
        ]
        assert torch.equal(scores[0], scores[1]) and not torch.equal(scores[0], scores[2])


def test_sigma_max_predictor_is_the_noisiest_block_alone(built, tiny_spec, awaken):
    method = built(tiny_spec("diffusion_blocks", SIZES))
    awaken(method.network)
    images, predictors = method.task.batch(0).inputs, method.predictors()

    def scores(name: str) -> torch.Tensor:
        return predictors[name].scores(images, torch.Generator().manual_seed(0)).detach()

    before = {name: scores(name) for name in predictors}
    with torch.no_grad():
        for layer in method.network.layers[2:]:
            for parameter in layer.parameters():
                parameter.add_(0.3)
    assert torch.equal(scores("sigma_max_"), before["sigma_max_"])
    assert not torch.equal(scores(""), before[""])


@pytest.mark.parametrize("blocks", [2, 3, 4])
def test_iid_draws_are_uniform_and_do_not_know_the_step_before(blocks):
    drawn = [block_of_step("iid", 0, step, blocks) for step in range(6000)]
    assert stats.chisquare(np.bincount(drawn, minlength=blocks)).pvalue > 0.01
    pairs = np.zeros((blocks, blocks))
    for here, there in pairwise(drawn):
        pairs[here, there] += 1
    assert stats.chi2_contingency(pairs).pvalue > 0.01


@pytest.mark.parametrize("blocks", [1, 2, 3, 4])
def test_rounds_visit_each_block_once_in_an_order_that_is_shuffled(blocks):
    rounds = [tuple(block_of_step("rounds", 0, blocks * r + k, blocks) for k in range(blocks)) for r in range(1000)]
    assert all(sorted(visits) == list(range(blocks)) for visits in rounds)
    first = np.bincount([visits[0] for visits in rounds], minlength=blocks)
    assert blocks == 1 or stats.chisquare(first).pvalue > 0.01


@pytest.mark.parametrize("order", ["iid", "rounds"])
def test_block_order_depends_on_the_seed_alone(order):
    def blocks(seed: int) -> list[int]:
        return [block_of_step(order, seed, step, 3) for step in range(60)]

    assert blocks(0) == blocks(0) != blocks(1)


def test_steps_of_one_block_are_of_one_part_unless_it_is_said_otherwise():
    x = (torch.zeros(2),)
    assert [Drawn(x).part, Drawn(x, block=2).part, Drawn(x, block=0).part] == [0, 2, 0]
    assert (Drawn(x, part=None).part, Drawn(x, block=1, part=None).part, Drawn(x, part="probe").part) == (
        None,
        None,
        "probe",
    )
    assert [part.part for part in Drawn((torch.zeros(4),), block=2).parts(2)] == [2, 2]
