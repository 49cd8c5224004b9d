"""NoProp-DT (Li, Teh & Pascanu 2025, Algorithm 1): T copies, each trained alone to denoise its own step of time."""

from __future__ import annotations

import torch
from torch import Tensor

from dblocks import seeds
from dblocks.methods.diffusion_blocks import block_of_step
from dblocks.methods.method import Drawn, Method
from dblocks.networks.noprop_cnn import KeptFeatures, NoPropNetwork
from dblocks.noprop import bound, cosine_alpha_bar, noisy, posterior, snr_weights
from dblocks.spec import RunSpec
from dblocks.tasks.classification import Classification, Predictor


class NoPropDT(Method):
    """Trains copy t on z_{t−1} ~ q(z_{t−1} | y); predicts by walking z_0 → z_T through all copies."""

    def __init__(self, spec: RunSpec, network: NoPropNetwork, task: Classification, sweep: int):
        """
        Args:
            sweep: steps for which one copy is trained before the next one, in order `sweep`.
        """
        self.spec, self.network, self.task, self.sweep = spec, network, task, sweep
        method = spec.method
        self.alpha_bar = cosine_alpha_bar(method.num_blocks, *method.alpha_bar_range)
        self.bars = torch.tensor(self.alpha_bar, device=task.device)
        self.weights = [method.num_blocks * method.eta * weight for weight in snr_weights(self.alpha_bar)]

    def block_of(self, step: int) -> int:
        """The copy that `step` trains: each over the whole data in turn, as Algorithm 1 has it, or drawn."""
        order, blocks = self.spec.method.block_order, self.spec.method.num_blocks
        return step // self.sweep % blocks if order == "sweep" else block_of_step(order, self.spec.seed, step, blocks)

    def draw(self, step: int) -> Drawn:
        batch, block = self.task.batch(step), self.block_of(step)
        draws = seeds.generator(self.task.device, self.spec.seed, "noise", step)
        shape = (len(batch.targets), *self.network.embedding.shape)
        epsilon, last_epsilon = (torch.randn(shape, generator=draws, device=self.task.device) for _ in range(2))
        return Drawn((batch.inputs, batch.targets, epsilon, last_epsilon), block)

    def loss(self, drawn: Drawn) -> Tensor:
        images, labels, epsilon, last_epsilon = drawn.tensors
        u = self.network.embedding(labels)
        # the algorithm prints z_t, but the loss of copy t is about û_t(z_{t−1}, x)
        z = noisy(u, self.bars[drawn.block], epsilon)
        prediction = self.network.clean(drawn.block, KeptFeatures(images), z)
        ends, weight = (self.bars[0], self.bars[-1]), self.weights[drawn.block]
        return bound(u, labels, prediction, weight, self.network.classifier, ends, last_epsilon)

    def predictors(self) -> dict[str, Predictor]:
        return {"": Predictor(self._sample)}

    def _sample(self, images: Tensor, generator: torch.Generator) -> Tensor:
        def noise() -> Tensor:
            return torch.randn((len(images), *self.network.embedding.shape), generator=generator, device=images.device)

        z, kept = noise(), KeptFeatures(images)
        for block in range(self.spec.method.num_blocks):
            step = posterior(self.alpha_bar[block], self.alpha_bar[block + 1])
            z = step.step(z, self.network.clean(block, kept, z), noise())
        return self.network.classify(z)

    def evaluations_per_block(self) -> list[int] | None:
        return [1] * self.spec.method.num_blocks
