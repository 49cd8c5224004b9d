"""Which block owns which noise and which layers: boundaries, ties, and that training and sampling agree."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dblocks.noise import NoiseDistribution, NoiseLevel, equal_mass_grid, rho_grid
from dblocks.partition import BOUNDARIES, Partition, noise_distribution, partition_of
from dblocks.spec import DiffusionBlocksSpec

PAPER = NoiseDistribution()
RULES = ["lower", "official"]
DISTRIBUTIONS = st.builds(
    NoiseDistribution,
    p_mean=st.floats(-3, 1),
    p_std=st.floats(0.5, 2),
    sigma_min=st.floats(1e-3, 0.05),
    sigma_max=st.floats(5, 100),
)
KINDS = st.sampled_from(sorted(BOUNDARIES))
BLOCKS = st.integers(1, 12)


def spec(**fields) -> DiffusionBlocksSpec:
    return DiffusionBlocksSpec.model_validate(fields)


def partition(blocks: int, kind: str = "equi_probability", rule: str = "lower", overlap: float = 0.0) -> Partition:
    return partition_of(
        spec(num_blocks=blocks, partition=kind, overlap=overlap, sampling={"tie_rule": rule}), num_layers=blocks
    )


@pytest.mark.parametrize(("blocks", "inner"), [(3, [0.1796, 0.5050]), (4, [0.1341, 0.3012, 0.6766])])
def test_equi_probability_boundaries_have_their_published_values(blocks, inner):
    found = partition(blocks).boundaries
    assert found[1:-1] == pytest.approx(inner, abs=5e-5)
    assert (found[0], found[-1]) == (0.002, 80.0)


@given(DISTRIBUTIONS, BLOCKS)
def test_equi_probability_gives_every_block_the_same_mass(noise, blocks):
    bounds = BOUNDARIES["equi_probability"](noise, blocks)
    masses = [noise.mass_below(high) - noise.mass_below(low) for low, high in itertools.pairwise(bounds)]
    assert masses == pytest.approx([1 / blocks] * blocks, abs=1e-9)


def test_uniform_boundaries_are_even_in_log_sigma_and_uneven_in_mass():
    three = partition(3, "uniform")
    assert three.boundaries[1:-1] == pytest.approx([0.068, 2.34], rel=0.01)
    shares = [PAPER.mass_below(high) - PAPER.mass_below(low) for low, high in map(three.interval, (2, 1, 0))]
    assert shares == pytest.approx([0.11, 0.85, 0.04], abs=0.005)


@given(DISTRIBUTIONS, BLOCKS)
def test_uniform_intervals_have_one_ratio_and_linear_ones_one_width(noise, blocks):
    ratio = (noise.sigma_max / noise.sigma_min) ** (1 / blocks)
    width = (noise.sigma_max - noise.sigma_min) / blocks
    log, linear = BOUNDARIES["uniform"](noise, blocks), BOUNDARIES["uniform_linear"](noise, blocks)
    for k in range(blocks):
        assert log[k + 1] / log[k] == pytest.approx(ratio)
        assert linear[k + 1] - linear[k] == pytest.approx(width)


@given(DISTRIBUTIONS, BLOCKS, KINDS)
def test_intervals_tile_the_noise_range_with_block_1_the_noisiest(noise, blocks, kind):
    cut = Partition(BOUNDARIES[kind](noise, blocks), (1,) * blocks)
    intervals = [cut.interval(block) for block in range(blocks)]
    assert (intervals[0][1], intervals[-1][0]) == (noise.sigma_max, noise.sigma_min)
    assert all(low < high for low, high in intervals)
    assert all(noisier[0] == calmer[1] for noisier, calmer in itertools.pairwise(intervals))


@given(BLOCKS, KINDS, st.floats(0, 1))
def test_overlap_widens_by_alpha_in_log_sigma_and_is_clipped(blocks, kind, overlap):
    cut = partition(blocks, kind, overlap=overlap)
    for block in range(blocks):
        low, high = cut.interval(block)
        widened = math.log(high / low) * overlap
        wide_low, wide_high = cut.training_interval(block)
        assert wide_low == pytest.approx(max(math.exp(math.log(low) - widened), 0.002))
        assert wide_high == pytest.approx(min(math.exp(math.log(high) + widened), 80.0))
        assert 0.002 <= wide_low <= low < high <= wide_high <= 80.0


def test_the_papers_overlap_has_its_values_for_three_blocks():
    low, high = partition(3, overlap=0.05).training_interval(1)
    alpha = (0.5050 / 0.1796) ** 0.05
    assert (low, high) == pytest.approx((0.1796 / alpha, 0.5050 * alpha), rel=1e-3)
    assert alpha == pytest.approx(1.0531, abs=1e-3)


@given(BLOCKS, KINDS)
def test_without_overlap_training_intervals_are_the_intervals_exactly(blocks, kind):
    cut = partition(blocks, kind, overlap=0.0)
    assert all(cut.training_interval(block) == cut.interval(block) for block in range(blocks))


@pytest.mark.parametrize("sizes", [(2, 4, 6), (6, 4, 2), (3, 6, 3), (1,), (12,)])
def test_layer_lists_start_with_block_1(sizes):
    cut = partition_of(spec(num_blocks=len(sizes), layers_per_block=sizes), sum(sizes))
    assert list(cut.layers(0)) == list(range(sizes[0]))
    assert [len(cut.layers(block)) for block in range(len(sizes))] == list(sizes)


@given(st.lists(st.integers(1, 9), min_size=1, max_size=8))
def test_layers_tile_the_network_in_order(sizes):
    cut = partition_of(spec(num_blocks=len(sizes), layers_per_block=tuple(sizes)), sum(sizes))
    assert [layer for block in range(len(sizes)) for layer in cut.layers(block)] == list(range(sum(sizes)))


@pytest.mark.parametrize(("blocks", "layers"), [(1, 12), (2, 12), (3, 12), (4, 12), (6, 12), (3, 24)])
def test_even_cuts_give_every_block_the_same_layers(blocks, layers):
    cut = partition_of(spec(num_blocks=blocks), layers)
    assert [len(cut.layers(block)) for block in range(blocks)] == [layers // blocks] * blocks


@given(BLOCKS, KINDS, st.sampled_from(RULES), st.floats(0.002, 80))
def test_every_noise_level_has_exactly_the_owner_whose_interval_holds_it(blocks, kind, rule, sigma):
    cut = partition(blocks, kind, rule)
    holding = [block for block in range(blocks) if cut.interval(block)[0] < sigma < cut.interval(block)[1]]
    if holding:
        assert [cut.owner(sigma)] == holding
    else:
        low, high = cut.interval(cut.owner(sigma))
        assert low <= sigma <= high


@pytest.mark.parametrize("kind", sorted(BOUNDARIES))
@pytest.mark.parametrize("blocks", [2, 3, 4, 6, 12])
def test_boundaries_themselves_go_where_the_tie_rule_says(blocks, kind):
    lower, official = partition(blocks, kind, "lower"), partition(blocks, kind, "official")
    for k, sigma in enumerate(lower.boundaries[1:-1], start=1):
        assert lower.interval(lower.owner(sigma))[1] == sigma, "the block below"
        assert official.interval(official.owner(sigma))[0] == sigma, "the noisier block"
        assert lower.owner(sigma) == official.owner(sigma) + 1 == blocks - k


@given(BLOCKS, KINDS, st.sampled_from(RULES), st.lists(st.floats(1e-4, 200), min_size=2, max_size=20))
def test_more_noise_never_means_a_later_block(blocks, kind, rule, sigmas):
    cut = partition(blocks, kind, rule)
    owners = [cut.owner(sigma) for sigma in sorted(sigmas)]
    assert owners == sorted(owners, reverse=True)


@pytest.mark.parametrize("rule", RULES)
def test_levels_outside_the_range_go_to_the_nearest_block(rule):
    cut = partition(3, rule=rule)
    assert (cut.owner(0.0), cut.owner(0.002), cut.owner(80.0), cut.owner(81.0)) == (2, 2, 0, 0)


@given(DISTRIBUTIONS, BLOCKS, st.integers(2, 60), st.sampled_from(RULES))
def test_grid_points_of_known_mass_are_owned_by_their_mass(noise, blocks, steps, rule):
    cut = Partition(BOUNDARIES["equi_probability"](noise, blocks), (1,) * blocks, exact_mass=True, tie_rule=rule)
    for i, level in enumerate(equal_mass_grid(noise, steps)):
        # share of mass below, in units of blocks, as a fraction of integers
        numerator, denominator = (steps - 1 - i) * blocks, steps - 1
        on_boundary = numerator % denominator == 0
        k = numerator // denominator - (1 if on_boundary and rule == "lower" else 0)
        assert cut.owner(level) == blocks - 1 - min(max(k, 0), blocks - 1)


@pytest.mark.parametrize(("rule", "route"), [("lower", [0, 1, 2, 2]), ("official", [0, 0, 1, 2])])
@pytest.mark.parametrize("nudge", [0.0, math.inf, None])
def test_four_steps_on_three_blocks_do_not_depend_on_rounding(rule, route, nudge):
    cut = partition(3, rule=rule)
    grid = equal_mass_grid(PAPER, 4)
    assert [level.sigma for level in grid] == pytest.approx([80, 0.505, 0.1796, 0.002], rel=1e-3)
    if nudge is not None:
        grid = [NoiseLevel(math.nextafter(level.sigma, nudge), level.mass) for level in grid]
    assert [cut.owner(level) for level in grid] == route


@given(DISTRIBUTIONS, st.sampled_from(RULES))
def test_four_steps_on_three_blocks_take_the_same_route_for_all_noise(noise, rule):
    cut = Partition(BOUNDARIES["equi_probability"](noise, 3), (1, 1, 1), exact_mass=True, tie_rule=rule)
    route = [cut.owner(level) for level in equal_mass_grid(noise, 4)]
    assert route == ([0, 1, 2, 2] if rule == "lower" else [0, 0, 1, 2])


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("blocks", range(1, 13))
def test_equal_mass_grid_of_max_4_b_steps_uses_every_block(blocks, rule):
    cut = partition(blocks, rule=rule)
    assert {cut.owner(level) for level in equal_mass_grid(PAPER, max(4, blocks))} == set(range(blocks))


@pytest.mark.parametrize("rule", RULES)
def test_literal_four_steps_of_rho7_never_run_block_3_of_4(rule):
    assert {partition(4, rule=rule).owner(level) for level in rho_grid(PAPER, 4)} == {0, 1, 3}


@given(BLOCKS, KINDS, st.sampled_from(RULES), st.integers(0, 2**31), st.data())
def test_what_a_block_is_trained_on_is_what_it_is_asked_when_sampling(blocks, kind, rule, seed, data):
    cut = partition(blocks, kind, rule)
    block = data.draw(st.integers(0, blocks - 1))
    draws = torch.Generator().manual_seed(seed)
    # float32 σ may round onto a boundary, so stay one millionth of the mass away from it
    uniform = 1e-6 + (1 - 2e-6) * torch.rand(200, generator=draws, dtype=torch.float64)
    sigmas = PAPER.sample(*cut.interval(block), uniform).tolist()
    low, high = cut.interval(block)
    inside = [sigma for sigma in sigmas if low < sigma < high]
    assert len(inside) > 190
    assert {cut.owner(sigma) for sigma in inside} == {block}


def test_a_partition_is_what_its_spec_says():
    noise = {"p_mean": -0.4, "p_std": 1.0, "sigma_min": 0.01, "sigma_max": 50.0}
    given_spec = spec(num_blocks=2, overlap=0.1, noise=noise, sampling={"tie_rule": "official"})
    cut = partition_of(given_spec, 8)
    distribution = NoiseDistribution(**noise)
    assert noise_distribution(given_spec.noise) == distribution
    assert cut.boundaries == (0.01, distribution.quantile(0.5), 50.0)
    assert (cut.layers_per_block, cut.overlap, cut.tie_rule, cut.exact_mass) == ((4, 4), 0.1, "official", True)
    uniform = given_spec.model_copy(update={"partition": "uniform"})
    assert partition_of(uniform, 8).exact_mass is False


def test_masses_are_compared_only_where_boundaries_are_exact_masses():
    level = NoiseLevel(0.3, mass=equal_mass_grid(PAPER, 4)[1].mass)
    exact = partition(3)
    assert exact.owner(level) == 1
    assert replace(exact, exact_mass=False, boundaries=(0.002, 0.01, 0.02, 80.0)).owner(level) == 0
