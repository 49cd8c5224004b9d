"""Noise levels against EDM's closed forms and SciPy's truncated normal."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from dblocks.noise import NoiseDistribution, Preconditioning, equal_mass_grid, rho_grid, sigma_grid, weighted_mean
from dblocks.partition import Partition, equi_probability_boundaries

PAPER = NoiseDistribution()
SIGMAS = st.floats(0.002, 80)
DATA_DEVIATIONS = st.floats(0.02, 2)
DISTRIBUTIONS = st.builds(
    NoiseDistribution,
    p_mean=st.floats(-3, 1),
    p_std=st.floats(0.5, 2),
    sigma_min=st.floats(1e-3, 0.05),
    sigma_max=st.floats(5, 100),
)


def scipy_log_sigma(noise: NoiseDistribution, low: float, high: float):
    """SciPy's distribution of log σ on [low, high]."""
    a, b = ((math.log(sigma) - noise.p_mean) / noise.p_std for sigma in (low, high))
    return stats.truncnorm(a, b, noise.p_mean, noise.p_std)


@given(SIGMAS, DATA_DEVIATIONS)
def test_preconditioning_satisfies_edms_identities(sigma, sigma_data):
    p = Preconditioning(sigma_data)
    assert p.c_out(sigma) ** 2 * p.weight(sigma) == pytest.approx(1)
    assert p.c_in(sigma) ** 2 * (sigma**2 + sigma_data**2) == pytest.approx(1)
    # the network's own target (y − c_skip·z) / c_out has unit variance
    variance = (1 - p.c_skip(sigma)) ** 2 * sigma_data**2 + p.c_skip(sigma) ** 2 * sigma**2
    assert variance / p.c_out(sigma) ** 2 == pytest.approx(1)


@pytest.mark.parametrize(
    ("sigma", "c_skip", "c_out", "c_in", "weight"),
    [
        (0.5, 0.5, 0.5 / math.sqrt(2), math.sqrt(2), 8.0),
        (1.2, 0.25 / 1.69, 0.6 / 1.3, 1 / 1.3, 1.69 / 0.36),
        (80.0, 0.25 / 6400.25, 40 / math.sqrt(6400.25), 1 / math.sqrt(6400.25), 4 + 1 / 6400),
    ],
)
def test_preconditioning_has_its_values_at_sigma_data_one_half(sigma, c_skip, c_out, c_in, weight):
    p = Preconditioning()
    assert (p.c_skip(sigma), p.c_out(sigma), p.c_in(sigma), p.weight(sigma)) == pytest.approx(
        (c_skip, c_out, c_in, weight), rel=1e-12
    )


def test_c_noise_is_a_quarter_of_the_natural_logarithm():
    sigma = torch.tensor([0.002, 1.0, math.e**4, 80.0], dtype=torch.float64)
    assert torch.allclose(Preconditioning().c_noise(sigma), torch.tensor([-1.5536520, 0, 1, 1.0955067]).double())


@given(SIGMAS, DATA_DEVIATIONS)
def test_preconditioning_is_the_same_for_tensors_and_floats(sigma, sigma_data):
    p, tensor = Preconditioning(sigma_data), torch.tensor([sigma], dtype=torch.float64)
    for f in (p.c_skip, p.c_out, p.c_in, p.weight):
        assert f(tensor).item() == pytest.approx(f(sigma), rel=1e-12)


@given(st.floats(-5, 5), st.floats(-3, 3))
def test_denoiser_is_the_identity_where_there_is_no_noise(z, network_output):
    p = Preconditioning()
    assert p.c_skip(1e-9) * z + p.c_out(1e-9) * network_output == pytest.approx(z, abs=1e-8)


@given(DISTRIBUTIONS, st.floats(0, 1))
def test_mass_below_inverts_quantile(noise, mass):
    assert noise.mass_below(noise.quantile(mass)) == pytest.approx(mass, abs=1e-9)


