"""Stochastic depth: its distribution, and how often the layers run in training and at inference."""

from __future__ import annotations

import math
import statistics

import pytest
import torch

from dblocks.methods.recurrent_depth import depth_of_step
from dblocks.spec import RecurrentDepthSpec


def test_depth_has_mean_33_and_median_29():
    depths = [depth_of_step(RecurrentDepthSpec(), 32, 0, step) for step in range(8000)]
    # their deviation is about 18.5: five standard errors of the mean are 1.0, of the median 1.3
    assert statistics.fmean(depths) == pytest.approx(33, abs=1.0)
    assert statistics.median(depths) == pytest.approx(29, abs=1.3)
    assert min(depths) >= 1
    assert statistics.fmean(max(0, depth - 8) for depth in depths) == pytest.approx(25.0, abs=1.0)


def test_depth_is_a_function_of_seed_and_step():
    def depths(seed: int) -> list[int]:
        return [depth_of_step(RecurrentDepthSpec(), 32, seed, step) for step in range(20)]

    torch.manual_seed(1)
    first = depths(0)
    torch.manual_seed(2)
    assert depths(0) == first != depths(1)


@pytest.mark.parametrize("s", [0.0, 0.25, 0.5])
@pytest.mark.parametrize("mean", [4, 9])
def test_depth_less_one_is_poisson_of_a_log_normal_of_the_given_mean_and_deviation(mean, s):
    """Its variance is that of the Poisson and of its rate: r̄ + r̄²·(exp(s²) − 1)."""
    depths = [depth_of_step(RecurrentDepthSpec(log_deviation=s), mean, 1, step) for step in range(4000)]
    variance = mean + mean**2 * math.expm1(s**2)
    assert statistics.fmean(depths) == pytest.approx(mean + 1, abs=5 * math.sqrt(variance / 4000))
    assert statistics.variance(depths) == pytest.approx(variance, rel=0.25)
