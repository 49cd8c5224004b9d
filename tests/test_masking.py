"""Masking schedules, the partition of mask times, masking itself and the bound's integrand."""

import math
from fractions import Fraction

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dblocks.masking import SCHEDULES, bound, mask_at, mask_partition, sampling_times, stratified_times
from dblocks.noise import NoiseLevel

NAMES = sorted(SCHEDULES)
schedules = st.sampled_from(NAMES)
blocks = st.integers(1, 12)
times = st.floats(0, 1, exclude_max=True)


def mass(schedule: str, t: float) -> float:
    """1 − α(t)."""
    return 1 - SCHEDULES[schedule].alpha(torch.tensor(t, dtype=torch.float64)).item()


def partition(schedule: str, num_blocks: int, overlap: float = 0.0):
    return mask_partition(schedule, (1,) * num_blocks, overlap)


@pytest.mark.parametrize("name", NAMES)
def test_alpha_falls_from_one_to_zero_and_the_weight_is_its_slope_over_the_masked_share(name):
    t = torch.linspace(0.001, 0.999, 200, dtype=torch.float64, requires_grad=True)
    alpha = SCHEDULES[name].alpha(t)
    (slope,) = torch.autograd.grad(alpha.sum(), t)
    assert (slope < 0).all()
    torch.testing.assert_close(SCHEDULES[name].weight(t).detach(), (-slope / (1 - alpha)).detach())
    assert mass(name, 0.0) == pytest.approx(0, abs=1e-15)
    assert mass(name, 1.0) == pytest.approx(1)


@given(schedules, st.floats(0, 1))
def test_time_inverts_the_schedule(name, fallen):
    assert mass(name, SCHEDULES[name].time(fallen)) == pytest.approx(fallen, abs=1e-9)


@given(blocks)
def test_under_the_linear_schedule_block_b_owns_the_closed_form(num_blocks):
    cut = partition("linear", num_blocks)
    for b in range(1, num_blocks + 1):
        assert cut.interval(b - 1) == pytest.approx((1 - b / num_blocks, 1 - (b - 1) / num_blocks), abs=1e-15)


@given(blocks)
def test_under_the_cosine_schedule_boundaries_are_the_closed_form(num_blocks):
    expected = [1 - 2 / math.pi * math.acos(k / num_blocks) for k in range(num_blocks + 1)]
    assert partition("cosine", num_blocks).boundaries == pytest.approx(expected)


@given(schedules, blocks)
def test_alpha_falls_by_the_same_share_in_every_block_and_blocks_cover_all_times(name, num_blocks):
    cut = partition(name, num_blocks)
    assert (cut.boundaries[0], cut.boundaries[-1]) == pytest.approx((0, 1), abs=1e-15)
    for block in range(num_blocks):
        low, high = cut.interval(block)
        assert mass(name, high) - mass(name, low) == pytest.approx(1 / num_blocks)
        if block:
            assert cut.interval(block - 1)[0] == high


@given(schedules, blocks, times)
def test_the_owner_of_a_time_is_the_block_whose_half_open_interval_holds_it(name, num_blocks, t):
    cut = partition(name, num_blocks)
    low, high = cut.interval(cut.owner(NoiseLevel(t)))
    assert low <= t < high


@given(schedules, blocks)
def test_a_boundary_belongs_to_the_more_masked_block(name, num_blocks):
    cut = partition(name, num_blocks)
    for block in range(num_blocks):
        assert cut.owner(cut.interval(block)[0]) == block
    assert cut.owner(1.0) == 0