@given(DISTRIBUTIONS, st.floats(0, 1))
def test_mass_below_is_scipys_truncated_normal(noise, position):
    log_sigma = math.log(noise.sigma_min) + position * math.log(noise.sigma_max / noise.sigma_min)
    a, b, x = (
        stats.norm.cdf(t, noise.p_mean, noise.p_std)
        for t in (math.log(noise.sigma_min), math.log(noise.sigma_max), log_sigma)
    )
    assert noise.mass_below(math.exp(log_sigma)) == pytest.approx((x - a) / (b - a), abs=1e-12)


@given(st.floats(1e-6, 1 - 1e-6))
def test_quantile_is_scipys(mass):
    expected = math.exp(scipy_log_sigma(PAPER, 0.002, 80).ppf(mass))
    assert PAPER.quantile(mass) == pytest.approx(expected, rel=1e-6)


def test_quantile_ends_exactly_at_the_bounds():
    assert (PAPER.quantile(0), PAPER.quantile(1)) == (0.002, 80.0)


@pytest.mark.parametrize(("blocks", "block"), [(blocks, block) for blocks in (1, 3, 4) for block in range(blocks)])
def test_samples_follow_the_truncated_distribution_on_every_interval(blocks, block):
    partition = Partition(equi_probability_boundaries(PAPER, blocks), (1,) * blocks, overlap=0.05)
    low, high = partition.training_interval(block)
    uniform = torch.rand(20_000, generator=torch.Generator().manual_seed(block), dtype=torch.float64)
    sigma = PAPER.sample(low, high, uniform).double().numpy()
    assert stats.kstest(np.log(sigma), scipy_log_sigma(PAPER, low, high).cdf).pvalue > 0.01


@given(st.floats(0.002, 80), st.floats(0.002, 80), st.lists(st.floats(0, 1, exclude_max=True), min_size=1, max_size=20))
def test_samples_never_leave_their_interval(one, other, uniform):
    low, high = sorted((one, other))
    sigma = PAPER.sample(low, high, torch.tensor(uniform, dtype=torch.float64))
    assert sigma.dtype == torch.float32 and sigma.shape == (len(uniform),)
    assert sigma.min().item() >= np.float32(low) and sigma.max().item() <= np.float32(high)


def test_samples_are_quantiles_in_float64_rounded_once():
    masses = [1e-9, 1e-3, 0.1, 0.5, 0.9, 0.999, 1 - 1e-6]
    found = PAPER.sample(0.002, 80.0, torch.tensor(masses, dtype=torch.float64)).tolist()
    assert found == pytest.approx([PAPER.quantile(mass) for mass in masses], rel=1e-6)


def test_numbers_in_float32_are_inverted_in_float64_all_the_same():
    uniform = torch.rand(1000, generator=torch.Generator().manual_seed(0))
    assert torch.equal(PAPER.sample(0.5, 80.0, uniform), PAPER.sample(0.5, 80.0, uniform.double()))


def test_weights_run_from_4_to_250004():
    p = Preconditioning()
    assert p.weight(80.0) == pytest.approx(4, abs=2e-4)
    assert p.weight(0.002) == pytest.approx(250_004)
    assert all(p.weight(low) > p.weight(low * 1.01) for low in np.geomspace(0.002, 79, 100))


def mean_weight(noise: NoiseDistribution, low: float, high: float, sigma_data: float) -> float:
    """E[1/σ_data² + 1/σ²] on [low, high]: the second moment of a log-normal, tilted by e^(−2 ln σ)."""
    tilted = noise.p_mean - 2 * noise.p_std**2
    mass, tilted_mass = (
        stats.norm.cdf(math.log(high), mean, noise.p_std) - stats.norm.cdf(math.log(low), mean, noise.p_std)
        for mean in (noise.p_mean, tilted)
    )
    return sigma_data**-2 + math.exp(-2 * noise.p_mean + 2 * noise.p_std**2) * tilted_mass / mass


