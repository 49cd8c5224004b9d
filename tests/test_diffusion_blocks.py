"""Blocks are trained and run alone: perturbation tests of the loss, the sampler and its routes."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional as F

from dblocks.diffusion_blocks import DiffusionBlocks
from dblocks.networks.vit import ViTDenoiser
from dblocks.noise import NoiseLevel
from dblocks.partition import partition_of
from dblocks.spec import DiffusionBlocksSpec, ViTSpec

SHAPE, CLASSES, WIDTH = (1, 8, 8), 10, 16
SIZES = ViTSpec(layers=6, width=WIDTH, heads=2, patch_size=4, mlp_ratio=2.0, dropout=0.0)
IMAGES = torch.randn(8, *SHAPE, generator=torch.Generator().manual_seed(1))
EPSILON = torch.randn(8, WIDTH, generator=torch.Generator().manual_seed(2))
LABELS = torch.arange(8)


@pytest.fixture
def model(awaken):
    def make(**method) -> DiffusionBlocks:
        spec = DiffusionBlocksSpec.model_validate({"num_blocks": 3, "layers_per_block": (1, 2, 3), **method})
        return DiffusionBlocks(awaken(ViTDenoiser(SIZES, spec, partition_of(spec, SIZES.layers), SHAPE, CLASSES)), spec)

    return make


def perturb(model: DiffusionBlocks, block: int) -> None:
    """Changes every weight of the block's layers."""
    with torch.no_grad():
        for i in model.partition.layers(block):
            for parameter in model.denoiser.layers[i].parameters():
                parameter.add_(0.3)


@pytest.mark.parametrize("block", [0, 1, 2])
@pytest.mark.parametrize("perturbed", [0, 1, 2])
def test_a_denoiser_is_its_own_blocks_layers_and_no_others(model, block, perturbed):
    m, sigma = model(), torch.full((8,), 0.3)
    before = m.denoiser.denoise(block, EPSILON, sigma, IMAGES)
    perturb(m, perturbed)
    after = m.denoiser.denoise(block, EPSILON, sigma, IMAGES)
    assert torch.equal(before, after) == (block != perturbed)


@pytest.mark.parametrize("embedders", ["shared", "own", "frozen"])
@pytest.mark.parametrize("block", [0, 1, 2])
def test_the_loss_of_a_block_gives_gradients_to_it_alone(model, block, embedders):
    table = "trained" if embedders == "shared" else "frozen"
    m = model(embedders=embedders, target_table=table)
    sigma, epsilon = m.noise_draws(block, 8, torch.Generator().manual_seed(0))
    m.training_loss(block, IMAGES, LABELS, sigma, epsilon).backward()
    moved = {name for name, p in m.denoiser.named_parameters() if p.grad is not None}
    expected = (
        tuple(f"layers.{i}." for i in m.partition.layers(block))
        + {
            "shared": ("embedders.0.", "heads.0.", "table."),
            "own": (f"embedders.{block}.", f"heads.{block}."),
            "frozen": (f"heads.{block}.",),
        }[embedders]
    )
    assert moved == {name for name, _ in m.denoiser.named_parameters() if name.startswith(expected)}


@pytest.mark.parametrize("weighting", ["paper", "official", "none"])
def test_training_loss_is_the_weighted_cross_entropy_at_y_plus_sigma_epsilon(model, weighting):
    m = model(weighting=weighting)
    sigma = torch.tensor([0.2, 0.25, 0.3, 0.35, 0.4, 0.45, 0.5, 0.5])
    rows = m.denoiser.table.weight[LABELS]
    z = rows / rows.norm(dim=-1, keepdim=True) + sigma[:, None] * EPSILON
    each = F.cross_entropy(m.denoiser.denoise(1, z, sigma, IMAGES), LABELS, reduction="none")
    w = (sigma**2 + 0.25) / (0.5 * sigma) ** 2
    expected = {"paper": (w * each).mean(), "official": w.mean() * each.mean(), "none": each.mean()}[weighting]
    assert torch.allclose(m.training_loss(1, IMAGES, LABELS, sigma, EPSILON), expected, rtol=1e-5)


def test_noise_draws_are_of_the_training_interval_and_standard_normal(model):
    m = model(overlap=0.05)
    for block in range(3):
        sigma, epsilon = m.noise_draws(block, 4000, torch.Generator().manual_seed(block))
        low, high = m.partition.training_interval(block)
        inner_low, inner_high = m.partition.interval(block)
        assert sigma.shape == (4000,) and epsilon.shape == (4000, WIDTH)
        assert low * (1 - 1e-6) <= sigma.min() and sigma.max() <= high * (1 + 1e-6)
        outside = ((sigma < inner_low) | (sigma > inner_high)).float().mean()
        assert 0 < outside < 0.3, "the overlap is drawn from"
        assert epsilon.mean().abs() < 0.02 and abs(epsilon.std() - 1) < 0.02
        assert abs(torch.corrcoef(torch.stack([sigma.log(), epsilon[:, 0]]))[0, 1]) < 0.05


