"""Text token by token: nucleus sampling of next-token models, and the loop that goes on from prompts.

Shapes: N sequences, P tokens of a prompt, C of a continuation, K in the vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass
class TextPredictor:
    """How a trained network writes and judges text, whatever trained it.

    Attributes:
        go_on: (prompts [N, P], C, generator) → continuations [N, C].
        nll: (windows [N, T], generator) → nats [N, T − 1] of each token but the first, given those before it.
        nll_name: what the mean of the latter is: `ce`, or `sigma_max_ce` where a denoiser gives it at σ_max.
    """

    go_on: Callable[[Tensor, int, torch.Generator], Tensor]
    nll: Callable[[Tensor, torch.Generator], Tensor]
    nll_name: str = "ce"


def running_sum(values: Tensor) -> Tensor:
    """Sums [N, K] over each row up to each place. CUDA's promise no bits, so the CPU has them where bits are wanted."""
    if values.is_cuda and torch.are_deterministic_algorithms_enabled():
        return values.cpu().cumsum(dim=-1).to(values.device)
    return values.cumsum(dim=-1)


def nucleus(logits: Tensor, top_p: float) -> Tensor:
    """Probabilities [N, K], float64, of the fewest likeliest tokens that hold `top_p` together (Holtzman et al. 2020);
    the others have none."""
    probabilities = logits.double().softmax(dim=-1)
    ordered, places = probabilities.sort(dim=-1, descending=True, stable=True)
    before = running_sum(ordered) - ordered
    kept = torch.where(before < top_p, ordered, 0.0)
    kept = torch.zeros_like(probabilities).scatter(-1, places, kept)
    return kept / kept.sum(dim=-1, keepdim=True)


def sample_nucleus(logits: Tensor, top_p: float, generator: torch.Generator) -> Tensor:
    """A token [N] from each row of logits [N, K]; by inversion in float64, one number a row."""
    cumulative = running_sum(nucleus(logits, top_p))
    draws = torch.rand(len(logits), 1, generator=generator, device=logits.device, dtype=torch.float64)
    # a token without mass is never first above a draw; rounding can leave the whole a little below 1
    return (
        torch.searchsorted(cumulative, draws * cumulative[:, -1:], right=True)
        .squeeze(1)
        .clamp(max=logits.shape[-1] - 1)
    )


def write_on(step: Callable[[Tensor], Tensor], prompts: Tensor, count: int) -> Tensor:
    """`count` tokens after prompts [N, P]: → [N, C].

    Args:
        step: the tokens [N, m] that were not seen yet, first the prompts → the next token [N].
    """
    found, new = [], prompts
    for _ in range(count):
        token = step(new)
        found.append(token)
        new = token[:, None]
    return torch.stack(found, dim=1)
