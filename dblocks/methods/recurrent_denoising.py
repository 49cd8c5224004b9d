"""DiffusionBlocks on Huginn: what was iterated is trained in one pass, as a denoiser.

Each step trains it at a sampled σ; it is iterated along the σ grid when text is written (the paper's Table 5).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from dblocks.diffusion_blocks import DiffusionBlocks
from dblocks.methods.diffusion_blocks import DiffusionBlocksMethod
from dblocks.methods.method import Drawn
from dblocks.methods.recurrent_depth import curve_name
from dblocks.networks.huginn_denoiser import CachedContext, Context
from dblocks.processes import own_share
from dblocks.text_generation import TextPredictor, write_on


class RecurrentDenoising(DiffusionBlocksMethod):
    """Trains a Huginn denoiser without a partition; text is written greedily, each token from noise of its own."""

    def draw(self, step: int) -> Drawn:
        batch = self.task.batch(step)
        noise = self.token_noise(0, step, batch.targets.shape)
        inputs, targets, sigma, epsilon = own_share(batch.inputs, batch.targets, *noise)
        sigma = sigma.flatten()
        return Drawn((inputs, targets.flatten(), sigma, epsilon.flatten(0, 1)), sigma=sigma)

    def loss(self, drawn: Drawn) -> Tensor:
        inputs, *others = drawn.tensors
        return self.model.training_loss(0, Context(self.network, inputs), *others)

    def predictors(self) -> dict[str, TextPredictor]:
        """At the main number of iterations, and at the others of the depth curve."""
        network = self.spec.network
        return {"": self.at(network.iterations), **{curve_name(k): self.at(k) for k in network.depth_curve}}

    def at(self, iterations: int) -> TextPredictor:
        """The trained network with so many steps along the grid. Its likelihoods are those of one pass at σ_max: after
        further steps the state has made up its mind, and what is read of it is no likelihood of the token."""
        sampling = self.spec.method.sampling.model_copy(update={"steps": iterations})
        model = DiffusionBlocks(self.network, self.spec.method.model_copy(update={"sampling": sampling}))
        return TextPredictor(self._writer(model), self._at_sigma_max, "sigma_max_ce")

    def _at_sigma_max(self, windows: Tensor, generator: torch.Generator) -> Tensor:
        """At σ_max, where z carries no information, as a sampler's first step has it."""
        tokens, targets = windows[:, :-1], windows[:, 1:]
        logits = self.model.at_sigma_max(Context(self.network, tokens), self._noise(targets.numel(), generator))
        return F.cross_entropy(logits.float(), targets.flatten(), reduction="none").view(targets.shape)

    def _writer(self, model: DiffusionBlocks) -> Callable[[Tensor, int, torch.Generator], Tensor]:
        """Every position is denoised step by step beside those before it, whose states take the same steps, as the
        baseline's do: the token that is known already is told by the prelude alone."""

        def go_on(prompts: Tensor, count: int, generator: torch.Generator) -> Tensor:
            total = prompts.shape[1] + count
            noise = self._noise(len(prompts) * total, generator).view(len(prompts), total, -1)
            cached = CachedContext(self.network, total, len(model.grid)) if self.spec.task.cache else None
            seen = prompts[:, :0]

            def step(new: Tensor) -> Tensor:
                nonlocal seen
                start, seen = seen.shape[1], torch.cat([seen, new], dim=1)
                if cached is not None:
                    context, own = cached.read(new), noise[:, start : seen.shape[1]]
                else:
                    context, own = Context(self.network, seen), noise[:, : seen.shape[1]]
                logits = model.sample(context, own.flatten(0, 1))
                return logits.view(len(prompts), -1, logits.shape[-1])[:, -1].argmax(dim=-1)

            return write_on(step, prompts, count)

        return go_on
