"""NoProp's baseline (Li, Teh & Pascanu 2025, Equations 17–19): its T copies, trained end to end through z's path."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from dblocks import seeds
from dblocks.networks.noprop_cnn import KeptFeatures, NoPropNetwork
from dblocks.spec import RunSpec
from dblocks.tasks.classification import Classification, Predictor
from dblocks.training import Step


class Backprop:
    """z_0 ~ N(0, I), z_t = (1 − α_t)·z_{t−1} + α_t·û_t with α_t = tanh(w_t) learned; cross-entropy of z_T."""

    def __init__(self, spec: RunSpec, network: NoPropNetwork, task: Classification):
        self.spec, self.network, self.task = spec, network, task
        network.gates = nn.Parameter(torch.full((len(network.blocks),), math.atanh(spec.method.initial_gate)))

    def parameter_groups(self) -> list[dict[str, Any]]:
        return [{"params": list(self.network.parameters())}]

    def training_step(self, step: int) -> Step:
        batch = self.task.batch(step)
        draws = seeds.generator(self.task.device, self.spec.seed, "noise", step)
        return Step(self.task.loss(self._scores(batch.inputs, draws), batch.targets))

    def _scores(self, images: Tensor, generator: torch.Generator) -> Tensor:
        z = torch.randn((len(images), *self.network.embedding.shape), generator=generator, device=images.device)
        kept = KeptFeatures(images)
        for block, alpha in enumerate(self.network.gates.tanh()):
            z = (1 - alpha) * z + alpha * self.network.clean(block, kept, z)
        return self.network.classify(z)

    def predictors(self) -> dict[str, Predictor]:
        return {"": Predictor(self._scores)}

    def evaluations_per_block(self) -> list[int] | None:
        return None
