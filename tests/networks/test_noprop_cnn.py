"""NoProp's CNN: its branches after Figure 6, embeddings and prototypes, the image branch computed once."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from dblocks.diffusion_blocks import DiffusionBlocks
from dblocks.networks.noprop_cnn import (
    ClassEmbedding,
    KeptFeatures,
    NoPropCNN,
    NoPropDenoiser,
    NoPropNetwork,
    class_prototypes,
)
from dblocks.partition import partition_of
from dblocks.spec import DiffusionBlocksSpec, NoPropCNNSpec

SHAPE, CLASSES = (3, 8, 12), 5
KINDS = ("one_hot", "learned", "prototype")


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def spec_of(embedding: str = "learned", **over) -> NoPropCNNSpec:
    return NoPropCNNSpec(embedding=embedding, embedding_dim=6, channels=(4, 5, 6), width=16, **over)


def embedding_of(spec: NoPropCNNSpec) -> ClassEmbedding:
    torch.manual_seed(0)
    return ClassEmbedding(spec, CLASSES, normal(CLASSES, *SHAPE, seed=9))


def denoiser(embedding: str = "learned", **method) -> NoPropDenoiser:
    torch.manual_seed(0)
    spec = spec_of(embedding)
    m = DiffusionBlocksSpec.model_validate({"num_blocks": 3, **method})
    return NoPropDenoiser(spec, m, partition_of(m, m.num_blocks), SHAPE, embedding_of(spec)).eval()


def kinds(module: nn.Module) -> list[str]:
    """The leaves of a module in order."""
    leaves = [part for part in module.modules() if not list(part.children())]
    return [type(part).__name__ for part in leaves if not isinstance(part, nn.Identity)]


CONVOLUTIONS = ["Conv2d", "ReLU", "MaxPool2d", "Dropout", "Conv2d", "ReLU", "Dropout"]
CONVOLUTIONS += ["Conv2d", "ReLU", "MaxPool2d", "Dropout", "Flatten", "Linear"]


def test_branches_are_those_of_noprop_dt():
    copy = NoPropCNN(spec_of(norm="batch"), SHAPE, (6,), CLASSES, timed=False)
    norm = ["Linear", "BatchNorm1d", "ReLU"]
    assert kinds(copy.image) == [*CONVOLUTIONS, "BatchNorm1d"]
    assert kinds(copy.label) == [*norm, *norm, "Linear", "BatchNorm1d"]
    assert kinds(copy.fusion) == [*norm, *norm, "Linear"]
    assert copy.time is None


def test_branches_are_those_of_noprop_ct():
    copy = NoPropCNN(spec_of(norm="none"), SHAPE, (6,), CLASSES, timed=True)
    assert kinds(copy.image) == [*CONVOLUTIONS, "ReLU"]
    assert kinds(copy.label) == ["Linear", "ReLU"]
    assert kinds(copy.fusion) == ["Linear", "ReLU", "Linear", "ReLU", "Linear"]
    assert not any(isinstance(part, nn.BatchNorm1d) for part in copy.modules())


def test_the_papers_sizes_are_the_default_and_flatten_8192_features():
    copy = NoPropCNN(NoPropCNNSpec(), (3, 32, 32), (3, 32, 32), 100, timed=True)
    widths = [part.in_features for part in copy.modules() if isinstance(part, nn.Linear)]
    assert widths == [8192, 8192, 64, 768, 256, 128]
    assert copy(copy.image(normal(2, 3, 32, 32)), normal(2, 3, 32, 32), normal(2)).shape == (2, 100)


def test_the_label_branch_adds_a_residual_pair_to_its_first_activation():
    label, z = NoPropCNN(spec_of(), SHAPE, (6,), CLASSES, timed=False).label.eval(), normal(4, 6)
    assert torch.equal(label(z), label.first(z) + label.pair(label.first(z)))


def test_an_image_shaped_label_has_convolutions_of_its_own_or_the_images():
    own = NoPropCNN(spec_of("prototype"), SHAPE, SHAPE, CLASSES, timed=False)
    shared = NoPropCNN(spec_of("prototype", label_branch="shared"), SHAPE, SHAPE, CLASSES, timed=False)
    assert kinds(own.label) == kinds(own.image) and own.label is not own.image
    assert shared.label is None
    count = [sum(p.numel() for p in copy.parameters()) for copy in (own, shared)]
    assert count[0] - count[1] == sum(p.numel() for p in own.image.parameters())


def test_the_time_branch_reads_sinusoids():
    time = NoPropCNN(spec_of(), SHAPE, (6,), CLASSES, timed=True).time
    angles = torch.tensor([[2.0 * 10000 ** (-i / 32) for i in range(32)]])
    expected = F.relu(time.linear(torch.cat([angles.cos(), angles.sin()], dim=1)))
    assert torch.allclose(time(torch.tensor([2.0])), expected, atol=1e-6)


@pytest.mark.parametrize("timed", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_logits_depend_on_image_label_and_time(kind, timed):
    spec = spec_of(kind)
    embedding = embedding_of(spec)
    copy = NoPropCNN(spec, SHAPE, embedding.shape, CLASSES, timed).eval()
    images, z, t = normal(3, *SHAPE), normal(3, *embedding.shape, seed=1), normal(3, seed=2)
    before = copy(copy.image(images), z, t)
    assert before.shape == (3, CLASSES)
    assert not torch.allclose(before, copy(copy.image(-images), z, t))
    assert not torch.allclose(before, copy(copy.image(images), -z, t))
    assert torch.equal(before, copy(copy.image(images), z, t + 1)) == (not timed)


# --- embeddings


def test_embeddings_are_one_hot_orthogonal_or_the_given_prototypes():
    one_hot, learned, prototype = (embedding_of(spec_of(kind)) for kind in KINDS)
    assert torch.equal(one_hot(torch.tensor([1, 3])), torch.eye(CLASSES)[[1, 3]])
    assert not list(one_hot.parameters()) and not one_hot.learned
    assert torch.allclose(learned.table @ learned.table.T, torch.eye(CLASSES), atol=1e-5)
    assert torch.equal(prototype.table, normal(CLASSES, *SHAPE, seed=9))
    assert learned.learned and prototype.learned
    assert [e.shape for e in (one_hot, learned, prototype)] == [(CLASSES,), (6,), SHAPE]


@pytest.mark.parametrize("kind", KINDS)
def test_mixtures_and_distances_are_their_definitions(kind):
    embedding = embedding_of(spec_of(kind))
    weights, z = normal(4, CLASSES).softmax(1), normal(4, *embedding.shape, seed=1)
    mixture = sum(weights[:, k].view(-1, *[1] * len(embedding.shape)) * embedding.table[k] for k in range(CLASSES))
    assert torch.allclose(embedding.mix(weights), mixture, atol=1e-5)
    distances = torch.stack([(z - embedding.table[k]).flatten(1).square().sum(1) for k in range(CLASSES)], dim=1)
    assert torch.allclose(embedding.distances(z), distances, rtol=1e-4, atol=1e-3)


def test_a_prototype_is_the_image_in_the_middle_of_its_class():
    # class 0 on a line at 0, 1, 2, 10: medians of the distances to the others are 2, 1, 2, 9
    points, labels = torch.tensor([0.0, 1, 2, 10, 7]), torch.tensor([0, 0, 0, 0, 1])
    images = points[:, None, None, None].expand(-1, 1, 2, 2)
    found = class_prototypes(images, labels, 2)
    assert found[:, 0, 0, 0].tolist() == [1.0, 7.0]
    with pytest.raises(ValueError, match="class 2 has no image"):
        class_prototypes(images, labels, 3)


# --- what is kept


class Counting(nn.Module):
    """Counts its calls."""

    def __init__(self, inner: nn.Module):
        super().__init__()
        self.inner, self.calls = inner, 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        return self.inner(x)


def test_features_are_kept_for_each_copy():
    spec = spec_of()
    network = NoPropNetwork(spec, 2, False, SHAPE, embedding_of(spec)).eval()
    for copy in network.blocks:
        copy.image = Counting(copy.image)
    images, z = normal(3, *SHAPE), normal(3, 6)
    kept = KeptFeatures(images)
    for _ in range(3):
        for block in range(2):
            fresh = network.logits(block, KeptFeatures(images), z)
            assert torch.equal(network.logits(block, kept, z), fresh)
    assert [copy.image.calls for copy in network.blocks] == [4, 4]


@pytest.mark.parametrize("kind", KINDS)
def test_sampling_with_kept_features_is_sampling_that_computes_them_anew(kind):
    network = denoiser(kind, sampling={"steps": 30})
    model = DiffusionBlocks(network, network.method)
    for copy in network.blocks:
        copy.image = Counting(copy.image)
    images, epsilon = normal(4, *SHAPE), normal(4, *network.target_shape, seed=1)
    with torch.no_grad():
        kept = model.sample(images, epsilon)
        assert [copy.image.calls for copy in network.blocks] == [1, 1, 1]
        network.keep = lambda inputs: inputs
        anew = model.sample(images, epsilon)
    assert sum(copy.image.calls for copy in network.blocks) == 3 + 30
    assert torch.allclose(kept, anew, atol=1e-5)


# --- DiffusionBlocks on it


@pytest.mark.parametrize("kind", KINDS)
def test_targets_are_unit_norm_and_come_back_over_the_bridge(kind):
    network, labels = denoiser(kind), torch.arange(CLASSES)
    y = network.target(labels)
    assert y.shape == (CLASSES, *network.target_shape)
    assert torch.allclose(y.flatten(1).norm(dim=1), torch.ones(CLASSES), atol=1e-5)
    assert torch.allclose(network.bridge(100 * torch.eye(CLASSES)), y, atol=1e-5)


def test_sigma_data_is_one_half_or_the_rms_of_the_targets():
    assert denoiser("prototype").precondition.sigma_data == 0.5
    network = denoiser("prototype", noise={"sigma_data": "embedding_rms"})
    rms = network.target(torch.arange(CLASSES)).square().mean().sqrt().item()
    assert network.precondition.sigma_data == pytest.approx(rms, rel=1e-5) == pytest.approx(1 / math.sqrt(288))


def test_a_copy_reads_the_preconditioned_label_and_the_noise_level():
    network, sigma = denoiser(c_noise_scale=2.0), torch.tensor([0.3, 4.0])
    images, z = normal(2, *SHAPE), normal(2, 6, seed=1)
    copy = network.blocks[1]
    expected = copy(copy.image(images), z / (sigma**2 + 0.25).sqrt()[:, None], 2 * sigma.log() / 4)
    assert torch.allclose(network.denoise(1, z, sigma, images), expected, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("block", [0, 1, 2])
def test_the_loss_of_a_block_gives_gradients_to_its_copy_and_the_table_alone(kind, block):
    network = denoiser(kind).train()
    model = DiffusionBlocks(network, network.method)
    sigma, epsilon = model.noise_draws(block, 4, torch.Generator().manual_seed(0))
    model.training_loss(block, normal(4, *SHAPE), torch.arange(4), sigma, epsilon).backward()
    moved = {name for name, p in network.named_parameters() if p.grad is not None}
    expected = {name for name, _ in network.named_parameters() if name.startswith((f"blocks.{block}.", "embedding."))}
    assert moved == expected


def test_a_frozen_table_takes_no_gradient():
    network = denoiser(target_table="frozen")
    assert not network.embedding.table.requires_grad
