"""Windows of a long text: the order in which training sees them, and evenly spread ones for evaluation."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from dblocks import seeds


class WindowOrder:
    """Where the windows of each batch begin: an epoch is a cut of the text into disjoint windows, from an offset of
    its own, in an order of its own."""

    def __init__(self, seed: int, total: int, length: int, batch_size: int, device: torch.device):
        self.seed, self.total, self.length, self.batch_size, self.device = seed, total, length, batch_size, device
        self.steps_per_epoch = total // length // batch_size
        self._of = (-1, torch.empty(0))

    def starts(self, step: int) -> Tensor:
        """Starts [batch_size] of `step`, a function of (seed, step)."""
        epoch, position = divmod(step, self.steps_per_epoch)
        if self._of[0] != epoch:
            draws = seeds.generator("cpu", self.seed, "order", epoch)
            offset = torch.randint(self.length, (1,), generator=draws)
            starts = torch.randperm(self.total // self.length, generator=draws) * self.length + offset
            self._of = (epoch, starts.clamp_(max=self.total - self.length).to(self.device))
        return self._of[1][position * self.batch_size : (position + 1) * self.batch_size]


def spread_starts(total: int, length: int, count: int) -> np.ndarray:
    """Starts of at most `count` disjoint windows, evenly spread over a text."""
    count = min(count, total // length)
    return np.arange(count) * (total // max(1, count))
