"""Windows of a long text: the order in which training sees them, and evenly spread ones for evaluation."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from dblocks.tasks.arrays import EpochOrder


class WindowOrder(EpochOrder):
    """Where the windows of each batch begin: an epoch is a cut of the text into disjoint windows, from an offset of
    its own, in an order of its own."""

    def __init__(self, seed: int, total: int, length: int, batch_size: int, device: torch.device):
        super().__init__(seed, total // length, batch_size, device)
        self.total, self.length = total, length

    def _order(self, draws: torch.Generator) -> Tensor:
        offset = torch.randint(self.length, (1,), generator=draws)
        return (super()._order(draws) * self.length + offset).clamp_(max=self.total - self.length)


def spread_starts(total: int, length: int, count: int) -> np.ndarray:
    """Starts of at most `count` disjoint windows, evenly spread over a text."""
    count = min(count, total // length)
    return np.arange(count) * (total // max(1, count))
