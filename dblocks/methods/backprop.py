"""NoProp's baseline (Li, Teh & Pascanu 2025, Equations 17–19): its T copies, trained end to end through z's path."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from dblocks import seeds
from dblocks.methods.method import Drawn, Method
from dblocks.networks.noprop_cnn import KeptFeatures, NoPropNetwork
from dblocks.spec import RunSpec
from dblocks.tasks.classification import Classification, Predictor


class Backprop(Method):
    """z_0 ~ N(0, I), z_t = (1 − α_t)·z_{t−1} + α_t·û_t with α_t = tanh(w_t) learned; cross-entropy of z_T."""

    def __init__(self, spec: RunSpec, network: NoPropNetwork, task: Classification):
        self.spec, self.network, self.task = spec, network, task
        network.gates = nn.Parameter(torch.full((len(network.blocks),), math.atanh(spec.method.initial_gate)))

    def draw(self, step: int) -> Drawn:
        batch = self.task.batch(step)
        draws = seeds.generator(self.task.device, self.spec.seed, "noise", step)
        return Drawn((batch.inputs, batch.targets, self._noise(batch.inputs, draws)))

    def loss(self, drawn: Drawn) -> Tensor:
        images, labels, noise = drawn.tensors
        return self.task.loss(self._walk(images, noise), labels)

    def _noise(self, images: Tensor, generator: torch.Generator) -> Tensor:
        return torch.randn((len(images), *self.network.embedding.shape), generator=generator, device=images.device)

    def _walk(self, images: Tensor, z: Tensor) -> Tensor:
        """Scores [N, K] at the end of the path from noise z."""
        kept = KeptFeatures(images)
        for block, alpha in enumerate(self.network.gates.tanh()):
            z = (1 - alpha) * z + alpha * self.network.clean(block, kept, z)
        return self.network.classify(z)

    def predictors(self) -> dict[str, Predictor]:
        return {"": Predictor(lambda images, generator: self._walk(images, self._noise(images, generator)))}