def test_noise_draws_are_a_function_of_the_generators_seed(model):
    m = model()
    one, again, other = (m.noise_draws(1, 16, torch.Generator().manual_seed(seed)) for seed in (3, 3, 4))
    assert torch.equal(one[0], again[0]) and torch.equal(one[1], again[1])
    assert not torch.equal(one[0], other[0]) and not torch.equal(one[1], other[1])


@pytest.mark.parametrize("blocks", [1, 2, 3, 6])
@pytest.mark.parametrize("grid", ["equal_mass", "rho7"])
@pytest.mark.parametrize("steps", [1, 4, 50])
@pytest.mark.parametrize("at_least", [True, False])
def test_evaluations_per_block_sum_to_the_steps(model, blocks, grid, steps, at_least):
    m = model(
        num_blocks=blocks,
        layers_per_block=None,
        sampling={"steps": steps, "grid": grid, "at_least_num_blocks": at_least},
    )
    counts = m.evaluations_per_block()
    assert len(counts) == blocks
    assert sum(counts) == len(m.grid) == (max(steps, blocks) if at_least else steps)


def test_fifty_equal_mass_steps_fall_on_the_blocks_about_equally(model):
    assert model(sampling={"steps": 50}).evaluations_per_block() == [17, 16, 17]
    assert model(sampling={"steps": 50, "grid": "rho7"}).evaluations_per_block() == [33, 4, 13]


def test_the_sampler_is_euler_between_routed_blocks_written_out(model):
    m = model(sampling={"bridge": "soft"})
    sigmas = [80.0, m.noise.quantile(2 / 3), m.noise.quantile(1 / 3), 0.002]
    table = F.normalize(m.denoiser.table.weight, dim=-1)
    z = 80 * EPSILON
    for block, sigma, following in zip((0, 1, 2), sigmas[:-1], sigmas[1:], strict=True):
        clean = m.denoiser.denoise(block, z, torch.full((8,), sigma), IMAGES).softmax(-1) @ table
        z = z + (following - sigma) * (z - clean) / sigma
    expected = m.denoiser.denoise(2, z, torch.full((8,), 0.002), IMAGES)
    assert torch.allclose(m.sample(IMAGES, EPSILON), expected, atol=1e-3)


def test_start_noise_has_the_deviation_of_the_text_or_of_the_official_code(model):
    assert torch.equal(model().start(EPSILON), 80 * EPSILON)
    official = model(sampling={"start_noise": "official"}).start(EPSILON)
    assert torch.allclose(official, math.sqrt(6401) * EPSILON)


@pytest.mark.parametrize(
    ("sampling", "counts"),
    [
        ({"grid": "rho7", "steps": 4, "at_least_num_blocks": False}, [2, 1, 0, 1]),
        ({"grid": "equal_mass", "steps": 2, "at_least_num_blocks": False}, [1, 0, 0, 1]),
        ({"grid": "equal_mass", "steps": 2}, [1, 1, 1, 1]),
    ],
)
def test_samples_depend_on_exactly_the_blocks_that_are_counted(model, sampling, counts):
    settings = {"num_blocks": 4, "layers_per_block": (1, 1, 2, 2), "sampling": sampling}
    before = model(**settings).sample(IMAGES, EPSILON)
    for block in range(4):
        m = model(**settings)
        assert m.evaluations_per_block() == counts
        perturb(m, block)
        assert torch.equal(m.sample(IMAGES, EPSILON), before) == (counts[block] == 0)


@pytest.mark.parametrize(("rule", "block"), [("lower", 1), ("official", 0)])
@pytest.mark.parametrize("towards", [0.0, math.inf])
def test_prediction_on_a_boundary_is_by_the_tie_rules_block_wherever_its_sigma_was_rounded_to(
    model, rule, block, towards
):
    m = model(sampling={"tie_rule": rule})
    level = NoiseLevel(math.nextafter(m.grid[1].sigma, towards), m.grid[1].mass)
    expected = m.denoiser.denoise(block, EPSILON, torch.full((8,), level.sigma), IMAGES)
    assert torch.equal(m.predict_at(level, EPSILON, IMAGES), expected)


def test_the_noisiest_block_predicts_at_sigma_max(model):
    m = model()
    expected = m.denoiser.denoise(0, EPSILON, torch.full((8,), 80.0), IMAGES)
    assert torch.equal(m.predict_at(NoiseLevel(80.0), EPSILON, IMAGES), expected)


def test_sampling_is_a_function_of_its_noise(model):
    m = model()
    assert torch.equal(m.sample(IMAGES, EPSILON), m.sample(IMAGES, EPSILON))
    assert not torch.equal(m.sample(IMAGES, EPSILON), m.sample(IMAGES, -EPSILON))
