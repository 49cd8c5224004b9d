"""Euler's method on the probability-flow ODE, with the sign that walks towards the data, and guidance.

Equations (3)–(5) as printed add (Δσ/σ)(z − D), which walks away; EDM's step (Karras et al. 2022,
Algorithm 1) and the official code are as below.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

from torch import Tensor

from dblocks.noise import NoiseLevel


def euler_step(z: Tensor, denoised: Tensor, sigma: float, sigma_next: float) -> Tensor:
    """z + (σ_next − σ)·(z − D)/σ = (σ_next/σ)·z + (1 − σ_next/σ)·D, any shape."""
    ratio = sigma_next / sigma
    return ratio * z + (1 - ratio) * denoised


def guided(conditional: Tensor, unconditional: Tensor, scale: float) -> Tensor:
    """Classifier-free guidance on D, all channels (Ho & Salimans 2022): D_∅ + s·(D_c − D_∅), any shape."""
    return unconditional + scale * (conditional - unconditional)


def start_deviation(start_noise: str, sigma_max: float) -> float:
    """Deviation of the first z: σ_max (`paper`) or √(1 + σ_max²) (`official`)."""
    return sigma_max if start_noise == "paper" else (1 + sigma_max**2) ** 0.5


def euler_sample(
    predict: Callable[[NoiseLevel, Tensor], Tensor],
    bridge: Callable[[Tensor], Tensor],
    grid: Sequence[NoiseLevel],
    z: Tensor,
) -> Tensor:
    """Walk down `grid` from z and return the prediction made at its last level.

    Args:
        predict: (level, z) → prediction.
        bridge: prediction → clean target, same shape as z.
        grid: noise levels, descending; as many predictions are made.
        z: noise at the first level.
    """
    for level, following in pairwise(grid):
        z = euler_step(z, bridge(predict(level, z)), level.sigma, following.sigma)
    return predict(grid[-1], z)
