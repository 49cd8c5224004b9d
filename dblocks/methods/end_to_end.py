"""The baseline: one loss at the end of the whole network, ordinary backpropagation."""

from __future__ import annotations

from typing import Any

from torch import nn

from dblocks.processes import own_share
from dblocks.tasks.classification import Classification, Predictor
from dblocks.training import Step


class EndToEnd:
    """The task's loss of the network's output."""

    def __init__(self, network: nn.Module, task: Classification):
        self.network, self.task = network, task

    def parameter_groups(self) -> list[dict[str, Any]]:
        return [{"params": list(self.network.parameters())}]

    def training_step(self, step: int) -> Step:
        batch = self.task.batch(step)
        inputs, targets = own_share(batch.inputs, batch.targets)
        return Step(self.task.loss(self.network(inputs), targets))

    def predictors(self) -> dict[str, Predictor]:
        return {"": Predictor(lambda images, generator: self.network(images))}

    def evaluations_per_block(self) -> list[int] | None:
        return None
