"""NoProp-CT (Li, Teh & Pascanu 2025, Algorithm 2): one network for all times, under a learned noise schedule."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from dblocks import seeds
from dblocks.networks.noprop_cnn import KeptFeatures, NoPropNetwork
from dblocks.noprop import LearnedSchedule, bound, noisy, posterior
from dblocks.spec import RunSpec
from dblocks.tasks.classification import Classification, Predictor
from dblocks.training import Step


class NoPropCT:
    """Trains û(z_t, x, t) at t ~ U(0, 1); predicts by the diffusion in `steps` equal steps of time."""

    def __init__(self, spec: RunSpec, network: NoPropNetwork, task: Classification):
        self.spec, self.network, self.task = spec, network, task
        network.schedule = LearnedSchedule(spec.method.gamma_start, spec.method.gamma_end)

    def parameter_groups(self) -> list[dict[str, Any]]:
        return [{"params": list(self.network.parameters())}]

    def _clean(self, images: KeptFeatures, z: Tensor, t: Tensor) -> Tensor:
        return self.network.clean(0, images, z, self.spec.method.time_scale * t)

    def training_step(self, step: int) -> Step:
        batch, schedule = self.task.batch(step), self.network.schedule
        u = self.network.embedding(batch.targets)
        draws = seeds.generator(self.task.device, self.spec.seed, "noise", step)
        t = torch.rand(len(u), generator=draws, device=u.device)
        epsilon, last_epsilon = (torch.randn(u.shape, generator=draws, device=u.device) for _ in range(2))
        z = noisy(u, schedule.alpha_bar(t), epsilon)
        prediction = self._clean(KeptFeatures(batch.inputs), z, t)
        ends = schedule.alpha_bar(torch.tensor([0.0, 1.0], device=u.device)).unbind()
        weight = self.spec.method.eta * schedule.snr_slope(t)
        return Step(bound(u, batch.targets, prediction, weight, self.network.classifier, ends, last_epsilon))

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

    def evaluations_per_block(self) -> list[int] | None:
        return None
