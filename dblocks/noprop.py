"""NoProp proper (Li, Teh & Pascanu 2025): schedules, posterior and losses of its diffusion over label embeddings.

Time runs from noise to data, against the custom of the field (Equations 5–6): t = 0 is noise, t = T is clean,
q(z_t | y) = N(√ᾱ_t·u_y, 1 − ᾱ_t), and ᾱ and SNR = ᾱ/(1 − ᾱ) grow with t. u_y is the embedding of class y.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dblocks.diffusion_blocks import per_sample


def cosine_alpha_bar(steps: int, low: float, high: float) -> list[float]:
    """ᾱ_0 … ᾱ_T: Nichol & Dhariwal's cosine schedule (2021) with time reversed, clipped to [low, high].

    The paper says "fixed cosine" and no more; the clip keeps every SNR finite and above zero.
    """

    def f(s: float) -> float:
        return math.cos((s + 0.008) / 1.008 * math.pi / 2) ** 2

    return [min(max(f(1 - t / steps) / f(0), low), high) for t in range(steps + 1)]


def snr(alpha_bar):
    """Signal-to-noise ratio ᾱ/(1 − ᾱ)."""
    return alpha_bar / (1 - alpha_bar)


def snr_weights(alpha_bar: Sequence[float]) -> list[float]:
    """SNR(t) − SNR(t − 1) for t = 1 … T; they add up to SNR(T) − SNR(0)."""
    return [snr(now) - snr(before) for before, now in pairwise(alpha_bar)]


@dataclass(frozen=True)
class Posterior:
    """z_t given z_{t−1} and the clean u: N(a·u + b·z_{t−1}, c) (Section 2.1)."""

    a: float
    b: float
    c: float

    def step(self, z: Tensor, clean: Tensor, epsilon: Tensor) -> Tensor:
        """z_t from z_{t−1}, the predicted û and standard normal noise, all [N, …]."""
        return self.a * clean + self.b * z + math.sqrt(self.c) * epsilon


def posterior(before: float, now: float) -> Posterior:
    """The coefficients from ᾱ_{t−1} = `before` and ᾱ_t = `now`; α_{t−1} = ᾱ_{t−1}/ᾱ_t."""
    alpha = before / now
    return Posterior(
        a=math.sqrt(now) * (1 - alpha) / (1 - before),
        b=math.sqrt(alpha) * (1 - now) / (1 - before),
        c=max(0.0, (1 - now) * (1 - alpha) / (1 - before)),
    )


def noisy(u: Tensor, alpha_bar: Tensor, epsilon: Tensor) -> Tensor:
    """A draw of q(z_t | y): √ᾱ_t·u + √(1 − ᾱ_t)·ε; ᾱ_t [N] or a scalar."""
    bar = per_sample(alpha_bar.expand(len(u)), u)
    return bar.sqrt() * u + (1 - bar).sqrt() * epsilon


def prior_kl(u: Tensor, alpha_bar: Tensor) -> Tensor:
    """KL(q(z_0 | y) ‖ N(0, I)) per sample [N], in closed form: ½[ᾱ_0‖u‖² + d(−ᾱ_0 − ln(1 − ᾱ_0))]."""
    d = u[0].numel()
    return 0.5 * (alpha_bar * u.flatten(1).square().sum(1) + d * (-alpha_bar - torch.log1p(-alpha_bar)))


def squared_distance(a: Tensor, b: Tensor) -> Tensor:
    """‖a − b‖² per sample [N], summed over all dimensions."""
    return (a - b).flatten(1).square().sum(1)


def bound(
    u: Tensor,
    labels: Tensor,
    prediction: Tensor,
    weight: Tensor | float,
    classifier: nn.Module,
    ends: tuple,
    eps: Tensor,
) -> Tensor:
    """Equation (8), and (11) in continuous time: classifier's cross-entropy + KL + ½·weight·‖û − u‖², batch mean.

    Args:
        u, prediction: clean embeddings and û, [N, …].
        weight: T·η·(SNR(t) − SNR(t − 1)), or η·SNR′(t) [N].
        ends: ᾱ at t = 0 and at t = T, tensors.
        eps: standard normal noise of z_T.
    """
    first, last = ends
    entropy = F.cross_entropy(classifier(noisy(u, last, eps).flatten(1)), labels, reduction="none")
    return (entropy + prior_kl(u, first) + 0.5 * weight * squared_distance(prediction, u)).mean()


def both_ends(t: Tensor) -> Tensor:
    """The times 0 and 1, like t: made where t is, since a copy from the host has no place in a CUDA graph."""
    return torch.arange(2, dtype=t.dtype, device=t.device)


class LearnedSchedule(nn.Module):
    """NoProp-CT's schedule (Appendix B): SNR = exp(−γ(t)), γ(t) = γ_0 + (γ_1 − γ_0)(1 − γ̄(t)), so ᾱ = sigmoid(−γ).

    γ̄ is a two-layer network with positive weights, brought to 0 at t = 0 and 1 at t = 1: it rises, so γ falls and
    SNR rises. γ_0 < γ_1 are trained too; their difference is kept positive.
    """

    def __init__(self, start: float, end: float, width: int = 64):
        super().__init__()
        self.low = nn.Parameter(torch.tensor(float(start)))
        self.raw_span = nn.Parameter(torch.tensor(inverse_softplus(end - start)))
        # hidden units that bend at different times, of slopes and shares near one another
        self.raw_slope = nn.Parameter(torch.full((width,), inverse_softplus(4.0)))
        self.shift = nn.Parameter(torch.linspace(0, -4.0, width))
        self.raw_share = nn.Parameter(torch.full((width,), inverse_softplus(1.0)))

    def forward(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """γ and dγ/dt at t [N] in [0, 1]."""
        slope, share = F.softplus(self.raw_slope), F.softplus(self.raw_share)

        def hidden(at: Tensor) -> Tensor:
            return torch.sigmoid(at[:, None] * slope + self.shift)

        ends = hidden(both_ends(t)) @ share
        h, rise, span = hidden(t), ends[1] - ends[0], F.softplus(self.raw_span)
        bar, slope_of_bar = (h @ share - ends[0]) / rise, (h * (1 - h)) @ (share * slope) / rise
        return self.low + span * (1 - bar), -span * slope_of_bar

    def alpha_bar(self, t: Tensor) -> Tensor:
        """ᾱ at t [N]."""
        return torch.sigmoid(-self(t)[0])

    def snr_slope(self, t: Tensor) -> Tensor:
        """SNR′(t) = −γ′·exp(−γ) at t [N], never negative."""
        gamma, slope = self(t)
        return -slope * torch.exp(-gamma)


def inverse_softplus(value: float) -> float:
    """x with ln(1 + eˣ) = value > 0."""
    return value + math.log(-math.expm1(-value))
