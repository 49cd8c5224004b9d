"""Stochastic depth: its distribution, and how often the layers run in training and at inference."""

from __future__ import annotations

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
