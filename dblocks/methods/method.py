"""What every way to train a network has in common: a step is drawn, then its loss is taken.

The two are apart so that a GPU can replay the second: it has no host in it, no random draws but dropout's, and for
equal `part` it runs the same operations on tensors of the same shapes.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Hashable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from dblocks.tasks.classification import Batch

BY_BLOCK = "by block"  # the default of Drawn.part


class Task(Protocol):
    """What a method asks of the task it trains for."""

    device: torch.device

    def batch(self, step: int) -> Batch:
        """What `step` learns from."""

    def loss(self, prediction: Tensor, targets: Tensor) -> Tensor:
        """The scalar that training end to end minimises."""


@dataclass
class Drawn:
    """What a step draws: batch, noise, block.

    Attributes:
        tensors: what the loss is taken of, on the run's device, the first dimension N samples.
        block: the block it trains, from 0; None without blocks.
        sigma: noise levels [N], for whoever wants to know them; None without noise.
        depth: iterations of a recurrent network, where a step draws them.
        part: steps of one part do the same operations and update the same weights: by default those of one block, or
            all without blocks; None: this step is like no other.
    """

    tensors: tuple[Tensor, ...]
    block: int | None = None
    sigma: Tensor | None = None
    part: Hashable = BY_BLOCK
    depth: int | None = None

    def __post_init__(self):
        if self.part == BY_BLOCK:
            self.part = 0 if self.block is None else self.block

    def parts(self, count: int) -> Iterator[Drawn]:
        """The same in `count` equal parts of the samples, in order."""
        for tensors in zip(*(tensor.chunk(count) for tensor in self.tensors), strict=True):
            yield replace(self, tensors=tensors)


@dataclass
class Step:
    """What came of one training step: a scalar loss, the block it trained (from 0), σ [N]."""

    loss: Tensor
    block: int | None = None
    sigma: Tensor | None = None


class Method(ABC):
    """How a network is trained."""

    network: nn.Module

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Optimiser groups: `params`, and `lr` where it is not the spec's. All that can be trained, by default."""
        return [{"params": [p for p in self.network.parameters() if p.requires_grad]}]

    @abstractmethod
    def draw(self, step: int) -> Drawn:
        """What step `step` is about, a function of (seed, step)."""

    @abstractmethod
    def loss(self, drawn: Drawn) -> Tensor:
        """The scalar to minimise, a function of what was drawn and the weights."""

    def training_step(self, step: int) -> Step:
        """Both: the loss of step `step`."""
        drawn = self.draw(step)
        return Step(self.loss(drawn), drawn.block, drawn.sigma)

    def evaluations_per_block(self) -> list[int] | None:
        """How often each block runs in a prediction; None without blocks."""
        return None