def test_mean_weights_rise_a_hundredfold_from_the_noisiest_block_to_the_calmest():
    partition = Partition(equi_probability_boundaries(PAPER, 3), (1, 1, 1))
    middles = (torch.arange(200_000, dtype=torch.float64) + 0.5) / 200_000
    weights = [Preconditioning().weight(PAPER.sample(*partition.interval(b), middles).double()) for b in range(3)]
    means = [w.mean().item() for w in weights]
    assert means == pytest.approx([mean_weight(PAPER, *partition.interval(b), 0.5) for b in range(3)], rel=2e-3)
    assert means == pytest.approx([5.37, 17.04, 556.5], rel=2e-3)
    # one sample in a hundred carries more than a third of block 3
    assert weights[2].topk(2000).values.sum() / weights[2].sum() == pytest.approx(0.36, abs=0.01)


@given(st.lists(st.tuples(st.floats(0, 10), st.floats(4, 250_004)), min_size=1, max_size=20))
def test_weightings_are_their_definitions(pairs):
    loss, weight = torch.tensor(pairs, dtype=torch.float64).T
    n = len(pairs)
    assert weighted_mean(loss, weight, "paper").item() == pytest.approx(math.fsum(a * w for a, w in pairs) / n)
    # what the official [N] × [N, 1] product comes to
    assert weighted_mean(loss, weight, "official").item() == pytest.approx((loss * weight[:, None]).mean().item())
    assert weighted_mean(loss, weight, "none").item() == pytest.approx(math.fsum(a for a, _ in pairs) / n)


@pytest.mark.parametrize(("loss", "weight"), [((5,), (5, 1)), ((5, 1), (5,)), ((5, 1), (5, 1)), ((5,), (4,)), ((), ())])
@pytest.mark.parametrize("weighting", ["paper", "official", "none"])
def test_weighting_refuses_shapes_that_would_broadcast(loss, weight, weighting):
    with pytest.raises(ValueError, match=r"must both be \[N\]"):
        weighted_mean(torch.ones(loss), torch.ones(weight), weighting)


def test_rho7_grid_is_edms_formula():
    grid = [level.sigma for level in sigma_grid("rho7", PAPER, 50)]
    expected = np.linspace(80 ** (1 / 7), 0.002 ** (1 / 7), 50) ** 7
    assert np.allclose(grid, expected, rtol=1e-11)
    assert (grid[0], grid[-1]) == (80.0, 0.002)
    assert grid[1] == pytest.approx(71.5, abs=0.1)


@pytest.mark.parametrize(("blocks", "counts"), [(3, [33, 4, 13]), (4, [32, 3, 3, 12])])
def test_rho7_grid_spends_its_50_steps_unevenly(blocks, counts):
    partition = Partition(equi_probability_boundaries(PAPER, blocks), (1,) * blocks, exact_mass=True)
    owners = Counter(partition.owner(level) for level in rho_grid(PAPER, 50))
    assert [owners[block] for block in range(blocks)] == counts


@given(DISTRIBUTIONS, st.integers(2, 60))
def test_equal_mass_grid_falls_by_equal_shares_of_mass(noise, steps):
    grid = equal_mass_grid(noise, steps)
    assert len(grid) == steps
    assert (grid[0].sigma, grid[-1].sigma) == (noise.sigma_max, noise.sigma_min)
    assert [level.mass for level in grid] == [Fraction(steps - 1 - i, steps - 1) for i in range(steps)]
    masses = [noise.mass_below(level.sigma) for level in grid]
    assert np.allclose(np.diff(masses), -1 / (steps - 1), atol=1e-9)


@pytest.mark.parametrize("kind", ["equal_mass", "rho7"])
@pytest.mark.parametrize("steps", [1, 2, 4, 50])
def test_grids_fall_from_sigma_max_and_have_as_many_levels_as_steps(kind, steps):
    sigmas = [level.sigma for level in sigma_grid(kind, PAPER, steps)]
    assert len(sigmas) == steps and sigmas[0] == 80.0
    assert all(a > b for a, b in itertools.pairwise(sigmas))
