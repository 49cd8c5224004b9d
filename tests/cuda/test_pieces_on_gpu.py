"""Pieces that have a way of their own on a CUDA device, or are about it: augmentation, sampling, the allocator."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from dblocks.config import resolve
from dblocks.data.augment import augment
from dblocks.data.rand_augment import OPERATIONS, apply_operations
from dblocks.machine import set_up
from dblocks.measure.allocated import allocated
from dblocks.measure.made_up import made_up_data
from dblocks.measure.memory import account_part, accounting_spec, build_without_numbers
from dblocks.spec import AugmentSpec, ComputeSpec
from dblocks.text_generation import sample_nucleus

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")


def noise(*shape: int) -> torch.Tensor:
    return torch.randint(256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("shape", [(3, 32, 32), (1, 28, 28), (3, 17, 24), (1, 1, 1)], ids=str)
def test_operations_on_images_are_those_of_a_cpu(shape):
    images, ops, negative = noise(280, *shape), torch.arange(280) % len(OPERATIONS), torch.arange(280) % 3 == 0
    for magnitude in (4, 9, 30):
        expected = apply_operations(images, ops, negative, magnitude)
        assert torch.equal(apply_operations(images.cuda(), ops, negative, magnitude).cpu(), expected)


@pytest.mark.parametrize("crop", [{"crop_padding": 4}, {"crop_padding": 0, "resized_crop": True}], ids=str)
def test_images_are_augmented_as_on_a_cpu(crop):
    images, spec = noise(1000, 3, 32, 32), AugmentSpec(**crop, flip=0.5, rand_augment={"num_ops": 2, "magnitude": 9})
    here, there = (augment(x, spec, torch.Generator().manual_seed(1)) for x in (images, images.cuda()))
    assert torch.equal(there.cpu(), here)


def test_sampling_goes_on_where_cuda_is_to_be_deterministic():
    """CUDA's own running sums are refused there."""
    logits = torch.randn(4, 50, generator=torch.Generator().manual_seed(0)).cuda()
    draws = [torch.Generator("cuda").manual_seed(1) for _ in range(2)]
    expected = sample_nucleus(logits, 0.9, draws[0])
    torch.use_deterministic_algorithms(True)
    try:
        assert torch.equal(sample_nucleus(logits, 0.9, draws[1]), expected)
    finally:
        torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize("length", [64, 65, 128, 256])
@pytest.mark.parametrize("dropout", [0.0, 0.1])
def test_attention_has_gradients_where_all_logits_are_low(length, dropout):
    """Of -120 for every pair: exp(-logsumexp) is more than float32 holds."""
    set_up(ComputeSpec())
    draws = torch.Generator("cuda").manual_seed(0)
    q, k, v = (torch.randn(8, 4, length, 32, generator=draws, device="cuda") for _ in range(3))
    q[..., 0], k[..., 0] = 120.0, -(32**0.5)
    q, k, v = (part.bfloat16().requires_grad_() for part in (q, k, v))
    F.scaled_dot_product_attention(q, k, v, dropout_p=dropout).float().square().mean().backward()
    assert all(part.grad.isfinite().all() for part in (q, k, v))


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("length", [64, 65, 256])
def test_attention_drops_the_same_in_backward_as_in_forward(length, compiled):
    """Attention is linear in the values: out · g and values · their gradient are the same sum."""
    set_up(ComputeSpec())
    draws = torch.Generator("cuda").manual_seed(0)
    q, k, v, g = (torch.randn(64, 4, length, 32, generator=draws, device="cuda").bfloat16() for _ in range(4))
    v.requires_grad_()
    attend = torch.compile(F.scaled_dot_product_attention) if compiled else F.scaled_dot_product_attention
    out = attend(q, k, v, dropout_p=0.5)
    out.backward(g)
    terms = out.detach().double() * g.double()
    # of each image and head; rounding is a few thousandths of it (on a CPU), another half of the pairs about all of it
    apart = terms.sum((-2, -1)) - (v.detach().double() * v.grad.double()).sum((-2, -1))
    assert apart.norm() <= 0.2 * terms.norm()


@pytest.mark.parametrize("run", ["vit/end_to_end", "dit_cifar10/end_to_end"])
def test_the_account_is_the_allocators_peak_but_for_what_one_operation_needs(run, tmp_path):
    spec = accounting_spec(resolve(run, "paper"), 128)
    data = made_up_data(spec, tmp_path / "accounted")
    accounted = account_part(spec, build_without_numbers(spec, data)).account.total
    assert accounted <= allocated(spec, torch.device("cuda"), tmp_path / "real") <= 1.07 * accounted
