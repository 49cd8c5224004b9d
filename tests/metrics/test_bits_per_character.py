"""Bits per character against models whose bits are known, and against exact enumeration."""

import itertools
import math

import numpy as np
import pytest
import torch

from dblocks.masking import mask_partition
from dblocks.metrics.bits_per_character import bigram_entropy, bits_per_character, rows_by_block, unigram_entropy


def draws(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def estimate(denoise, windows, alphabet, blocks=1, times=16, schedule="linear", seed=0):
    partition = mask_partition(schedule, (1,) * blocks)
    return bits_per_character(denoise, windows, partition, alphabet, times, draws(seed))


def constant(log_p: torch.Tensor):
    """A model that predicts the same distribution everywhere."""
    return lambda block, tokens, t: log_p.float().expand(*tokens.shape, -1)


def agrees(found, exact: float) -> bool:
    """Within four standard errors."""
    return abs(found.value - exact) < 4 * found.standard_error


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
def test_a_uniform_predictor_scores_log2_of_27(schedule):
    windows = torch.randint(27, (400, 64), generator=draws(1))
    found = estimate(constant(torch.zeros(27)), windows, 27, schedule=schedule)
    assert math.log2(27) == pytest.approx(4.755, abs=5e-4)
    assert agrees(found, math.log2(27))
    assert found.standard_error < 0.05


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
def test_a_unigram_predictor_scores_the_unigram_entropy_of_the_text(schedule):
    windows = torch.from_numpy(np.random.default_rng(0).zipf(1.5, (400, 64)).clip(1, 27) - 1)
    frequencies = torch.bincount(windows.flatten(), minlength=27).double() / windows.numel()
    found = estimate(constant(frequencies.log()), windows, 27, blocks=3, schedule=schedule)
    assert agrees(found, unigram_entropy(windows.flatten().numpy(), 27))


def table_model(alphabet: int, length: int, seed: int):
    """A model with an arbitrary prediction for every pattern of masks and characters."""
    logits = torch.randn(*(alphabet + 1,) * length, length, alphabet, generator=draws(seed))
    return lambda block, tokens, t: logits[tuple(tokens.unbind(dim=1))]


def exact_bits(denoise, windows: torch.Tensor, mask: int) -> float:
    """The bound by enumeration of all sets of masked positions, for a model that ignores t.

    A set of m of L positions has weight ∫ t⁻¹ tᵐ (1 − t)^(L−m) dt = (m − 1)! (L − m)! / L! (linear schedule;
    any other gives the same, by substitution).
    """
    n, length = windows.shape
    total = 0.0
    for pattern in itertools.product([False, True], repeat=length):
        masked, m = torch.tensor(pattern), sum(pattern)
        if not m:
            continue
        log_p = denoise(0, windows.masked_fill(masked, mask), None).double().log_softmax(-1)
        ce = -log_p.gather(-1, windows[..., None])[..., 0]
        weight = math.factorial(m - 1) * math.factorial(length - m) / math.factorial(length)
        total += weight * ce[:, masked].sum().item()
    return total / (n * length * math.log(2))


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
def test_the_estimator_is_unbiased_against_exact_enumeration(schedule):
    alphabet, length = 3, 4
    denoise = table_model(alphabet, length, 3)
    every = torch.tensor(list(itertools.product(range(alphabet), repeat=length)))
    exact = exact_bits(denoise, every, alphabet)
    found = estimate(denoise, every.repeat(120, 1), alphabet, schedule=schedule, seed=7)
    assert found.standard_error < 0.02
    assert agrees(found, exact)


def test_block_wise_bits_equal_end_to_end_bits_when_all_blocks_hold_the_same_network():
    denoise = table_model(3, 4, 5)
    windows = torch.randint(3, (300, 4), generator=draws(2))
    whole = estimate(denoise, windows, 3, blocks=1)
    for blocks in (2, 3, 5):
        parts = estimate(denoise, windows, 3, blocks=blocks)
        assert parts.value == pytest.approx(whole.value, abs=1e-6)
        assert parts.standard_error == pytest.approx(whole.standard_error, abs=1e-6)
        assert sum(parts.by_block) == pytest.approx(parts.value)
        assert sum(parts.evaluations) == sum(whole.evaluations) == 300 * 16


def test_no_block_is_run_outside_its_own_interval_and_all_of_time_is_covered():
    partition, seen = mask_partition("cosine", (1, 1, 1), overlap=0.5), []

    def denoise(block, tokens, t):
        low, high = partition.interval(block)
        assert ((t >= low) & ((t < high) | (high == 1))).all()
        seen.append(t)
        return torch.zeros(*tokens.shape, 5)

    bits_per_character(denoise, torch.zeros(50, 6, dtype=torch.int64), partition, 5, 16, draws())
    times = torch.cat(seen)
    assert len(times) == 50 * 16
    assert torch.histc(times.sqrt(), 16, 0, 1).tolist() == [50.0] * 16


def test_the_standard_error_is_that_of_the_mean_over_windows():
    windows = torch.randint(27, (64, 8), generator=draws(4))
    values = torch.tensor([estimate(constant(torch.zeros(27)), windows, 27, seed=seed).value for seed in range(200)])
    claimed = estimate(constant(torch.zeros(27)), windows, 27, seed=999)
    assert claimed.windows == 64
    assert values.std().item() == pytest.approx(claimed.standard_error, rel=0.35)


def test_rows_go_to_their_owners():
    partition = mask_partition("linear", (1, 1))
    rows = rows_by_block(partition, torch.tensor([0.1, 0.9, 0.5, 0.4], dtype=torch.float64))
    assert {block: found.tolist() for block, found in rows.items()} == {0: [1, 2], 1: [0, 3]}


def test_entropies_of_known_texts():
    assert unigram_entropy(np.array([0, 1, 2, 3] * 8, np.uint8), 27) == pytest.approx(2)
    assert bigram_entropy(np.array([0, 1, 2, 3] * 8, np.uint8), 27) == pytest.approx(0, abs=1e-12)
    fair = np.random.default_rng(0).integers(0, 2, 200_000).astype(np.uint8)
    assert bigram_entropy(fair, 27) == pytest.approx(1, abs=1e-3)
    letters = np.random.default_rng(0).integers(0, 27, 200_000).astype(np.uint8)  # 27·26 is more than a byte holds
    assert bigram_entropy(letters, 27) == pytest.approx(math.log2(27), abs=0.01)


def test_a_single_window_has_no_standard_error():
    found = estimate(constant(torch.zeros(27)), torch.zeros(1, 8, dtype=torch.int64), 27)
    assert found.standard_error is None
