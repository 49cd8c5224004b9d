"""NoProp-FM (Li, Teh & Pascanu 2025, Algorithm 3): flow matching to the class embedding; the nearest one decides."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from dblocks.diffusion_blocks import per_sample
from dblocks.methods.method import Drawn, Method
from dblocks.methods.noprop_ct import draw_at_times
from dblocks.networks.noprop_cnn import KeptFeatures, NoPropNetwork
from dblocks.noprop import squared_distance
from dblocks.spec import RunSpec
from dblocks.tasks.classification import Classification, Predictor


class NoPropFM(Method):
    """Trains v(z_t, x, t) at t ~ U(0, 1); predicts by Euler on dz/dt = v in `steps` equal steps."""

    def __init__(self, spec: RunSpec, network: NoPropNetwork, task: Classification):
        self.spec, self.network, self.task = spec, network, task

    def _velocity(self, images: KeptFeatures, z: Tensor, t: Tensor) -> Tensor:
        """v = logits·W, without a softmax: a velocity is no mixture of classes (Section 2.3.2)."""
        return self.network.embedding.mix(self.network.logits(0, images, z, self.spec.method.time_scale * t))

    def draw(self, step: int) -> Drawn:
        """Images, labels, t, the noise that z starts from and that around the line."""
        return draw_at_times(self.spec, self.network, self.task, step)

    def loss(self, drawn: Drawn) -> Tensor:
        images, labels, t, start, jitter = drawn.tensors
        u = self.network.embedding(labels)
        share = per_sample(t, u)
        z = share * u + (1 - share) * start + self.spec.method.sigma * jitter
        velocity = self._velocity(KeptFeatures(images), z, t)
        loss = squared_distance(velocity, u - start).mean()
        if self.network.embedding.learned:
            # else the embeddings could shrink together: the extrapolated end must tell the classes (Equation 15)
            loss = loss + F.cross_entropy(self._scores(z + (1 - share) * velocity), labels)
        return loss

    def _scores(self, z: Tensor) -> Tensor:
        """What the cross-entropy reads: the linear classifier, or minus the squared distances [N, K]."""
        linear = self.spec.method.anchor == "linear"
        return self.network.classify(z) if linear else -self.network.embedding.distances(z)

    def predictors(self) -> dict[str, Predictor]:
        return {"": Predictor(self._sample, logits=False)}

    def _sample(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """Minus the squared distances [N, K] of z_1 to the class embeddings."""
        steps, device = self.spec.method.steps, images.device
        z = torch.randn((len(images), *self.network.embedding.shape), generator=generator, device=device)
        kept = KeptFeatures(images)
        for i in range(steps):
            z = z + self._velocity(kept, z, torch.full((len(images),), i / steps, device=device)) / steps
        return -self.network.embedding.distances(z)
