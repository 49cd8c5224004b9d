"""NoProp's mathematics: weights telescope, the KL's closed form, the posterior against simulation, schedules rise."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.distributions import Normal, kl_divergence

from dblocks.noprop import (
    LearnedSchedule,
    bound,
    cosine_alpha_bar,
    inverse_softplus,
    noisy,
    posterior,
    prior_kl,
    snr,
    snr_weights,
)

CLIP = (1e-3, 0.999)


@given(st.integers(1, 200))
def test_the_cosine_schedule_rises_inside_its_clip(steps):
    bars = cosine_alpha_bar(steps, *CLIP)
    assert len(bars) == steps + 1
    assert (bars[0], bars[-1]) == CLIP
    assert all(a <= b for a, b in pairwise(bars))


def test_the_cosine_schedule_is_nichol_and_dhariwals_backwards():
    bars = cosine_alpha_bar(10, *CLIP)
    f = [math.cos((k / 10 + 0.008) / 1.008 * math.pi / 2) ** 2 for k in range(11)]
    assert bars[1:-1] == pytest.approx([f[10 - t] / f[0] for t in range(1, 10)])


@given(st.lists(st.floats(1e-4, 0.9999), min_size=2, max_size=30))
def test_snr_weights_telescope(bars):
    bars = sorted(bars)
    weights = snr_weights(bars)
    assert min(weights) >= 0
    assert math.fsum(weights) == pytest.approx(snr(bars[-1]) - snr(bars[0]), rel=1e-9, abs=1e-9)


@pytest.mark.parametrize("shape", [(7,), (3, 4, 4)])
def test_prior_kl_is_that_of_two_normals(shape):
    u = torch.randn(5, *shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for bar in (0.001, 0.3, 0.999):
        alpha_bar = torch.tensor(bar, dtype=torch.float64)
        exact = kl_divergence(Normal(alpha_bar.sqrt() * u, (1 - alpha_bar).sqrt()), Normal(0.0, 1.0))
        assert torch.allclose(prior_kl(u, alpha_bar), exact.flatten(1).sum(1))


@pytest.mark.parametrize("step", [1, 5, 10])
def test_posterior_coefficients_are_those_of_a_simulated_path(step):
    """z_t ~ q(z_t | y), then one step towards noise; z_t regressed on z_{t−1}: the slope is b, the offset a·u, the
    remaining variance c."""
    bars, u, draws = cosine_alpha_bar(10, *CLIP), 0.7, np.random.default_rng(step)
    before, now = bars[step - 1], bars[step]
    alpha = before / now
    z = math.sqrt(now) * u + math.sqrt(1 - now) * draws.standard_normal(2_000_000)
    earlier = math.sqrt(alpha) * z + math.sqrt(1 - alpha) * draws.standard_normal(len(z))
    slope, offset = np.polyfit(earlier, z, 1)
    coefficients = posterior(before, now)
    assert slope == pytest.approx(coefficients.b, abs=3e-3)
    assert offset == pytest.approx(coefficients.a * u, abs=3e-3)
    assert np.var(z - slope * earlier - offset) == pytest.approx(coefficients.c, abs=3e-3)
    # the path has the marginals it should have, step by step
    assert earlier.mean() == pytest.approx(math.sqrt(before) * u, abs=3e-3)
    assert earlier.var() == pytest.approx(1 - before, abs=3e-3)


@given(st.floats(1e-4, 0.999), st.floats(1e-4, 0.999))
def test_posterior_steps_keep_the_marginals(one, other):
    """If û is right, mean and variance of q(z_{t−1} | y) become those of q(z_t | y)."""
    before, now = sorted((one, other))
    step = posterior(before, now)
    assert step.a + step.b * math.sqrt(before) == pytest.approx(math.sqrt(now))
    assert step.b**2 * (1 - before) + step.c == pytest.approx(1 - now)


def test_noisy_has_the_mean_and_deviation_of_q():
    u, eps = torch.full((50_000, 2), 3.0), torch.randn(50_000, 2, generator=torch.Generator().manual_seed(0))
    for bar in (torch.tensor(0.36), torch.full((50_000,), 0.36)):
        z = noisy(u, bar, eps)
        assert z.mean().item() == pytest.approx(1.8, abs=0.02)
        assert z.std().item() == pytest.approx(0.8, abs=0.02)


def test_the_bound_is_its_three_terms():
    draws = torch.Generator().manual_seed(0)
    u, prediction, eps = (torch.randn(4, 6, generator=draws) for _ in range(3))
    classifier, labels = torch.nn.Linear(6, 3), torch.tensor([0, 1, 2, 0])
    first, last, weight = torch.tensor(0.01), torch.tensor(0.98), torch.tensor([1.0, 2.0, 3.0, 4.0])
    scores = classifier(math.sqrt(0.98) * u + math.sqrt(0.02) * eps)
    entropy = scores.logsumexp(1) - scores[range(4), labels]
    error = ((prediction - u) ** 2).sum(1)
    expected = (entropy + prior_kl(u, first) + 0.5 * weight * error).mean()
    assert torch.allclose(bound(u, labels, prediction, weight, classifier, (first, last), eps), expected, atol=1e-5)


# --- the learned schedule


def drawn_schedule(seed: int, deviation: float) -> LearnedSchedule:
    """A schedule with parameters as training might leave them."""
    schedule, draws = LearnedSchedule(-7, 7), torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in schedule.parameters():
            parameter.add_(deviation * torch.randn(parameter.shape, generator=draws))
    return schedule


@given(st.integers(0, 10_000), st.floats(0, 3))
def test_the_learned_schedule_rises_whatever_its_parameters(seed, deviation):
    schedule, t = drawn_schedule(seed, deviation).double(), torch.linspace(0, 1, 101, dtype=torch.float64)
    gamma, slope = schedule(t)
    assert (gamma.diff() <= 0).all() and (slope <= 0).all()
    assert (schedule.snr_slope(t) >= 0).all()
    bars = schedule.alpha_bar(t)
    assert (bars.diff() >= 0).all() and bars.min() >= 0 and bars.max() <= 1


def test_the_learned_schedule_begins_at_its_endpoints():
    gamma = LearnedSchedule(-5, 6)(torch.tensor([0.0, 1.0]))[0]
    assert gamma.tolist() == pytest.approx([6, -5], abs=1e-4)


def test_snr_slope_is_the_derivative_of_the_snr():
    schedule, t = drawn_schedule(3, 0.5).double(), torch.linspace(0.01, 0.99, 25, dtype=torch.float64)
    t.requires_grad_()
    (slope,) = torch.autograd.grad(snr(schedule.alpha_bar(t)).sum(), t)
    assert torch.allclose(schedule.snr_slope(t.detach()), slope, rtol=1e-8)


def test_every_parameter_of_the_schedule_learns():
    schedule = LearnedSchedule(-7, 7)
    schedule.snr_slope(torch.tensor([0.2, 0.7])).log().sum().backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in schedule.parameters())


def test_a_fresh_schedule_falls_by_the_mean_of_sigmoids_of_slope_four_that_bend_one_after_another():
    t = [0.0, 0.1, 0.35, 0.8, 1.0]

    def mean(at: float) -> float:
        return math.fsum(1 / (1 + math.exp(4 * k / 63 - 4 * at)) for k in range(64)) / 64

    expected = [6 - 11 * (mean(at) - mean(0)) / (mean(1) - mean(0)) for at in t]
    assert LearnedSchedule(-5, 6)(torch.tensor(t))[0].tolist() == pytest.approx(expected, abs=1e-4)


@given(st.floats(1e-3, 50))
def test_inverse_softplus_is_one(value):
    assert math.log1p(math.exp(inverse_softplus(value))) == pytest.approx(value)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (math.log(2), 0.0),
        (4.0, math.log(math.exp(4) - 1)),
        (1e-12, math.log(1e-12)),  # ln(e^v − 1) is ln v for the smallest …
        (1000.0, 1000.0),  # … and v for the largest, of which e^v is too large a number
    ],
)
def test_inverse_softplus_is_the_logarithm_of_the_exponential_less_one_at_any_size(value, expected):
    found = inverse_softplus(value)
    assert found == pytest.approx(expected, rel=1e-12, abs=1e-12)
    assert torch.nn.functional.softplus(torch.tensor(found, dtype=torch.float64)).item() == pytest.approx(value)
