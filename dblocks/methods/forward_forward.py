"""Forward-Forward (Hinton 2022) on a ViT: each layer alone learns to tell right labels from wrong ones.

The label is a token; the right one is to be answered with high goodness, a wrong one with low.

Facts after HosseinAghagol/ContrastiveFF, main_FF.py; but label tokens are distinct codes here, where that
code draws one-hot slots with replacement and so gives many of 100 classes the same token.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from dblocks import seeds
from dblocks.methods.method import Drawn, Method
from dblocks.networks.vit_layerwise import LayerwiseViT
from dblocks.spec import RunSpec
from dblocks.tasks.classification import Classification, Predictor


def wrong_labels(labels: Tensor, num_classes: int, generator: torch.Generator) -> Tensor:
    """For each label [N] another one, uniform over the rest."""
    shift = torch.randint(1, num_classes, labels.shape, generator=generator, device=labels.device)
    return (labels + shift) % num_classes


class ForwardForward(Method):
    """Layers trained by softplus losses of their goodness around the threshold θ."""

    def __init__(self, spec: RunSpec, network: LayerwiseViT, task: Classification):
        self.spec, self.network, self.task = spec, network, task
        draws = seeds.generator("cpu", spec.seed, "label codes")
        codes = torch.randn(task.info.num_classes, network.token_values, generator=draws)
        network.register_buffer("label_codes", codes.to(task.device))

    def parameter_groups(self) -> list[dict[str, Any]]:
        return [{"params": [p for n, p in self.network.named_parameters() if not n.startswith("probe.")]}]

    def _goodness(self, images: Tensor, labels: Tensor) -> list[Tensor]:
        """Goodness [N] of each layer: channel mean of the squared mean over image tokens."""
        raw = self.network.raw_tokens(images)
        x = self.network.embed(torch.cat([self.network.label_codes[labels].unsqueeze(1), raw], dim=1))
        goodness = []
        for layer in self.network.layers:
            x = layer(x)
            goodness.append(x[:, 1:].float().mean(dim=1).square().mean(dim=-1))
            # length 1, so that the next layer cannot read this one's goodness; and no gradient between layers
            x = F.normalize(x.detach().flatten(1), dim=-1).view_as(x)
        return goodness

    def draw(self, step: int) -> Drawn:
        """Every image twice, with its label and with a wrong one."""
        batch = self.task.batch(step)
        draws = seeds.generator(self.task.device, self.spec.seed, "wrong labels", step)
        wrong = wrong_labels(batch.targets, self.task.info.num_classes, draws)
        return Drawn((torch.cat([batch.inputs, batch.inputs]), torch.cat([batch.targets, wrong])))

    def loss(self, drawn: Drawn) -> Tensor:
        threshold, losses = self.spec.method.threshold, []
        for layer in self._goodness(*drawn.tensors):
            right_goodness, wrong_goodness = layer.chunk(2)
            losses.append(F.softplus(threshold - right_goodness).mean() + F.softplus(wrong_goodness - threshold).mean())
        return torch.stack(losses).sum()

    def predictors(self) -> dict[str, Predictor]:
        return {"": Predictor(self._scores, logits=False)}

    def _scores(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """Goodness [N, K] of every label, one forward pass each."""
        scored = slice(-1, None) if self.spec.method.scored_layers == "last" else slice(1, None)
        columns = []
        for label in range(self.task.info.num_classes):
            labels = torch.full((len(images),), label, device=images.device)
            columns.append(torch.stack(self._goodness(images, labels)[scored]).sum(0))
        return torch.stack(columns, dim=1)
