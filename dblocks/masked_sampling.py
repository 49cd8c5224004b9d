"""Text from masks: the ancestral sampler of masked diffusion, each time by the block that owns it.

From t to s < t each masked character is uncovered with probability (α(s) − α(t)) / (1 − α(t)), independently;
what it becomes is drawn from the network's prediction (MD4, Section 3). Categoricals are drawn in float64:
lower precision cuts off their tails, which makes text look better than the model is (Zheng et al. 2024).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from dblocks.masking import SCHEDULES, Denoise, MaskPartition
from dblocks.noise import NoiseLevel


def ancestral_sample(
    denoise: Denoise,
    partition: MaskPartition,
    levels: Sequence[NoiseLevel],
    shape: tuple[int, int],
    mask: int,
    draws: torch.Generator,
) -> Tensor:
    """Codes [N, L] = `shape` of sampled text, none of them the mask.

    Args:
        levels: times from 1 down to 0; the network runs at all but the last.
    """
    schedule = SCHEDULES[partition.schedule]
    times = torch.tensor([level.sigma for level in levels], dtype=torch.float64)
    alpha = schedule.alpha(times).tolist()
    tokens = torch.full(shape, mask, device=draws.device)
    for i, level in enumerate(levels[:-1]):
        t = torch.full((shape[0],), level.sigma, dtype=torch.float64, device=draws.device)
        logits = denoise(partition.owner(level), tokens, t)
        uncover = (alpha[i + 1] - alpha[i]) / (1 - alpha[i])
        uniform = torch.rand(shape, generator=draws, device=draws.device, dtype=torch.float64)
        chosen = (tokens == mask) & (uniform < uncover)
        tokens[chosen] = categorical(logits[chosen], draws)
    return tokens


def categorical(logits: Tensor, draws: torch.Generator) -> Tensor:
    """One draw [M] from each row of logits [M, K], in float64."""
    if not len(logits):
        return torch.empty(0, dtype=torch.int64, device=logits.device)
    return torch.multinomial(logits.double().softmax(dim=-1), 1, generator=draws).squeeze(1)
