"""The baseline: one loss at the end of the whole network, ordinary backpropagation."""

from __future__ import annotations

from torch import Tensor, nn

from dblocks.methods.method import Drawn, Method, Task
from dblocks.processes import own_share
from dblocks.tasks.classification import Predictor


class EndToEnd(Method):
    """The task's loss of the network's output."""

    def __init__(self, network: nn.Module, task: Task):
        self.network, self.task = network, task

    def draw(self, step: int) -> Drawn:
        batch = self.task.batch(step)
        return Drawn(own_share(batch.inputs, batch.targets))

    def loss(self, drawn: Drawn) -> Tensor:
        inputs, targets = drawn.tensors
        return self.task.loss(self.network(inputs), targets)

    def predictors(self) -> dict[str, Predictor]:
        return {"": Predictor(lambda images, generator: self.network(images))}
