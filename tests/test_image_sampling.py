"""Sampling images through blocks: routes of the 50 steps, perfect denoisers, guidance."""

from __future__ import annotations

import pytest
import torch

from dblocks.diffusion_blocks import DiffusionBlocks
from dblocks.networks.dit import DiTDenoiser
from dblocks.noise import Preconditioning
from dblocks.partition import partition_of
from dblocks.sampling import guided
from dblocks.spec import DiffusionBlocksSpec, DiTSpec

SHAPE = (1, 8, 8)


def method(**fields) -> DiffusionBlocksSpec:
    fields = {"num_blocks": 3, "overlap": 0.0, "weighting": "paper", "sampling": {"steps": 50}} | fields
    return DiffusionBlocksSpec.model_validate(fields)


class Perfect:
    """Knows the data; remembers which block was asked at which σ."""

    target_shape, precondition = SHAPE, Preconditioning()

    def __init__(self, spec: DiffusionBlocksSpec, data: torch.Tensor):
        self.partition, self.data, self.asked = partition_of(spec, 12), data, []

    def denoise(self, block, z, sigma, inputs):
        self.asked.append((block, sigma[0].item()))
        return self.data[inputs]

    def bridge(self, prediction):
        return prediction


@pytest.mark.parametrize("grid", ["equal_mass", "rho7"])
@pytest.mark.parametrize("partition", ["equi_probability", "uniform"])
def test_a_perfect_denoiser_sampled_through_three_blocks_reproduces_the_data(grid, partition):
    spec = method(partition=partition, sampling={"steps": 50, "grid": grid})
    data = torch.rand(10, *SHAPE, generator=torch.Generator().manual_seed(0)) * 2 - 1
    labels, perfect = torch.tensor([3, 1, 4, 1, 5]), Perfect(spec, data)
    model = DiffusionBlocks(perfect, spec)
    epsilon = torch.randn(5, *SHAPE, generator=torch.Generator().manual_seed(1))
    assert torch.equal(model.sample(labels, epsilon), data[labels])
    assert {block for block, _ in perfect.asked} == {0, 1, 2}
    for block, sigma in perfect.asked:
        low, high = model.partition.interval(block)
        assert low * (1 - 1e-6) <= sigma <= high * (1 + 1e-6)


@pytest.mark.parametrize(("grid", "counts"), [("rho7", [33, 4, 13]), ("equal_mass", [17, 16, 17])])
def test_every_one_of_the_50_steps_has_the_block_that_owns_it(grid, counts):
    spec = method(sampling={"steps": 50, "grid": grid})
    perfect = Perfect(spec, torch.zeros(10, *SHAPE))
    model = DiffusionBlocks(perfect, spec)
    model.sample(torch.zeros(2, dtype=torch.long), torch.zeros(2, *SHAPE))
    route = [block for block, _ in perfect.asked]
    assert route == [model.partition.owner(level) for level in model.grid]
    assert route == sorted(route)  # noisiest block first, no way back
    assert model.evaluations_per_block() == counts


def network() -> DiTDenoiser:
    torch.manual_seed(0)
    spec = method()
    dit = DiTSpec(layers=6, width=16, heads=2, patch_size=4)
    return DiTDenoiser(dit, spec, partition_of(spec, 6), SHAPE, 10)


def test_guidance_of_scale_1_equals_none(awaken):
    spec, dit = method(sampling={"steps": 6}), awaken(network(), deviation=0.1)
    labels, epsilon = torch.arange(4), torch.randn(4, *SHAPE, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        plain = DiffusionBlocks(dit, spec).sample(labels, epsilon)
        assert torch.equal(DiffusionBlocks(dit, spec, 1.0).sample(labels, epsilon), plain)
        near = DiffusionBlocks(dit, spec, 1.0 + 1e-6).sample(labels, epsilon)  # the guided road
        strong = DiffusionBlocks(dit, spec, 2.0).sample(labels, epsilon)
    assert torch.allclose(near, plain, atol=1e-3)
    assert not torch.allclose(strong, plain, atol=1e-3)


def test_guidance_is_a_line_through_both_predictions(awaken):
    dit, z = awaken(network()), torch.randn(4, *SHAPE)
    model = DiffusionBlocks(dit, method(), 2.0)
    level, labels = model.grid[20], torch.arange(4)
    sigma, block = torch.full((4,), level.sigma), model.partition.owner(level)
    with torch.no_grad():
        conditional = dit.denoise(block, z, sigma, labels)
        nothing = dit.denoise(block, z, sigma, torch.full((4,), 10))
        assert torch.allclose(model.predict_at(level, z, labels), 2 * conditional - nothing, atol=1e-4)
    assert torch.equal(guided(conditional, nothing, 0.0), nothing)


def test_one_block_is_the_whole_network_at_every_noise_level():
    spec = method(num_blocks=1, overlap=0.5)
    partition = partition_of(spec, 12)
    assert partition.layers(0) == range(12)
    assert partition.interval(0) == partition.training_interval(0) == pytest.approx((0.002, 80.0))
