"""NoProp-CT (Li, Teh & Pascanu 2025, Algorithm 2): one network for all times, under a learned noise schedule."""

from __future__ import annotations

import torch
from torch import Tensor

from dblocks import seeds
from dblocks.methods.method import Drawn, Method
from dblocks.networks.noprop_cnn import KeptFeatures, NoPropNetwork
from dblocks.noprop import LearnedSchedule, both_ends, bound, noisy, posterior
from dblocks.spec import RunSpec
from dblocks.tasks.classification import Classification, Predictor


def draw_at_times(spec: RunSpec, network: NoPropNetwork, task: Classification, step: int) -> Drawn:
    """Images, labels, times t ~ U(0, 1) [N] and two standard normal noises [N, …] of an embedding's shape."""
    batch = task.batch(step)
    draws = seeds.generator(task.device, spec.seed, "noise", step)
    shape = (len(batch.targets), *network.embedding.shape)
    t = torch.rand(len(batch.targets), generator=draws, device=task.device)
    noises = [torch.randn(shape, generator=draws, device=task.device) for _ in range(2)]
    return Drawn((batch.inputs, batch.targets, t, *noises))


class NoPropCT(Method):
    """Trains û(z_t, x, t) at t ~ U(0, 1); predicts by the diffusion in `steps` equal steps of time."""

    def __init__(self, spec: RunSpec, network: NoPropNetwork, task: Classification):
        self.spec, self.network, self.task = spec, network, task
        network.schedule = LearnedSchedule(spec.method.gamma_start, spec.method.gamma_end)

    def _clean(self, images: KeptFeatures, z: Tensor, t: Tensor) -> Tensor:
        return self.network.clean(0, images, z, self.spec.method.time_scale * t)

    def draw(self, step: int) -> Drawn:
        """Images, labels, t and the noise of z_t and of z_1."""
        return draw_at_times(self.spec, self.network, self.task, step)

    def loss(self, drawn: Drawn) -> Tensor:
        images, labels, t, epsilon, last_epsilon = drawn.tensors
        u, schedule = self.network.embedding(labels), self.network.schedule
        z = noisy(u, schedule.alpha_bar(t), epsilon)
        prediction = self._clean(KeptFeatures(images), z, t)
        ends = schedule.alpha_bar(both_ends(t)).unbind()
        weight = self.spec.method.eta * schedule.snr_slope(t)
        return bound(u, labels, prediction, weight, self.network.classifier, ends, last_epsilon)

    def predictors(self) -> dict[str, Predictor]:
        return {"": Predictor(self._sample)}

    def _sample(self, images: Tensor, generator: torch.Generator) -> Tensor:
        steps, shape = self.spec.method.steps, (len(images), *self.network.embedding.shape)
        times = torch.linspace(0, 1, steps + 1, device=images.device)
        # float64: 1 − ᾱ is divided by, and a trained schedule may bring ᾱ close to 1
        bars = torch.sigmoid(-self.network.schedule(times)[0].double()).tolist()
        z = torch.randn(shape, generator=generator, device=images.device)
        kept = KeptFeatures(images)
        for i in range(steps):
            epsilon = torch.randn(shape, generator=generator, device=images.device)
            clean = self._clean(kept, z, times[i].expand(len(images)))
            z = posterior(bars[i], bars[i + 1]).step(z, clean, epsilon)
        return self.network.classify(z)
