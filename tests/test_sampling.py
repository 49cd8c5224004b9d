"""The Euler sampler against closed forms: its sign, its end, its order of convergence."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dblocks.diffusion_blocks import DiffusionBlocks
from dblocks.noise import NoiseDistribution, NoiseLevel, Preconditioning, equal_mass_grid, rho_grid
from dblocks.partition import Partition
from dblocks.sampling import euler_sample, euler_step, guided, start_deviation
from dblocks.spec import DiffusionBlocksSpec

PAPER = NoiseDistribution()


def tensor(shape: tuple[int, ...], seed: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@given(st.floats(0.01, 80), st.floats(0, 1), st.sampled_from([(3,), (4, 5), (2, 3, 4)]))
def test_a_step_with_a_perfect_denoiser_lands_on_the_same_noise_at_the_next_level(sigma, share, shape):
    y, epsilon = tensor(shape, 0), tensor(shape, 1)
    landed = euler_step(y + sigma * epsilon, y, sigma, share * sigma)
    assert torch.allclose(landed, y + share * sigma * epsilon, atol=1e-11)


@given(st.floats(0.01, 80), st.floats(0, 0.999))
def test_a_step_walks_towards_the_data_and_the_printed_sign_away(sigma, share):
    y, sigma_next = tensor((8,), 0), share * sigma
    z = y + sigma * tensor((8,), 1)
    printed = z + (sigma - sigma_next) / sigma * (z - y)
    before = (z - y).norm()
    assert (euler_step(z, y, sigma, sigma_next) - y).norm() < before < (printed - y).norm()


def test_the_last_step_to_no_noise_is_the_denoised_value_itself():
    z, denoised = tensor((4,), 0), tensor((4,), 1)
    assert torch.equal(euler_step(z, denoised, 0.002, 0.0), denoised)


@pytest.mark.parametrize("make_grid", [equal_mass_grid, rho_grid])
@pytest.mark.parametrize("steps", [1, 2, 4, 50])
def test_a_chain_with_a_perfect_denoiser_stays_on_its_line_and_returns_the_data(make_grid, steps):
    y, epsilon = tensor((2, 6), 0), tensor((2, 6), 1)
    seen: list[tuple[NoiseLevel, torch.Tensor]] = []

    def predict(level: NoiseLevel, z: torch.Tensor) -> torch.Tensor:
        seen.append((level, z))
        return y

    grid = make_grid(PAPER, steps)
    result = euler_sample(predict, lambda prediction: prediction, grid, y + 80 * epsilon)
    assert torch.equal(result, y)
    assert [level for level, _ in seen] == grid
    for level, z in seen:
        assert torch.allclose(z, y + level.sigma * epsilon, atol=1e-10)


def test_steps_walk_to_the_bridged_prediction_and_the_last_prediction_is_returned_unbridged():
    table, grid = tensor((5, 3), 0), [NoiseLevel(8.0), NoiseLevel(2.0)]
    logits, z0, arrived = torch.eye(5, dtype=torch.float64)[:2], tensor((2, 3), 1), []

    def predict(level: NoiseLevel, z: torch.Tensor) -> torch.Tensor:
        arrived.append(z)
        return logits

    result = euler_sample(predict, lambda prediction: prediction @ table, grid, z0)
    assert torch.allclose(arrived[1], 0.25 * z0 + 0.75 * table[:2])
    assert result is logits


def gaussian_error(steps: int) -> float:
    """Error at σ_min of the chain for y ~ N(1.5, 0.5²), whose ODE has z − 1.5 ∝ √(σ² + 0.5²)."""
    mean, variance = 1.5, 0.25
    arrived = []

    def denoise(level: NoiseLevel, z: torch.Tensor) -> torch.Tensor:
        arrived.append(z)
        return (variance * z + level.sigma**2 * mean) / (variance + level.sigma**2)

    z0 = 80 * tensor((10,), 0)
    euler_sample(denoise, lambda prediction: prediction, rho_grid(PAPER, steps), z0)
    exact = mean + (z0 - mean) * math.sqrt((0.002**2 + variance) / (80**2 + variance))
    return (arrived[-1] - exact).abs().max().item()


def test_the_sampler_converges_with_order_one_to_the_closed_form():
    errors = [gaussian_error(steps) for steps in (101, 201, 401, 801)]
    orders = [math.log2(coarse / fine) for coarse, fine in itertools.pairwise(errors)]
    assert errors[-1] < 0.01
    assert all(0.9 < order < 1.1 for order in orders)


def test_start_deviations():
    assert start_deviation("paper", 80.0) == 80.0
    assert start_deviation("official", 80.0) == math.sqrt(6401)


SCALES = pytest.mark.parametrize("scale", [0.0, 0.5, 1.0, 2.0])


@SCALES
def test_guidance_goes_from_the_unconditional_prediction_by_its_scale_of_the_way_to_the_conditional_one(scale):
    conditional, unconditional = tensor((2, 3), 0), tensor((2, 3), 1)
    expected = (1 - scale) * unconditional + scale * conditional
    assert torch.allclose(guided(conditional, unconditional, scale), expected)


class ThreeOrOne:
    """Predicts 3 everywhere where it is told a label, and 1 where it is told none."""

    partition, precondition, target_shape = Partition((0.002, 80.0), (1,)), Preconditioning(), (2,)

    def denoise(self, block, z, sigma, labels):
        return torch.where(labels == -1, 1.0, 3.0)[:, None].expand_as(z)

    def unconditional(self, labels):
        return torch.full_like(labels, -1)

    def bridge(self, prediction):
        return prediction


@SCALES
def test_the_sampler_is_guided_by_its_scale_below_one_as_above(scale):
    model = DiffusionBlocks(ThreeOrOne(), DiffusionBlocksSpec(num_blocks=1), scale)
    labels, epsilon = torch.arange(4), torch.zeros(4, 2)
    expected = torch.full((4, 2), 1 + 2 * scale)
    assert torch.allclose(model.predict_at(model.grid[0], epsilon, labels), expected)
    assert torch.allclose(model.sample(labels, epsilon), expected)
