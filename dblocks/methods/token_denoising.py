"""DiffusionBlocks on autoregressive text: each step trains one block to denoise tokens given the clean ones before.

Every token is a sample of `DiffusionBlocks`, with a noise level of its own or that of its sequence.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from dblocks.methods.diffusion_blocks import DiffusionBlocksMethod, block_of_step
from dblocks.methods.method import Drawn
from dblocks.networks.llama import CachedPrefix, Prefix
from dblocks.processes import own_share
from dblocks.text_generation import TextPredictor, write_on


class TokenDenoising(DiffusionBlocksMethod):
    """Trains a token denoiser's blocks; text is written greedily, each token from noise of its own."""

    def draw(self, step: int) -> Drawn:
        tokens = self.task.windows(step)
        method = self.spec.method
        block = block_of_step(method.block_order, self.spec.seed, step, method.num_blocks)
        tokens, sigma, epsilon = own_share(tokens, *self.token_noise(block, step, tokens.shape))
        sigma = sigma.flatten()
        return Drawn((tokens, tokens.flatten(), sigma, epsilon.flatten(0, 1)), block, sigma)

    def predictors(self) -> dict[str, TextPredictor]:
        return {"": TextPredictor(self._go_on, self._nll, "sigma_max_ce")}

    def _nll(self, windows: Tensor, generator: torch.Generator) -> Tensor:
        """At σ_max, where z carries no information: the noisiest block alone, from the tokens before."""
        logits = self.model.at_sigma_max(windows, self._noise(windows.numel(), generator))
        return F.cross_entropy(logits.float(), windows.flatten(), reduction="none").view(windows.shape)[:, 1:]

    def _go_on(self, prompts: Tensor, count: int, generator: torch.Generator) -> Tensor:
        if self.spec.task.cache:
            prefix: Prefix = CachedPrefix(self.network, prompts, prompts.shape[1] + count)
        else:
            prefix = Prefix(self.network, prompts)

        def step(new: Tensor) -> Tensor:
            if new is not prompts:
                prefix.append(new[:, 0])
            return self.model.sample(prefix, self._noise(len(prompts), generator)).argmax(dim=-1)

        return write_on(step, prompts, count)
