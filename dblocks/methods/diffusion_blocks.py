"""Block-wise training: each step draws one block, trains it alone as a denoiser of its noise interval."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from dblocks import seeds
from dblocks.diffusion_blocks import DiffusionBlocks
from dblocks.methods.method import Drawn, Method, Task
from dblocks.processes import own_share
from dblocks.spec import RunSpec
from dblocks.tasks.classification import Predictor


def block_of_step(order: str, seed: int, step: int, num_blocks: int) -> int:
    """The block that `step` trains: independent uniform draws (`iid`, the paper's), or every block once in
    each round of B steps, shuffled (`rounds`) or in turn (`turns`)."""
    if order == "turns":
        return step % num_blocks
    if order == "iid":
        return seeds.derive(seed, "block", step) % num_blocks
    round_, position = divmod(step, num_blocks)
    draws = seeds.generator("cpu", seed, "round", round_)
    return int(torch.randperm(num_blocks, generator=draws)[position])


class DiffusionBlocksMethod(Method):
    """Trains a denoiser's blocks (Algorithm 1 of the paper)."""

    def __init__(self, spec: RunSpec, denoiser: nn.Module, task: Task):
        self.spec, self.network, self.task = spec, denoiser, task
        guidance = spec.generation.guidance if spec.generation else 1.0
        self.model = DiffusionBlocks(denoiser, spec.method, guidance)

    def draw(self, step: int) -> Drawn:
        batch = self.task.batch(step)
        block = block_of_step(self.spec.method.block_order, self.spec.seed, step, self.spec.method.num_blocks)
        draws = seeds.generator(self.task.device, self.spec.seed, "noise", step)
        sigma, epsilon = self.model.noise_draws(block, len(batch.targets), draws)
        inputs, targets, sigma, epsilon = own_share(batch.inputs, batch.targets, sigma, epsilon)
        return Drawn((inputs, targets, sigma, epsilon), block, sigma)

    def loss(self, drawn: Drawn) -> Tensor:
        return self.model.training_loss(drawn.block, *drawn.tensors)

    def predictors(self) -> dict[str, Predictor]:
        """The sampler, and the noisiest block alone at σ_max, where z carries no information."""
        return {"": Predictor(self._sample, sample=self.model.sample), "sigma_max_": Predictor(self._at_sigma_max)}

    def _noise(self, count: int, generator: torch.Generator) -> Tensor:
        return torch.randn((count, *self.network.target_shape), generator=generator, device=generator.device)

    def token_noise(self, block: int, step: int, shape: torch.Size) -> tuple[Tensor, Tensor]:
        """σ [N, T] and ε [N, T, D] of the tokens [N, T] = `shape` of a step, by the rule `sigma_per`."""
        draws = seeds.generator(self.task.device, self.spec.seed, "noise", step)
        sigma, epsilon = self.model.noise_draws(block, shape.numel(), draws)
        sigma = sigma.view(shape)
        if self.spec.method.sigma_per == "sequence":
            sigma = sigma[:, :1].expand(shape)
        return sigma, epsilon.view(*shape, -1)

    def _sample(self, images: Tensor, generator: torch.Generator) -> Tensor:
        return self.model.sample(images, self._noise(len(images), generator))

    def _at_sigma_max(self, images: Tensor, generator: torch.Generator) -> Tensor:
        return self.model.at_sigma_max(images, self._noise(len(images), generator))

    def evaluations_per_block(self) -> list[int] | None:
        return self.model.evaluations_per_block()
