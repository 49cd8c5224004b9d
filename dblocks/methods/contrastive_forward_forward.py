"""Contrastive Forward-Forward (Aghagolzadeh & Ezoji 2025): each layer alone pulls a class together.

A linear probe on the frozen last layer then classifies.

Facts after the authors' code, HosseinAghagol/ContrastiveFF, main_CFF.py and losses.py.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from dblocks.methods.method import Drawn, Method
from dblocks.networks.vit_layerwise import LayerwiseViT
from dblocks.spec import RunSpec
from dblocks.tasks.classification import Classification, Predictor


def supervised_contrastive_loss(features: Tensor, labels: Tensor, temperature: float, margin: float) -> Tensor:
    """Mean over anchors of the mean negative log-probability of their positives (Khosla et al. 2020), a scalar.

    Args:
        features: [M, D], normalised here.
        labels: [M]; every pair of one label but an item with itself is positive.
        margin: added to positive cosines, which are then cut at 1: a pair this close gives no gradient.
    """
    features = F.normalize(features.float(), dim=-1)
    with torch.autocast(features.device.type, enabled=False):  # which would round the cosines, before τ magnifies them
        cosines = features @ features.T
    itself = torch.eye(len(labels), dtype=torch.bool, device=labels.device)
    positive = (labels[:, None] == labels[None, :]) & ~itself
    cosines = torch.where(positive, (cosines + margin).clamp(max=1.0), cosines) / temperature
    log_probability = cosines - cosines.masked_fill(itself, float("-inf")).logsumexp(dim=1, keepdim=True)
    return -((log_probability * positive).sum(1) / positive.sum(1)).mean()


class ContrastiveForwardForward(Method):
    """Layers trained by their own contrastive losses for the first `layer_steps` steps, then the probe."""

    def __init__(self, spec: RunSpec, network: LayerwiseViT, task: Classification, layer_steps: int):
        self.spec, self.network, self.task, self.layer_steps = spec, network, task, layer_steps
        method, layers = spec.method, len(network.layers)
        fall = (method.first_margin - method.last_margin) / max(1, layers - 1)
        self.margins = [method.first_margin - fall * i for i in range(layers)]

    def parameter_groups(self) -> list[dict[str, Any]]:
        probe = list(self.network.probe.parameters())
        own = {id(p) for p in probe}
        layers = [p for p in self.network.parameters() if id(p) not in own]
        return [{"params": layers}, {"params": probe, "lr": self.spec.method.probe_learning_rate}]

    def draw(self, step: int) -> Drawn:
        """Two views of each image for the layers, one for the probe."""
        if step >= self.layer_steps:
            batch = self.task.batch(step)
            return Drawn((batch.inputs, batch.targets), part="probe")
        views = [self.task.batch(step, view) for view in range(2)]
        tensors = torch.cat([view.inputs for view in views]), torch.cat([view.targets for view in views])
        return Drawn(tensors, part="layers")

    def loss(self, drawn: Drawn) -> Tensor:
        images, labels = drawn.tensors
        if drawn.part == "probe":
            self.network.eval()
            with torch.no_grad():
                features = self._features(images)
            return F.cross_entropy(self.network.probe(features), labels)
        x = self.network.embed(self.network.raw_tokens(images))
        losses = []
        for layer, margin in zip(self.network.layers, self.margins, strict=True):
            x = layer(x)
            losses.append(supervised_contrastive_loss(x.mean(dim=1), labels, self.spec.method.temperature, margin))
            x = x.detach()  # no gradient between layers: each learns from its own loss alone
        return torch.stack(losses).sum()

    def _features(self, images: Tensor) -> Tensor:
        """Mean tokens [N, D] of the last layer."""
        x = self.network.embed(self.network.raw_tokens(images))
        for layer in self.network.layers:
            x = layer(x)
        return x.mean(dim=1)

    def predictors(self) -> dict[str, Predictor]:
        return {"": Predictor(lambda images, generator: self.network.probe(self._features(images)))}