@given(schedules, blocks, st.integers(1, 500))
def test_sampling_times_of_equal_mass_run_every_block_alike_and_never_stray_by_rounding(name, num_blocks, rounds):
    steps = num_blocks * rounds
    levels = sampling_times("equal_mass", name, steps)
    owners = [partition(name, num_blocks).owner(level) for level in levels[:-1]]
    # the first step is at mass 1; then every step that starts on a boundary belongs to the block above it
    assert owners == [max(0, i - 1) // rounds for i in range(steps)]


@pytest.mark.parametrize("grid", ["cosine", "equal_mass"])
@pytest.mark.parametrize("name", NAMES)
def test_sampling_times_fall_from_one_to_zero(grid, name):
    found = [level.sigma for level in sampling_times(grid, name, 10)]
    assert (found[0], found[-1]) == pytest.approx((1, 0), abs=1e-15)
    assert found == sorted(found, reverse=True)
    assert len(set(found)) == 11


@pytest.mark.parametrize("name", NAMES)
def test_the_cosine_grid_is_a_quarter_of_a_cosine_in_t_whatever_the_schedule(name):
    levels = sampling_times("cosine", name, 4)
    quarter = [1, math.cos(math.pi / 8), math.sqrt(0.5), math.sin(math.pi / 8), 0]
    assert [level.sigma for level in levels] == pytest.approx(quarter, abs=1e-15)
    assert [level.mass for level in levels] == [1, None, None, None, 0]


@pytest.mark.parametrize("name", NAMES)
def test_the_equal_mass_grid_unmasks_the_same_share_in_every_step(name):
    levels = sampling_times("equal_mass", name, 4)
    assert [level.mass for level in levels] == [Fraction(4 - i, 4) for i in range(5)]
    assert [mass(name, level.sigma) for level in levels] == pytest.approx([1, 0.75, 0.5, 0.25, 0], abs=1e-12)


@given(schedules, blocks, st.floats(0, 1))
def test_overlap_widens_additively_in_alpha_and_stays_within_all_times(name, num_blocks, gamma):
    cut = partition(name, num_blocks, gamma)
    for block in range(num_blocks):
        low, high = cut.training_interval(block)
        top = num_blocks - block
        assert mass(name, low) == pytest.approx(max(0, (top - 1 - gamma) / num_blocks), abs=1e-9)
        assert mass(name, high) == pytest.approx(min(1, (top + gamma) / num_blocks), abs=1e-9)


@given(schedules, blocks)
def test_without_overlap_a_block_trains_where_it_is_run(name, num_blocks):
    cut = partition(name, num_blocks)
    for block in range(num_blocks):
        assert cut.training_interval(block) == pytest.approx(cut.interval(block), abs=1e-12)


@given(st.integers(1, 64), st.integers(0, 2**32), times)
def test_a_batch_has_one_time_in_each_equal_part_and_never_the_lower_end(count, seed, low):
    draws = torch.Generator().manual_seed(seed)
    found = stratified_times(count, (low, 1.0), draws)
    assert found.dtype == torch.float64
    edges = torch.linspace(low, 1.0, count + 1, dtype=torch.float64)
    assert ((found > edges[:-1] - 1e-12) & (found <= edges[1:] + 1e-12)).all()
    assert (found > low).all()
    gaps = found.diff()
    assert torch.allclose(gaps, torch.full_like(gaps, (1 - low) / count))


@pytest.mark.parametrize("name", NAMES)
def test_characters_are_masked_with_the_probability_the_schedule_says(name):
    tokens = torch.zeros(3, 20_000, dtype=torch.int64)
    t = torch.tensor([1e-9, 0.3, 1.0], dtype=torch.float64)
    masked = (mask_at(tokens, t, name, 5, torch.Generator().manual_seed(0)) == 5).double().mean(dim=1)
    expected = [mass(name, value) for value in t.tolist()]
    assert masked.tolist() == pytest.approx(expected, abs=0.015)
    assert masked[2] == 1


def test_masks_are_drawn_in_float64():
    tokens, t = torch.zeros(4, 50, dtype=torch.int64), torch.tensor([0.2, 0.4, 0.6, 0.8], dtype=torch.float64)
    uniform = torch.rand(4, 50, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    masked = mask_at(tokens, t, "linear", 5, torch.Generator().manual_seed(1)) == 5
    assert torch.equal(masked, uniform < t[:, None])


def test_the_bound_sums_weighted_cross_entropies_over_masked_positions_alone():
    draws = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 3, 4, generator=draws)
    tokens = torch.randint(4, (2, 3), generator=draws)
    masked = torch.tensor([[True, False, True], [False, False, False]])
    t = torch.tensor([0.25, 0.5], dtype=torch.float64)
    log_p = logits.log_softmax(-1)
    expected = -4 * (log_p[0, 0, tokens[0, 0]] + log_p[0, 2, tokens[0, 2]])
    found = bound(logits, tokens, masked, t, "linear")
    assert found.tolist() == pytest.approx([expected.item(), 0.0])
