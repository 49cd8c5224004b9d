"""The ancestral sampler: it draws what the model says, in float64, and leaves no mask."""

from itertools import pairwise

import pytest
import torch

from dblocks.masked_sampling import ancestral_sample, categorical
from dblocks.masking import mask_partition, sampling_times


def sample(denoise, blocks=1, steps=8, shape=(64, 16), grid="cosine", schedule="linear", alphabet=3):
    partition = mask_partition(schedule, (1,) * blocks)
    levels = sampling_times(grid, schedule, steps)
    return ancestral_sample(denoise, partition, levels, shape, alphabet, torch.Generator().manual_seed(0))


@pytest.mark.parametrize("grid", ["cosine", "equal_mass"])
@pytest.mark.parametrize("schedule", ["linear", "cosine"])
@pytest.mark.parametrize("steps", [1, 8])
def test_no_mask_is_left_and_frequencies_are_the_models(grid, schedule, steps):
    p = torch.tensor([0.7, 0.2, 0.1])
    codes = sample(lambda b, x, t: p.log().expand(*x.shape, -1), steps=steps, grid=grid, schedule=schedule)
    assert codes.shape == (64, 16)
    assert codes.max() < 3
    assert (torch.bincount(codes.flatten(), minlength=3) / codes.numel()).tolist() == pytest.approx(
        p.tolist(), abs=0.05
    )


def test_what_is_uncovered_stays_and_about_the_expected_share_is_uncovered():
    states = []

    def denoise(block, tokens, t):
        states.append((t[0].item(), tokens.clone()))
        return torch.zeros(*tokens.shape, 3)

    sample(denoise, steps=10, shape=(100, 50), grid="equal_mass")
    for (t, before), (_, after) in pairwise(states):
        assert ((before == after) | (before == 3)).all()
        assert (before == 3).double().mean().item() == pytest.approx(t, abs=0.03)


def test_what_a_step_uncovers_is_drawn_in_float64():
    states = []

    def denoise(block, tokens, t):
        states.append(tokens.clone())
        return torch.zeros(*tokens.shape, 3)

    sample(denoise, steps=4, grid="equal_mass")
    uniform = torch.rand(64, 16, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert torch.equal(states[1] != 3, uniform < 0.25)


def test_each_time_is_denoised_by_its_owner():
    partition, run = mask_partition("linear", (1, 1, 1)), []

    def denoise(block, tokens, t):
        assert partition.owner(t[0].item()) == block
        run.append(block)
        return torch.zeros(*tokens.shape, 3)

    sample(denoise, blocks=3, steps=20)
    levels = sampling_times("cosine", "linear", 20)
    assert [run.count(block) for block in range(3)] == partition.evaluations(levels[:-1])
    assert all(run.count(block) for block in range(3))


def test_categoricals_keep_tails_that_float32_would_cut():
    logits = torch.tensor([[0.0, -30.0]]).double().expand(10, 2)
    assert logits.softmax(-1)[0, 1] > 0
    assert categorical(logits, torch.Generator().manual_seed(0)).dtype == torch.int64
    seen = []
    original = torch.multinomial
    try:
        torch.multinomial = lambda p, *a, **k: seen.append(p.dtype) or original(p, *a, **k)
        categorical(logits.float(), torch.Generator().manual_seed(0))
    finally:
        torch.multinomial = original
    assert seen == [torch.float64]
    assert categorical(torch.empty(0, 3), torch.Generator()).shape == (0,)
