"""The DiT: patches, positions, its start as a skip connection, and blocks that are apart."""

from __future__ import annotations

import math

import pytest
import torch

from dblocks.networks.dit import DiTDenoiser, sincos_positions
from dblocks.partition import partition_of
from dblocks.spec import DiffusionBlocksSpec, DiTSpec

SHAPE = (3, 8, 8)


def denoiser(
    embedders: str = "shared", layers: int = 6, blocks: int = 3, c_noise_scale: float = 1.0, **network
) -> DiTDenoiser:
    """A DiT of width 16 for images of 8×8."""
    frozen = {} if embedders == "shared" else {"target_table": "frozen"}
    scale = {"c_noise_scale": c_noise_scale}
    method = DiffusionBlocksSpec(num_blocks=blocks, embedders=embedders, weighting="paper", **frozen, **scale)
    spec = DiTSpec(layers=layers, width=16, heads=2, patch_size=4, **network)
    torch.manual_seed(0)
    return DiTDenoiser(spec, method, partition_of(method, layers), SHAPE, 10)


def inputs(count: int = 5) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """z, σ and labels."""
    draws = torch.Generator().manual_seed(1)
    sigma = torch.exp(torch.linspace(-5, 4, count))
    return torch.randn(count, *SHAPE, generator=draws), sigma, torch.arange(count) % 10


def pass_through(monkeypatch, shape: tuple[int, int, int], patch: int) -> DiTDenoiser:
    """A DiT whose tokens are patches as they are, plus their positions, and which has no layers in between."""
    dimension = shape[0] * patch**2
    method = DiffusionBlocksSpec(num_blocks=1, overlap=0.0, weighting="paper")
    spec = DiTSpec(layers=1, width=dimension, heads=1, patch_size=patch)
    network = DiTDenoiser(spec, method, partition_of(method, 1), shape, 10)
    monkeypatch.setattr(network.embedders[0], "patches", torch.nn.Identity())
    monkeypatch.setattr(network.heads[0], "forward", lambda x, condition: x)
    network.layers[0] = Unchanged()
    return network


class Unchanged(torch.nn.Module):
    """A layer that does nothing."""

    def forward(self, x: torch.Tensor, condition: torch.Tensor) -> torch.Tensor:
        return x


