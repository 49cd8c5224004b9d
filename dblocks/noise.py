"""Noise levels: their distribution, EDM preconditioning and weights, and σ grids for sampling.

Scalars are Python floats (float64): if boundaries and grids were rounded, a level on one could get the wrong block.
Tensors of σ are float32 unless said otherwise.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction
from statistics import NormalDist
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

STANDARD_NORMAL = NormalDist()


@dataclass(frozen=True)
class NoiseDistribution:
    """log σ ~ N(p_mean, p_std²) truncated to [sigma_min, sigma_max] (paper, Section 3; EDM, Table 1)."""

    p_mean: float = -1.2
    p_std: float = 1.2
    sigma_min: float = 0.002
    sigma_max: float = 80.0

    def _normal_cdf(self, sigma: float) -> float:
        return STANDARD_NORMAL.cdf((math.log(sigma) - self.p_mean) / self.p_std)

    def mass_below(self, sigma: float) -> float:
        """Probability in [0, 1] of a noise level below `sigma`."""
        q_min, q_max = self._normal_cdf(self.sigma_min), self._normal_cdf(self.sigma_max)
        return (self._normal_cdf(sigma) - q_min) / (q_max - q_min)

    def quantile(self, mass: float) -> float:
        """σ with probability `mass` below it: exp(P_mean + P_std·Φ⁻¹(q)), q = q_min + mass·(q_max − q_min)."""
        if mass <= 0:
            return self.sigma_min
        if mass >= 1:
            return self.sigma_max
        q_min, q_max = self._normal_cdf(self.sigma_min), self._normal_cdf(self.sigma_max)
        return math.exp(self.p_mean + self.p_std * STANDARD_NORMAL.inv_cdf(q_min + mass * (q_max - q_min)))

    def sample(self, low: float, high: float, uniform: torch.Tensor) -> torch.Tensor:
        """σ distributed as this distribution cut to [low, high], by inversion.

        Args:
            low, high: bounds of σ.
            uniform: numbers in [0, 1), any shape, float64 wanted.
        Returns: float32 σ of the same shape, within [low, high] but for its rounding.
        """
        import torch

        q_low, q_high = self._normal_cdf(low), self._normal_cdf(high)
        q = q_low + uniform.double() * (q_high - q_low)
        sigma = torch.exp(self.p_mean + self.p_std * torch.special.ndtri(q))
        return sigma.clamp(low, high).float()


@dataclass(frozen=True)
class Preconditioning:
    """EDM's preconditioning (Karras et al. 2022, Table 1): D(z, σ) = c_skip·z + c_out·F(c_in·z, c_noise)."""

    sigma_data: float = 0.5

    def c_skip(self, sigma):
        """σ_data² / (σ² + σ_data²)."""
        return self.sigma_data**2 / (sigma**2 + self.sigma_data**2)

    def c_out(self, sigma):
        """σ·σ_data / √(σ² + σ_data²)."""
        return sigma * self.sigma_data / (sigma**2 + self.sigma_data**2) ** 0.5

    def c_in(self, sigma):
        """1 / √(σ² + σ_data²)."""
        return 1 / (sigma**2 + self.sigma_data**2) ** 0.5

    def scalings(self, sigma: torch.Tensor, like: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """c_in, c_skip, c_out of σ [N] or [N, T], with dimensions of 1 after σ's own up to as many as `like` has."""
        shape = (*sigma.shape, *[1] * (like.ndim - sigma.ndim))
        return tuple(scaling(sigma).view(shape) for scaling in (self.c_in, self.c_skip, self.c_out))

    def c_noise(self, sigma: torch.Tensor) -> torch.Tensor:
        """¼ ln σ."""
        return sigma.log() / 4

    def weight(self, sigma):
        """w(σ) = (σ² + σ_data²) / (σ·σ_data)², which is 1 / c_out²."""
        return (sigma**2 + self.sigma_data**2) / (sigma * self.sigma_data) ** 2


def weighted_mean(loss: torch.Tensor, weight: torch.Tensor, weighting: str) -> torch.Tensor:
    """Mean of per-sample losses [N] under per-sample weights [N].

    `paper`: mean(w·loss), Equation (6). `official`: mean(w)·mean(loss), which is what the official code's
    [N] × [N, 1] product comes to. `none`: mean(loss).
    """
    if loss.ndim != 1 or loss.shape != weight.shape:
        raise ValueError(f"loss {tuple(loss.shape)} and weight {tuple(weight.shape)} must both be [N]")
    if weighting == "paper":
        return (weight * loss).mean()
    if weighting == "official":
        return weight.mean() * loss.mean()
    return loss.mean()


@dataclass(frozen=True)
class NoiseLevel:
    """A point of a σ grid. `mass`, where known exactly, says which side of a boundary it is on; σ may be
    rounded to either."""

    sigma: float
    mass: Fraction | None = None


def equal_mass_grid(noise: NoiseDistribution, steps: int) -> list[NoiseLevel]:
    """`steps` levels from σ_max down to σ_min with equal probability mass between neighbours (Appendix H).

    One step is one level, σ_max.
    """
    masses = [Fraction(steps - 1 - i, steps - 1) for i in range(steps)] if steps > 1 else [Fraction(1)]
    return [NoiseLevel(noise.quantile(float(mass)), mass) for mass in masses]


def rho_grid(noise: NoiseDistribution, steps: int, rho: float = 7.0) -> list[NoiseLevel]:
    """EDM's grid (Karras et al. 2022, Equation 5): equal intervals in σ^(1/ρ), σ_max down to σ_min.

    The final σ = 0 is not part of it: the last step returns the denoiser's output itself.
    """
    if steps == 1:
        return [NoiseLevel(noise.sigma_max, Fraction(1))]
    high, low = noise.sigma_max ** (1 / rho), noise.sigma_min ** (1 / rho)
    inner = [NoiseLevel((high + i / (steps - 1) * (low - high)) ** rho) for i in range(1, steps - 1)]
    return [NoiseLevel(noise.sigma_max, Fraction(1)), *inner, NoiseLevel(noise.sigma_min, Fraction(0))]


def sigma_grid(kind: str, noise: NoiseDistribution, steps: int) -> list[NoiseLevel]:
    """The grid by its name in SamplingSpec.grid."""
    return {"equal_mass": equal_mass_grid, "rho7": rho_grid}[kind](noise, steps)
