"""Masking schedules, and the partition of mask times into blocks.

α(t) is the probability that a character is still unmasked at time t: α(0) = 1, α(1) = 0, falling. A block owns
an equal share of the fall of α, most masked first: block b (paper's count, from 1) owns the times from
α⁻¹(b/B) up to α⁻¹((b−1)/B), which is [1 − b/B, 1 − (b−1)/B) for the linear schedule (paper, Section 4.3).
Times are Python floats or float64 tensors. Shapes: N windows, L characters, K characters in the alphabet.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from dblocks.noise import NoiseLevel
from dblocks.partition import Partition

# a network's (block, tokens [N, L] with masks, t [N]) → logits [N, L, K]: the mask is never predicted
Denoise = Callable[[int, Tensor, Tensor], Tensor]


class MaskSchedule(Protocol):
    """A monotone masking schedule; `alpha` and `weight` take float64 tensors of any shape."""

    def alpha(self, t: Tensor) -> Tensor:
        """α(t) in [0, 1]."""

    def weight(self, t: Tensor) -> Tensor:
        """−α′(t) / (1 − α(t)), t in (0, 1]: the weight of the continuous-time bound (MD4, Equation 5)."""

    def time(self, mass: float) -> float:
        """The time at which α has fallen by `mass`: α(t) = 1 − mass."""


class LinearSchedule:
    """α(t) = 1 − t, the paper's."""

    def alpha(self, t: Tensor) -> Tensor:
        return 1 - t

    def weight(self, t: Tensor) -> Tensor:
        return 1 / t

    def time(self, mass: float) -> float:
        return mass


class CosineSchedule:
    """α(t) = 1 − cos(π/2·(1 − t)) (Shi et al. 2024, Table 4)."""

    def alpha(self, t: Tensor) -> Tensor:
        return 1 - torch.cos(math.pi / 2 * (1 - t))

    def weight(self, t: Tensor) -> Tensor:
        return math.pi / 2 * torch.tan(math.pi / 2 * (1 - t))

    def time(self, mass: float) -> float:
        return 1 - 2 / math.pi * math.acos(mass)


SCHEDULES: dict[str, MaskSchedule] = {"linear": LinearSchedule(), "cosine": CosineSchedule()}


@dataclass(frozen=True)
class MaskPartition(Partition):
    """A `Partition` whose boundaries are times t_0 = 0 < … < t_B = 1; intervals are half-open, [low, high).

    Attributes:
        schedule: name of the masking schedule, in which overlap is measured.
    """

    schedule: str = "linear"

    def training_interval(self, block: int) -> tuple[float, float]:
        """`interval` widened by γ times its width in α at either end, clipped to α in [0, 1].

        The multiplicative rule for σ has no meaning where an interval begins at 0.
        """
        schedule, top = SCHEDULES[self.schedule], self.num_blocks - block
        low, high = (top - 1 - self.overlap) / self.num_blocks, (top + self.overlap) / self.num_blocks
        return schedule.time(max(0.0, low)), schedule.time(min(1.0, high))


def mask_partition(schedule: str, layers_per_block: tuple[int, ...], overlap: float = 0.0) -> MaskPartition:
    """The partition of `schedule` into as many blocks as `layers_per_block` has entries.

    A level on a boundary belongs to the more masked block; where its mass 1 − α is known as a fraction, that
    decides, and no rounding of t can.
    """
    num_blocks = len(layers_per_block)
    return MaskPartition(
        boundaries=tuple(SCHEDULES[schedule].time(k / num_blocks) for k in range(num_blocks + 1)),
        layers_per_block=layers_per_block,
        overlap=overlap,
        exact_mass=True,
        tie_rule="official",
        schedule=schedule,
    )


def sampling_times(grid: str, schedule: str, steps: int) -> list[NoiseLevel]:
    """`steps` + 1 times from 1 down to 0; a level's `mass` is 1 − α(t) where that is an exact fraction.

    `equal_mass`: as many characters are expected to be unmasked in every step. `cosine`: t = cos(π/2·i/steps),
    which unmasks few characters first (google-deepmind/md4, sampling grid).
    """
    if grid == "equal_mass":
        masses = [Fraction(steps - i, steps) for i in range(steps + 1)]
        return [NoiseLevel(SCHEDULES[schedule].time(float(mass)), mass) for mass in masses]
    inner = [NoiseLevel(math.cos(math.pi / 2 * i / steps)) for i in range(1, steps)]
    return [NoiseLevel(1.0, Fraction(1)), *inner, NoiseLevel(0.0, Fraction(0))]


def stratified_times(count: int, interval: tuple[float, float], draws: torch.Generator) -> Tensor:
    """A batch's times [count] float64: one in each of as many equal parts of (low, high], with one offset drawn
    for all (Kingma et al. 2021; MD4). 0, where the weight is infinite, is never drawn."""
    low, high = interval
    offset = 1 - torch.rand(1, generator=draws, device=draws.device, dtype=torch.float64)
    parts = torch.arange(count, device=draws.device, dtype=torch.float64)
    return low + (high - low) * (parts + offset) / count


def mask_at(tokens: Tensor, t: Tensor, schedule: str, mask: int, draws: torch.Generator) -> Tensor:
    """Each character of tokens [N, L] replaced by `mask` with probability 1 − α(t), t [N]."""
    uniform = torch.rand(tokens.shape, generator=draws, device=tokens.device, dtype=torch.float64)
    return tokens.masked_fill(uniform < 1 - SCHEDULES[schedule].alpha(t)[:, None], mask)


def bound(logits: Tensor, tokens: Tensor, masked: Tensor, t: Tensor, schedule: str) -> Tensor:
    """The integrand of the continuous-time bound on −log p at times t, nats per window [N] float64.

    (−α′(t)) / (1 − α(t)) · Σ over masked positions of the cross-entropy (MD4, Equation 5; paper, Section 4.3).

    Args:
        logits: [N, L, K]; tokens: [N, L], clean; masked: [N, L] bool; t: [N] float64.
    """
    ce = F.cross_entropy(logits.float().transpose(1, 2), tokens, reduction="none")
    return SCHEDULES[schedule].weight(t) * (ce * masked).sum(dim=1).double()