@pytest.mark.parametrize(("patch", "shape"), [(1, (4, 2, 3)), (2, (1, 4, 6)), (2, (3, 8, 4)), (4, (2, 4, 12))], ids=str)
def test_patches_come_apart_and_together_again_row_by_row(patch, shape, monkeypatch):
    network, sigma, labels = pass_through(monkeypatch, shape, patch), torch.tensor([0.3, 2.0]), torch.tensor([0, 1])
    z = torch.randn(2, *shape)
    p = network.precondition
    gain = (p.c_skip(sigma) + p.c_out(sigma) * p.c_in(sigma))[:, None, None, None]
    network.positions.zero_()
    assert torch.allclose(network.denoise(0, z, sigma, labels), gain * z, atol=1e-6)
    # the k-th token is the k-th patch, row by row
    rows, columns = (side // patch for side in shape[1:])
    network.positions.copy_(torch.arange(rows * columns)[:, None].expand_as(network.positions))
    places = torch.arange(rows * columns).view(rows, columns)
    places = places.repeat_interleave(patch, 0).repeat_interleave(patch, 1)
    found = network.denoise(0, torch.zeros_like(z), sigma, labels) / p.c_out(sigma)[:, None, None, None]
    assert torch.allclose(found, places.expand_as(found).float(), atol=1e-5)


def test_positions_are_sines_of_column_and_row():
    positions = sincos_positions(3, 5, 8)
    assert positions.shape == (15, 8)
    row, column = 2, 4
    rates = [1.0, 10_000**-0.5]
    expected = [f(rate * place) for place in (column, row) for f in (math.sin, math.cos) for rate in rates]
    assert positions[row * 5 + column].tolist() == pytest.approx(expected, abs=1e-6)
    assert len(torch.unique(positions, dim=0)) == 15


def test_a_fresh_denoiser_returns_its_skip_connection():
    network, (z, sigma, labels) = denoiser(), inputs()
    found = network.denoise(1, z, sigma, labels)
    skip = 0.25 / (sigma**2 + 0.25)
    assert torch.allclose(found, skip[:, None, None, None] * z, atol=1e-6)


def test_label_noise_level_and_place_count(awaken):
    network, (z, sigma, labels) = awaken(denoiser()), inputs()
    found = network.denoise(0, z, sigma, labels)
    assert not torch.allclose(found, network.denoise(0, z, sigma, (labels + 1) % 10), atol=1e-4)
    assert not torch.allclose(found, network.denoise(0, z, sigma, network.unconditional(labels)), atol=1e-4)
    assert not torch.allclose(found, network.denoise(1, z, sigma, labels), atol=1e-4)
    swapped = torch.cat([z[..., 4:], z[..., :4]], dim=-1)
    moved = network.denoise(0, swapped, sigma, labels)
    assert not torch.allclose(torch.cat([moved[..., 4:], moved[..., :4]], dim=-1), found, atol=1e-4)


@torch.no_grad()
def test_the_condition_is_the_labels_row_and_sinusoids_of_c_noise_times_the_scale(awaken):
    embedders = awaken(denoiser(c_noise_scale=30.0)).embedders[0]
    c_noise, labels = torch.tensor([-1.5, 0.2, 1.0]), torch.tensor([3, 0, 10])
    angles = 30 * c_noise[:, None] * 10_000 ** (-torch.arange(128) / 128)
    expected = embedders.noise.mlp(torch.cat([angles.cos(), angles.sin()], dim=1)) + embedders.labels.weight[labels]
    assert torch.allclose(embedders.condition(c_noise, labels), expected, atol=1e-4)


@pytest.mark.parametrize(("embedders", "shared"), [("shared", {"embedders.0", "heads.0"}), ("own", set())])
def test_a_blocks_loss_moves_that_block_alone(awaken, embedders, shared):
    network, (z, sigma, labels) = awaken(denoiser(embedders)), inputs()
    network.loss(network.denoise(1, z, sigma, labels), torch.zeros_like(z)).mean().backward()
    moved = {".".join(n.split(".")[:2]) for n, p in network.named_parameters() if p.grad is not None}
    own = {"layers.2", "layers.3"} | (set() if shared else {"embedders.1", "heads.1"})
    assert moved == own | shared


def test_own_embedders_make_each_block_a_whole_denoiser(awaken):
    network, (z, sigma, labels) = awaken(denoiser("own")), inputs()
    before = network.denoise(2, z, sigma, labels)
    with torch.no_grad():
        for part in (network.embedders[:2], network.heads[:2], network.layers[:4]):
            for parameter in part.parameters():
                parameter.zero_()
    assert torch.equal(network.denoise(2, z, sigma, labels), before)


def test_loss_is_the_mean_squared_error_of_each_sample():
    network, (z, _, _) = denoiser(), inputs(3)
    error = torch.tensor([1.0, 2.0, 3.0])[:, None, None, None].expand_as(z)
    assert network.loss(z + error, z).tolist() == pytest.approx([1, 4, 9], rel=1e-5)


def test_the_papers_sizes():
    method = DiffusionBlocksSpec(num_blocks=1, weighting="paper")
    with torch.device("meta"):
        small = DiTDenoiser(DiTSpec(), method, partition_of(method, 12), (3, 32, 32), 10)
    count = sum(p.numel() for p in small.parameters())
    assert 32e6 < count < 34e6  # DiT-S has 33 M
    assert small.positions.shape == (256, 384)


@pytest.mark.parametrize("wrong", [{"width": 18}, {"width": 20, "heads": 3}])
def test_sizes_that_do_not_fit_are_refused(wrong):
    with pytest.raises(ValueError, match="width"):
        DiTSpec(**wrong)


def test_a_patch_that_does_not_divide_the_image_is_refused():
    method = DiffusionBlocksSpec(num_blocks=1)
    with pytest.raises(ValueError, match="patch_size 3"):
        DiTDenoiser(DiTSpec(patch_size=3), method, partition_of(method, 12), SHAPE, 10)
