"""Bits per character against models whose bits are known, and against exact enumeration."""

import itertools
import math

import numpy as np
import pytest
import torch

from dblocks.masking import mask_partition
from dblocks.metrics.bits_per_character import (
    bigram_entropy,
    bits_per_character,
    rows_by_block,
    time_in_stratum,
    unigram_entropy,
)
from dblocks.tasks.masked_text import MaskedPredictor, MaskedText


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


@pytest.mark.parametrize("stratum", range(4))
def test_times_fill_their_stratum_of_the_root_each_window_with_one_of_its_own(stratum):
    t, share = time_in_stratum(stratum, 4, 4000, draws(stratum))
    place = 4 * t.sqrt() - stratum  # uniform in (0, 1]
    assert -1e-12 < place.min() < 0.01 and 0.99 < place.max() < 1 + 1e-12
    assert place.mean().item() == pytest.approx(1 / 2, abs=0.02)
    assert place.var().item() == pytest.approx(1 / 12, rel=0.06)
    assert len(t.unique()) == 4000
    torch.testing.assert_close(share, 2 * t.sqrt() / 4)


def test_a_time_is_never_0_but_may_be_1(monkeypatch):
    monkeypatch.setattr(torch, "rand", lambda count, **options: torch.zeros(count, dtype=torch.float64))
    for stratum in range(4):
        assert time_in_stratum(stratum, 4, 1, draws())[0].item() == ((stratum + 1) / 4) ** 2


def test_value_and_error_are_those_of_the_draws_by_hand():
    """A uniform predictor, linear schedule: at t a masked character counts 1/t · log2 27, the time 2√t / times."""
    windows, seen = torch.randint(27, (5, 8), generator=draws(1)), []

    def denoise(block, tokens, t):
        seen.append((tokens, t))
        return torch.zeros(*tokens.shape, 27)

    found = bits_per_character(denoise, windows, mask_partition("linear", (1,)), 27, 16, draws(2), batch=2)
    assert [len(t) for _, t in seen] == [2] * 32 + [1] * 16  # two windows at a time, then the fifth
    bits = torch.zeros(5, dtype=torch.float64)
    for call, (tokens, t) in enumerate(seen):
        first = 2 * (call // 16)
        masked = (tokens == 27).sum(dim=1)
        bits[first : first + len(t)] += 2 * t.sqrt() / 16 * masked / t * math.log2(27) / 8
    assert found.value == pytest.approx(bits.mean().item(), rel=1e-6)
    assert found.standard_error == pytest.approx(np.std(bits.numpy(), ddof=1) / math.sqrt(5), rel=1e-6)


def test_a_run_is_evaluated_at_as_many_times_a_window_as_it_asks_for_drawn_by_its_own_seed(austen, text_spec):
    def evaluated(seed: int, times: int) -> tuple[float, int]:
        spec, asked = text_spec("end_to_end", {"seed": seed, "task": {"evaluation_times": times}}), []

        def denoise(block, tokens, t):
            asked.append(len(t))
            return torch.zeros(*tokens.shape, 27)

        task = MaskedText(spec, austen, torch.device("cpu"))
        metrics = task.evaluate({"": MaskedPredictor(denoise, mask_partition("linear", (1,)))})
        return metrics[0].value, sum(asked)

    assert evaluated(0, 16) == evaluated(0, 16)
    assert evaluated(0, 16)[1] == 20 * 16 and evaluated(0, 24)[1] == 20 * 24
    assert evaluated(0, 16)[0] != evaluated(1, 16)[0]
