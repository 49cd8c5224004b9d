"""DiffusionBlocks proper: one block's training loss, and the sampler that routes each step to its block.

Read beside the paper: noise.py has the noise levels and preconditioning, partition.py which block owns
which of them, sampling.py the Euler step.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from dblocks.noise import NoiseDistribution, NoiseLevel, Preconditioning, sigma_grid, weighted_mean
from dblocks.partition import Partition, noise_distribution
from dblocks.sampling import euler_sample, guided, start_deviation
from dblocks.spec import DiffusionBlocksSpec


class Denoiser(Protocol):
    """What a network must offer to be trained in blocks; N samples, a target of shape [N, *target_shape]."""

    partition: Partition
    precondition: Preconditioning
    target_shape: tuple[int, ...]

    def target(self, labels: Tensor) -> Tensor:
        """What is denoised: y [N, *target_shape]."""

    def denoise(self, block: int, z: Tensor, sigma: Tensor, inputs: Tensor) -> Tensor:
        """The prediction of one block for z at σ [N], given what conditions it."""

    def loss(self, prediction: Tensor, labels: Tensor) -> Tensor:
        """Unweighted loss per sample [N]."""

    def bridge(self, prediction: Tensor) -> Tensor:
        """The clean target [N, *target_shape] that a prediction stands for."""


@dataclass
class DiffusionBlocks:
    """A denoising network together with its noise: the training loss of one block and the routed sampler.

    `guidance` other than 1 needs a denoiser that has `unconditional(inputs)`, the inputs that say nothing. A denoiser
    may have `keep(inputs)`, the inputs with room for what of them depends on neither z nor σ: computed once a sample.
    """

    denoiser: Denoiser
    spec: DiffusionBlocksSpec
    guidance: float = 1.0

    def __post_init__(self):
        self.partition = self.denoiser.partition
        self.noise: NoiseDistribution = noise_distribution(self.spec.noise)
        sampling = self.spec.sampling
        steps = max(sampling.steps, self.partition.num_blocks) if sampling.at_least_num_blocks else sampling.steps
        self.grid: list[NoiseLevel] = sigma_grid(sampling.grid, self.noise, steps)

    def noise_draws(self, block: int, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """σ [N] from the block's training interval and ε [N, *target_shape], on the generator's device."""
        device = generator.device
        low, high = self.partition.training_interval(block)
        uniform = torch.rand(count, generator=generator, device=device, dtype=torch.float64)
        epsilon = torch.randn((count, *self.denoiser.target_shape), generator=generator, device=device)
        return self.noise.sample(low, high, uniform), epsilon

    def training_loss(self, block: int, inputs: Tensor, labels: Tensor, sigma: Tensor, epsilon: Tensor) -> Tensor:
        """Equation (6): weighted loss of D_b(y + σ·ε, σ), a scalar; only block `block`'s layers run."""
        y = self.denoiser.target(labels)
        z = y + per_sample(sigma, y) * epsilon
        loss = self.denoiser.loss(self.denoiser.denoise(block, z, sigma, inputs), labels)
        return weighted_mean(loss, self.denoiser.precondition.weight(sigma), self.spec.weighting)

    def evaluations_per_block(self) -> list[int]:
        """How often the sampler runs each block."""
        return self.partition.evaluations(self.grid)

    def start(self, epsilon: Tensor) -> Tensor:
        """The first z: ε scaled to the deviation named in the spec."""
        return start_deviation(self.spec.sampling.start_noise, self.noise.sigma_max) * epsilon

    def predict_at(self, level: NoiseLevel, z: Tensor, inputs: Tensor) -> Tensor:
        """The prediction at one noise level, by the block that owns it; guided, it takes two in one batch."""
        block, sigma = self.partition.owner(level), torch.full((len(z),), level.sigma, device=z.device)
        if self.guidance == 1:
            return self.denoiser.denoise(block, z, sigma, inputs)
        both = torch.cat([inputs, self.denoiser.unconditional(inputs)])
        pair = self.denoiser.denoise(block, torch.cat([z, z]), torch.cat([sigma, sigma]), both)
        return guided(*pair.chunk(2), self.guidance)

    def at_sigma_max(self, inputs: Tensor, epsilon: Tensor) -> Tensor:
        """Prediction [N, …] of the noisiest block alone, at σ_max, where z tells next to nothing; see `sample`."""
        return self.predict_at(NoiseLevel(self.noise.sigma_max), self.start(epsilon), inputs)

    def sample(self, inputs: Tensor, epsilon: Tensor) -> Tensor:
        """From noise along the grid to the prediction at its last level, each level by the block that owns it.

        Args:
            inputs: what conditions the denoisers, [N, ...].
            epsilon: standard normal noise [N, *target_shape].
        Returns: the last prediction (logits for discrete targets, the clean target otherwise).
        """
        kept = self.denoiser.keep(inputs) if hasattr(self.denoiser, "keep") else inputs
        return euler_sample(
            lambda level, z: self.predict_at(level, z, kept), self.denoiser.bridge, self.grid, self.start(epsilon)
        )


def per_sample(values: Tensor, like: Tensor) -> Tensor:
    """[N] → [N, 1, …] with as many dimensions as `like`."""
    return values.view(-1, *[1] * (like.ndim - 1))
