"""The weights' exponential moving average, for every task one setting."""

from __future__ import annotations

from collections import defaultdict

from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn


class MovingAverage:
    """Exponential moving average of the weights, moved only where a step has updated them.

    Its half-life counts the samples that a weight has seen; `ramp` keeps it below that share of them (EDM).
    """

    def __init__(self, network: nn.Module, batch_size: int, half_life: float, ramp: float | None = None):
        self.batch_size, self.half_life, self.ramp = batch_size, half_life, ramp
        self.shadow = {name: p.detach().clone() for name, p in network.named_parameters() if p.requires_grad}
        self.updates = dict.fromkeys(self.shadow, 0)

    def decay(self, updates: int) -> float:
        """Factor on the average at a weight's update number `updates`, counted from 1."""
        seen = updates * self.batch_size
        half_life = self.half_life if self.ramp is None else min(self.half_life, self.ramp * seen)
        return 0.5 ** (self.batch_size / half_life)

    def update(self, updated: dict[str, Tensor]) -> None:
        """Move the averages of the parameters, by name, that a step has updated."""
        by_count = defaultdict(list)
        for name in updated:
            self.updates[name] += 1
            by_count[self.updates[name]].append(name)
        for count, names in by_count.items():  # one launch for all that were updated equally often
            move = get_ema_multi_avg_fn(self.decay(count))
            move([self.shadow[name] for name in names], [updated[name] for name in names], None)
